"""The estate on disk: what is believed of it, and who may clean it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper import journal
from autostop_lab.reaper.journal import JOURNAL_NAME, Journal, JournalError, SessionLock, read, set_aside
from tests.reaper.estates import estate_in, lease_of, write


def test_an_estate_is_read_as_it_was_written(tmp_path: Path) -> None:
    estate = estate_in(tmp_path, place="nöte.ipynb")
    leases = [lease_of(estate, "store", 1, pid=77, started="5"), lease_of(estate, "web", 2, depends_on=("store",))]
    estate.asked_at = {leases[0].instance_id: 12.5}

    assert read(write(estate, *leases)) == estate


def test_it_is_open_to_this_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = write(estate_in(tmp_path))
    finally:
        os.umask(old)

    assert (folder / JOURNAL_NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [JOURNAL_NAME]


def test_what_is_released_is_not_in_it_any_more(tmp_path: Path) -> None:
    estate = estate_in(tmp_path)
    lease = lease_of(estate)
    estate.leases[lease.instance_id] = lease
    book = Journal(estate)
    book.note(lease.instance_id)
    book.write()
    del estate.leases[lease.instance_id]
    book.note(lease.instance_id)
    book.write()

    assert read(estate.folder).leases == {}


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate = estate_in(tmp_path)
    folder = write(estate, lease_of(estate))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        Journal(estate).write()

    assert len(read(folder).leases) == 1
    assert {path.name for path in folder.iterdir() if path.is_file()} == {JOURNAL_NAME}


def change(**values: Any) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return do


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o600)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "binary": lambda path: path.write_bytes(os.urandom(500)),
    "not an object": lambda path: path.write_text("[]"),
    "nested without end": lambda path: path.write_text("[" * 100_000),
    "mode 0666": lambda path: path.chmod(0o666),
    "mode 0644": lambda path: path.chmod(0o644),
    "a link": replace_by_link,
    "a second name": lambda path: os.link(path, path.with_name("second")),
    "a folder": replace_by_folder,
    "a pipe": replace_by_pipe,
    "another schema": change(schema=99),
    "no schema": change(schema=None),
    "another session": change(session_id="session-9999999999"),
    "an empty session": change(session_id=""),
    "no owner": change(owner=None),
    "pid 0 as owner": change(owner={"pid": 0, "started": "5"}),
    "leases that are none": change(leases=[{"name": "x"}]),
    "leases that are no list": change(leases={"a": 1}),
    "an open folder": lambda path: path.parent.chmod(0o755),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_believed_or_read_is_not(tmp_path: Path, damage: str) -> None:
    estate = estate_in(tmp_path)
    path = write(estate, lease_of(estate)) / JOURNAL_NAME
    DAMAGES[damage](path)

    with pytest.raises(JournalError):
        read(estate.folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_journal_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    path = write(estate_in(tmp_path)) / JOURNAL_NAME
    os.chown(path, 12345, -1)

    with pytest.raises(JournalError, match="somebody else"):
        read(path.parent)


def test_setting_aside_renames_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    path = write(estate_in(tmp_path)) / JOURNAL_NAME
    replace_by_link(path)
    set_aside(path.parent)

    assert (tmp_path / "elsewhere").exists()
    assert (path.parent / journal.SET_ASIDE_NAME).is_symlink()
    assert not path.is_symlink()


# -- the lock ----------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from autostop_lab.reaper.journal import SessionLock
lock = SessionLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_until_its_end(tmp_path: Path) -> None:
    folder = estate_in(tmp_path).folder
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder.stdout, holder.stdin:
        assert holder.stdout.readline() == "True\n"
        lock = SessionLock(folder)
        assert not lock.take(timeout_s=0.05)
        holder.kill()
        holder.wait()
        assert lock.take(timeout_s=20.0)
        lock.release()


def test_the_lock_of_a_file_that_is_gone_is_worth_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sweeper has cleaned the session between our opening of the file and our turn."""
    folder = estate_in(tmp_path).folder
    lock_it = fcntl.lockf

    def be_late(descriptor: int, operation: int) -> None:
        (folder / journal.LOCK_NAME).unlink()
        lock_it(descriptor, operation)

    monkeypatch.setattr(journal.fcntl, "lockf", be_late)

    assert not SessionLock(folder).take()
    with pytest.raises(FileNotFoundError):
        SessionLock(folder).take(create=False)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = estate_in(tmp_path).folder
    (folder / journal.LOCK_NAME).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic link"):
        SessionLock(folder).take()
    assert not (tmp_path / "elsewhere").exists()
