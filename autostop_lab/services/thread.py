"""Runtime ``thread``: a Python object in this process.

Its hooks run in a thread of the service's own, one after another. A hook that hangs cannot be ended from here:
the service is abandoned, named with the stack where it hangs, and its ``cleanup()`` is called from another thread.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from autostop_lab.origin import Origin
from autostop_lab.services.coroutines import ServiceLoop
from autostop_lab.services.gate import CallGate, NoTurnError
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.objects import ObjectCalls, make_object
from autostop_lab.services.runtime import Exit, LocalRuntime, details_of
from autostop_lab.services.service import hook
from autostop_lab.services.slot import EndpointClosedError, ServiceSlot
from autostop_lab.services.threads import HookThread, cause_of

#: How long threads get to end that were asked and are late, in seconds.
LAST_MOMENT_S = 0.1


class ObjectEndpoint(ObjectCalls):
    """Calls the methods of an object in this process."""

    def __init__(self, service: object, slot: ServiceSlot, gate: CallGate, coroutines: ServiceLoop) -> None:
        super().__init__(service, gate, coroutines, notes_use=slot.spec.policy.idle_timeout_s is not None)
        self.host: str | None = None
        self.port: int | None = None
        self.ports: dict[str, int] = {}
        self._slot = slot

    def no_method(self, method: str) -> Exception:
        """Return the error that says which methods there are."""
        return self._slot.no_method(method)

    def refusal(self, reason: NoTurnError) -> Exception:
        """Return the error of a call that may not go in."""
        if reason.is_closed:
            return EndpointClosedError()
        return self._slot.too_late() if reason.is_given_up else self._slot.no_turn()

    def ended(self) -> Exception:
        """Return the error of a call that was inside when the service ended."""
        return self._slot.died_with_call()


class ThreadRuntime(LocalRuntime):
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

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot, origin, find_service)
        policy = slot.spec.policy
        self._gate = CallGate(policy.max_concurrent_calls, policy.call_timeout_s)
        self._hooks = HookThread(origin, f"service {slot.name}")
        self._spare: HookThread | None = None
        self._runner: HookThread | None = None
        self._starting: asyncio.Future[Any] | None = None
        self._running: asyncio.Future[Any] | None = None

    async def launch(self) -> None:
        """Make the object and call its ``start()``; begin its ``run()`` if it has one."""
        self._starting = self._hooks.call(self._begin)
        await asyncio.shield(self._starting)
        if self.slot.spec.policy.cron is None and hook(self.service, "run") is not None:
            self._begin_run().add_done_callback(self._note_run_end)
        self.endpoint = ObjectEndpoint(self.service, self.slot, self._gate, self.coroutines)

    def _begin_run(self) -> asyncio.Future[Any]:
        self._runner = HookThread(self.origin, f"run of service {self.slot.name}")
        self._running = self._runner.call(lambda: self.call_hook("run"))
        self._runner.close()
        return self._running

    async def run_once(self) -> None:
        """Call ``run()`` in a thread of its own."""
        await asyncio.shield(self._begin_run())

    async def idle_for_s(self) -> float:
        """Return for how long no call has been inside; 0 while one is, or while its ``is_idle()`` says no."""
        if not self._gate.wait_empty(0):
            return 0.0
        asks = hook(self.service, "is_idle") is not None
        if asks and not await self.in_thread(lambda: self.call_hook("is_idle"), "idleness"):
            self._gate.last_left_s = time.monotonic()
        return time.monotonic() - self._gate.last_left_s

    def _begin(self) -> None:
        spec = self.slot.spec
        self.service = make_object(spec.target, spec.args, spec.kwargs, self.context, self.coroutines)
        self.phase = "start"
        self.call_hook("start")

    def _note_run_end(self, running: asyncio.Future[Any]) -> None:
        if not running.cancelled():
            error = running.exception()
            self.note_exit(Exit(error=cause_of(error) if error is not None else None))

    async def stop(self) -> None:
        """Refuse new calls, let those inside finish within half of the grace period, call ``stop()``."""
        self.phase = "stop"
        self.context.stopping.set()
        self._gate.close()
        patience_s = self.slot.spec.policy.stop_timeout_s / 2
        if self._starting is not None and not self._starting.done():
            await asyncio.wait({self._starting}, timeout=patience_s)
            self.coroutines.cancel()
            await asyncio.wait({self._starting}, timeout=LAST_MOMENT_S)
        error: Exception | None = None
        if self.service is not None:
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
        self.call_hook("stop")

    def _free_thread(self) -> HookThread:
        if not self._hooks.is_busy:
            return self._hooks
        if self._spare is None or self._spare.is_busy:
            self._spare = HookThread(self.origin, f"cleanup of service {self.slot.name}")
        return self._spare

    thread_for_cleanup = _free_thread

    async def kill(self) -> None:
        """Cancel its coroutines; nothing here can end its threads, so they get one last moment."""
        self.context.stopping.set()
        self._gate.close()
        self.coroutines.cancel()
        deadline = time.monotonic() + LAST_MOMENT_S
        while any(thread.is_busy for thread in self.threads()) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Refuse further calls: what ended is an object, and nothing of it runs on."""
        self.context.stopping.set()
        self._gate.close()

    def threads(self) -> list[HookThread]:
        """Return the threads that call its code."""
        mine = (self._hooks, self._runner, self._spare)
        return [*super().threads(), *(thread for thread in mine if thread is not None)]

    @property
    def has_health_check(self) -> bool:
        """Whether it has a ``health_check()``."""
        return hook(self.service, "health_check") is not None

    @property
    def health_function(self) -> Callable[[], Any] | None:
        """Its ``health_check()``, unless that is a coroutine function."""
        check = hook(self.service, "health_check")
        if check is None or inspect.iscoroutinefunction(check):
            return None
        return lambda: self.origin.run(lambda: self.call_hook("health_check"))

    async def examine(self) -> dict[str, Any]:
        """Call its ``health_check()`` in a thread of its own: a hung one blocks nobody."""
        return details_of(await self.ask_health()) if hook(self.service, "health_check") is not None else {}

    def release(self) -> None:
        """Let go of its threads, loop and folder."""
        self.note_exit(Exit())
        super().release()
