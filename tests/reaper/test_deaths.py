"""Records of cleanings: written by whoever has cleaned, read by whoever comes next."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autostop_lab.reaper.deaths import KEPT, Death, ServiceEnd, deaths, mark_told, record, untold
from autostop_lab.reaper.folders import root_in
from autostop_lab.reaper.place import current_place


def death(number: int = 1, place: str = "a.ipynb") -> Death:
    return Death(
        session_id=f"session-{number:010x}",
        owner_pid=77,
        place=place,
        why="it died",
        died_at=time.time(),
        cleaned_at=time.time() + number / 1000,
        services=(ServiceEnd(name="store", pid=5, outcome="stopped", seconds=0.1),),
        strays=(ServiceEnd(name="", pid=6, outcome="killed", seconds=0.2),),
        problems=("a folder stays",),
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    record(root, death())

    (found,) = deaths(root=root)
    assert found == replace(death(), died_at=found.died_at, cleaned_at=found.cleaned_at)


def test_where_nothing_was_recorded_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert deaths(root=root_in(tmp_path)) == []


def test_a_place_is_told_of_its_own_and_once(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    for number, place in enumerate(["a.ipynb", "b.ipynb", "a.ipynb"]):
        record(root, death(number, place))

    mine = untold("a.ipynb", root=root)
    assert [found.session_id[-1] for found in mine] == ["0", "2"]
    mark_told(mine, root=root)

    assert untold("a.ipynb", root=root) == []
    assert len(untold("b.ipynb", root=root)) == 1
    assert len(deaths(root=root)) == 3


def test_only_later_ones_if_one_asks_for_these(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    first = death(1)
    record(root, first)
    record(root, death(2))

    assert [found.session_id[-1] for found in deaths(first.cleaned_at, root=root)] == ["2"]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    for number in range(KEPT + 5):
        record(root, death(number))

    found = deaths(root=root)
    assert len(found) == KEPT
    assert found[-1].session_id == death(KEPT + 4).session_id


def test_old_ones_are_dropped(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    record(root, death(1))
    (path,) = (root / "deaths").iterdir()
    os.utime(path, (time.time() - 8 * 86400,) * 2)
    record(root, death(2))

    assert [found.session_id[-1] for found in deaths(root=root)] == ["2"]


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    record(root, death())
    for name, text in (("1-a.json", "garbage"), ("2-b.json", "[]"), ("3-c.json", '{"services": []}')):
        (root / "deaths" / name).touch(mode=0o600)
        (root / "deaths" / name).write_text(text)
    (root / "deaths" / "4-d.json").symlink_to("/etc/passwd")

    assert len(deaths(root=root)) == 1


def test_records_in_a_folder_that_others_can_write_are_not_believed(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    record(root, death())
    (root / "deaths").chmod(0o777)

    assert deaths(root=root) == []


def test_a_record_that_was_dropped_meanwhile_is_not_made_again_by_being_told(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    record(root, death())
    found = deaths(root=root)
    next((root / "deaths").iterdir()).unlink()
    mark_told(found, root=root)

    assert deaths(root=root) == []


# -- places ------------------------------------------------------------------------------------------------


def test_a_notebook_is_known_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/note.ipynb")

    assert current_place() == "/home/me/note.ipynb"


@pytest.mark.parametrize(
    ("script", "place"),
    [("/x/job.py", "/x/job.py"), ("/lib/ipykernel_launcher.py", os.getcwd()), (None, os.getcwd())],
)
def test_a_script_is_known_by_its_path_and_anything_else_by_its_folder(
    monkeypatch: pytest.MonkeyPatch, script: str | None, place: str
) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)

    assert current_place() == place
