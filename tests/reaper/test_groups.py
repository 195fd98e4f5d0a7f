from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autostop_lab.reaper import groups
from autostop_lab.reaper.groups import (
    PREFIX,
    RECORD_NAME,
    Group,
    NoGroupError,
    folder_of_group,
    group_name,
    ids_in_group_of,
    own_group,
    path_in,
    recorded_group,
)
from autostop_lab.reaper.processes import SESSION_VARIABLE, find_owned, ids_of
from autostop_lab.services.containment import problem_with
from tests.services.lives import LONG_S, eventually

OWN_IDS = os.environ[SESSION_VARIABLE]


@pytest.fixture
def group() -> Iterator[Group]:
    """A group below our own."""
    if problem := problem_with("cgroup"):
        pytest.skip(problem)
    group = Group.below_own(f"{OWN_IDS}/session-1/store-1")
    group.make()
    yield group
    group.kill()
    group.remove()


@pytest.fixture
def member(group: Group) -> Iterator[subprocess.Popen[bytes]]:
    """A process in it that carries no other sign."""
    with subprocess.Popen(["sleep", "1000"], env={}) as process:
        (group.path / "cgroup.procs").write_text(str(process.pid))
        yield process
        process.kill()


# -- names -------------------------------------------------------------------------------------------------


def test_a_name_holds_the_ids() -> None:
    assert group_name("outer-1/session-2/store-3") == "autostop_lab.outer-1.session-2.store-3"


def test_an_id_that_would_not_be_read_again_is_left_out() -> None:
    assert group_name("a.b/../x y/store-3") == "autostop_lab.store-3"


def test_a_name_that_would_get_too_long_loses_the_outermost_ids() -> None:
    ids = [f"{'x' * 30}-{number}" for number in range(20)]
    name = group_name("/".join(ids))

    assert len(name) <= 200
    kept = name.removeprefix(PREFIX).split(".")
    assert kept == ids[-len(kept) :]
    assert len(kept) > 4


# -- where they are ----------------------------------------------------------------------------------------

UNIFIED = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
PIDS = "40 31 0:37 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"
HYBRID = f"{PIDS}\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 x rw"


@pytest.mark.parametrize(
    ("mounts", "path", "folder"),
    [
        (UNIFIED, "/user.slice/user-1.slice/x.scope", "/sys/fs/cgroup/user.slice/user-1.slice/x.scope"),
        (UNIFIED, "/", "/sys/fs/cgroup"),
        (HYBRID, "/a", "/sys/fs/cgroup/unified/a"),
        ("1 2 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro", "/docker/abc/inner", "/sys/fs/cgroup/inner"),
        (r"1 2 0:3 / /my\040groups rw - cgroup2 x rw", "/a", "/my groups/a"),
    ],
)
def test_a_group_is_found_where_it_is_mounted(mounts: str, path: str, folder: str) -> None:
    assert folder_of_group(mounts, path) == Path(folder)


@pytest.mark.parametrize(
    ("mounts", "path"),
    [
        ("", "/"),
        (PIDS, "/a"),
        (UNIFIED, None),
        ("1 2 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro", "/system.slice"),
        (UNIFIED, "/../outside-of-our-namespace"),
    ],
)
def test_a_group_that_cannot_be_seen_is_told(mounts: str, path: str | None) -> None:
    with pytest.raises(NoGroupError, match="no cgroup v2 file system is mounted that shows"):
        folder_of_group(mounts, path)


def test_a_machine_without_proc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(NoGroupError, match="a matter of Linux with /proc"):
        own_group()


@pytest.mark.parametrize(
    ("text", "path"),
    [(b"0::/a/b\n", "/a/b"), (b"9:pids:/x\n0::/\n", "/"), (b"9:pids:/x\n", None), (b"0::/a:b\xff\n", "/a:b\udcff")],
)
def test_the_path_of_a_group_is_read(text: bytes, path: str | None) -> None:
    assert path_in(text) == path


# -- as a sign ---------------------------------------------------------------------------------------------


def test_a_process_is_found_by_its_group_alone(group: Group, member: subprocess.Popen[bytes]) -> None:
    assert list(ids_in_group_of(member.pid)) == [OWN_IDS, "session-1", "store-1"]
    assert ids_of(member.pid) == {OWN_IDS, "session-1", "store-1"}
    found = find_owned(frozenset({"store-1", "store"}), since="")
    assert {owner: [process.pid for process in members] for owner, members in found.items()} == {
        "store-1": [member.pid]
    }


def test_a_process_in_a_group_of_nobody_s_carries_no_id() -> None:
    assert list(ids_in_group_of(os.getpid())) == []


def test_a_process_that_is_gone_has_no_group() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()

    assert list(ids_in_group_of(process.pid)) == []


def test_where_no_more_groups_may_be_made_it_says_so(group: Group) -> None:
    (group.path / "cgroup.max.descendants").write_text("0")

    with pytest.raises(NoGroupError, match=r"no more control groups may be made below .*store-1: cgroup\.max\.desc"):
        Group(group.path / "autostop_lab.one-more").make()


# -- its end -----------------------------------------------------------------------------------------------


def test_all_in_a_group_and_in_groups_within_it_are_killed_at_once(
    group: Group, member: subprocess.Popen[bytes]
) -> None:
    (group.path / "inner").mkdir()
    (group.path / "inner" / "cgroup.procs").write_text(str(member.pid))
    assert group.pids() == frozenset()

    assert group.kill()
    assert member.wait(LONG_S) == -9
    assert group.remove()
    assert not group.path.exists()


def test_a_group_with_a_living_member_stays(group: Group, member: subprocess.Popen[bytes]) -> None:
    assert not group.remove()
    assert group.pids() == {member.pid}


def test_a_group_whose_last_member_has_just_ended_is_waited_for(
    group: Group, member: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = []
    rmdir = os.rmdir

    def at_the_third_try(folder: str) -> None:
        removals.append(folder)
        if len(removals) < 3:
            raise OSError(16, "Device or resource busy")
        rmdir(folder)

    member.kill()
    member.wait()
    eventually(lambda: not group.pids())
    monkeypatch.setattr(os, "rmdir", at_the_third_try)

    assert group.remove()


def test_a_group_that_cannot_be_removed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "REMOVE_TIMEOUT_S", 0.02)
    (tmp_path / "file").touch()

    assert not Group(tmp_path).remove()


def test_a_group_that_is_gone_can_be_killed_and_removed_again(tmp_path: Path) -> None:
    gone = Group(tmp_path / "gone")

    assert not gone.kill()
    assert gone.remove()


def test_what_is_no_group_is_not_written_to(tmp_path: Path) -> None:
    assert not Group(tmp_path).kill()
    assert list(tmp_path.iterdir()) == []


# -- the record --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ("/sys/fs/cgroup/autostop_lab.session-1.store-1", True),
        ("/sys/fs/cgroup/autostop_lab.session-1.store-2", False),
        ("autostop_lab.session-1.store-1", False),
        ("/home/somebody/store-1", False),
        ("", False),
        ("\0", False),
        (None, False),
    ],
)
def test_a_recorded_group_is_read_if_it_is_the_instance_s(tmp_path: Path, text: str | None, is_ours: bool) -> None:
    folder = tmp_path / "store-1"
    folder.mkdir()
    if text is not None:
        (folder / RECORD_NAME).write_text(text)
    found = recorded_group(folder)

    assert (found.path if found is not None else None) == (Path(text or "") if is_ours else None)
