"""Messages over a stream socket between processes of one machine.

A message is a head (small, always read), a body and any number of buffers. Buffers are read into memory of their own
and are never copied. One side sends and then waits, the other receives and then answers.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

#: Bytes of head, number of buffers, bytes of body.
_SIZES = struct.Struct("<IIQ")
#: What is read at once, in bytes: a message without buffers mostly comes with one read.
READ_BYTES = 1 << 16
#: A larger buffer is read into pages that nobody has filled with zeros first.
LARGEST_BYTEARRAY = 1 << 20
#: These pages are not shared with forked children.
_PAGES = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

Body = bytes | bytearray | memoryview


class LostError(Exception):
    """The other side is gone.

    Parameters
    ----------
    was_sent : bool
        Whether a whole message may have reached it.
    """

    def __init__(self, *, was_sent: bool) -> None:
        super().__init__()
        self.was_sent = was_sent


class _End(socket.socket):
    """Closes itself with its last reference, without a warning: it may be lost to an interrupt."""

    def __del__(self) -> None:
        self.close()


class Connection:
    """One end of a stream socket, owned by one thread at a time; it is closed with its last reference.

    Parameters
    ----------
    end : socket.socket
        A connected, blocking stream socket; it is taken over.

    Attributes
    ----------
    socket : socket.socket
        The same, for what is no message.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = self._socket = _End(fileno=end.detach())
        self._rest = b""
        _connections.add(self)

    def send(self, head: bytes, body: Body = b"", buffers: Sequence[memoryview] = ()) -> None:
        """Send one message.

        Raises
        ------
        OSError
            The other side is gone.
        """
        start = _SIZES.pack(len(head), len(buffers), len(body))
        if not buffers and len(body) < READ_BYTES:
            self._socket.sendall(b"".join((start, head, body)))
            return
        sizes = struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
        self._send_all([memoryview(b"".join((start, sizes, head))), memoryview(body), *buffers])

    def _send_all(self, parts: list[memoryview]) -> None:
        while parts:
            sent = self._socket.sendmsg(parts)
            while parts and sent >= parts[0].nbytes:
                sent -= parts.pop(0).nbytes
            if sent:
                parts[0] = parts[0].cast("B")[sent:]

    def receive(self) -> tuple[bytes, bytes, list[Any]]:
        """Return head, body and buffers of the next message.

        Raises
        ------
        EOFError, OSError
            The other side is gone.
        """
        data = self._rest or self._read()
        while len(data) < _SIZES.size:
            data += self._read()
        head_size, count, body_size = _SIZES.unpack_from(data)
        body_at = _SIZES.size + head_size
        if not count and len(data) == body_at + body_size:
            self._rest = b""
            return data[_SIZES.size : body_at], data[body_at:], []
        self._rest = data[_SIZES.size :]
        sizes = struct.unpack(f"<{count}Q", self._take(8 * count)) if count else ()
        head, body = bytes(self._take(head_size)), bytes(self._take(body_size))
        return head, body, [self._take(size) for size in sizes]

    def wake_up(self, tick_s: float) -> None:
        """Wake up so often while something is received: only then Python acts on a signal that another thread took."""
        tick = struct.pack("ll", int(tick_s), int(tick_s % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)

    def _read(self) -> bytes:
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise EOFError
            return data

    def _take(self, size: int) -> Any:
        """Return the next `size` bytes, in memory of their own that may be written to."""
        taken: Any = bytearray(size) if size <= LARGEST_BYTEARRAY else mmap.mmap(-1, size, _PAGES)
        at = min(size, len(self._rest))
        taken[:at] = self._rest[:at]
        self._rest = self._rest[at:]
        view = memoryview(taken)
        while at < size:
            try:
                count = self._socket.recv_into(view[at:])
            except BlockingIOError:
                continue
            if not count:
                raise EOFError
            at += count
        return taken

    def exchange(
        self, head: bytes, body: Body = b"", buffers: Sequence[memoryview] = ()
    ) -> tuple[bytes, bytes, list[Any]]:
        """Send a message and return the answer.

        Raises
        ------
        LostError
            The other side is gone.
        """
        try:
            self.send(head, body, buffers)
        except OSError as error:
            raise LostError(was_sent=False) from error
        try:
            return self.receive()
        except (EOFError, OSError) as error:
            raise LostError(was_sent=True) from error

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """Whether something of a further message was read already."""
        return bool(self._rest)

    def cut(self) -> None:
        """Let whoever waits at either end see its end; may be called from any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; may be called twice."""
        self._socket.close()


_connections: WeakSet[Connection] = WeakSet()


def _close_in_child() -> None:
    # A forked child must not speak on its parent's connections, nor hold them open.
    for connection in tuple(_connections):
        connection.close()


os.register_at_fork(after_in_child=_close_in_child)


def connection_pair() -> tuple[Connection, socket.socket]:
    """Return a new connection, and the socket of its other end, to be passed to another process."""
    ours, theirs = socket.socketpair()
    return Connection(ours), theirs


def send_socket(through: socket.socket, passed: socket.socket) -> None:
    """Pass a socket to the process at the other end of `through`, and close it here.

    Raises
    ------
    OSError
        That process is gone.
    """
    with passed:
        socket.send_fds(through, [b"+"], [passed.fileno()])


def receive_socket(through: socket.socket) -> socket.socket | None:
    """Return a socket that was passed through another one; None when the other side is gone."""
    data, descriptors, _, _ = socket.recv_fds(through, 1, 1)
    if not data:
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        return socket.socket(fileno=descriptor)
    raise OSError("a socket was announced, and none came: no descriptor was left")
