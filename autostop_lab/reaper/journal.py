"""The journal of a session: its estate on disk, for the case that owner and reaper die together; and its lock.

The reaper writes the journal before it says yes to a request, and holds the lock for its life; so does a sweeper
while it cleans. The lock is a record lock: a forked child does not inherit it, and the process that holds it
must never open that file a second time, since closing any descriptor of it would let go of the lock.

A journal is believed only if it is a plain file of this user that nobody else can read or write, in a folder for
which the same holds. What cannot be believed or read is set aside: nothing is signalled or removed on its word.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any

from autostop_lab.reaper.folders import private_problem
from autostop_lab.reaper.lease import Estate, Lease, LeaseError, is_time, process_from_json, session_problem
from autostop_lab.reaper.processes import Process, boot_id, process

JOURNAL_NAME = "journal.json"
LOCK_NAME = "lock"
SET_ASIDE_NAME = "journal.set-aside"
# How the system says who holds a lock: the layout of its answer, and where in that the kind of lock stands.
_FLOCK = ("qqihh", 3) if sys.platform == "darwin" else ("hhqqi4x", 0)
#: What the journals of this version of the package look like.
SCHEMA = 1
#: A longer one is no journal, in bytes.
MAX_JOURNAL_BYTES = 1 << 27


class JournalError(Exception):
    """A journal cannot be believed or read; the text says why."""


class Journal:
    """Writes the journal of one session, all of it each time.

    Parameters
    ----------
    estate : Estate
        What is written; it may change between writes.
    """

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._path = estate.folder / JOURNAL_NAME
        self._texts: dict[str, str] = {}  # of leases: with many of them, writing each anew would be slow
        for instance_id in estate.leases:
            self.note(instance_id)

    def note(self, instance_id: str) -> None:
        """Take up that a lease has come, changed or gone."""
        lease = self._estate.leases.get(instance_id)
        if lease is None:
            self._texts.pop(instance_id, None)
        else:
            asked_at = self._estate.asked_at.get(instance_id)
            self._texts[instance_id] = json.dumps({**lease.as_json(), "asked_at": asked_at}, separators=(",", ":"))

    @property
    def is_lost(self) -> bool:
        """Whether somebody has removed it."""
        return not self._path.exists()

    def write(self) -> None:
        """Write it, in one step for whoever reads it; `OSError` if that fails, and then the old one stays."""
        estate = self._estate
        head = {
            "schema": SCHEMA,
            "session_id": estate.session_id,
            "path": estate.path,
            "boot_id": estate.boot_id,
            "owner": {"pid": estate.owner.pid, "started": estate.owner.started},
            "place": estate.place,
        }
        text = f'{json.dumps(head)[:-1]}, "leases": [{",".join(self._texts.values())}]}}'
        write_private(self._path, text)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, in one step for whoever reads it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def read_private(path: Path) -> str:
    """Read a file that only this user can have written.

    Raises
    ------
    FileNotFoundError
        There is none.
    JournalError
        It cannot be believed.
    """
    while (text := _read_private_once(path)) is None:
        pass  # it was replaced while we opened it
    return text


def _read_private_once(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, above all
        raise JournalError(f"{path} cannot be opened as a plain file: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if found.st_nlink == 0:
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise JournalError(f"{path} is not a plain file")
        if found.st_uid != os.getuid():
            raise JournalError(f"{path} belongs to somebody else")
        if stat.S_IMODE(found.st_mode) != 0o600:
            raise JournalError(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, not 0600")
        if found.st_size > MAX_JOURNAL_BYTES:
            raise JournalError(f"{path} has {found.st_size} bytes")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read().decode()
    except UnicodeDecodeError:
        raise JournalError(f"{path} is not text") from None
    finally:
        os.close(descriptor)


def read(folder: Path) -> Estate:
    """Read the journal of a session.

    Parameters
    ----------
    folder : Path
        The session's folder.

    Returns
    -------
    Estate
        What it names; its leases still have to be checked against the processes that there are now.

    Raises
    ------
    FileNotFoundError
        There is none.
    JournalError
        It cannot be believed or read.
    """
    if (problem := private_problem(folder)) is not None:
        raise JournalError(problem)
    path = folder / JOURNAL_NAME
    try:
        value = json.loads(read_private(path))
        return _estate_of(value, folder)
    except LeaseError as error:
        raise JournalError(f"{path} is broken: {error}") from error
    except (ValueError, RecursionError) as error:
        raise JournalError(f"{path} is broken: it is not JSON") from error


def _estate_of(value: Any, folder: Path) -> Estate:
    if not isinstance(value, dict):
        raise LeaseError("it is not an object")
    if value.get("schema") != SCHEMA:
        raise LeaseError(f"its schema is {value.get('schema')!r:.60}, not {SCHEMA}")
    texts = [value.get(name) for name in ("session_id", "path", "boot_id", "place")]
    leases = value.get("leases")
    if not all(isinstance(text, str) for text in texts) or not isinstance(leases, list):
        raise LeaseError("a field is missing or is not what it should be")
    session_id, path, boot, place = (str(text) for text in texts)
    estate = Estate(
        session_id=session_id,
        path=path,
        folder=folder,
        owner=process_from_json(value.get("owner"), "an owner"),
        boot_id=boot,
        place=place,
    )
    if (problem := session_problem(estate)) is not None:
        raise LeaseError(problem)
    for each in leases:
        asked_at = each.pop("asked_at", None) if isinstance(each, dict) else None
        lease = Lease.from_json(each)
        estate.leases[lease.instance_id] = lease
        if is_time(asked_at):
            estate.asked_at[lease.instance_id] = float(asked_at)
    return estate


def is_of_this_boot(estate: Estate) -> bool:
    """Return whether pids and times of an estate are of this run of the machine."""
    return estate.boot_id == boot_id()


def set_aside(folder: Path) -> None:
    """Rename a journal that cannot be believed or read; a link is renamed itself."""
    os.rename(folder / JOURNAL_NAME, folder / SET_ASIDE_NAME)


class SessionLock:
    """The lock of one session, held until `release`.

    Parameters
    ----------
    folder : Path
        The session's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def take(self, *, timeout_s: float = 0.0, create: bool = True) -> bool:
        """Try to take it for so long; return whether it is ours now.

        Raises
        ------
        OSError
            The file cannot be opened; `FileNotFoundError` if it is not there and was not to be created.
        """
        deadline = time.monotonic() + timeout_s
        while not self._try(create):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def _try(self, create: bool) -> bool:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file: then this is the lock of nothing.
            if os.path.samestat(os.fstat(descriptor), os.stat(self._path, follow_symlinks=False)):
                self._descriptor = descriptor
                return True
        except (BlockingIOError, PermissionError, FileNotFoundError):
            pass
        os.close(descriptor)
        return False

    def holder(self) -> Process | None:
        """Return who holds it, this process aside; None if nobody does, or that cannot be told."""
        layout, place = _FLOCK
        question = [0] * place + [fcntl.F_WRLCK] + [0] * (4 - place)
        with open(self._path, "rb+", opener=lambda path, _: os.open(path, os.O_RDWR | os.O_NOFOLLOW)) as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *question))
        values = struct.unpack(layout, answer)
        pid = values[4] if place == 0 else values[2]
        return process(pid) if values[place] != fcntl.F_UNLCK and pid > 0 else None

    def release(self) -> None:
        """Let go of it; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
