"""The law of this package: every move that a service or a job can make.

Two tables of rows ``(source, trigger, target, why)``. The third column is always where one lands.
The code, the live diagrams, the pictures and tables of the README and the generated tests are all made
from these rows; no move happens outside them. What is at rest, live or final is computed, not written.

Triggers are orders from above (``start``, ``stop``, ``kill``, ``retry``, ``tick``, ``cancel``) or
observations from below (everything else).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar


class ServiceState(StrEnum):
    """Where a service is in its life; the values are the words that users see."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    WAITING = "waiting"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    KILLING = "killing"
    CRASHED = "crashed"
    ABANDONED = "abandoned"


class ServiceTrigger(StrEnum):
    """What makes a service move."""

    START = "start"
    READY = "ready"
    SCHEDULED = "scheduled"
    TICK = "tick"
    RUN_ENDED = "run ended"
    PROBE_FAILED = "probe failed"
    PROBE_OK = "probe ok"
    DIED_RETRY = "died, retry"
    DIED_FINAL = "died, final"
    EXITED = "exited"
    RETRY = "retry"
    STOP = "stop"
    GRACE_OVER = "grace over"
    KILL = "kill"
    ENDED = "ended"
    KILL_FAILED = "kill failed"


class JobState(StrEnum):
    """Where a job is in its life; the values are the words that users see."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    CANCELLING = "cancelling"
    CLEANING_UP = "cleaning_up"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobTrigger(StrEnum):
    """What makes a job move."""

    START = "start"
    SERVICES_READY = "services ready"
    START_FAILED = "start failed"
    STOP = "stop"
    CANCEL = "cancel"
    TIMED_OUT = "timed out"
    SERVICE_LOST = "service lost"
    CODE_ENDED = "code ended"
    GRACE_OVER = "grace over"
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLATION = "cancellation"


State = TypeVar("State", bound=StrEnum)
Trigger = TypeVar("Trigger", bound=StrEnum)


class Row(NamedTuple, Generic[State, Trigger]):
    """One move: from `source`, on `trigger`, to `target`, and `why` in words."""

    source: State
    trigger: Trigger
    target: State
    why: str


class Table(Generic[State, Trigger]):
    """The moves of one kind of thing, and what follows from them.

    Parameters
    ----------
    rows : iterable of Row
        The moves; the pairs (source, trigger) are unique.
    initial : State
        Where a new one begins.
    start, stop : Trigger
        The orders that wake it from rest and that end it.
    """

    def __init__(self, rows: Iterable[Row[State, Trigger]], *, initial: State, start: Trigger, stop: Trigger) -> None:
        self.rows = tuple(rows)
        self.initial = initial
        self.start = start
        self.stop = stop
        self.next = {(row.source, row.trigger): row for row in self.rows}

    def __iter__(self) -> Iterator[Row[State, Trigger]]:
        """Iterate over the rows in their written order."""
        return iter(self.rows)

    @cached_property
    def states(self) -> tuple[State, ...]:
        """Every state, in the order of its enumeration."""
        return tuple(type(self.initial))

    def triggers_from(self, state: State) -> frozenset[Trigger]:
        """Return the triggers that `state` accepts."""
        return frozenset(row.trigger for row in self.rows if row.source == state)

    def reachable_from(self, state: State) -> frozenset[State]:
        """Return every state that moves from `state` lead to, without a new start."""
        seen: set[State] = set()
        frontier = {state}
        while frontier:
            seen |= frontier
            frontier = {row.target for row in self.rows if row.source in frontier and row.trigger != self.start} - seen
        return frozenset(seen - {state})

    @cached_property
    def at_rest(self) -> frozenset[State]:
        """States in which nothing lives: no move leaves them, or only the order to start."""
        return frozenset(s for s in self.states if self.triggers_from(s) <= {self.start})

    @cached_property
    def final(self) -> frozenset[State]:
        """States that no move leaves."""
        return frozenset(s for s in self.states if not self.triggers_from(s))

    @cached_property
    def live(self) -> frozenset[State]:
        """States in which there is something that has to be ended."""
        return frozenset(self.states) - self.at_rest

    @cached_property
    def ending(self) -> frozenset[State]:
        """Live states that take no order to stop: they lead to rest by themselves."""
        return frozenset(s for s in self.live if self.stop not in self.triggers_from(s))


_S, _T = ServiceState, ServiceTrigger
_J, _O = JobState, JobTrigger

SERVICE_TABLE: Table[ServiceState, ServiceTrigger] = Table(
    (
        Row(_S.STOPPED, _T.START, _S.STARTING, "it is launched, its dependencies first"),
        Row(_S.CRASHED, _T.START, _S.STARTING, "it is launched anew"),
        Row(_S.STARTING, _T.READY, _S.RUNNING, "start() returned and the readiness probe passed"),
        Row(_S.STARTING, _T.SCHEDULED, _S.WAITING, "start() returned; its schedule has the next run"),
        Row(_S.STARTING, _T.DIED_RETRY, _S.BACKOFF, "it did not become ready; its policy says: again"),
        Row(_S.STARTING, _T.DIED_FINAL, _S.CRASHED, "it did not become ready; its policy says: no more"),
        Row(_S.STARTING, _T.KILL_FAILED, _S.ABANDONED, "it did not become ready and cannot be ended from here"),
        Row(_S.STARTING, _T.STOP, _S.STOPPING, "it is no longer needed"),
        Row(_S.STARTING, _T.KILL, _S.KILLING, "it is ended without a grace period"),
        Row(_S.RUNNING, _T.PROBE_FAILED, _S.UNHEALTHY, "its health check failed too often"),
        Row(_S.RUNNING, _T.RUN_ENDED, _S.WAITING, "this run is over; its schedule has the next one"),
        Row(_S.RUNNING, _T.EXITED, _S.STOPPED, "it ended by itself, cleanly"),
        Row(_S.RUNNING, _T.DIED_RETRY, _S.BACKOFF, "it ended by itself; its policy says: again"),
        Row(_S.RUNNING, _T.DIED_FINAL, _S.CRASHED, "it died; its policy says: no more"),
        Row(_S.RUNNING, _T.STOP, _S.STOPPING, "it is no longer needed; the grace period begins"),
        Row(_S.RUNNING, _T.KILL, _S.KILLING, "it is ended without a grace period"),
        Row(_S.UNHEALTHY, _T.PROBE_OK, _S.RUNNING, "its health check passes again"),
        Row(_S.UNHEALTHY, _T.RUN_ENDED, _S.WAITING, "this run is over; its schedule has the next one"),
        Row(_S.UNHEALTHY, _T.EXITED, _S.STOPPED, "it ended by itself, cleanly"),
        Row(_S.UNHEALTHY, _T.DIED_RETRY, _S.BACKOFF, "it ended by itself; its policy says: again"),
        Row(_S.UNHEALTHY, _T.DIED_FINAL, _S.CRASHED, "it died; its policy says: no more"),
        Row(_S.UNHEALTHY, _T.STOP, _S.STOPPING, "it is no longer needed; the grace period begins"),
        Row(_S.UNHEALTHY, _T.KILL, _S.KILLING, "it is ended without a grace period"),
        Row(_S.WAITING, _T.TICK, _S.RUNNING, "its schedule says: now"),
        Row(_S.WAITING, _T.DIED_FINAL, _S.CRASHED, "it died between two runs"),
        Row(_S.WAITING, _T.STOP, _S.STOPPING, "it is no longer needed; no further run"),
        Row(_S.WAITING, _T.KILL, _S.KILLING, "it is ended without a grace period"),
        Row(_S.BACKOFF, _T.RETRY, _S.STARTING, "the pause is over; it is launched anew"),
        Row(_S.BACKOFF, _T.STOP, _S.STOPPED, "it is no longer needed; the pending restart is void"),
        Row(_S.BACKOFF, _T.KILL, _S.STOPPED, "it is no longer needed; the pending restart is void"),
        Row(_S.BACKOFF, _T.KILL_FAILED, _S.ABANDONED, "what died left something that cannot be ended from here"),
        Row(_S.STOPPING, _T.ENDED, _S.STOPPED, "it stopped in time and is cleaned"),
        Row(_S.STOPPING, _T.GRACE_OVER, _S.KILLING, "it did not stop in time"),
        Row(_S.STOPPING, _T.KILL, _S.KILLING, "the rest of its grace period is skipped"),
        Row(_S.KILLING, _T.ENDED, _S.STOPPED, "it is gone and cleaned"),
        Row(_S.KILLING, _T.KILL_FAILED, _S.ABANDONED, "it cannot be ended from here; the receipt names it"),
    ),
    initial=_S.STOPPED,
    start=_T.START,
    stop=_T.STOP,
)

JOB_TABLE: Table[JobState, JobTrigger] = Table(
    (
        Row(_J.PENDING, _O.START, _J.STARTING, "its services are started, dependencies first"),
        Row(_J.STARTING, _O.SERVICES_READY, _J.RUNNING, "every service is ready; the job's code runs"),
        Row(_J.STARTING, _O.START_FAILED, _J.CLEANING_UP, "a service did not become ready"),
        Row(_J.STARTING, _O.STOP, _J.CLEANING_UP, "stopped before its code ran"),
        Row(_J.STARTING, _O.CANCEL, _J.CLEANING_UP, "cancelled before its code ran"),
        Row(_J.STARTING, _O.TIMED_OUT, _J.CLEANING_UP, "its time was over before its code ran"),
        Row(_J.STARTING, _O.SERVICE_LOST, _J.CLEANING_UP, "a critical service died before its code ran"),
        Row(_J.RUNNING, _O.CODE_ENDED, _J.CLEANING_UP, "its code is done, or failed"),
        Row(_J.RUNNING, _O.STOP, _J.DRAINING, "it finishes what is inside and takes nothing new"),
        Row(_J.RUNNING, _O.CANCEL, _J.CANCELLING, "what is inside is discarded"),
        Row(_J.RUNNING, _O.TIMED_OUT, _J.CANCELLING, "its time is over"),
        Row(_J.RUNNING, _O.SERVICE_LOST, _J.CANCELLING, "a critical service died"),
        Row(_J.DRAINING, _O.CODE_ENDED, _J.CLEANING_UP, "what was inside is done"),
        Row(_J.DRAINING, _O.GRACE_OVER, _J.CLEANING_UP, "its code did not stop in time and is abandoned"),
        Row(_J.DRAINING, _O.CANCEL, _J.CANCELLING, "what is inside is discarded after all"),
        Row(_J.DRAINING, _O.TIMED_OUT, _J.CANCELLING, "its time is over"),
        Row(_J.DRAINING, _O.SERVICE_LOST, _J.CANCELLING, "a critical service died"),
        Row(_J.CANCELLING, _O.CODE_ENDED, _J.CLEANING_UP, "its code has stopped"),
        Row(_J.CANCELLING, _O.GRACE_OVER, _J.CLEANING_UP, "its code did not stop in time and is abandoned"),
        Row(_J.CLEANING_UP, _O.SUCCESS, _J.SUCCEEDED, "all is done and clean"),
        Row(_J.CLEANING_UP, _O.FAILURE, _J.FAILED, "its code, a service or its time failed it; all is clean"),
        Row(_J.CLEANING_UP, _O.CANCELLATION, _J.CANCELLED, "it was cancelled or interrupted; all is clean"),
    ),
    initial=_J.PENDING,
    start=_O.START,
    stop=_O.STOP,
)
