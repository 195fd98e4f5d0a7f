"""What has happened: frozen events, and the one-way bus that carries them to whoever looks.

The record of a job is a list that loses nothing. A view reads through a bounded subscription: when it is slow
it misses the oldest events, and the core never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from autostop_lab.lifecycle import JobState, ServiceState


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened.

    Attributes
    ----------
    at : float
        When, in seconds since the epoch.
    at_monotonic_s : float
        The same moment on the monotonic clock, in seconds: subtract these, not `at`.
    """

    at: float = field(default_factory=time.time)
    at_monotonic_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceMoved(Event):
    """A service went from one state to another.

    Attributes
    ----------
    service : str
        Its name.
    source, target : ServiceState
        The states.
    trigger, why : str
        The trigger and the words of the table's row.
    reason : str
        What this very move was about (an error, an exit code, who asked), or "".
    """

    service: str
    source: ServiceState
    target: ServiceState
    trigger: str
    why: str
    reason: str = ""

    def __str__(self) -> str:
        """Return the event as one line for people."""
        return f"{self.service}: {self.source} -> {self.target} ({self.reason or self.why})"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobMoved(Event):
    """A job went from one state to another; attributes as in `ServiceMoved`."""

    job: str
    source: JobState
    target: JobState
    trigger: str
    why: str
    reason: str = ""

    def __str__(self) -> str:
        """Return the event as one line for people."""
        return f"{self.job}: {self.source} -> {self.target} ({self.reason or self.why})"


class Subscription:
    """The events since it was made, at most `max_items` of them; close it when done.

    Iterating waits for further events and ends with `close()` or when the bus closes.
    """

    def __init__(self, bus: Bus, max_items: int) -> None:
        self._bus = bus
        self._events: deque[Event] = deque(maxlen=max_items)
        self._news = threading.Condition()
        self._closed = False

    def put(self, event: Event) -> None:
        """Take an event in, in place of the oldest when full; never waits for the reader."""
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def take(self, *, timeout_s: float | None = None) -> list[Event]:
        """Return what has come, waiting up to `timeout_s` for the first; [] at the end or when time is over."""
        with self._news:
            self._news.wait_for(lambda: self._events or self._closed, timeout_s)
            events = list(self._events)
            self._events.clear()
            return events

    def close(self) -> None:
        """End the subscription; may be called twice."""
        self._bus.unsubscribe(self)
        with self._news:
            self._closed = True
            self._news.notify_all()

    def __iter__(self) -> Iterator[Event]:
        """Yield events as they come."""
        while events := self.take():
            yield from events


class Bus:
    """Carries events one way, from the core to whoever looks.

    Parameters
    ----------
    keeps_record : bool
        Whether it remembers every event.
    """

    def __init__(self, *, keeps_record: bool = True) -> None:
        self._keeps_record = keeps_record
        self._record: list[Event] = []
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()

    def publish(self, event: Event) -> None:
        """Add an event to the record and hand it to all subscriptions."""
        if self._keeps_record:
            self._record.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def record(self, since: int = 0) -> tuple[Event, ...]:
        """Return all events so far, oldest first, or those after the first `since`."""
        return tuple(self._record[since:])

    def subscribe(self, *, max_items: int = 10_000) -> Subscription:
        """Return a subscription to what comes from now on, which keeps at most `max_items` unread events."""
        subscription = Subscription(self, max_items)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; one that is not there is ignored."""
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)

    def close(self) -> None:
        """End all subscriptions; the record stays."""
        for subscription in self._subscriptions:
            subscription.close()
