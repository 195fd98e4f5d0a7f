"""What is registered, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper.lease import Lease, LeaseError, lease_problem, process_from_json, session_problem
from autostop_lab.reaper.processes import Process
from tests.reaper.estates import estate_in, lease_of

ME = Process(50, "7", parent_pid=1, group=50, session=50, is_zombie=False)
OWNER = Process(60, "7", parent_pid=1, group=59, session=59, is_zombie=False)


def seen(pid: int, started: str = "9", group: int | None = None) -> Process:
    number = pid if group is None else group
    return Process(pid, started, parent_pid=60, group=number, session=number, is_zombie=False)


def problem(temp: Path, now: Process | None = None, **values: Any) -> str | None:
    estate = estate_in(temp)
    return lease_problem(lease_of(estate, **values), estate, me=ME, owner=OWNER, seen=now)


def test_a_lease_stays_the_same_through_json() -> None:
    lease = Lease(
        instance_id="store-0123456789",
        name="störe",
        kind="command",
        pid=5,
        started="9",
        depends_on=("a", "b"),
        scope="x",
        folder="/x",
    )

    assert Lease.from_json(json.loads(json.dumps(lease.as_json()))) == lease


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "5"},
        {"pid": True},
        {"program_pid": 1.5},
        {"started": 5},
        {"instance_id": None},
        {"name": ["x"]},
        {"name": "x" * 5000},
        {"name": "a\0b"},
        {"kind": 7},
        {"stop_signal": "TERM"},
        {"stop_grace_s": -1},
        {"stop_grace_s": float("inf")},
        {"stop_grace_s": float("nan")},
        {"stop_grace_s": "1"},
        {"kill_timeout_s": None},
        {"depends_on": "store"},
        {"depends_on": [1]},
        {"folder": 7},
        {"colour": "red"},
    ],
)
def test_what_is_not_a_lease_is_refused(change: dict[str, Any]) -> None:
    good = Lease(instance_id="store-0123456789", name="store", kind="command").as_json()
    assert Lease.from_json(good)

    with pytest.raises(LeaseError):
        Lease.from_json({**good, **change})


@pytest.mark.parametrize("value", [None, 5, "lease", [], {}, {"instance_id": "x"}])
def test_what_is_no_object_or_lacks_a_field_is_refused(value: object) -> None:
    with pytest.raises(LeaseError):
        Lease.from_json(value)


@pytest.mark.parametrize("value", [None, {}, {"pid": 5}, {"pid": 0, "started": "5"}, {"pid": 5, "started": "x"}])
def test_what_is_not_the_identity_of_a_process_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(LeaseError, match=r"^a reaper has to "):
        process_from_json(value, "a reaper")


def test_an_owner_may_be_what_a_container_begins_with() -> None:
    assert process_from_json({"pid": 1, "started": "5"}, "an owner").pid == 1


def test_a_program_of_the_owner_is_accepted(tmp_path: Path) -> None:
    assert problem(tmp_path, seen(100), pid=100, started="9") is None


def test_a_folder_alone_is_accepted(tmp_path: Path) -> None:
    assert problem(tmp_path) is None


def test_a_program_that_has_ended_by_now_is_accepted(tmp_path: Path) -> None:
    assert problem(tmp_path, None, pid=100, started="9") is None


@pytest.mark.parametrize(
    ("now", "values", "words"),
    [
        (None, {"pid": 0, "started": "9"}, "never be a service"),
        (None, {"pid": 1, "started": "9"}, "never be a service"),
        (None, {"pid": -1, "started": "9"}, "never be a service"),
        (seen(50, "7"), {"pid": 50, "started": "7"}, "the reaper itself"),
        (seen(60, "7"), {"pid": 60, "started": "7"}, "the owner itself"),
        (seen(100, group=59), {"pid": 100, "started": "9"}, "process group of its owner"),
        (seen(100, group=50), {"pid": 100, "started": "9"}, "process group of the reaper"),
        (seen(100, "8"), {"pid": 100, "started": "9"}, "another process"),
        (seen(100), {"pid": 100}, "without its start time"),
        (None, {"instance_id": ""}, "not the id"),
        (None, {"instance_id": "home"}, "not the id"),
        (None, {"instance_id": "../../x-0123456789"}, "not the id"),
        (None, {"stop_signal": 0}, "not the number of a signal"),
        (None, {"stop_signal": 65000}, "not the number of a signal"),
    ],
)
def test_what_would_hit_others_is_refused(
    tmp_path: Path, now: Process | None, values: dict[str, Any], words: str
) -> None:
    found = problem(tmp_path, now, **values)

    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    "folder",
    [
        "/",
        "/etc",
        "relative",
        "{session}",
        "{session}/..",
        "{session}/../other-0123456789",
        "{session}/store-0000000001/inner",
        "{session}/../session-0123456789/store-0000000001",
        "{session}//store-0000000001",
        "{session}/another-0123456789",
    ],
)
def test_a_folder_that_is_not_the_instance_s_own_is_refused(tmp_path: Path, folder: str) -> None:
    folder = folder.replace("{session}", str(estate_in(tmp_path).folder))

    assert problem(tmp_path, folder=folder) is not None


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    estate = estate_in(tmp_path)
    lease = lease_of(estate)
    assert lease.folder is not None
    Path(lease.folder).symlink_to(tmp_path)

    assert "is a link" in str(problem(tmp_path))


@pytest.mark.parametrize("session_id", ["", "home", "..", "session-xyz"])
def test_an_id_that_strangers_could_carry_is_no_session(tmp_path: Path, session_id: str) -> None:
    estate = estate_in(tmp_path)
    assert session_problem(estate) is None
    estate.session_id = session_id

    assert session_problem(estate) is not None


def test_a_session_stays_in_its_own_folder(tmp_path: Path) -> None:
    estate = estate_in(tmp_path)
    estate.folder = tmp_path

    assert session_problem(estate) is not None
