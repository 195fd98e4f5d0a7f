"""Random chains, with a random failure, do what plain Python does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from autostop_lab.dataflow import Graph, from_batch
from autostop_lab.engines import BatchSizes, LocalEngine
from tests.engines.runs import Run, notes


class PlannedError(Exception):
    """What a step raises at its failing call."""


@dataclass
class Step:
    """One operator: what it does, and at which of its calls it fails (never if None)."""

    kind: str
    function: Callable[[int], Any]
    fails_at: int | None
    calls: int = 0

    def __call__(self, record: int) -> Any:
        self.calls += 1
        if self.calls - 1 == self.fails_at:
            raise PlannedError
        return self.function(record)


FUNCTIONS: dict[str, list[Callable[[int], Any]]] = {
    "map": [lambda x: x + 1, lambda x: -x, lambda x: x * 7],
    "filter": [lambda x: x % 2, lambda x: x % 3 == 0, lambda x: True, lambda x: None],
    "flatmap": [lambda x: [x, x], lambda x: (), lambda x: (x + n for n in range(x % 3)), lambda x: range(abs(x) % 4)],
}

steps = st.lists(
    st.sampled_from([(kind, function) for kind, functions in FUNCTIONS.items() for function in functions]),
    max_size=5,
)


def plain(records: list[int], chain: list[Step]) -> tuple[list[int], list[list[int]], tuple[int, int] | None]:
    """Return results, in/out/errors of each step, and (position, record) of the failure, by plain recursion."""
    results: list[int] = []
    counts = [[0, 0, 0] for _ in chain]

    def send(record: int, position: int) -> None:
        if position == len(chain):
            results.append(record)
            return
        counts[position][0] += 1
        try:
            value = chain[position](record)
        except PlannedError:
            counts[position][2] += 1
            raise
        match chain[position].kind:
            case "map":
                out = [value]
            case "filter":
                out = [record] if value else []
            case _:
                out = value
        for one in out:
            counts[position][1] += 1
            send(one, position + 1)

    for index, record in enumerate(records):
        try:
            send(record, 0)
        except PlannedError:
            return results, counts, (next(n for n, row in enumerate(counts) if row[2]), index)
    return results, counts, None


@settings(max_examples=200, deadline=None)
@given(
    steps,
    st.lists(st.integers(-20, 20), max_size=30),
    st.integers(0, 6),
    st.integers(0, 40),
    st.sampled_from([1, 2, 7, 64]),
)
def test_a_chain_does_what_plain_python_does(
    chosen: list[tuple[str, Callable[[int], Any]]], records: list[int], failing: int, at: int, longest: int
) -> None:
    def chain() -> list[Step]:
        return [Step(kind, f, at if n == failing else None) for n, (kind, f) in enumerate(chosen)]

    expected, counts, failure = plain(records, chain())
    graph = Graph()
    results: list[int] = []
    stream = from_batch(graph, records)
    for number, step in enumerate(chain()):
        stream = getattr(stream, step.kind)(step, name=f"step {number}")
    stream.sink(results.append)
    run = Run(LocalEngine(BatchSizes(longest=longest)), graph)

    if failure is None:
        run()
        assert run.snapshot.records == len(records)
    else:
        position, index = failure
        error = run.fail()
        assert isinstance(error, PlannedError)
        assert notes(error) == [f"operator 'step {position}' (Step), record {index}"]
        assert run.snapshot.records == index + 1

    assert results == expected
    assert [list(row[1:]) for row in run.counts[1:-1]] == counts
    assert run.counts[-1] == ("sink", len(expected), None, 0)
