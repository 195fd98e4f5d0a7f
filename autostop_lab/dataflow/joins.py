"""Joins of two streams that pair records of equal keys: of the whole second stream, or within a window."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from autostop_lab.dataflow.graph import Pairing

#: So many records come between two looks for keys whose window has gone by.
RECORDS_PER_SWEEP = 4096


class Join(Protocol):
    """Keeps records of two streams by key, and gives what each new one makes with those that are kept."""

    def take(self, record: Any, key: Any, tag: int) -> Sequence[Any]:
        """Take a record of the stream `tag`, and return what it makes."""


def join_of(
    pairing: Pairing, function: Callable[[Any, Any], Any] | None, *, clock: Callable[[], float] = time.monotonic
) -> Join:
    """Return what joins records as `pairing` says.

    Parameters
    ----------
    pairing : Pairing
        How.
    function : callable or None
        ``(left, right) -> record``; None for pairs.
    clock : callable
        Monotonic seconds.

    Returns
    -------
    Join
        Of one replica.
    """
    make = function or pair
    if pairing.is_batch:
        return BatchJoin(make, is_left=pairing.how == "left")
    return WindowJoin(make, pairing.window_records, pairing.window_s, clock)


def pair(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both."""
    return left, right


class BatchJoin:
    """Keeps the whole second stream; what comes of the first one is matched at once.

    Parameters
    ----------
    make : callable
        ``(left, right) -> record``.
    is_left : bool
        Whether a record of the first stream without a match comes with None.
    """

    def __init__(self, make: Callable[[Any, Any], Any], *, is_left: bool) -> None:
        self._make = make
        self._is_left = is_left
        self._kept: dict[Any, list[Any]] = {}

    def take(self, record: Any, key: Any, tag: int) -> Sequence[Any]:
        """Take a record of the stream `tag`, and return what it makes."""
        __tracebackhide__ = True
        if tag == 1:
            self._kept.setdefault(key, []).append(record)
            return ()
        matches = self._kept.get(key)
        if matches is None:
            return [self._make(record, None)] if self._is_left else ()
        make = self._make
        return [make(record, other) for other in matches]


class WindowJoin:
    """Keeps the latest records of both streams by key; each new one is matched with those of the other stream.

    Parameters
    ----------
    make : callable
        ``(left, right) -> record``.
    most : int or None
        How many records of each key and stream are kept.
    longest_s : float or None
        How long a record is kept, in seconds.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self, make: Callable[[Any, Any], Any], most: int | None, longest_s: float | None, clock: Callable[[], float]
    ) -> None:
        self._make = make
        self._most = most
        self._longest_s = longest_s
        self._clock = clock
        self._kept: tuple[dict[Any, deque[tuple[float, Any]]], ...] = ({}, {})
        self._until_sweep = RECORDS_PER_SWEEP

    def take(self, record: Any, key: Any, tag: int) -> Sequence[Any]:
        """Take a record of the stream `tag`, and return what it makes."""
        __tracebackhide__ = True
        now_s = self._clock() if self._longest_s is not None else 0.0
        mine, others = self._kept[tag], self._kept[1 - tag].get(key, ())
        if self._longest_s is not None:
            self._drop_late(others, now_s)
            self._until_sweep -= 1
            if not self._until_sweep:
                self._sweep(now_s)
        make = self._make
        joined = [make(other, record) if tag else make(record, other) for _, other in others]
        mine.setdefault(key, deque(maxlen=self._most)).append((now_s, record))
        return joined

    def _drop_late(self, kept: Any, now_s: float) -> None:
        assert self._longest_s is not None
        while kept and now_s - kept[0][0] > self._longest_s:
            kept.popleft()

    def _sweep(self, now_s: float) -> None:
        """Forget keys that no record came of for longer than the window."""
        self._until_sweep = RECORDS_PER_SWEEP
        for side in self._kept:
            for key in list(side):
                self._drop_late(side[key], now_s)
                if not side[key]:
                    del side[key]

    @property
    def kept(self) -> int:
        """How many records are kept."""
        return sum(len(records) for side in self._kept for records in side.values())
