from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    FilterFunction,
    FlatMapFunction,
    Graph,
    MapFunction,
    SinkFunction,
    from_batch,
    from_collection,
    run,
)
from autostop_lab.engines import BatchSizes, Engine
from autostop_lab.exceptions import PipelineError
from tests.engines.runs import Run


class CountTo(BatchFunction):
    def __init__(self, last: int) -> None:
        self.left = list(range(last))

    def execute(self) -> int | None:
        return self.left.pop(0) if self.left else None


class Add(MapFunction):
    def __init__(self, amount: int = 1) -> None:
        self.amount = amount

    def execute(self, record: int) -> int:
        return record + self.amount


def test_records_pass_the_operators_in_order(engine: Engine) -> None:
    graph = Graph()
    results: list[int] = []
    stream = from_batch(graph, range(10)).map(lambda x: x + 1).filter(lambda x: x % 2)
    stream.flatmap(lambda x: [x] * (x // 2)).sink(results.append)

    assert Run(engine, graph)() is None
    assert results == [3, 5, 5, 7, 7, 7, 9, 9, 9, 9]


def test_a_record_is_through_before_the_next_one_is_read(engine: Engine) -> None:
    graph = Graph()
    seen: list[str] = []

    def numbers() -> Iterator[int]:
        for n in range(3000):
            seen.append(f"read {n}")
            yield n

    from_batch(graph, numbers).map(str).sink(lambda n: seen.append(f"took {n}"))
    Run(engine, graph)()

    assert seen == [f"{what} {n}" for n in range(3000) for what in ("read", "took")]


def test_none_from_a_map_is_a_record(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [1, None, 3]).map(lambda x: None).collect()

    assert Run(engine, graph)() == [None, None, None]


def test_none_from_a_batch_function_is_the_end(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, CountTo, 4).collect()

    assert Run(engine, graph)() == [0, 1, 2, 3]


def test_a_record_that_compares_oddly_with_none_is_no_end(engine: Engine) -> None:
    class EqualsAll:
        def __eq__(self, other: object) -> bool:
            return True

    class Source(BatchFunction):
        def __init__(self) -> None:
            self.left = [EqualsAll(), EqualsAll()]

        def execute(self) -> Any:
            return self.left.pop() if self.left else None

    graph = Graph()
    from_batch(graph, Source).collect()

    assert len(Run(engine, graph)()) == 2


@pytest.mark.parametrize(
    "source",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        iter([1, 2, 3]),
        (n for n in (1, 2, 3)),
        lambda: [1, 2, 3],
        lambda: iter([1, 2, 3]),
        functools.partial(range, 1, 4),
        {1: "a", 2: "b", 3: "c"},
    ],
    ids=["list", "tuple", "range", "iterator", "generator", "returns list", "returns iterator", "partial", "dict"],
)
def test_a_source_is_an_iterable_or_returns_one(engine: Engine, source: Any) -> None:
    graph = Graph()
    from_batch(graph, source).collect()

    assert Run(engine, graph)() == [1, 2, 3]


def test_functions_may_be_classes_objects_and_callables(engine: Engine) -> None:
    class Even(FilterFunction):
        def execute(self, record: int) -> bool:
            return record % 2 == 0

    class Twice(FlatMapFunction):
        def execute(self, record: int) -> list[int]:
            return [record, record]

    class Keep(SinkFunction):
        def __init__(self, into: list[int]) -> None:
            self.into = into

        def execute(self, record: int) -> None:
            self.into.append(record)

    class Plain:
        def execute(self, record: int) -> int:
            return -record

    graph = Graph()
    results: list[int] = []
    stream = from_batch(graph, CountTo(6)).map(Add, 10).map(Add(amount=2)).filter(Even).flatmap(Twice)
    stream.map(Plain).map(abs).sink(Keep, into=results)
    Run(engine, graph)()

    assert results == [12, 12, 14, 14, 16, 16]


def test_every_run_has_fresh_objects(engine: Engine) -> None:
    made: list[object] = []

    class Number(MapFunction):
        def __init__(self) -> None:
            self.count = 0
            made.append(self)

        def execute(self, record: str) -> str:
            self.count += 1
            return f"{self.count}{record}"

    graph = Graph()
    from_batch(graph, ["a", "b"]).map(Number).collect()

    assert made == []
    assert [Run(engine, graph)(), Run(engine, graph)()] == [["1a", "2b"], ["1a", "2b"]]
    assert len(made) == 2


def test_a_list_is_read_anew_by_every_run(engine: Engine) -> None:
    rows = [1, 2]
    graph = Graph()
    from_collection(graph, rows).collect()

    assert Run(engine, graph)() == [1, 2]
    rows.append(3)
    assert Run(engine, graph)() == [1, 2, 3]


def test_a_used_up_iterator_is_refused_by_the_second_run(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, iter([1, 2])).collect()
    Run(engine, graph)()

    with pytest.raises(PipelineError, match=r"operator 'source' \(list_iterator\) reads an iterator"):
        Run(engine, graph)()


def test_a_callable_source_is_called_once_per_run(engine: Engine) -> None:
    calls = itertools.count(1)
    graph = Graph()
    from_batch(graph, lambda: [next(calls)]).collect()

    assert [Run(engine, graph)(), Run(engine, graph)()] == [[1], [2]]


def test_flatmap_takes_what_is_returned_and_what_is_collected(engine: Engine) -> None:
    class Spread(FlatMapFunction):
        def execute(self, record: str) -> Any:
            if record == "collects":
                self.collect(1)
                self.collect(2)
                return None
            if record == "both":
                self.collect(3)
                return [4, 5]
            if record == "yields":
                return self.both_in_turn()
            return []

        def both_in_turn(self) -> Iterator[int]:
            self.collect(6)
            yield 7
            self.collect(8)
            self.collect(9)
            yield 10
            self.collect(11)

    graph = Graph()
    from_batch(graph, ["nothing", "collects", "both", "nothing", "yields", "collects"]).flatmap(Spread).collect()

    assert Run(engine, graph)() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2]


def test_pipelines_run_one_after_another(engine: Engine) -> None:
    graph = Graph()
    seen: list[str] = []
    from_batch(graph, "a b".split()).sink(seen.append)
    from_batch(graph, lambda: list(map(str.upper, seen))).sink(seen.append)
    Run(engine, graph)()

    assert seen == ["a", "b", "A", "B"]


def test_several_collects_give_a_list_of_lists_in_order_of_declaration(engine: Engine) -> None:
    graph = Graph()
    first = from_batch(graph, [1, 2])
    second = from_batch(graph, [3])
    from_batch(graph, [0]).sink(lambda x: None)
    second.collect()
    first.collect()

    assert Run(engine, graph)() == [[1, 2], [3]]


def test_print_writes_a_line_per_record(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    from_batch(graph, [1, None]).print()
    from_batch(graph, ["x"]).print("seen:")
    from_batch(graph, ["y"]).print("seen", separator="=")
    Run(engine, graph)()

    assert capsys.readouterr().out == "1\nNone\nseen: x\nseen=y\n"


def test_a_callable_gives_the_result(engine: Engine) -> None:
    graph = Graph()
    run(graph, lambda: 42)

    assert Run(engine, graph)() == 42


def test_nothing_to_run_is_no_result(engine: Engine) -> None:
    assert Run(engine, Graph())() is None


def test_an_empty_source_is_an_empty_list(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, []).map(str).collect()

    assert Run(engine, graph)() == []


def test_functions_find_services_and_know_their_name(engine: Engine) -> None:
    class Ask(MapFunction):
        def __init__(self, suffix: str) -> None:
            self.suffix = suffix + self.call_service("store", "in init", method="get")

        def execute(self, record: str) -> tuple[str, str, str]:
            return self.name, self.logger.name, self.call_service("store", record, method="get") + self.suffix

    class Store:
        def call(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> str:
            return f"{method}({args[0]}, {timeout})"

    graph = Graph()
    from_batch(graph, ["key"]).map(Ask, "!", name="ask").collect()

    assert Run(engine, graph, services={"store": Store()}.__getitem__)() == [
        ("ask", "autostop_lab.operator.ask", "get(key, None)!get(in init, None)")
    ]


def test_a_given_object_has_services_only_while_the_job_runs(engine: Engine) -> None:
    class Ask(MapFunction):
        def execute(self, record: str) -> Any:
            return self.service(record)

    ask = Ask()
    graph = Graph()
    from_batch(graph, ["store"]).map(ask).collect()

    assert Run(engine, graph, services=str.upper)() == ["STORE"]
    with pytest.raises(LookupError, match="outside a job"):
        ask.service("store")


@pytest.mark.parametrize(
    ("size", "taken", "elapsed_s", "after"),
    [
        (1, 1, 0.0, 2),
        (512, 512, 0.004, 1024),
        (1024, 1024, 0.0, 1024),
        (64, 64, 0.010, 64),
        (64, 64, 0.030, 32),
        (64, 2, 30.0, 1),
        (1, 1, 30.0, 1),
        (64, 0, 30.0, 1),
    ],
)
def test_batches_grow_while_they_are_quick_and_shrink_when_slow(
    size: int, taken: int, elapsed_s: float, after: int
) -> None:
    assert BatchSizes().after(size, taken, elapsed_s) == after
