"""Where pipelines begin: sources, futures, and the job that is one callable."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from autostop_lab.dataflow.declaration import Graph, Node
from autostop_lab.dataflow.describe import a_kind_of, call_operator, function_name, next_name, source_operator
from autostop_lab.dataflow.graph import Form, Kind, Operator, label
from autostop_lab.dataflow.settings import OnError, settings_of
from autostop_lab.dataflow.streams import DataStream
from autostop_lab.exceptions import PipelineError


def from_batch(
    graph: Graph, source: Any, /, *args: Any, name: str | None = None, on_error: OnError = "fail", **kwargs: Any
) -> DataStream:
    """Begin a pipeline that ends when its source does.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    source : iterable, callable, or class or object with ``execute``
        An iterable is iterated anew by every run; a callable is called once per run and returns an iterable;
        ``execute()`` gives one record per call and None at the end.
    *args, **kwargs
        Arguments of the class's constructor.
    name : str or None
        Name of the operator; None for ``source``.
    on_error : "fail" or Retry
        Whether ``execute()`` of a class is called again after it failed.

    Returns
    -------
    DataStream
        Its records.

    Raises
    ------
    PipelineError
        This cannot be a source.
    ArgumentError
        The arguments do not fit the constructor.
    """
    return _from(graph, source, args, kwargs, name, on_error, is_unbounded=False)


def from_source(
    graph: Graph, source: Any, /, *args: Any, name: str | None = None, on_error: OnError = "fail", **kwargs: Any
) -> DataStream:
    """Begin a pipeline that goes on until the job is stopped, or its source has ended.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    source : callable, class or object with ``execute``, or iterable
        Called once per record: None is "nothing now", StopIteration the end. Of a generator function or an iterable
        the items are the records, and None is "nothing now" as well.
    *args, **kwargs
        Arguments of the class's constructor.
    name, on_error
        As for `from_batch`.

    Returns
    -------
    DataStream
        Its records.
    """
    return _from(graph, source, args, kwargs, name, on_error, is_unbounded=True)


def _from(
    graph: Graph,
    source: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str | None,
    on_error: Any,
    *,
    is_unbounded: bool,
) -> DataStream:
    chosen = next_name(Kind.SOURCE, name, ())
    what = label(chosen, function_name(source))
    ours = {key: kwargs.pop(key) for key in ("parallelism", "ordered", "runtime") if key in kwargs}
    settings = settings_of(what, on_error=on_error, **ours)
    operator = source_operator(chosen, source, args, kwargs, settings, is_unbounded=is_unbounded)
    return DataStream(graph, graph.add(Node(operator, (), has_own_name=name is not None)))


def from_collection(graph: Graph, collection: Collection[Any], /, *, name: str | None = None) -> DataStream:
    """Begin a pipeline that reads a list or another collection, anew by every run.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    collection : collection
        Something with a length that can be iterated.
    name : str or None
        Name of the operator; None for ``source``.

    Returns
    -------
    DataStream
        Its records.

    Raises
    ------
    PipelineError
        It is no collection.
    """
    chosen = next_name(Kind.SOURCE, name, ())
    if not callable(collection) or isinstance(collection, Collection):
        operator = source_operator(chosen, collection, (), {})
        if operator.form is Form.ITERABLE and isinstance(collection, Collection):
            return DataStream(graph, graph.add(Node(operator, (), has_own_name=name is not None)))
    raise PipelineError(
        f"{label(chosen, function_name(collection))}: from_collection takes a list or another collection, "
        f"not {a_kind_of(collection)}. Use from_batch for iterators, functions and classes."
    )


def from_future(graph: Graph, name: str | None = None, /) -> DataStream:
    """Begin where records come back that a later stream sends with ``fill_future``.

    Parameters
    ----------
    graph : Graph
        Where the pipeline belongs.
    name : str or None
        Name of the operator; None for ``future``.

    Returns
    -------
    DataStream
        The records that come back.
    """
    chosen = next_name(Kind.FUTURE, name, ())
    operator = Operator(Kind.FUTURE, chosen, None, Form.OURS)
    return DataStream(graph, graph.add(Node(operator, (), has_own_name=name is not None)))


def run(graph: Graph, function: Callable[[], Any], /) -> None:
    """Declare that the job is one callable; its value is the job's result.

    Parameters
    ----------
    graph : Graph
        Where it belongs; nothing else may be declared in it.
    function : callable
        Called without arguments.

    Raises
    ------
    PipelineError
        It is no callable, or something else is declared already.
    """
    graph.run(call_operator(function))
