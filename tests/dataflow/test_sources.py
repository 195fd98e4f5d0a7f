from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from autostop_lab.dataflow.describe import source_operator
from autostop_lab.dataflow.sources import Reading


def reading(source: Any, *, is_unbounded: bool = False) -> Reading:
    operator = source_operator("source", source, (), {}, is_unbounded=is_unbounded)
    return Reading(operator, getattr(source, "execute", operator.function))


def test_the_length_of_what_a_function_returns_is_known() -> None:
    assert reading(lambda: [1, 2]).length == 2
    assert reading(lambda: iter([1, 2])).length is None


def test_a_generator_is_closed_if_it_was_made_for_the_run() -> None:
    closed: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append("closed")

    read = reading(numbers)
    next(read.records)
    read.close()

    assert closed == ["closed"]


def test_only_none_is_the_end_of_execute() -> None:
    class Source:
        def __init__(self) -> None:
            self.left: list[Any] = [None, 0, "", [], False]

        def execute(self) -> Any:
            return self.left.pop()

    assert list(reading(Source()).records) == [False, [], "", 0]


def test_a_stop_iteration_of_execute_is_kept_apart_from_the_end() -> None:
    class Source:
        def execute(self) -> Any:
            raise StopIteration("too early")

    read = reading(Source())

    with pytest.raises(StopIteration, match=r"^$"):
        next(read.records)
    assert [stop.value for stop in read.escaped] == ["too early"]
