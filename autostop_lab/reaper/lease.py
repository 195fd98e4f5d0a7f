"""What an owner registers: leases, one for each instance, and the estate that they make up together."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

from autostop_lab.reaper.folders import is_id
from autostop_lab.reaper.processes import Process

#: Longest name, in characters; what is longer is no name of a service.
LONGEST_TEXT = 4096
#: Latest time and longest duration, in seconds; there is no machine that runs so long.
LONGEST_S = 1e12
#: Pids are below it everywhere.
MAX_PID = 1 << 31


class LeaseError(ValueError):
    """A lease, or an estate, is not what it should be; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """What is registered for one instance: how to find it, and how to end it.

    Attributes
    ----------
    instance_id : str
        The id that its processes carry.
    name : str
        Name of the service.
    kind : str
        What carries it: ``"command"``, ``"process"``, ``"folder"``.
    pid : int or None
        Its program; None where there is only a folder, or ids to look for.
    started : str
        Start time of the program (`Process.started`): pid and start time tell whose pid it is.
    program_pid : int or None
        The program itself, where `pid` is a shim that stays as its parent; it leads a group and a session of its own.
    stop_signal : int
        The polite signal.
    stop_grace_s : float
        From the polite signal until it is killed.
    kill_timeout_s : float
        From the kill until it is abandoned.
    depends_on : tuple of str
        Instance ids, or names of services of the same `scope`, that have to outlive it.
    scope : str
        Whose names they are: one process may own several services of one name.
    folder : str or None
        Its folder, directly below the session's own.
    """

    instance_id: str
    name: str
    kind: str
    pid: int | None = None
    started: str = ""
    program_pid: int | None = None
    stop_signal: int = signal.SIGTERM
    stop_grace_s: float = 10.0
    kill_timeout_s: float = 2.0
    depends_on: tuple[str, ...] = ()
    scope: str = ""
    folder: str | None = None

    @property
    def group(self) -> int | None:
        """Number of the program's process group and session, which it leads."""
        return self.pid if self.program_pid is None else self.program_pid

    def as_json(self) -> dict[str, Any]:
        """Return it as a value for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Lease:
        """Read it again.

        Raises
        ------
        LeaseError
            It is not a lease.
        """
        if not isinstance(value, dict):
            raise LeaseError("a lease has to be an object")
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise LeaseError(f"a lease has no field {unknown[0]!r:.60}")
        depends_on = value.get("depends_on", [])
        if not isinstance(depends_on, list | tuple) or not all(_is_text(each) for each in depends_on):
            raise LeaseError("depends_on has to be a list of names")
        for name in ("instance_id", "name", "kind"):
            if not _is_text(value.get(name)):
                raise LeaseError(f"{name} has to be a text")
        for name in ("started", "scope"):
            if not _is_text(value.get(name, "")):
                raise LeaseError(f"{name} has to be a text")
        for name in ("stop_grace_s", "kill_timeout_s"):
            if not is_time(value.get(name, 0.0)):
                raise LeaseError(f"{name} has to be a number of seconds")
        for name in ("pid", "program_pid"):
            if not _is_int(value.get(name)) and value.get(name) is not None:
                raise LeaseError(f"{name} has to be a number")
        if not _is_int(value.get("stop_signal", signal.SIGTERM)):
            raise LeaseError("stop_signal has to be a number")
        if not _is_text(value.get("folder")) and value.get("folder") is not None:
            raise LeaseError("folder has to be a path")
        return cls(**{**value, "depends_on": tuple(depends_on)})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_time(value: object) -> TypeGuard[float]:
    """Return whether a value from JSON is a time or duration in seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LONGEST_S


@dataclass(kw_only=True)
class Estate:
    """What one session has registered: what is to be ended when its owner is gone.

    Attributes
    ----------
    session_id, path : str
        The session's own id, and the path of ids that it lives in.
    folder : Path
        The session's folder.
    owner : Process
        The process that owns it.
    boot_id : str
        Of which run of the machine pids and times are.
    place : str
        Where the owner came from: notebook or script.
    leases : dict of str to Lease
        By instance id.
    asked_at : dict of str to float
        When the owner has sent the polite signal already, in seconds of the monotonic clock, by instance id.
    """

    session_id: str
    path: str
    folder: Path
    owner: Process
    boot_id: str
    place: str = ""
    leases: dict[str, Lease] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)


def process_from_json(value: object, what: str) -> Process:
    """Read the identity of a process; anything else raises `LeaseError`, which names it `what`.

    An owner may have pid 1: it is what a container begins with.
    """
    if not isinstance(value, Mapping):
        raise LeaseError(f"{what} has to be an object")
    pid, started = value.get("pid"), value.get("started")
    if not isinstance(pid, int) or not 1 <= pid < MAX_PID or not isinstance(started, str) or not started.isdigit():
        raise LeaseError(f"{what} has to have a pid and a start time")
    return identity(pid, started)


def identity(pid: int, started: str) -> Process:
    """Return what equals the process that has had this pid since then."""
    return Process(pid, started, parent_pid=0, group=0, session=0, is_zombie=False)


def session_problem(estate: Estate) -> str | None:
    """Return in words why nothing may be cleaned by what an estate says of its session; None if it may."""
    if not is_id(estate.session_id):
        return f"{estate.session_id!r:.60} is not the id of a session"
    if estate.folder.name != estate.session_id:
        return f"session {estate.session_id} does not belong into {estate.folder}"
    return None


def lease_problem(lease: Lease, estate: Estate, *, me: Process, owner: Process, seen: Process | None) -> str | None:
    """Return in words why a lease is refused; None if it is good.

    Parameters
    ----------
    lease : Lease
        What somebody wants to register.
    estate : Estate
        For which session.
    me, owner : Process
        The reaper (or sweeper), and the owner, as they are now.
    seen : Process or None
        Who has the lease's pid now.
    """
    return _id_problem(lease) or _pid_problem(lease, me, owner, seen) or _folder_problem(lease, estate)


def _id_problem(lease: Lease) -> str | None:
    if not is_id(lease.instance_id):
        return f"{lease.instance_id!r:.60} is not the id of an instance"
    if not 1 <= lease.stop_signal < signal.NSIG:
        return f"{lease.stop_signal} is not the number of a signal"
    return None


def _pid_problem(lease: Lease, me: Process, owner: Process, seen: Process | None) -> str | None:
    pid = lease.pid
    if pid is None:
        return None
    if not 1 < pid < MAX_PID:
        return f"pid {pid!s:.20} can never be a service"
    if not lease.started.isdigit():
        return f"pid {pid} came without its start time"
    if pid in (me.pid, owner.pid):
        return f"pid {pid} is {'the reaper' if pid == me.pid else 'the owner'} itself"
    if seen is None:
        return None  # it has ended by now: then there is nobody to hit, and what it left is found by its id
    if seen.started != lease.started:
        return f"pid {pid} belongs to another process by now"
    if seen.group in (me.group, owner.group):
        return f"pid {pid} is in the process group of {'the reaper' if seen.group == me.group else 'its owner'}"
    return None


def _folder_problem(lease: Lease, estate: Estate) -> str | None:
    if lease.folder is None:
        return None
    folder = Path(lease.folder)
    if not folder.is_absolute() or folder.parent != estate.folder or folder.name != lease.instance_id:
        return f"folder {lease.folder!r:.200} is not the instance's folder in {estate.folder}"
    if os.path.normpath(lease.folder) != lease.folder:
        return f"folder {lease.folder!r:.200} is not a plain path"
    if folder.is_symlink():
        return f"folder {lease.folder!r:.200} is a link"
    return None
