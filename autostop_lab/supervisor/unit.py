"""One supervised service: its state, and what comes next.

Everything here runs on the supervisor's event loop, so nothing needs a lock. At most one task at a time works on a
unit: the one that brings it up (again and again, where its policy says so), the one that ends it, or the one that
clears up after it. A stop sets a signal that makes every pending restart void, and whoever waits for it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ServiceStartError
from autostop_lab.lifecycle import SERVICE_TABLE, Machine, ServiceState, ServiceTrigger
from autostop_lab.services.handle import HealthResult, ServiceSlot
from autostop_lab.services.policies import Cron
from autostop_lab.services.runtime import Exit, Runtime, describe_error
from autostop_lab.supervisor.cron import Schedule
from autostop_lab.supervisor.lifetime import Lifetime, set_signal
from autostop_lab.supervisor.outcome import Life
from autostop_lab.supervisor.restart import Again, Enough, decide, recent_restarts

ANSWERING = frozenset({ServiceState.RUNNING, ServiceState.UNHEALTHY, ServiceState.WAITING})


class Team(Protocol):
    """What a unit asks of its supervisor."""

    def publish(self, event: ServiceMoved) -> None:
        """Take one of its moves."""

    def note_end(self, unit: Unit, end: Exit) -> None:
        """Hear that it has ended by itself, for good."""

    def note_ready(self, unit: Unit) -> None:
        """Hear that it has become ready."""

    async def step_aside(self, unit: Unit) -> list[str]:
        """Stop whoever restarts with it, and return their names."""

    async def return_to(self, unit: Unit, names: list[str]) -> None:
        """Start those again that stepped aside for it."""


class Unit:
    """One supervised service.

    Parameters
    ----------
    slot : ServiceSlot
        Its name and what is shown of it.
    make_runtime : callable
        Makes a runtime: one life of the service.
    team : Team
        Its supervisor.
    wall_clock, jitter : callable
        As for the supervisor.

    Attributes
    ----------
    life : Life
        What happened in its life, or in the last one.
    was_stopped_by_hand : bool
        Whether its last stop was an order to this very service.
    last_health : HealthResult or None
        What the last look at its health found.
    """

    def __init__(
        self,
        slot: ServiceSlot,
        *,
        make_runtime: Callable[[], Runtime],
        team: Team,
        wall_clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.slot = slot
        self.machine = Machine(SERVICE_TABLE, slot.name)
        self.life = Life()
        self.was_stopped_by_hand = False
        self.last_health: HealthResult | None = None
        self._make_runtime = make_runtime
        self._team = team
        self._loop = asyncio.get_running_loop()
        self._lifetime: Lifetime | None = None
        self.stop_asked: asyncio.Future[None] = self._loop.create_future()
        self._is_kill_asked = False
        self._end_reason = ""
        self._work: asyncio.Task[None] | None = None
        self._is_rising = False
        self._restarts: list[float] = []
        self._wall_clock = wall_clock
        self._jitter = jitter

    @property
    def _cron(self) -> Cron | None:
        return self.slot.spec.policy.cron_rule

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.slot.name

    @property
    def state(self) -> ServiceState:
        """Where it is."""
        return self.machine.state

    @property
    def is_live(self) -> bool:
        """Whether there is something to end."""
        return self.state in SERVICE_TABLE.live

    @property
    def runtime(self) -> Runtime | None:
        """What carries it, while it answers."""
        return self._lifetime.runtime if self._lifetime is not None and self.state in ANSWERING else None

    def move(self, trigger: ServiceTrigger, reason: str = "", *, next_at: float | None = None) -> None:
        """Make a move of the table and publish it.

        Parameters
        ----------
        trigger : ServiceTrigger
            An order or an observation.
        reason : str
            What this very move is about.
        next_at : float or None
            When the next try or run comes, in seconds since the epoch.
        """
        row = self.machine.step(trigger)
        runtime = self.runtime
        self.slot.publish(row.target, reason, runtime.endpoint if runtime is not None else None, next_at=next_at)
        self._team.publish(
            ServiceMoved(
                service=self.name,
                source=row.source,
                target=row.target,
                trigger=row.trigger,
                why=row.why,
                reason=reason,
            )
        )

    def _move_if(self, trigger: ServiceTrigger, reason: str = "") -> None:
        if self.machine.accepts(trigger):
            self.move(trigger, reason)

    # -- orders --------------------------------------------------------------------------------------------

    async def start(self, reason: str = "") -> None:
        """Start it and return when it is ready; one that runs already is left as it is.

        A start that fails is repeated as its restart policy says, and this waits for the outcome.

        Raises
        ------
        ServiceStartError
            It did not become ready, or was stopped on its way; it is cleaned.
        """
        while self.state not in ANSWERING:
            if self._work is None or self._work.done():
                self._begin(reason)
            if self._is_rising and self._work is not None:
                await asyncio.shield(self._work)
                return
            await self.settled()

    def _begin(self, reason: str) -> None:
        if self.state is ServiceState.ABANDONED:
            raise ServiceStartError(
                f"service {self.name!r} was abandoned and is not started again: what is left of it still runs.\n"
                f"{self.life.survivor}",
                service=self.name,
                phase="launch",
            )
        self.was_stopped_by_hand = False
        self._restarts = []
        self.stop_asked = self._loop.create_future()
        self._is_kill_asked = False
        self._new_life()
        self.move(ServiceTrigger.START, reason)
        self._do(self._rise(), is_rising=True)

    def _new_life(self, *, restarts: int = 0) -> Lifetime:
        self._lifetime = Lifetime(self.slot, self._make_runtime, lambda: self._move_if(ServiceTrigger.GRACE_OVER))
        self.life = self._lifetime.record
        self.life.restarts = restarts
        return self._lifetime

    def _do(self, work: Coroutine[None, None, None], *, is_rising: bool = False) -> None:
        self._is_rising = is_rising
        self._work = asyncio.ensure_future(work)
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())

    async def stop(self, reason: str = "", *, kill: bool = False, by_hand: bool = False) -> None:
        """End it and return when it is at rest; `kill` skips the grace period. What failed is in `life`."""
        self.was_stopped_by_hand = self.was_stopped_by_hand or by_hand
        if self.is_live and self.state not in SERVICE_TABLE.ending:
            # Whoever brings it up, or runs it by its schedule, hears the signal and ends it.
            has_worker = self.state in (ServiceState.STARTING, ServiceState.BACKOFF) or self._cron is not None
            self._end_reason, self._is_kill_asked = reason, kill
            set_signal(self.stop_asked)
            self.move(ServiceTrigger.KILL if kill else ServiceTrigger.STOP, reason)
            if not has_worker:
                self._do(self._end())
        if kill:
            self.hurry()
        await self.settled()

    def hurry(self) -> None:
        """Skip what is left of its grace periods."""
        if self._lifetime is not None:
            self._lifetime.hurry()

    async def settled(self) -> None:
        """Wait for whatever is being done with it."""
        while self._work is not None and not self._work.done():
            await asyncio.wait({self._work})

    async def check_health(self, timeout_s: float) -> HealthResult:
        """Look at it once."""
        runtime = self.runtime
        if runtime is None:
            reason = f": {self.slot.reason}" if self.slot.reason else ""
            return HealthResult(state=self.state, is_healthy=False, error=f"it is {self.state}{reason}")
        look = asyncio.ensure_future(runtime.check_health())
        done, _ = await asyncio.wait({look}, timeout=timeout_s)
        if done:
            return look.result()
        look.cancel()
        return HealthResult(
            state=self.state, is_healthy=False, latency_s=timeout_s, error=f"no answer within {timeout_s:g} s"
        )

    # -- work ----------------------------------------------------------------------------------------------

    async def _rise(self) -> None:
        """Bring it up from ``starting``, as often as its policy says."""
        while True:
            lifetime = self._lifetime
            assert lifetime is not None
            error = await lifetime.launch(self.stop_asked)
            if self.stop_asked.done():
                self._rest(is_gone=await lifetime.end(is_polite=error is None and not self._is_kill_asked))
                return
            if error is None:
                self._note_ready(lifetime)
                return
            lifetime.record.errors.append(("start", error))
            is_gone = await lifetime.end(is_polite=isinstance(error, TimeoutError))
            if self.stop_asked.done():
                self._rest(is_gone=is_gone)
                raise error
            if not is_gone:
                self.move(ServiceTrigger.KILL_FAILED, describe_error(error))
                raise error
            if not await self._pause_for_retry(describe_error(error), ran_s=0.0, is_clean=False):
                raise error

    def _note_ready(self, lifetime: Lifetime) -> None:
        runtime = lifetime.runtime
        assert runtime is not None
        if self._cron is not None:
            self.move(ServiceTrigger.SCHEDULED)
            self._do(self._follow_schedule(self._cron))
        else:
            self.move(ServiceTrigger.READY)
            runtime.exited.add_done_callback(lambda exited: self._note_exit(lifetime, exited))
        self._team.note_ready(self)

    async def _follow_schedule(self, rule: Cron) -> None:
        await Schedule(self, rule, self._wall_clock).follow()
        if self.state in SERVICE_TABLE.ending:
            await self._end()

    async def renew(self, error: BaseException) -> bool:
        """End and clean the life in which a run failed, and begin a new one; return whether that is ready."""
        lifetime = self._lifetime
        assert lifetime is not None
        lifetime.record.failed_runs.append(error)
        is_gone = await lifetime.end(is_polite=True)
        if self.stop_asked.done():
            return False
        if not is_gone:
            set_signal(self.stop_asked)
            self.move(ServiceTrigger.KILL, describe_error(error))
            self.move(ServiceTrigger.KILL_FAILED, describe_error(error))
            return False
        again = self._new_life(restarts=self.life.restarts)
        again.record.failed_runs = lifetime.record.failed_runs
        failure = await again.launch(self.stop_asked)
        if failure is not None:
            again.record.errors.append(("start", failure))
            await again.end(is_polite=isinstance(failure, TimeoutError))
        return True

    def show_next(self, next_at: float) -> None:
        """Show when the next run comes, in seconds since the epoch."""
        self.slot.next_at = next_at

    async def _pause_for_retry(self, reason: str, *, ran_s: float, is_clean: bool) -> bool:
        """Decide on a restart; make the move, wait for the pause, and return whether it begins now.

        Called when the service is proved gone. False leaves it at rest: its policy wants no more, or a stop came.
        """
        again = self._decide(ran_s=ran_s, is_clean=is_clean)
        if not isinstance(again, Again):
            self.move(ServiceTrigger.DIED_FINAL, "; ".join(filter(None, (reason, again.reason))))
            return False
        self._announce_retry(again, reason)
        return await self._wait_for_retry(again)

    def _decide(self, *, ran_s: float, is_clean: bool) -> Again | Enough:
        rule, now = self.slot.spec.policy.restart_rule, self._loop.time()
        self._restarts = recent_restarts(rule, restarts=self._restarts, ran_s=ran_s, now=now)
        return decide(rule, is_clean=is_clean, restarts=self._restarts, ran_s=ran_s, now=now, jitter=self._jitter())

    def _announce_retry(self, again: Again, reason: str) -> None:
        rule = self.slot.spec.policy.restart_rule
        limit = "" if rule.max_restarts is None else f" of {rule.max_restarts}"
        text = f"{reason}; restart {again.number}{limit} in {again.delay_s:.1f} s"
        self.move(ServiceTrigger.DIED_RETRY, text, next_at=self._wall_clock() + again.delay_s)

    async def _wait_for_retry(self, again: Again) -> bool:
        await asyncio.wait({self.stop_asked}, timeout=again.delay_s)
        if self.stop_asked.done():
            return False
        self._restarts.append(self._loop.time())
        self._new_life(restarts=self.life.restarts + 1)
        self.move(ServiceTrigger.RETRY)
        return True

    async def _end(self) -> None:
        assert self._lifetime is not None
        self._rest(is_gone=await self._lifetime.end(is_polite=not self._is_kill_asked))

    def _rest(self, *, is_gone: bool) -> None:
        if is_gone:
            self.move(ServiceTrigger.ENDED, self._end_reason)
        else:
            self._move_if(ServiceTrigger.GRACE_OVER)
            self.move(ServiceTrigger.KILL_FAILED, self.life.survivor.partition("\n")[0])

    # -- observations --------------------------------------------------------------------------------------

    def _note_exit(self, lifetime: Lifetime, exited: asyncio.Future[Exit]) -> None:
        if lifetime is self._lifetime and self.state in ANSWERING:
            end = exited.result()
            lifetime.record.exit = end
            self._fall(lifetime, end, lifetime.clear_up)

    def fail(self, reason: str) -> None:
        """Take it for dead although it runs: end it politely, and restart it as its policy says."""
        if self._lifetime is not None and self.state in ANSWERING:
            lifetime = self._lifetime
            self._fall(lifetime, Exit(problem=reason), lambda: lifetime.end(is_polite=True))

    def _fall(self, lifetime: Lifetime, end: Exit, clear: Callable[[], Awaitable[bool]]) -> None:
        """Leave the running states, since it has ended by itself or is taken for dead."""
        ready_s = lifetime.record.ready_s or self._loop.time()
        again = self._decide(ran_s=self._loop.time() - ready_s, is_clean=end.is_clean)
        if isinstance(again, Again):
            self._announce_retry(again, str(end))
            self._do(self._come_back(again, clear), is_rising=True)
            return
        reason = "; ".join(filter(None, (str(end), again.reason)))
        self.move(ServiceTrigger.EXITED if end.is_clean else ServiceTrigger.DIED_FINAL, reason)
        self._do(self._clear_and_tell(end, clear))

    async def _clear_and_tell(self, end: Exit, clear: Callable[[], Awaitable[bool]]) -> None:
        self._team.note_end(self, end)
        await clear()

    async def _come_back(self, again: Again, clear: Callable[[], Awaitable[bool]]) -> None:
        """Restart it: who restarts with it steps aside, the old life is cleared away, then a new one begins."""
        aside = await self._team.step_aside(self)
        if not await clear():
            self._move_if(ServiceTrigger.KILL_FAILED, "what died left something that cannot be ended")
            self._team.note_end(self, Exit(error=self._stopped_error("what died left something")))
            return
        if not await self._wait_for_retry(again):
            raise self._stopped_error("it was stopped while it waited for its restart")
        try:
            await self._rise()
        except ServiceStartError as error:
            if not self.stop_asked.done():
                self._team.note_end(self, Exit(error=error))
            raise
        if self.state in ANSWERING:
            await self._team.return_to(self, aside)

    def _stopped_error(self, problem: str) -> ServiceStartError:
        return ServiceStartError(f"service {self.name!r}: {problem}.", service=self.name, phase="launch")
