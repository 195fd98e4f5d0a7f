"""Reading a source: one iterator for everything that a source can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from types import GeneratorType
from typing import Any

from autostop_lab.dataflow.describe import a_kind_of, refuse_as_records
from autostop_lab.dataflow.functions import is_iterable
from autostop_lab.dataflow.graph import Form, OneShot, Operator, length_of
from autostop_lab.exceptions import PipelineError


class Reading:
    """One run's reading of a source.

    Attributes
    ----------
    records : iterator
        Gives the records.
    length : int or None
        How many there are, where the source knows it.
    escaped : list of StopIteration
        One that ``execute()`` of a source with an end has raised: not its end, but an error.

    Parameters
    ----------
    operator : Operator
        The source.
    function : object
        Its function; for a class or object, this run's ``execute``.
    """

    def __init__(self, operator: Operator, function: Any) -> None:
        self.escaped: list[StopIteration] = []
        self.length: int | None = None
        self._own: Generator[Any, None, None] | None = None
        self._again: Callable[[], Iterator[Any]] | None = None
        self._is_resting = False
        is_unbounded = operator.is_unbounded
        is_executed = operator.form in (Form.CLASS, Form.OBJECT) or (
            is_unbounded and operator.form is Form.CALLABLE and not inspect.isgeneratorfunction(function)
        )
        if is_executed:
            self._again = (lambda: self._until_rest(function)) if is_unbounded else None
            self.records: Iterator[Any] = self._again() if self._again else until_none(function, self.escaped)
            return
        if isinstance(function, OneShot):
            records = function.take(operator.label)
        else:
            records = function() if operator.form is Form.CALLABLE else function
        if operator.form is Form.CALLABLE:
            self._check(operator, records)
        if not isinstance(function, OneShot) and not is_unbounded:
            self.length = length_of(records)
        self.records = iter(records)
        if operator.form is Form.CALLABLE and isinstance(records, GeneratorType):
            self._own = records
        if is_unbounded:
            given = self.records
            self._again = lambda: self._until_rest(given.__next__)
            self.records = self._again()

    def _check(self, operator: Operator, records: Any) -> None:
        refuse_as_records(f"what {operator.label} returned", records)
        if not is_iterable(records):
            raise PipelineError(
                f"{operator.label} returned {a_kind_of(records)}, which is not iterable. "
                "Return a list or another iterable, or write it with yield."
            )

    def _until_rest(self, give: Callable[[], Any]) -> Generator[Any, None, None]:
        """Yield what `give` returns until it has nothing now, or raises StopIteration."""
        __tracebackhide__ = True
        self._is_resting = False
        try:
            while (record := give()) is not None:
                yield record
        except StopIteration:
            return
        self._is_resting = True

    def go_on(self) -> bool:
        """Begin anew where the source had nothing at the moment; return False if it has ended."""
        if self._again is None or not self._is_resting:
            return False
        self.records = self._again()
        return True

    def close(self) -> None:
        """Close a generator that was made for this run; one that the user made belongs to the user."""
        if self._own is not None:
            self._own.close()


def until_none(execute: Callable[[], Any], escaped: list[StopIteration]) -> Generator[Any, None, None]:
    """Yield what `execute` returns until that is None; a StopIteration of its own goes to `escaped`."""
    __tracebackhide__ = True
    try:
        while (record := execute()) is not None:
            yield record
    except StopIteration as stop:
        escaped.append(stop)
