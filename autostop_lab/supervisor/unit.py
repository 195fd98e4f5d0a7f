"""One supervised service: its state, and what comes next.

Everything here runs on the supervisor's event loop, so nothing needs a lock. At most one task at a time works on a
unit: the one that brings it up (again and again, where its policy says so), the one that ends it, or the one that
clears up after it. A stop sets a signal that makes every pending restart void, and whoever waits for it is told.
Each order to stop also begins a new generation, so that a start whose turn has not come yet is void, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import NamedTuple, Protocol

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ServiceStartError
from autostop_lab.lifecycle import SERVICE_TABLE, Machine, ServiceState, ServiceTrigger
from autostop_lab.services.policies import Cron
from autostop_lab.services.runtime import Exit, Runtime, describe_error
from autostop_lab.services.slot import IDLE, HealthResult, ServiceSlot, Vitals
from autostop_lab.supervisor.cron import Schedule
from autostop_lab.supervisor.lifetime import Lifetime, set_signal
from autostop_lab.supervisor.outcome import Life
from autostop_lab.supervisor.restart import Again, Enough, Past, decide, wants_restart

ANSWERING = frozenset({ServiceState.RUNNING, ServiceState.UNHEALTHY, ServiceState.WAITING})


class Token(NamedTuple):
    """What tells whether a service was stopped since: `generation` by an order, `turn` by an order or for a restart."""

    generation: int
    turn: int


class Team(Protocol):
    """What a unit asks of its supervisor."""

    def publish(self, event: ServiceMoved) -> None:
        """Take one of its moves."""

    def note_end(self, unit: Unit, end: Exit) -> None:
        """Hear that it has ended by itself, for good."""

    def note_ready(self, unit: Unit) -> None:
        """Hear that a life of it has become ready."""

    def note_down(self, unit: Unit) -> None:
        """Hear that this life no longer answers."""

    async def wait_needed(self, unit: Unit, is_void: Callable[[], bool]) -> bool:
        """Wait for what it depends on, as long as that is on its way; return whether there was anything to wait for."""

    def lacks(self, unit: Unit) -> str:
        """Return in words what it depends on and does not have, or ""."""

    async def step_aside(self, unit: Unit, *, is_dependant: bool) -> Mapping[str, Token]:
        """Stop those who restart with it and depend on it, or do not; return their tokens by name."""

    def bring_back(self, aside: Mapping[str, Token]) -> None:
        """Start those again, without waiting, that stepped aside and were not stopped since."""


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
    token : Token
        Changes when it is stopped: a start that was ordered in an earlier generation is void.
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
        self.token = Token(0, 0)
        self.was_stopped_by_hand = False
        self.last_health: HealthResult | None = None
        self._make_runtime = make_runtime
        self._team = team
        self._wall_clock = wall_clock
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._lifetime: Lifetime | None = None
        self.stop_asked: asyncio.Future[None] = self._loop.create_future()
        self._retry_asked: asyncio.Future[None] = self._loop.create_future()
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._is_kill_asked = False
        self._end_reason = ""
        self._work: asyncio.Task[None] | None = None
        self._is_rising = False
        # While it is in backoff: whether the old life is not yet proved gone.
        self._is_clearing = False
        # Whether its next start is the first one in the eyes of whoever reads the receipt.
        self._is_fresh = True
        self._past = Past()
        slot.vitals = lambda: Vitals(self.life.restarts, self.life.pid, self.last_health)

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
    def is_busy(self) -> bool:
        """Whether something lives, or is still cleared away."""
        return self.is_live or (self._work is not None and not self._work.done())

    @property
    def is_coming(self) -> bool:
        """Whether it is on its way up, or will be without a further order."""
        return self.state in (ServiceState.STARTING, ServiceState.BACKOFF) or self.slot.is_returning

    @property
    def is_done(self) -> bool:
        """Whether it has ended by itself, cleanly: those who depend on it live on."""
        return self.state is ServiceState.STOPPED and self.life.exit is not None and self.life.exit.is_clean

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
        if row.source in ANSWERING and row.target not in ANSWERING:
            self._team.note_down(self)
        self._tell_change()
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

    def _tell_change(self) -> None:
        changed, self._changed = self._changed, self._loop.create_future()
        set_signal(changed)

    @property
    def change(self) -> asyncio.Future[None]:
        """Done with its next move, or when it turns out that it does not return."""
        return self._changed

    # -- orders --------------------------------------------------------------------------------------------

    async def start(
        self, *, generation: int | None = None, turn: int | None = None, by_hand: bool = False, is_return: bool = False
    ) -> None:
        """Start it and return when it is ready; one that runs already is left as it is.

        A start that fails is repeated as its restart policy says, and this waits for the outcome.

        Parameters
        ----------
        generation : int or None
            Its generation when this start was ordered; None is now.
        turn : int or None
            If given, this start is void also when it was stopped for a restart since this turn; else it waits for the
            end of such a restart.
        by_hand : bool
            Whether this is an order to this very service: it does not wait for the end of a pause.
        is_return : bool
            Whether it comes back from a stop that was part of a restart.

        Raises
        ------
        ServiceStartError
            It did not become ready, or was stopped on its way; it is cleaned.
        """
        ordered_in = self.token.generation if generation is None else generation

        def is_void() -> bool:
            return self.token.generation != ordered_in or turn not in (None, self.token.turn)

        while self.state not in ANSWERING:
            if is_void():
                raise self._stopped_error("before its start")
            if self._work is None or self._work.done():
                if await self._team.wait_needed(self, is_void):
                    continue  # much may have happened
                if problem := self._team.lacks(self):
                    raise self._start_error(f"it was not started, since {problem}")
                self._begin(by_hand=by_hand, is_return=is_return)
            elif by_hand and self.state is ServiceState.BACKOFF:
                self._past = Past()
                set_signal(self._retry_asked)
            assert self._work is not None
            if not self._is_rising or self.stop_asked.done():
                await self.settled()
                continue
            try:
                await asyncio.shield(self._work)
            except ServiceStartError:
                # One that was stopped for a restart is brought up again.
                if is_void() or not self.stop_asked.done():
                    raise
            else:
                return

    def _begin(self, *, by_hand: bool, is_return: bool) -> None:
        if self.life.survivor:
            raise ServiceStartError(
                f"service {self.name!r} was abandoned and is not started again: what is left of it still runs.\n"
                f"{self.life.survivor}",
                service=self.name,
                phase="launch",
            )
        self.was_stopped_by_hand = False
        if by_hand or not is_return:
            self._past = Past()
        self.stop_asked = self._loop.create_future()
        self._is_kill_asked = False
        restarts = 0 if self._is_fresh else self.life.restarts + 1
        self._new_life(restarts=restarts, after=self.life if is_return else None)
        self._is_fresh = False
        self.slot.is_returning = False
        self.move(ServiceTrigger.START)
        self._do(self._rise(), is_rising=True)

    def _new_life(self, *, restarts: int, after: Life | None) -> Lifetime:
        """Make a new life; what failed at the end of the one it comes `after` stays on the record."""
        self._lifetime = Lifetime(
            self.slot, self._make_runtime, lambda: self._move_if(ServiceTrigger.GRACE_OVER, self._end_reason)
        )
        self.life = self._lifetime.record
        self.life.restarts = restarts
        if after is not None:
            self.life.errors = [(phase, error) for phase, error in after.errors if phase != "start"]
            self.life.failed_runs = after.failed_runs
        return self._lifetime

    def _do(self, work: Coroutine[None, None, None], *, is_rising: bool = False) -> None:
        self._is_rising = is_rising
        self._work = asyncio.ensure_future(work)
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())

    def void(self, reason: str = "", *, returns: bool = False, is_last: bool = False) -> Token:
        """Make starts void that have not begun, and return the new token.

        Parameters
        ----------
        reason : str
            Why; it replaces the reason of a rest that the next call would undo.
        returns : bool
            Whether it is started again by whoever calls this: then calls wait for it, and orders to start it stay.
        is_last : bool
            Whether the next start is a first one, and no restart.
        """
        generation, turn = self.token
        self.token = Token(generation if returns else generation + 1, turn + 1)
        self._is_fresh = self._is_fresh or is_last
        if self._end_reason == IDLE:
            self._end_reason = reason
        self.slot.set_return(returns, reason)
        self._tell_change()
        return self.token

    def give_up_return(self, reason: str) -> None:
        """Say that it is not started again after all."""
        if self.slot.is_returning:
            self.slot.set_return(False, reason)
            self._tell_change()

    async def stop(self, reason: str = "", *, kill: bool = False, by_hand: bool = False) -> None:
        """End it and return when it is at rest; `kill` skips the grace period. What failed is in `life`."""
        self.was_stopped_by_hand = self.was_stopped_by_hand or by_hand
        if self.is_live and self.state not in SERVICE_TABLE.ending and not self.stop_asked.done():
            self._end_reason, self._is_kill_asked = reason, kill
            set_signal(self.stop_asked)
            if not (self.state is ServiceState.BACKOFF and self._is_clearing):
                # Whoever brings it up, or runs it by its schedule, hears the signal and ends it.
                has_worker = self.state in (ServiceState.STARTING, ServiceState.BACKOFF) or self._cron is not None
                self._obey_stop()
                if not has_worker:
                    self._do(self._end())
        if kill:
            self.hurry()
        lifetime = self._lifetime
        # With another life a newer start has begun, which is not ours to wait for.
        while self._work is not None and not self._work.done() and self._lifetime is lifetime:
            await asyncio.wait({self._work})

    def _obey_stop(self) -> None:
        self.move(ServiceTrigger.KILL if self._is_kill_asked else ServiceTrigger.STOP, self._end_reason)

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
        if not done:
            look.cancel()
            error = f"no answer within {timeout_s:g} s"
            return HealthResult(state=self.state, is_healthy=False, latency_s=timeout_s, error=error)
        if look.cancelled():  # by its own coroutine, or by a stop meanwhile
            return HealthResult(state=self.state, is_healthy=False, error="its look was cancelled")
        if (failure := look.exception()) is not None:
            return HealthResult(state=self.state, is_healthy=False, error=describe_error(failure))
        return look.result()

    # -- work ----------------------------------------------------------------------------------------------

    async def _rise(self, *, is_retry: bool = False) -> None:
        """Bring it up from ``starting``, as often as its policy says."""
        while True:
            lifetime = self._lifetime
            assert lifetime is not None
            problem = self._team.lacks(self) if is_retry else ""
            if problem:
                error: BaseException | None = self._start_error(problem)
            else:
                error = await lifetime.launch(self.stop_asked)
            if self.stop_asked.done():
                self._rest(is_gone=await lifetime.end(is_polite=error is None and not self._is_kill_asked))
                raise self._stopped_error("before it was ready") from error
            if error is None:
                self._note_ready(lifetime)
                return
            lifetime.record.errors.append(("start", error))
            is_gone = await lifetime.end(is_polite=isinstance(error, TimeoutError))
            if self.stop_asked.done():
                self._rest(is_gone=is_gone)
                raise self._stopped_error("before it was ready") from error
            if not is_gone:
                self.move(ServiceTrigger.KILL_FAILED, describe_error(error))
                raise error
            if not await self._pause_for_retry(describe_error(error)):
                raise self._stopped_error("while it waited for its next try") if self.stop_asked.done() else error
            is_retry = True

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

    async def renew(self, error: BaseException | None) -> bool:
        """End and clean the life in which a run failed, if there is one, and begin a new one.

        Parameters
        ----------
        error : BaseException or None
            What the run failed with; None where there was no object to run.

        Returns
        -------
        bool
            Whether its schedule goes on, with an object (see `runtime`) or without one: then it could not be made.
        """
        assert self._lifetime is not None
        if error is not None:
            self.life.failed_runs.append(error)
            self._team.note_down(self)
            # What takes calls now is about to end.
            self.slot.publish(self.state, self.slot.reason, None, next_at=self.slot.next_at)
            if not await self._end_renewed(self._lifetime, error, is_polite=True):
                return False
        again = self._new_life(restarts=self.life.restarts, after=self.life)
        failure = await again.launch(self.stop_asked)
        if self.stop_asked.done():
            return False
        if failure is not None:
            again.record.errors.append(("start", failure))
            again.record.failed_runs.append(failure)
            return await self._end_renewed(again, failure, is_polite=isinstance(failure, TimeoutError))
        self._team.note_ready(self)
        return True

    async def _end_renewed(self, lifetime: Lifetime, error: BaseException, *, is_polite: bool) -> bool:
        is_gone = await lifetime.end(is_polite=is_polite)
        if self.stop_asked.done():
            return False
        if not is_gone:
            set_signal(self.stop_asked)
            self.move(ServiceTrigger.KILL, describe_error(error))
            self.move(ServiceTrigger.KILL_FAILED, describe_error(error))
            self._team.note_end(self, Exit(problem=f"its run could not be ended: {describe_error(error)}"))
        return is_gone

    def show_next(self, next_at: float) -> None:
        """Show when the next run comes, in seconds since the epoch."""
        self.slot.next_at = next_at

    async def _pause_for_retry(self, reason: str) -> bool:
        """Decide on a restart after a failed start; return whether it begins now, when its pause is over.

        Called when the service is proved gone. False leaves it at rest: its policy wants no more, or a stop came.
        """
        rule = self.slot.spec.policy.restart_rule
        again = self._decide(ran_s=0.0, is_wanted=wants_restart(rule, is_clean=False))
        if not isinstance(again, Again):
            self.move(ServiceTrigger.DIED_FINAL, "; ".join(filter(None, (reason, again.reason))))
            return False
        self._announce_retry(again, reason)
        await self._pause(again)
        return await self._retry()

    def _decide(self, *, ran_s: float, is_wanted: bool) -> Again | Enough:
        rule = self.slot.spec.policy.restart_rule
        self._past = self._past.seen_from(self._loop.time(), rule, ran_s=ran_s)
        return decide(rule, self._past, is_wanted=is_wanted, jitter=self._jitter())

    def _announce_retry(self, again: Again, reason: str) -> None:
        rule = self.slot.spec.policy.restart_rule
        limit = "" if rule.max_restarts is None else f" of {rule.max_restarts}"
        text = f"{reason}; restart {again.number}{limit} in {again.delay_s:.1f} s"
        self._retry_asked = self._loop.create_future()
        self.move(ServiceTrigger.DIED_RETRY, text, next_at=self._wall_clock() + again.delay_s)

    async def _pause(self, again: Again) -> None:
        """Wait until the pause is over, a manual start cuts it short, or a stop comes."""
        watched = {self.stop_asked, self._retry_asked}
        await asyncio.wait(watched, timeout=again.delay_s, return_when=asyncio.FIRST_COMPLETED)

    async def _retry(self) -> bool:
        """Begin a new life when what it needs is there again; return whether it did, before a stop."""
        await self._team.wait_needed(self, self.stop_asked.done)
        if self.stop_asked.done():
            return False
        if not self._retry_asked.done():  # a manual start is none of its policy's
            self._past = self._past.with_one(self._loop.time())
        self._new_life(restarts=self.life.restarts + 1, after=self.life)
        self.move(ServiceTrigger.RETRY)
        return True

    async def _end(self) -> None:
        assert self._lifetime is not None
        self._rest(is_gone=await self._lifetime.end(is_polite=not self._is_kill_asked))

    def _rest(self, *, is_gone: bool) -> None:
        if is_gone:
            self.move(ServiceTrigger.ENDED, self._end_reason)
        else:
            self._move_if(ServiceTrigger.GRACE_OVER, self._end_reason)
            self.move(ServiceTrigger.KILL_FAILED, self.life.survivor.partition("\n")[0])

    # -- observations --------------------------------------------------------------------------------------

    def _note_exit(self, lifetime: Lifetime, exited: asyncio.Future[Exit]) -> None:
        if lifetime is self._lifetime and self.state in ANSWERING:
            end = exited.result()
            lifetime.record.exit = end
            self._fall(lifetime, end, lifetime.clear_up)

    def fail(self, reason: str) -> None:
        """Take it for dead although it runs: end it politely, and restart it within the limits of its policy."""
        if self._lifetime is not None and self.state in ANSWERING:
            lifetime = self._lifetime
            self._fall(lifetime, Exit(problem=reason), lambda: lifetime.end(is_polite=True))

    def _fall(self, lifetime: Lifetime, end: Exit, clear: Callable[[], Awaitable[bool]]) -> None:
        """Leave the running states, since it has ended by itself or is taken for dead."""
        ready_s = lifetime.record.ready_s
        ran_s = self._loop.time() - ready_s if ready_s is not None else 0.0
        is_wanted = bool(end.problem) or wants_restart(self.slot.spec.policy.restart_rule, is_clean=end.is_clean)
        again = self._decide(ran_s=ran_s, is_wanted=is_wanted)
        if isinstance(again, Again):
            self._is_clearing = True
            self._announce_retry(again, str(end))
            self._do(self._come_back(again, clear), is_rising=True)
            return
        reason = "; ".join(filter(None, (str(end), again.reason)))
        self.move(ServiceTrigger.EXITED if end.is_clean else ServiceTrigger.DIED_FINAL, reason)
        self._do(self._clear(clear))
        self._team.note_end(self, end)

    async def _clear(self, clear: Callable[[], Awaitable[bool]]) -> None:
        await clear()

    async def _come_back(self, again: Again, clear: Callable[[], Awaitable[bool]]) -> None:
        """Restart it, with those that restart with it.

        What depends on it steps aside, the old life is cleared away, and the others step aside. After the pause these
        come back first, since it may depend on them; then a new life begins; then what depends on it comes back.
        """
        aside = await self._team.step_aside(self, is_dependant=True)
        beside: Mapping[str, Token] = {}
        try:
            await self._clear_for_restart(clear)
            beside = await self._team.step_aside(self, is_dependant=False)
            await self._pause(again)
            self._team.bring_back(beside)
            beside = {}
            if not await self._retry():
                raise self._stopped_error("while it waited for its restart")
            await self._rise(is_retry=True)
        except ServiceStartError as error:
            self._team.bring_back(beside)
            self._team.bring_back(aside)
            if not self.stop_asked.done():
                self._team.note_end(self, Exit(error=error))
            raise
        self._team.bring_back(aside)

    async def _clear_for_restart(self, clear: Callable[[], Awaitable[bool]]) -> None:
        """Clear the old life away, or raise: it is not gone, or a stop came meanwhile."""
        is_gone = await clear()
        self._is_clearing = False
        if not is_gone:
            self.move(ServiceTrigger.KILL_FAILED, self.life.survivor.partition("\n")[0])
            raise self._start_error("what died left something that cannot be ended, so it is not started again")
        if self.stop_asked.done():
            self._obey_stop()
            raise self._stopped_error("while it waited for its restart")

    def _start_error(self, problem: str) -> ServiceStartError:
        return ServiceStartError(f"service {self.name!r}: {problem}.", service=self.name, phase="launch")

    def _stopped_error(self, when: str) -> ServiceStartError:
        reason = f" ({self.slot.reason})" if self.slot.reason else ""
        return self._start_error(f"it was stopped {when}{reason}")
