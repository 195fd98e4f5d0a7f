"""What did the job leave that is not a service's? Cheap comparisons first; psutil only where something differs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from autostop_lab.origin import CALL_PURPOSE, THREAD_PREFIX, thread_name
from autostop_lab.reaper import forks
from autostop_lab.reaper.guard import current_guard
from autostop_lab.services.coroutines import stack_of

#: How long something that is just ending may take before it counts as left, in seconds.
SETTLING_S = 0.25

# So fails reading about a thread or a descriptor that has just gone. Any other failure is no answer at all.
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Something that the job left behind.

    Attributes
    ----------
    kind : str
        ``"thread"``, ``"process"``, ``"port"`` or ``"file"``.
    what : str
        Its name, pid, port or path, for people.
    stack : str
        Where a thread is, in traceback form; "" otherwise.
    is_shared : bool
        Whether other jobs ran at the same time, so that it may be theirs.
    """

    kind: str
    what: str
    stack: str = ""
    is_shared: bool = False

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.kind} {self.what}" + (" (shared: other jobs ran too)" if self.is_shared else "")


@dataclass(frozen=True)
class Belongings:
    """What this process has at a moment.

    Attributes
    ----------
    threads : frozenset of threading.Thread
        Living threads that are not ours.
    children : frozenset of int
        Pids of child processes.
    files : frozenset of str
        Regular files and sockets that are open, with their descriptors.
    is_whole : bool
        Whether children and files could be looked at: that takes a free descriptor.
    """

    threads: frozenset[threading.Thread] = field(default_factory=frozenset)
    children: frozenset[int] = field(default_factory=frozenset)
    files: frozenset[str] = field(default_factory=frozenset)
    is_whole: bool = True

    @classmethod
    def now(cls) -> Belongings:
        """Look."""
        threads = frozenset(thread for thread in threading.enumerate() if not _is_ours_or_the_kernels(thread))
        try:
            # A reaper and the child that is just starting it are ours, as are the descriptors that lead to it.
            return cls(threads, frozenset(_children()) - current_guard().pids, frozenset(_files()))
        except OSError:
            return cls(threads, is_whole=False)

    def __sub__(self, earlier: Belongings) -> Belongings:
        """Return what came since `earlier`, as far as both are known."""
        if not (self.is_whole and earlier.is_whole):
            return Belongings(self.threads - earlier.threads)
        return Belongings(self.threads - earlier.threads, self.children - earlier.children, self.files - earlier.files)

    def __bool__(self) -> bool:
        """Return whether there is anything."""
        return bool(self.threads or self.children or self.files)


def _is_ours_or_the_kernels(thread: threading.Thread) -> bool:
    """Return whether a thread is ours, or one that a kernel starts for itself when it first needs it.

    One in which a call runs that the job has begun in the background is the job's.
    """
    is_ours = thread.name.startswith(THREAD_PREFIX) and not thread.name.startswith(thread_name(CALL_PURPOSE))
    return is_ours or type(thread).__module__.startswith(("zmq.", "ipykernel."))


def _children() -> Iterable[int]:
    if sys.platform == "linux":
        pids: list[int] = []
        for task in os.listdir("/proc/self/task"):
            with suppress(*_GONE), open(f"/proc/self/task/{task}/children") as file:
                pids.extend(map(int, file.read().split()))
        return pids
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _files() -> Iterable[str]:
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    found = []
    for descriptor in set(os.listdir(folder)) - set(map(str, forks.descriptors())):
        with suppress(*_GONE):
            target = os.readlink(f"{folder}/{descriptor}") if sys.platform == "linux" else ""
            if target.startswith(("/", "socket:")) and not target.startswith(("/dev/", "/proc/")):
                found.append(f"{descriptor} {target}")
    return found


def find_leaks(before: Belongings, *, ours: frozenset[int] = frozenset(), is_shared: bool = False) -> list[Leak]:
    """Return what came since `before` and is still there.

    Parameters
    ----------
    before : Belongings
        Taken before the job began.
    ours : frozenset of int
        Pids of services that live on.
    is_shared : bool
        Whether other jobs ran at the same time.

    Returns
    -------
    list of Leak
        Threads, child processes, listening ports and open files.
    """
    deadline = time.monotonic() + SETTLING_S
    new = Belongings.now() - before
    while new and time.monotonic() < deadline:
        time.sleep(0.01)
        new = Belongings.now() - before
    if not new:
        return []
    leaks = [
        Leak(kind="thread", what=repr(thread.name), stack=stack_of(thread), is_shared=is_shared)
        for thread in new.threads
        if thread.is_alive()
    ]
    leaks += _process_leaks(new.children - ours, is_shared=is_shared)
    paths = [entry.partition(" ")[2] for entry in new.files]
    leaks += [Leak(kind="file", what=path, is_shared=is_shared) for path in sorted(set(paths)) if path[0] == "/"]
    if any(path.startswith("socket:") for path in paths):
        leaks += _port_leaks(new.files, is_shared=is_shared)
    return leaks


def _process_leaks(pids: Iterable[int], *, is_shared: bool) -> list[Leak]:
    import psutil

    leaks = []
    for pid in sorted(pids):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            state = " (zombie: ended, never waited for)" if process.status() == psutil.STATUS_ZOMBIE else ""
            leaks.append(Leak(kind="process", what=f"{pid} {process.name()!r}{state}", is_shared=is_shared))
    return leaks


def _port_leaks(files: Iterable[str], *, is_shared: bool) -> list[Leak]:
    import psutil

    descriptors = {int(entry.partition(" ")[0]) for entry in files}
    leaks = []
    with suppress(psutil.Error):
        for connection in psutil.Process().net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.fd in descriptors:
                leaks.append(Leak(kind="port", what=str(connection.laddr.port), is_shared=is_shared))
    return leaks
