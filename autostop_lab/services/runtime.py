"""What a supervisor asks of whatever carries a service; one file per kind of carrier.

A runtime is one life of one service. All its methods are awaited on the supervisor's event loop, are given their
deadlines from outside, and leave waiting when cancelled; none decides what comes next.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autostop_lab.origin import Origin
from autostop_lab.reaper.guard import current_guard
from autostop_lab.services.context import current_hook
from autostop_lab.services.coroutines import ServiceLoop
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.logs import RingHandler
from autostop_lab.services.service import ServiceContext, hook
from autostop_lab.services.slot import Endpoint, HealthResult, ServiceSlot
from autostop_lab.services.threads import HookThread, call_in_thread, cause_of, text_of


@dataclass(frozen=True)
class Exit:
    """How a service ended by itself.

    Attributes
    ----------
    code : int or None
        Exit status of its process, negative for a signal; None where it is not a process.
    error : BaseException or None
        What its ``run()`` raised.
    problem : str
        Why it is taken for dead although it had not ended; "" otherwise.
    """

    code: int | None = None
    error: BaseException | None = None
    problem: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether it ended as if it was done."""
        return self.error is None and not self.problem and self.code in (None, 0)

    def __str__(self) -> str:
        """Return it in words."""
        if self.problem:
            return self.problem
        if self.error is not None:
            return describe_error(self.error)
        if self.code is None:
            return "done"
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class Runtime(ABC):
    """One life of one service.

    Attributes
    ----------
    slot : ServiceSlot
        Whose life it is.
    exited : asyncio.Future
        Resolved with an `Exit` when the service ends by itself, or after it was told to.
    endpoint : Endpoint or None
        What answers calls, from ready on.
    phase : str
        What it is doing, for error texts: one of the phases of `ServiceError`.
    needed : frozenset of str
        Names of the services that have to outlive it; its supervisor adds those that are needed by way of others.
    """

    needed: frozenset[str] = frozenset()
    endpoint: Endpoint | None = None
    phase: str = "launch"

    def __init__(self, slot: ServiceSlot) -> None:
        self.slot = slot
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def note_exit(self, end: Exit) -> None:
        """Resolve `exited`, once."""
        if not self.exited.done():
            self.exited.set_result(end)

    @abstractmethod
    async def launch(self) -> None:
        """Begin the service and return when it is ready."""

    @abstractmethod
    async def run_once(self) -> None:
        """Do one run of a schedule and return when it is over; raises what it failed with."""

    @abstractmethod
    async def idle_for_s(self) -> float:
        """Return for how long nobody has used it, in seconds."""

    @abstractmethod
    async def stop(self) -> None:
        """Ask the service to end and return when all of it has; raises what its ``stop()`` raised."""

    @abstractmethod
    async def kill(self) -> None:
        """End the service by force, where there is one, and return when all of it is gone."""

    @abstractmethod
    async def settle(self) -> None:
        """End what the service left behind when it ended by itself."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Call its ``cleanup()``, however it ended, and remove its folder."""

    async def dismiss(self) -> None:
        """End what has carried it, when it is cleaned or its cleanup is given up; within deadlines of its own."""
        return

    @abstractmethod
    def release(self) -> None:
        """Let go of everything of ours that served it; does not wait, and does not raise."""

    @abstractmethod
    async def examine(self) -> dict[str, Any]:
        """Look at it once and return details; raises `UnhealthyError`, or what its ``health_check()`` raised."""

    async def check_health(self) -> HealthResult:
        """Look at it once."""
        began_s = time.monotonic()
        details: dict[str, Any] = {}
        error = None
        try:
            details = await self.examine()
        except UnhealthyError as found:
            error = str(found)
        except Exception as raised:
            error = describe_error(cause_of(raised))
        return HealthResult(
            state=self.slot.state,
            is_healthy=error is None,
            details=details,
            latency_s=time.monotonic() - began_s,
            error=self.slot.ring.mask(error) if error is not None else None,
        )

    @property
    def has_health_check(self) -> bool:
        """Whether there is anything to look at."""
        return False

    @property
    def health_function(self) -> Callable[[], Any] | None:
        """Its ``health_check()`` as a plain function; None where a look has to be awaited."""
        return None

    def waiting_for(self) -> str:
        """Return in words what `launch` waits for now."""
        return f"{'its constructor' if self.phase == 'construct' else f'{self.phase}()'} did not return"

    async def where(self) -> str:
        """Return where its code is now, for one that can be ended by force; "" where `survivor` says it, or nobody."""
        return ""

    def survivor(self) -> str:
        """Return what is left of it and where, for the receipt; "" if nothing is."""
        return ""

    @property
    def exit_code(self) -> int | None:
        """Exit status of its process; None where there is none (yet)."""
        return self.exited.result().code if self.exited.done() else None

    @property
    def was_forced(self) -> bool:
        """Whether anything of it had to be killed."""
        return False

    @property
    def pid(self) -> int | None:
        """Pid of its process; None where it has none of its own."""
        return None

    @property
    def child_pid(self) -> int | None:
        """Pid of the child process of ours that its process is, or lives below."""
        return self.pid

    @property
    def contain(self) -> str:
        """How its process is contained; "" where it has none of its own."""
        return ""


class LocalRuntime(Runtime):
    """One life beside the supervisor, in this process: what runtimes of objects and of programs share.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    origin : Origin
        Under whose cell output of its hooks appears.
    find_service : callable
        ``name -> ServiceHandle`` for what it depends on.

    Attributes
    ----------
    guard : Guard
        What keeps the reaper informed.
    """

    phase = "construct"

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot)
        slot.ring.hide(slot.spec.secret_texts())
        self.origin = origin
        self.guard = current_guard()
        self.instance = self.guard.session.new_instance(slot.name)
        self.context = ServiceContext(slot.name, self.instance, RingHandler(slot.ring), find_service)
        self.coroutines = ServiceLoop(origin, f"event loop of service {slot.name}")
        self.service: Any = None
        self.needed = frozenset(slot.spec.policy.depends_on)
        self._checker: HookThread | None = None
        self._checking: asyncio.Future[Any] | None = None

    def in_thread(self, function: Callable[[], Any], purpose: str) -> asyncio.Future[Any]:
        """Call `function` in a daemon thread named for its `purpose`."""
        return call_in_thread(function, origin=self.origin, name=f"{purpose} of service {self.slot.name}")

    def call_hook(self, name: str) -> Any:
        """Call a hook of the service, if there is one, and return its value."""
        function = hook(self.service, name)
        if function is None:
            return None
        token = current_hook.set(self.slot)
        try:
            return self.coroutines.finish(function())
        finally:
            current_hook.reset(token)

    async def ask_health(self) -> Any:
        """Return what its ``health_check()`` says; who asks while another waits for the answer gets the same one.

        A coroutine needs no thread, and ends with the wait for it.
        """
        check = hook(self.service, "health_check")
        if inspect.iscoroutinefunction(check):
            return await self.coroutines.wait(check())
        if self._checking is None or self._checking.done():
            self._checker = HookThread(self.origin, f"health check of service {self.slot.name}")
            self._checking = self._checker.call(lambda: self.call_hook("health_check"))
            self._checker.close()
        return await asyncio.shield(self._checking)

    @abstractmethod
    def thread_for_cleanup(self) -> HookThread:
        """Return a thread that is free to call ``cleanup()``."""

    async def cleanup(self) -> None:
        """Call its ``cleanup()``, however it ended, and remove its folder."""
        self.phase = "cleanup"
        try:
            if self.service is not None and hook(self.service, "cleanup") is not None:
                await self.thread_for_cleanup().call(lambda: self.call_hook("cleanup"))
        except Exception:
            await self._remove_folder()
            raise
        await self._remove_folder()

    async def _remove_folder(self) -> None:
        if self.instance.has_folder:
            await self._remove_aside()
        self.instance.remove()  # for good, so that no late thread of the service makes a new one

    def _remove_aside(self) -> asyncio.Future[Any]:
        name = f"folder of service {self.slot.name}"
        return call_in_thread(self.instance.remove, origin=self.origin, name=name, or_here=True)

    def threads(self) -> list[HookThread]:
        """Return the threads that call its code."""
        return [self._checker] if self._checker is not None else []

    def survivor(self) -> str:
        """Return the names and stacks of threads that still run its code."""
        busy = [thread for thread in self.threads() if thread.is_busy]
        stacks = [thread.survivor() for thread in busy]
        if busy:  # it may wait for a coroutine
            stacks.append(self.coroutines.survivor())
        return "\n".join(filter(None, stacks))

    def release(self) -> None:
        """Let go of its threads, loop and folder."""
        self.endpoint = None
        self.coroutines.close()
        for thread in self.threads():
            thread.close()
        if self.instance.has_folder:  # its cleanup() is late
            self._remove_aside()
        else:
            self.instance.remove()


def describe_error(error: BaseException) -> str:
    """Return an exception as one line, whatever its own ``__str__`` does."""
    lines = text_of(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class UnhealthyError(Exception):
    """A look found a service unwell; the text says why."""


def details_of(answer: Any) -> dict[str, Any]:
    """Read what a ``health_check()`` returned: a dict of details is healthy, as is None and anything true.

    Raises
    ------
    UnhealthyError
        It was anything else.
    """
    if isinstance(answer, dict):
        return dict(answer)
    if answer is None or answer:
        return {}
    raise UnhealthyError(f"health_check() returned {answer!r}")
