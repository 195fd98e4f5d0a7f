"""What is on this machine, seen with psutil and /proc alone: nothing here shares code with what it judges."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

#: For what has to happen at last; nothing waits that long in a test that passes.
PATIENCE_S = 30.0
PR_SET_CHILD_SUBREAPER = 36

#: A process: pid and start time, so that another one with its pid is not taken for it.
Seen = tuple[int, float]


def eventually(condition: Callable[[], object], what: object = "it", patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; `what` says what did not come, or is called for it."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come within {patience_s:g} s: {what() if callable(what) else what}")
        time.sleep(0.005)


def see(pid: int) -> Seen:
    """Return who has this pid now."""
    return pid, psutil.Process(pid).create_time()


def runs(seen: Seen) -> bool:
    """Return whether this very process still runs; a zombie does not."""
    pid, created = seen
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(pids: Iterable[int]) -> list[int]:
    """Return which of these pids run, zombies aside."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def hold_gone(pids: Iterable[int], patience_s: float = PATIENCE_S) -> None:
    """Wait until none of these pids runs. For pids that are young enough not to be somebody else's by now."""
    left = list(pids)
    assert left, "nobody to look for"
    eventually(lambda: not running(left), lambda: f"the end of {describe(running(left))}", patience_s)


def describe(pids: Iterable[int]) -> list[str]:
    """Return what these processes are, for people."""
    found = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found.append(f"{pid} {process.status()} {' '.join(process.cmdline())[:120]}")
    return found


def carriers(session: str) -> list[int]:
    """Return the pids of living processes whose environment carries the id of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            path = process.environ().get("AUTOSTOP_LAB_SESSION", "")
            if session in path.split("/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def listening_ports() -> set[int]:
    """Return the TCP ports that this process listens on."""
    connections = psutil.Process().net_connections("tcp")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def numbers_in(path: Path, count: int = 1) -> list[int]:
    """Wait until so many numbers stand in a file, one per line, and return them."""

    def lines() -> list[str]:
        return [line for line in path.read_text().splitlines() if line.isdigit()] if path.exists() else []

    eventually(lambda: len(lines()) >= count, lambda: f"{count} numbers in {path}: {lines()}")
    return [int(line) for line in lines()]


def accepts(port: int) -> bool:
    """Return whether somebody accepts connections on a port of the loopback."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Have whoever loses its parent become our child (Linux), so that none slips away; reap them in the end."""
    mine = {child.pid for child in psutil.Process().children()}
    _adopt(True)
    try:
        yield
    finally:
        _adopt(False)
        reap(set(), mine)


def _adopt(is_wanted: bool) -> None:
    if sys.platform == "linux":
        assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(is_wanted), 0, 0, 0) == 0


def reap(keep: set[int], mine: set[int]) -> None:
    """Take note of the end of adopted children, those in `keep` and `mine` aside."""
    for child in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if child.pid not in keep | mine and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def end_for_sure(pids: Iterable[int]) -> None:
    """Kill what a failed test has left, by pid."""
    for pid in running(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
