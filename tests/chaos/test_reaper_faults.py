"""Everything that can go wrong with the reaper and with what it has written down."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import programs
from tests.chaos.owners import Owner
from tests.chaos.raw import RawReaper, new_id, started
from tests.chaos.world import end_for_sure, eventually, hold_gone, numbers_in, running, runs, see

MakeOwner = Callable[..., Owner]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds reapers and start times in /proc")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def hold_all_gone(owner: Owner, *pids: int) -> None:
    """Hold that nothing of a dead owner is left."""
    owner.hold_nothing_left()
    hold_gone({*pids, *numbers_in(owner.folder / "pids")})


def kill_both(owner: Owner) -> None:
    """Kill an owner and its reaper so that neither can do anything about the other."""
    reaper = owner.reaper()
    owner.signal(signal.SIGSTOP)
    os.kill(reaper, signal.SIGKILL)
    eventually(lambda: not running([reaper]))
    owner.kill()
    owner.wait()


# -- its death ---------------------------------------------------------------------------------------------


def test_a_reaper_that_was_killed_is_replaced_and_knows_all(owner: MakeOwner) -> None:
    alive = owner("fleet")
    pids = alive.said("there")["pids"]
    first = alive.reaper()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: alive.reapers() not in ([], [first]))
    alive.tell("go_on")
    late = alive.said("went on")
    assert set(late["states"].values()) == {"running"}
    assert running(pids) == pids
    alive.kill()
    alive.wait()

    hold_all_gone(alive, *pids, *late["pids"])


def test_an_owner_that_dies_right_after_its_reaper_leaves_nothing_to_the_next(owner: MakeOwner) -> None:
    delays = random.Random(65)
    for _ in range(3):
        dead = owner("fleet")
        pids = dead.said("there")["pids"]
        os.kill(dead.reaper(), signal.SIGKILL)
        time.sleep(delays.uniform(0, 0.1))
        dead.kill()
        dead.wait()
        following = owner("fleet", temp=dead.temp, count=1)
        following.said("there")
        eventually(lambda dead=dead: not dead.left())
        hold_gone(pids)
        following.tell("die_at_once")
        following.wait()
        hold_all_gone(following)
        dead.hold_nothing_left()


@pytest.mark.slow
def test_a_reaper_that_dies_again_and_again_is_told_of_and_the_owner_goes_on(owner: MakeOwner) -> None:
    alive = owner("fleet")
    pids = alive.said("there")["pids"]

    def is_told_of_after_another_death() -> bool:
        end_for_sure(alive.reapers())
        return "the guard is degraded" in alive.errors

    eventually(is_told_of_after_another_death, alive.stacks)
    assert running(pids) == pids
    alive.tell("go_on")
    late = alive.said("went on")
    assert set(late["states"].values()) == {"running"}
    assert alive.errors.count("the guard is degraded") == 1
    alive.kill()
    alive.wait()

    hold_all_gone(alive, *pids, *late["pids"])


def test_a_reaper_that_is_stuck_is_replaced_when_it_is_needed(owner: MakeOwner) -> None:
    alive = owner("fleet")
    pids = alive.said("there")["pids"]
    stuck = alive.reaper()
    os.kill(stuck, signal.SIGSTOP)
    alive.tell("go_on")
    late = alive.said("went on")

    assert set(late["states"].values()) == {"running"}
    eventually(lambda: stuck not in running([stuck]))
    alive.kill()
    alive.wait()
    hold_all_gone(alive, *pids, *late["pids"])


def test_a_session_that_died_with_its_reaper_is_cleaned_by_the_next_one(owner: MakeOwner) -> None:
    dead = owner("fleet")
    told = dead.said("there")
    kill_both(dead)
    time.sleep(0.3)
    assert running(told["pids"]) == told["pids"]  # nobody is there to end them
    following = owner("fleet", temp=dead.temp, count=1)
    mine = following.said("there")["pids"]
    eventually(lambda: not dead.left())

    hold_gone(told["pids"])
    eventually(lambda: not Path(told["workdir"]).exists())
    assert running(mine) == mine
    following.tell("die_at_once")
    following.wait()
    hold_all_gone(following, *mine)


def test_a_reaper_that_is_killed_while_it_finishes_for_an_owner_leaves_the_rest_to_the_next(owner: MakeOwner) -> None:
    gone = owner("fleet", deaf=3, grace_s=5)
    pids = gone.said("there")["pids"]
    reaper = gone.reaper()
    gone.tell("end")
    assert gone.wait() == 0, gone.errors
    assert running(pids)  # in their grace
    os.kill(reaper, signal.SIGKILL)
    following = owner("fleet", temp=gone.temp, count=1)
    following.said("there")
    eventually(lambda: not gone.left())
    following.tell("end")
    assert following.wait() == 0

    hold_all_gone(following)
    hold_all_gone(gone, *pids)


REAPERLESS = [
    "missing",
    "not a program",
    "ends at once",
    pytest.param("hangs", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("how", REAPERLESS)
def test_a_program_is_not_launched_where_no_reaper_can_be_started(owner: MakeOwner, how: str) -> None:
    poor = owner("no_reaper", how=how)
    refused = poor.said("refused")

    assert (refused["type"], refused["service"], refused["phase"]) == ("ServiceStartError", "program", "launch")
    assert "reaper" in refused["error"]
    assert refused["launched"] == ""
    assert refused["outcomes"]["program"] in ("failed", "killed")
    assert refused["outcomes"]["speaker"] == "stopped"
    # What needs no reaper goes on as ever.
    assert poor.said("ran")["result"] == "done"
    assert poor.said("recovered")["states"] == {"program": "running", "speaker": "running"}
    assert poor.wait() == 0, poor.errors
    hold_all_gone(poor)


# -- what it is told ---------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[RawReaper]:
    reaper = RawReaper(tmp_path)
    yield reaper
    reaper.close()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program that is not ours; it must never be touched."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    was_left_alone = process.poll() is None
    process.kill()
    process.wait()
    assert was_left_alone


@pytest.fixture
def service() -> Iterator[subprocess.Popen[bytes]]:
    """A program that is registered with a raw reaper."""
    process = subprocess.Popen(programs.SLEEP, start_new_session=True)
    yield process
    process.kill()
    process.wait()


Process = subprocess.Popen[bytes]

GARBAGE = {
    "no JSON": b"kill everything\n",
    "an empty line": b"\n",
    "no UTF-8": b"\xff\xfe\x00\x80\n",
    "zeros": b"\0" * 5000 + b"\n",
    "no object": b"[1, 2]\n",
    "no request": b'{"op": "register"}\n',
    "another operation": b'{"seq": 1, "op": "kill", "pid": 1}\n',
    "a number that is none": b'{"seq": true, "op": "release", "instance_id": "x"}\n',
    "a huge number": b'{"seq": 1e400, "op": "release"}\n',
    "depth": b"[" * 100_000 + b"\n",
    "10 MB": b"x" * 10_000_000 + b"\n",
    "a lease that is none": b'{"seq": 5, "op": "register", "lease": 7}\n',
}


def test_garbage_is_refused_and_hurts_nobody(raw: RawReaper, bystander: Process, service: Process) -> None:
    raw.hello()
    for what, data in GARBAGE.items():
        raw.write(data)
        while "journal" in (answer := raw.answer()):
            pass
        assert "nak" in answer, what
    assert raw.ask("register", lease=raw.lease_of(service.pid)) == ""
    raw.write(b'{"seq": 9, "op": "regis')  # a line that never ends
    raw.kill_owner()

    assert service.wait(20) == -signal.SIGTERM


def test_a_reaper_that_is_not_listened_to_takes_ten_thousand_requests_and_answers_all(
    raw: RawReaper, service: Process
) -> None:
    raw.hello()
    lease = raw.lease_of(service.pid)
    requests = [raw.request("register", lease=lease)]
    requests += [raw.request("asked", instance_id=new_id("nobody"), at=0.0) for _ in range(5000)]
    requests += [raw.request("release", instance_id=new_id("nobody")) for _ in range(5000)]
    data = memoryview(b"".join(requests))
    deadline = time.monotonic() + 60
    raw.socket.settimeout(60)
    while data:
        assert time.monotonic() < deadline
        data = data[raw.socket.send(data[:65536]) :]
    answers = [raw.answer() for _ in requests]

    assert [answer.get("ack") for answer in answers] == [json.loads(request)["seq"] for request in requests]
    raw.kill_owner()
    assert service.wait(20) == -signal.SIGTERM


def test_many_services_start_while_the_reaper_is_stuck(owner: MakeOwner) -> None:
    alive = owner("fleet", count=2)
    alive.said("there")
    os.kill(alive.reaper(), signal.SIGSTOP)
    alive.tell("start_many")
    told = alive.said("many")

    assert told["states"] == ["running"]
    alive.kill()
    alive.wait()
    hold_all_gone(alive, *told["pids"])


@pytest.mark.parametrize("who", ["0", "1", "-1", "the reaper", "the owner", "the owner's group", "a stranger"])
def test_a_pid_that_can_be_no_service_is_refused(raw: RawReaper, bystander: Process, who: str) -> None:
    raw.hello()
    beside = raw.child_of_owner()
    known = {"the reaper": raw.process.pid, "the owner": raw.owner.pid, "the owner's group": beside}
    if who == "a stranger":
        lease = raw.lease(pid=bystander.pid, started=str(int(started(bystander.pid)) - 1))
    elif who in known:
        lease = raw.lease_of(known[who])
    else:
        lease = raw.lease(pid=int(who), started="1")
    assert "pid" in raw.ask("register", lease=lease)
    raw.kill_owner()

    assert running([beside])


@pytest.mark.parametrize(
    "path", ["/etc", "{folder}/../../victim", "{folder}/..", "{folder}", "victim", "{victim}", "{link}", "{folder}/a/b"]
)
def test_a_folder_that_is_not_the_instances_own_is_refused(raw: RawReaper, tmp_path: Path, path: str) -> None:
    raw.hello()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    instance = new_id("service")
    link = raw.folder / instance
    link.symlink_to(victim)
    lease = raw.lease(instance_id=instance, folder=path.format(folder=raw.folder, victim=victim, link=link))
    assert "folder" in raw.ask("register", lease=lease)
    raw.kill_owner()

    assert (victim / "precious").exists()
    assert Path("/etc/passwd").exists()
    assert not raw.folder.exists()


def test_a_folder_that_becomes_a_link_is_removed_as_a_link(raw: RawReaper, tmp_path: Path) -> None:
    raw.hello()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    instance = new_id("service")
    folder = raw.folder / instance
    folder.mkdir(mode=0o700)
    assert raw.ask("register", lease=raw.lease(instance_id=instance, folder=str(folder))) == ""
    folder.rmdir()
    folder.symlink_to(victim)
    raw.kill_owner()

    assert (victim / "precious").exists()
    assert not raw.folder.exists()


# -- what it has written -----------------------------------------------------------------------------------


@pytest.fixture
def orphans(owner: MakeOwner) -> Iterator[tuple[Owner, list[int], Path]]:
    """An owner that died with its reaper, the pids of its programs, which live, and the journal."""
    dead = owner("fleet", count=3, deaf=0)
    pids = dead.said("there")["pids"]
    groups = groups_of(dead.left())  # the host's too, which ends by itself
    kill_both(dead)
    (folder,) = dead.folders()
    yield dead, pids, folder / "journal.json"
    end_for_sure(pids)
    for group in groups:  # of whom nobody answers for any more
        eventually(lambda group=group: is_removed(group), group)


def is_removed(group: Path) -> bool:
    """Remove a control group, if nobody is in it any more; return whether it is gone."""
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def groups_of(pids: Iterable[int]) -> list[Path]:
    """Return the control groups that processes are in, where the machine has the kind that we use."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line.split()[4] for line in lines if " - cgroup2 " in line]
    names = [
        line[3:] for pid in pids for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line[0] == "0"
    ]
    groups = {Path(mounts[0] + name) for name in names} if mounts else set()
    return [group for group in groups if "autostop_lab" in group.name]


def sweep_by_another(owner: MakeOwner, dead: Owner) -> None:
    """Have another session begin in the same place, do its sweep, and end."""
    following = owner("fleet", temp=dead.temp, count=1, deaf=0)
    following.said("there")
    following.tell("go_on")
    following.said("went on")
    following.tell("")
    following.said("stopped")
    assert following.wait() == 0, following.errors
    eventually(lambda: not following.reapers())  # which wait for their sweep


def truncate(journal: Path, victim: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-20])


def scribble(journal: Path, victim: Path) -> None:
    journal.write_bytes(os.urandom(4096))


def give_away(journal: Path, victim: Path) -> None:
    if os.getuid():
        pytest.skip("needs root to give a file away")
    os.chown(journal, 65534, 65534)


def open_to_all(journal: Path, victim: Path) -> None:
    journal.chmod(0o666)


def link(journal: Path, victim: Path) -> None:
    shutil.copy(journal, victim)
    journal.unlink()
    journal.symlink_to(victim)


def hard_link(journal: Path, victim: Path) -> None:
    os.link(journal, victim)


def pipe(journal: Path, victim: Path) -> None:
    journal.unlink()
    os.mkfifo(journal, 0o600)


def future(journal: Path, victim: Path) -> None:
    journal.write_text(json.dumps({**json.loads(journal.read_text()), "schema": 99}))


@pytest.mark.parametrize("spoil", [truncate, scribble, give_away, open_to_all, link, hard_link, pipe, future])
def test_a_journal_that_cannot_be_believed_is_set_aside_and_nobody_is_signalled(
    owner: MakeOwner, orphans: tuple[Owner, list[int], Path], tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    dead, pids, journal = orphans
    victim = tmp_path / "victim"
    spoil(journal, victim)
    before = victim.read_bytes() if victim.exists() else None
    sweep_by_another(owner, dead)

    assert not os.path.lexists(journal)
    assert [path.name for path in journal.parent.iterdir() if "set-aside" in path.name] == ["journal.set-aside"]
    assert running(pids) == pids
    if before is not None:
        assert victim.read_bytes() == before


def edit(journal: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(journal.read_text())
    change(value)
    journal.write_text(json.dumps(value))


@pytest.mark.parametrize("how", ["another start time", "pid 1", "pid 0", "pid -1", "no start time"])
def test_a_lease_with_a_pid_of_somebody_else_hurts_nobody(
    owner: MakeOwner, orphans: tuple[Owner, list[int], Path], bystander: Process, how: str
) -> None:
    dead, _, journal = orphans
    me = see(bystander.pid)
    pid = {"pid 1": 1, "pid 0": 0, "pid -1": -1}.get(how, bystander.pid)
    wrong = {"no start time": "", "another start time": str(int(started(bystander.pid)) - 1)}.get(how, "1")

    def forge(value: dict[str, Any]) -> None:
        for lease in value["leases"]:
            if lease["pid"] is not None:
                lease.update(pid=pid, started=wrong)

    edit(journal, forge)
    sweep_by_another(owner, dead)

    assert runs(me)
    eventually(lambda: not dead.left())  # their own ids tell whose they are


def test_a_journal_of_before_the_machine_was_started_anew_ends_nobody(
    owner: MakeOwner, orphans: tuple[Owner, list[int], Path]
) -> None:
    dead, pids, journal = orphans
    edit(journal, lambda value: value.update(boot_id="00000000-0000-0000-0000-000000000000"))
    sweep_by_another(owner, dead)

    assert running(pids) == pids
    assert not journal.parent.exists()


def test_a_journal_with_a_folder_of_somebody_else_removes_only_its_own(
    owner: MakeOwner, orphans: tuple[Owner, list[int], Path], tmp_path: Path
) -> None:
    dead, pids, journal = orphans
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    beside = journal.parent.parent / new_id("session")
    beside.mkdir(mode=0o700)

    def forge(value: dict[str, Any]) -> None:
        for lease, path in zip(value["leases"], (victim, f"{journal.parent}/../../..", beside), strict=False):
            lease["folder"] = str(path)

    edit(journal, forge)
    sweep_by_another(owner, dead)
    hold_gone(pids)

    assert (victim / "precious").exists()
    assert dead.temp.exists()
    assert beside.exists()
    beside.rmdir()


def test_a_session_that_lives_is_never_touched_by_another(owner: MakeOwner) -> None:
    first = owner("fleet")
    pids = first.said("there")["pids"]
    reaper = first.reaper()
    second = owner("fleet", temp=first.temp)
    more = second.said("there")["pids"]
    sweep_by_another(owner, first)
    second.kill()
    second.wait()
    hold_gone(more)
    sweep_by_another(owner, first)

    assert running(pids) == pids
    assert first.reapers() == [reaper]
    first.tell("go_on")
    assert set(first.said("went on")["states"].values()) == {"running"}
    first.tell("")
    assert set(first.said("stopped")["outcomes"].values()) == {"stopped", "killed"}
    assert first.wait() == 0
    hold_all_gone(first, *pids)
