"""The switchboard: the Unix socket of this session, where processes of ours find it.

It is open as long as somebody needs it. Its folder belongs to this user alone (0700), and the user at the other end
of each connection is looked at as well.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from autostop_lab.origin import thread_name
from autostop_lab.reaper.folders import make_private_under, short_folder
from autostop_lab.reaper.guard import GuardError, current_guard
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.session import Session, current_session
from autostop_lab.services.scarcity import is_scarcity
from autostop_lab.services.wire import Connection

#: The longest path of a Unix socket on any system, in bytes.
LONGEST_PATH_BYTES = 103
#: Pause after a connection that could not be taken for want of a descriptor, in seconds: it goes on knocking.
SCARCE_PAUSE_S = 0.05


def peer_uid(end: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    if hasattr(socket, "SO_PEERCRED"):
        uid: int = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        return uid
    local, peer_credentials = 0, 1  # of BSD and macOS: struct xucred, whose second word is the user
    uid = struct.unpack_from("=2I", end.getsockopt(local, peer_credentials, 76))[1]
    return uid


#: Who answers on connections that begin with such a head, in a thread of each connection.
ANSWERS: dict[bytes, Callable[[Connection], None]] = {}
#: How services that live in processes of their own find what they depend on, by their instances.
finders: dict[str, Callable[[str], Any]] = {}


class Switchboard:
    """Takes connections on the session's socket; safe to use from any thread.

    Parameters
    ----------
    session : Session
        Whose it is.

    Attributes
    ----------
    address : str
        Path of the socket, the same whenever it is open.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._expected: dict[str, Callable[[Connection], None]] = {}
        self._users = 0
        self._listener: socket.socket | None = None
        self._wake: socket.socket | None = None
        self._id = session.new_instance("s").id
        self._folder = self._socket_folder = session.folder / self._id
        if len(os.fsencode(self._folder / "s")) > LONGEST_PATH_BYTES:
            self._socket_folder = short_folder(self._id)
        self.address = str(self._socket_folder / "s")

    # -- who needs it --------------------------------------------------------------------------------------

    def acquire(self) -> str:
        """Keep it open until `release`; return its address."""
        with self._lock:
            self._users += 1
            if self._listener is None:
                try:
                    self._open()
                except BaseException:
                    self._users -= 1
                    raise
            return self.address

    def release(self) -> None:
        """Let it close when nobody else needs it."""
        if self._pid != os.getpid():  # a copy of it, in a forked child
            return
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._wake is not None:
                self._wake.close()
                self._wake = self._listener = None
                self._remove()

    def expect(self, instance_id: str, on_arrival: Callable[[Connection], None]) -> None:
        """Hand the connection of a host that checks in to `on_arrival`, in some thread."""
        with self._lock:
            self._expected[instance_id] = on_arrival

    def forget(self, instance_id: str) -> None:
        """Expect that host no more."""
        with self._lock:
            self._expected.pop(instance_id, None)

    # -- the socket ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._session.make_folder_for(self._folder)
        threading.Thread(target=self._register, name=thread_name("switchboard: its folder"), daemon=True).start()
        if self._socket_folder != self._folder:
            make_private_under(self._socket_folder)
        path = Path(self.address)
        listener = socket.socket(socket.AF_UNIX)
        try:
            with suppress(FileNotFoundError):
                path.unlink()
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(128)
            listener.setblocking(False)
            wakes, self._wake = socket.socketpair()
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        threading.Thread(
            target=self._work, args=(listener, wakes), name=thread_name("switchboard"), daemon=True
        ).start()

    def _remove(self) -> None:
        with suppress(OSError):
            os.unlink(self.address)
            for folder in dict.fromkeys((self._socket_folder, self._folder)):
                folder.rmdir()
        self._session.remove_empty_folders()
        current_guard().release(self._id, only_folder=True)

    def _register(self) -> None:
        """Have the reaper know the folder; who waits for a host, or a handle, need not wait for that."""
        guard = current_guard()
        lease = Lease(instance_id=self._id, name="switchboard", kind="folder", folder=str(self._folder))
        with suppress(GuardError):  # what matters is registered by itself, and says it
            guard.register(lease)
        with self._lock:
            is_late = self._listener is None
        if is_late:
            guard.release(self._id, only_folder=True)

    def close_in_child(self) -> None:
        """Close a forked child's copies: it must not seem to be this session."""
        for end in (self._listener, self._wake):
            if end is not None:
                end.close()

    def _work(self, listener: socket.socket, wakes: socket.socket) -> None:
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        poll.register(wakes.fileno(), select.POLLIN)
        with listener, wakes:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if wakes.fileno() in ready:
                    return
                try:
                    end, _ = listener.accept()
                except OSError as error:  # it has gone again, or no descriptor is left
                    if is_scarcity(error):
                        time.sleep(SCARCE_PAUSE_S)
                    continue
                self._receive(end)

    def _receive(self, end: socket.socket) -> None:
        end.setblocking(True)
        if peer_uid(end) != os.getuid():
            end.close()
            return
        connection = Connection(end)
        threading.Thread(
            target=self._answer, args=(connection,), name=thread_name("switchboard: a connection"), daemon=True
        ).start()

    def _answer(self, connection: Connection) -> None:
        try:
            head, body, _ = connection.receive()
        except (EOFError, OSError):
            return
        if head == b"host":
            with self._lock:
                on_arrival = self._expected.pop(bytes(body).decode(errors="replace"), None)
            if on_arrival is not None:
                on_arrival(connection)
        elif head in ANSWERS:
            ANSWERS[head](connection)


_current: Switchboard | None = None
_lock = threading.Lock()


def switchboard() -> Switchboard:
    """Return this process's switchboard; a forked child gets one of its own."""
    global _current
    with _lock:
        session = current_session()
        if _current is None or _current._session is not session:
            _current = Switchboard(session)
        return _current


def inherited_address() -> str:
    """Return the address of the switchboard that this forked child's parent has; "" if it had none."""
    return _current.address if _current is not None and _current._pid != os.getpid() else ""


def _close_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _current is not None:
        _current.close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
