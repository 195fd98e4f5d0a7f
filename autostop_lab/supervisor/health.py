"""Looks at services when they are due: one heap of times, one timer, one worker thread for all of them.

Checks that are plain functions run in the worker one after another. A check that is late counts as failed and its
worker is left to it: another one goes on with the rest, so a hung check never hinders others. As long as it hangs it
is not called again, so that no more than one thread hangs per service. Checks that are coroutines, and the probes of
programs, run on event loops.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from autostop_lab.lifecycle import ServiceState, ServiceTrigger
from autostop_lab.origin import thread_name
from autostop_lab.services.policies import Health
from autostop_lab.services.runtime import Runtime, UnhealthyError, describe_error, details_of
from autostop_lab.services.slot import HealthResult
from autostop_lab.supervisor.unit import Unit

#: Checks that are due within so many seconds are done together.
GRID_S = 0.05
#: Pause before the worker is looked at again, where it is not late or has not come to the check yet, in seconds.
SHORTEST_WATCH_S = 0.01


@dataclass
class Tally:
    """PURE. How the last checks of a service went, and what follows.

    Attributes
    ----------
    rule : Health
        The thresholds.
    failures, successes : int
        In a row, up to now.
    """

    rule: Health
    failures: int = 0
    successes: int = 0

    def count(self, *, is_healthy: bool, is_unhealthy_now: bool) -> ServiceTrigger | None:
        """Take in one check and return the move that it causes, if any."""
        self.failures = 0 if is_healthy else self.failures + 1
        self.successes = self.successes + 1 if is_healthy else 0
        if is_unhealthy_now:
            return ServiceTrigger.PROBE_OK if self.successes >= self.rule.success_threshold else None
        return ServiceTrigger.PROBE_FAILED if self.failures >= self.rule.failure_threshold else None


@dataclass(eq=False)
class Watch:
    """One life of one service that is being looked at.

    Attributes
    ----------
    unit, runtime : Unit, Runtime
        The service and this life of it.
    tally : Tally
        How its checks went.
    is_hung : bool
        Whether a call of its check was given up and has not returned yet.
    """

    unit: Unit
    runtime: Runtime
    tally: Tally
    is_hung: bool = False

    @property
    def rule(self) -> Health:
        """How it is looked at."""
        return self.tally.rule


@dataclass(frozen=True)
class Look:
    """What a call of a ``health_check()`` gave."""

    watch: Watch
    details: dict[str, Any]
    error: str | None
    latency_s: float


@dataclass(eq=False)
class Batch:
    """Checks that one worker does one after another.

    Attributes
    ----------
    checks : list of (Watch, callable)
        What to call.
    looks : list of Look
        What came of it, written by the worker.
    current : (int, float) or None
        Which one is being called, and since when, written by the worker.
    late : Watch or None
        Whose call was given up: another worker does the rest.
    """

    checks: list[tuple[Watch, Callable[[], Any]]]
    looks: list[Look] = field(default_factory=list)
    current: tuple[int, float] | None = None
    late: Watch | None = None


class HealthBoard:
    """Looks at the services of one supervisor.

    Made and used on the supervisor's event loop, whose time it lives by.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watches: dict[Unit, Watch] = {}
        self._due: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._worker: SimpleQueue[Batch | None] | None = None
        self._batch: Batch | None = None
        self._guard: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[Watch, Callable[[], Any]]] = []
        self._looks: set[asyncio.Task[None]] = set()

    def watch(self, unit: Unit) -> None:
        """Look at this life of `unit` from now on, as its policy says."""
        rule, runtime = unit.slot.spec.policy.health, unit.runtime
        if rule is not None and runtime is not None and runtime.has_health_check:
            self._watches[unit] = watch = Watch(unit, runtime, Tally(rule))
            self._push(watch)

    def forget(self, unit: Unit) -> None:
        """Look at this life no more; with the last one the worker ends."""
        watch = self._watches.pop(unit, None)
        if watch is None:
            return
        if len(self._due) > 2 * len(self._watches):  # mostly of lives that are over
            self._due = [entry for entry in self._due if self._is_watched(entry[2])]
            heapq.heapify(self._due)
        if not self._watches:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._batch is None:
                self._dismiss()

    def _is_watched(self, watch: Watch) -> bool:
        return self._watches.get(watch.unit) is watch

    def _push(self, watch: Watch) -> None:
        heapq.heappush(self._due, (self._loop.time() + watch.rule.interval_s, next(self._order), watch))
        self._arm()

    def _arm(self) -> None:
        """Set the timer for the check that is due first."""
        if self._due:
            at = self._due[0][0] + GRID_S
            if self._timer is not None:
                if self._timer.when() <= at:
                    return
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            watch = heapq.heappop(self._due)[2]
            if not self._is_watched(watch):
                continue
            function = watch.runtime.health_function
            if watch.is_hung:
                self._note(watch, _result(watch, error="its last check has not returned yet"))
            elif function is not None:
                self._waiting.append((watch, function))
            else:
                look = asyncio.ensure_future(self._look(watch))
                self._looks.add(look)
                look.add_done_callback(self._looks.discard)
        self._hand_out()
        self._arm()

    async def _look(self, watch: Watch) -> None:
        self._note(watch, await watch.unit.check_health(watch.rule.timeout_s))

    # -- the worker ----------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give what is waiting to the worker, if that is free; let it end when there is nothing left to look at."""
        if self._batch is not None:
            return
        self._waiting = [check for check in self._waiting if self._is_watched(check[0])]
        if self._waiting:
            self._batch, self._waiting = Batch(self._waiting), []
            if self._worker is None:
                self._worker = SimpleQueue()
                work = threading.Thread(
                    target=self._work, args=(self._worker,), name=thread_name("health checks"), daemon=True
                )
                work.start()
            self._worker.put(self._batch)
            timeout_s = min(watch.rule.timeout_s for watch, _ in self._batch.checks)
            self._guard = self._loop.call_later(timeout_s, self._check_worker, self._batch)
        elif not self._watches:
            self._dismiss()

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.put(None)
            self._worker = None

    def _work(self, batches: SimpleQueue[Batch | None]) -> None:
        while (batch := batches.get()) is not None:
            for index, (watch, function) in enumerate(batch.checks):
                if batch.late is not None:
                    break
                began_s = self._loop.time()
                batch.current = (index, began_s)
                details, error = _look(function)
                batch.looks.append(Look(watch, details, error, self._loop.time() - began_s))
            try:
                self._loop.call_soon_threadsafe(self._finish, batch)
            except RuntimeError:  # the process ends
                return

    def _check_worker(self, batch: Batch) -> None:
        """Replace a worker whose check is late."""
        if batch is not self._batch:
            return
        if batch.current is None:
            self._guard = self._loop.call_later(SHORTEST_WATCH_S, self._check_worker, batch)
            return
        late, began_s = batch.current
        watch = batch.checks[late][0]
        timeout_s = watch.rule.timeout_s
        left_s = began_s + timeout_s - self._loop.time()
        if len(batch.looks) > late or left_s > 0:
            self._guard = self._loop.call_later(max(left_s, SHORTEST_WATCH_S), self._check_worker, batch)
            return
        batch.late, watch.is_hung = watch, True
        self._batch = None
        self._dismiss()
        self._waiting = [*batch.checks[late + 1 :], *self._waiting]
        self._take_in(batch.looks[:late])
        self._note(watch, _result(watch, error=f"no answer within {timeout_s:g} s", latency_s=timeout_s))
        self._hand_out()

    def _finish(self, batch: Batch) -> None:
        if batch.late is not None:
            batch.late.is_hung = False
            return
        self._batch = None
        if self._guard is not None:
            self._guard.cancel()
        self._take_in(batch.looks)
        self._hand_out()

    def _take_in(self, looks: list[Look]) -> None:
        for look in looks:
            self._note(
                look.watch, _result(look.watch, details=look.details, error=look.error, latency_s=look.latency_s)
            )

    # -- what follows --------------------------------------------------------------------------------------

    def _note(self, watch: Watch, result: HealthResult) -> None:
        unit = watch.unit
        if not self._is_watched(watch):
            return
        unit.last_health = result
        is_unhealthy = unit.state is ServiceState.UNHEALTHY
        trigger = watch.tally.count(is_healthy=result.is_healthy, is_unhealthy_now=is_unhealthy)
        if trigger is not None and unit.machine.accepts(trigger):
            unit.move(trigger, result.error or "")
            if trigger is ServiceTrigger.PROBE_FAILED and watch.rule.on_unhealthy == "restart":
                unit.fail(f"unhealthy: {result.error}")
                return
        self._push(watch)


def _look(function: Callable[[], Any]) -> tuple[dict[str, Any], str | None]:
    """Call a health check and read its answer, all of which may be user code; return details and what is wrong."""
    try:
        return details_of(function()), None
    except UnhealthyError as found:
        return {}, str(found)
    except BaseException as raised:
        return {}, describe_error(raised)


def _result(
    watch: Watch, *, error: str | None, details: dict[str, Any] | None = None, latency_s: float = 0.0
) -> HealthResult:
    return HealthResult(
        state=watch.unit.state, is_healthy=error is None, details=details or {}, latency_s=latency_s, error=error
    )
