"""What a job computes, as data: operators, and pipelines of operators.

Nothing in here runs a function of the user's. An `Operator` describes; the engine makes objects of it, new
ones for every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from autostop_lab.exceptions import PipelineError


class Kind(StrEnum):
    """What an operator does; the values are its default names."""

    SOURCE = "source"
    MAP = "map"
    FILTER = "filter"
    FLATMAP = "flatmap"
    SINK = "sink"
    PRINT = "print"
    COLLECT = "collect"
    CALL = "run"

    @property
    def is_sink(self) -> bool:
        """Whether a pipeline can end with it."""
        return self in (Kind.SINK, Kind.PRINT, Kind.COLLECT)

    @property
    def changes_count(self) -> bool:
        """Whether another number of records may leave it than came in."""
        return self in (Kind.FILTER, Kind.FLATMAP)


class Form(Enum):
    """How the function of an operator was given."""

    CLASS = "class"  # with execute; the engine makes an object of it, once per run
    OBJECT = "object"  # with execute
    CALLABLE = "callable"
    ITERABLE = "iterable"  # sources only; an iterator is wrapped in `OneShot`
    OURS = "ours"  # print and collect


@dataclass(frozen=True, eq=False, slots=True)
class Operator:
    """One operator as it was written.

    Attributes
    ----------
    kind : Kind
        What it does.
    name : str
        Unique in its pipeline.
    function : object
        A class with ``execute``, an object with ``execute``, a callable, or an iterable (sources).
    form : Form
        Which of these.
    args, kwargs : tuple, dict
        Arguments of the class's constructor.
    shown : str
        What to call the function in texts; "" where there is nothing to say.
    """

    kind: Kind
    name: str
    function: Any
    form: Form
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""

    @property
    def label(self) -> str:
        """What it is called in errors, as in ``operator 'map' (parse)``."""
        return label(self.name, self.shown)


@dataclass(frozen=True, eq=False, slots=True)
class Pipeline:
    """A source, what follows, and a sink; or one callable.

    Attributes
    ----------
    number : int
        Its place among the pipelines of the job, from 1.
    operators : tuple of Operator
        In the order in which a record passes them.
    """

    number: int
    operators: tuple[Operator, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of its operators."""
        return tuple(operator.kind for operator in self.operators)

    @property
    def count_size(self) -> int:
        """How many counts it has: records taken from the source, and those behind each filter and flatmap."""
        return 1 + sum(kind.changes_count for kind in self.kinds)

    @property
    def length(self) -> int | None:
        """How many records the source holds, where that is known before it is read."""
        source = self.operators[0]
        return length_of(source.function) if source.form is Form.ITERABLE else None

    @property
    def is_callable(self) -> bool:
        """Whether it is a job's one callable, without records."""
        return self.operators[0].kind is Kind.CALL

    def label(self, operator: Operator) -> str:
        """Return what one of its operators is called in errors, with its number from the second on."""
        return operator.label if self.number == 1 else f"{operator.label} of pipeline {self.number}"


class OneShot:
    """An iterator given as a source: the first run takes it.

    Parameters
    ----------
    iterator : iterator
        What was given.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator
        self._is_taken = False

    def take(self, name: str) -> Iterator[Any]:
        """Return the iterator, once.

        Parameters
        ----------
        name : str
            What the operator is called, for the error.

        Raises
        ------
        PipelineError
            An earlier run had it.
        """
        if self._is_taken:
            raise PipelineError(
                f"{name} reads an iterator, which can be read once, and an earlier run has used it up. Give "
                "from_batch a list, or the function that makes the iterator: from_batch(rows), not rows()."
            )
        self._is_taken = True
        return self.iterator


class Graph:
    """The pipelines that are being declared for one job.

    Parameters
    ----------
    owner : object
        A token of who declares them; streams show it, so that those of two environments can be told apart.
    """

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        self._chains: list[Chain] = []
        self._callable: Operator | None = None

    def __bool__(self) -> bool:
        """Return whether anything is declared."""
        return bool(self._chains) or self._callable is not None

    def run(self, operator: Operator) -> None:
        """Declare that the job is one callable; its value is the job's result.

        Raises
        ------
        PipelineError
            Something else is declared already.
        """
        if self._callable is not None:
            raise PipelineError(
                f"run({operator.shown}): the job is run({self._callable.shown}) already, and a job runs one "
                "callable. Submit the first one, or write a function that calls both."
            )
        if self._chains:
            raise PipelineError(
                f"run({operator.shown}): pipelines are declared already, and a job is one callable or "
                "pipelines. Submit them first, or run the callable in an environment of its own."
            )
        self._callable = operator

    def admit(self, chain: Chain) -> None:
        """Take a pipeline in, if it is not there: a new one, or one that goes on after it was forgotten.

        Raises
        ------
        PipelineError
            The job is one callable already.
        """
        if chain in self._chains:
            return
        if self._callable is not None:
            raise PipelineError(
                f"{chain.operators[-1].label}: the job is run({self._callable.shown}) already, and a job is "
                "one callable or pipelines. Submit that first, or use an environment of its own."
            )
        self._chains.append(chain)

    def forget(self, chain: Chain) -> None:
        """Drop an unfinished pipeline that was refused, so that a corrected cell can be run again."""
        if chain in self._chains and not chain.is_finished:
            self._chains.remove(chain)

    def pipelines(self) -> tuple[Pipeline, ...]:
        """Return what was declared, ready for an engine.

        Returns
        -------
        tuple of Pipeline
            In order of declaration; empty if nothing was declared.

        Raises
        ------
        PipelineError
            A pipeline has no sink.
        """
        if self._callable is not None:
            return (Pipeline(1, (self._callable,)),)
        for chain in self._chains:
            if not chain.is_finished:
                last = chain.operators[-1]
                self.forget(chain)  # so that a corrected notebook cell can be run again
                what = "is never used" if last.kind is Kind.SOURCE else "has no sink behind it"
                raise PipelineError(
                    f"{last.label}: its stream {what}, so its records would go nowhere. "
                    "End it with .sink(function), .print() or .collect()."
                )
        return tuple(Pipeline(number, tuple(chain.operators)) for number, chain in enumerate(self._chains, 1))


class Chain:
    """One pipeline that is being declared; it grows with every operator.

    Parameters
    ----------
    graph : Graph
        The graph that it belongs to.
    source : Operator
        Its first operator.
    """

    def __init__(self, graph: Graph, source: Operator) -> None:
        self.graph = graph
        self.operators = [source]
        graph.admit(self)

    @property
    def is_finished(self) -> bool:
        """Whether it ends with a sink."""
        return self.operators[-1].kind.is_sink

    def add(self, operator: Operator, *, after: int) -> None:
        """Add an operator behind the one at position `after`.

        Raises
        ------
        PipelineError
            That one has a follower.
        """
        if after != len(self.operators) - 1:
            raise PipelineError(
                f"{operator.label}: the stream of {self.operators[after].label} already goes to "
                f"{self.operators[after + 1].label}, and a stream cannot branch yet. "
                "Declare its source a second time for the other branch."
            )
        for other in self.operators:
            if operator.form is Form.OBJECT and other.function is operator.function:
                raise PipelineError(
                    f"{operator.label}: this very object is {other.label} already, and would be opened "
                    "twice. Give the class or a second object, or its method: execute."
                )
        self.operators.append(operator)
        self.graph.admit(self)


def length_of(records: Any) -> int | None:
    """Return how many records there are, or None where that is not known."""
    if not isinstance(records, Sized):
        return None
    try:
        return len(records)
    except Exception:  # some have __len__ only to say that they have no length
        return None


def label(name: str, shown: str) -> str:
    """Return what an operator is called in errors."""
    return f"operator {name!r} ({shown})" if shown else f"operator {name!r}"
