"""One supervised service: carries out what its state table allows, each step within its deadline.

Everything here runs on the supervisor's event loop, so nothing needs a lock. At most one task at a time works on
a unit: the one that starts it, the one that ends it, or the one that clears up after it ended by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ReadinessTimeoutError, ServiceError, ServiceStartError, ServiceStopError
from autostop_lab.lifecycle import SERVICE_TABLE, Machine, ServiceState, ServiceTrigger
from autostop_lab.services.handle import HealthResult, ServiceSlot
from autostop_lab.services.program import SHOWN_LOG_LINES
from autostop_lab.services.runtime import Exit, Runtime, describe_error
from autostop_lab.services.threads import HookError
from autostop_lab.supervisor.outcome import Life

#: Longest polite stop or cleanup, in seconds, once somebody is in a hurry: a second interrupt, or the end of
#: ``shutdown_timeout_s``.
HURRIED_S = 0.5

ANSWERING = frozenset({ServiceState.RUNNING, ServiceState.UNHEALTHY, ServiceState.WAITING})


class Unit:
    """One supervised service.

    Parameters
    ----------
    slot : ServiceSlot
        Its name and what is shown of it.
    make_runtime : callable
        Makes a runtime: one life of the service.
    publish : callable
        Takes each of its moves.
    on_exit : callable
        Told when it has ended by itself.
    """

    def __init__(
        self,
        slot: ServiceSlot,
        *,
        make_runtime: Callable[[], Runtime],
        publish: Callable[[ServiceMoved], None],
        on_exit: Callable[[Unit, Exit], None],
    ) -> None:
        self.slot = slot
        self.machine = Machine(SERVICE_TABLE, slot.name)
        self.life = Life()
        self._loop = asyncio.get_running_loop()
        self._hurry: asyncio.Future[None] = self._loop.create_future()
        self._stop_asked: asyncio.Future[None] = self._loop.create_future()
        self._make_runtime = make_runtime
        self._publish = publish
        self._on_exit = on_exit
        self._runtime: Runtime | None = None
        self._work: asyncio.Task[None] | None = None

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

    def _move(self, trigger: ServiceTrigger, reason: str = "") -> None:
        row = self.machine.step(trigger)
        endpoint = self._runtime.endpoint if self._runtime is not None and row.target in ANSWERING else None
        self.slot.publish(row.target, reason, endpoint)
        self._publish(
            ServiceMoved(
                service=self.name,
                source=row.source,
                target=row.target,
                trigger=row.trigger,
                why=row.why,
                reason=reason,
            )
        )

    # -- orders --------------------------------------------------------------------------------------------

    async def start(self, reason: str = "") -> None:
        """Start it and return when it is ready; one that runs already is left as it is.

        Raises
        ------
        ServiceStartError
            It did not become ready; it is cleaned.
        """
        if self.state in ANSWERING:
            return
        await self.settled()
        if self.state is ServiceState.ABANDONED:
            raise ServiceStartError(
                f"service {self.name!r} was abandoned and is not started again: what is left of it still runs.\n"
                f"{self.life.survivor}",
                service=self.name,
                phase="launch",
            )
        self.life = Life(started_s=self._loop.time())
        self._hurry = self._loop.create_future()
        self._stop_asked = self._loop.create_future()
        self._move(ServiceTrigger.START, reason)
        self._work = asyncio.ensure_future(self._start())
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())
        await asyncio.shield(self._work)

    async def stop(self, reason: str = "", *, kill: bool = False) -> None:
        """End it and return when it is at rest; `kill` skips the grace period. What failed is in `life`."""
        if self.is_live and self.state not in SERVICE_TABLE.ending:
            was_starting = self.state is ServiceState.STARTING
            self._move(ServiceTrigger.KILL if kill else ServiceTrigger.STOP, reason)
            set_signal(self._stop_asked)
            if not was_starting:
                self._work = asyncio.ensure_future(self._end(is_polite=not kill))
        if kill:
            self.hurry()
        await self.settled()

    def hurry(self) -> None:
        """Skip what is left of its grace periods."""
        set_signal(self._hurry)

    async def settled(self) -> None:
        """Wait for whatever is being done with it."""
        while self._work is not None and not self._work.done():
            await asyncio.wait({self._work})

    async def check_health(self, timeout_s: float) -> HealthResult:
        """Look at it once."""
        runtime = self._runtime
        if runtime is None or self.state not in ANSWERING:
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

    async def _start(self) -> None:
        policy = self.slot.spec.policy
        error: BaseException | None = None
        is_polite = False
        try:
            self._runtime = self._make_runtime()
        except Exception as raised:
            error = self._start_error(raised, "construct")
        else:
            launch = asyncio.ensure_future(self._runtime.launch())
            await self._first_of(launch, self._stop_asked, policy.start_timeout_s)
            if not launch.done():
                is_polite = True
                error = self._timeout_error(policy.start_timeout_s)
                launch.cancel()
                await asyncio.wait({launch})
            elif launch.exception() is not None:
                error = self._start_error(launch.exception(), self._runtime.phase)
            self.life.pid = self._runtime.pid
        if error is None and not self._stop_asked.done():
            assert self._runtime is not None
            self.life.ready_s = self._loop.time()
            self._move(ServiceTrigger.READY)
            runtime = self._runtime
            runtime.exited.add_done_callback(lambda future: self._note_exit(runtime, future))
            return
        if self._stop_asked.done():
            await self._end(is_polite=is_polite or error is None)
            return
        assert error is not None
        self.life.errors.append(("start", error))
        is_gone = await self._wind_down(is_polite=is_polite)
        reason = describe_error(error)
        if self.state is ServiceState.STARTING:
            self._move(ServiceTrigger.DIED_FINAL if is_gone else ServiceTrigger.KILL_FAILED, reason)
        else:
            self._rest(is_gone=is_gone)
        raise error

    async def _end(self, *, is_polite: bool) -> None:
        self._rest(is_gone=await self._wind_down(is_polite=is_polite))

    def _rest(self, *, is_gone: bool) -> None:
        if is_gone:
            self._move(ServiceTrigger.ENDED)
        else:
            self._move_if(ServiceTrigger.GRACE_OVER)
            self._move(ServiceTrigger.KILL_FAILED, self.life.survivor.partition("\n")[0])

    def _move_if(self, trigger: ServiceTrigger, reason: str = "") -> None:
        if self.machine.accepts(trigger):
            self._move(trigger, reason)

    async def _wind_down(self, *, is_polite: bool) -> bool:
        """End and clean what `_runtime` is, record what happened, and return whether all of it is gone."""
        policy, runtime = self.slot.spec.policy, self._runtime
        is_gone = True
        self.life.stop_began_s = self._loop.time()
        if runtime is not None:
            if not is_polite or not await self._within(runtime.stop(), policy.stop_timeout_s, "stop"):
                self._move_if(ServiceTrigger.GRACE_OVER)
                is_gone = await self._within(runtime.kill(), policy.kill_timeout_s, "kill")
            await self._clean(runtime)
            is_gone = is_gone and not self.life.survivor
        self.life.ended_s = self._loop.time()
        return is_gone

    async def _clean(self, runtime: Runtime) -> None:
        self.life.cleanup_began_s = self._loop.time()
        await self._within(runtime.cleanup(), self.slot.spec.policy.cleanup_timeout_s, "cleanup")
        self.life.survivor = runtime.survivor()
        self.life.was_forced = self.life.was_forced or runtime.was_forced
        self.life.exit_code = runtime.exit_code
        self._runtime = None
        runtime.release()

    async def _within(self, work: Coroutine[Any, Any, None], timeout_s: float, phase: str) -> bool:
        """Do `work` within a deadline, record its error or its lateness, and return whether it came to an end."""
        task = asyncio.ensure_future(work)
        if not self._hurry.done() or phase == "kill":
            await self._first_of(task, self._hurry if phase != "kill" else None, timeout_s)
        if not task.done() and self._hurry.done() and phase != "kill":
            await asyncio.wait({task}, timeout=min(timeout_s, HURRIED_S))
        if task.done():
            if (error := task.exception()) is not None:
                self.life.errors.append((phase, error.cause if isinstance(error, HookError) else error))
            return True
        task.cancel()
        await asyncio.wait({task})
        if phase != "kill":
            spent = f"{min(timeout_s, HURRIED_S) if self._hurry.done() else timeout_s:g} s"
            what = "it did not end" if self.slot.spec.is_command and phase == "stop" else f"{phase}() did not return"
            self.life.errors.append(
                (
                    phase,
                    ServiceStopError(f"service {self.name!r}: {what} within {spent}", service=self.name, phase=phase),
                )
            )
        return False

    async def _first_of(self, task: asyncio.Future[Any], signal: asyncio.Future[None] | None, timeout_s: float) -> None:
        """Wait until `task` is done, `signal` is set, or time is over."""
        watched = {task} if signal is None else {task, signal}
        await asyncio.wait(watched, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    # -- observations --------------------------------------------------------------------------------------

    def _note_exit(self, runtime: Runtime, exited: asyncio.Future[Exit]) -> None:
        if runtime is not self._runtime or self.state not in ANSWERING:
            return  # told to end, or an earlier life
        end = exited.result()
        self.life.exit = end
        self._work = asyncio.ensure_future(self._clear_up(runtime))
        self._move(ServiceTrigger.EXITED if end.is_clean else ServiceTrigger.DIED_FINAL, str(end))
        self._on_exit(self, end)

    async def _clear_up(self, runtime: Runtime) -> None:
        """End what a service left that ended by itself, and clean it."""
        policy = self.slot.spec.policy
        self.life.stop_began_s = self._loop.time()
        if not await self._within(runtime.settle(), policy.stop_timeout_s, "stop"):
            await self._within(runtime.kill(), policy.kill_timeout_s, "kill")
        await self._clean(runtime)
        self.life.ended_s = self._loop.time()

    # -- errors --------------------------------------------------------------------------------------------

    def _start_error(self, error: BaseException | None, phase: str) -> BaseException:
        if isinstance(error, ServiceStartError):
            return error
        cause = error.cause if isinstance(error, HookError) else error
        assert cause is not None
        where = "its constructor" if phase == "construct" else f"{phase}()"
        wrapped = ServiceStartError(
            f"service {self.name!r} did not start: {where} raised {describe_error(cause)}.",
            service=self.name,
            phase=phase,
            log_lines=self.slot.ring.texts(SHOWN_LOG_LINES),
        )
        wrapped.__cause__ = cause
        return wrapped

    def _timeout_error(self, timeout_s: float) -> ServiceError:
        assert self._runtime is not None
        pid = f" (pid {self._runtime.pid})" if self._runtime.pid is not None else ""
        lines = self.slot.ring.texts(SHOWN_LOG_LINES)
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return ReadinessTimeoutError(
            f"service {self.name!r}{pid} was not ready after {timeout_s:g} s: {self._runtime.waiting_for()}. "
            f"Read its lines with job.logs({self.name!r}), or raise start_timeout_s.{said}",
            service=self.name,
            phase=self._runtime.phase,
            log_lines=lines,
        )


def set_signal(signal: asyncio.Future[None]) -> None:
    """Resolve a future that stands for something that happens once; a second time changes nothing."""
    if not signal.done():
        signal.set_result(None)
