"""Keeps the services of one environment, and ends them in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ServiceStartError, UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import Origin
from autostop_lab.reaper.guard import GuardState, current_guard
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.process import ProcessRuntime
from autostop_lab.services.program import ProgramRuntime
from autostop_lab.services.runtime import Exit, Runtime
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.thread import ThreadRuntime
from autostop_lab.supervisor.health import HealthBoard
from autostop_lab.supervisor.lifetime import set_signal
from autostop_lab.supervisor.limits import Limits
from autostop_lab.supervisor.plan import (
    levels_within,
    start_levels,
    stop_levels,
    unknown_service,
    with_dependants,
    with_needed,
)
from autostop_lab.supervisor.unit import ANSWERING, Token, Unit

#: After the first failed start of a level, how long others may take to fail too, in seconds, before those that are
#: still on their way are stopped: so several failures come together, and one does not wait for the slowest.
FAILURE_WINDOW_S = 0.5

MakeRuntime = Callable[[ServiceSlot, Origin, Callable[[str], ServiceHandle]], Runtime]
RUNTIMES: Mapping[str, MakeRuntime] = {"thread": ThreadRuntime, "process": ProcessRuntime, "command": ProgramRuntime}


_supervisors: WeakSet[Supervisor] = WeakSet()


def program_pids() -> frozenset[int]:
    """Return the pids of all programs that supervisors of this process keep."""
    units = [unit for supervisor in tuple(_supervisors) for unit in tuple(supervisor.units.values())]
    return frozenset(unit.life.child_pid for unit in units if unit.life.child_pid is not None)


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
        # Who is being ended for good, and what is done when that is over.
        self._holds: list[tuple[frozenset[str], asyncio.Future[None]]] = []
        self._is_closed = False
        # Whether a hurry leaves to the reaper what has a process of its own.
        self._leaves_processes = False
        _supervisors.add(self)
        self.listeners: list[Callable[[ServiceMoved], None]] = []
        self.exit_listeners: list[Callable[[Unit, Exit], None]] = []
        self._origin = Origin()
        # Orders to end services that are not carried out yet, and the signal that somebody is in a hurry.
        self._ends: list[tuple[set[str], asyncio.Future[None]]] = []
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._health = HealthBoard()
        self._limits = Limits(self)
        self._returns: set[asyncio.Task[None]] = set()

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
        runtime = self._runtimes[slot.spec.runtime](slot, self._origin, lambda name: self._find(slot, name))
        runtime.needed = frozenset(with_needed([slot.name], self.dependencies) - {slot.name})
        return runtime

    def _find(self, asking: ServiceSlot, name: str) -> ServiceHandle:
        if name == asking.name:
            text = f"service {name!r} asked for itself; it calls its own methods by self."
            raise UnknownServiceError(text, service=name)
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
        """Begin to look at the health, the idleness and the age of a life that has become ready."""
        self._health.watch(unit)
        self._limits.watch(unit)

    def note_down(self, unit: Unit) -> None:
        """Look at it no more."""
        self._health.forget(unit)
        self._limits.forget(unit)

    def live_dependants(self, name: str) -> list[Unit]:
        """Return what lives and depends on this service."""
        dependants = with_dependants([name], self.dependencies) - {name}
        return [self.units[other] for other in self.live() if other in dependants]

    async def wait_needed(self, unit: Unit, is_void: Callable[[], bool]) -> bool:
        """Wait while something that `unit` needs is on its way up, or goes down so that it has to come up again.

        Parameters
        ----------
        unit : Unit
            Who needs it.
        is_void : callable
            Whether `unit` is not to start any more; asked again with each of its changes.

        Returns
        -------
        bool
            Whether there was anything to wait for. If not, nothing else has run meanwhile.
        """
        has_waited = False
        while not is_void():
            going_down = with_needed(unit.slot.spec.policy.depends_on, self.dependencies)
            signals = {end for name in going_down for end in self._ends_of(self.units[name])}
            signals |= {other.change for other in self._needed_by(unit) if other.is_coming}
            if not signals:
                break
            has_waited = True
            await asyncio.wait({unit.change, *signals}, return_when=asyncio.FIRST_COMPLETED)
        return has_waited

    def _needed_by(self, unit: Unit) -> list[Unit]:
        return [self.units[name] for name in unit.slot.spec.policy.depends_on]

    def lacks(self, unit: Unit) -> str:
        """Return in words what `unit` depends on and does not have, or ""."""
        for needed in self._needed_by(unit):
            if needed.state not in ANSWERING and not needed.is_done:
                reason = f" ({needed.slot.reason})" if needed.slot.reason else ""
                return f"it depends on {needed.name!r}, which is {needed.state}{reason}"
        return ""

    async def step_aside(self, unit: Unit, *, is_dependant: bool) -> dict[str, Token]:
        """Stop who restarts with `unit` by its strategy: what depends on it, or the others.

        Those that are between two lives already have nothing to stop, and come back by themselves. Those that are
        being ended by another order are that order's: whether they come back is not ours to say.

        Returns
        -------
        dict of str to Token
            Their tokens by name, for `bring_back`.
        """
        strategy = unit.slot.spec.policy.restart_rule.strategy
        if strategy == "one_for_one" or (strategy == "rest_for_one" and not is_dependant):
            return {}
        dependants = with_dependants([unit.name], self.dependencies)
        live = {
            other.name
            for other in self.units.values()
            if other.is_live
            and other.state is not ServiceState.BACKOFF
            and other is not unit
            and (other.name in dependants) == is_dependant
        }
        aside = {name for name in live if not self._ends_of(self.units[name])}
        return await self._end_for_return(aside, beside=live - aside, reason=f"{unit.name!r} restarts")

    async def _end_for_return(
        self, names: Collection[str], *, reason: str, beside: Collection[str] = ()
    ) -> dict[str, Token]:
        """End services that are to be started again, and return their tokens; others `beside` are only ended."""
        tokens = {name: self.units[name].void(reason, returns=True) for name in names}
        await self._end({*names, *beside}, reason=reason)
        return tokens

    def bring_back(self, aside: Mapping[str, Token]) -> None:
        """Start those again, without waiting, that stepped aside and were not stopped since."""
        if aside:
            task = asyncio.ensure_future(self._return(aside))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    async def _return(self, aside: Mapping[str, Token]) -> None:
        """Start services again by levels; one that fails is told of as if it had died."""
        for level in levels_within(aside, self.dependencies):
            again = [self.units[name] for name in level]
            starts = (other.start(**aside[other.name]._asdict(), is_return=True) for other in again)
            results = await asyncio.gather(*starts, return_exceptions=True)
            for other, error in zip(again, results, strict=True):
                if isinstance(error, Exception) and other.token == aside[other.name]:
                    other.give_up_return(str(error))
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

    def _waiting_for_their_own_start(self, chosen: Collection[str]) -> set[str]:
        """Return what an order to start others leaves at rest: stopped by hand, and what depends on that."""
        stopped = [
            unit.name
            for unit in self.units.values()
            if unit.was_stopped_by_hand
            and unit.slot.spec.policy.restart_rule.when == "unless-stopped"
            and unit.name not in chosen
        ]
        return with_dependants(stopped, self.dependencies) - set(chosen)

    async def start(self, names: Iterable[str], origin: Origin | None = None, *, by_hand: bool = False) -> None:
        """Start services, what they depend on first; each level in parallel, the next when all are ready.

        A service that is not critical may fail; a dependant of it then cannot start.

        Parameters
        ----------
        names : iterable of str
            Which.
        origin : Origin or None
            Under whose cell their output appears; None is as before.
        by_hand : bool
            Whether this is an order to these very services; else an ``unless-stopped`` one that was stopped by hand
            stays at rest, and what depends on it, too.

        Raises
        ------
        ServiceStartError
            One of them failed, or was stopped on its way. What had been started by this call is stopped by the
            caller.
        ExceptionGroup
            Several failed.
        """
        self._origin = origin or self._origin
        chosen = list(names)
        left = self._waiting_for_their_own_start(chosen if by_hand else ())
        wanted = with_needed(chosen, self.dependencies) - left
        while not by_hand and (holds := self._holds_of(wanted)):
            await asyncio.wait(holds)
        await self._start({name: self.units[name].token for name in wanted}, by_hand=by_hand)

    async def wake(self, name: str, origin: Origin | None = None) -> None:
        """Start a service that rests because nobody called it; one that was stopped since stays at rest."""
        unit = self.unit(name)
        if unit.slot.is_resting:
            self._origin = origin or self._origin
            wanted = with_needed([name], self.dependencies)
            await self._start({other: self.units[other].token for other in wanted}, is_return=True)

    async def restart(self, name: str, origin: Origin | None = None) -> None:
        """Stop a service and start it anew, with what depends on it and was running.

        An ``always`` dependant that was stopped by hand before is started, too.

        Raises
        ------
        ServiceStartError
            It did not become ready again, or was stopped on its way.
        ExceptionGroup
            So it was with several.
        """
        self._refuse_held([name])
        self._origin = origin or self._origin
        dependants = with_dependants([name], self.dependencies) - {name}
        back = [
            other
            for other in dependants
            if self.units[other].is_live or self.units[other].slot.spec.policy.restart_rule.when == "always"
        ]
        needed = with_needed([name], self.dependencies) - {name}
        wanted = {other: self.units[other].token for other in needed}
        wanted |= await self._end_for_return([name, *back], reason="restarted by hand")
        await self._start(wanted, by_hand=True, is_return=True)

    def begin_afresh(self, names: Iterable[str]) -> None:
        """Count the next start of services as a first one, and no restart."""
        for name in names:
            self.units[name].void(is_last=True)

    @contextmanager
    def holding(self, names: Iterable[str]) -> Iterator[None]:
        """Let no service of these start while they are being ended for good."""
        hold = (frozenset(names), asyncio.get_running_loop().create_future())
        self._holds.append(hold)
        try:
            yield
        finally:
            self._holds.remove(hold)
            set_signal(hold[1])

    def _refuse_held(self, names: Iterable[str]) -> None:
        for name in names:
            if self._is_closed or self._holds_of([name]):
                text = f"service {name!r} was not started: it is being ended with its job or environment."
                raise ServiceStartError(text, service=name, phase="launch")

    def _holds_of(self, names: Collection[str]) -> list[asyncio.Future[None]]:
        return [done for held, done in self._holds if not held.isdisjoint(names)]

    async def _start(self, wanted: Mapping[str, Token], *, by_hand: bool = False, is_return: bool = False) -> None:
        """Start services by levels; one that was stopped since its token is an error."""
        self._refuse_held(name for name in wanted if self.units[name].state not in ANSWERING)
        try:
            for level in levels_within(wanted, self.dependencies):
                units = [self.units[name] for name in level]
                await self._start_level(units, wanted, by_hand=by_hand, is_return=is_return)
        finally:
            for name, token in wanted.items():
                unit = self.units[name]
                if unit.slot.is_returning and unit.token == token:
                    unit.give_up_return("what it depends on did not start")

    async def _start_level(
        self, level: Collection[Unit], wanted: Mapping[str, Token], *, by_hand: bool, is_return: bool
    ) -> None:
        # What was under way before is not ours to stop when something else fails.
        ours = {unit for unit in level if not unit.is_live}
        starting = {
            asyncio.ensure_future(
                self._start_one(unit, wanted[unit.name].generation, by_hand=by_hand, is_return=is_return)
            ): unit
            for unit in level
            if unit.state not in ANSWERING or self._ends_of(unit)
        }
        for task in starting:
            task.add_done_callback(_mark_retrieved)
        pending = set(starting)
        failed: dict[str, BaseException] = {}
        try:
            while pending and not failed:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                failed = _failures(starting)
            if pending:
                _, pending = await asyncio.wait(pending, timeout=FAILURE_WINDOW_S)
                failed = _failures(starting)
            late = {starting[task].name for task in pending} & {unit.name for unit in ours}
            for name in late:
                self.units[name].void("another service failed")
            await self._end(late, reason="another service failed")
        finally:
            for task in pending:
                task.cancel()
        exceptions = [error for error in failed.values() if isinstance(error, Exception)]
        if len(exceptions) == 1:
            raise exceptions[0]
        if exceptions:
            names = ", ".join(map(repr, failed))
            raise ExceptionGroup(f"{len(exceptions)} services did not start: {names}", exceptions)

    async def _start_one(self, unit: Unit, generation: int, *, by_hand: bool, is_return: bool) -> None:
        if ends := self._ends_of(unit):
            await asyncio.wait(ends)
        try:
            await unit.start(generation=generation, by_hand=by_hand, is_return=is_return)
        except ServiceStartError as error:
            if unit.slot.spec.policy.critical:
                raise
            unit.give_up_return(str(error))

    async def stop(
        self,
        names: Iterable[str],
        *,
        reason: str = "",
        timeout_s: float | None = None,
        kill: bool = False,
        by_hand: bool = False,
        spare: Collection[str] = (),
    ) -> None:
        """End services, what depends on them first; each level in parallel. It never raises: see their lives.

        A start or restart of them that has not begun is void.

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
        spare : collection of str
            Who is left alone, although it depends on one of them.
        """
        chosen = list(names)
        wanted = with_dependants(chosen, self.dependencies) - set(spare)
        for name in wanted:
            self.units[name].void(reason, is_last=not by_hand)
        await self._end(
            wanted,
            reason=reason,
            timeout_s=timeout_s,
            kill=kill,
            by_hand=frozenset(chosen if by_hand else ()),
        )

    async def stop_all(self, *, reason: str, timeout_s: float | None = None, is_final: bool = False) -> None:
        """End every service, also what is still cleared away, rests or would return.

        None starts meanwhile, and none any more if it `is_final`.
        """
        self._is_closed = self._is_closed or is_final
        with self.holding(self.units):
            await self.stop(list(self.units), reason=reason, timeout_s=timeout_s)

    async def stop_for_exit(self, *, reason: str, timeout_s: float) -> None:
        """End every service at the end of the process; what has a process of its own may be left to the reaper.

        When `timeout_s` is over, objects of this process skip what is left of their grace periods, and do not wait
        for their turn. Where the reaper guards this session, the others keep theirs, and it ends them in order.
        """
        self._leaves_processes = current_guard().status.state is GuardState.GUARDING
        await self.stop_all(reason=reason, timeout_s=timeout_s, is_final=True)

    async def retire(self, name: str, *, reason: str) -> None:
        """End a service whose time is over, what depends on it first; its next start is a restart."""
        wanted = with_dependants([name], self.dependencies)
        for other in wanted:
            self.units[other].void(reason)
        await self._end(wanted, reason=reason)

    def _ends_of(self, unit: Unit) -> list[asyncio.Future[None]]:
        """Return the orders to end this unit that are not carried out yet."""
        return [done for wanted, done in self._ends if unit.name in wanted]

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
        end = (wanted, loop.create_future())
        self._ends.append(end)
        timer = loop.call_later(timeout_s, self.hurry) if timeout_s is not None else None
        levels = []
        try:
            for level in stop_levels(wanted, self.dependencies):
                mine = [name for name in level if not (self._hurried.done() and self._is_left(name))]
                stops = [self.units[name].stop(reason, kill=kill, by_hand=name in by_hand) for name in mine]
                levels.append(asyncio.gather(*stops))
                # In a hurry the others do not wait for their turn.
                watched: set[asyncio.Future[Any]] = {levels[-1], self._hurried}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*levels)
        finally:
            self._ends.remove(end)
            set_signal(end[1])
            if timer is not None:
                timer.cancel()

    def hurry(self) -> None:
        """Skip what is left of grace periods, of all services that are being ended or wait for their turn."""
        set_signal(self._hurried)
        for name in {name for wanted, _ in self._ends for name in wanted}:
            if not self._is_left(name):
                self.units[name].hurry()

    def _is_left(self, name: str) -> bool:
        return self._leaves_processes and self.units[name].slot.spec.has_process


def _mark_retrieved(task: asyncio.Future[None]) -> None:
    if not task.cancelled():
        task.exception()


def _failures(starting: Mapping[asyncio.Task[None], Unit]) -> dict[str, BaseException]:
    """Return what went wrong in starts that are over, by name."""
    return {
        unit.name: error
        for task, unit in starting.items()
        if task.done() and not task.cancelled() and (error := task.exception()) is not None
    }
