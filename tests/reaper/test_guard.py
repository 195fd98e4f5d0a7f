"""The owner's end: what it says is in the journal when it returns, and a reaper that dies is replaced."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper import forks, journal
from autostop_lab.reaper.deaths import deaths
from autostop_lab.reaper.guard import Guard, GuardError, GuardState, GuardStatus, current_guard
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.session import Session
from autostop_lab.reaper.sweep import sweep
from autostop_lab.reaper.timings import Timings
from tests.reaper.owners import Owner, eventually, is_running

# Since Python 3.12 it warns of a fork beside threads; here it is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

QUICK = Timings(respawn_pauses_s=(0.0, 0.01), degraded_window_s=3.0, ack_timeout_s=1.0)


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard of a session of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = Guard(Session(), QUICK)
    found.session.guard = found
    yield found
    pid = found.status.pid
    found.bye()
    eventually(lambda: found.status.state is GuardState.OFF)
    eventually(lambda: pid is None or not is_running(pid), "the reaper goes on")
    eventually(lambda: not found.session.folder.exists())


def lease(guard: Guard, name: str = "it", **values: Any) -> Lease:
    instance = guard.session.new_instance(name)
    return Lease(instance_id=instance.id, name=name, kind="folder", folder=str(instance.folder), **values)


def on_disk(guard: Guard) -> set[str]:
    return {each.instance_id for each in journal.read(guard.session.folder).leases.values()}


def reaper_of(guard: Guard) -> int:
    """Return the pid of its reaper, once there is one."""
    return int(eventually(lambda: guard.status.pid))


# -- what it says ------------------------------------------------------------------------------------------


def test_nothing_is_started_before_it_is_needed(guard: Guard) -> None:
    assert guard.status == GuardStatus(GuardState.OFF)
    assert guard.leases() == []
    guard.release("unknown-0123456789")
    guard.note_asked("unknown-0123456789")

    assert guard.status == GuardStatus(GuardState.OFF)


def test_what_is_registered_is_in_the_journal(guard: Guard) -> None:
    first, second = lease(guard), lease(guard)
    guard.register(first)
    assert on_disk(guard) == {first.instance_id}
    guard.register(second)
    assert on_disk(guard) == {first.instance_id, second.instance_id}
    assert guard.leases() == [first, second]
    assert guard.status == GuardStatus(GuardState.GUARDING, "", reaper_of(guard))

    guard.release(first.instance_id)
    eventually(lambda: on_disk(guard) == {second.instance_id})
    guard.release(second.instance_id)


def test_what_is_registered_again_takes_the_place_of_the_first(guard: Guard) -> None:
    first = lease(guard)
    guard.register(first)
    second = Lease(instance_id=first.instance_id, name="other", kind="folder", folder=first.folder)
    guard.register(second)

    assert [each.name for each in journal.read(guard.session.folder).leases.values()] == ["other"]
    guard.release(first.instance_id)


def test_the_lease_of_a_program_covers_its_folder(guard: Guard) -> None:
    with_pid = lease(guard, pid=99_999_999, started="1")
    guard.register(with_pid)
    guard.register(Lease(instance_id=with_pid.instance_id, name="it", kind="folder", folder=with_pid.folder))
    guard.release(with_pid.instance_id, only_folder=True)

    assert guard.leases() == [with_pid]
    guard.release(with_pid.instance_id)
    assert guard.leases() == []


def test_a_signal_that_was_sent_is_noted(guard: Guard) -> None:
    one = lease(guard)
    guard.register(one)
    guard.note_asked(one.instance_id)

    eventually(lambda: set(journal.read(guard.session.folder).asked_at) == {one.instance_id})
    guard.release(one.instance_id)


def test_a_refusal_is_told_in_words_and_registers_nothing(guard: Guard) -> None:
    with pytest.raises(GuardError, match="the reaper has refused it: pid 1 can never be a service"):
        guard.register(lease(guard, pid=1, started="1"))

    assert guard.leases() == []
    guard.ensure()
    assert on_disk(guard) == set()


def test_many_threads_register_at_once(guard: Guard) -> None:
    leases = [[lease(guard, f"s{n}") for _ in range(10)] for n in range(20)]

    def register(mine: list[Lease]) -> None:
        for each in mine:
            guard.register(each)
            assert each.instance_id in on_disk(guard)

    threads = [threading.Thread(target=register, args=(mine,)) for mine in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert on_disk(guard) == {each.instance_id for mine in leases for each in mine}
    for mine in leases:
        for each in mine:
            guard.release(each.instance_id)
    eventually(lambda: not on_disk(guard))


def test_outputs_of_released_programs_are_not_held_open(guard: Guard) -> None:
    guard.ensure()
    before = forks.descriptors()
    reads, writes = os.pipe()
    one = lease(guard)
    guard.register(one, reads)
    os.close(reads)
    os.write(writes, b"x")  # somebody may still read it
    guard.release(one.instance_id)
    eventually(lambda: forks.descriptors() == before)

    def is_broken() -> bool:
        try:
            os.write(writes, b"x")
        except BrokenPipeError:
            return True
        return False

    eventually(is_broken, "the reaper holds it")
    os.close(writes)


# -- folders -----------------------------------------------------------------------------------------------


def test_a_workdir_is_registered_before_it_is_there_and_released_with_it(guard: Guard) -> None:
    instance = guard.session.new_instance("it")
    workdir = instance.workdir
    assert on_disk(guard) == {instance.id}
    assert workdir.is_dir()
    assert instance.workdir == workdir
    instance.remove()

    eventually(lambda: on_disk(guard) == set())


def test_a_folder_that_nobody_guards_is_not_made(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    instance = guard.session.new_instance("it")
    with pytest.raises(GuardError):
        _ = instance.workdir

    assert not instance.folder.exists()
    instance.remove()


# -- reapers that die --------------------------------------------------------------------------------------


def test_a_reaper_that_dies_is_replaced_and_told_everything(guard: Guard) -> None:
    leases = [lease(guard) for _ in range(10)]
    for each in leases:
        guard.register(each)
    guard.note_asked(leases[0].instance_id)
    old = reaper_of(guard)
    os.kill(old, signal.SIGKILL)

    eventually(lambda: guard.status.pid not in (None, old))
    assert guard.status.state is GuardState.GUARDING
    another = lease(guard)
    guard.register(another)
    assert on_disk(guard) == {each.instance_id for each in [*leases, another]}
    assert set(journal.read(guard.session.folder).asked_at) == {leases[0].instance_id}
    for each in [*leases, another]:
        guard.release(each.instance_id)


def test_what_was_released_while_there_was_no_reaper_is_released(guard: Guard) -> None:
    one, other = lease(guard), lease(guard)
    guard.register(one)
    guard.register(other)
    os.kill(reaper_of(guard), signal.SIGKILL)
    guard.release(one.instance_id)

    eventually(lambda: guard.status.pid and on_disk(guard) == {other.instance_id})
    guard.release(other.instance_id)


def test_a_reaper_that_does_not_answer_is_killed_and_replaced(guard: Guard) -> None:
    first = lease(guard)
    guard.register(first)
    old = reaper_of(guard)
    os.kill(old, signal.SIGSTOP)
    second = lease(guard)
    guard.register(second)

    assert not is_running(old)
    assert on_disk(guard) == {first.instance_id, second.instance_id}
    guard.release(first.instance_id)
    guard.release(second.instance_id)


def test_reapers_that_die_again_and_again_make_it_degraded_for_a_while(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[GuardStatus] = []
    remove = guard.on_change(heard.append)
    guard.ensure()
    one = lease(guard)
    with caplog.at_level(logging.INFO, "autostop_lab.reaper"):
        for _ in range(QUICK.degraded_deaths):
            eventually(lambda: guard.status.pid)
            os.kill(reaper_of(guard), signal.SIGKILL)
            eventually(lambda pid=guard.status.pid: guard.status.pid != pid)
        eventually(lambda: guard.status.state is GuardState.DEGRADED)
        guard.register(one)
        assert on_disk(guard) == {one.instance_id}
        eventually(lambda: guard.status.state is GuardState.GUARDING)

    assert "died 5 times" in next(status.reason for status in heard if status.reason)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    guard.release(one.instance_id)
    remove()


def test_a_reaper_that_cannot_be_started_refuses_what_is_registered(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        for _ in range(3):
            with pytest.raises(GuardError, match=r"could not be started.*nowhere"):
                guard.register(lease(guard))
        eventually(lambda: guard.status.state is GuardState.DEGRADED)
    one = lease(guard)
    guard.register(one)

    eventually(lambda: guard.status.state is GuardState.GUARDING or guard.status.reason.startswith("the reaper died"))
    assert on_disk(guard) == {one.instance_id}
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    guard.release(one.instance_id)


def test_what_could_not_be_started_is_not_tried_again_while_nobody_needs_it(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(GuardError, match="nowhere"):
            guard.ensure()
        eventually(lambda: guard.status.state is GuardState.DEGRADED)
    time.sleep(0.2)  # twenty times as long as the pause before it would be tried again
    assert guard.status.pid is None
    guard.ensure()

    assert is_running(reaper_of(guard))


def test_a_failure_of_an_attempt_that_went_on_already_is_not_inherited(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard._timings = replace(QUICK, boot_timeout_s=2.0)
    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "hangs").chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "hangs"))
        guard.begin()
        eventually(lambda: guard.pids)
    one = lease(guard)
    registering = threading.Thread(target=guard.register, args=[one])
    registering.start()
    guard.ensure()
    registering.join()

    assert on_disk(guard) == {one.instance_id}
    guard.release(one.instance_id)


def test_a_reaper_that_is_suspended_is_replaced_though_nobody_needs_it_just_now(guard: Guard) -> None:
    guard._timings = replace(QUICK, still_there_s=0.1)
    guard.ensure()
    old = reaper_of(guard)
    os.kill(old, signal.SIGSTOP)

    eventually(lambda: guard.status.pid not in (None, old))
    assert not is_running(old)


def test_a_journal_that_somebody_has_removed_is_written_anew(guard: Guard) -> None:
    guard._timings = replace(QUICK, still_there_s=0.1)
    one = lease(guard)
    guard.register(one)
    (guard.session.folder / journal.JOURNAL_NAME).unlink()

    eventually(lambda: (guard.session.folder / journal.JOURNAL_NAME).exists())
    assert on_disk(guard) == {one.instance_id}
    guard.release(one.instance_id)


def test_an_interpreter_that_is_none_is_told_too(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(GuardError, match="could not be started: it ends before it says that it is there"):
        guard.ensure()


def test_an_unsafe_folder_is_told_in_words(guard: Guard) -> None:
    guard.session.folder.parent.mkdir(mode=0o755)
    guard.session.folder.parent.chmod(0o755)

    with pytest.raises(GuardError, match=r"cannot guard this session.*belongs to you alone"):
        guard.register(lease(guard))


def test_a_journal_that_cannot_be_written_makes_it_degraded_and_nothing_else(guard: Guard) -> None:
    guard.ensure()
    obstacle = guard.session.folder / f"{journal.JOURNAL_NAME}.{reaper_of(guard)}.new"
    obstacle.mkdir()
    one = lease(guard)
    guard.register(one)
    eventually(lambda: guard.status.state is GuardState.DEGRADED)
    assert "journal cannot be written" in guard.status.reason
    obstacle.rmdir()
    other = lease(guard)
    guard.register(other)

    eventually(lambda: guard.status.state is GuardState.GUARDING)
    assert on_disk(guard) == {one.instance_id, other.instance_id}
    guard.release(one.instance_id)
    guard.release(other.instance_id)


def test_a_listener_that_fails_hinders_nothing(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: GuardStatus) -> None:
        raise ValueError("no")

    guard.on_change(fail)
    guard.ensure()

    eventually(lambda: "a listener of the guard has failed" in caplog.text)


# -- goodbye -----------------------------------------------------------------------------------------------


def test_after_a_goodbye_nothing_can_be_registered(guard: Guard) -> None:
    one = lease(guard)
    guard.ensure()
    guard.bye()
    guard.bye()

    with pytest.raises(GuardError, match="the session is over"):
        guard.register(one)
    guard.release(one.instance_id)


def test_a_signal_that_says_goodbye_in_the_middle_of_anything_waits_for_nobody(guard: Guard) -> None:
    guard.ensure()
    outbox = guard._outbox
    assert outbox is not None
    with guard._lock, outbox._lock:  # as the main thread may hold them when a signal comes
        guard.bye()


def test_a_thread_that_cannot_be_started_is_told_in_words(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = forks.descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(GuardError, match="could not be started: can't start new thread"):
            guard.begin()
    assert forks.descriptors() == before
    guard.ensure()


def test_a_guard_that_has_failed_says_so_and_the_next_session_cleans(own: Callable[..., Owner]) -> None:
    owner = own(
        'child, _ = own(["sleep", "1000"])\n'
        "Guard.judge = lambda self: 1 / 0\n"
        "def try_it():\n"
        "    try: own(['true'])\n"
        "    except GuardError as error: return str(error)\n"
        "words = ''\n"
        "while 'has failed' not in words: words = try_it() or ''\n"
        "while current_guard().status.reason != words: time.sleep(0.01)\n"
        "say(pid=child.pid, state=current_guard().status.state)"
    )
    assert owner.said["state"] == "degraded"
    owner.kill()
    assert is_running(owner.said["pid"])
    eventually(lambda: sweep(root=owner.root))  # its reaper was killed, but may hold the lock for a moment

    assert not is_running(owner.said["pid"])


def test_a_goodbye_before_anything_was_needed_starts_nothing(guard: Guard) -> None:
    guard.bye()

    assert not guard.session.folder.parent.exists()


def test_after_a_goodbye_a_process_begins_a_new_session(own: Callable[..., Owner]) -> None:
    said = own().do(
        "old = current_guard(); old.ensure(); old.bye(); new = current_guard(); new.ensure();"
        "say(ids=[old.session.id, new.session.id], same=current_guard() is new)"
    )

    assert len(set(said["ids"])) == 2
    assert said["same"]


DEPENDENT = """
import textwrap
deaf = textwrap.dedent('''
    import signal, time, sys
    def end(*_):
        time.sleep(0.3)
        open(sys.argv[1], "a").write("web ended\\\\n")
        sys.exit()
    signal.signal(15, end)
    open(sys.argv[2], "w").write("up")
    time.sleep(1000)
''')
plain = deaf.replace("time.sleep(0.3)", "").replace("web", "db")
out, folder = sys.argv[0], Path(os.environ["TMPDIR"])
web, _ = own([sys.executable, "-S", "-c", deaf, folder / "log", folder / "web"], "web", depends_on=("db",))
db, _ = own([sys.executable, "-S", "-c", plain, folder / "log", folder / "db"], "db")
while not ((folder / "web").exists() and (folder / "db").exists()): time.sleep(0.01)
say(pids=[web.pid, db.pid])
"""


@pytest.mark.parametrize("end", ["bye", "kill"])
def test_what_is_still_registered_is_ended_in_order_and_with_its_grace_period(
    own: Callable[..., Owner], end: str
) -> None:
    owner = own(DEPENDENT)
    if end == "bye":
        owner.do("current_guard().bye()")
    else:
        owner.kill()

    eventually(lambda: not any(map(is_running, owner.said["pids"])))
    assert (owner.temp / "log").read_text().split("\n") == ["web ended", "db ended", ""]
    assert {found.outcome for found in owner.cleaned().services} == {"stopped"}
    assert ("closed" in owner.cleaned().why) == (end == "bye")


def test_a_session_that_ends_clean_leaves_no_record(own: Callable[..., Owner]) -> None:
    owner = own("current_guard().ensure()")
    assert owner.end() == 0

    eventually(lambda: not owner.folders())
    assert deaths(root=owner.root) == []


# -- forks -------------------------------------------------------------------------------------------------


def test_a_forked_child_has_a_guard_of_its_own(own: Callable[..., Owner]) -> None:
    said = own("one, _ = own(['sleep', '1000'])\nsay(pid=one.pid)").do(
        "reads, writes = os.pipe(); before = current_guard()\n"
        "if os.fork() == 0:\n"
        "    mine = current_guard()\n"
        "    try: before.register(before.leases()[0]); words = ''\n"
        "    except GuardError as error: words = str(error)\n"
        "    before.release(before.leases()[0].instance_id); before.bye()\n"
        "    os.write(writes, json.dumps([mine is before, mine.status.state, words]).encode()); os._exit(0)\n"
        "os.wait(); say(child=json.loads(os.read(reads, 1000)), mine=len(current_guard().leases()))"
    )

    assert said["child"] == [False, "off", "this is a forked child: the session and its reaper are its parent's"]
    assert said["mine"] == 1
    assert is_running(said["pid"])


def test_this_process_has_one_guard() -> None:
    assert current_guard() is current_guard()
    assert current_guard().session.guard is current_guard()
