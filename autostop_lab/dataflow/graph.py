"""What a job computes, as data: operators, and pipelines of operators.

Nothing in here runs a function of the user's. An `Operator` describes; the engine makes objects of it, new
ones for every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
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


class Node:
    """An operator in the graph that is being declared.

    Attributes
    ----------
    operator : Operator
        What was written.
    inputs : tuple of Node
        Whose records it takes.
    serial : int
        Its place in the order of declaration.
    has_own_name : bool
        Whether the user has named it.
    is_keyed : bool
        Whether its records have keys.
    future : Node or None
        Of a ``fill_future``: where its records go.
    """

    def __init__(
        self, operator: Operator, inputs: Sequence[Node], *, has_own_name: bool = False, future: Node | None = None
    ) -> None:
        self.operator = operator
        self.inputs = tuple(inputs)
        self.has_own_name = has_own_name
        self.future = future
        self.serial = -1
        keeps_key = operator.kind in (Kind.MAP, Kind.FILTER, Kind.FLATMAP)
        self.is_keyed: bool = operator.kind is Kind.KEYBY or (
            keeps_key and all(node.is_keyed for node in self.inputs)
        )

    @property
    def neighbours(self) -> tuple[Node, ...]:
        """The nodes in front of it, and the future that it fills."""
        return (*self.inputs, self.future) if self.future is not None else self.inputs


class Graph:
    """The pipelines that are being declared for one job.

    Parameters
    ----------
    owner : object
        A token of who declares them; streams show it, so that those of two environments can be told apart.
    """

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        self._nodes: list[Node] = []
        self._count = 0
        self._callable: Operator | None = None
        self._is_sealed = False

    def __bool__(self) -> bool:
        """Return whether anything is declared."""
        return bool(self._nodes) or self._callable is not None

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
        if self._nodes:
            raise PipelineError(
                f"run({operator.shown}): pipelines are declared already, and a job is one callable or "
                "pipelines. Submit them first, or run the callable in an environment of its own."
            )
        self._callable = operator

    def add(self, node: Node) -> Node:
        """Take an operator in, and what it takes its records from, where that was forgotten.

        Raises
        ------
        PipelineError
            The job is one callable already, or was submitted; or the operator cannot be here.
        """
        if self._is_sealed:
            raise PipelineError(
                f"{node.operator.label}: its stream belongs to a job that was submitted already. Declare the pipeline "
                "anew, from its source on."
            )
        if self._callable is not None:
            raise PipelineError(
                f"{node.operator.label}: the job is run({self._callable.shown}) already, and a job is "
                "one callable or pipelines. Submit that first, or use an environment of its own."
            )
        refuse_twice(node.operator, (one.operator for one in self.connected(node)))
        for one in (*ancestors(node), node):
            if one.serial < 0:
                one.serial = self._count
                self._count += 1
            if one not in self._nodes:
                self._nodes.append(one)
        self._nodes.sort(key=lambda one: one.serial)
        return node

    def forget(self, nodes: Iterable[Node]) -> None:
        """Drop operators that lead to no sink after a refusal, so that a corrected cell can be run again."""
        for node in nodes:
            for one in (*ancestors(node), node):
                if one in self._nodes and not self._leads_to_sink(one):
                    self._nodes.remove(one)

    def _leads_to_sink(self, node: Node) -> bool:
        reached = {node}
        for one in self._nodes:  # in order of declaration: inputs come first
            if not reached.isdisjoint(one.inputs):
                reached.add(one)
        return any(one.operator.kind.is_sink for one in reached)

    def connected(self, node: Node) -> list[Node]:
        """Return the operators of its pipeline, without the node itself, in order of declaration."""
        members, size = {node, *node.neighbours}, 0
        while len(members) != size:
            size = len(members)
            for one in self._nodes:
                if one in members or not members.isdisjoint(one.neighbours):
                    members.update((one, *one.neighbours))
        return sorted(members - {node}, key=lambda one: one.serial)

    def seal(self) -> None:
        """Take nothing further: what was declared is submitted."""
        self._is_sealed = True

    def pipelines(self) -> tuple[Pipeline, ...]:
        """Return what was declared, ready for an engine.

        Returns
        -------
        tuple of Pipeline
            In order of declaration; empty if nothing was declared.

        Raises
        ------
        PipelineError
            A stream leads to no sink, or what was declared cannot work as a whole.
        """
        if self._callable is not None:
            return (Pipeline(1, (self._callable,)),)
        self._refuse_loose_ends()
        pipelines: list[Pipeline] = []
        done: set[Node] = set()
        for node in self._nodes:
            if node not in done:
                members = sorted((node, *self.connected(node)), key=lambda one: one.serial)
                done.update(members)
                pipelines.append(as_pipeline(len(pipelines) + 1, members))
        return tuple(pipelines)

    def _refuse_loose_ends(self) -> None:
        used = {one for node in self._nodes for one in node.inputs}
        filled = {node.future for node in self._nodes}
        for node in list(self._nodes):
            operator = node.operator
            if operator.kind is Kind.FUTURE and node not in filled:
                self._nodes.remove(node)
                raise PipelineError(
                    f"{operator.label}: nothing fills this future, so no record would come from it. Give it to "
                    "fill_future() of the stream whose records are to come back."
                )
            if node not in used and not operator.kind.is_sink:
                self.forget([node])  # so that a corrected notebook cell can be run again
                what = "is never used" if operator.kind.is_source else "has no sink behind it"
                raise PipelineError(
                    f"{operator.label}: its stream {what}, so its records would go nowhere. "
                    "End it with .sink(function), .print() or .collect()."
                )


def ancestors(node: Node) -> list[Node]:
    """Return whose records come to a node, in order of declaration."""
    found: set[Node] = set()
    waiting = list(node.inputs)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(one.inputs)
    return sorted(found, key=lambda one: one.serial)


def as_pipeline(number: int, nodes: Sequence[Node]) -> Pipeline:
    """Return a pipeline of nodes that belong together, in order of declaration, each with a name of its own.

    Raises
    ------
    PipelineError
        The user has given one name twice, or a join cannot be done.
    """
    own = Counter(node.operator.name for node in nodes if node.has_own_name)
    for name, count in own.items():
        if count > 1:
            raise PipelineError(
                f"operator {name!r}: {count} operators of one pipeline have this name. Choose another name= for one."
            )
    named: list[Operator] = []
    for node in nodes:
        operator = node.operator
        if not node.has_own_name:
            operator = replace(operator, name=default_name(operator.kind, named, own))
        named.append(operator)
    places = {node: position for position, node in enumerate(nodes)}
    pipeline = Pipeline(
        number,
        tuple(named),
        tuple(tuple(places[one] for one in node.inputs) for node in nodes),
        tuple((places[node], places[node.future]) for node in nodes if node.future is not None),
    )
    check_joins(pipeline, nodes)
    return pipeline


def default_name(kind: Kind, operators: Collection[Operator], taken: Collection[str] = ()) -> str:
    """Return the name of a new operator: its kind, with ``#2`` for the second of its kind, or the next that is free."""
    names = {operator.name for operator in operators}
    same = 1 + sum(operator.kind is kind for operator in operators)
    while (name := kind.value if same == 1 else f"{kind}#{same}") in names or name in taken:
        same += 1
    return name


def refuse_twice(operator: Operator, others: Iterable[Operator]) -> None:
    """Refuse an object that is another operator of the pipeline already."""
    for other in others:
        if operator.form is Form.OBJECT and other.function is operator.function:
            raise PipelineError(
                f"{operator.label}: this very object is {other.label} already, and would be opened "
                "twice. Give the class or a second object, or its method: execute."
            )


def check_joins(pipeline: Pipeline, nodes: Sequence[Node]) -> None:
    """Refuse joins that could never give a record, or never end.

    Raises
    ------
    PipelineError
        A join of the whole batch whose second stream does not end, or that waits for itself.
    """
    for operator, node in zip(pipeline.operators, nodes, strict=True):
        if operator.pairing is None or not operator.pairing.is_batch:
            continue
        behind = ancestors(node.inputs[1])
        second = [one.operator for one in (*behind, node.inputs[1])]
        if any(one.is_unbounded for one in second):
            raise PipelineError(
                f"{pipeline.label(operator)}: its second stream comes from from_source(), which does not end, and a "
                "join without a window reads it to its end first. Give window_records= or window_s=."
            )
        if any(one.kind is Kind.FUTURE for one in second):
            raise PipelineError(
                f"{pipeline.label(operator)}: its second stream comes from a future, which ends when nothing is on "
                "its way, and a join without a window would wait for that. Give window_records= or window_s=."
            )


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
