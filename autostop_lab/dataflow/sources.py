"""Reading a source: one iterator for everything that a source can be."""

from __future__ import annotations

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
        One that ``execute()`` of the source has raised: not its end, but an error.

    Parameters
    ----------
    operator : Operator
        The source.
    function : object
        Its function; for a class, this run's object.
    """

    def __init__(self, operator: Operator, function: Any) -> None:
        self.escaped: list[StopIteration] = []
        self.length: int | None = None
        self._own: Generator[Any, None, None] | None = None
        if operator.form in (Form.CLASS, Form.OBJECT):
            self.records: Iterator[Any] = until_none(function.execute, self.escaped)
            return
        if isinstance(function, OneShot):
            self.records = function.take(operator.label)
            return
        records = function() if operator.form is Form.CALLABLE else function
        if operator.form is Form.CALLABLE:
            self._check(operator, records)
        self.length = length_of(records)
        self.records = iter(records)
        if operator.form is Form.CALLABLE and isinstance(records, GeneratorType):
            self._own = records

    def _check(self, operator: Operator, records: Any) -> None:
        refuse_as_records(f"what {operator.label} returned", records)
        if not is_iterable(records):
            raise PipelineError(
                f"{operator.label} returned {a_kind_of(records)}, which is not iterable. "
                "Return a list or another iterable, or write it with yield."
            )

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
