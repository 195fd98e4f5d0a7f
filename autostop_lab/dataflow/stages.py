"""From a pipeline to its stages: which operators share a loop, and where records change threads. Pure.

Neighbours share a stage. A hop is only where it has to be: at another parallelism or runtime, where keys are dealt
out to replicas, where a stream branches, and in front of what takes several streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from autostop_lab.dataflow.graph import Kind, Operator, Pipeline, Strategy

#: Python refuses more than 20 nested blocks in one function; a stage has fewer loops within each other.
MOST_NESTED_LOOPS = 15


class Routing(Enum):
    """Which replicas of the next stage get a record."""

    SHARED = "shared"  # whoever is free
    HASH = "hash"  # the one that has its key
    BROADCAST = "broadcast"  # all


@dataclass(frozen=True, slots=True)
class Stage:
    """Operators that share a loop.

    Attributes
    ----------
    number : int
        Its place in the plan.
    positions : tuple of int
        Positions in the pipeline of its operators, in the order in which a record passes them.
    parallelism : int
        How many replicas it has.
    keeps_order : bool
        Whether records leave its replicas in the order in which they came to the stage.
    runtime : str
        Where its replicas run.
    """

    number: int
    positions: tuple[int, ...]
    parallelism: int = 1
    keeps_order: bool = False
    runtime: str = "thread"


@dataclass(frozen=True, slots=True)
class Hop:
    """How records get from one stage to another.

    Attributes
    ----------
    producer, consumer : int
        Numbers of the stages.
    tag : int
        Which of the streams it is that the consumer's first operator takes.
    routing : Routing
        Which replicas get a record.
    has_keys : bool
        Whether each record travels with its key.
    is_feedback : bool
        Whether it leads back to a future.
    """

    producer: int
    consumer: int
    tag: int = 0
    routing: Routing = Routing.SHARED
    has_keys: bool = False
    is_feedback: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a pipeline, and how records get from one to another.

    Attributes
    ----------
    stages : tuple of Stage
        In an order in which producers come first.
    hops : tuple of Hop
        In the order of their consumers and tags.
    """

    stages: tuple[Stage, ...]
    hops: tuple[Hop, ...]

    def into(self, stage: Stage) -> list[Hop]:
        """Return the hops that lead to a stage, by tag."""
        return [hop for hop in self.hops if hop.consumer == stage.number]

    def out_of(self, stage: Stage) -> list[Hop]:
        """Return the hops that leave a stage."""
        return [hop for hop in self.hops if hop.producer == stage.number]

    def ancestors(self, number: int) -> set[int]:
        """Return the numbers of all stages whose records can come to a stage, feedback included."""
        found: set[int] = set()
        waiting = [number]
        while waiting:
            one = waiting.pop()
            producers = {hop.producer for hop in self.hops if hop.consumer == one}
            waiting.extend(producers - found)
            found |= producers
        return found

    def can_wait(self, stage: Stage, tag: int) -> bool:
        """Return whether one of the streams that a stage takes can be left to wait for room.

        It can where all that it holds up leads nowhere else; otherwise what the stage waits for may be held up, too.
        """
        above = {hop.producer for hop in self.into(stage) if hop.tag == tag}
        for number in list(above):
            above |= self.ancestors(number)
        return all(
            hop.consumer in above or (hop.consumer == stage.number and hop.tag == tag)
            for hop in self.hops
            if hop.producer in above
        )


def plan(pipeline: Pipeline) -> Plan:
    """Divide a pipeline into stages.

    Parameters
    ----------
    pipeline : Pipeline
        What is to run.

    Returns
    -------
    Plan
        Stages and hops.
    """
    operators, inputs = pipeline.operators, pipeline.inputs
    followers = [sum(position in one for one in inputs) for position in range(len(operators))]
    parallelism = resolved(operators, inputs)
    keyed = keyed_streams(pipeline)
    groups: list[list[int]] = []
    group_of: dict[int, list[int]] = {}
    for position, operator in enumerate(operators):
        group = None
        if len(inputs[position]) == 1 and operator.kind not in (Kind.JOIN, Kind.COMAP):
            (before,) = inputs[position]
            if followers[before] == 1 and can_share(pipeline, parallelism, group_of[before], position):
                group = group_of[before]
        if group is None:
            groups.append(group := [])
        group.append(position)
        group_of[position] = group
    number_of = {position: groups.index(group) for position, group in group_of.items()}
    hops = [
        Hop(
            number_of[before],
            number_of[position],
            tag,
            routing_of(operators[before], parallelism[position], is_keyed=keyed[before]),
        )
        for position in range(len(operators))
        for tag, before in enumerate(inputs[position])
        if position == group_of[position][0]
    ]
    hops += [Hop(number_of[end], number_of[start], 0, is_feedback=True) for end, start in pipeline.loops]
    hops = with_keys(pipeline, groups, hops, keyed)
    stages = tuple(
        Stage(
            number,
            tuple(group),
            parallelism[group[0]],
            keeps_order=parallelism[group[0]] > 1
            and all(operators[position].settings.ordered for position in group)
            and all(hop.routing is Routing.SHARED for hop in hops if hop.consumer == number),
            runtime=operators[group[0]].settings.runtime,
        )
        for number, group in enumerate(groups)
    )
    return Plan(stages, tuple(hops))


def resolved(operators: Sequence[Operator], inputs: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the parallelism of each operator, with what goes with its input filled in."""
    parallelism: list[int] = []
    for operator, before in zip(operators, inputs, strict=True):
        chosen = operator.settings.parallelism
        if chosen is None:
            chosen = parallelism[before[0]] if before else 1
        parallelism.append(chosen)
    return parallelism


def can_share(pipeline: Pipeline, parallelism: Sequence[int], group: Sequence[int], position: int) -> bool:
    """Return whether an operator can share the loop of the one in front of it."""
    operator, before = pipeline.operators[position], pipeline.operators[group[-1]]
    if parallelism[position] != parallelism[group[-1]] or operator.settings.runtime != before.settings.runtime:
        return False
    if before.kind is Kind.KEYBY and parallelism[position] > 1:
        return False
    nested = sum(pipeline.operators[one].kind.multiplies for one in group)
    return nested < MOST_NESTED_LOOPS or not operator.kind.multiplies


def routing_of(before: Operator, replicas: int, *, is_keyed: bool) -> Routing:
    """Return how records of an operator get to so many replicas of the next one."""
    if replicas == 1 or not is_keyed:
        return Routing.SHARED
    is_broadcast = before.kind is Kind.KEYBY and before.strategy is Strategy.BROADCAST
    return Routing.BROADCAST if is_broadcast else Routing.HASH


def keyed_streams(pipeline: Pipeline) -> list[bool]:
    """Return of each operator whether the records that leave it have keys."""
    keyed: list[bool] = []
    for operator, before in zip(pipeline.operators, pipeline.inputs, strict=True):
        keeps = operator.kind in (Kind.MAP, Kind.FILTER, Kind.FLATMAP)
        keyed.append(operator.kind is Kind.KEYBY or (keeps and all(keyed[position] for position in before)))
    return keyed


def with_keys(
    pipeline: Pipeline, groups: Sequence[Sequence[int]], hops: Sequence[Hop], keyed: Sequence[bool]
) -> list[Hop]:
    """Return the hops, with keys where a later stage needs one that it does not find out itself."""
    done: list[Hop] = []
    needs: dict[int, bool] = {}
    for number in reversed(range(len(groups))):  # consumers first; what comes back has no keys
        kinds = [pipeline.operators[position].kind for position in groups[number]]
        onward = any(
            (hop.has_keys or hop.routing is Routing.HASH) and not hop.is_feedback
            for hop in done
            if hop.producer == number
        )
        needs[number] = Kind.JOIN in kinds or (onward and Kind.KEYBY not in kinds)
        for hop in hops:
            if hop.consumer == number:
                has_keys = needs[number] and keyed[groups[hop.producer][-1]]
                done.append(Hop(hop.producer, number, hop.tag, hop.routing, has_keys, hop.is_feedback))
    return sorted(done, key=lambda hop: (hop.consumer, hop.is_feedback, hop.tag, hop.producer))
