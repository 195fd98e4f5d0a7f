"""`DataStream`: how a pipeline is written, operator by operator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

from autostop_lab.dataflow.describe import (
    a_kind_of,
    call_operator,
    function_name,
    function_operator,
    next_name,
    source_operator,
)
from autostop_lab.dataflow.graph import Chain, Form, Graph, Kind, Operator, label
from autostop_lab.exceptions import ConfigurationError, PipelineError


class DataStream:
    """The records that leave an operator; each method sends them into a further one.

    Functions are callables, classes with ``execute``, or objects with ``execute``. Of a class a new object is
    made for every run, with the further arguments given here. A stream is made by an environment, and used
    once.

    Parameters
    ----------
    chain : Chain
        The pipeline that is being declared.
    position : int
        Place in it of the operator whose records these are.
    """

    def __init__(self, chain: Chain, position: int) -> None:
        self._chain = chain
        self._position = position

    @property
    def owner(self) -> object:
        """The token of who declares the pipeline."""
        return self._chain.graph.owner

    def map(self, function: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
        """Make one record of each; None is a record like any other.

        Parameters
        ----------
        function : callable, class or object with ``execute``
            ``record -> record``.
        *args, **kwargs
            Arguments of the class's constructor.
        name : str or None
            Name of the operator; None for ``map``, ``map#2`` ...

        Returns
        -------
        DataStream
            The new records, in the same order.

        Raises
        ------
        PipelineError
            The function cannot be used here.
        ArgumentError
            The arguments do not fit the constructor.
        """
        return self._then(Kind.MAP, function, args, kwargs, name)

    def filter(self, function: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
        """Keep the records for which the function returns something true; else as `map`."""
        return self._then(Kind.FILTER, function, args, kwargs, name)

    def flatmap(self, function: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
        """Make any number of records of each: those of the iterable that the function returns.

        A `FlatMapFunction` may give them to its ``collect`` as well. Else as `map`.
        """
        return self._then(Kind.FLATMAP, function, args, kwargs, name)

    def sink(self, function: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> None:
        """Call a function with each record, and end the pipeline; else as `map`."""
        self._then(Kind.SINK, function, args, kwargs, name)

    def print(self, prefix: str = "", separator: str = " ", *, name: str | None = None) -> None:
        """Print each record on a line, and end the pipeline.

        Parameters
        ----------
        prefix : str
            Stands before each record.
        separator : str
            Stands between the two, if there is a prefix.
        name : str or None
            Name of the operator.
        """
        self._end(Kind.PRINT, printer(prefix, separator), name)

    def collect(self, *, name: str | None = None) -> None:
        """Gather all records in a list, which is the job's result, and end the pipeline.

        With several of them the result is a list of their lists, in the order in which their sources were
        declared.

        Parameters
        ----------
        name : str or None
            Name of the operator.
        """
        self._end(Kind.COLLECT, list, name)

    def _then(
        self, kind: Kind, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
    ) -> DataStream:
        return self._add(kind, name, lambda name: function_operator(kind, name, function, args, kwargs))

    def _end(self, kind: Kind, function: Callable[..., Any], name: str | None) -> None:
        self._add(kind, name, lambda name: Operator(kind, name, function, Form.OURS))

    def _add(self, kind: Kind, name: str | None, describe: Callable[[str], Operator]) -> DataStream:
        before = self._chain.operators[: self._position + 1]
        try:
            self._chain.add(describe(next_name(kind, name, before)), after=self._position)
        except ConfigurationError:
            self._chain.graph.forget(self._chain)
            raise
        return DataStream(self._chain, self._position + 1)

    def __repr__(self) -> str:
        """Return the operators up to here."""
        names = " -> ".join(operator.name for operator in self._chain.operators[: self._position + 1])
        return f"<DataStream {names}>"


def from_batch(graph: Graph, source: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
    """Begin a pipeline that ends when its source does.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    source : iterable, callable, or class or object with ``execute``
        An iterable is iterated anew by every run; a callable is called once per run and returns an iterable;
        ``execute()`` gives one record per call and None at the end.
    *args, **kwargs
        Arguments of the class's constructor.
    name : str or None
        Name of the operator; None for ``source``.

    Returns
    -------
    DataStream
        Its records.

    Raises
    ------
    PipelineError
        This cannot be a source.
    ArgumentError
        The arguments do not fit the constructor.
    """
    name = next_name(Kind.SOURCE, name, ())
    return DataStream(Chain(graph, source_operator(name, source, args, kwargs)), 0)


def from_collection(graph: Graph, collection: Collection[Any], /, *, name: str | None = None) -> DataStream:
    """Begin a pipeline that reads a list or another collection, anew by every run.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    collection : collection
        Something with a length that can be iterated.
    name : str or None
        Name of the operator; None for ``source``.

    Returns
    -------
    DataStream
        Its records.

    Raises
    ------
    PipelineError
        It is no collection.
    """
    name = next_name(Kind.SOURCE, name, ())
    operator = source_operator(name, collection, (), {})
    if operator.form is not Form.ITERABLE or not isinstance(collection, Collection):
        raise PipelineError(
            f"{label(name, function_name(collection))}: from_collection takes a list or another collection, "
            f"not {a_kind_of(collection)}. Use from_batch for iterators, functions and classes."
        )
    return DataStream(Chain(graph, operator), 0)


def run(graph: Graph, function: Callable[[], Any], /) -> None:
    """Declare that the job is one callable; its value is the job's result.

    Parameters
    ----------
    graph : Graph
        Where it belongs; nothing else may be declared in it.
    function : callable
        Called without arguments.

    Raises
    ------
    PipelineError
        It is no callable, or something else is declared already.
    """
    graph.run(call_operator(function))


def printer(prefix: str, separator: str) -> Callable[[Any], None]:
    """Return a function that prints a record behind `prefix`."""
    before = f"{prefix}{separator}" if prefix else ""

    def print_record(record: Any) -> None:
        # One write per line, so that lines of several threads do not mix; the stream is looked up anew each
        # time, since notebooks and tests replace it.
        sys.stdout.write(f"{before}{record}\n")

    return print_record
