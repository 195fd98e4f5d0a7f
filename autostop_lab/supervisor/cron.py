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

#: The wall clock may be set while one waits: so long at most until it is read again, in seconds.
LONGEST_SLEEP_S = 30.0


class Scheduled(Protocol):
    """What a schedule needs of its unit."""

    stop_asked: asyncio.Future[None]

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def runtime(self) -> Runtime | None:
        """What carries it."""

    def move(self, trigger: ServiceTrigger, reason: str = "", *, next_at: float | None = None) -> None:
        """Make a move."""

    def show_next(self, next_at: float) -> None:
        """Show when the next run comes."""

    async def renew(self, error: BaseException) -> bool:
        """End and clean the life in which a run failed, and begin a new one; return whether that is ready."""


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
        self._is_queued = False
        self._last_tick = wall_clock()

    async def follow(self) -> None:
        """Run by the schedule until the unit is asked to stop; a run in flight is left to the stop."""
        if self._rule.run_on_start:
            self._begin()
        while not self._unit.stop_asked.done():
            next_at = self._next_tick()
            self._unit.show_next(next_at)
            if await self._sleep_until(next_at):
                self._last_tick = next_at
                await self._tick()

    def _next_tick(self) -> float:
        # Never before the last one: a clock that was set back must not repeat a run.
        after = max(self._wall_clock(), self._last_tick)
        return self._rule.next_after(datetime.fromtimestamp(after, UTC)).timestamp()

    async def _sleep_until(self, at: float) -> bool:
        """Wait for a moment of the wall clock; return whether it came, before a stop."""
        while (left_s := at - self._wall_clock()) > 0:
            watched: set[asyncio.Future[None]] = {self._unit.stop_asked}
            if self._run is not None:
                watched.add(self._run)
            await asyncio.wait(watched, timeout=min(left_s, LONGEST_SLEEP_S), return_when=asyncio.FIRST_COMPLETED)
            if self._unit.stop_asked.done():
                return False
            await self._take_in_run()
        return True

    async def _tick(self) -> None:
        await self._take_in_run()
        if self._run is None:
            self._begin()
        elif self._rule.overlap == "queue":
            self._is_queued = True
        elif self._rule.overlap == "cancel":
            await self._fail("a new run takes its place")
            self._begin()

    def _begin(self) -> None:
        runtime = self._unit.runtime
        if runtime is None:
            return  # no object could be made after the last failure; the next tick tries again
        self._unit.move(ServiceTrigger.TICK)
        self._run = asyncio.ensure_future(runtime.run_once())
        if self._rule.run_timeout_s is not None:
            self._loop.call_later(self._rule.run_timeout_s, self._note_late, self._run)

    def _note_late(self, run: asyncio.Task[None]) -> None:
        if not run.done():  # cancelling ends the wait for it; the run itself is ended by the stop of its object
            run.cancel()

    async def _take_in_run(self) -> None:
        """See whether the run is over, and what follows."""
        if self._run is None or not self._run.done():
            return
        run, self._run = self._run, None
        if run.cancelled():
            await self._fail(f"its run took longer than {self._rule.run_timeout_s:g} s")
        elif (error := run.exception()) is not None:
            await self._renew(error)
        else:
            self._unit.move(ServiceTrigger.RUN_ENDED, next_at=self._next_tick())
        if self._is_queued and not self._unit.stop_asked.done():
            self._is_queued = False
            self._begin()

    async def _fail(self, problem: str) -> None:
        self._run = None
        name = self._unit.name
        await self._renew(ServiceStopError(f"service {name!r}: {problem}", service=name, phase="run"))

    async def _renew(self, error: BaseException) -> None:
        if await self._unit.renew(error) and not self._unit.stop_asked.done():
            self._unit.move(ServiceTrigger.RUN_ENDED, f"run failed: {describe_error(error)}", next_at=self._next_tick())
