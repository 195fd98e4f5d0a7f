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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from autostop_lab.reaper.groups import RECORD_NAME, Group
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


def _remove_all(folder: Path) -> None:
    """Remove a folder with all in it, also what was made read-only."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for parent, names, _ in os.walk(folder):
            for inner in (Path(parent, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder)


# A plain fork waits for this lock, so that its child finds in order what is changed under it.
_fork_lock = threading.RLock()
# Descriptors that are open for the moment of a launch. The child of a plain fork in that moment must not carry them
# on: with a marker it would look like one of the service's processes, and the other end of a socket would not see
# its end.
_open_for_launch: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open_for_launch:
        os.close(descriptor)
    _open_for_launch.clear()
    _fork_lock.release()


os.register_at_fork(before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_close_in_child)


def open_for_launch(open_it: Callable[[], int]) -> int:
    """Return a descriptor that no fork of this process carries on; `close_for_launch` closes it."""
    with _fork_lock:
        descriptor = open_it()
        _open_for_launch.add(descriptor)
    return descriptor


def close_for_launch(descriptor: int) -> None:
    """Close what `open_for_launch` returned."""
    with _fork_lock:
        _open_for_launch.remove(descriptor)
        os.close(descriptor)


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
        self._group: Group | None = None
        self._is_made = False
        self._is_over = False

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
                self.session.make_folder_for(self.folder)
                self._is_made = True
        return self.folder / name

    @property
    def workdir(self) -> Path:
        """Its private folder (0700), made on first use and removed by `remove`."""
        folder = self._make("work")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder

    def open_marker(self) -> int:
        """Return a descriptor open on its marker; give it to the process as it is, then `close_marker` it."""
        path = self._make(MARKER_NAME)
        return open_for_launch(lambda: os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def close_marker(self, descriptor: int) -> None:
        """Close what `open_marker` returned."""
        close_for_launch(descriptor)

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
        if is_made and self.session.pid == os.getpid():
            if self._group is not None:
                self._group.remove()
            _remove_all(self.folder)
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


def current_session() -> Session:
    """Return this process's session; a forked child gets one of its own."""
    global _current
    with _fork_lock:
        if _current is None or _current.pid != os.getpid():
            _current = Session()
        return _current
