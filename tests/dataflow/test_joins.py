from __future__ import annotations

from collections.abc import Iterable

from autostop_lab.dataflow.graph import Pairing
from autostop_lab.dataflow.joins import RECORDS_PER_SWEEP, Join, WindowJoin, join_of


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def take_all(join: Join, records: Iterable[tuple[int, str, int]]) -> list[object]:
    """Send ``(tag, record, key)`` and return all that comes of them."""
    return [one for tag, record, key in records for one in join.take(record, key, tag)]


def test_a_batch_join_gives_each_first_record_all_second_ones_of_its_key() -> None:
    join = join_of(Pairing(), None)
    assert take_all(join, [(1, "x", 1), (1, "y", 2), (1, "z", 1)]) == []

    assert take_all(join, [(0, "a", 1), (0, "b", 3), (0, "c", 2)]) == [("a", "x"), ("a", "z"), ("c", "y")]


def test_a_left_join_gives_none_where_there_is_no_match() -> None:
    join = join_of(Pairing(how="left"), lambda left, right: f"{left}{right}")

    assert take_all(join, [(1, "x", 1), (0, "a", 1), (0, "b", 2)]) == ["ax", "bNone"]


def test_a_window_of_records_keeps_the_latest_of_each_key_and_stream() -> None:
    join = join_of(Pairing(window_records=2), None)
    records = [(0, "a", 1), (0, "b", 1), (0, "c", 1), (0, "d", 2), (1, "x", 1), (1, "y", 2), (0, "e", 2)]

    assert take_all(join, records) == [("b", "x"), ("c", "x"), ("d", "y"), ("e", "y")]


def test_a_window_of_time_forgets_what_came_too_long_ago() -> None:
    clock = Clock()
    join = join_of(Pairing(window_s=5), None, clock=clock)
    take_all(join, [(0, "a", 1)])
    clock.now_s = 3
    assert take_all(join, [(0, "b", 1), (1, "x", 1)]) == [("a", "x"), ("b", "x")]
    clock.now_s = 6
    assert take_all(join, [(1, "y", 1)]) == [("b", "y")]
    clock.now_s = 20

    assert take_all(join, [(0, "c", 1), (1, "z", 1)]) == [("c", "z")]


def test_keys_that_come_no_more_are_forgotten_with_their_window() -> None:
    clock = Clock()
    join = WindowJoin(lambda left, right: None, None, 1.0, clock)
    take_all(join, ((0, "a", key) for key in range(RECORDS_PER_SWEEP - 1)))
    assert join.kept == RECORDS_PER_SWEEP - 1
    clock.now_s = 10
    take_all(join, [(0, "a", -1)])

    assert join.kept == 1
