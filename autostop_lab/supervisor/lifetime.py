"""One life of one service, each step within its deadline, and the record of it. What comes next is the unit's affair.

Everything here runs on the supervisor's event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from autostop_lab.exceptions import ReadinessTimeoutError, ServiceStartError, ServiceStopError
from autostop_lab.services.runtime import Runtime, describe_error
from autostop_lab.services.scarcity import way_out
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.threads import cause_of
from autostop_lab.supervisor.outcome import Life

Error = TypeVar("Error", bound=Exception)

#: Longest polite stop or cleanup, in seconds, once somebody is in a hurry: a second interrupt, or the end of
#: ``shutdown_timeout_s``.
HURRIED_S = 0.5


class Lifetime:
    """One life of one service, from its launch to its cleanup.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    make_runtime : callable
        Makes what carries it.
    on_late : callable
        Told when its grace period is over.

    Attributes
    ----------
    record : Life
        What has happened in it.
    runtime : Runtime or None
        What carries it, until it is cleaned.
    """

    def __init__(self, slot: ServiceSlot, make_runtime: Callable[[], Runtime], on_late: Callable[[], None]) -> None:
        self._slot = slot
        self._policy = slot.spec.policy
        self._make_runtime = make_runtime
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._hurry: asyncio.Future[None] = self._loop.create_future()
        self.runtime: Runtime | None = None
        self.record = Life(started_s=self._loop.time())

    def hurry(self) -> None:
        """Skip what is left of grace periods."""
        set_signal(self._hurry)

    async def launch(self, stop_asked: asyncio.Future[None]) -> BaseException | None:
        """Begin, and return when it is ready, has failed, is late, or `stop_asked` is set.

        Returns
        -------
        ServiceStartError or None
            Why it is not ready; None if it is, or if it was asked to stop on its way.
        """
        try:
            self.runtime = self._make_runtime()
        except Exception as raised:
            return self._start_error(raised, "construct")
        launching = asyncio.ensure_future(self.runtime.launch())
        await self._first_of(launching, stop_asked, self._policy.start_timeout_s)
        is_late = not launching.done() and not stop_asked.done()
        place = await self.runtime.where() if is_late else ""
        self.record.pid, self.record.child_pid = self.runtime.pid, self.runtime.child_pid
        if launching.done():
            error = launching.exception()
            if error is not None:
                return self._start_error(error, self.runtime.phase)
            self.record.ready_s = self._loop.time()
            return None
        launching.cancel()
        await asyncio.wait({launching})
        return None if stop_asked.done() else self._timeout_error(self.runtime, place)

    async def end(self, *, is_polite: bool) -> bool:
        """End and clean it; return whether all of it is gone. A second call changes nothing."""
        if self.record.is_over:
            return not self.record.survivor
        is_gone = True
        self.record.stop_began_s = self._loop.time()
        if self.runtime is not None:
            if not is_polite or not await self._stop_politely(self.runtime):
                self._on_late()
                is_gone = await self._within(self.runtime.kill(), self._policy.kill_timeout_s, "kill")
            await self._clean(self.runtime, is_gone=is_gone)
        self.record.ended_s = self._loop.time()
        return not self.record.survivor

    async def _stop_politely(self, runtime: Runtime) -> bool:
        """Stop it within its grace period, and return whether that came to an end, and to its end."""
        told = len(self.record.errors)
        is_over = await self._within(runtime.stop(), self._policy.stop_timeout_s, "stop")
        # Where the stop itself failed, say for lack of a thread, it may run on as if nobody had asked.
        has_failed = len(self.record.errors) > told
        return is_over and not (has_failed and runtime.survivor())

    async def clear_up(self) -> bool:
        """End what it left behind when it ended by itself, and clean it; return whether all of it is gone."""
        is_gone = True
        self.record.stop_began_s = self._loop.time()
        if self.runtime is not None:
            if not await self._within(self.runtime.settle(), self._policy.stop_timeout_s, "stop"):
                is_gone = await self._within(self.runtime.kill(), self._policy.kill_timeout_s, "kill")
            await self._clean(self.runtime, is_gone=is_gone)
        self.record.ended_s = self._loop.time()
        return not self.record.survivor

    async def _clean(self, runtime: Runtime, *, is_gone: bool) -> None:
        self.record.cleanup_began_s = self._loop.time()
        await self._within(runtime.cleanup(), self._policy.cleanup_timeout_s, "cleanup")
        try:
            await runtime.dismiss()
        except Exception as error:  # its folder cannot be removed, say
            self.record.errors.append(("cleanup", error))
        not_proved = f"it was not proved gone within {self._policy.kill_timeout_s:g} s after the kill"
        self.record.survivor = runtime.survivor() or ("" if is_gone else not_proved)
        self.record.was_forced = self.record.was_forced or runtime.was_forced
        self.record.exit_code = runtime.exit_code
        self.record.contain = runtime.contain
        self.runtime = None
        runtime.release()

    async def _within(self, work: Coroutine[Any, Any, None], timeout_s: float, phase: str) -> bool:
        """Do `work` within a deadline, record its error or lateness, and return whether it came to an end."""
        task = asyncio.ensure_future(work)
        if phase == "kill":
            await asyncio.wait({task}, timeout=timeout_s)
        else:
            if not self._hurry.done():
                await self._first_of(task, self._hurry, timeout_s)
            if not task.done() and self._hurry.done():
                timeout_s = min(timeout_s, HURRIED_S)
                await asyncio.wait({task}, timeout=timeout_s)
        assert self.runtime is not None
        place = await self.runtime.where() if not task.done() and phase != "kill" else ""
        if task.done():
            if (error := task.exception()) is not None:
                self.record.errors.append((phase, cause_of(error)))
            return True
        task.cancel()
        await asyncio.wait({task})
        if phase != "kill":
            self.record.errors.append((phase, self._late_error(phase, timeout_s, place)))
        return False

    async def _first_of(self, task: asyncio.Future[Any], signal: asyncio.Future[None], timeout_s: float) -> None:
        """Wait until `task` is done, `signal` is set, or time is over."""
        await asyncio.wait({task, signal}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    # -- errors --------------------------------------------------------------------------------------------

    def _start_error(self, error: BaseException, phase: str) -> BaseException:
        if isinstance(error, ServiceStartError):
            return error
        cause = cause_of(error)
        where = "its constructor" if phase == "construct" else f"{phase}()"
        advice = f" {sentence}." if (sentence := way_out(cause)) else ""
        text = f"service {self._slot.name!r} did not start: {where} raised {describe_error(cause)}.{advice}"
        wrapped = ServiceStartError(
            self._slot.ring.mask(text),
            service=self._slot.name,
            phase=phase,
            log_lines=self._slot.ring.last_words(),
        )
        wrapped.__cause__ = cause
        return wrapped

    def _timeout_error(self, runtime: Runtime, place: str) -> ServiceStartError:
        name, pid = self._slot.name, f" (pid {runtime.pid})" if runtime.pid is not None else ""
        lines = self._slot.ring.last_words()
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        at, _, stack = place.partition("\n")
        waiting_for = "; ".join(filter(None, (runtime.waiting_for(), at)))
        error = ReadinessTimeoutError(
            f"service {name!r}{pid} was not ready after {self._policy.start_timeout_s:g} s: {waiting_for}. "
            f"Read its lines with job.logs({name!r}), or raise start_timeout_s.{said}",
            service=name,
            phase=runtime.phase,
            log_lines=lines,
        )
        return _with_stack(error, stack)

    def _late_error(self, phase: str, timeout_s: float, place: str) -> ServiceStopError:
        name = self._slot.name
        what = "it did not end" if self._slot.spec.is_command and phase == "stop" else f"{phase}() did not return"
        at, _, stack = place.partition("\n")
        text = "; ".join(filter(None, (f"service {name!r}: {what} within {timeout_s:g} s", at)))
        return _with_stack(ServiceStopError(text, service=name, phase=phase), stack)


def _with_stack(error: Error, stack: str) -> Error:
    if stack:
        error.add_note(f"It was there:\n{stack.rstrip()}")
    return error


def set_signal(signal: asyncio.Future[None]) -> None:
    """Resolve a future that stands for something that happens once; a second time changes nothing."""
    if not signal.done():
        signal.set_result(None)
