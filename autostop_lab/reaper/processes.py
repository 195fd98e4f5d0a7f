"""Whose process is it? Never a bare pid: a process is known by its pid and start time, and is ours by a sign.

The signs: a registered identity; our id in its environment; a descriptor open on our marker file; membership
in a session whose leader we have not reaped yet (which pins the leader's pid). Programs may overwrite their
environment (redis 7 and everything that uses setproctitle zero it), so the absence of one sign clears nobody;
and nothing without any sign is ever signalled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

#: Environment variable with the path ``outer/inner`` of the ids that a process belongs to.
SESSION_VARIABLE = "AUTOSTOP_LAB_SESSION"
#: Name of the file in an instance's folder that its processes hold open.
MARKER_NAME = "marker"

_HAS_PROC = sys.platform == "linux"


class Process(NamedTuple):
    """One process as it was seen.

    Attributes
    ----------
    pid : int
        Process id.
    started : str
        Start time in the platform's own form; together with `pid` it identifies the process.
    parent_pid, group, session : int
        Its parent, process group and session; `session` is 0 where the platform does not tell.
    is_zombie : bool
        Whether it is dead and only waits to be reaped.
    """

    pid: int
    started: str
    parent_pid: int
    group: int
    session: int
    is_zombie: bool


def _from_proc(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            values = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return Process(pid, values[19].decode(), int(values[1]), int(values[2]), int(values[3]), values[0] in b"ZX")


def _from_ps(arguments: list[str]) -> Iterator[Process]:
    command = ["ps", *arguments, "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    text = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"}).stdout
    for line in text.splitlines():
        values = line.split(None, 4)
        if len(values) == 5:
            pid, parent, group, state, started = values
            yield Process(int(pid), started.strip(), int(parent), int(group), 0, state.startswith("Z"))


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
    return now is not None and now.started == known.started and not now.is_zombie


def ids_of(pid: int) -> frozenset[str]:
    """Return the ids of sessions and instances that a process carries, by its environment or an open marker."""
    return frozenset(_ids_in_environment(pid)) or frozenset(_ids_of_open_markers(pid))


def _ids_in_environment(pid: int) -> Iterable[str]:
    prefix = SESSION_VARIABLE + "="
    if _HAS_PROC:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = file.read().decode(errors="replace").split("\0")
        except OSError:
            return ()
    else:
        command = ["ps", "-Eww", "-o", "command=", "-p", str(pid)]
        entries = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return next((entry[len(prefix) :].split("/") for entry in entries if entry.startswith(prefix)), ())


def _ids_of_open_markers(pid: int) -> Iterable[str]:
    if not _HAS_PROC:
        command = ["lsof", "-a", "-Fn", "-p", str(pid)]
        with suppress(OSError):
            text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            for line in text.splitlines():
                if line.startswith("n/") and line.endswith("/" + MARKER_NAME):
                    yield from line[1:].split("/")
        return
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for entry in os.listdir(folder):
            with suppress(OSError):
                link = os.readlink(f"{folder}/{entry}").removesuffix(" (deleted)")
                if link.endswith("/" + MARKER_NAME):
                    yield from link.split("/")


def find_owned(ids: frozenset[str], *, since: str, sessions: frozenset[int] = frozenset()) -> dict[str, list[Process]]:
    """Look once for living processes that carry any of `ids`.

    Parameters
    ----------
    ids : frozenset of str
        Ids of sessions or instances; empty ids are refused, since they would match strangers.
    since : str
        Start time (as in `Process.started`) of the oldest that may be ours; on Linux what is older is skipped
        unread. "" looks at all.
    sessions : frozenset of int
        Session ids whose leaders are ours and not reaped; their members are listed under the session's number.

    Returns
    -------
    dict of str to list of Process
        For each id (or ``str(session)``) what was found; this process itself is never in it.
    """
    if "" in ids:
        raise ValueError("an empty id would match processes that are not ours")
    found: dict[str, list[Process]] = {}
    oldest = int(since) if since and _HAS_PROC else None
    for candidate in processes():
        if candidate.pid <= 1 or candidate.pid == os.getpid() or candidate.is_zombie:
            continue
        if oldest is not None and int(candidate.started) < oldest:
            continue
        if candidate.session in sessions:
            found.setdefault(str(candidate.session), []).append(candidate)
        for owner in ids & ids_of(candidate.pid):
            found.setdefault(owner, []).append(candidate)
    return found


def send_signal(known: Process, signal_number: int) -> bool:
    """Send a signal to this very process, never to another that has its pid by now.

    Returns
    -------
    bool
        Whether it was there to be signalled.
    """
    if known.pid <= 1 or known.pid == os.getpid():
        return False
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            descriptor = os.pidfd_open(known.pid)
            try:
                # The descriptor pins whoever has the pid now; only then is the start time worth comparing.
                if not is_alive(known):
                    return False
                signal.pidfd_send_signal(descriptor, signal_number)
            finally:
                os.close(descriptor)
        else:
            if not is_alive(known):
                return False
            os.kill(known.pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


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
        platform does not tell.
    """
    if not _HAS_PROC:
        return None
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    pids = set()
    for entry in os.listdir("/proc") if inodes else ():
        if entry.isdigit() and inodes & set(_links(f"/proc/{entry}/fd")):
            pids.add(int(entry))
    return frozenset(pids)


def _links(folder: str) -> Iterator[str]:
    with suppress(OSError):
        for entry in os.listdir(folder):
            with suppress(OSError):
                yield os.readlink(f"{folder}/{entry}")


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/net/{table}") as file:
            next(file)
            for line in file:
                values = line.split()
                if values[3] == "0A" and int(values[1].rsplit(":", 1)[1], 16) == port:
                    yield values[9]
