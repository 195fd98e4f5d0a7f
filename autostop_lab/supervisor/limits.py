"""How long a service may live, and how long it may lie idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

from autostop_lab.services.runtime import Exit, Runtime
from autostop_lab.services.slot import IDLE
from autostop_lab.supervisor.unit import Unit

logger = logging.getLogger("autostop_lab.supervisor")

LIFETIME = "lifetime"
#: Shortest pause between two looks at whether a service is idle, in seconds.
SHORTEST_PAUSE_S = 0.02


class Ender(Protocol):
    """Who ends services: the supervisor."""

    async def retire(self, name: str, *, reason: str) -> None:
        """End a service, what depends on it first."""

    def live_dependants(self, name: str) -> list[Unit]:
        """Return what lives and depends on this service."""

    def note_end(self, unit: Unit, end: Exit) -> None:
        """Hear that a service is gone for good."""


class Limits:
    """Ends services that have lived long enough, or that nobody has called for long.

    Parameters
    ----------
    ender : Ender
        Who ends them.
    """

    def __init__(self, ender: Ender) -> None:
        self._ender = ender
        self._loop = asyncio.get_running_loop()
        # By unit and purpose, so that nothing is left of a life that is over.
        self._timers: dict[tuple[Unit, str], asyncio.TimerHandle] = {}
        self._work: set[asyncio.Task[None]] = set()

    def watch(self, unit: Unit) -> None:
        """Watch this life of `unit`, where its policy has a limit."""
        policy, runtime = unit.slot.spec.policy, unit.runtime
        if runtime is None:
            return
        if policy.max_lifetime_s is not None:
            self._set(unit, LIFETIME, policy.max_lifetime_s, lambda: self._retire(unit))
        if policy.idle_timeout_s is not None:
            self._set(unit, IDLE, policy.idle_timeout_s, lambda: self._rest_if_idle(unit, runtime))

    def forget(self, unit: Unit) -> None:
        """Watch this life no more."""
        for purpose in (LIFETIME, IDLE):
            if (timer := self._timers.pop((unit, purpose), None)) is not None:
                timer.cancel()

    def _set(self, unit: Unit, purpose: str, delay_s: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
        def begin() -> None:
            task = asyncio.ensure_future(work())
            self._work.add(task)
            task.add_done_callback(self._work.discard)

        self._timers[unit, purpose] = self._loop.call_later(delay_s, begin)

    async def _retire(self, unit: Unit) -> None:
        lifetime_s = unit.slot.spec.policy.max_lifetime_s
        dependants = self._ender.live_dependants(unit.name)
        await self._ender.retire(unit.name, reason=LIFETIME)
        self._ender.note_end(unit, Exit(problem=f"its lifetime of {lifetime_s:g} s is over"))
        for other in dependants:
            self._ender.note_end(other, Exit(problem=f"it depends on {unit.name!r}, whose lifetime is over"))

    async def _rest_if_idle(self, unit: Unit, runtime: Runtime) -> None:
        timeout_s = unit.slot.spec.policy.idle_timeout_s
        assert timeout_s is not None
        try:
            idle_s = await asyncio.wait_for(runtime.idle_for_s(), unit.slot.spec.policy.look_timeout_s)
        except Exception:  # user code, or it hangs; what cannot say that it is idle is not
            logger.warning("service %r: is_idle() failed or hung", unit.name, exc_info=True)
            idle_s = 0.0
        if unit.runtime is not runtime:
            return
        if idle_s >= timeout_s and not self._ender.live_dependants(unit.name):
            await self._ender.retire(unit.name, reason=IDLE)
        else:
            pause_s = min(max(timeout_s - idle_s, SHORTEST_PAUSE_S), timeout_s / 4 + SHORTEST_PAUSE_S)
            self._set(unit, IDLE, pause_s, lambda: self._rest_if_idle(unit, runtime))
