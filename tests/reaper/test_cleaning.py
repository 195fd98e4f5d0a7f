"""The loop that carries out a plan: what it sees, what it does when it cannot see, what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper import cleaning, journal
from autostop_lab.reaper.cleaning import clean
from autostop_lab.reaper.journal import Journal
from autostop_lab.reaper.policy import Outcome, Send
from autostop_lab.reaper.processes import process
from autostop_lab.reaper.timings import Timings
from tests.reaper.estates import estate_in, lease_of, lease_of_program, write
from tests.reaper.owners import eventually, is_running

TIMINGS = Timings()
Launch = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Launch programs in sessions of their own; what lives at the end of the test is killed, with its group."""
    launched: list[subprocess.Popen[bytes]] = []

    def do(*argv: str) -> subprocess.Popen[bytes]:
        launched.append(subprocess.Popen(argv or ["sleep", "1000"], stdin=subprocess.DEVNULL, start_new_session=True))
        return launched[-1]

    yield do
    for program in launched:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def child_of(pid: int) -> int:
    """Return the pid of its first child, once there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(eventually(lambda: children.read_text().split())[0])


def test_those_in_the_session_of_a_stranger_that_has_the_pid_by_now_live_on(tmp_path: Path, launch: Launch) -> None:
    stranger = launch("sh", "-c", "sleep 1000 & wait")
    child = child_of(stranger.pid)
    estate = estate_in(tmp_path)
    write(estate, lease_of(estate, pid=stranger.pid, started="17", program_pid=stranger.pid))

    cleaned = clean(estate, TIMINGS)

    assert stranger.poll() is None
    assert is_running(child)
    assert [end.outcome for end in cleaned.ends] == [Outcome.GONE_ALREADY]


ORPHAN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.closerange(3, 100)
    time.sleep(0.3)
    if os.fork() == 0:  # while its grandparent is long gone
        open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(1000)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
time.sleep(1000)
"""


def test_a_session_stays_ours_when_its_leader_has_ended(tmp_path: Path, launch: Launch) -> None:
    """What is forked later by those who were in it is found by its number, though it carries no sign."""
    program = launch(sys.executable, "-S", "-c", ORPHAN, str(tmp_path / "pid"))
    child_of(program.pid)
    estate = estate_in(tmp_path)
    write(estate, lease_of_program(estate, program.pid, stop_grace_s=1.0))

    cleaned = clean(estate, TIMINGS)

    late = int((tmp_path / "pid").read_text())
    assert not is_running(late)
    assert [end.outcome for end in cleaned.ends] == [Outcome.KILLED]


def test_what_cannot_be_seen_for_a_while_is_not_taken_for_gone(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def find(*arguments: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks < 6:
            raise OSError(24, "Too many open files")
        return find_owned(*arguments, **options)

    find_owned = cleaning.find_owned
    monkeypatch.setattr(cleaning, "find_owned", find)
    program = launch()
    estate = estate_in(tmp_path)
    write(estate, lease_of_program(estate, program.pid))

    assert [end.outcome for end in clean(estate, TIMINGS).ends] == [Outcome.STOPPED]
    assert program.wait(20) == -signal.SIGTERM


def test_what_can_never_be_seen_is_abandoned_at_last(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(cleaning, "find_owned", fail)
    program = launch()
    estate = estate_in(tmp_path)
    lease = lease_of_program(estate, program.pid)
    write(estate, lease)

    cleaned = clean(estate, Timings(give_up_s=0.2))

    assert not cleaned.is_complete
    assert lease.folder is not None
    assert Path(lease.folder).exists()


def test_the_owner_is_never_part_of_what_is_cleaned(tmp_path: Path, launch: Launch) -> None:
    """It may have replaced itself by another program, and then live on under its old identity."""
    owner = launch()
    found = process(owner.pid)
    assert found is not None
    estate = estate_in(tmp_path, owner=found)
    write(estate, lease_of(estate, pid=owner.pid, started=found.started))

    clean(estate, TIMINGS)

    assert owner.poll() is None


def test_who_was_asked_is_noted(tmp_path: Path, launch: Launch) -> None:
    program = launch("sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000")
    child_of(program.pid)
    estate = estate_in(tmp_path)
    lease = lease_of_program(estate, program.pid, stop_grace_s=0.3)
    folder = write(estate, lease)
    seen: list[dict[str, float]] = []

    def wait(_: float) -> None:
        seen.append(journal.read(folder).asked_at)

    clean(estate, TIMINGS, wait, book=Journal(estate))

    assert seen[0].keys() == {lease.instance_id}
    assert all(asked_at == seen[0] for asked_at in seen)


def test_what_cannot_be_signalled_just_now_is_signalled_later_and_once(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = launch()
    estate = estate_in(tmp_path)
    write(estate, lease_of_program(estate, program.pid))
    real, sent = os.killpg, []

    def killpg(group: int, number: int) -> None:
        sent.append(number)
        if len(sent) in (1, 3):
            raise OSError(24, "Too many open files")
        if number != signal.SIGTERM:
            real(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    cleaning.deliver(order := Send(process(program.pid), (signal.SIGTERM, signal.SIGCONT), to_group=True))  # type: ignore[arg-type]
    left = cleaning.deliver(order)
    assert left is not None
    assert left.signals == (signal.SIGCONT,)
    assert cleaning.deliver(left) is None

    assert sent == [signal.SIGTERM, signal.SIGTERM, signal.SIGCONT, signal.SIGCONT]


def test_a_cleaning_goes_on_when_a_signal_cannot_be_sent(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = launch()
    estate = estate_in(tmp_path)
    write(estate, lease_of_program(estate, program.pid))
    real, failures = os.killpg, [OSError(24, "Too many open files")]

    def killpg(group: int, number: int) -> None:
        if failures:
            raise failures.pop()
        real(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    cleaned = clean(estate, TIMINGS)

    assert not failures
    assert [end.outcome for end in cleaned.ends] == [Outcome.STOPPED]
    assert program.wait() == -signal.SIGTERM
