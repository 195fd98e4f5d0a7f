"""Keeps the services of one environment, and ends them in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ServiceStartError, UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import Origin
from autostop_lab.services.handle import ServiceHandle, ServiceSlot
from autostop_lab.services.program import ProgramRuntime
from autostop_lab.services.runtime import Exit, Runtime
from autostop_lab.services.thread import ThreadRuntime
from autostop_lab.supervisor.plan import start_levels, unknown_service, with_dependants, with_needed
from autostop_lab.supervisor.unit import ANSWERING, Unit, set_signal

#: After the first failed start of a level, how long others may take to fail too, in seconds, before those that are
#: still on their way are stopped: so several failures come together, and one does not wait for the slowest.
FAILURE_WINDOW_S = 0.5

RUNTIMES: dict[str, type[ThreadRuntime] | type[ProgramRuntime]] = {
    "thread": ThreadRuntime,
    "command": ProgramRuntime,
}


class Supervisor:
    """Starts services by levels of ``depends_on``, watches them, and stops them in reverse.

    Made and used on the supervisor's event loop only.

    Attributes
    ----------
    units : dict of str to Unit
        What it keeps.
    listeners : list of callable
        Told of each move of a service.
    exit_listeners : list of callable
        Told of each service that ended by itself.
    """

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.listeners: list[Callable[[ServiceMoved], None]] = []
        self.exit_listeners: list[Callable[[Unit, Exit], None]] = []
        self._origin = Origin()
        # Who is being ended, by how many calls of `stop`, and the signal that somebody is in a hurry.
        self._ending: Counter[str] = Counter()
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, slot: ServiceSlot) -> None:
        """Take a service in; one of the same name that is at rest is replaced."""
        self.units[slot.name] = Unit(
            slot,
            make_runtime=lambda: self._make_runtime(slot),
            publish=self._publish,
            on_exit=self._note_exit,
        )

    def _make_runtime(self, slot: ServiceSlot) -> Runtime:
        return RUNTIMES[slot.spec.runtime](slot, self._origin, lambda name: self._find(slot, name))

    def _find(self, asking: ServiceSlot, name: str) -> ServiceHandle:
        if name not in asking.spec.policy.depends_on:
            raise UnknownServiceError(
                f"service {asking.name!r} asked for service {name!r}, which it did not declare. "
                f"Register it with policy=ServicePolicy(depends_on=({name!r},)).",
                service=name,
            )
        return ServiceHandle(self.unit(name).slot)

    def _publish(self, event: ServiceMoved) -> None:
        for listener in tuple(self.listeners):
            listener(event)

    def _note_exit(self, unit: Unit, end: Exit) -> None:
        for listener in tuple(self.exit_listeners):
            listener(unit, end)

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

    async def start(self, names: Iterable[str], origin: Origin) -> None:
        """Start services, what they depend on first; each level in parallel, the next when all are ready.

        A service that is not critical may fail; a dependant of it then cannot start.

        Parameters
        ----------
        names : iterable of str
            Which.
        origin : Origin
            Under whose cell their output appears.

        Raises
        ------
        ServiceStartError
            One of them failed. What had been started by this call is stopped by the caller.
        ExceptionGroup
            Several failed.
        """
        self._origin = origin
        wanted = with_needed(names, self.dependencies)
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
        self, names: Iterable[str], *, reason: str = "", timeout_s: float | None = None, kill: bool = False
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
        """
        wanted = with_dependants(names, self.dependencies)
        loop = asyncio.get_running_loop()
        if self._hurried.done():
            self._hurried = loop.create_future()
        self._ending.update(wanted)
        timer = loop.call_later(timeout_s, self.hurry) if timeout_s is not None else None
        levels = []
        try:
            for level in reversed(start_levels(self.dependencies)):
                stops = (self.units[name].stop(reason, kill=kill) for name in level if name in wanted)
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
