"""Every refusal: what is said, and that it is said when the pipeline is written."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    FilterFunction,
    FlatMapFunction,
    Graph,
    MapFunction,
    SinkFunction,
    from_batch,
    from_collection,
    run,
)
from autostop_lab.dataflow.describe import function_name
from autostop_lab.exceptions import ArgumentError, PipelineError


class Parse(MapFunction):
    def __init__(self, dim: int, *, fast: bool = False) -> None:
        self.made = True

    def execute(self, record: Any) -> Any:
        return record


class Keep(FilterFunction):
    def execute(self, record: Any) -> bool:
        return True


class Rows(BatchFunction):
    def execute(self) -> Any:
        return None


class Empty(MapFunction):
    pass


async def fetch(record: Any) -> Any:
    return record


async def stream() -> AsyncIterator[int]:
    yield 1


def numbers() -> Iterator[int]:
    yield 1


class YieldingRows(BatchFunction):
    def execute(self) -> Iterator[int]:
        yield 1


class YieldingSink(SinkFunction):
    def execute(self, record: Any) -> Iterator[int]:  # type: ignore[override]
        yield 1


class AsyncParse(MapFunction):
    async def execute(self, record: Any) -> Any:
        return record


class AsyncOpen(MapFunction):
    async def open(self) -> None:
        pass

    def execute(self, record: Any) -> Any:
        return record


REFUSED: dict[str, tuple[Callable[[Graph], Any], str]] = {
    "text": (lambda g: from_batch(g, "text"), r"operator 'source' \(str\) is one text.*from_batch\(\[text\]\)"),
    "bytes": (lambda g: from_batch(g, b"text"), r"read as its numbers.*from_batch\(\[text\]\)"),
    "text as collection": (lambda g: from_collection(g, "text"), "is one text"),
    "number": (lambda g: from_batch(g, 5), r"operator 'source' \(int\) cannot be read: an int is not iterable"),
    "async source": (lambda g: from_batch(g, stream), r"operator 'source' \(stream\) is an async function"),
    "async generator": (lambda g: from_batch(g, stream()), "an async_generator is not iterable"),
    "generator as collection": (lambda g: from_collection(g, numbers()), "not a generator. Use from_batch"),  # type: ignore[arg-type]
    "function as collection": (lambda g: from_collection(g, numbers), "not a function. Use from_batch"),  # type: ignore[arg-type]
    "class as collection": (lambda g: from_collection(g, Rows), "from_collection takes a list"),  # type: ignore[arg-type]
    "source that yields": (lambda g: from_batch(g, YieldingRows), r"execute\(\) of operator 'source'.*contains yield"),
    "map as source": (lambda g: from_batch(g, Parse, 1), r"Parse is not a BatchFunction. Use map\(\)"),
    "source as map": (lambda g: from_batch(g, [1]).map(Rows), r"Rows is not a MapFunction. Use from_batch\(\)"),
    "filter as map": (lambda g: from_batch(g, [1]).map(Keep), r"operator 'map' \(Keep\).*Use filter\(\)"),
    "filter object as sink": (lambda g: from_batch(g, [1]).sink(Keep()), r"Use filter\(\)"),
    "no execute": (lambda g: from_batch(g, [1]).map(Empty), r"Empty does not define execute\(\)"),
    "base class": (lambda g: from_batch(g, [1]).map(MapFunction), r"MapFunction does not define execute\(\)"),
    "list as sink": (lambda g: from_batch(g, [1]).sink([]), r"operator 'sink' takes .*, not a list.*results.append"),
    "None as function": (lambda g: from_batch(g, [1]).map(None), r"not None.*map\(parse\), not map\(parse\(...\)\)"),
    "async map": (lambda g: from_batch(g, [1]).map(fetch), r"operator 'map' \(fetch\) is an async function"),
    "async partial": (lambda g: from_batch(g, [1]).map(functools.partial(fetch)), "is an async function"),
    "async execute": (lambda g: from_batch(g, [1]).map(AsyncParse), r"execute\(\) of operator 'map'.*is an async"),
    "async open": (
        lambda g: from_batch(g, [1]).map(AsyncOpen),
        r"open\(\) of operator 'map' \(AsyncOpen\) is an async",
    ),
    "sink that yields": (lambda g: from_batch(g, [1]).sink(numbers), "contains yield"),
    "execute that yields": (lambda g: from_batch(g, [1]).sink(YieldingSink), "contains yield"),
    "filter that yields": (lambda g: from_batch(g, [1]).filter(numbers), "contains yield"),
    "arguments for a function": (
        lambda g: from_batch(g, [1]).map(abs, 2, base=3),
        r"operator 'map' \(abs\) takes no further arguments \(2, base=\).*functools.partial",
    ),
    "arguments for an object": (lambda g: from_batch(g, [1]).map(Parse(1), 2), "takes no further arguments"),
    "arguments for a list": (lambda g: from_batch(g, [1], 2), "takes no further arguments"),
    "arguments for a source function": (lambda g: from_batch(g, numbers, 2), "takes no further arguments"),
    "name that is no text": (lambda g: from_batch(g, [1], name=3), "the name of an operator is a text, not 3"),  # type: ignore[arg-type]
    "empty name": (lambda g: from_batch(g, [1]).map(abs, name=" "), "the name of an operator is a text"),
    "name taken": (lambda g: from_batch(g, [1]).map(abs, name="source"), "has an operator of this name"),
    "print name taken": (lambda g: from_batch(g, [1]).print(name="source"), "has an operator of this name"),
    "run of a value": (lambda g: run(g, 5), r"run\(int\) takes a function without arguments, not an int"),  # type: ignore[arg-type]
    "run of an async function": (lambda g: run(g, stream), r"run\(stream\) is an async function"),
}


@pytest.mark.parametrize(("write", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused_when_it_is_written(write: Callable[[Graph], Any], text: str) -> None:
    graph = Graph()

    with pytest.raises(PipelineError, match=text):
        write(graph)
    assert not graph


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ((), {}, "missing a required argument: 'dim'"),
        ((1, 2), {}, "too many positional arguments"),
        ((1,), {"speed": 2}, "unexpected keyword argument 'speed'"),
    ],
)
def test_arguments_are_bound_to_the_constructor_at_once(args: Any, kwargs: Any, complaint: str) -> None:
    with pytest.raises(ArgumentError, match=complaint) as caught:
        from_batch(Graph(), [1]).map(Parse, *args, **kwargs)

    assert str(caught.value).startswith("operator 'map' (Parse): the arguments do not fit Parse(dim")


def test_a_class_without_a_constructor_takes_no_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"do not fit Rows\(\)"):
        from_batch(Graph(), Rows, 1)


def test_a_constructor_is_not_called_when_the_pipeline_is_written() -> None:
    class Never(FlatMapFunction):
        def __init__(self) -> None:
            pytest.fail("it was called")

        def execute(self, record: Any) -> list[Any]:
            return []

    from_batch(Graph(), [1]).flatmap(Never).collect()


def test_a_services_handle_is_not_asked_for_execute() -> None:
    class Handle:
        def __getattr__(self, name: str) -> Any:
            pytest.fail(f"it was asked for {name}") if name == "execute" else None
            raise AttributeError(name)

    with pytest.raises(PipelineError, match="not a Handle"):
        from_batch(Graph(), [1]).map(Handle())


def outer() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (outer, "outer"),
        (outer(), "inner"),
        (functools.partial(functools.partial(outer)), "outer"),
        ([].append, "list.append"),
        ("".join, "str.join"),
        (Parse, "Parse"),
        (Parse(1).execute, "Parse.execute"),
        (Parse(1), "Parse"),
        (numbers(), "numbers"),
        (None, "NoneType"),
    ],
)
def test_functions_are_called_by_a_short_name(function: Any, name: str) -> None:
    assert function_name(function) == name
