from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.dataflow.fuse import FusedLoop, Step, compiled, fuse
from autostop_lab.dataflow.graph import Kind


def loop(*kinds: Kind) -> FusedLoop:
    return fuse([Step(kind, str(kind)) for kind in (Kind.SOURCE, *kinds)])


def never(*counts: int) -> bool:
    raise AssertionError("no pause was asked for")


def test_as_many_records_are_taken_as_the_gate_has_items() -> None:
    taken: list[str] = []
    run_batch = loop(Kind.SINK).bind([taken.append], never)
    records = iter("abcdef")

    assert run_batch([0, 1], records) == (2,)
    assert run_batch([0, 1, 2], records) == (3,)
    assert taken == list("abcde")
    assert run_batch([0, 1, 2], records) == (1,)


def test_an_emptied_gate_ends_the_loop_before_the_next_record_is_read() -> None:
    gate = list(range(100))
    records = iter("abcdef")
    run_batch = loop(Kind.SINK).bind([lambda record: gate.clear() if record == "c" else None], never)

    assert run_batch(gate, records) == (3,)
    assert next(records) == "d"


def test_counts_are_kept_behind_filters_and_flatmaps() -> None:
    run_batch = loop(Kind.MAP, Kind.FILTER, Kind.FLATMAP, Kind.MAP, Kind.FILTER, Kind.SINK).bind(
        [abs, lambda x: x > 1, range, str, lambda x: x == "0", lambda x: None], never
    )

    assert run_batch([0, 1, 2, 3], iter([0, -1, -2, -3])) == (4, 2, 5, 2)


def test_within_a_flatmaps_records_an_empty_gate_asks_whether_to_go_on() -> None:
    asked: list[tuple[int, ...]] = []
    gate = [0, 1]

    def pause(*counts: int) -> bool:
        asked.append(counts)
        return len(asked) == 3

    run_batch = loop(Kind.FLATMAP, Kind.SINK).bind([lambda x: range(10), lambda x: gate.clear()], pause)

    assert run_batch(gate, iter([7, 8])) == (1, 3)
    assert asked == [(1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("kinds", "position"),
    [((Kind.MAP, Kind.MAP, Kind.SINK), 2), ((Kind.FLATMAP, Kind.FILTER, Kind.SINK), 2), ((Kind.MAP, Kind.SINK), 2)],
)
def test_a_failure_is_located_by_line_and_gate(kinds: tuple[Kind, ...], position: int) -> None:
    def fails(record: Any) -> Any:
        if record == "d":
            raise ValueError("bad")
        return record

    fused = loop(*kinds)
    functions = [lambda x: x for _ in kinds]
    functions[position - 1] = fails
    run_batch = fused.bind(functions, never)
    with pytest.raises(ValueError, match="bad") as caught:
        run_batch(list(range(10)), iter("abcdef"))
    failure = fused.locate(caught.tb)

    assert failure is not None
    assert (failure.position, failure.index, failure.counts[0]) == (position, 3, 4)


def test_a_failure_elsewhere_is_not_located() -> None:
    with pytest.raises(ValueError, match="elsewhere") as caught:
        raise ValueError("elsewhere")

    assert loop(Kind.SINK).locate(caught.tb) is None
    assert loop(Kind.SINK).locate(None) is None


def test_one_program_is_compiled_once() -> None:
    first, second = loop(Kind.MAP, Kind.SINK), loop(Kind.MAP, Kind.SINK)

    assert compiled(first.text) is compiled(second.text)


def test_the_program_has_one_call_per_line() -> None:
    lines = loop(Kind.MAP, Kind.FILTER, Kind.FLATMAP, Kind.SINK).text.splitlines()

    assert [line.strip().partition("  #")[0] for line in lines if "(record)" in line] == [
        "record = map_1(record)",
        "if not filter_2(record):",
        "many_3 = flatmap_3(record)",
        "sink_4(record)",
    ]
