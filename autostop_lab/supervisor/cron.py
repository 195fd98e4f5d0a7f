"""Calls a service's ``run()`` by its schedule: each run with its own time-out, never more than one at a time.

A failed or late run is recorded, its object is stopped and cleaned, and a new one is made; the next tick is its
retry. A stop disarms the schedule and waits for the run in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from autostop_lab.exceptions import ServiceStopError
from autostop_lab.lifecycle import ServiceTrigger
from autostop_lab.services.policies import Cron
from autostop_lab.services.runtime import Runtime, describe_error
from autostop_lab.services.threads import cause_of

#: The wall clock may be set while one waits: so long at most until it is read again, in seconds.
LONGEST_SLEEP_S = 30.0
#: A clock that is set back by more than this was wrong before: the schedule follows it. By less, no tick is repeated
#: (so it is in the cron of Debian), in seconds.
LARGEST_SETBACK_S = 3 * 3600.0


class Scheduled(Protocol):
    """What a schedule needs of its unit."""

    stop_asked: asyncio.Future[None]

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def runtime(self) -> Runtime | None:
        """What carries it; None where no object could be made."""

    def move(self, trigger: ServiceTrigger, reason: str = "", *, next_at: float | None = None) -> None:
        """Make a move."""

    def show_next(self, next_at: float) -> None:
        """Show when the next run comes."""

    async def renew(self, error: BaseException | None) -> bool:
        """End and clean the life in which a run failed, and begin a new one; return whether the schedule goes on."""


class Schedule:
    """The runs of one unit, from its start to its stop.

    Parameters
    ----------
    unit : Scheduled
        Whose runs.
    rule : Cron
        When.
    wall_clock : callable
        Returns the time in seconds since the epoch.
    """

    def __init__(self, unit: Scheduled, rule: Cron, wall_clock: Callable[[], float]) -> None:
        self._unit = unit
        self._rule = rule
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        self._run: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._is_queued = False
        self._last_tick = wall_clock()

    async def follow(self) -> None:
        """Run by the schedule until the unit is asked to stop; a run in flight is left to the stop."""
        try:
            if self._rule.run_on_start:
                await self._begin()
            while not self._unit.stop_asked.done():
                next_at = self._next_tick()
                self._unit.show_next(next_at)
                if await self._sleep_until(next_at):
                    self._last_tick = next_at
                    await self._tick()
        finally:
            self._forget_deadline()

    def _next_tick(self) -> float:
        now = self._wall_clock()
        if self._was_set_back(now):
            self._last_tick = now
        # Never before the last one: a clock that was set back a little must not repeat a run.
        after = max(now, self._last_tick)
        return self._rule.next_after(datetime.fromtimestamp(after, UTC)).timestamp()

    def _was_set_back(self, now: float) -> bool:
        return now < self._last_tick - LARGEST_SETBACK_S

    async def _sleep_until(self, at: float) -> bool:
        """Wait for a moment of the wall clock; return whether it came, before a stop or a setting of the clock."""
        while (left_s := at - self._wall_clock()) > 0:
            watched: set[asyncio.Future[None]] = {self._unit.stop_asked}
            if self._run is not None:
                watched.add(self._run)
            await asyncio.wait(watched, timeout=min(left_s, LONGEST_SLEEP_S), return_when=asyncio.FIRST_COMPLETED)
            if self._unit.stop_asked.done() or self._was_set_back(self._wall_clock()):
                return False
            await self._take_in_run()
        return not self._unit.stop_asked.done()

    async def _tick(self) -> None:
        await self._take_in_run()
        if self._unit.stop_asked.done():
            return
        if self._run is None:
            await self._begin()
        elif self._rule.overlap == "queue":
            self._is_queued = True
        elif self._rule.overlap == "cancel" and await self._fail("a new run takes its place"):
            await self._begin()

    async def _begin(self) -> None:
        """Begin a run; where no object could be made after the last failure, try that again."""
        if self._unit.runtime is None and not await self._unit.renew(None):
            return
        runtime = self._unit.runtime
        if runtime is None:
            return
        self._unit.move(ServiceTrigger.TICK, next_at=self._next_tick())
        self._run = asyncio.ensure_future(runtime.run_once())
        self._run.add_done_callback(_mark_retrieved)
        if self._rule.run_timeout_s is not None:
            # It ends the wait for this very run; the run itself is ended by the stop of its object.
            self._deadline = self._loop.call_later(self._rule.run_timeout_s, self._run.cancel)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    async def _take_in_run(self) -> None:
        """See whether the run is over, and what follows."""
        if self._run is None or not self._run.done():
            return
        run, self._run = self._run, None
        self._forget_deadline()
        if run.cancelled():
            goes_on = await self._fail(f"its run took longer than {self._rule.run_timeout_s:g} s")
        elif (error := run.exception()) is not None:
            goes_on = await self._renew(cause_of(error))
        else:
            self._unit.move(ServiceTrigger.RUN_ENDED, next_at=self._next_tick())
            goes_on = True
        if self._is_queued and goes_on:
            self._is_queued = False
            await self._begin()

    async def _fail(self, problem: str) -> bool:
        self._run = None
        self._forget_deadline()
        name = self._unit.name
        return await self._renew(ServiceStopError(f"service {name!r}: {problem}", service=name, phase="run"))

    async def _renew(self, error: BaseException) -> bool:
        """Replace the object whose run failed; return whether the schedule goes on."""
        goes_on = await self._unit.renew(error)
        if goes_on:
            self._unit.move(ServiceTrigger.RUN_ENDED, f"run failed: {describe_error(error)}", next_at=self._next_tick())
        return goes_on


def _mark_retrieved(run: asyncio.Task[None]) -> None:
    # A run that fails while its service is stopped has no consequence.
    if not run.cancelled():
        run.exception()
