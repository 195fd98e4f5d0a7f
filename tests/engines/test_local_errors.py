"""What becomes of records that fail: skip, retry, dead letter; in one loop and in several stages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    DataStream,
    DeadLetter,
    DeadRecord,
    Graph,
    MapFunction,
    Retry,
    SinkFunction,
    from_batch,
)
from autostop_lab.engines import Engine
from autostop_lab.exceptions import ConfigurationError
from tests.engines.runs import DEADLINE_S, Run, ended, notes

KINDS: dict[str, Callable[..., Any]] = {
    "map": lambda stream, function, **options: stream.map(function, **options).collect(),
    "filter": lambda stream, function, **options: stream.filter(function, **options).collect(),
    "flatmap": lambda stream, function, **options: stream.flatmap(lambda x: [function(x)], **options).collect(),
    "keyby": lambda stream, function, **options: stream.keyby(function, **options).collect(),
    "sink": lambda stream, function, **options: stream.sink(function, **options),
}


def odd_fail(record: int) -> int:
    if record % 2:
        raise ValueError(f"{record} is odd")
    return record or 1


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_skip_goes_on_without_the_record_and_counts_it(engine: Engine, kind: str, parallelism: int) -> None:
    graph = Graph()
    KINDS[kind](from_batch(graph, range(100)), odd_fail, on_error="skip", parallelism=parallelism)
    run = Run(engine, graph)
    run()

    (row,) = (row for row in run.snapshot.operators if row.name == kind)
    assert (row.records_in, row.records_out, row.errors) == (100, None if kind == "sink" else 50, 50)
    assert row.last_error.startswith("ValueError: ")
    assert run.snapshot.completed == 100


def test_counts_behind_a_skip_are_those_that_came_through(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, range(10)).map(odd_fail, on_error="skip").map(str).filter(bool).collect()
    run = Run(engine, graph)

    assert run() == ["1", "2", "4", "6", "8"]
    assert [row[1:] for row in run.counts] == [(None, 10, 0), (10, 5, 5), (5, 5, 0), (5, 5, 0), (5, None, 0)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_skip_skips_no_interrupt(engine: Engine, error: type[BaseException]) -> None:
    def fails(record: int) -> None:
        raise error

    graph = Graph()
    from_batch(graph, [1]).map(fails, on_error="skip").collect()

    assert type(Run(engine, graph).fail()) is error


def test_a_record_is_tried_again(engine: Engine) -> None:
    calls: list[int] = []

    def flaky(record: int) -> int:
        calls.append(record)
        if calls.count(record) < 3:
            raise OSError("busy")
        return record * 10

    graph = Graph()
    from_batch(graph, [1, 2]).map(flaky, on_error=Retry(attempts=3, backoff_s=0.001)).collect()
    run = Run(engine, graph)

    assert run() == [10, 20]
    assert calls == [1, 1, 1, 2, 2, 2]
    assert run.counts[1] == ("map", 2, 2, 0)


def test_after_the_last_attempt_it_fails_with_the_record(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [0, 2, 5]).map(odd_fail, on_error=Retry(attempts=2, backoff_s=0)).collect()
    error = Run(engine, graph).fail()

    assert str(error) == "5 is odd"
    assert notes(error) == ["tried 2 times", "operator 'map' (odd_fail), record 2"]


def test_after_the_last_attempt_it_may_be_skipped(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, range(5)).map(odd_fail, on_error=Retry(attempts=2, backoff_s=0, then="skip")).collect()

    assert Run(engine, graph)() == [1, 2, 4]


def test_a_cancel_ends_the_pause_before_the_next_attempt(engine: Engine) -> None:
    failed = threading.Event()

    def fails(record: int) -> None:
        failed.set()
        raise OSError

    graph = Graph()
    from_batch(graph, [1]).map(fails, on_error=Retry(backoff_s=1000)).collect()
    run = Run(engine, graph)
    thread = run.start()
    assert failed.wait(DEADLINE_S)
    run.control.cancel()

    assert ended(thread)
    assert run.error is None


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_dead_letter_gets_record_and_exception(engine: Engine, parallelism: int) -> None:
    letters: list[DeadRecord] = []
    graph = Graph()
    from_batch(graph, range(50)).map(odd_fail, on_error=DeadLetter(letters.append), parallelism=parallelism).collect()

    assert Run(engine, graph)() == [1, *range(2, 50, 2)]
    assert sorted(letter.record for letter in letters) == list(range(1, 50, 2))
    for letter in letters:
        assert str(letter.error) == f"{letter.record} is odd"
        assert notes(letter.error) == [f"operator 'map' (odd_fail), record {letter.record}"]


def test_a_dead_letters_function_may_take_two_arguments(engine: Engine) -> None:
    letters: list[tuple[int, str]] = []

    def take(record: int, error: Exception) -> None:
        letters.append((record, str(error)))

    graph = Graph()
    from_batch(graph, [1, 2]).map(odd_fail, on_error=DeadLetter(take)).collect()
    Run(engine, graph)()

    assert letters == [(1, "1 is odd")]


def test_a_dead_letters_class_is_made_opened_and_closed_once(engine: Engine) -> None:
    calls: list[Any] = []

    class Post(SinkFunction):
        def __init__(self, mark: str) -> None:
            self.mark = mark + self.name

        def open(self) -> None:
            calls.append("open")

        def execute(self, record: Any, error: Exception | None = None) -> None:
            calls.append((self.mark, record, str(error)))

        def close(self) -> None:
            calls.append("close")

    graph = Graph()
    from_batch(graph, [1, 2]).map(odd_fail, on_error=DeadLetter(Post, ":"), parallelism=2).collect()
    Run(engine, graph)()

    assert calls == ["open", (":map", 1, "1 is odd"), "close"]


def test_a_dead_letter_that_fails_fails_the_job(engine: Engine) -> None:
    error = OSError("disk full")

    def take(record: int) -> None:
        raise error

    graph = Graph()
    from_batch(graph, [2, 1]).map(odd_fail, on_error=DeadLetter(take)).collect()

    assert Run(engine, graph).fail() is error
    assert notes(error) == ["in its dead letter", "operator 'map' (odd_fail), record 1"]


def test_the_records_of_one_leave_together_or_not_at_all(engine: Engine) -> None:
    def half(record: int) -> Any:
        yield record
        yield odd_fail(record)

    graph = Graph()
    from_batch(graph, [2, 3, 4]).flatmap(half, on_error="skip").collect()

    assert Run(engine, graph)() == [2, 2, 4, 4]


def test_a_source_may_be_asked_again(engine: Engine) -> None:
    class Rows(BatchFunction):
        def __init__(self) -> None:
            self.calls = 0

        def execute(self) -> int | None:
            self.calls += 1
            if self.calls == 2:
                raise OSError("busy")
            return self.calls if self.calls < 5 else None

    graph = Graph()
    from_batch(graph, Rows, on_error=Retry(backoff_s=0)).collect()

    assert Run(engine, graph)() == [1, 3, 4]


class Twice(MapFunction):
    def execute(self, record: int) -> int:
        return record


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda s: s.map(abs, parallelism=0), r"operator 'map' \(abs\): parallelism=0 must be a whole number"),
        (lambda s: s.sink(print, on_error="ignore"), r"operator 'sink' \(print\): on_error='ignore' must be"),
        (lambda s: s.map(abs, runtime="gpu"), "no runtime 'gpu'"),
        (lambda s: s.map(Twice(), parallelism=2), "parallelism=2 needs as many objects, and this is one"),
        (lambda s: s.map(abs, paralelism=2), r"takes no further arguments \(paralelism=\).*Did you mean parallelism="),
        (lambda s: s.map(Twice, orderd=False), r"do not fit Twice\(\).*Did you mean ordered="),
        (lambda s: s.keyby(abs, strategy="round robin"), "there is no strategy 'round robin'; choose from 'hash'"),
        (lambda s: s.connect(), r"connect\(\) takes at least one further stream"),
        (lambda s: s.connect([1]), r"connect\(\) takes streams, not a list"),
        (lambda s: s.connect(s).join(), r"operator 'join': stream 0, of operator 'source' \(range\), has no keys"),
        (lambda s: s.connect(s).keyby(abs).join(how="outer"), "how='outer' must be 'inner' or 'left'"),
        (lambda s: s.connect(s).keyby(abs).join(how="left", window_s=1), "how='left' needs the whole second stream"),
        (lambda s: s.connect(s).keyby(abs).join(window_s=1, window_records=1), "a window is one of records or of time"),
        (lambda s: s.connect(s).keyby(abs).join(window_s=-1), "window_s=-1 must be a number of seconds"),
        (lambda s: s.connect(s).keyby(abs).join(window_records=0), "window_records=0 must be a whole number"),
        (lambda s: s.connect(s).keyby(abs).join(abs), r"operator 'join' \(abs\) is called .* and takes"),
        (lambda s: s.connect(s).keyby(abs).join(5), "takes a function of two records, a JoinFunction, or nothing"),
        (lambda s: s.connect(s, s).keyby(abs).join(), "pairs the records of two streams, and there are 3"),
        (lambda s: s.connect(s).keyby(abs, abs, abs), "keyby.. of 2 streams takes one function, or one per stream"),
        (lambda s: s.connect(s).keyby(abs, strategy="broadcast").join(), "all streams are broadcast"),
        (lambda s: s.connect(s).comap(abs), "there are 2 streams, and it got 1 functions"),
        (lambda s: s.connect(s).comap(Twice), "takes a class or object with a method per stream.*not Twice"),
        (lambda s: s.fill_future(s), "takes the stream that from_future.. has returned, not a DataStream"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(write: Callable[[DataStream], Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        write(from_batch(Graph(), range(3)))
