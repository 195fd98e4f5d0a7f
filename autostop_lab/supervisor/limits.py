"""How long a service may live, and how long it may lie idle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol

from autostop_lab.services.handle import IDLE
from autostop_lab.services.runtime import Exit, Runtime
from autostop_lab.supervisor.unit import Unit

LIFETIME = "lifetime"
#: Shortest pause between two looks at whether a service is idle, in seconds.
SHORTEST_PAUSE_S = 0.02


class Ender(Protocol):
    """Who ends services: the supervisor."""

    async def stop(self, names: list[str], *, reason: str) -> None:
        """End services, what depends on them first."""

    def has_live_dependants(self, name: str) -> bool:
        """Return whether a service lives that depends on this one."""

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
        self._work: set[asyncio.Task[None]] = set()

    def watch(self, unit: Unit) -> None:
        """Watch this life of `unit`, where its policy has a limit."""
        policy, runtime = unit.slot.spec.policy, unit.runtime
        if runtime is None:
            return
        if policy.max_lifetime_s is not None:
            self._loop.call_later(policy.max_lifetime_s, self._end_of_life, unit, runtime)
        if policy.idle_timeout_s is not None:
            self._loop.call_later(policy.idle_timeout_s, self._look_at_idleness, unit, runtime)

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _end_of_life(self, unit: Unit, runtime: Runtime) -> None:
        if unit.runtime is runtime:
            self._do(self._retire(unit))

    async def _retire(self, unit: Unit) -> None:
        lifetime_s = unit.slot.spec.policy.max_lifetime_s
        await self._ender.stop([unit.name], reason=LIFETIME)
        self._ender.note_end(unit, Exit(problem=f"its lifetime of {lifetime_s:g} s is over"))

    def _look_at_idleness(self, unit: Unit, runtime: Runtime) -> None:
        if unit.runtime is runtime:
            self._do(self._rest_if_idle(unit, runtime))

    async def _rest_if_idle(self, unit: Unit, runtime: Runtime) -> None:
        timeout_s = unit.slot.spec.policy.idle_timeout_s
        assert timeout_s is not None
        idle_s = await runtime.idle_for_s()
        if unit.runtime is not runtime:
            return
        if idle_s >= timeout_s and not self._ender.has_live_dependants(unit.name):
            await self._ender.stop([unit.name], reason=IDLE)
        else:
            pause_s = min(max(timeout_s - idle_s, SHORTEST_PAUSE_S), timeout_s / 4 + SHORTEST_PAUSE_S)
            self._loop.call_later(pause_s, self._look_at_idleness, unit, runtime)
