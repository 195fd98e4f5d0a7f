"""The reaper itself, spoken to over a bare link: whatever comes, it answers, goes on, and harms nobody."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab.reaper import journal
from autostop_lab.reaper.journal import SessionLock
from autostop_lab.reaper.lease import Estate, Lease
from autostop_lab.reaper.link import Link
from autostop_lab.reaper.processes import SESSION_VARIABLE, process
from tests.reaper.estates import estate_in, lease_of, lease_of_program, write
from tests.reaper.owners import LONG_S, eventually, is_running


class Wire:
    """The owner's end of a reaper, without a guard; this process is the owner."""

    def __init__(self, temp: Path) -> None:
        owner = process(os.getpid())
        assert owner is not None
        self.estate: Estate = estate_in(temp, owner=owner)
        self.link = Link()
        self.answers: dict[int, str] = {}
        self.refusals: list[str] = []
        self._seq = 0
        self.wait_for(lambda: self.link.reaper is not None)
        assert self.link.reaper is not None
        self.pid = self.link.reaper.pid

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + LONG_S
        while not condition():
            assert time.monotonic() < deadline, f"it did not come; {self.answers}, {self.refusals}"
            self.link.flush()
            poll = select.poll()
            poll.register(self.link.fileno(), select.POLLIN | (select.POLLOUT if self.link.has_outgoing else 0))
            poll.poll(100)
            messages = self.link.receive()
            assert messages is not None, "the reaper is gone"
            for message in messages:
                if isinstance(message.get("nak", message.get("ack")), int):
                    self.answers[message.get("nak", message.get("ack"))] = message.get("why", "")
                elif "nak" in message:
                    self.refusals.append(message["why"])

    def send(self, op: str, descriptor: int | None = None, **values: Any) -> int:
        self._seq += 1
        self.link.send({"seq": self._seq, "op": op, "fds": int(descriptor is not None), **values}, descriptor)
        return self._seq

    def ask(self, op: str, descriptor: int | None = None, **values: Any) -> str:
        """Send a request and return why it was refused, "" if it was not."""
        seq = self.send(op, descriptor, **values)
        self.wait_for(lambda: seq in self.answers)
        return self.answers[seq]

    def raw(self, data: bytes) -> None:
        """Send bytes as they are, and read meanwhile."""
        view = memoryview(data)
        end: socket.socket = self.link._socket
        while view:
            try:
                view = view[end.send(view) :]
            except BlockingIOError:
                self.link.receive()
                time.sleep(0.001)

    def hello(self, **values: Any) -> str:
        estate = self.estate
        message = {
            "session_id": estate.session_id,
            "path": estate.path,
            "folder": str(estate.folder),
            "place": "a test",
            "owner": {"pid": estate.owner.pid, "started": estate.owner.started},
        }
        return self.ask("hello", **{**message, **values})

    def register(self, lease: Lease, descriptor: int | None = None) -> str:
        return self.ask("register", descriptor, lease=lease.as_json())

    def end(self) -> None:
        """Let go of it, and wait until it is gone."""
        self.link.close()
        eventually(lambda: not is_running(self.pid), "the reaper goes on")


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    found = Wire(tmp_path)
    yield found
    found.end()


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """A program that lives on unless somebody ends it."""
    popen = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield popen
    popen.kill()
    popen.wait()


def files_of(wire: Wire) -> set[str]:
    return {path.name for path in wire.estate.folder.iterdir()}


# -- what it is --------------------------------------------------------------------------------------------


def test_it_is_nobody_s_descendant_carries_no_sign_and_holds_nothing(wire: Wire) -> None:
    wire.hello()
    reaper = psutil.Process(wire.pid)

    assert os.getpid() not in [parent.pid for parent in reaper.parents()]
    assert os.getsid(wire.pid) != os.getsid(0)
    assert os.getpgid(wire.pid) != os.getpgid(0)
    assert SESSION_VARIABLE not in reaper.environ()
    assert reaper.cwd() == "/"
    assert not [file for file in reaper.open_files() if not file.path.endswith("/lock")]
    for descriptor in (0, 1, 2):
        assert os.readlink(f"/proc/{wire.pid}/fd/{descriptor}") == "/dev/null"


def test_it_has_only_the_standard_library_and_its_own_part(wire: Wire) -> None:
    maps = Path(f"/proc/{wire.pid}/maps").read_text()

    assert "site-packages" not in maps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE])
def test_it_is_deaf_to_what_ends_a_terminal_or_a_notebook(wire: Wire, number: int) -> None:
    wire.hello()
    os.kill(wire.pid, number)

    assert wire.register(lease_of(wire.estate)) == ""


# -- the greeting ------------------------------------------------------------------------------------------


def test_one_that_was_never_greeted_ends_without_doing_anything(wire: Wire, program: subprocess.Popen[bytes]) -> None:
    folder = write(wire.estate, lease_of_program(wire.estate, program.pid))
    wire.end()

    assert program.poll() is None
    assert (folder / journal.JOURNAL_NAME).exists()


def test_before_the_greeting_nothing_can_be_registered(wire: Wire) -> None:
    assert "whose session" in wire.register(lease_of(wire.estate))
    assert wire.hello() == ""
    assert wire.register(lease_of(wire.estate)) == ""


def test_a_second_greeting_is_refused(wire: Wire) -> None:
    assert wire.hello() == ""
    assert "already" in wire.hello()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"session_id": "home"}, "not the id"),
        ({"session_id": ""}, "not the id"),
        ({"session_id": "session-9999999999"}, "does not belong into"),
        ({"folder": "/tmp"}, "does not belong into"),
        ({"folder": None}, "has to name"),
        ({"owner": {}}, "an owner"),
        ({"owner": {"pid": 0, "started": "1"}}, "an owner"),
        ({"timings": {"colour": 1}}, "colour"),
        ({"timings": []}, "has to name"),
    ],
)
def test_a_greeting_that_makes_no_sense_is_refused(wire: Wire, values: dict[str, Any], words: str) -> None:
    assert words in wire.hello(**values)
    assert wire.hello() == ""


def test_a_session_has_one_reaper(wire: Wire, tmp_path: Path) -> None:
    wire.hello()
    second = Wire(tmp_path)

    assert "holds the lock" in second.hello(timings={"lock_timeout_s": 0.1})
    second.end()
    assert wire.register(lease_of(wire.estate)) == ""


def test_a_greeting_of_an_owner_that_is_gone_is_followed_by_the_cleaning(
    wire: Wire, program: subprocess.Popen[bytes]
) -> None:
    folder = write(wire.estate, lease_of_program(wire.estate, program.pid))
    wire.link.send({"seq": 1, "op": "hello", "session_id": wire.estate.session_id, "path": "x", "place": "",
                    "folder": str(folder), "owner": {"pid": os.getpid(), "started": "1"}})  # fmt: skip
    wire.link.flush()

    eventually(lambda: not is_running(wire.pid))
    assert program.poll() is None  # that journal names another owner
    assert not folder.exists()


# -- the journal of the one before -------------------------------------------------------------------------


def test_what_a_predecessor_has_left_is_guarded_until_the_owner_has_said_everything_anew(
    wire: Wire, program: subprocess.Popen[bytes]
) -> None:
    kept, dropped = lease_of_program(wire.estate, program.pid), lease_of(wire.estate, "dropped", 2)
    folder = write(wire.estate, kept, dropped)
    wire.hello()
    assert set(journal.read(folder).leases) == {kept.instance_id, dropped.instance_id}
    wire.register(kept)
    wire.ask("synced")
    wire.ask("asked", instance_id=kept.instance_id, at=5.0)

    found = journal.read(folder)
    assert found.leases == {kept.instance_id: kept}
    assert found.asked_at == {kept.instance_id: 5.0}


def test_an_owner_that_dies_before_that_is_cleaned_up_after(wire: Wire, program: subprocess.Popen[bytes]) -> None:
    write(wire.estate, lease_of_program(wire.estate, program.pid))
    wire.hello()
    wire.end()

    assert program.wait(LONG_S) == -signal.SIGTERM


def test_a_journal_that_cannot_be_believed_is_set_aside(wire: Wire) -> None:
    folder = write(wire.estate)
    (folder / journal.JOURNAL_NAME).write_text("garbage")

    assert wire.hello() == ""
    assert files_of(wire) == {journal.JOURNAL_NAME, journal.LOCK_NAME, journal.SET_ASIDE_NAME}


# -- whatever comes ----------------------------------------------------------------------------------------

GARBAGE = {
    "words": b"kill them all\n",
    "empty lines": b"\n\n\n",
    "not UTF-8": b"\xff\xfe\xfa\n",
    "zero bytes": b"\0" * 100 + b"\n",
    "numbers": b"9" * 50_000 + b"\n",
    "nesting": b"[" * 50_000 + b"\n",
    "10 MB": b"x" * 10_000_000 + b"\n",
    "10 MB of JSON": b'{"seq": 1, "op": "bye", "x": "' + b"y" * 10_000_000 + b'"}\n',
    "an unknown operation": b'{"seq": 77, "op": "kill"}\n',
    "a lease that is none": b'{"seq": 78, "op": "register", "lease": 5}\n',
    "pid -1": b'{"seq": 79, "op": "register", "lease": {"instance_id": "a-0123456789", "name": "a", "kind": "x", '
    b'"pid": -1, "started": "5"}}\n',
    "release of nothing": b'{"seq": 80, "op": "release", "instance_id": ["x"]}\n',
    "a time beyond all times": b'{"seq": 82, "op": "asked", "instance_id": "x", "at": 1' + b"0" * 400 + b"}\n",
    "a pid beyond all pids": b'{"seq": 83, "op": "register", "lease": {"instance_id": "a-0123456789", "name": "a", '
    b'"kind": "x", "pid": 1' + b"0" * 400 + b', "started": "5"}}\n',
    "asked without a time": b'{"seq": 81, "op": "asked", "instance_id": "x", "at": "now"}\n',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_refused_and_it_goes_on_with_nothing_ended(
    wire: Wire, program: subprocess.Popen[bytes], garbage: str
) -> None:
    wire.hello()
    good = lease_of_program(wire.estate, program.pid)
    assert wire.register(good) == ""
    wire.raw(GARBAGE[garbage])

    following = lease_of(wire.estate, "next", 2)
    assert wire.register(following) == ""
    assert program.poll() is None
    assert set(journal.read(wire.estate.folder).leases) == {good.instance_id, following.instance_id}


def test_each_piece_of_garbage_is_told(wire: Wire) -> None:
    wire.hello()
    wire.raw(b"garbage\n\xff\n")
    wire.wait_for(lambda: len(wire.refusals) == 2)

    assert all("not JSON" in why for why in wire.refusals)


def test_ten_thousand_registrations_at_once_are_no_matter_of_minutes(wire: Wire) -> None:
    wire.hello()
    leases = [lease_of(wire.estate, "many", number) for number in range(10_000)]
    last = [wire.send("register", lease=lease.as_json()) for lease in leases][-1]
    wire.wait_for(lambda: last in wire.answers)

    assert set(journal.read(wire.estate.folder).leases) == {lease.instance_id for lease in leases}
    assert set(wire.answers.values()) == {""}


def test_an_owner_that_does_not_read_answers_does_not_stop_it(wire: Wire) -> None:
    wire.hello()
    for number in range(5000):
        wire.send("register", lease=lease_of(wire.estate, "many", number).as_json())
    while wire.link.has_outgoing:  # without ever reading
        wire.link.flush()
        time.sleep(0.001)

    eventually(lambda: len(journal.read(wire.estate.folder).leases) == 5000)


# -- outputs -----------------------------------------------------------------------------------------------


def test_a_program_that_talks_while_it_ends_is_not_hurt_by_its_reader_being_gone(wire: Wire, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    for _ in range(300): print('x' * 1000, flush=True)\n"
        f"    open({str(tmp_path / 'done')!r}, 'w').write('in order')\n"
        "    sys.exit(0)\n"
        "signal.signal(15, end)\nprint('up', flush=True)\ntime.sleep(1000)\n"
    )
    program = subprocess.Popen(
        ["/usr/bin/env", "python3", "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    os.set_blocking(program.stdout.fileno(), False)
    wire.hello()
    assert wire.register(lease_of_program(wire.estate, program.pid), program.stdout.fileno()) == ""
    program.stdout.close()
    wire.end()

    assert program.wait(LONG_S) == 0
    assert (tmp_path / "done").read_text() == "in order"


def test_an_output_is_let_go_of_with_its_lease(wire: Wire) -> None:
    wire.hello()
    reads, writes = os.pipe()
    lease = lease_of(wire.estate)
    wire.register(lease, reads)
    wire.register(lease, reads)  # a second time, in place of the first
    os.close(reads)
    wire.ask("release", instance_id=lease.instance_id)

    with pytest.raises(BrokenPipeError):
        os.write(writes, b"x")
    os.close(writes)


def test_an_output_that_came_with_a_refused_lease_is_let_go_of(wire: Wire) -> None:
    wire.hello()
    reads, writes = os.pipe()
    assert "never be a service" in wire.register(lease_of(wire.estate, pid=1, started="1"), reads)
    os.close(reads)

    with pytest.raises(BrokenPipeError):
        os.write(writes, b"x")
    os.close(writes)


def is_read(writes: int) -> bool:
    """Return whether anybody can still read what is written into a pipe."""
    try:
        os.write(writes, b"x")
    except BrokenPipeError:
        return False
    return True


@pytest.mark.parametrize("has_greeted", [False, True])
def test_an_output_that_came_with_what_is_refused_is_nobody_else_s(wire: Wire, has_greeted: bool) -> None:
    refused, ours = os.pipe(), os.pipe()
    if has_greeted:
        wire.hello()
        wire.link.send({"seq": 77, "op": "register", "lease": 5, "fds": 1}, refused[0])
        wire.wait_for(lambda: 77 in wire.answers)
    else:
        assert "whose session" in wire.register(lease_of(wire.estate), refused[0])
        wire.hello()
    lease = lease_of(wire.estate)
    wire.register(lease, ours[0])
    os.close(refused[0])
    os.close(ours[0])

    assert (is_read(refused[1]), is_read(ours[1])) == (False, True)
    wire.ask("release", instance_id=lease.instance_id)
    os.close(refused[1])
    os.close(ours[1])


def test_after_a_line_that_nobody_understands_no_output_is_mistaken_for_another(wire: Wire) -> None:
    wire.hello()
    lost, ours = os.pipe(), os.pipe()
    socket.send_fds(wire.link._socket, [b'{"op": "register", "fds": 1}\n'], [lost[0]])
    lease = lease_of(wire.estate)
    assert wire.register(lease, ours[0]) == ""
    os.close(lost[0])
    os.close(ours[0])

    assert (is_read(lost[1]), is_read(ours[1])) == (False, False)
    wire.ask("release", instance_id=lease.instance_id)
    os.close(lost[1])
    os.close(ours[1])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a limit is set by the process itself alone")
def test_an_output_that_found_no_free_descriptor_is_not_mistaken_for_the_next(wire: Wire) -> None:
    wire.hello()
    lost, ours = os.pipe(), os.pipe()
    usual = resource.prlimit(wire.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(wire.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
    first, second = lease_of(wire.estate), lease_of(wire.estate, "other")
    wire.register(first, lost[0])
    resource.prlimit(wire.pid, resource.RLIMIT_NOFILE, usual)
    assert wire.register(second, ours[0]) == ""
    wire.ask("release", instance_id=first.instance_id)
    os.close(lost[0])
    os.close(ours[0])

    assert (is_read(lost[1]), is_read(ours[1])) == (False, True)
    wire.ask("release", instance_id=second.instance_id)
    os.close(lost[1])
    os.close(ours[1])


# -- the end -----------------------------------------------------------------------------------------------


def test_a_goodbye_is_answered_and_followed_by_the_cleaning(wire: Wire, program: subprocess.Popen[bytes]) -> None:
    wire.hello()
    wire.register(lease_of_program(wire.estate, program.pid))
    assert wire.ask("bye") == ""

    assert program.wait(LONG_S) == -signal.SIGTERM
    eventually(lambda: not is_running(wire.pid))
    assert not wire.estate.folder.exists()


def test_the_lock_is_free_when_it_is_gone(wire: Wire) -> None:
    wire.hello()
    os.kill(wire.pid, signal.SIGKILL)
    lock = SessionLock(wire.estate.folder)

    assert lock.take(timeout_s=LONG_S)
    lock.release()
