"""Which operators share a loop, and where records change threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autostop_lab.dataflow import Graph, from_batch, from_future
from autostop_lab.dataflow.stages import MOST_NESTED_LOOPS, Plan, Routing, plan

Write = Callable[[Graph], Any]
ROUTES = {Routing.SHARED: "-", Routing.HASH: "#", Routing.BROADCAST: "*"}


def planned(write: Write) -> Plan:
    graph = Graph()
    write(graph)
    (pipeline,) = graph.pipelines()
    return plan(pipeline)


def picture(write: Write) -> tuple[list[str], list[str]]:
    """Return stages as ``names xN~`` (~ where order is kept) and hops as ``from-to.tag+key``."""
    graph = Graph()
    write(graph)
    (pipeline,) = graph.pipelines()
    found = plan(pipeline)
    names = [" ".join(pipeline.operators[position].name for position in stage.positions) for stage in found.stages]
    stages = [
        name + (f" x{stage.parallelism}" if stage.parallelism > 1 else "") + ("~" if stage.keeps_order else "")
        for name, stage in zip(names, found.stages, strict=True)
    ]
    hops = [
        f"{hop.producer}{'<' if hop.is_feedback else ROUTES[hop.routing]}{hop.consumer}.{hop.tag}"
        + ("+key" if hop.has_keys else "")
        for hop in found.hops
    ]
    return stages, hops


def source(graph: Graph) -> Any:
    return from_batch(graph, [1])


def branch(graph: Graph) -> None:
    stream = source(graph).map(abs)
    stream.filter(bool).collect()
    stream.print()


def join(graph: Graph, **options: Any) -> None:
    source(graph).connect(source(graph)).keyby(abs).join(**options).collect()


def broadcast_join(graph: Graph) -> None:
    source(graph).connect(source(graph)).keyby(abs, strategy=("hash", "broadcast")).join(parallelism=2).collect()


def key_travels(graph: Graph) -> None:
    left = source(graph).keyby(abs).map(abs, parallelism=2).map(abs)
    left.connect(source(graph).keyby(abs)).join().collect()


def key_found_again(graph: Graph) -> None:
    source(graph).keyby(abs).map(abs, parallelism=2).keyby(abs).map(abs, parallelism=3).collect()


def feedback(graph: Graph) -> None:
    future = from_future(graph)
    stream = source(graph).connect(future).map(abs)
    stream.filter(bool).fill_future(future)
    stream.collect()


TABLE: dict[str, tuple[Write, list[str], list[str]]] = {
    "chain": (
        lambda g: source(g).map(abs).filter(bool).flatmap(range).collect(),
        ["source map filter flatmap collect"],
        [],
    ),
    "parallelism": (
        lambda g: source(g).map(abs).map(abs, parallelism=3).filter(bool, parallelism=3).collect(),
        ["source map", "map#2 filter x3~", "collect"],
        ["0-1.0", "1-2.0"],
    ),
    "another parallelism": (
        lambda g: source(g).map(abs, parallelism=3).map(abs, parallelism=2).collect(),
        ["source", "map x3~", "map#2 x2~", "collect"],
        ["0-1.0", "1-2.0", "2-3.0"],
    ),
    "order given up": (
        lambda g: source(g).map(abs, parallelism=3).map(abs, parallelism=3, ordered=False).collect(),
        ["source", "map map#2 x3", "collect"],
        ["0-1.0", "1-2.0"],
    ),
    "branch": (branch, ["source map", "filter collect", "print"], ["0-1.0", "0-2.0"]),
    "keys without replicas": (lambda g: source(g).keyby(abs).map(abs).collect(), ["source keyby map collect"], []),
    "keys": (
        lambda g: source(g).keyby(abs).map(abs, parallelism=2).collect(),
        ["source keyby", "map x2", "collect"],
        ["0#1.0", "1-2.0"],
    ),
    "keys beside replicas": (
        lambda g: source(g).map(abs, parallelism=2).keyby(abs).map(abs, parallelism=2).collect(),
        ["source", "map keyby x2~", "map#2 x2", "collect"],
        ["0-1.0", "1#2.0", "2-3.0"],
    ),
    "keys stay": (
        lambda g: source(g).keyby(abs).map(abs, parallelism=2).filter(bool, parallelism=3).collect(),
        ["source keyby", "map x2", "filter x3", "collect"],
        ["0#1.0+key", "1#2.0", "2-3.0"],
    ),
    "broadcast": (
        lambda g: source(g).keyby(abs, strategy="broadcast").map(abs, parallelism=2).collect(),
        ["source keyby", "map x2", "collect"],
        ["0*1.0", "1-2.0"],
    ),
    "keys found again": (
        key_found_again,
        ["source keyby", "map keyby#2 x2", "map#2 x3", "collect"],
        ["0#1.0", "1#2.0", "2-3.0"],
    ),
    "merged": (
        lambda g: source(g).connect(source(g)).map(abs).collect(),
        ["source", "source#2", "map collect"],
        ["0-2.0", "1-2.1"],
    ),
    "comap": (
        lambda g: source(g).connect(source(g)).comap(abs, bool, parallelism=2).collect(),
        ["source", "source#2", "comap x2~", "collect"],
        ["0-2.0", "1-2.1", "2-3.0"],
    ),
    "join": (join, ["source keyby", "source#2 keyby#2", "join collect"], ["0-2.0+key", "1-2.1+key"]),
    "parallel join": (
        lambda g: join(g, parallelism=2),
        ["source keyby", "source#2 keyby#2", "join x2", "collect"],
        ["0#2.0+key", "1#2.1+key", "2-3.0"],
    ),
    "broadcast join": (
        broadcast_join,
        ["source keyby", "source#2 keyby#2", "join x2", "collect"],
        ["0#2.0+key", "1*2.1+key", "2-3.0"],
    ),
    "key travels": (
        key_travels,
        ["source keyby", "map x2", "map#2", "source#2 keyby#2", "join collect"],
        ["0#1.0+key", "1-2.0+key", "2-4.0+key", "3-4.1+key"],
    ),
    "feedback": (
        feedback,
        ["future", "source", "map", "filter fill_future", "collect"],
        ["3<0.0", "1-2.0", "0-2.1", "2-3.0", "2-4.0"],
    ),
}


@pytest.mark.parametrize(("write", "stages", "hops"), TABLE.values(), ids=TABLE)
def test_a_hop_is_only_where_it_has_to_be(write: Write, stages: list[str], hops: list[str]) -> None:
    assert picture(write) == (stages, hops)


def test_producers_come_before_their_consumers() -> None:
    for write, _, _ in TABLE.values():
        assert all(hop.producer < hop.consumer for hop in planned(write).hops if not hop.is_feedback)


def test_many_flatmaps_are_no_more_loops_within_each_other_than_python_takes() -> None:
    def write(graph: Graph) -> None:
        stream = source(graph)
        for _ in range(2 * MOST_NESTED_LOOPS):
            stream = stream.flatmap(lambda x: [x])
        stream.collect()

    assert [len(stage.positions) for stage in planned(write).stages] == [MOST_NESTED_LOOPS + 1, MOST_NESTED_LOOPS + 1]


def twice(graph: Graph) -> None:
    stream = source(graph)
    stream.connect(stream.map(abs)).keyby(abs).join(name="j").collect()


def crossed(graph: Graph) -> None:
    """Each stream is the first of one join and the second of the other."""
    a, b = source(graph).keyby(abs), source(graph).keyby(abs)
    a.connect(b).join(name="j").collect()
    b.connect(a).join().collect()


def used_elsewhere(graph: Graph) -> None:
    a = source(graph).keyby(abs)
    a.connect(source(graph).keyby(abs)).join(name="j").collect()
    a.print()


@pytest.mark.parametrize(
    ("write", "can_wait"),
    [(lambda g: join(g, name="j"), True), (twice, False), (crossed, False), (used_elsewhere, False)],
    ids=["apart", "of one source", "crossed", "used elsewhere"],
)
def test_a_stream_can_wait_only_where_it_holds_up_nothing_else(write: Write, can_wait: bool) -> None:
    graph = Graph()
    write(graph)
    (pipeline,) = graph.pipelines()
    found = plan(pipeline)
    (stage,) = (one for one in found.stages if pipeline.operators[one.positions[0]].name == "j")

    assert found.can_wait(stage, 0) is can_wait
