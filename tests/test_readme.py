"""What README shows of the state machines is what the tables generate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readme_parts import blocks, markers

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", blocks())
def test_readme_has_what_the_tables_generate(name: str) -> None:
    assert README.exists(), "README.md is missing"
    text = README.read_text(encoding="utf-8")
    begin, end = markers(name)
    for marker in (begin, end):
        assert text.count(marker) == 1, f"README.md has to have the line {marker} exactly once"

    shown = text.split(begin)[1].split(end)[0]

    assert shown == f"\n{blocks()[name]}\n", "run: python -m tests.readme_parts README.md"
