from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper import processes
from autostop_lab.reaper.processes import (
    MARKER_NAME,
    SESSION_VARIABLE,
    Process,
    find_owned,
    ids_of,
    is_alive,
    listener_pids,
    open_pidfd,
    process,
    send_signal,
)
from tests.services.lives import LONG_S, eventually, is_running, pid_in, python

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SLEEP = python("import time; print('up'); time.sleep(1000)")


class Children:
    """Starts programs that are ended after the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def __call__(self, argv: list[str], env: dict[str, str] | None = None, **kwargs: Any) -> Process:
        environment = {name: value for name, value in os.environ.items() if name != SESSION_VARIABLE}
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**environment, **(env or {})}, **kwargs)
        self.started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        found = process(child.pid)
        assert found is not None
        return found

    def end(self) -> None:
        for child in self.started:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


@pytest.fixture
def child() -> Iterator[Children]:
    children = Children()
    yield children
    children.end()


# -- identity ----------------------------------------------------------------------------------------------


def test_a_process_is_seen_as_it_is(child: Children) -> None:
    found = child(SLEEP, start_new_session=True)

    assert found.parent_pid == os.getpid()
    assert found.group == found.session == found.pid
    assert not found.is_zombie
    assert is_alive(found)


def test_a_process_stays_the_same_whatever_becomes_of_its_family(child: Children) -> None:
    found = child(SLEEP)

    assert replace(found, parent_pid=1, group=1, session=1) == found
    assert replace(found, started=str(int(found.started) + 1)) != found
    assert len({found, replace(found, parent_pid=1)}) == 1


def test_there_is_no_process_without_a_pid() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()

    assert process(child.pid) is None


def test_a_dead_process_that_nobody_waited_for_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = process(child.pid)
    child.wait()

    assert found is not None
    assert found.is_zombie
    assert not is_alive(found)


@needs_proc
def test_a_process_whose_first_thread_has_ended_is_alive(child: Children) -> None:
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "print('up')\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    found = child(python(code))
    eventually(lambda: b"State:\tZ" in Path(f"/proc/{found.pid}/status").read_bytes())

    assert is_alive(found)


def test_another_process_with_the_pid_is_not_taken_for_it(child: Children) -> None:
    found = child(SLEEP)
    former = replace(found, started=str(int(found.started) - 1))

    assert not is_alive(former)
    assert not send_signal(former, signal.SIGKILL)
    assert is_alive(found)


def test_a_name_with_spaces_and_parentheses_is_no_trouble(child: Children, tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    found = child([str(odd), *SLEEP[1:]])

    assert found.parent_pid == os.getpid()


# -- signals -----------------------------------------------------------------------------------------------


def test_a_signal_reaches_the_very_process(child: Children) -> None:
    found = child(SLEEP)

    assert send_signal(found, signal.SIGTERM)
    eventually(lambda: not is_alive(found))
    assert child.started[0].wait(LONG_S) == -signal.SIGTERM


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_nobody_is_signalled_for_a_pid_that_stands_for_others(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "is_alive", lambda known: True)

    assert not send_signal(Process(pid, "1", 1, 1, 1, False), 0)


def test_this_process_is_never_signalled() -> None:
    me = process(os.getpid())

    assert me is not None
    assert not send_signal(me, 0)


def test_a_process_that_is_gone_is_not_signalled() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    found = process(child.pid)
    child.wait()

    assert found is not None
    assert not send_signal(found, 0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are no pidfds")
def test_the_last_free_descriptor_is_enough_for_a_signal(child: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    found = child(SLEEP)
    real, opened = os.pidfd_open, []

    def open_last(pid: int) -> int:
        opened.append(real(pid))
        return opened[0]

    def look(known: Process) -> bool:
        if Path(f"/proc/self/fd/{opened[0]}").exists():
            raise OSError(24, "Too many open files")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", open_last)
        patch.setattr(processes, "is_alive", look)
        assert send_signal(found, signal.SIGTERM)
    eventually(lambda: not is_alive(found))


@pytest.mark.parametrize("error", [OSError(38, "ENOSYS"), PermissionError(1, "EPERM"), OSError(24, "EMFILE")])
def test_without_a_pidfd_the_pid_is_used(child: Children, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", fail, raising=False)
    found = child(SLEEP)

    assert open_pidfd(found.pid) is None
    assert send_signal(found, signal.SIGTERM)
    eventually(lambda: not is_alive(found))


# -- the signs ---------------------------------------------------------------------------------------------


def owned(*ids: str, since: str = "", sessions: frozenset[int] = frozenset()) -> dict[str, set[int]]:
    found = find_owned(frozenset(ids), since=since, sessions=sessions)
    return {owner: {member.pid for member in members} for owner, members in found.items()}


def test_a_process_is_found_by_each_id_in_its_environment(child: Children) -> None:
    found = child(SLEEP, {SESSION_VARIABLE: "outer-1/inner-2"})

    assert ids_of(found.pid) == {"outer-1", "inner-2"}
    assert owned("outer-1", "inner-2", "other-3") == {"outer-1": {found.pid}, "inner-2": {found.pid}}


@pytest.mark.parametrize("text", ["inner", "inner-22", "nner-2", "outer-1/inner-2"])
def test_a_part_of_an_id_finds_nobody(child: Children, text: str) -> None:
    child(SLEEP, {SESSION_VARIABLE: "outer-1/inner-2", "OTHER": f"{SESSION_VARIABLE}={text}"})

    assert owned(text) == {}


def test_a_process_is_found_by_an_open_marker(child: Children, tmp_path: Path) -> None:
    folder = tmp_path / "session-1" / "store-2"
    folder.mkdir(parents=True)
    with open(folder / MARKER_NAME, "w") as marker:
        found = child(SLEEP, pass_fds=(marker.fileno(),))

    assert owned("store-2", "session-1") == {"store-2": {found.pid}, "session-1": {found.pid}}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how a file was opened")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_stranger_that_reads_a_marker_is_not_ours(child: Children, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "store-2"
    folder.mkdir()
    (folder / MARKER_NAME).touch()
    with open(folder / MARKER_NAME, mode) as marker:
        child(SLEEP, pass_fds=(marker.fileno(),))

    assert owned("store-2") == {}


def test_a_process_is_found_by_a_marker_that_was_removed(child: Children, tmp_path: Path) -> None:
    folder = tmp_path / "store-2"
    folder.mkdir()
    with open(folder / MARKER_NAME, "w") as marker:
        found = child(SLEEP, pass_fds=(marker.fileno(),))
    (folder / MARKER_NAME).unlink()

    assert owned("store-2") == {"store-2": {found.pid}}


def test_an_environment_with_other_ids_does_not_hide_a_marker(child: Children, tmp_path: Path) -> None:
    folder = tmp_path / "store-2"
    folder.mkdir()
    with open(folder / MARKER_NAME, "w") as marker:
        found = child(SLEEP, {SESSION_VARIABLE: "other-1"}, pass_fds=(marker.fileno(),))

    assert owned("store-2", "other-1") == {"store-2": {found.pid}, "other-1": {found.pid}}


def test_an_open_file_that_is_no_marker_is_no_sign(child: Children, tmp_path: Path) -> None:
    (tmp_path / "store-2").mkdir()
    with open(tmp_path / "store-2" / "other", "w") as file:
        child(SLEEP, pass_fds=(file.fileno(),))

    assert owned("store-2") == {}


@needs_proc
def test_a_process_is_found_as_a_member_of_a_session(child: Children) -> None:
    leader = child(SLEEP, start_new_session=True)

    assert owned(sessions=frozenset({leader.pid})) == {str(leader.pid): {leader.pid}}


def test_descendants_of_what_is_found_are_found_though_they_carry_no_sign(child: Children, tmp_path: Path) -> None:
    grandchild = "import time; time.sleep(1000)"
    code = (
        "import os, subprocess, sys, time\n"
        f"argv = [sys.executable, '-S', '-c', {grandchild!r}]\n"
        "child = subprocess.Popen(argv, env={}, start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    parent = child(python(code), {SESSION_VARIABLE: "store-2"})
    pid = pid_in(tmp_path / "pid")
    try:
        assert owned("store-2") == {"store-2": {parent.pid, pid}}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty id would match processes that are not ours"):
        find_owned(frozenset({"store-2", ""}), since="")


def test_without_ids_nobody_is_found(child: Children) -> None:
    child(SLEEP)

    assert owned() == {}


def test_what_is_older_than_asked_for_is_skipped(child: Children) -> None:
    found = child(SLEEP, {SESSION_VARIABLE: "store-2"})

    assert owned("store-2", since=found.started) == {"store-2": {found.pid}}
    assert owned("store-2", since=str(int(found.started) + 1)) == {}


def test_this_process_is_never_listed(tmp_path: Path) -> None:
    folder = tmp_path / "store-2"
    folder.mkdir()
    with open(folder / MARKER_NAME, "w"):
        assert "store-2" in ids_of(os.getpid())
        assert owned("store-2", sessions=frozenset({os.getsid(0)})).get("store-2", set()) == set()


def test_a_dead_process_is_not_listed() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = owned(sessions=frozenset({child.pid}))
    child.wait()

    assert found == {}


@needs_proc
@pytest.mark.parametrize("error", [OSError(24, "no descriptor left"), OSError(12, "no memory left")])
def test_what_cannot_be_read_is_not_taken_for_gone(
    child: Children, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = child(SLEEP, {SESSION_VARIABLE: "store-2"})

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(processes, "open", fail, raising=False)
        with pytest.raises(OSError, match="left"):
            is_alive(found)
        with pytest.raises(OSError, match="left"):
            find_owned(frozenset({"store-2"}), since="")
        with pytest.raises(OSError, match="left"):
            ids_of(found.pid)


@needs_proc
@pytest.mark.skipif(os.getuid() != 0, reason="needs a process of somebody else")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_of_somebody_else_that_cannot_be_read_is_no_trouble(child: Children) -> None:
    stranger = child(SLEEP, {SESSION_VARIABLE: "store-2"})
    reads, writes = os.pipe()
    looker = os.fork()
    if looker == 0:
        os.setuid(65534)
        os.write(writes, b"found" if owned("store-2") else b"not found")
        os.write(writes, b", signalled" if send_signal(stranger, 0) else b", not signalled")
        os._exit(0)
    os.waitpid(looker, 0)
    said = os.read(reads, 100)
    os.close(reads)
    os.close(writes)

    assert said == b"not found, not signalled"


# -- without /proc -----------------------------------------------------------------------------------------


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HAS_PROC", False)


@pytest.mark.usefixtures("without_proc")
def test_processes_are_read_from_ps_where_there_is_no_proc(child: Children) -> None:
    child(SLEEP, start_new_session=True)
    pid = child.started[0].pid
    found = process(pid)

    assert found is not None
    assert (found.parent_pid, found.group, found.session, found.is_zombie) == (os.getpid(), pid, pid, False)
    assert int(found.started) > 1e9
    assert is_alive(found)
    assert found in processes.processes()
    assert process(2**22 + 1) is None


@pytest.mark.usefixtures("without_proc")
def test_ids_are_read_from_ps_and_lsof_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are those that macOS gives."""

    def answer(command: list[str]) -> str:
        assert "7,8" in command
        if command[0] == "ps":
            return f"    7 /bin/sleep 9 HOME=/x {SESSION_VARIABLE}=outer-1/inner-2 B=\n    8 (sleep)\n"
        return f"p7\nfcwd\nn/\np8\nf3\nn/private/tmp/session-3/store-4/{MARKER_NAME}\nf4\nnlocalhost:80\n"

    monkeypatch.setattr(processes, "_output_of", answer)
    found = processes._ids_of([7, 8])

    assert found[7] == {"outer-1", "inner-2"}
    assert {"session-3", "store-4"} <= found[8]


@pytest.mark.usefixtures("without_proc")
def test_listeners_are_read_from_lsof_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_output_of", lambda command: "12\n34\n")

    assert listener_pids(80) == frozenset({12, 34})


@pytest.mark.usefixtures("without_proc")
def test_a_machine_that_does_not_tell_its_listeners_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str]) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(processes, "_output_of", fail)

    assert listener_pids(80) is None


# -- ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_listens_on_a_port_is_found(family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        server.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        port = server.getsockname()[1]
        assert listener_pids(port) == frozenset()
        server.listen()
        assert listener_pids(port) == frozenset({os.getpid()})

    assert listener_pids(port) == frozenset()


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        port = client.getsockname()[1]
        assert listener_pids(port) == frozenset()
        client.close()


def test_all_who_listen_together_are_found(child: Children) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = child(SLEEP, pass_fds=(server.fileno(),))
        assert listener_pids(server.getsockname()[1]) == frozenset({os.getpid(), found.pid})
        assert is_running(found.pid)
