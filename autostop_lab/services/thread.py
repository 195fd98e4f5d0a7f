"""Runtime ``thread``: a Python object in this process.

Its hooks run in a thread of the service's own, one after another. A hook that hangs cannot be ended from here:
the service is abandoned, named with the stack where it hangs, and its ``cleanup()`` is called from another thread.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from autostop_lab.exceptions import ServiceCrashedError, ServiceUnavailableError
from autostop_lab.origin import Origin
from autostop_lab.reaper.session import current_session
from autostop_lab.services.gate import CallGate, carrying_turns
from autostop_lab.services.handle import EndpointClosedError, HealthResult, ServiceHandle, ServiceSlot, current_hook
from autostop_lab.services.logs import SHOWN_LOG_LINES
from autostop_lab.services.runtime import Exit, Runtime, describe_error, details_of
from autostop_lab.services.service import HOOKS, ServiceContext, construct, hook
from autostop_lab.services.threads import HookError, HookThread, ServiceLoop, call_in_thread

#: How long threads get to end that were asked and are late, in seconds.
LAST_MOMENT_S = 0.1


class ObjectEndpoint:
    """Calls the methods of an object in this process, within its limit of concurrent calls."""

    def __init__(self, service: object, slot: ServiceSlot, gate: CallGate, loop: ServiceLoop) -> None:
        self.host: str | None = None
        self.port: int | None = None
        self.ports: dict[str, int] = {}
        self._service = service
        self._slot = slot
        self._gate = gate
        self._loop = loop

    def methods(self) -> Iterable[str]:
        """Return the names of its public methods."""
        return [
            name
            for name in dir(type(self._service))
            if not name.startswith("_") and name not in HOOKS and callable(getattr(self._service, name, None))
        ]

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the function that calls `method`, waiting for its turn."""
        function = getattr(self._service, method)
        gate, slot = self._gate, self._slot
        acquire, release, wait_turn = gate.turn.acquire, gate.turn.release, gate.wait_turn
        timeout_s = slot.spec.policy.call_timeout_s

        def call(*args: Any, **kwargs: Any) -> Any:
            is_held = acquire(False) or wait_turn(timeout_s)
            try:
                if gate.is_closed:
                    raise EndpointClosedError
                if is_held is None:
                    raise self._refusal(method, timeout_s)
                return function(*args, **kwargs)
            finally:
                if is_held:
                    release()

        if slot.spec.policy.idle_timeout_s is not None:
            call = gate.noting_use(call)
        if not inspect.iscoroutinefunction(function):
            return call
        finish = self._loop.finish

        def call_async(*args: Any, **kwargs: Any) -> Any:
            is_held = acquire(False) or wait_turn(timeout_s)
            try:
                if gate.is_closed:
                    raise EndpointClosedError
                if is_held is None:
                    raise self._refusal(method, timeout_s)
                with carrying_turns(frozenset({gate})):
                    return finish(function(*args, **kwargs))
            except CancelledError:
                raise self._crash(method) from None
            finally:
                if is_held:
                    release()

        return gate.noting_use(call_async) if slot.spec.policy.idle_timeout_s is not None else call_async

    def _crash(self, method: str) -> ServiceCrashedError:
        lines = self._slot.ring.texts(SHOWN_LOG_LINES)
        return ServiceCrashedError(
            f"service {self._slot.name!r} ended while {method}() was inside: it is {self._slot.state}"
            f"{': ' + self._slot.reason if self._slot.reason else ''}. Read its lines with handle.logs().",
            service=self._slot.name,
            phase="call",
            log_lines=lines,
        )

    def _refusal(self, method: str, timeout_s: float) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"service {self._slot.name!r}: {method}() had no turn within {timeout_s:g} s, since other calls "
            f"take theirs. Raise call_timeout_s, or max_concurrent_calls if the service is thread-safe.",
            service=self._slot.name,
            phase="call",
        )


class ThreadRuntime(Runtime):
    """One life of a Python object in this process.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    origin : Origin
        Under whose cell its output appears.
    find_service : callable
        ``name -> ServiceHandle`` for what it depends on.
    """

    phase = "construct"

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot)
        self._origin = origin
        self._instance = current_session().new_instance(slot.name)
        self._context = ServiceContext(slot.name, self._instance, slot.ring, find_service)
        self._gate = CallGate(slot.spec.policy.max_concurrent_calls)
        self._loop = ServiceLoop(origin, f"event loop of service {slot.name}")
        self._service: object = None
        self._is_made = False
        self._hooks = HookThread(origin, f"service {slot.name}")
        self._spare: HookThread | None = None
        self._runner: HookThread | None = None
        self._starting: asyncio.Future[Any] | None = None
        self._running: asyncio.Future[Any] | None = None
        self._checking: asyncio.Future[Any] | None = None

    async def launch(self) -> None:
        """Make the object and call its ``start()``; begin its ``run()`` if it has one."""
        self._starting = self._hooks.call(self._begin)
        await asyncio.shield(self._starting)
        if self.slot.spec.policy.cron is None and hook(self._service, "run") is not None:
            self._begin_run().add_done_callback(self._note_run_end)
        self.endpoint = ObjectEndpoint(self._service, self.slot, self._gate, self._loop)

    def _begin_run(self) -> asyncio.Future[Any]:
        self._runner = HookThread(self._origin, f"run of service {self.slot.name}")
        self._running = self._runner.call(lambda: self._call_hook("run"))
        self._runner.close()
        return self._running

    async def run_once(self) -> None:
        """Call ``run()`` in a thread of its own."""
        await asyncio.shield(self._begin_run())

    async def idle_for_s(self) -> float:
        """Return for how long no call has been inside; 0 while one is, or while its ``is_idle()`` says no."""
        if not self._gate.wait_empty(0):
            return 0.0
        is_idle = hook(self._service, "is_idle")
        if is_idle is not None:
            name = f"idleness of service {self.slot.name}"
            answer = await call_in_thread(lambda: self._loop.finish(is_idle()), origin=self._origin, name=name)
            if not answer:
                self._gate.last_left_s = time.monotonic()
        return time.monotonic() - self._gate.last_left_s

    def _begin(self) -> None:
        spec = self.slot.spec
        self._service = construct(spec.target, spec.args, spec.kwargs, self._context)
        self._is_made = True
        self.phase = "start"
        self._call_hook("start")

    def _call_hook(self, name: str) -> Any:
        function = hook(self._service, name) if self._is_made else None
        if function is None:
            return None
        token = current_hook.set(self.slot)
        try:
            return self._loop.finish(function())
        finally:
            current_hook.reset(token)

    def _note_run_end(self, running: asyncio.Future[Any]) -> None:
        if not running.cancelled():
            error = running.exception()
            self.note_exit(Exit(error=error.cause if isinstance(error, HookError) else error))

    async def stop(self) -> None:
        """Refuse new calls, let those inside finish within half of the grace period, call ``stop()``."""
        self.phase = "stop"
        self._context.stopping.set()
        self._gate.close()
        patience_s = self.slot.spec.policy.stop_timeout_s / 2
        if self._starting is not None and not self._starting.done():
            await asyncio.wait({self._starting}, timeout=patience_s)
        error: BaseException | None = None
        try:
            await self._free_thread().call(lambda: self._stop_in_thread(patience_s))
        except Exception as raised:
            error = raised
        if self._running is not None:
            await asyncio.wait({self._running})
        if error is not None:
            raise error

    def _stop_in_thread(self, patience_s: float) -> None:
        self._gate.wait_empty(patience_s)
        self._call_hook("stop")

    def _free_thread(self) -> HookThread:
        if not self._hooks.is_busy:
            return self._hooks
        if self._spare is None or self._spare.is_busy:
            self._spare = HookThread(self._origin, f"cleanup of service {self.slot.name}")
        return self._spare

    async def kill(self) -> None:
        """Cancel its coroutines; nothing here can end its threads, so they get one last moment."""
        self._context.stopping.set()
        self._gate.close()
        self._loop.cancel()
        deadline = time.monotonic() + LAST_MOMENT_S
        while any(thread.is_busy for thread in self._threads()) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Refuse further calls: what ended is an object, and nothing of it runs on."""
        self._context.stopping.set()
        self._gate.close()

    def _threads(self) -> list[HookThread]:
        return [thread for thread in (self._hooks, self._runner, self._spare) if thread is not None]

    async def cleanup(self) -> None:
        """Call ``cleanup()``, if there is an object that has one."""
        self.phase = "cleanup"
        if not self._is_made or hook(self._service, "cleanup") is None:
            return
        await self._free_thread().call(lambda: self._call_hook("cleanup"))

    def release(self) -> None:
        """Let go of its threads, loop and folder."""
        self.endpoint = None
        self.note_exit(Exit())
        self._loop.close()
        for thread in self._threads():
            thread.close()
        self._instance.remove()

    @property
    def has_health_check(self) -> bool:
        """Whether it has a ``health_check()``."""
        return hook(self._service, "health_check") is not None

    @property
    def health_function(self) -> Callable[[], Any] | None:
        """Its ``health_check()``, unless that is a coroutine function."""
        check = hook(self._service, "health_check")
        if check is None or inspect.iscoroutinefunction(check):
            return None
        return lambda: self._origin.run(lambda: self._loop.finish(check()))

    async def _call_health_check(self, check: Callable[[], Any]) -> Any:
        """Call ``health_check()``: a coroutine in the service's event loop, a function in a thread of its own.

        A function that still hangs is not called again, but waited for.
        """
        if inspect.iscoroutinefunction(check):
            return await asyncio.wrap_future(self._loop.submit(check()))
        if self._checking is None or self._checking.done():
            name = f"health check of service {self.slot.name}"
            self._checking = call_in_thread(lambda: self._loop.finish(check()), origin=self._origin, name=name)
        return await asyncio.shield(self._checking)

    async def check_health(self) -> HealthResult:
        """Call its ``health_check()`` where a hung one blocks nobody."""
        began = time.monotonic()
        healthy, error = True, None
        details: dict[str, Any] = {}
        check = hook(self._service, "health_check")
        if check is not None:
            try:
                answer = await self._call_health_check(check)
                healthy, details = details_of(answer)
                error = None if healthy else f"health_check() returned {answer!r}"
            except Exception as raised:
                healthy, error = False, describe_error(raised)
        return HealthResult(
            state=self.slot.state,
            is_healthy=healthy,
            details=details,
            latency_s=time.monotonic() - began,
            error=error,
        )

    def survivor(self) -> str:
        """Return the names and stacks of threads that still run its code."""
        busy = [thread for thread in self._threads() if thread.is_busy]
        return "\n".join(thread.survivor() for thread in busy)
