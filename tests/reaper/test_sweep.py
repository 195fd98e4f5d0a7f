"""Sessions whose owner and reaper are both dead; and those that only look like it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab.reaper import journal
from autostop_lab.reaper import sweep as module
from autostop_lab.reaper.deaths import Death, deaths
from autostop_lab.reaper.folders import root_in
from autostop_lab.reaper.journal import JOURNAL_NAME, SET_ASIDE_NAME
from autostop_lab.reaper.processes import SESSION_VARIABLE, Process, process, send_signal
from autostop_lab.reaper.sweep import sessions, sweep
from autostop_lab.reaper.timings import Timings
from tests.reaper.estates import SESSION_ID, estate_in, lease_of, lease_of_program, write
from tests.reaper.owners import Owner, eventually, is_running

Launch = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Launch programs in sessions of their own; what lives at the end of the test is killed."""
    launched: list[subprocess.Popen[bytes]] = []

    def do(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
        launched.append(
            subprocess.Popen(argv or ["sleep", "1000"], stdin=subprocess.DEVNULL, start_new_session=True, **options)
        )
        return launched[-1]

    yield do
    for program in launched:
        program.kill()
        program.wait()


def swept(temp: Path, **values: Any) -> list[Death]:
    return sweep(root=root_in(temp), **values)


def ends_of(death: Death) -> dict[str, str]:
    return {end.name: end.outcome for end in death.services}


# -- what is cleaned ---------------------------------------------------------------------------------------


def test_what_a_dead_session_has_registered_is_ended_and_its_folder_removed(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path)
    program = launch()
    folder = write(estate, lease_of_program(estate, program.pid), lease_of(estate, "old", 2, pid=None))

    (death,) = swept(tmp_path)

    assert program.wait(20) == -signal.SIGTERM
    assert ends_of(death) == {"store": "stopped", "old": "gone already"}
    assert (death.session_id, death.place) == (SESSION_ID, "a notebook")
    assert "its reaper with it" in death.why
    assert not folder.exists()
    assert deaths(root=root_in(tmp_path)) == [death]


def test_what_carries_its_id_is_ended_though_it_was_not_registered_yet(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path)
    program = launch(env={**os.environ, SESSION_VARIABLE: f"outer/{SESSION_ID}/late-0123456789"})
    write(estate)

    (death,) = swept(tmp_path)

    assert program.wait(20) == -signal.SIGTERM
    assert [end.pid for end in death.strays] == [program.pid]


def test_grace_periods_hold_in_a_sweep_too(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path)
    deaf = launch("sh", "-c", "trap '' TERM; echo up; exec sleep 1000", stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    write(estate, lease_of_program(estate, deaf.pid, stop_grace_s=0.5))

    began = time.monotonic()
    (death,) = swept(tmp_path)

    assert deaf.wait(20) == -signal.SIGKILL
    assert time.monotonic() - began >= 0.5
    assert ends_of(death) == {"store": "killed"}
    deaf.stdout.close()


def test_a_second_sweep_finds_nothing(tmp_path: Path) -> None:
    write(estate_in(tmp_path))

    assert len(swept(tmp_path)) == 1
    assert swept(tmp_path) == []


def test_where_there_was_never_a_session_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert swept(tmp_path) == []
    assert sessions(root=root_in(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_after_a_reboot_nothing_is_signalled_and_our_folders_go(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path, boot_id="another")
    program = launch(env={**os.environ, SESSION_VARIABLE: SESSION_ID})
    folder = write(estate, lease_of_program(estate, program.pid))

    (death,) = swept(tmp_path)

    assert program.poll() is None
    assert not folder.exists()
    assert "started anew" in death.why


# -- what is not touched -----------------------------------------------------------------------------------


def test_a_session_with_a_living_owner_is_left_alone(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path, owner=process(os.getpid()))
    program = launch()
    folder = write(estate, lease_of_program(estate, program.pid))

    assert swept(tmp_path) == []
    assert program.poll() is None
    assert (folder / JOURNAL_NAME).exists()


def test_a_session_that_somebody_cleans_is_left_alone(tmp_path: Path) -> None:
    folder = write(estate_in(tmp_path))
    code = (
        "import sys; from pathlib import Path; from autostop_lab.reaper.journal import SessionLock;"
        "lock = SessionLock(Path(sys.argv[1])); print(lock.take(), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"

    assert swept(tmp_path) == []
    (seen,) = sessions(root=root_in(tmp_path))
    assert (seen.is_alive, seen.is_being_cleaned) == (False, True)
    holder.communicate()
    assert len(swept(tmp_path)) == 1


def test_a_session_that_is_spared_is_not_even_looked_at(tmp_path: Path) -> None:
    folder = write(estate_in(tmp_path))

    assert swept(tmp_path, spare=frozenset({SESSION_ID})) == []
    assert not (folder / journal.LOCK_NAME).exists()


def test_a_stranger_that_has_the_pid_by_now_lives_on(tmp_path: Path, launch: Launch) -> None:
    estate = estate_in(tmp_path)
    stranger = launch()
    write(estate, lease_of(estate, pid=stranger.pid, started="17"))

    (death,) = swept(tmp_path)

    assert stranger.poll() is None
    assert ends_of(death) == {"store": "gone already"}


@pytest.mark.parametrize("pid", [0, 1, -1, os.getpid()])
def test_a_forged_lease_cannot_hit_what_may_never_be_hit(tmp_path: Path, launch: Launch, pid: int) -> None:
    estate = estate_in(tmp_path)
    good = launch()
    seen = process(pid) if pid > 1 else None
    forged = lease_of(estate, "forged", 2, pid=pid, started=seen.started if seen else "1")
    write(estate, lease_of_program(estate, good.pid), forged)

    (death,) = swept(tmp_path)

    assert good.wait(20) == -signal.SIGTERM
    assert "forged" not in ends_of(death)
    assert "'forged' was refused" in death.problems[0]


def test_a_process_of_our_own_group_is_not_hit(tmp_path: Path) -> None:
    estate = estate_in(tmp_path)
    neighbour = subprocess.Popen(["sleep", "1000"])
    write(estate, lease_of_program(estate, neighbour.pid))

    (death,) = swept(tmp_path)

    assert neighbour.poll() is None
    assert "process group" in death.problems[0]
    neighbour.kill()
    neighbour.wait()


@pytest.mark.parametrize("folder", ["../../victim", "/victim", "../victim"])
def test_a_forged_folder_is_not_removed(tmp_path: Path, folder: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    estate = estate_in(tmp_path)
    path = os.path.join(estate.folder, folder) if folder.startswith(".") else str(victim)
    estate.leases["x-0123456789"] = lease_of(estate, "x", folder=path)
    book = journal.Journal(estate)
    book.note("x-0123456789")
    book.write()

    (death,) = swept(tmp_path)

    assert (victim / "file").exists()
    assert "refused" in death.problems[0]


def test_links_in_a_session_s_folder_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    estate = estate_in(tmp_path)
    lease = lease_of(estate)
    folder = write(estate, lease)
    assert lease.folder is not None
    Path(lease.folder).rmdir()
    Path(lease.folder).symlink_to(victim)
    (folder / "other-0123456789").symlink_to(victim)

    swept(tmp_path)

    assert (victim / "file").exists()
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["truncated", "binary", "0666", "link"])
def test_a_journal_that_cannot_be_believed_is_set_aside_and_told(
    tmp_path: Path, launch: Launch, damage: str
) -> None:
    estate = estate_in(tmp_path)
    program = launch()
    lease = lease_of_program(estate, program.pid)
    folder = write(estate, lease)
    path = folder / JOURNAL_NAME
    if damage == "truncated":
        os.truncate(path, path.stat().st_size - 10)
    elif damage == "binary":
        path.write_bytes(os.urandom(100))
    elif damage == "0666":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")

    (death,) = swept(tmp_path)

    assert program.poll() is None
    assert lease.folder is not None
    assert Path(lease.folder).exists()
    assert (folder / SET_ASIDE_NAME).is_symlink() == (damage == "link")
    assert not os.path.lexists(path)
    assert SET_ASIDE_NAME in death.problems[0]
    assert swept(tmp_path) == []


def test_a_root_that_others_can_enter_is_left_alone(tmp_path: Path) -> None:
    folder = write(estate_in(tmp_path))
    folder.parent.chmod(0o755)

    assert swept(tmp_path) == []
    assert (folder / JOURNAL_NAME).exists()


# -- folders without a journal -----------------------------------------------------------------------------


def age(folder: Path, seconds: float) -> None:
    os.utime(folder, (time.time() - seconds,) * 2)


def test_a_folder_without_a_journal_goes_when_it_is_old(tmp_path: Path) -> None:
    folder = estate_in(tmp_path).folder
    (folder / "store-0123456789").mkdir()
    assert swept(tmp_path) == []
    assert folder.exists()
    age(folder, 700)
    swept(tmp_path)

    assert not folder.exists()


def test_not_while_somebody_carries_its_id(tmp_path: Path, launch: Launch) -> None:
    folder = estate_in(tmp_path).folder
    launch(env={**os.environ, SESSION_VARIABLE: SESSION_ID})
    age(folder, 700)
    swept(tmp_path)

    assert folder.exists()


@pytest.fixture
def hold_lock() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Have another process hold the lock of a session until it reads the end of its input."""
    held: list[subprocess.Popen[str]] = []
    code = (
        "import sys; from pathlib import Path; from autostop_lab.reaper.journal import SessionLock;"
        "lock = SessionLock(Path(sys.argv[1])); print(lock.take(), flush=True); sys.stdin.read()"
    )

    def hold(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(folder)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        held.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        return holder

    yield hold
    for holder in held:
        holder.kill()
        holder.communicate()


HoldLock = Callable[[Path], subprocess.Popen[str]]


def test_not_while_somebody_holds_its_lock(tmp_path: Path, hold_lock: HoldLock) -> None:
    folder = estate_in(tmp_path).folder
    holder = hold_lock(folder)
    age(folder, 700)
    swept(tmp_path)
    assert folder.exists()
    holder.communicate()
    swept(tmp_path)

    assert not folder.exists()


def test_who_is_suspended_in_the_middle_of_a_cleaning_is_woken_up(tmp_path: Path, hold_lock: HoldLock) -> None:
    holder = hold_lock(write(estate_in(tmp_path)))
    holder.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED)
    assert [seen.is_being_cleaned for seen in sessions(root=root_in(tmp_path))] == [False]

    assert swept(tmp_path) == []
    assert psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED
    assert [seen.is_being_cleaned for seen in sessions(root=root_in(tmp_path))] == [True]


def test_who_stays_suspended_in_the_middle_of_a_cleaning_is_killed(
    tmp_path: Path, hold_lock: HoldLock, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = estate_in(tmp_path)
    program = launch()
    holder = hold_lock(write(estate, lease_of_program(estate, program.pid)))
    holder.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED)
    real = send_signal

    def lose_cont(known: Process, number: int) -> bool:
        return number == signal.SIGCONT or real(known, number)

    monkeypatch.setattr(module, "send_signal", lose_cont)
    (death,) = swept(tmp_path, timings=Timings(lock_timeout_s=0.2))

    assert ends_of(death) == {"store": "stopped"}
    assert holder.wait() == -signal.SIGKILL


def test_a_suspended_reaper_whose_owner_lives_is_left_alone(tmp_path: Path, hold_lock: HoldLock) -> None:
    holder = hold_lock(write(estate_in(tmp_path, owner=process(os.getpid()))))
    holder.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED)
    swept(tmp_path)

    assert psutil.Process(holder.pid).status() == psutil.STATUS_STOPPED


def test_not_soon_where_a_journal_was_set_aside(tmp_path: Path) -> None:
    folder = write(estate_in(tmp_path))
    (folder / JOURNAL_NAME).write_text("garbage")
    swept(tmp_path)
    age(folder, 700)
    swept(tmp_path)
    assert folder.exists()
    age(folder, 8 * 86400)
    swept(tmp_path)

    assert not folder.exists()


def test_what_is_not_a_session_s_is_never_removed(tmp_path: Path) -> None:
    root = estate_in(tmp_path).folder.parent
    for name in ("deaths", "notes", "session-short"):
        (root / name).mkdir(exist_ok=True, mode=0o700)
        age(root / name, 1e6)
    swept(tmp_path)

    assert {path.name for path in root.iterdir()} >= {"deaths", "notes", "session-short"}


# -- several at once ---------------------------------------------------------------------------------------

SWEEP = """
import json, sys
from pathlib import Path
from autostop_lab.reaper.sweep import sweep
sys.stdin.readline()
print(json.dumps([death.session_id for death in sweep(root=Path(sys.argv[1]))]))
"""


def test_two_sweepers_never_clean_a_session_twice(tmp_path: Path, launch: Launch) -> None:
    count = 12
    programs = [launch() for _ in range(count)]
    for number, program in enumerate(programs):
        estate = estate_in(tmp_path, f"session-{number:010x}")
        write(estate, lease_of_program(estate, program.pid))
    sweepers = [
        subprocess.Popen(
            [sys.executable, "-c", SWEEP, str(root_in(tmp_path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for sweeper in sweepers:
        assert sweeper.stdin is not None
        sweeper.stdin.write("go\n")
        sweeper.stdin.flush()
    said = [json.loads(sweeper.communicate()[0]) for sweeper in sweepers]

    assert Counter(name for names in said for name in names) == {f"session-{n:010x}": 1 for n in range(count)}
    assert [program.wait(20) for program in programs] == [-signal.SIGTERM] * count
    assert len(deaths(root=root_in(tmp_path))) == count


def test_two_threads_do_not_either(tmp_path: Path) -> None:
    for number in range(5):
        write(estate_in(tmp_path, f"session-{number:010x}"))
    found: list[Death] = []
    threads = [threading.Thread(target=lambda: found.extend(swept(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 5


def test_what_cannot_be_ended_stays_for_the_next_sweep(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = estate_in(tmp_path)
    program = launch()
    folder = write(estate, lease_of_program(estate, program.pid, stop_grace_s=0.0, kill_timeout_s=0.1))
    with monkeypatch.context() as patch:
        patch.setattr("autostop_lab.reaper.cleaning.deliver", lambda order: None)  # as if it hung in the system
        (death,) = swept(tmp_path)
    assert ends_of(death) == {"store": "abandoned"}
    assert (folder / JOURNAL_NAME).exists()

    (death,) = swept(tmp_path)
    assert ends_of(death) == {"store": "killed"}
    assert not folder.exists()
    program.wait(20)


# -- with real owners and reapers --------------------------------------------------------------------------

TWENTY = """
pids = [own(["sleep", "1000"], f"s{number}")[0].pid for number in range(20)]
say(pids=pids, reaper=current_guard().status.pid)
"""


def kill_both(owner: Owner) -> None:
    reaper = owner.said["reaper"]
    os.kill(reaper, signal.SIGSTOP)  # so that neither sees the other's death
    owner.kill()
    os.kill(reaper, signal.SIGKILL)
    eventually(lambda: not is_running(reaper))


def test_what_owner_and_reaper_leave_when_they_die_together_is_swept(own: Callable[..., Owner]) -> None:
    owner = own(TWENTY)
    kill_both(owner)
    (seen,) = sessions(root=owner.root)
    assert (seen.owner_pid, seen.is_alive, seen.is_being_cleaned) == (owner.pid, False, False)
    assert len(seen.services) == 20
    assert all(map(is_running, owner.said["pids"]))

    (death,) = sweep(root=owner.root)

    assert not any(map(is_running, owner.said["pids"]))
    assert Counter(end.outcome for end in death.services) == {"stopped": 20}


def test_the_next_session_sweeps_by_itself_and_leaves_those_that_live_alone(own: Callable[..., Owner]) -> None:
    dead, other = own(TWENTY), own(TWENTY)
    kill_both(dead)
    third = own(TWENTY)

    eventually(lambda: not any(map(is_running, dead.said["pids"])), "nobody has swept")
    eventually(lambda: deaths(root=dead.root))
    assert all(map(is_running, other.said["pids"] + third.said["pids"]))
    assert {seen.owner_pid for seen in sessions(root=dead.root)} == {other.pid, third.pid}
    assert {seen.is_alive for seen in sessions(root=dead.root)} == {True}
    other.kill()
    third.kill()
    eventually(lambda: not any(map(is_running, other.said["pids"] + third.said["pids"])))


COUNTS = """
import signal, sys, time
def count(*_):
    with open(sys.argv[1], "a") as file: file.write("asked\\n")
signal.signal(signal.SIGTERM, count)
open(sys.argv[2], "w").close()
while True: time.sleep(0.05)
"""


def test_a_cleaning_that_is_broken_off_is_gone_on_with_where_it_was(own: Callable[..., Owner], tmp_path: Path) -> None:
    """A service that was asked to end by the reaper is not asked again by whoever comes after it."""
    log, up = tmp_path / "log", tmp_path / "up"
    owner = own(
        f"child, _ = own([*python({COUNTS!r}), {str(log)!r}, {str(up)!r}], stop_grace_s=3.0)\n"
        "say(pids=[child.pid], reaper=current_guard().status.pid)"
    )
    eventually(up.exists)
    owner.kill()
    eventually(log.exists)
    eventually(lambda: journal.read(next(owner.root.glob("session-*"))).asked_at)
    os.kill(owner.said["reaper"], signal.SIGKILL)
    eventually(lambda: not is_running(owner.said["reaper"]))
    assert is_running(owner.said["pids"][0])

    (death,) = sweep(root=owner.root)

    assert log.read_text() == "asked\n"
    assert ends_of(death) == {"it": "killed"}


def test_the_timings_of_a_sweep_may_be_chosen(tmp_path: Path) -> None:
    folder = estate_in(tmp_path).folder
    age(folder, 5)
    swept(tmp_path, timings=Timings(unmarked_age_s=1.0))

    assert not folder.exists()
