"""What a job computes, as data: operators, and pipelines of operators.

Nothing in here runs a function of the user's. An `Operator` describes; the engine makes objects of it, new
ones for every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from autostop_lab.dataflow.settings import DEFAULT_SETTINGS, Settings
from autostop_lab.exceptions import PipelineError


class Kind(StrEnum):
    """What an operator does; the values are its default names."""

    SOURCE = "source"
    FUTURE = "future"
    MAP = "map"
    FILTER = "filter"
    FLATMAP = "flatmap"
    KEYBY = "keyby"
    COMAP = "comap"
    JOIN = "join"
    SINK = "sink"
    PRINT = "print"
    COLLECT = "collect"
    RESULT = "result"
    FEEDBACK = "fill_future"
    CALL = "run"

    @property
    def is_source(self) -> bool:
        """Whether records begin their way with it."""
        return self in (Kind.SOURCE, Kind.FUTURE)

    @property
    def is_sink(self) -> bool:
        """Whether a pipeline can end with it."""
        return self in (Kind.SINK, Kind.PRINT, Kind.COLLECT, Kind.RESULT, Kind.FEEDBACK)

    @property
    def changes_count(self) -> bool:
        """Whether another number of records may leave it than came in."""
        return self in (Kind.FILTER, Kind.FLATMAP, Kind.JOIN)

    @property
    def multiplies(self) -> bool:
        """Whether many records may leave it for one that came in."""
        return self in (Kind.FLATMAP, Kind.JOIN)


class Form(Enum):
    """How the function of an operator was given."""

    CLASS = "class"  # with execute; the engine makes an object of it, once per run and replica
    OBJECT = "object"  # with execute
    CALLABLE = "callable"
    CALLABLES = "callables"  # one per stream
    ITERABLE = "iterable"  # sources only; an iterator is wrapped in `OneShot`
    OURS = "ours"  # print, collect, and what has no function


class Strategy(StrEnum):
    """Which replicas of the next operator get a record of a keyed stream."""

    HASH = "hash"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a join of two streams pairs records of equal keys.

    Attributes
    ----------
    how : str
        ``"inner"``, or ``"left"``: records of the first stream without a match come with None.
    window_records : int or None
        So many records of each key and stream can still be matched.
    window_s : float or None
        For so many seconds a record can be matched.
    """

    how: str = "inner"
    window_records: int | None = None
    window_s: float | None = None

    @property
    def is_batch(self) -> bool:
        """Whether the second stream is read to its end before the first one is matched."""
        return self.window_records is None and self.window_s is None


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
    settings : Settings
        How it runs.
    is_unbounded : bool
        Of a source: whether it goes on until it is stopped.
    strategy : Strategy
        Of a ``keyby``: which replicas get a record.
    pairing : Pairing or None
        Of a ``join`` that pairs records by itself.
    """

    kind: Kind
    name: str
    function: Any
    form: Form
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""
    settings: Settings = DEFAULT_SETTINGS
    is_unbounded: bool = False
    strategy: Strategy = Strategy.HASH
    pairing: Pairing | None = None

    @property
    def label(self) -> str:
        """What it is called in errors, as in ``operator 'map' (parse)``."""
        return label(self.name, self.shown)


@dataclass(frozen=True, eq=False, slots=True)
class Pipeline:
    """Sources, what follows, and sinks, all connected; or one callable.

    Attributes
    ----------
    number : int
        Its place among the pipelines of the job, from 1.
    operators : tuple of Operator
        In the order of their declaration, so that inputs come before what they go to.
    inputs : tuple of tuple of int
        Of each operator, the positions of those whose records it takes.
    loops : tuple of (int, int)
        Positions of each ``fill_future``, and of the future that its records go to.
    """

    number: int
    operators: tuple[Operator, ...]
    inputs: tuple[tuple[int, ...], ...] = ()
    loops: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs:  # a chain
            inputs = tuple((position - 1,) if position else () for position in range(len(self.operators)))
            object.__setattr__(self, "inputs", inputs)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of its operators."""
        return tuple(operator.kind for operator in self.operators)

    @property
    def sources(self) -> tuple[Operator, ...]:
        """Its sources, in order of declaration."""
        return tuple(operator for operator in self.operators if operator.kind is Kind.SOURCE)

    @property
    def length(self) -> int | None:
        """How many records the sources hold in all, where that is known before they are read."""
        lengths = [length_of(one.function) if one.form is Form.ITERABLE else None for one in self.sources]
        return None if None in lengths else sum(filter(None, lengths))

    @property
    def is_callable(self) -> bool:
        """Whether it is a job's one callable, without records."""
        return self.operators[0].kind is Kind.CALL

    @property
    def is_unbounded(self) -> bool:
        """Whether one of its sources goes on until it is stopped."""
        return any(source.is_unbounded for source in self.sources)

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
