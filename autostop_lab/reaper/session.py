"""The session: this process as the owner of services, with its id, its folder and its instances.

An instance is one life of one service. Its folder ``<temp>/autostop_lab-<uid>/<session>/<instance>/`` (0700) holds
the marker file that its processes inherit open, and its workdir. Folders are made when first needed and removed
with the instance; the session's own goes with the last of them.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from autostop_lab.reaper.processes import MARKER_NAME, SESSION_VARIABLE


class UnsafeFolderError(OSError):
    """The folder for sessions belongs to somebody else or is open to others."""


def _new_id(prefix: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', prefix)[:32]}-{secrets.token_hex(5)}"


def _make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or check that it is one."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnsafeFolderError(
            f"{folder} is not a folder that belongs to you alone (0700). Remove it, or set TMPDIR to another place."
        )


# Descriptors of markers that are open for the moment of a launch. A plain fork in that moment must not carry
# them on: the child would look like one of the service's processes.
_open_markers: set[int] = set()


def _close_markers_in_child() -> None:
    for descriptor in tuple(_open_markers):
        with suppress(OSError):
            os.close(descriptor)
    _open_markers.clear()


os.register_at_fork(after_in_child=_close_markers_in_child)


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
        self.folder = session.folder / self.id
        self._lock = threading.Lock()
        self._is_made = False

    @property
    def environment(self) -> dict[str, str]:
        """The variable that its processes carry."""
        return {SESSION_VARIABLE: f"{self.session.path}/{self.id}"}

    def _make(self) -> None:
        with self._lock:
            if not self._is_made:
                self.session.make_folder_for(self.folder)
                self._is_made = True

    @property
    def workdir(self) -> Path:
        """Its private folder (0700), made on first use and removed by `remove`."""
        self._make()
        folder = self.folder / "work"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder

    def open_marker(self) -> int:
        """Return a descriptor open on its marker; give it to the process as it is, then `close_marker` it."""
        self._make()
        descriptor = os.open(self.folder / MARKER_NAME, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _open_markers.add(descriptor)
        return descriptor

    def close_marker(self, descriptor: int) -> None:
        """Close what `open_marker` returned."""
        _open_markers.discard(descriptor)
        os.close(descriptor)

    def remove(self) -> None:
        """Remove its folder with all in it; may be called twice."""
        with self._lock:
            if self._is_made:
                self._is_made = False
                shutil.rmtree(self.folder, ignore_errors=True)
                self.session.remove_empty_folders()


class Session:
    """One process as an owner of services.

    Attributes
    ----------
    id : str
        Its own id.
    path : str
        ``outer/inner``: the ids of the sessions and instances that this process lives in, then its own.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.id = _new_id("session")
        outer = os.environ.get(SESSION_VARIABLE, "")
        self.path = f"{outer}/{self.id}" if outer else self.id
        self._root = Path(tempfile.gettempdir()) / f"autostop_lab-{os.getuid()}"
        self.folder = self._root / self.id
        self._lock = threading.Lock()

    def new_instance(self, name: str) -> Instance:
        """Return a new instance of the service `name`; nothing is made on disk yet."""
        return Instance(self, name)

    def make_folder_for(self, instance_folder: Path) -> None:
        """Make the folder of an instance, and those above it."""
        with self._lock:
            for attempt in range(10):
                try:
                    for folder in (self._root, self.folder, instance_folder):
                        _make_private(folder)
                except FileNotFoundError:  # another session of this user removed the empty root in between
                    if attempt == 9:
                        raise
                else:
                    return

    def remove_empty_folders(self) -> None:
        """Remove the session's folder and the root, where they are empty."""
        with self._lock, suppress(OSError):
            self.folder.rmdir()
            self._root.rmdir()


_current: Session | None = None
_current_lock = threading.Lock()


def current_session() -> Session:
    """Return this process's session; a forked child gets one of its own."""
    global _current
    with _current_lock:
        if _current is None or _current.pid != os.getpid():
            _current = Session()
        return _current
