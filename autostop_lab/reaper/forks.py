"""Descriptors that the child of a plain fork must not keep.

It would carry them on for as long as it lives: a marker would make it look like a service's process, and the link to
the reaper would make the reaper take it for the living owner. (Descriptors are not inherited through exec.)
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

#: A plain fork waits for this lock, so that its child finds in order what is changed under it.
fork_lock = threading.RLock()
_open: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()
    fork_lock.release()


os.register_at_fork(before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=_close_in_child)


def descriptors() -> frozenset[int]:
    """Return those that are open."""
    with fork_lock:
        return frozenset(_open)


def opened(open_it: Callable[[], int]) -> int:
    """Return the descriptor that `open_it` opens; `close` closes it."""
    with fork_lock:
        descriptor = open_it()
        _open.add(descriptor)
    return descriptor


def duplicate(descriptor: int) -> int:
    """Return a duplicate of a descriptor."""
    return opened(lambda: os.dup(descriptor))


def pipe() -> tuple[int, int]:
    """Return both ends of a pipe, read end first; neither makes anybody wait."""
    with fork_lock:
        reads, writes = os.pipe()
        _open.update((reads, writes))
    os.set_blocking(reads, False)
    os.set_blocking(writes, False)
    return reads, writes


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return a pair of connected sockets; each is closed with `close_socket`."""
    with fork_lock:
        ours, theirs = socket.socketpair()
        _open.update((ours.fileno(), theirs.fileno()))
    return ours, theirs


def close(descriptor: int) -> None:
    """Close what one of these functions has opened."""
    with fork_lock:
        if descriptor in _open:  # else this is a forked child
            _open.remove(descriptor)
            os.close(descriptor)


def close_socket(end: socket.socket) -> None:
    """Close one of a pair; may be called twice."""
    if end.fileno() >= 0:
        close(end.detach())
