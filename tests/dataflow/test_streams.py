from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.dataflow import Graph, Kind, from_batch, from_collection, run
from autostop_lab.exceptions import PipelineError


def names(graph: Graph) -> list[list[str]]:
    return [[operator.name for operator in pipeline.operators] for pipeline in graph.pipelines()]


def test_operators_are_named_by_kind_and_number() -> None:
    graph = Graph()
    stream = from_batch(graph, [1]).map(str).filter(str.isdigit).map(int).filter(bool).flatmap(range).map(str)
    stream.collect()

    assert names(graph) == [["source", "map", "filter", "map#2", "filter#2", "flatmap", "map#3", "collect"]]


def test_a_name_of_the_users_is_kept_and_never_given_twice() -> None:
    graph = Graph()
    from_batch(graph, [1], name="numbers").map(str, name="map#2").map(str).map(str).print(name="show")

    assert names(graph) == [["numbers", "map#2", "map#3", "map#4", "show"]]


def test_each_pipeline_has_names_of_its_own() -> None:
    graph = Graph()
    from_batch(graph, [1]).map(str).collect()
    from_collection(graph, [1], name="numbers").map(str).print()

    assert names(graph) == [["source", "map", "collect"], ["numbers", "map", "print"]]
    assert [pipeline.number for pipeline in graph.pipelines()] == [1, 2]


def test_a_sink_ends_the_pipeline_and_returns_nothing() -> None:
    graph = Graph()

    assert from_batch(graph, [1]).sink(print) is None  # type: ignore[func-returns-value]
    assert from_batch(graph, [1]).print() is None  # type: ignore[func-returns-value]
    assert from_batch(graph, [1]).collect() is None  # type: ignore[func-returns-value]
    assert [pipeline.kinds[-1] for pipeline in graph.pipelines()] == [Kind.SINK, Kind.PRINT, Kind.COLLECT]


def test_a_stream_shows_its_owner_and_what_it_comes_from() -> None:
    owner = object()
    stream = from_batch(Graph(owner), [1]).map(str)

    assert stream.owner is owner
    assert repr(stream) == "<DataStream source -> map>"


def test_a_stream_that_is_never_used_is_refused() -> None:
    graph = Graph()
    from_batch(graph, [1, 2])

    with pytest.raises(PipelineError, match=r"operator 'source' \(list\): its stream is never used.*\.collect\(\)"):
        graph.pipelines()


def test_a_pipeline_without_a_sink_is_refused() -> None:
    graph = Graph()
    from_batch(graph, [1]).collect()
    from_batch(graph, [1, 2]).map(str).filter(str.isdigit)

    with pytest.raises(PipelineError, match=r"operator 'filter' \(str.isdigit\): its stream has no sink behind it"):
        graph.pipelines()


def test_a_stream_that_is_used_twice_is_one_pipeline_with_two_branches() -> None:
    graph = Graph()
    stream = from_batch(graph, [1])
    stream.map(str).collect()
    stream.map(int).print()
    (pipeline,) = graph.pipelines()

    assert names(graph) == [["source", "map", "collect", "map#2", "print"]]
    assert pipeline.inputs == ((), (0,), (1,), (0,), (3,))


def test_a_refused_operator_takes_its_unfinished_pipeline_along() -> None:
    """The corrected cell of a notebook can be run again."""
    graph = Graph()
    for function in (None, str):
        try:
            from_batch(graph, [1]).map(function).collect()
        except PipelineError:
            continue

    assert names(graph) == [["source", "map", "collect"]]


def test_a_stream_can_go_on_after_a_refusal() -> None:
    graph = Graph()
    stream = from_batch(graph, [1])
    with pytest.raises(PipelineError):
        stream.map(None)
    stream.map(str).collect()

    assert names(graph) == [["source", "map", "collect"]]


def test_one_object_cannot_be_two_operators_of_a_pipeline() -> None:
    class Parse:
        def execute(self, record: Any) -> Any:
            return record

    parse = Parse()
    stream = from_batch(Graph(), [1]).map(parse)

    with pytest.raises(PipelineError, match=r"operator 'map#2' \(Parse\): this very object is operator 'map'"):
        stream.map(parse)
    stream.map(Parse()).map(Parse).map(Parse)


def test_a_job_is_one_callable_or_pipelines() -> None:
    graph = Graph()
    run(graph, dict)
    with pytest.raises(PipelineError, match=r"run\(list\): the job is run\(dict\) already"):
        run(graph, list)
    with pytest.raises(PipelineError, match=r"operator 'source' \(range\): the job is run\(dict\) already"):
        from_batch(graph, range(3))
    (pipeline,) = graph.pipelines()
    assert pipeline.is_callable

    graph = Graph()
    from_batch(graph, range(3)).collect()
    with pytest.raises(PipelineError, match=r"run\(dict\): pipelines are declared already"):
        run(graph, dict)


def test_a_graph_is_true_when_something_is_declared() -> None:
    graph = Graph()
    assert not graph
    assert graph.pipelines() == ()

    from_batch(graph, [1])
    assert graph
