from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from autostop_lab.dataflow import Graph, from_batch
from autostop_lab.dataflow.graph import OneShot
from autostop_lab.exceptions import PipelineError


def test_what_was_declared_cannot_be_changed() -> None:
    graph = Graph()
    from_batch(graph, [1]).collect()
    (pipeline,) = graph.pipelines()

    for thing, name in ((pipeline, "operators"), (pipeline.operators[0], "function")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, None)


def test_labels_say_operator_function_and_from_the_second_on_the_pipeline() -> None:
    graph = Graph()
    from_batch(graph, [1]).map(str, name="text").print()
    from_batch(graph, [1]).map(str).print()
    labels = [[pipeline.label(operator) for operator in pipeline.operators] for pipeline in graph.pipelines()]

    assert labels == [
        ["operator 'source' (list)", "operator 'text' (str)", "operator 'print'"],
        [
            "operator 'source' (list) of pipeline 2",
            "operator 'map' (str) of pipeline 2",
            "operator 'print' of pipeline 2",
        ],
    ]


class NoLength:
    """Has ``__len__`` only to say that it has none, as some data loaders do."""

    def __iter__(self) -> Any:
        return iter([1])

    def __len__(self) -> int:
        raise TypeError("no length")


@pytest.mark.parametrize(
    ("source", "length"), [([1, 2], 2), (range(7), 7), (iter([1]), None), (lambda: [1], None), (NoLength(), None)]
)
def test_the_length_is_what_the_source_says(source: Any, length: int | None) -> None:
    graph = Graph()
    from_batch(graph, source).collect()
    (pipeline,) = graph.pipelines()

    assert pipeline.length == length


def test_an_iterator_can_be_taken_once() -> None:
    iterator = iter([1])
    source = OneShot(iterator)

    assert source.take("operator 'source'") is iterator
    with pytest.raises(PipelineError, match=r"operator 'source' reads an iterator.*from_batch\(rows\), not rows\(\)"):
        source.take("operator 'source'")
