"""What calls of services take: counted and timed with as little as possible beside each call."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import log10

#: Eight bounds for each power of ten, from a microsecond to a thousand seconds.
BOUNDS_S: tuple[float, ...] = tuple(10 ** (power / 8) for power in range(-48, 25))
#: So many first calls are all timed.
TIMED_CALLS = 1024
#: Of the further ones, each of so many (a power of two) is timed, and stands for as many.
CALLS_PER_SAMPLE = 8
#: A call is timed if its number has none of these bits.
UNTIMED = CALLS_PER_SAMPLE - 1
#: Durations are sorted into the histogram when so many have been noted.
DURATIONS_PER_FOLD = 1024


@dataclass(frozen=True, slots=True)
class CallCounts:
    """What was counted of the calls of one method, up to one moment.

    Attributes
    ----------
    begun, ended, errors : int
        How many calls were begun, have ended, and ended with an exception.
    total_s : float
        Sum of their durations in seconds.
    buckets : tuple of int
        How many took less than each of `BOUNDS_S` (and not less than the one before), and the rest; of many calls,
        an estimate.
    """

    begun: int = 0
    ended: int = 0
    errors: int = 0
    total_s: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)

    @property
    def in_flight(self) -> int:
        """How many are inside or wait for their turn."""
        return max(0, self.begun - self.ended)

    def since(self, earlier: CallCounts) -> CallCounts:
        """Return what was counted since an earlier moment; what was in flight then counts as begun."""
        return CallCounts(
            self.begun - earlier.ended,
            self.ended - earlier.ended,
            self.errors - earlier.errors,
            self.total_s - earlier.total_s,
            tuple(now - then for now, then in zip(self.buckets, earlier.buckets, strict=True)),
        )

    def quantile_s(self, part: float) -> float | None:
        """Return the duration that this part of the calls stayed below, to within a bucket; None without calls."""
        rank = part * sum(self.buckets)
        below = 0
        for place, size in enumerate(self.buckets):
            if size and below + size >= rank:
                first = log10(BOUNDS_S[place - 1]) if place else log10(BOUNDS_S[0]) - 1 / 8
                inside = min(1.0, max(0.0, (rank - below) / size))
                return float(10 ** (first + inside / 8))
            below += size
        return None


class CallMeter:
    """Counts and times the calls of one method of a service, from any number of threads.

    A call takes a number with ``begin()``. At its end it calls ``end()``, and, if it is one that is timed, ``note()``.

    Attributes
    ----------
    begin : callable
        Returns how many calls had begun before.
    end : callable
        Notes that one has ended.
    """

    def __init__(self) -> None:
        self._begun: Iterator[int] = count()
        self._ended: Iterator[int] = count()
        # Functions of C that are done in one go, so that no lock is needed.
        self.begin = self._begun.__next__
        self.end = self._ended.__next__
        self._exact: list[float] = []
        self._samples: list[float] = []
        self._lock = threading.Lock()
        self._errors = 0
        self._total_s = 0.0
        self._buckets = [0] * (len(BOUNDS_S) + 1)

    def note(self, number: int, duration_s: float) -> None:
        """Note how long the call with this number took."""
        durations = self._exact if number < TIMED_CALLS else self._samples
        durations.append(duration_s)
        if len(durations) >= DURATIONS_PER_FOLD:
            self.fold()

    def note_error(self) -> None:
        """Note that a call ended with an exception; its duration is noted besides."""
        with self._lock:
            self._errors += 1

    def fold(self) -> None:
        """Sort the durations that were noted into the histogram."""
        with self._lock:
            self._sort_in(self._exact, 1)
            self._sort_in(self._samples, CALLS_PER_SAMPLE)

    def _sort_in(self, noted: list[float], weight: int) -> None:
        size = len(noted)
        durations = sorted(noted[:size])
        del noted[:size]  # what others append meanwhile stays
        self._total_s += weight * sum(durations)
        before = 0
        for place, bound_s in enumerate(BOUNDS_S):
            if before == size:
                return
            below = bisect_right(durations, bound_s, before)
            self._buckets[place] += weight * (below - before)
            before = below
        self._buckets[-1] += weight * (size - before)

    def counts(self) -> CallCounts:
        """Return what was counted so far."""
        ended, begun = next_of(self._ended), next_of(self._begun)
        self.fold()
        with self._lock:
            return CallCounts(begun, ended, self._errors, self._total_s, tuple(self._buckets))


class Metered:
    """Has a meter for each method that is called.

    Attributes
    ----------
    meters : dict of str to CallMeter
        Those that there are, by method.
    """

    def __init__(self) -> None:
        self.meters: dict[str, CallMeter] = {}

    def meter(self, method: str) -> CallMeter:
        """Return what counts the calls of a method."""
        found = self.meters.get(method)
        return found if found is not None else self.meters.setdefault(method, CallMeter())


def next_of(counter: Iterator[int]) -> int:
    """Return the number that an ``itertools.count`` gives next, without taking it: its repr tells."""
    return int(repr(counter)[len("count(") : -1])


def merged(several: Sequence[CallCounts]) -> CallCounts:
    """Return the counts of several methods in one."""
    if not several:
        return CallCounts()
    return CallCounts(
        sum(one.begun for one in several),
        sum(one.ended for one in several),
        sum(one.errors for one in several),
        sum(one.total_s for one in several),
        tuple(map(sum, zip(*(one.buckets for one in several), strict=True))),
    )
