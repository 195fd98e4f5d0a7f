"""How many calls are inside a service at once, and how it comes to rest.

One at a time by default, re-entrant: a call made within a call to the same service, also by way of other
services, threads or event loops, does not wait for itself. Nothing here costs more than a lock per call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

#: Gates that the calls which led to this thread or task are inside of.
_inside: ContextVar[frozenset[CallGate]] = ContextVar("autostop_lab_inside", default=frozenset())
_gates: WeakSet[CallGate] = WeakSet()


class Turn(Protocol):
    """What a call holds while it is inside."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; return whether that came within `timeout` seconds."""

    def release(self) -> None:
        """Give it back."""

    def _is_owned(self) -> bool:
        """Return whether this thread holds it."""


class CallGate:
    """Lets at most `limit` calls in at once.

    Parameters
    ----------
    limit : int
        How many, >= 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.is_closed = False
        self.last_left_s = time.monotonic()
        self.turn: Turn = threading.RLock() if limit == 1 else _Turns(limit)  # type: ignore[assignment]
        _gates.add(self)

    def wait_turn(self, timeout_s: float) -> bool | None:
        """Wait for a turn; call it after ``turn.acquire(False)`` has failed.

        Returns
        -------
        bool or None
            True: `turn` is held and has to be released. False: this call is made within a call of the same
            service and holds nothing. None: no turn within `timeout_s`.
        """
        if self in _inside.get():
            return False
        return True if self.turn.acquire(timeout=timeout_s) else None

    def noting_use(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` so that its end is noted in `last_left_s`, on the monotonic clock."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            finally:
                self.last_left_s = time.monotonic()

        return noted

    def close(self) -> None:
        """Let no further call in."""
        self.is_closed = True

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until no call is inside; return whether that came within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        turn: Turn | threading.Semaphore = self.turn.free if isinstance(self.turn, _Turns) else self.turn
        taken = 0
        try:
            while taken < self.limit:
                if not turn.acquire(True, max(0.0, deadline - time.monotonic())):
                    return False
                taken += 1
            return True
        finally:
            for _ in range(taken):
                turn.release()


class _Turns:
    """A counting lock that a thread which holds a turn enters again for free."""

    def __init__(self, limit: int) -> None:
        self.free = threading.Semaphore(limit)
        self._depth = threading.local()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        depth: int = getattr(self._depth, "value", 0)
        if depth == 0 and not self.free.acquire(blocking, None if timeout < 0 else timeout):
            return False
        self._depth.value = depth + 1
        return True

    def release(self) -> None:
        self._depth.value -= 1
        if self._depth.value == 0:
            self.free.release()

    def _is_owned(self) -> bool:
        return getattr(self._depth, "value", 0) > 0


@contextmanager
def carrying_turns(extra: frozenset[CallGate] = frozenset()) -> Iterator[None]:
    """Let what is begun here, in whatever thread or loop, count as within the calls of this thread."""
    held = frozenset(gate for gate in tuple(_gates) if gate.turn._is_owned())
    token = _inside.set(_inside.get() | held | extra)
    try:
        yield
    finally:
        _inside.reset(token)
