"""What a supervisor asks of whatever carries a service; one file per kind of carrier.

A runtime is one life of one service. All its methods are awaited on the supervisor's event loop, are given their
deadlines from outside, and leave waiting when cancelled; none decides what comes next.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autostop_lab.services.handle import Endpoint, HealthResult, ServiceSlot


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
            return f"{type(self.error).__name__}: {self.error}"
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
    """

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
        """Call its ``cleanup()``, however it ended."""

    @abstractmethod
    def release(self) -> None:
        """Let go of everything of ours that served it; does not wait."""

    @abstractmethod
    async def check_health(self) -> HealthResult:
        """Look at it once."""

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
        return f"{self.phase}() did not return"

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


def describe_error(error: BaseException) -> str:
    """Return an exception as one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def details_of(answer: Any) -> tuple[bool, dict[str, Any]]:
    """Read what a ``health_check()`` returned: a dict of details is healthy, as is None and anything true."""
    if isinstance(answer, dict):
        return True, dict(answer)
    return answer is None or bool(answer), {}
