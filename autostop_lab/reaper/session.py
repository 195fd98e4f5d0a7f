"""The session: this process as the owner of services, with its id, its folder and its instances.

An instance is one life of one service. Its folder ``<temp>/autostop_lab-<uid>/<session>/<instance>/`` (0700) holds
the marker file that its processes inherit open, and its workdir. Folders are made when first needed and removed
with the instance; the session's own goes with the last of them.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from autostop_lab.reaper import forks
from autostop_lab.reaper.folders import UnsafeFolderError as UnsafeFolderError
from autostop_lab.reaper.folders import make_private_under, remove_all, root_in
from autostop_lab.reaper.groups import RECORD_NAME, Group
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.place import current_place
from autostop_lab.reaper.processes import MARKER_NAME, SESSION_VARIABLE


def _new_id(prefix: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', prefix)[:32]}-{secrets.token_hex(5)}"


class Keeper(Protocol):
    """What a session asks of its guard."""

    def begin(self) -> None:
        """Start the reaper if there is none, and do not wait for it."""

    def ensure(self) -> None:
        """Start the reaper if there is none, and return when it guards the session."""

    def register(self, lease: Lease, output_fd: int | None = None) -> None:
        """Register a lease, and return when the reaper has it."""

    def release(self, instance_id: str, *, only_folder: bool = False) -> None:
        """Take a lease back."""


class Instance:
    """One life of one service, as the owner of processes and files.

    Parameters
    ----------
    session : Session
        Whose it is.
    name : str
        Name of the service, for a readable id.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.id = _new_id(name)
        self.name = name
        self.folder = session.folder / self.id
        self._lock = threading.Lock()
        self._group: Group | None = None
        self._is_made = False
        self._is_over = False
        self._is_guarded = False

    @property
    def environment(self) -> dict[str, str]:
        """The variable that its processes carry."""
        return {SESSION_VARIABLE: f"{self.session.path}/{self.id}"}

    def _make(self, name: str) -> Path:
        """Make its folder if need be, and return the path of `name` in it."""
        with self._lock:
            if self._is_over:
                raise FileNotFoundError(f"this life of the service is over, and {self.folder} is removed")
            if not self._is_made:
                if self.session.guard is not None:
                    self.session.guard.begin()
                self.session.make_folder_for(self.folder)
                self._is_made = True
        return self.folder / name

    @property
    def workdir(self) -> Path:
        """Its private folder (0700), made on first use and removed by `remove`, or by the reaper if need be."""
        self._register_folder()
        folder = self._make("work")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder

    def open_marker(self) -> int:
        """Return a descriptor open on its marker; give it to the process as it is, then `close_marker` it."""
        path = self._make(MARKER_NAME)
        # A stranger may read it for a reason of its own; nobody but ours has it open for writing alone.
        return forks.opened(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    @staticmethod
    def close_marker(descriptor: int) -> None:
        """Close what `open_marker` returned."""
        forks.close(descriptor)

    def make_group(self) -> Group:
        """Return its control group, made on first use and removed by `remove`.

        Raises
        ------
        NoGroupError, OSError
            None can be made.
        """
        if self._group is None:
            group = Group.below_own(self.environment[SESSION_VARIABLE])
            self._make(RECORD_NAME).write_text(str(group.path))
            self._group = group
        self._group.make()
        return self._group

    def _register_folder(self) -> None:
        """Have the reaper know the folder before there is one."""
        guard = self.session.guard
        if guard is None or self._is_guarded or self._is_over:
            return
        guard.register(Lease(instance_id=self.id, name=self.name, kind="folder", folder=str(self.folder)))
        with self._lock:
            self._is_guarded, is_late = True, self._is_over
        if is_late:
            guard.release(self.id, only_folder=True)

    @property
    def has_folder(self) -> bool:
        """Whether there is something for `remove` to do."""
        return self._is_made

    def remove(self) -> None:
        """Remove its folder with all in it, and its control group, for good.

        It may be called twice, and does nothing in a forked child.

        Raises
        ------
        OSError
            Something in it cannot be removed.
        """
        with self._lock:
            is_made, self._is_made, self._is_over = self._is_made, False, True
        if self.session.pid != os.getpid():
            return
        if is_made:
            if self._group is not None:
                self._group.remove()
            remove_all(self.folder)
            self.session.remove_empty_folders()
        if self._is_guarded and self.session.guard is not None:
            self.session.guard.release(self.id, only_folder=True)


class Session:
    """One process as an owner of services.

    Attributes
    ----------
    id : str
        Its own id.
    path : str
        ``outer/inner``: the ids of the sessions and instances that this process lives in, then its own.
    folder : Path
        Its folder.
    place : str
        Notebook or script that it belongs to. A script's is not known any more while the interpreter ends.
    guard : Keeper or None
        Who sees to it that a reaper knows what it owns; None if nobody does.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.id = _new_id("session")
        outer = os.environ.get(SESSION_VARIABLE, "")
        self.path = f"{outer}/{self.id}" if outer else self.id
        self._root = root_in(tempfile.gettempdir())
        self.folder = self._root / self.id
        self.place = current_place()
        self.guard: Keeper | None = None
        self._lock = threading.Lock()

    def new_instance(self, name: str) -> Instance:
        """Return a new instance of the service `name`; nothing is made on disk yet."""
        return Instance(self, name)

    def make_folder_for(self, instance_folder: Path) -> None:
        """Make the folder of an instance, and those above it."""
        with self._lock:
            make_private_under(self._root, self.folder, instance_folder)

    def remove_empty_folders(self) -> None:
        """Remove the session's folder and the root, where they are empty."""
        with self._lock, suppress(OSError):
            self.folder.rmdir()
            self._root.rmdir()


_current: Session | None = None


def current_session() -> Session:
    """Return this process's session; a forked child gets one of its own."""
    global _current
    with forks.fork_lock:
        if _current is None or _current.pid != os.getpid():
            _current = Session()
        return _current


def end_session(session: Session) -> None:
    """See to it that this process begins a new session with the next use."""
    global _current
    with forks.fork_lock:
        if _current is session:
            _current = None
