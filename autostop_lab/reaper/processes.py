"""Whose process is it? Never a bare pid: a process is known by its pid and start time, and is ours by a sign.

The signs: a registered identity; our id in its environment; a descriptor open on our marker file; our id in the name
of its control group; membership in a session whose leader we have not reaped yet (which pins the leader's pid);
descent from a process with a sign.
Programs may overwrite their environment (redis 7 and everything that uses setproctitle zero it), so the absence of
one sign clears nobody; and nothing without any sign is ever signalled.
"""

from __future__ import annotations

import calendar
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from autostop_lab.reaper.groups import ids_in_group_of

#: Environment variable with the path ``outer/inner`` of the ids that a process belongs to.
SESSION_VARIABLE = "AUTOSTOP_LAB_SESSION"
#: Name of the file in an instance's folder that its processes hold open.
MARKER_NAME = "marker"

_HAS_PROC = sys.platform == "linux"

# So fails reading about a process that has just ended or is somebody else's. Any other failure (no descriptor left,
# say) goes up to the caller: it must not pass for "there is no such process".
_GONE_OR_FOREIGN = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was seen. It equals what was seen of it before and after: pid and start time tell.

    Attributes
    ----------
    pid : int
        Process id.
    started : str
        Start time, a number in the platform's own unit; together with `pid` it identifies the process.
    parent_pid, group, session : int
        Its parent, process group and session; where the platform does not tell the session, its group stands for
        it, which a program that we launch leads as well.
    is_zombie : bool
        Whether it is dead and only waits to be reaped.
    is_stopped : bool
        Whether it is suspended by a signal.
    """

    pid: int
    started: str
    parent_pid: int = field(compare=False)
    group: int = field(compare=False)
    session: int = field(compare=False)
    is_zombie: bool = field(compare=False)
    is_stopped: bool = field(default=False, compare=False)


def _from_proc(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            values = file.read().rpartition(b")")[2].split()
    except _GONE_OR_FOREIGN:
        return None
    state, parent, group, session, threads, started = (values[i].decode() for i in (0, 1, 2, 3, 17, 19))
    # A program whose first thread has ended is shown as a zombie, too, while its other threads go on.
    is_zombie = state in ("Z", "X") and int(threads) <= 1
    return Process(pid, started, int(parent), int(group), int(session), is_zombie, state == "T")


def _from_ps(arguments: list[str]) -> Iterator[Process]:
    command = ["ps", *arguments, "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    for line in _output_of(command).splitlines():
        pid, parent, group, state, text = line.split(None, 4)
        started = calendar.timegm(time.strptime(text.strip(), "%a %b %d %H:%M:%S %Y"))
        yield Process(int(pid), str(started), int(parent), int(group), int(group), state[0] == "Z", state[0] == "T")


def _output_of(command: list[str]) -> str:
    plain = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=plain).stdout


def processes() -> list[Process]:
    """Return every process that can be seen, dead ones that were not reaped among them."""
    if not _HAS_PROC:
        return list(_from_ps(["-axww"]))
    seen = (_from_proc(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [process for process in seen if process is not None]


def process(pid: int) -> Process | None:
    """Return the process with this pid, or None if there is none."""
    if _HAS_PROC:
        return _from_proc(pid)
    return next(_from_ps(["-p", str(pid)]), None)


def is_alive(known: Process) -> bool:
    """Return whether this very process (not another with its pid) still runs."""
    now = process(known.pid)
    return now is not None and now == known and not now.is_zombie


def boot_id() -> str:
    """Return what is different in each run of this machine: pids and monotonic times of another run mean nothing."""
    if _HAS_PROC:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    return _output_of(["sysctl", "-n", "kern.bootsessionuuid"]).strip()


# -- the signs ---------------------------------------------------------------------------------------------


def ids_of(pid: int) -> frozenset[str]:
    """Return the ids of sessions and instances that a process carries: in its environment, open markers and group."""
    return _ids_of([pid]).get(pid, frozenset())


def _ids_of(pids: Collection[int]) -> dict[int, frozenset[str]]:
    if _HAS_PROC:
        signs = (_ids_in_environment, _ids_of_open_markers, ids_in_group_of)
        return {pid: frozenset(found for sign in signs for found in sign(pid)) for pid in pids}
    return _ids_without_proc(pids)


def _ids_in_environment(pid: int) -> Iterable[str]:
    prefix = f"{SESSION_VARIABLE}=".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except _GONE_OR_FOREIGN:
        return ()
    paths = (entry[len(prefix) :].decode(errors="replace") for entry in entries if entry.startswith(prefix))
    return [found for path in paths for found in path.split("/")]


def _ids_of_open_markers(pid: int) -> Iterator[str]:
    for link, path in _open_files(pid):
        if (path := path.removesuffix(" (deleted)")).endswith("/" + MARKER_NAME):
            with suppress(*_GONE_OR_FOREIGN):
                if not os.lstat(link).st_mode & stat.S_IRUSR:  # who can read it has opened it by itself
                    yield from path.split("/")


def _open_files(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the link in ``/proc`` of each descriptor of a process, and where it leads."""
    folder = f"/proc/{pid}/fd"
    with suppress(*_GONE_OR_FOREIGN):
        for entry in os.listdir(folder):
            with suppress(*_GONE_OR_FOREIGN):
                yield (link := f"{folder}/{entry}"), os.readlink(link)


def _ids_without_proc(pids: Collection[int]) -> dict[int, frozenset[str]]:
    """Return what processes carry, from two programs of macOS that are asked once for all of them."""
    chosen = ",".join(map(str, pids))
    found: dict[int, set[str]] = {pid: set() for pid in pids}
    for line in _output_of(["ps", "-Eww", "-p", chosen, "-o", "pid=,command="]).splitlines() if pids else ():
        pid, *words = line.split()
        for word in words:
            if word.startswith(SESSION_VARIABLE + "="):
                found[int(pid)].update(word.partition("=")[2].split("/"))
    pid = "0"
    for line in _output_of(["lsof", "-nPw", "-a", "-p", chosen, "-Fpn"]).splitlines() if pids else ():
        if line.startswith("p"):
            pid = line[1:]
        elif line.startswith("n/") and line.endswith("/" + MARKER_NAME):
            found[int(pid)].update(line[1:].split("/"))
    return {pid: frozenset(ids) for pid, ids in found.items()}


def find_owned(ids: frozenset[str], *, since: str, sessions: frozenset[int] = frozenset()) -> dict[str, list[Process]]:
    """Look once for living processes that carry any of `ids`, and for the descendants of these.

    Parameters
    ----------
    ids : frozenset of str
        Ids of sessions or instances; empty ids are refused, since they would match strangers.
    since : str
        Start time (as in `Process.started`) of the oldest that may be ours: what is older is skipped unread. ""
        looks at all.
    sessions : frozenset of int
        Session ids whose leaders are ours and not reaped; their members are listed under the session's number.

    Returns
    -------
    dict of str to list of Process
        For each id (or ``str(session)``) what was found; this process itself is never in it.
    """
    if "" in ids:
        raise ValueError("an empty id would match processes that are not ours")
    oldest = int(since or 0)
    candidates = [
        candidate
        for candidate in processes()
        if int(candidate.started) >= oldest
        and candidate.pid > 1
        and candidate.pid != os.getpid()
        and not candidate.is_zombie
    ]
    carried = _ids_of([candidate.pid for candidate in candidates])
    found: dict[str, list[Process]] = {}
    for candidate in candidates:
        if candidate.session in sessions:
            found.setdefault(str(candidate.session), []).append(candidate)
        for owner in ids & carried.get(candidate.pid, frozenset()):
            found.setdefault(owner, []).append(candidate)
    for members in found.values():
        _add_descendants(members, candidates)
    return found


def _add_descendants(members: list[Process], candidates: Iterable[Process]) -> None:
    children: dict[int, list[Process]] = {}
    for candidate in candidates:
        children.setdefault(candidate.parent_pid, []).append(candidate)
    known = set(members)
    for member in members:  # grows on the way
        for child in children.get(member.pid, ()):
            if child not in known:
                known.add(child)
                members.append(child)


# -- signals -----------------------------------------------------------------------------------------------


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that stands for the process that has this pid now, readable when it has ended.

    Returns
    -------
    int or None
        The descriptor, for the caller to close; None where this machine has no such thing.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # an old kernel, a sandbox that forbids it, or no descriptor left
        return None


def send_signal(known: Process, signal_number: int) -> bool:
    """Send a signal to this very process, never to another that has its pid by now.

    Returns
    -------
    bool
        Whether it was there to be signalled.
    """
    if known.pid <= 1 or known.pid == os.getpid():
        return False
    descriptor = None
    try:
        descriptor = open_pidfd(known.pid)
        # The descriptor pins whoever has the pid now; only then is the start time worth comparing.
        try:
            is_there = is_alive(known)
        except OSError:
            if descriptor is None:
                raise
            os.close(descriptor)  # it was the last one that there was
            descriptor = None
            is_there = is_alive(known)
        if not is_there:
            return False
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal_number)
        else:
            os.kill(known.pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


# -- ports -------------------------------------------------------------------------------------------------


def listener_pids(port: int) -> frozenset[int] | None:
    """Return the pids of processes that listen on a TCP port of this machine.

    Parameters
    ----------
    port : int
        The port.

    Returns
    -------
    frozenset of int or None
        The listeners that can be seen (empty if there are none, or they belong to other users); None where the
        machine does not tell.
    """
    if not _HAS_PROC:
        try:
            text = _output_of(["lsof", "-nPw", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"])
        except OSError:
            return None
        return frozenset(map(int, text.split()))
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()] if sockets else []
    return frozenset(pid for pid in pids if any(path in sockets for _, path in _open_files(pid)))


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError), open(f"/proc/net/{table}") as file:
            next(file)
            for line in file:
                values = line.split()
                if values[3] == "0A" and int(values[1].rpartition(":")[2], 16) == port:
                    yield values[9]
