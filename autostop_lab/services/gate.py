"""How many calls are inside a service at once, and how it comes to rest.

One at a time by default, re-entrant: a call made within a call to the same service, also by way of other services,
threads or event loops, does not wait for itself. A call costs less than half a microsecond here, and an interrupt at
whatever moment never leaves a turn taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import repeat
from queue import Empty, SimpleQueue
from types import CoroutineType
from typing import Any

from autostop_lab.services.context import inside, seconds_waited_for

#: How often a call that waits for its turn looks whether the gate is closed, in seconds.
CLOSED_LOOK_S = 0.1

class NoTurnError(Exception):
    """A call may not go in: the gate is closed, or nobody waits for it any longer, or it had no turn in time.

    Parameters
    ----------
    is_closed, is_given_up : bool
        Which of the first two it is.
    """

    def __init__(self, *, is_closed: bool = False, is_given_up: bool = False) -> None:
        super().__init__()
        self.is_closed = is_closed
        self.is_given_up = is_given_up


class CallGate:
    """Lets at most `limit` calls in at once.

    Parameters
    ----------
    limit : int
        How many, >= 1.
    timeout_s : float
        Longest wait of a call for its turn, in seconds.
    """

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self.is_closed = False
        self.last_left_s = time.monotonic()
        self._turns: SimpleQueue[bool] = SimpleQueue()
        for _ in range(limit):
            self._turns.put(True)

    def close(self) -> None:
        """Let no further call in, but those that are made within calls which are inside."""
        self.is_closed = True

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until no call is inside; return whether that came within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        taken = 0
        try:
            with suppress(Empty):
                for _ in range(self.limit):
                    self._turns.get(timeout=max(0.0, deadline - time.monotonic()))
                    taken += 1
            return taken == self.limit
        finally:
            for _ in range(taken):
                self._turns.put(True)

    def noting_use(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` so that its end is noted in `last_left_s`, on the monotonic clock."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            finally:
                self.last_left_s = time.monotonic()

        return noted

    def guard(
        self,
        function: Callable[..., Any],
        *,
        finish: Callable[[Any], Any],
        refuse: Callable[[NoTurnError], BaseException],
    ) -> Callable[..., Any]:
        """Return `function` as it is called from outside.

        Parameters
        ----------
        function : callable
            A method of the service.
        finish : callable
            Takes a coroutine and returns its value.
        refuse : callable
            Makes the error of a call that may not go in.

        Returns
        -------
        callable
            Waits for its turn, then calls `function`.
        """
        gate, give_back, wait_turn = self, self._turns.put, self._wait_turn
        get_inside, set_inside, reset_inside = inside.get, inside.set, inside.reset
        # Endless tries to take a turn. An interrupt is raised after a function was called, so it could come between
        # `get()` and the assignment of its result, and the turn would be lost; a loop assigns without such a gap.
        tries = map(self._turns.get, repeat(False))

        def call(*args: Any, **kwargs: Any) -> Any:
            outer = get_inside()
            while outer is not None and outer[0] is None:
                outer = outer[1]
            if outer is not None and _holds(outer, gate):
                value = function(*args, **kwargs)
                return finish(value) if value.__class__ is CoroutineType else value
            has_turn, token, me = False, None, [gate, outer]
            try:
                try:
                    for has_turn in tries:  # noqa: B007
                        break
                except Empty:
                    pass
                if not has_turn:
                    has_turn = wait_turn()
                if gate.is_closed:
                    raise NoTurnError(is_closed=True)
                token = set_inside(me)
                value = function(*args, **kwargs)
                return finish(value) if value.__class__ is CoroutineType else value
            except NoTurnError as reason:
                raise refuse(reason) from None
            finally:
                me[0] = None
                if has_turn:
                    give_back(True)
                if token is not None:
                    reset_inside(token)

        return call

    def _wait_turn(self) -> bool:
        """Return True with a turn, False when the gate is closed; raise `NoTurnError` when time is over."""
        deadline = time.monotonic() + self.timeout_s
        while not self.is_closed:
            left_s = min(deadline - time.monotonic(), seconds_waited_for())
            try:
                for has_turn in map(self._turns.get, (True,), (max(0.0, min(left_s, CLOSED_LOOK_S)),)):
                    return has_turn
            except Empty:
                if left_s <= CLOSED_LOOK_S:
                    raise NoTurnError(is_given_up=seconds_waited_for() <= 0) from None
        return False


def _holds(call: list[Any] | None, gate: CallGate) -> bool:
    while call is not None:
        if call[0] is gate:
            return True
        call = call[1]
    return False
