"""The graph that is being declared for one job, operator by operator, and how it becomes pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from autostop_lab.dataflow.graph import Form, Kind, Operator, Pipeline
from autostop_lab.exceptions import PipelineError


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
        there = set(self._nodes)
        back = [one for one in ancestors(node) if one not in there]
        node.serial, self._count = self._count, self._count + 1
        self._nodes += [*back, node]
        if back:
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
        beside: dict[Node, list[Node]] = {}
        for one in (*self._nodes, node):
            for other in one.neighbours:
                beside.setdefault(one, []).append(other)
                beside.setdefault(other, []).append(one)
        members, waiting = {node}, [node]
        while waiting:
            found = [one for one in beside.get(waiting.pop(), ()) if one not in members]
            members.update(found)
            waiting += found
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
