"""The generated parts of a page are rewritten, the rest of it stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from autostop_lab.exceptions import ConfigurationError
from tests.readme_parts import blocks, main, markers, rewritten


def page(name: str, content: str = "old\n") -> str:
    begin, end = markers(name)
    return f"# Title\n\n{begin}\n{content}{end}\n\nThe rest.\n"


@pytest.mark.parametrize("name", blocks())
def test_a_part_is_made_anew(name: str) -> None:
    assert rewritten(page(name)) == page(name, blocks()[name] + "\n")


@pytest.mark.parametrize("name", blocks())
def test_rewriting_twice_changes_nothing_more(name: str) -> None:
    once = rewritten(page(name))

    assert rewritten(once) == once


def test_a_page_without_such_parts_stays_as_it_is() -> None:
    assert rewritten("# Title\n<!-- a remark -->\n") == "# Title\n<!-- a remark -->\n"


def test_an_unknown_part_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'weather'.*'service table'"):
        rewritten(page("weather"))


@pytest.mark.parametrize(
    "damaged",
    [
        "{begin}\n",
        "{end}\n",
        "{end}\n{begin}\n",
        "{begin}\n{end}\n{begin}\n{end}\n",
    ],
)
def test_comments_that_are_no_pair_are_refused(damaged: str) -> None:
    begin, end = markers("job table")

    with pytest.raises(ConfigurationError, match="once each"):
        rewritten(damaged.format(begin=begin, end=end))


def test_the_command_rewrites_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "PAGE.md"
    path.write_text(page("job table"), encoding="utf-8")

    assert main([str(path)]) == 0
    assert path.read_text(encoding="utf-8") == page("job table", blocks()["job table"] + "\n")
    assert capsys.readouterr().out == f"{path}: rewritten\n"
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == ""


def test_the_command_fails_with_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "PAGE.md"
    damaged.write_text(page("weather"), encoding="utf-8")

    assert main([]) == 2
    assert main([str(tmp_path / "missing.md"), str(damaged)]) == 1
    said = capsys.readouterr().err
    assert "usage" in said
    assert "missing.md" in said
    assert "weather" in said
    assert damaged.read_text(encoding="utf-8") == page("weather")
