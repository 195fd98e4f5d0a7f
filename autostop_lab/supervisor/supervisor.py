"""Keeps the services of one environment, and ends them in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ServiceStartError, UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import Origin
from autostop_lab.services.handle import ServiceHandle, ServiceSlot
from autostop_lab.services.program import ProgramRuntime
from autostop_lab.services.runtime import Exit, Runtime
from autostop_lab.services.thread import ThreadRuntime
from autostop_lab.supervisor.health import HealthBoard
from autostop_lab.supervisor.lifetime import set_signal
from autostop_lab.supervisor.limits import Limits
from autostop_lab.supervisor.plan import start_levels, unknown_service, with_dependants, with_needed
from autostop_lab.supervisor.unit import ANSWERING, Unit

#: After the first failed start of a level, how long others may take to fail too, in seconds, before those that are
#: still on their way are stopped: so several failures come together, and one does not wait for the slowest.
FAILURE_WINDOW_S = 0.5

MakeRuntime = Callable[[ServiceSlot, Origin, Callable[[str], ServiceHandle]], Runtime]
RUNTIMES: Mapping[str, MakeRuntime] = {"thread": ThreadRuntime, "command": ProgramRuntime}


class Supervisor:
    """Starts services by levels of ``depends_on``, watches them, and stops them in reverse.

    Made and used on the supervisor's event loop only, whose time it lives by.

    Parameters
    ----------
    runtimes : mapping of str to callable
        Makes what carries a service, by the name of its runtime.
    wall_clock : callable
        Returns the time in seconds since the epoch, for schedules.
    jitter : callable
        Returns a number between -1 and 1, for the pauses before restarts.

    Attributes
    ----------
    units : dict of str to Unit
        What it keeps.
    listeners : list of callable
        Told of each move of a service.
    exit_listeners : list of callable
        Told of each service that ended by itself.
    """

    def __init__(
        self,
        *,
        runtimes: Mapping[str, MakeRuntime] = RUNTIMES,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        self._runtimes = runtimes
        self._wall_clock = wall_clock
        self._jitter = jitter
        self.units: dict[str, Unit] = {}
        self.listeners: list[Callable[[ServiceMoved], None]] = []
        self.exit_listeners: list[Callable[[Unit, Exit], None]] = []
        self._origin = Origin()
        # Who is being ended, by how many calls of `stop`, and the signal that somebody is in a hurry.
        self._ending: Counter[str] = Counter()
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._health = HealthBoard()
        self._limits = Limits(self)

    def add(self, slot: ServiceSlot) -> None:
        """Take a service in; one of the same name that is at rest is replaced."""
        self.units[slot.name] = Unit(
            slot,
            make_runtime=lambda: self._make_runtime(slot),
            team=self,
            wall_clock=self._wall_clock,
            jitter=self._jitter,
        )

    def remove(self, name: str) -> None:
        """Forget a service that is at rest."""
        del self.units[name]

    def _make_runtime(self, slot: ServiceSlot) -> Runtime:
        return self._runtimes[slot.spec.runtime](slot, self._origin, lambda name: self._find(slot, name))

    def _find(self, asking: ServiceSlot, name: str) -> ServiceHandle:
        if name not in asking.spec.policy.depends_on:
            raise UnknownServiceError(
                f"service {asking.name!r} asked for service {name!r}, which it did not declare. "
                f"Register it with policy=ServicePolicy(depends_on=({name!r},)).",
                service=name,
            )
        return ServiceHandle(self.unit(name).slot)

    # -- what units ask of it ------------------------------------------------------------------------------

    def publish(self, event: ServiceMoved) -> None:
        """Hand a move on to whoever listens."""
        for listener in tuple(self.listeners):
            listener(event)

    def note_end(self, unit: Unit, end: Exit) -> None:
        """Tell that a service has ended by itself, for good."""
        for listener in tuple(self.exit_listeners):
            listener(unit, end)

    def note_ready(self, unit: Unit) -> None:
        """Begin to look at the health, the idleness and the age of a service that has become ready."""
        self._health.watch(unit)
        self._limits.watch(unit)

    def has_live_dependants(self, name: str) -> bool:
        """Return whether a service lives that depends on this one."""
        return bool((with_dependants([name], self.dependencies) - {name}) & set(self.live()))

    async def step_aside(self, unit: Unit) -> list[str]:
        """Stop who restarts with `unit`, by its strategy, and return their names in order."""
        strategy = unit.slot.spec.policy.restart_rule.strategy
        if strategy == "one_for_one":
            return []
        others = set(self.units) if strategy == "one_for_all" else with_dependants([unit.name], self.dependencies)
        aside = [name for name in self.live() if name in others - {unit.name}]
        await self._end(set(aside), reason=f"{unit.name!r} restarts")
        return aside

    async def return_to(self, unit: Unit, names: list[str]) -> None:
        """Start those again that stepped aside for `unit`; one that fails is told of as if it had died."""
        for level in start_levels(self.dependencies):
            again = [self.units[name] for name in level if name in names]
            results = await asyncio.gather(*(other.start() for other in again), return_exceptions=True)
            for other, error in zip(again, results, strict=True):
                if isinstance(error, Exception):
                    self.note_end(other, Exit(error=error))

    # -- orders --------------------------------------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        """Return the unit of this name, or raise `UnknownServiceError`."""
        if name not in self.units:
            raise unknown_service(name, self.units)
        return self.units[name]

    @property
    def dependencies(self) -> dict[str, tuple[str, ...]]:
        """For each service, what it depends on."""
        return {name: unit.slot.spec.policy.depends_on for name, unit in self.units.items()}

    def live(self) -> list[str]:
        """Return the names of services that have to be ended."""
        return [name for name, unit in self.units.items() if unit.is_live]

    def check(self) -> None:
        """Refuse dependencies that cannot be: `DependencyError`."""
        start_levels(self.dependencies)

    def _waits_for_its_own_start(self, name: str) -> bool:
        unit = self.units[name]
        return unit.was_stopped_by_hand and unit.slot.spec.policy.restart_rule.when == "unless-stopped"

    async def start(self, names: Iterable[str], origin: Origin, *, by_hand: bool = False) -> None:
        """Start services, what they depend on first; each level in parallel, the next when all are ready.

        A service that is not critical may fail; a dependant of it then cannot start.

        Parameters
        ----------
        names : iterable of str
            Which.
        origin : Origin
            Under whose cell their output appears.
        by_hand : bool
            Whether this is an order to these very services; else an ``unless-stopped`` one that was stopped by hand
            stays at rest.

        Raises
        ------
        ServiceStartError
            One of them failed. What had been started by this call is stopped by the caller.
        ExceptionGroup
            Several failed.
        """
        self._origin = origin
        chosen = list(names)
        wanted = {
            name
            for name in with_needed(chosen, self.dependencies)
            if (by_hand and name in chosen) or not self._waits_for_its_own_start(name)
        }
        for level in start_levels(self.dependencies):
            await self._start_level([self.units[name] for name in level if name in wanted])

    async def _start_level(self, level: Collection[Unit]) -> None:
        starting = {asyncio.ensure_future(self._start_one(unit)): unit for unit in level if unit.state not in ANSWERING}
        pending = set(starting)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is not None for task in done):
                    if pending:
                        _, pending = await asyncio.wait(pending, timeout=FAILURE_WINDOW_S)
                    await asyncio.gather(*(starting[task].stop("another service failed") for task in pending))
                    if pending:
                        await asyncio.wait(pending)
                    pending = set()
        except asyncio.CancelledError:
            for task in starting:
                task.cancel()
            raise
        errors = [error for task in starting if (error := task.exception()) is not None]
        exceptions = [error for error in errors if isinstance(error, Exception)]
        if len(exceptions) == 1:
            raise exceptions[0]
        if exceptions:
            names = ", ".join(repr(unit.name) for task, unit in starting.items() if task.exception() is not None)
            raise ExceptionGroup(f"{len(exceptions)} services did not start: {names}", exceptions)

    async def _start_one(self, unit: Unit) -> None:
        for name in unit.slot.spec.policy.depends_on:
            needed = self.units[name]
            if needed.state not in ANSWERING and needed.state is not ServiceState.STOPPED:
                await self._give_up(unit, f"it depends on {name!r}, which is {needed.state}")
                return
        try:
            await unit.start()
        except ServiceStartError as error:
            await self._give_up(unit, str(error), error)

    async def _give_up(self, unit: Unit, problem: str, error: ServiceStartError | None = None) -> None:
        if unit.slot.spec.policy.critical:
            raise error or ServiceStartError(
                f"service {unit.name!r} was not started: {problem}.", service=unit.name, phase="launch"
            )

    async def stop(
        self,
        names: Iterable[str],
        *,
        reason: str = "",
        timeout_s: float | None = None,
        kill: bool = False,
        by_hand: bool = False,
    ) -> None:
        """End services, what depends on them first; each level in parallel. It never raises: see their lives.

        Parameters
        ----------
        names : iterable of str
            Which; those at rest are only waited for.
        reason : str
            Shown with the moves.
        timeout_s : float or None
            When it is over, grace periods are skipped for all that is left.
        kill : bool
            Whether to skip the grace periods from the start.
        by_hand : bool
            Whether this is an order to these very services, which an ``unless-stopped`` one remembers.
        """
        chosen = list(names)
        await self._end(
            with_dependants(chosen, self.dependencies),
            reason=reason,
            timeout_s=timeout_s,
            kill=kill,
            by_hand=frozenset(chosen if by_hand else ()),
        )

    async def _end(
        self,
        wanted: set[str],
        *,
        reason: str,
        timeout_s: float | None = None,
        kill: bool = False,
        by_hand: frozenset[str] = frozenset(),
    ) -> None:
        loop = asyncio.get_running_loop()
        if self._hurried.done():
            self._hurried = loop.create_future()
        self._ending.update(wanted)
        timer = loop.call_later(timeout_s, self.hurry) if timeout_s is not None else None
        levels = []
        try:
            for level in reversed(start_levels(self.dependencies)):
                stops = (
                    self.units[name].stop(reason, kill=kill, by_hand=name in by_hand)
                    for name in level
                    if name in wanted
                )
                levels.append(asyncio.gather(*stops))
                # In a hurry the others do not wait for their turn.
                watched: set[asyncio.Future[Any]] = {levels[-1], self._hurried}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*levels)
        finally:
            self._ending.subtract(wanted)
            if timer is not None:
                timer.cancel()

    def hurry(self) -> None:
        """Skip what is left of grace periods, of all services that are being ended or wait for their turn."""
        set_signal(self._hurried)
        for name, count in self._ending.items():
            if count > 0:
                self.units[name].hurry()
