"""What can be seen of this machine: `Facts`, and the small looks that collect them."""

from __future__ import annotations

import os
import platform
import resource
import select
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from autostop_lab import __version__
from autostop_lab.reaper.folders import make_private, root_in
from autostop_lab.reaper.processes import listener_pids, open_pidfd
from autostop_lab.reaper.sweep import sessions
from autostop_lab.services.containment import CHOICES, problem_with

#: Port on which a JobManager listens if it is not told otherwise.
JOBMANAGER_PORT = 19001
#: Packages whose versions matter, by the names that they are installed by.
PACKAGES = ("ray", "ipykernel", "ipywidgets", "jupyterlab", "nest-asyncio", "nest-asyncio2")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen of this machine; the defaults are a good one's.

    Attributes
    ----------
    python, executable, package, system : str
        Versions of Python, of this package and of the system; where the interpreter is, "" if that is not known.
    problems_of_containment : mapping of str to str
        Why each kind does not work, "" if it does.
    death_is_seen_by : str
        ``"pidfd"``, ``"kqueue"`` or ``"poll"``.
    open_files, processes : int or None
        How many this process, and this user, may have; None without a limit.
    folder, folder_problem : str
        Where folders of sessions are made, and why that cannot be, "" if it can.
    free_bytes, free_memory_bytes : int or None
        Room there, and in ``/dev/shm``; None where that cannot be told.
    live_sessions, dead_sessions : int
        Sessions on disk whose owner lives, and those that wait to be cleaned.
    versions : mapping of str to str
        Of those `PACKAGES` that are installed.
    loaded_nest_asyncio : bool
        Whether the old nest_asyncio is loaded in this process.
    port_taken_by : str or None
        Who listens on the JobManager's port, as far as can be seen; None if it is free.
    """

    python: str = "3.11.7"
    executable: str = "/usr/bin/python3"
    package: str = __version__
    system: str = "Linux 6.1 x86_64"
    problems_of_containment: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(CHOICES[1:], ""))
    death_is_seen_by: str = "pidfd"
    open_files: int | None = None
    processes: int | None = None
    folder: str = "/tmp/autostop_lab-1000"
    folder_problem: str = ""
    free_bytes: int | None = 1 << 40
    free_memory_bytes: int | None = 1 << 40
    live_sessions: int = 0
    dead_sessions: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    loaded_nest_asyncio: bool = False
    port_taken_by: str | None = None

    @property
    def can_promise(self) -> bool:
        """Whether anything can be promised at all."""
        return not self.folder_problem


def look() -> Facts:
    """Look at this machine; takes some hundredths of a second, and leaves nothing behind."""
    folder, problem = _folder()
    seen = [] if problem else sessions()
    return Facts(
        python=platform.python_version(),
        executable=sys.executable or "",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        problems_of_containment={kind: problem_with(kind) for kind in CHOICES[1:]},
        death_is_seen_by=_watch(),
        open_files=_limit(resource.RLIMIT_NOFILE),
        processes=_limit(resource.RLIMIT_NPROC),
        folder=folder,
        folder_problem=problem,
        free_bytes=None if problem else _free(os.path.dirname(folder)),
        free_memory_bytes=_free("/dev/shm"),
        live_sessions=sum(session.is_alive for session in seen),
        dead_sessions=sum(not session.is_alive and not session.is_being_cleaned for session in seen),
        versions=dict(_versions()),
        loaded_nest_asyncio="nest_asyncio" in sys.modules,
        port_taken_by=_taker(JOBMANAGER_PORT),
    )


def _folder() -> tuple[str, str]:
    """Return where folders of sessions are made, and why that cannot be."""
    try:
        root = root_in(tempfile.gettempdir())
        is_new = not os.path.lexists(root)
        make_private(root)
        if is_new:
            with suppress(OSError):  # a session has come in between
                root.rmdir()
    except OSError as error:
        return "", str(error)
    return str(root), ""


def _watch() -> str:
    descriptor = open_pidfd(os.getpid())
    if descriptor is not None:
        os.close(descriptor)
        return "pidfd"
    return "kqueue" if hasattr(select, "kqueue") else "poll"


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _taker(port: int) -> str | None:
    """Return who listens on a port, "" if that cannot be seen; None if nobody does."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return None
    pids = sorted(listener_pids(port) or ())
    return ", ".join(f"pid {pid}{_named(pid)}" for pid in pids)


def _named(pid: int) -> str:
    import psutil

    try:
        return f" ({psutil.Process(pid).name()})"
    except psutil.Error:
        return ""
