"""What the reaper is to know: filled by any thread, carried over by the thread that talks to the reaper."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from autostop_lab.reaper import forks
from autostop_lab.reaper.lease import Lease


class Entry:
    """One lease that is registered, or on its way there.

    Attributes
    ----------
    lease : Lease
        What is registered.
    output : int or None
        Read end of the program's output, for each reaper that comes.
    asked_at : float or None
        When its polite signal was sent, on the monotonic clock.
    is_sent : bool
        Whether the reaper of now was told of it.
    answered : threading.Event
        Set when the outcome is known.
    refusal : str
        Why it is not registered; "" if it is.
    """

    def __init__(self, lease: Lease, output: int | None) -> None:
        self.lease = lease
        self.output = output
        self.asked_at: float | None = None
        self.is_sent = False
        self.answered = threading.Event()
        self.refusal = ""

    def settle(self, refusal: str = "") -> None:
        """Tell whoever waits for the outcome; the first one holds."""
        if not self.answered.is_set():
            self.refusal = refusal
            self.answered.set()


class Outbox:
    """Leases and requests of one process, and what wakes the thread that carries them over."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come, and wake, while the main thread holds it
        self._entries: dict[str, Entry] = {}
        self._requests: deque[dict[str, Any]] = deque()
        self._unused: list[int] = []  # outputs that a request which is being sent may still name
        self._reads, self._writes = forks.pipe()
        self._is_closed = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when something has come."""
        return self._reads

    # -- for any thread ------------------------------------------------------------------------------------

    def add(self, lease: Lease, output: int | None) -> Entry:
        """Put in a lease, in place of the one before; the lease of a program covers its folder already."""
        entry = Entry(lease, output)
        with self._lock:
            old = self._entries.get(lease.instance_id)
            if old is not None and lease.pid is None and old.lease.pid is not None:
                return old
            self._replace(lease.instance_id, entry)
            if self._is_closed:
                self._replace(lease.instance_id, None)
        self.wake()
        if self._is_closed:
            self.close_unused()
        return entry

    def take_back(self, entry: Entry) -> None:
        """Take back a lease whose registration nobody waits for any more; the reaper may have it all the same."""
        with self._lock:
            if self._entries.get(entry.lease.instance_id) is entry:
                self._release(entry.lease.instance_id)
        self.wake()

    def release(self, instance_id: str, *, only_folder: bool) -> None:
        """Take out a lease; an unknown one is ignored, and with `only_folder` that of a program, too."""
        with self._lock:
            entry = self._entries.get(instance_id)
            if entry is None or (only_folder and entry.lease.pid is not None):
                return
            self._release(instance_id)
        self.wake()

    def note_asked(self, instance_id: str) -> None:
        """Note that the polite signal has just been sent."""
        now = time.monotonic()
        with self._lock:
            entry = self._entries.get(instance_id)
            if entry is None:
                return
            entry.asked_at = now
            self._requests.append({"op": "asked", "instance_id": instance_id, "at": now})
        self.wake()

    def leases(self) -> list[Lease]:
        """Return what is registered."""
        with self._lock:
            return [e.lease for e in self._entries.values() if e.answered.is_set() and not e.refusal]

    def wake(self) -> None:
        """Wake the thread that talks to the reaper."""
        with self._lock:
            if not self._is_closed:
                with suppress(BlockingIOError):  # it has been woken often enough
                    os.write(self._writes, b".")

    def _release(self, instance_id: str) -> None:
        self._replace(instance_id, None)
        self._requests.append({"op": "release", "instance_id": instance_id})

    def _replace(self, instance_id: str, entry: Entry | None) -> None:
        old = self._entries.pop(instance_id, None)
        if entry is not None:
            self._entries[instance_id] = entry
        if old is not None:
            old.settle("it was taken back before the reaper had answered")
            if old.output is not None:
                self._unused.append(old.output)

    # -- for the thread that talks to the reaper -----------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether there is no lease."""
        return not self._entries

    def sleep(self, seconds: float) -> None:
        """Wait until something comes, but not longer than so."""
        poll = select.poll()
        poll.register(self._reads, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.drain()

    def drain(self) -> None:
        """Forget how often it was woken."""
        with suppress(BlockingIOError):
            os.read(self._reads, 4096)

    def begin_anew(self) -> None:
        """Have a new reaper told of everything."""
        with self._lock:
            for entry in self._entries.values():
                entry.is_sent = False

    def take(self) -> tuple[list[dict[str, Any]], list[Entry]]:
        """Take the requests that wait, and then the leases that the reaper of now was not told of.

        Requests come first, since a lease may be taken back and come anew.
        """
        with self._lock:
            requests = list(self._requests)
            self._requests.clear()
            unsent = [entry for entry in self._entries.values() if not entry.is_sent]
            for entry in unsent:
                entry.is_sent = True
        return requests, unsent

    def waiting(self) -> list[Entry]:
        """Return the leases whose registration somebody waits for."""
        with self._lock:
            return [entry for entry in self._entries.values() if not entry.answered.is_set()]

    def refuse(self, waiting: list[Entry], why: str) -> None:
        """Tell those who wait for these that there is no reaper."""
        with self._lock:
            for entry in waiting:
                entry.settle(why)

    def close_unused(self) -> None:
        """Close outputs of leases that are gone; nothing may be on its way to the reaper."""
        with self._lock:
            while self._unused:
                forks.close(self._unused.pop())

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            for instance_id in list(self._entries):
                self._replace(instance_id, None)
            self._is_closed = True
            forks.close(self._reads)
            forks.close(self._writes)
        self.close_unused()
