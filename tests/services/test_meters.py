from __future__ import annotations

import random
import threading

import pytest

from autostop_lab.services.meters import BOUNDS_S, TIMED_CALLS, UNTIMED, CallCounts, CallMeter, merged


def metered(durations_s: list[float]) -> CallMeter:
    meter = CallMeter()
    for duration_s in durations_s:
        call(meter, duration_s)
    return meter


def call(meter: CallMeter, duration_s: float) -> None:
    number = meter.begin()
    meter.end()
    if number < TIMED_CALLS or not number & UNTIMED:
        meter.note(number, duration_s)


def test_nothing_called_is_nothing_counted() -> None:
    counts = CallMeter().counts()

    assert counts == CallCounts()
    assert counts.quantile_s(0.5) is None


@pytest.mark.parametrize("part", [0.5, 0.95, 0.99])
def test_a_quantile_is_right_to_within_a_bucket(part: float) -> None:
    rng = random.Random(5)
    durations = [10 ** rng.uniform(-5, 0) for _ in range(5000)]
    found = metered(durations).counts().quantile_s(part)
    exact = sorted(durations)[int(part * 5000)]

    assert found is not None
    assert exact / 10 ** (1 / 4) < found < exact * 10 ** (1 / 4)  # a bucket, and what sampling adds


def test_durations_beyond_all_bounds_are_counted() -> None:
    counts = metered([0.0, BOUNDS_S[-1] * 10]).counts()

    assert (counts.buckets[0], counts.buckets[-1], sum(counts.buckets)) == (1, 1, 2)
    assert counts.total_s == BOUNDS_S[-1] * 10


def test_what_has_begun_and_not_ended_is_in_flight() -> None:
    meter = metered([0.1, 0.1])
    meter.begin()
    meter.note_error()
    counts = meter.counts()

    assert (counts.begun, counts.ended, counts.in_flight, counts.errors) == (3, 2, 1, 1)
    assert meter.counts() == counts  # a look counts nothing


def test_counts_since_a_moment_are_what_came_after_it() -> None:
    meter = metered([0.1])
    meter.begin()
    before = meter.counts()
    meter.end()
    meter.note(1, 0.2)
    call(meter, 0.4)
    since = meter.counts().since(before)

    assert (since.begun, since.ended, since.in_flight) == (2, 2, 0)
    assert since.total_s == pytest.approx(0.6)
    assert sum(since.buckets) == 2


def test_calls_from_many_threads_are_all_counted() -> None:
    meter = CallMeter()

    def call_often() -> None:
        for _ in range(5000):
            call(meter, 0.001)

    threads = [threading.Thread(target=call_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = meter.counts()

    assert (counts.begun, counts.ended, sum(counts.buckets)) == (20000, 20000, 20000)
    assert counts.total_s == pytest.approx(20.0)


def test_several_methods_are_counted_in_one() -> None:
    counts = merged([metered([0.1]).counts(), metered([0.2, 0.3]).counts()])

    assert (counts.begun, counts.ended) == (3, 3)
    assert merged([]) == CallCounts()
