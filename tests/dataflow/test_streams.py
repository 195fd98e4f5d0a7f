from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    Graph,
    Kind,
    SourceFunction,
    from_batch,
    from_collection,
    from_future,
    from_source,
    run,
)
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


class Owner:
    """Stands for an environment."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_streams_of_two_environments_do_not_mix() -> None:
    one, other = from_batch(Graph(Owner("one")), [1]), from_batch(Graph(Owner("other")), [1])

    with pytest.raises(
        PipelineError,
        match=r"connect\(\) of operator 'source' \(list\): the other stream belongs to environment 'other', and this "
        "one to 'one'. Declare both in one",
    ):
        one.connect(other)
    with pytest.raises(PipelineError, match="operator 'fill_future': the other stream belongs to environment 'one'"):
        other.fill_future(from_future(one._graph))


def test_a_stream_of_a_submitted_job_is_refused() -> None:
    owner = Owner("one")
    old, new = Graph(owner), Graph(owner)
    stream = from_batch(old, [1])
    stream.collect()
    old.pipelines()
    old.seal()

    with pytest.raises(PipelineError, match=r"operator 'map' \(str\): its stream belongs to a job that was submitted"):
        stream.map(str)
    with pytest.raises(PipelineError, match="the other stream belongs to a job that was submitted before"):
        from_batch(new, [1]).connect(stream)


def test_a_branch_without_a_sink_is_refused_and_forgotten() -> None:
    graph = Graph()
    stream = from_batch(graph, [1])
    stream.collect()
    stream.map(str)

    with pytest.raises(PipelineError, match=r"operator 'map' \(str\): its stream has no sink behind it"):
        graph.pipelines()
    assert names(graph) == [["source", "collect"]]


def test_names_are_unique_in_what_was_connected() -> None:
    graph = Graph()
    first, second = from_batch(graph, [1]).map(str), from_batch(graph, [1]).map(str)
    first.connect(second).map(str).collect()

    assert names(graph) == [["source", "map", "source#2", "map#2", "map#3", "collect"]]


def test_one_name_of_the_users_in_two_streams_that_meet_is_refused() -> None:
    graph = Graph()
    first, second = from_batch(graph, [1], name="rows"), from_batch(graph, [1], name="rows")
    first.connect(second).collect()

    with pytest.raises(PipelineError, match="operator 'rows': 2 operators of one pipeline have this name"):
        graph.pipelines()


def test_a_future_is_filled_once_and_has_to_be() -> None:
    graph = Graph()
    future = from_future(graph, "loop")
    stream = from_batch(graph, [1]).connect(future).map(str)
    stream.collect()
    with pytest.raises(PipelineError, match="operator 'loop': nothing fills this future"):
        graph.pipelines()

    graph = Graph()
    future = from_future(graph)
    stream = from_batch(graph, [1]).connect(future).map(str)
    stream.fill_future(future)
    with pytest.raises(PipelineError, match="operator 'fill_future': operator 'future' is filled already"):
        stream.fill_future(future)
    (pipeline,) = graph.pipelines()
    assert pipeline.loops == ((3, 0),)


def test_a_join_that_would_wait_for_ever_is_refused() -> None:
    graph = Graph()
    ticks = from_source(graph, lambda: 1)
    from_batch(graph, [1]).connect(ticks).keyby(abs).join().collect()
    with pytest.raises(PipelineError, match=r"operator 'join': its second stream comes from from_source\(\)"):
        graph.pipelines()

    graph = Graph()
    future = from_future(graph)
    stream = from_batch(graph, [1])
    stream.connect(future).keyby(abs).join().fill_future(future)
    with pytest.raises(PipelineError, match="operator 'join': its second stream comes from a future"):
        graph.pipelines()


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"parallelism": 2}, r"operator 'source' \(list\): parallelism=2: a source is read by one"),
        ({"on_error": "skip"}, "on_error='skip': where a source fails there is no record to go on without"),
        ({"paralelism": 2}, r"takes no further arguments \(paralelism=\).*Did you mean parallelism="),
    ],
)
def test_what_a_source_cannot_do_is_refused(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        from_batch(Graph(), [1], **keywords)


def test_a_source_is_of_the_kind_that_its_environment_is_asked_for() -> None:
    class Ticks(SourceFunction):
        def execute(self) -> int:
            return 1

    class Rows(BatchFunction):
        def execute(self) -> int:
            return 1

    with pytest.raises(PipelineError, match=r"Ticks is not a BatchFunction. Use from_source\(\)"):
        from_batch(Graph(), Ticks)
    with pytest.raises(PipelineError, match=r"Rows is not a SourceFunction. Use from_batch\(\)"):
        from_source(Graph(), Rows)
    with pytest.raises(PipelineError, match=r"an int is not iterable. Give from_source an iterable"):
        from_source(Graph(), 5)


def test_a_graph_is_true_when_something_is_declared() -> None:
    graph = Graph()
    assert not graph
    assert graph.pipelines() == ()

    from_batch(graph, [1])
    assert graph
