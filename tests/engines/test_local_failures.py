"""What a run does when something in it fails: whose exception, at which record, and what is closed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    DataStream,
    FilterFunction,
    FlatMapFunction,
    Graph,
    MapFunction,
    SinkFunction,
    from_batch,
    run,
)
from autostop_lab.engines import Engine
from autostop_lab.exceptions import PipelineError
from tests.engines.runs import Run, notes

KINDS: dict[str, Callable[[DataStream, Any], None]] = {
    "map": lambda stream, function: stream.map(function).collect(),
    "filter": lambda stream, function: stream.filter(function).collect(),
    "flatmap": lambda stream, function: stream.flatmap(function).collect(),
    "sink": lambda stream, function: stream.sink(function),
}


def raiser(error: BaseException, at: int) -> Callable[[int], Any]:
    def fails(record: int) -> list[int]:
        if record == at:
            raise error
        return [record]

    return fails


@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration("bad"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", KINDS)
def test_the_very_exception_is_raised_with_operator_and_record(engine: Engine, kind: str, error: BaseException) -> None:
    error = type(error)(*error.args)
    graph = Graph()
    KINDS[kind](from_batch(graph, range(100)), raiser(error, 50))
    run = Run(engine, graph)

    assert run.fail() is error
    assert notes(error) == [f"operator {kind!r} (fails), record 50"]
    assert run.counts[0] == ("source", None, 51, 0)
    assert run.counts[1] == (kind, 51, None if kind == "sink" else 50, 1)


@pytest.mark.parametrize("place", [1, 3, 4])
def test_counts_are_exact_in_front_of_and_behind_the_failure(engine: Engine, place: int) -> None:
    def function_at(position: int) -> Callable[[int], int]:
        return lambda x: 1 // (x - 70) and x if position == place else x

    graph = Graph()
    stream = from_batch(graph, range(100)).map(function_at(1)).filter(lambda x: True)
    stream.map(function_at(3)).map(function_at(4)).collect()
    run = Run(engine, graph)
    name = {1: "map", 3: "map#2", 4: "map#3"}[place]

    assert notes(run.fail()) == [f"operator {name!r} (<lambda>), record 70"]
    for position, (name, taken, out, errors) in enumerate(run.counts):
        assert taken == (None if position == 0 else 71 if position <= place else 70), name
        assert out == (None if name == "collect" else 71 if position < place else 70), name
        assert errors == (position == place), name


def test_a_record_behind_a_flatmap_is_counted_from_the_source(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, range(10)).flatmap(lambda x: range(x)).map(lambda x: 1 // (x - 5)).collect()
    run = Run(engine, graph)

    assert notes(run.fail()) == ["operator 'map' (<lambda>), record 6"]
    assert run.counts == [("source", None, 7, 0), ("flatmap", 7, 21, 0), ("map", 21, 20, 1), ("collect", 20, None, 0)]


def test_a_generator_of_a_flatmap_fails_at_its_record(engine: Engine) -> None:
    def spread(record: int) -> Iterator[int]:
        yield record
        yield 1 // (record - 3)

    graph = Graph()
    from_batch(graph, range(10)).flatmap(spread).collect()
    run = Run(engine, graph)

    assert notes(run.fail()) == ["operator 'flatmap' (spread), record 3"]
    assert run.counts[1] == ("flatmap", 4, 7, 1)


def test_a_failing_generator_comes_after_its_records(engine: Engine) -> None:
    error = OSError("disk")
    results: list[int] = []

    def numbers() -> Iterator[int]:
        yield from range(50)
        raise error

    graph = Graph()
    from_batch(graph, numbers).sink(results.append)
    run = Run(engine, graph)

    assert run.fail() is error
    assert results == list(range(50))
    assert notes(error) == ["operator 'source' (numbers), record 50"]
    assert run.counts == [("source", None, 50, 1), ("sink", 50, None, 0)]


@pytest.mark.parametrize("error_type", [ValueError, StopIteration])
def test_a_failing_batch_function_comes_after_its_records(engine: Engine, error_type: type[Exception]) -> None:
    class Numbers(BatchFunction):
        count = 0

        def execute(self) -> int:
            self.count += 1
            if self.count == 51:
                raise error_type("no more")
            return self.count

    graph = Graph()
    from_batch(graph, Numbers).map(str).sink(lambda x: None)
    run = Run(engine, graph)
    error = run.fail()

    assert type(error) is error_type
    assert notes(error)[0].endswith("Numbers), record 50")
    assert run.counts[0] == ("source", None, 50, 1)


def test_a_source_that_cannot_begin_fails_at_record_0(engine: Engine) -> None:
    def rows() -> list[int]:
        raise OSError("no file")

    graph = Graph()
    from_batch(graph, rows).collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'source' (rows), record 0"]


@pytest.mark.parametrize(("returned", "what"), [(None, "returned None"), (7, "returned an int"), ("text", "one text")])
def test_a_source_that_returns_no_records_is_refused(engine: Engine, returned: Any, what: str) -> None:
    graph = Graph()
    from_batch(graph, lambda: returned).collect()

    with pytest.raises(PipelineError, match=what):
        Run(engine, graph)()


@pytest.mark.parametrize("returned", [None, 7])
def test_a_flatmap_that_returns_no_iterable_says_so(engine: Engine, returned: Any) -> None:
    class Spread(FlatMapFunction):
        def execute(self, record: int) -> Any:
            return 7

    for function in (lambda x: returned, Spread):
        graph = Graph()
        from_batch(graph, [1]).flatmap(function).collect()
        error = Run(engine, graph).fail()

        assert isinstance(error, TypeError)
        assert "which is not iterable; return a list" in notes(error)[0]


def test_a_filter_whose_answer_has_no_truth_fails(engine: Engine) -> None:
    class Unsure:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    graph = Graph()
    from_batch(graph, range(3)).filter(lambda x: Unsure(), name="sure").collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'sure' (<lambda>), record 0"]


def test_the_second_pipeline_says_its_number(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [1]).collect()
    from_batch(graph, [1, 0]).map(lambda x: 1 // x).collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'map' (<lambda>) of pipeline 2, record 1"]


def test_one_exception_raised_in_two_runs_has_its_note_once(engine: Engine) -> None:
    error = ValueError()
    graph = Graph()
    from_batch(graph, range(3)).map(raiser(error, 1)).collect()
    Run(engine, graph).fail()
    Run(engine, graph).fail()

    assert notes(error) == ["operator 'map' (fails), record 1"]


def test_cause_and_context_of_the_exception_are_the_users(engine: Engine) -> None:
    cause = KeyError("a")

    def fails(record: int) -> int:
        raise ValueError("b") from cause

    graph = Graph()
    from_batch(graph, [1]).map(fails).collect()
    error = Run(engine, graph).fail()

    assert error.__cause__ is cause
    assert error.__context__ is None


def test_the_traceback_shows_the_users_function_and_the_operators_line(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [1, 0]).map(lambda x: 1 // x, name="divide").collect()
    text = "".join(traceback.format_exception(Run(engine, graph).fail()))

    assert "record = map_1(record)  # operator 'divide' (<lambda>)" in text
    assert 'name="divide").collect()' in text
    assert text.rstrip().endswith("operator 'divide' (<lambda>), record 1")


def test_a_label_cannot_add_lines_to_the_program(engine: Engine) -> None:
    def function(x: int) -> int:
        return x

    function.__qualname__ = "f\nraise SystemExit"
    graph = Graph()
    from_batch(graph, [1]).map(function, name="a\nraise SystemExit").collect()

    assert Run(engine, graph)() == [1]


def test_a_callable_raises_its_own_exception(engine: Engine) -> None:
    error = ValueError()

    def main() -> None:
        raise error

    graph = Graph()
    run(graph, main)

    assert Run(engine, graph).fail() is error


class Recorder:
    """Function classes that note what is called, in one list."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call in self.fails:
            raise self.fails[call]

    def graph(self) -> Graph:
        recorder = self

        class Noting:
            name: str

            def __init__(self) -> None:
                recorder.note(f"make {self.name}")

            def open(self) -> None:
                recorder.note(f"open {self.name}")

            def close(self) -> None:
                recorder.note(f"close {self.name}")

        class Source(Noting, BatchFunction):
            def execute(self) -> int | None:
                if f"read {self.name}" in recorder.calls:
                    return None
                recorder.note(f"read {self.name}")
                return 1

        class Map(Noting, MapFunction):
            def execute(self, record: int) -> int:
                recorder.note(f"{self.name} {record}")
                return record

        class Keep(Noting, FilterFunction):
            def execute(self, record: int) -> bool:
                return True

        class Sink(Noting, SinkFunction):
            def execute(self, record: int) -> None:
                recorder.note(f"{self.name} {record}")

        graph = Graph()
        from_batch(graph, Source, name="s").map(Map, name="m").filter(Keep, name="f").sink(Sink, name="e")
        return graph


MADE = ["make s", "make m", "make f", "make e"]
OPENED = ["open s", "open m", "open f", "open e"]
CLOSED = ["close e", "close f", "close m", "close s"]


def test_all_is_open_before_the_first_record_and_closed_in_reverse(engine: Engine) -> None:
    recorder = Recorder()
    Run(engine, recorder.graph())()

    assert recorder.calls == [*MADE, *OPENED, "read s", "m 1", "e 1", *CLOSED]


def test_all_is_closed_after_a_failure(engine: Engine) -> None:
    recorder = Recorder()
    error = recorder.fails["m 1"] = ValueError("first")

    assert Run(engine, recorder.graph()).fail() is error
    assert recorder.calls[-4:] == CLOSED


def test_what_was_opened_is_closed_when_an_open_fails(engine: Engine) -> None:
    recorder = Recorder()
    error = recorder.fails["open f"] = ValueError("first")

    assert Run(engine, recorder.graph()).fail() is error
    assert notes(error) == ["operator 'f' (Keep), in open()"]
    assert recorder.calls == [*MADE, "open s", "open m", "open f", "close m", "close s"]


def test_a_failing_constructor_names_its_operator_and_nothing_is_opened(engine: Engine) -> None:
    recorder = Recorder()
    error = recorder.fails["make m"] = ValueError("first")

    assert Run(engine, recorder.graph()).fail() is error
    assert notes(error) == ["operator 'm' (Map), in its constructor"]
    assert recorder.calls == ["make s", "make m"]


def test_a_failing_close_fails_a_run_that_was_well_and_the_others_are_closed(engine: Engine) -> None:
    recorder = Recorder()
    error = recorder.fails["close f"] = ValueError("first")
    recorder.fails["close m"] = KeyError("second")

    assert Run(engine, recorder.graph()).fail() is error
    assert notes(error) == [
        "operator 'f' (Keep), in close()",
        "operator 'm' (Map) failed in close() as well: KeyError: 'second'",
    ]
    assert recorder.calls[-4:] == CLOSED


def test_a_failing_close_never_replaces_the_failure(engine: Engine) -> None:
    recorder = Recorder()
    error = recorder.fails["m 1"] = ValueError("first")
    recorder.fails["close e"] = KeyboardInterrupt()

    assert Run(engine, recorder.graph()).fail() is error
    assert notes(error) == [
        "operator 'm' (Map), record 0",
        "operator 'e' (Sink) failed in close() as well: KeyboardInterrupt: ",
    ]
    assert recorder.calls[-4:] == CLOSED


def test_a_generator_made_for_the_run_is_closed_with_it(engine: Engine) -> None:
    closed: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append("closed")

    graph = Graph()
    from_batch(graph, numbers).map(raiser(ValueError(), 5)).collect()
    failing = Run(engine, graph)
    error = failing.fail()  # the traceback, alive here, would keep the generator alive

    assert closed == ["closed"]
    assert error.__traceback__ is not None


def test_a_generator_of_the_users_goes_on_after_a_failure(engine: Engine) -> None:
    numbers = (n for n in range(10))
    graph = Graph()
    from_batch(graph, numbers).map(raiser(ValueError(), 5)).collect()
    Run(engine, graph).fail()

    assert list(numbers) == [6, 7, 8, 9]


def test_collect_outside_execute_is_refused(engine: Engine) -> None:
    class Late(FlatMapFunction):
        def execute(self, record: int) -> list[int]:
            return [record]

        def close(self) -> None:
            self.collect(0)

    graph = Graph()
    from_batch(graph, [1]).flatmap(Late).collect()

    with pytest.raises(PipelineError, match=r"Late.collect\(\) was called outside execute"):
        Run(engine, graph)()
