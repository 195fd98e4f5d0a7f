"""Drain and cancel: how a run ends early, and that its counts are exact then, and up to date before."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from autostop_lab.dataflow import Control, Graph, SinkFunction, from_batch
from autostop_lab.engines import Engine
from tests.engines.runs import DEADLINE_S, Run, ended

SLOW = 5000  # far enough in for the largest batches


class Blocker:
    """A function that waits at one record until it is let go on."""

    def __init__(self, at: int = SLOW) -> None:
        self.at = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, record: int) -> int:
        if record == self.at:
            self.reached.set()
            assert self.go_on.wait(DEADLINE_S)
        return record


@pytest.mark.parametrize("order", [Control.cancel, Control.drain])
def test_an_order_ends_a_large_batch_behind_the_record_at_hand(
    engine: Engine, order: Callable[[Control], None]
) -> None:
    blocker, results = Blocker(), list[int]()
    graph = Graph()
    from_batch(graph, range(10**9)).map(blocker).filter(lambda x: x % 2 == 0).sink(results.append)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)

    order(run.control)
    blocker.go_on.set()

    assert ended(thread)
    assert run.error is None
    assert results == list(range(0, SLOW + 1, 2))
    half = SLOW // 2 + 1
    assert run.counts == [
        ("source", None, SLOW + 1, 0),
        ("map", SLOW + 1, SLOW + 1, 0),
        ("filter", SLOW + 1, half, 0),
        ("sink", half, None, 0),
    ]


def test_a_drain_takes_nothing_from_the_source_that_it_does_not_finish(engine: Engine) -> None:
    blocker, results = Blocker(), list[int]()
    numbers = itertools.count()
    graph = Graph()
    from_batch(graph, numbers).map(blocker).sink(results.append)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)
    run.control.drain()
    blocker.go_on.set()

    assert ended(thread)
    assert [*results[-1:], next(numbers)] == [SLOW, SLOW + 1]


def test_the_index_of_a_failing_record_is_right_after_a_cancel(engine: Engine) -> None:
    blocker = Blocker()

    def fails(record: int) -> int:
        if blocker(record) == SLOW:
            raise ValueError("late")
        return record

    graph = Graph()
    from_batch(graph, range(10**9)).map(fails).sink(lambda x: None)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)
    run.control.cancel()
    blocker.go_on.set()

    assert ended(thread)
    assert isinstance(run.error, ValueError)
    assert run.error.__notes__ == [f"operator 'map' (fails), record {SLOW}"]
    assert run.counts[1] == ("map", SLOW + 1, SLOW, 1)


def test_a_cancel_discards_the_rest_of_a_flatmaps_records(engine: Engine) -> None:
    blocker = Blocker()
    graph = Graph()
    from_batch(graph, [1, 2]).flatmap(lambda x: itertools.count()).flatmap(lambda x: [x]).sink(blocker)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)
    run.control.cancel()
    blocker.go_on.set()

    assert ended(thread)
    assert run.error is None
    assert run.counts == [
        ("source", None, 1, 0),
        ("flatmap", 1, SLOW + 1, 0),
        ("flatmap#2", SLOW + 1, SLOW + 1, 0),
        ("sink", SLOW + 1, None, 0),
    ]


def test_a_drain_finishes_a_flatmaps_records(engine: Engine) -> None:
    blocker, results = Blocker(10), list[int]()
    graph = Graph()
    from_batch(graph, range(10**9)).flatmap(lambda x: range(100)).map(blocker).sink(results.append)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)
    run.control.drain()
    blocker.go_on.set()

    assert ended(thread)
    assert results == list(range(100))
    assert run.counts[:2] == [("source", None, 1, 0), ("flatmap", 1, 100, 0)]


def test_a_cancel_after_a_drain_does_not_wait_for_the_flatmap(engine: Engine) -> None:
    blocker, later = Blocker(10), Blocker(5000)
    graph = Graph()
    from_batch(graph, [1, 2]).flatmap(lambda x: itertools.count()).map(blocker).sink(later)
    run = Run(engine, graph)
    thread = run.start()
    assert blocker.reached.wait(DEADLINE_S)
    run.control.drain()
    blocker.go_on.set()
    assert later.reached.wait(DEADLINE_S)
    run.control.cancel()
    later.go_on.set()

    assert ended(thread)
    assert run.counts[1] == ("flatmap", 1, 5001, 0)


@pytest.mark.parametrize("order", [Control.cancel, Control.drain])
def test_an_order_before_the_run_lets_nothing_begin(engine: Engine, order: Callable[[Control], None]) -> None:
    graph = Graph()
    from_batch(graph, [1]).sink(lambda x: pytest.fail("a record came"))
    run = Run(engine, graph)
    order(run.control)
    run()

    assert run.counts == [("source", None, 0, 0), ("sink", 0, None, 0)]


def test_an_order_in_the_first_pipeline_keeps_the_second_from_beginning(engine: Engine) -> None:
    orders: list[Callable[[], None]] = []
    graph = Graph()
    from_batch(graph, range(10)).filter(lambda x: not orders[0]()).collect()
    from_batch(graph, lambda: pytest.fail("the second began")).collect()
    run = Run(engine, graph)
    orders.append(run.control.drain)

    assert run() == [[0], []]


def test_everything_is_closed_after_a_cancel(engine: Engine) -> None:
    calls: list[str] = []

    class Sink(SinkFunction):
        def execute(self, record: int) -> None:
            control.cancel()

        def close(self) -> None:
            calls.append("sink")

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            calls.append("source")

    graph = Graph()
    from_batch(graph, numbers).sink(Sink)
    run = Run(engine, graph)
    control = run.control
    run()

    assert calls == ["source", "sink"]


def test_a_look_brings_the_counts_of_a_large_batch_up_to_date(engine: Engine) -> None:
    first, second = Blocker(), Blocker(SLOW + 1)
    graph = Graph()
    from_batch(graph, range(SLOW + 10)).map(first).sink(second)
    run = Run(engine, graph)
    thread = run.start()
    assert first.reached.wait(DEADLINE_S)
    before = run.snapshot.records
    first.go_on.set()
    assert second.reached.wait(DEADLINE_S)

    assert before < SLOW
    assert run.snapshot.records == SLOW + 1

    second.go_on.set()
    assert ended(thread)
    assert run.snapshot.records == SLOW + 10


def test_a_look_brings_the_counts_within_a_flatmaps_records_up_to_date(engine: Engine) -> None:
    first, second = Blocker(), Blocker(SLOW + 1)
    graph = Graph()
    from_batch(graph, [0, 0]).flatmap(lambda x: range(SLOW + 10)).map(first).sink(second)
    run = Run(engine, graph)
    thread = run.start()
    assert first.reached.wait(DEADLINE_S)
    assert run.counts[1] == ("flatmap", 0, 0, 0)
    first.go_on.set()
    assert second.reached.wait(DEADLINE_S)

    assert run.counts[1] == ("flatmap", 1, SLOW + 1, 0)

    second.go_on.set()
    assert ended(thread)
    assert run.counts[1] == ("flatmap", 2, 2 * (SLOW + 10), 0)


def test_looking_all_the_time_neither_loses_nor_doubles_a_record(engine: Engine) -> None:
    results: list[int] = []
    graph = Graph()
    first = Blocker(1000)
    stream = from_batch(graph, (n for n in range(50_000))).flatmap(lambda x: (x,) * (x % 3)).map(first)
    stream.sink(results.append)
    run = Run(engine, graph)
    thread = run.start()
    looks = 0
    while thread.is_alive():
        assert run.snapshot.records <= 50_000
        looks += 1
        first.go_on.set()
    expected = [n for n in range(50_000) for _ in range(n % 3)]

    assert ended(thread)
    assert looks > 0
    assert results == expected
    assert run.counts == [
        ("source", None, 50_000, 0),
        ("flatmap", 50_000, len(expected), 0),
        ("map", len(expected), len(expected), 0),
        ("sink", len(expected), None, 0),
    ]
