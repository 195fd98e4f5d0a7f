"""What a call carries along, from thread to thread and from process to process.

Which calls led to it (they hold turns that it need not wait for), how long somebody waits for it, and in whose hook
it was made (orders given there are not waited for).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, Self

#: The calls that led to here, innermost first: lists [gate, outer list, token if it has travelled]; a call that is
#: over has None for its gate.
inside: ContextVar[list[Any] | None] = ContextVar("autostop_lab_inside", default=None)
_waiting: ContextVar[Waiting | None] = ContextVar("autostop_lab_waiting", default=None)


class HasKey(Protocol):
    """A service, as others refer to it."""

    @property
    def key(self) -> str:
        """What tells it from all others."""


#: The service whose hook this thread is in. Orders given there are not waited for: they would wait for the hook.
current_hook: ContextVar[HasKey | None] = ContextVar("autostop_lab_current_hook", default=None)


class Waiting:
    """Somebody waits for a call, until some moment: calls that it leads to need not be begun after that.

    Parameters
    ----------
    timeout_s : float
        How long, in seconds from now.
    """

    def __init__(self, timeout_s: float) -> None:
        self._until_s = time.monotonic() + timeout_s
        self._outer = _waiting.get()

    def __enter__(self) -> Self:
        """Let it count for what is begun here, in whatever thread or loop."""
        self._token = _waiting.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Let it not count for what is begun here from now on."""
        _waiting.reset(self._token)

    def end(self) -> None:
        """Note that the call is over: what it has left running is not bounded by it."""
        self._until_s = float("inf")

    @property
    def until_s(self) -> float:
        """Monotonic time of its end, or of the end of another one around it."""
        return min(self._until_s, self._outer.until_s) if self._outer is not None else self._until_s


def seconds_waited_for() -> float:
    """Return how long the call that led to here is still waited for, in seconds; may be infinite or negative."""
    waiting = _waiting.get()
    return waiting.until_s - time.monotonic() if waiting is not None else float("inf")


class Carried(NamedTuple):
    """What a call carries into another process.

    Attributes
    ----------
    calls : tuple of str
        Tokens of the calls that led to it, innermost first.
    until_s : float or None
        How long somebody waits for it, on the monotonic clock, which all processes of a machine share; None is
        without limit.
    hook : str or None
        Key of the service whose hook it was made in.
    """

    calls: tuple[str, ...] = ()
    until_s: float | None = None
    hook: str | None = None


#: What most calls carry.
NOTHING = Carried()
#: Stands for the gate of a call in another process.
_ELSEWHERE = object()
#: Calls of this process that have travelled, by token; those that are over are forgotten from time to time.
_travelled: dict[str, list[Any]] = {}
MANY_TRAVELLED = 100


def carried() -> Carried:
    """Return what a call that is made here carries into another process."""
    call, waiting, hook = inside.get(), _waiting.get(), current_hook.get()
    if call is None and waiting is None and hook is None:
        return NOTHING
    tokens = []
    while call is not None:
        if call[0] is not None:
            tokens.append(_token_of(call))
        call = call[1]
    until_s = waiting.until_s if waiting is not None else float("inf")
    return Carried(tuple(tokens), None if until_s == float("inf") else until_s, hook.key if hook is not None else None)


def _token_of(call: list[Any]) -> str:
    if len(call) < 3:
        if len(_travelled) > MANY_TRAVELLED:
            for over in [token for token, known in tuple(_travelled.items()) if known[0] is None]:
                del _travelled[over]
        call.append(os.urandom(8).hex())
        _travelled[call[2]] = call
    token: str = call[2]
    return token


class _Hook(NamedTuple):
    key: str


@contextmanager
def within(what: Carried) -> Iterator[None]:
    """Let a call that came from another process count as made where it was made.

    Parameters
    ----------
    what : Carried
        What it carried.
    """
    outer: list[Any] | None = None
    foreign = []
    for token in what.calls:
        if token in _travelled:  # it is one of ours, and knows by itself what led to it
            outer = _travelled[token]
            break
        foreign.append(token)
    stubs: list[list[Any]] = []
    for token in reversed(foreign):
        outer = [_ELSEWHERE, outer, token]
        stubs.append(outer)
    waiting = Waiting(what.until_s - time.monotonic()) if what.until_s is not None else None
    inside_before = inside.set(outer)
    waiting_before = _waiting.set(waiting)
    hook_before = current_hook.set(_Hook(what.hook) if what.hook is not None else None)
    try:
        yield
    finally:
        current_hook.reset(hook_before)
        _waiting.reset(waiting_before)
        inside.reset(inside_before)
        if waiting is not None:
            waiting.end()
        for stub in stubs:
            stub[0] = None
