"""A clock on which time stands still until nothing is ready, and then jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from autostop_lab.exceptions import AutostopError, ConfigurationError

Result = TypeVar("Result")

#: How long a standing clock waits for another thread when nothing else can go on, in real seconds.
OUTSIDE_S = 5.0


class StandstillError(AutostopError):
    """On a fake clock, everything waits for something that never comes."""


class FakeClock:
    """An event loop on which time stands still until nothing is ready, and then jumps to the next timer.

    Leave the ``with``, or call `close`, when done.

    Parameters
    ----------
    wall : datetime or float
        What a clock on the wall shows when the loop's time is 0: aware, or in seconds since the epoch.
    """

    def __init__(self, wall: datetime | float = 0.0) -> None:
        self._now_s = 0.0
        self._wall_ahead_s = _epoch_seconds(wall)
        self._runner = asyncio.Runner(loop_factory=lambda: _FakeLoop(self))

    def now(self) -> float:
        """Return the loop's time in seconds; it begins with 0."""
        return self._now_s

    def wall(self) -> float:
        """Return what the clock on the wall shows, in seconds since the epoch."""
        return self._now_s + self._wall_ahead_s

    def set_wall(self, moment: datetime | float) -> None:
        """Set the clock on the wall, back or forward; the loop's time goes on as it did."""
        self._wall_ahead_s = _epoch_seconds(moment) - self._now_s

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and return its value. What else was begun there goes on with the next one.

        Raises
        ------
        StandstillError
            Nothing is ready, no timer is set, and no other thread woke the loop: it would wait for ever.
        """
        return self._runner.run(coroutine)

    def advance(self, duration_s: float) -> None:
        """Let time pass, with all that happens meanwhile."""
        self.run(asyncio.sleep(duration_s))

    def close(self) -> None:
        """Cancel what still runs in the loop, and close it; may be called twice."""
        self._runner.close()

    def __enter__(self) -> Self:
        """Return the clock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _jump(self, duration_s: float) -> None:
        self._now_s += duration_s


def _epoch_seconds(moment: datetime | float) -> float:
    if not isinstance(moment, datetime):
        return float(moment)
    if moment.tzinfo is None:
        raise ConfigurationError(f"FakeClock: {moment!r} has no time zone; give it one with tzinfo=.")
    return moment.timestamp()


class _FakeLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now()


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: where a real one would sleep, time jumps."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            ready = super().select(OUTSIDE_S)
            if not ready:
                raise StandstillError("nothing is ready and no timer is set: what is waited for never comes.")
        elif not ready and timeout is not None and timeout > 0:
            self._clock._jump(timeout)
        return ready
