from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.dataflow.fuse import RECORDS_PER_PAUSE, Exit, FusedLoop, Step, compiled, fuse
from autostop_lab.dataflow.graph import Kind
from autostop_lab.dataflow.stages import Routing


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


def bound(steps: list[Step], functions: list[Any], exits: list[Exit], has_keys: bool = False, **further: Any) -> Any:
    return fuse(steps, exits, has_keys=has_keys).bind(functions, never, **further)


def test_records_leave_by_an_exit_with_the_index_of_what_they_came_of() -> None:
    put, mark = list[int](), list[int]()
    run_batch = bound(
        [Step(Kind.FILTER, "f"), Step(Kind.FLATMAP, "m")],
        [lambda x: x != 5, lambda x: [x] * (x % 3)],
        [Exit()],
        put_0=put.append,
        mark_0=mark.append,
    )

    assert run_batch([0, 1, 2, 3], iter([4, 5, 6, 8])) == (4, 3, 3)
    assert put == [4, 8, 8]
    assert mark == [0, 3, 3]


def test_without_a_change_of_numbers_nothing_is_marked() -> None:
    put = list[int]()
    loop = fuse([Step(Kind.MAP, "m")], [Exit()])
    run_batch = loop.bind([abs], never, put_0=put.append, mark_0=None)

    assert loop.keeps_places
    assert run_batch([0, 1], iter([-1, -2])) == (2,)
    assert put == [1, 2]


def test_keys_decide_by_which_list_a_record_leaves_and_may_go_along() -> None:
    lists: tuple[list[Any], ...] = ([], [])
    marks: tuple[list[int], ...] = ([], [])
    run_batch = bound(
        [Step(Kind.KEYBY, "k")],
        [lambda x: x % 2],
        [Exit(Routing.HASH, has_keys=True)],
        put_0=[one.append for one in lists],
        mark_0=[one.append for one in marks],
        route_0=lambda key: key,
    )
    run_batch([0, 1, 2], iter([10, 11, 12]))

    assert lists == ([(0, 10), (0, 12)], [(1, 11)])
    assert marks == ([0, 2], [1])


def test_records_that_come_with_keys_give_them_to_a_join() -> None:
    seen: list[Any] = []
    run_batch = bound(
        [Step(Kind.JOIN, "j"), Step(Kind.SINK, "s")],
        [lambda record, key: [key, record], seen.append],
        [],
        has_keys=True,
    )

    assert run_batch([0, 1], iter([("a", 1), ("b", 2)])) == (2, 4)
    assert seen == ["a", 1, "b", 2]


@pytest.mark.parametrize("kind", [Kind.MAP, Kind.FILTER, Kind.FLATMAP, Kind.SINK])
def test_a_guarded_operator_gives_away_what_fails_and_goes_on(kind: Kind) -> None:
    def fails(record: int) -> list[int]:
        if record % 2:
            raise ValueError(str(record))
        return [record]

    failed: list[tuple[str, int, int]] = []
    run_batch = bound(
        [Step(kind, "g", is_guarded=True)],
        [fails],
        [],
        failed_0=lambda error, record, index: failed.append((str(error), record, index)),
    )

    assert run_batch([0, 1, 2], iter([1, 2, 3]))[-1] == 2
    assert failed == [("1", 1, 0), ("3", 3, 2)]


def test_what_is_no_exception_passes_a_guard() -> None:
    def interrupted(record: int) -> None:
        raise KeyboardInterrupt

    run_batch = bound([Step(Kind.MAP, "g", is_guarded=True)], [interrupted], [], failed_0=never)
    with pytest.raises(KeyboardInterrupt):
        run_batch([0], iter([1]))


def test_many_records_of_one_that_leave_pause_now_and_then() -> None:
    put, pauses = list[int](), list[int]()

    def pause(*counts: int) -> bool:
        pauses.append(len(put))
        return False

    run_batch = fuse([Step(Kind.FLATMAP, "m")], [Exit()]).bind([range], pause, put_0=put.append, mark_0=lambda x: None)
    run_batch([0], iter([5 * RECORDS_PER_PAUSE]))

    assert len(put) == 5 * RECORDS_PER_PAUSE
    assert len(pauses) == 5
