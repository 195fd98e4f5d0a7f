"""Looks at services when they are due: one heap of times, one timer, one worker thread for all of them.

Checks that are plain functions run in the worker one after another. A check that is late counts as failed and its
worker is left to it: another one goes on with the rest, so a hung check never hinders others. Checks that are
coroutines, and the probes of programs, run on the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from autostop_lab.lifecycle import ServiceState, ServiceTrigger
from autostop_lab.origin import thread_name
from autostop_lab.services.handle import HealthResult
from autostop_lab.services.policies import Health
from autostop_lab.services.runtime import describe_error, details_of
from autostop_lab.supervisor.unit import ANSWERING, Unit

#: Checks that are due within so many seconds are done together.
GRID_S = 0.05


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
    """One life of one service that is being looked at."""

    unit: Unit
    runtime: Any
    tally: Tally
    began_s: float = 0.0

    @property
    def rule(self) -> Health:
        """How it is looked at."""
        return self.tally.rule

    @property
    def is_over(self) -> bool:
        """Whether this life is over."""
        return self.unit.runtime is not self.runtime


@dataclass
class Batch:
    """Checks that one worker does one after another."""

    watches: list[Watch]
    results: list[tuple[Watch, Any, BaseException | None]] = field(default_factory=list)
    at: int = 0


class HealthBoard:
    """Looks at the services of one supervisor.

    Made and used on the supervisor's event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._worker: SimpleQueue[Batch | None] | None = None
        self._batch: Batch | None = None
        self._waiting: list[Watch] = []
        self._looks: set[asyncio.Task[None]] = set()

    def watch(self, unit: Unit) -> None:
        """Look at this life of `unit` from now on, as its policy says."""
        rule, runtime = unit.slot.spec.policy.health, unit.runtime
        if rule is not None and runtime is not None and runtime.has_health_check:
            self._push(Watch(unit, runtime, Tally(rule)))

    def _push(self, watch: Watch) -> None:
        heapq.heappush(self._due, (self._loop.time() + watch.rule.interval_s, next(self._order), watch))
        self._arm()

    def _arm(self) -> None:
        if self._due and self._timer is None:
            self._timer = self._loop.call_at(self._due[0][0] + GRID_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            watch = heapq.heappop(self._due)[2]
            if watch.is_over:
                continue
            if watch.runtime.health_function is not None:
                self._waiting.append(watch)
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
        self._waiting = [watch for watch in self._waiting if not watch.is_over]
        if self._waiting:
            self._batch, self._waiting = Batch(self._waiting), []
            if self._worker is None:
                self._worker = SimpleQueue()
                work = threading.Thread(
                    target=self._work, args=(self._worker,), name=thread_name("health checks"), daemon=True
                )
                work.start()
            self._worker.put(self._batch)
            self._guard(self._batch)
        elif not any(not watch.is_over for _, _, watch in self._due):
            self._due.clear()
            self._dismiss()

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.put(None)
            self._worker = None

    def _work(self, batches: SimpleQueue[Batch | None]) -> None:
        while (batch := batches.get()) is not None:
            for watch in batch.watches:
                watch.began_s = time.monotonic()
                answer, error = None, None
                try:
                    answer = watch.runtime.health_function()
                except BaseException as raised:
                    error = raised
                batch.results.append((watch, answer, error))
                batch.at += 1
            try:
                self._loop.call_soon_threadsafe(self._finish, batch)
            except RuntimeError:  # the process ends
                return

    def _guard(self, batch: Batch) -> None:
        timeout_s = min(watch.rule.timeout_s for watch in batch.watches)
        self._loop.call_later(timeout_s, self._check_worker, batch)

    def _check_worker(self, batch: Batch) -> None:
        """Replace a worker whose check is late."""
        if batch is not self._batch:
            return
        watch = batch.watches[min(batch.at, len(batch.watches) - 1)]
        late_in_s = watch.began_s + watch.rule.timeout_s - time.monotonic()
        if batch.at >= len(batch.watches) or late_in_s > 0:
            self._loop.call_later(max(late_in_s, 0.01), self._check_worker, batch)
            return
        self._dismiss()
        late = batch.at
        self._waiting = [*batch.watches[late + 1 :], *self._waiting]
        self._batch = None
        self._take_in(batch.results[:late])
        timeout_s = watch.rule.timeout_s
        self._note(watch, self._result(watch, error=f"no answer within {timeout_s:g} s", latency_s=timeout_s))
        self._hand_out()

    def _finish(self, batch: Batch) -> None:
        if batch is not self._batch:
            return  # it was late and replaced
        self._batch = None
        self._take_in(batch.results)
        self._hand_out()

    def _take_in(self, results: list[tuple[Watch, Any, BaseException | None]]) -> None:
        for watch, answer, error in results:
            healthy, details = details_of(answer) if error is None else (False, {})
            text = describe_error(error) if error is not None else f"health_check() returned {answer!r}"
            self._note(watch, self._result(watch, details=details, error=None if healthy else text))

    def _result(
        self, watch: Watch, *, error: str | None, details: dict[str, Any] | None = None, latency_s: float = 0.0
    ) -> HealthResult:
        return HealthResult(
            state=watch.unit.state, is_healthy=error is None, details=details or {}, latency_s=latency_s, error=error
        )

    # -- what follows --------------------------------------------------------------------------------------

    def _note(self, watch: Watch, result: HealthResult) -> None:
        unit = watch.unit
        if watch.is_over or unit.state not in ANSWERING:
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
