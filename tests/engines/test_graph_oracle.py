"""Random graphs of all operators, with slow replicas and failing records, give what plain Python gives."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autostop_lab.dataflow import (
    CoMapFunction,
    DataStream,
    DeadLetter,
    Graph,
    JoinFunction,
    Retry,
    from_batch,
    from_future,
)
from autostop_lab.engines import BatchSizes, LocalEngine
from tests.engines.runs import Run, ended

KEYS = 3


class PlannedError(Exception):
    """What a function raises at records that fail."""


@dataclass
class Stream:
    """A stream, and the records that have to come by it."""

    real: DataStream
    records: list[int]
    is_ordered: bool = True
    is_ordered_by_key: bool = True
    is_keyed: bool = False
    comes_back: bool = False


@dataclass(frozen=True)
class Move:
    """One operator to add: what it does, to which streams, and how it runs."""

    kind: str
    first: int
    second: int
    variant: int
    parallelism: int
    ordered: bool
    trouble: str
    is_slow: bool


moves = st.builds(
    Move,
    kind=st.sampled_from(
        ["map", "filter", "flatmap", "keyed map", "union", "comap", "join", "left join", "own join", "loop"]
    ),
    first=st.integers(0, 20),
    second=st.integers(0, 20),
    variant=st.integers(0, 3),
    parallelism=st.integers(1, 4),
    ordered=st.booleans(),
    trouble=st.sampled_from(["none", "none", "skip", "retry", "dead letter"]),
    is_slow=st.booleans(),
)


class Function:
    """A function with trouble: it is slow now and then, fails for ever at some records, or once at each."""

    def __init__(self, move: Move, function: Callable[[int], Any]) -> None:
        self.move = move
        self.function = function
        self.seen: set[int] = set()
        self.lock = threading.Lock()

    def is_lost(self, record: int) -> bool:
        return self.move.trouble in ("skip", "dead letter") and record % 7 == 3

    def __call__(self, record: int) -> Any:
        if self.move.is_slow and record % 5 == 0:
            time.sleep(0.001)
        if self.is_lost(record):
            raise PlannedError(record)
        if self.move.trouble == "retry":
            with self.lock:
                is_new = record not in self.seen
                self.seen.add(record)
            if is_new:
                raise PlannedError(record)
        return self.function(record)


class OwnJoin(JoinFunction):
    """Keeps all of both streams."""

    def __init__(self) -> None:
        self.kept: tuple[list[tuple[int, int]], ...] = ([], [])

    def execute(self, payload: int, key: int, tag: int) -> list[int]:
        self.kept[tag].append((key, payload))
        return [joined(payload, other) for other_key, other in self.kept[1 - tag] if other_key == key]


class Apart(CoMapFunction):
    def map0(self, record: int) -> int:
        return record * 2

    def map1(self, record: int) -> int:
        return record * 2 + 1


def joined(one: int, other: int | None) -> int:
    return (one + (7 if other is None else other)) % 97


def half(record: int) -> int:
    return record // 2


def is_large(record: int) -> bool:
    return record > 5


def key_of(record: int) -> int:
    return record % KEYS


MAPS: list[Callable[[int], int]] = [lambda x: x + KEYS, lambda x: x, lambda x: -x % 89, lambda x: x * 7 % 83]
KEEPS: list[Callable[[int], Any]] = [lambda x: x % 2, lambda x: x % 3 == 0, lambda x: True, lambda x: None]
SPREADS: list[Callable[[int], Any]] = [
    lambda x: [x, x + KEYS],
    lambda x: (),
    lambda x: (x + KEYS * n for n in range(x % 3)),
    lambda x: range(x % 4),
]


class Builder:
    """Builds a graph and, beside it, what has to come of it."""

    def __init__(self, sources: list[list[int]]) -> None:
        self.graph = Graph()
        self.streams = [Stream(from_batch(self.graph, records), records) for records in sources]
        self.letters: list[Any] = []
        self.expected_letters: list[int] = []

    def options(self, move: Move) -> dict[str, Any]:
        policies: dict[str, Any] = {
            "none": "fail",
            "skip": "skip",
            "retry": Retry(attempts=2, backoff_s=0.0),
            "dead letter": DeadLetter(self.letters.append),
        }
        return {"parallelism": move.parallelism, "ordered": move.ordered, "on_error": policies[move.trouble]}

    def add(self, move: Move) -> bool:
        """Add an operator; return False where it would be too much, or would wait for itself."""
        first = self.streams[move.first % len(self.streams)]
        second = self.streams[move.second % len(self.streams)]
        if len(first.records) * len(second.records) > 4000 or len(self.streams) > 12:
            return False
        if second.comes_back and move.kind in ("join", "left join"):
            return False
        self.add_anyway(move)
        return True

    def add_anyway(self, move: Move) -> None:
        first = self.streams[move.first % len(self.streams)]
        second = self.streams[move.second % len(self.streams)]
        getattr(self, move.kind.replace(" ", "_"))(move, first, second)
        takes_two = move.kind in ("union", "comap", "join", "left join", "own join")
        self.streams[-1].comes_back |= first.comes_back or (takes_two and second.comes_back)

    def loop(self, move: Move, first: Stream, second: Stream) -> None:
        """Halve records until they are small, and send each half back."""
        future = from_future(self.graph)
        halves = first.real.connect(future).map(half, parallelism=move.parallelism, ordered=move.ordered)
        halves.filter(is_large).fill_future(future)
        records = []
        for record in first.records:
            record = half(record)
            records.append(record)
            while is_large(record):
                record = half(record)
                records.append(record)
        self.streams.append(Stream(halves, records, is_ordered=False, is_ordered_by_key=False, comes_back=True))

    def through(self, move: Move, function: Function, records: list[int]) -> list[int]:
        lost = [record for record in records if function.is_lost(record)]
        if move.trouble == "dead letter":
            self.expected_letters += lost
        return [record for record in records if not function.is_lost(record)]

    def one(self, move: Move, first: Stream, real: DataStream, records: list[int], *, by_key: bool = False) -> None:
        # Keys stay with their records, and replicas then share the keys, not the records in turn.
        is_keyed = by_key or first.is_keyed
        stays = move.parallelism == 1 or (move.ordered and not is_keyed)
        is_ordered = first.is_ordered and stays
        is_ordered_by_key = is_ordered or (by_key and first.is_ordered)
        self.streams.append(Stream(real, records, is_ordered, is_ordered_by_key, is_keyed))

    def map(self, move: Move, first: Stream, second: Stream) -> None:
        function = Function(move, MAPS[move.variant])
        kept = self.through(move, function, first.records)
        real = first.real.map(function, **self.options(move))
        self.one(move, first, real, [MAPS[move.variant](record) for record in kept])

    def filter(self, move: Move, first: Stream, second: Stream) -> None:
        function = Function(move, KEEPS[move.variant])
        kept = self.through(move, function, first.records)
        real = first.real.filter(function, **self.options(move))
        self.one(move, first, real, [record for record in kept if KEEPS[move.variant](record)])

    def flatmap(self, move: Move, first: Stream, second: Stream) -> None:
        function = Function(move, SPREADS[move.variant])
        kept = self.through(move, function, first.records)
        real = first.real.flatmap(function, **self.options(move))
        self.one(move, first, real, [one for record in kept for one in SPREADS[move.variant](record)])

    def keyed_map(self, move: Move, first: Stream, second: Stream) -> None:
        function = Function(move, MAPS[0])  # which keeps the key
        kept = self.through(move, function, first.records)
        real = first.real.keyby(key_of).map(function, **self.options(move))
        self.one(move, first, real, [MAPS[0](record) for record in kept], by_key=True)

    def union(self, move: Move, first: Stream, second: Stream) -> None:
        function = Function(move, MAPS[1])
        kept = self.through(move, function, first.records + second.records)
        real = first.real.connect(second.real).map(function, **self.options(move))
        is_keyed = first.is_keyed and second.is_keyed
        self.streams.append(Stream(real, kept, is_ordered=False, is_ordered_by_key=False, is_keyed=is_keyed))

    def comap(self, move: Move, first: Stream, second: Stream) -> None:
        real = first.real.connect(second.real).comap(Apart, parallelism=move.parallelism, ordered=move.ordered)
        records = [record * 2 for record in first.records] + [record * 2 + 1 for record in second.records]
        self.streams.append(Stream(real, records, is_ordered=False, is_ordered_by_key=False))

    def join(self, move: Move, first: Stream, second: Stream, how: str = "inner") -> None:
        real = first.real.connect(second.real).keyby(key_of).join(joined, how=how, parallelism=move.parallelism)
        records = []
        for record in first.records:
            matches = [other for other in second.records if key_of(other) == key_of(record)]
            records += [joined(record, other) for other in matches]
            records += [joined(record, None)] if how == "left" and not matches else []
        is_ordered = move.parallelism == 1 and first.is_ordered and second.is_ordered
        self.streams.append(Stream(real, records, is_ordered, is_ordered))

    def left_join(self, move: Move, first: Stream, second: Stream) -> None:
        self.join(move, first, second, "left")

    def own_join(self, move: Move, first: Stream, second: Stream) -> None:
        real = first.real.connect(second.real).keyby(key_of, key_of).join(OwnJoin, parallelism=move.parallelism)
        records = [joined(a, b) for a in first.records for b in second.records if key_of(a) == key_of(b)]
        self.streams.append(Stream(real, records, is_ordered=False, is_ordered_by_key=False))


def check(stream: Stream, got: list[int]) -> None:
    assert Counter(got) == Counter(stream.records)
    if stream.is_ordered:
        assert got == stream.records
    elif stream.is_ordered_by_key:
        for key in range(KEYS):
            assert [x for x in got if key_of(x) == key] == [x for x in stream.records if key_of(x) == key]


def collecting(builder: Builder, longest: int) -> Run:
    """Collect all streams, each under its number, and return the run to be."""
    for number, stream in enumerate(builder.streams):
        stream.real.collect(name=f"out {number}")
    return Run(LocalEngine(BatchSizes(longest=longest)), builder.graph)


def results_of(run: Run) -> list[list[int]]:
    """Return what each stream gave, in the order of their numbers."""
    names = [one.name for pipeline in run.pipelines for one in pipeline.operators if one.kind == "collect"]
    results = run.result if len(names) > 1 else [run.result]
    return [result for _, result in sorted(zip(names, results, strict=True), key=lambda pair: int(pair[0][4:]))]


graphs = given(
    st.lists(st.lists(st.integers(0, 60), max_size=40), min_size=1, max_size=3),
    st.lists(moves, max_size=7),
    st.sampled_from([1, 2, 16, 1024]),
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@graphs
def test_a_graph_loses_nothing_doubles_nothing_and_keeps_order(
    sources: list[list[int]], chosen: list[Move], longest: int
) -> None:
    builder = Builder(sources)
    for move in chosen:
        builder.add(move)
    run = collecting(builder, longest)
    thread = run.start()

    assert ended(thread)
    assert run.error is None, run.error
    for stream, got in zip(builder.streams, results_of(run), strict=True):
        check(stream, got)
    assert Counter(letter.record for letter in builder.letters) == Counter(builder.expected_letters)
    assert run.snapshot.completed == run.snapshot.records == sum(map(len, sources))


@quick
@graphs
def test_a_graph_that_is_drained_finishes_what_its_sources_gave(
    sources: list[list[int]], chosen: list[Move], longest: int
) -> None:
    builder = Builder(sources)
    added = [move for move in chosen if builder.add(move)]
    run = collecting(builder, longest)
    thread = run.start()
    while run.snapshot.records < sum(map(len, sources)) // 2 and thread.is_alive():
        time.sleep(0)
    run.control.drain()
    assert ended(thread)
    assert run.error is None, run.error

    counts = [
        row.records_out or 0
        for pipeline in run.progress.pipelines
        for row in pipeline.operators()
        if row.kind == "source"
    ]
    order = declared_sources(run, builder)
    shortened = Builder([records[: counts[order.index(number)]] for number, records in enumerate(sources)])
    for move in added:
        shortened.add_anyway(move)
    for stream, got in zip(shortened.streams, results_of(run), strict=True):
        check(stream, got)
    assert run.snapshot.completed == run.snapshot.records == sum(counts)


def declared_sources(run: Run, builder: Builder) -> list[int]:
    """Return the numbers of the sources in the order in which the run's pipelines have them."""
    lists = [id(stream.records) for stream in builder.streams]
    found = []
    for pipeline in run.pipelines:
        found += [lists.index(id(source.function)) for source in pipeline.sources]
    return found
