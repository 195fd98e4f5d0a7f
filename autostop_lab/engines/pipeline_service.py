"""A pipeline as a service: a call puts a record in, and waits for what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.declaration import Graph, Node
from autostop_lab.dataflow.describe import a_kind_of, function_name, refuse_async
from autostop_lab.dataflow.graph import Form, Kind, Operator, Pipeline
from autostop_lab.dataflow.progress import Progress
from autostop_lab.dataflow.settings import Returned, Settings
from autostop_lab.dataflow.streams import DataStream, check_same_graph
from autostop_lab.engines.local import LocalEngine
from autostop_lab.engines.sizes import BatchSizes
from autostop_lab.exceptions import PipelineError, ServiceUnavailableError
from autostop_lab.origin import Origin
from autostop_lab.services.handle import ServiceHandle, ServiceMethod
from autostop_lab.services.service import Service

#: A call is on its own: what becomes of it is known when its record is through.
ONE_BY_ONE = BatchSizes(first=1, longest=1)


class Call:
    """One record that somebody waits for.

    Attributes
    ----------
    record : object
        The record.
    results : list
        What has become of it so far.
    future : concurrent.futures.Future
        Done when it is through.
    """

    def __init__(self, record: Any) -> None:
        self.record = record
        self.results: list[Any] = []
        self.future: Future[Any] = Future()

    def fail(self, error: BaseException) -> None:
        """Give it an error, if it is not over."""
        if not self.future.done():
            self.future.set_exception(error)


class PipelineService(Service):
    """Runs a pipeline as long as it lives; `process` sends one record through it.

    Parameters
    ----------
    pipeline : Pipeline
        As `pipeline_of` describes it.
    needs : sequence of ServiceHandle
        What its functions call.
    """

    def __init__(self, pipeline: Pipeline, needs: tuple[ServiceHandle, ...] = ()) -> None:
        many = any(operator.kind.multiplies for operator in pipeline.operators)
        self._gives_list = many or any(len(inputs) > 1 for inputs in pipeline.inputs)
        self._pipeline = with_ends(pipeline, self._records, self._take_result, self._take_error)
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._inside: dict[int, Call] = {}
        self._control = Control()
        self._is_ready = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Make and open its functions, and return when it takes records."""
        Origin().start_thread(self._run_engine, name=f"pipeline of service {self._autostop_context.name}")
        self._is_ready.wait()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Return when it has ended; raises what it failed with."""
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Finish what is inside."""
        self._calls.put(None)
        self._ended.wait()

    def cleanup(self) -> None:
        """Discard what is inside."""
        self._control.cancel()
        self._calls.put(None)

    def health_check(self) -> dict[str, Any]:
        """Return how many records were taken, and how many are inside."""
        return {"records": self._progress.snapshot().records, "inside": len(self._inside)}

    def process(self, record: Any) -> Any:
        """Send a record through the pipeline.

        Parameters
        ----------
        record : object
            The record.

        Returns
        -------
        object
            What becomes of it, None if a filter drops it; a list of all where the pipeline can make several of one.

        Raises
        ------
        BaseException
            What an operator raised.
        """
        call = Call(record)
        with self._lock:
            if self._ended.is_set():
                raise self._over()
            self._calls.put(call)
        return call.future.result()

    # -- in its threads ------------------------------------------------------------------------------------

    def _run_engine(self) -> None:
        pipelines = (self._pipeline,)
        progress = self._progress = Progress(pipelines)
        (completion,) = progress.pipelines[0].completions.values()
        completion.on_complete = self._finish
        try:
            LocalEngine(ONE_BY_ONE).run(pipelines, control=self._control, progress=progress, services=self.service)
        except BaseException as error:
            self._failure = error
        with self._lock:
            self._ended.set()
        self._is_ready.set()
        while not self._calls.empty():
            waiting = self._calls.get()
            if waiting is not None:
                waiting.fail(self._over())
        for call in list(self._inside.values()):
            call.fail(self._over())

    def _records(self) -> Iterator[Any]:
        self._is_ready.set()
        index = 0
        while (call := self._calls.get()) is not None:
            self._inside[index] = call
            index += 1
            yield call.record

    def _take_result(self, record: Any, index: int) -> None:
        self._inside[index].results.append(record)

    def _take_error(self, index: int, error: Exception) -> None:
        self._inside[index].fail(error)

    def _finish(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            call = self._inside.pop(index)
            if not call.future.done():
                results = call.results
                call.future.set_result(results if self._gives_list else results[0] if results else None)

    def _over(self) -> ServiceUnavailableError:
        name = self._autostop_context.name
        error = ServiceUnavailableError(
            f"service {name!r} takes no calls: its pipeline has ended. Read its last lines with handle.logs().",
            service=name,
            phase="call",
        )
        error.__cause__ = self._failure
        return error


def pipeline_of(name: str, build: Callable[[DataStream], DataStream], owner: object) -> Pipeline:
    """Return the pipeline that `build` describes, with open ends.

    Parameters
    ----------
    name : str
        Name of the service.
    build : callable
        ``stream -> stream``.
    owner : object
        Who declares it.

    Returns
    -------
    Pipeline
        Its source gives what callers send, and its results go back to them.

    Raises
    ------
    PipelineError
        `build` does not give one.
    """
    what = f"service {name!r}: build={function_name(build)}"
    if not callable(build):
        raise PipelineError(f"{what} is {a_kind_of(build)}, and has to be a function: stream -> stream.")
    refuse_async(what, build)
    graph = Graph(owner)
    source = graph.add(Node(Operator(Kind.SOURCE, "call", (), Form.ITERABLE), (), has_own_name=True))
    stream = build(DataStream(graph, source))
    if not isinstance(stream, DataStream):
        raise PipelineError(
            f"{what} returned {a_kind_of(stream)}, and has to return the stream of the results: "
            "lambda stream: stream.map(parse).map(embed)."
        )
    check_same_graph(what, graph, stream._graph)
    stream._end(Kind.RESULT, list, None)
    (pipeline,) = graph.pipelines()
    return pipeline


def needs_of(pipeline: Pipeline) -> tuple[ServiceHandle, ...]:
    """Return the handles of the services that functions of a pipeline are, or get as arguments."""
    values = [
        value
        for operator in pipeline.operators
        for value in (operator.function, *operator.args, *operator.kwargs.values())
    ]
    methods = [value.handle for value in values if isinstance(value, ServiceMethod)]
    return (*methods, *(value for value in values if isinstance(value, ServiceHandle)))


def with_ends(
    pipeline: Pipeline,
    records: Callable[[], Iterator[Any]],
    take_result: Callable[[Any, int], None],
    take_error: Callable[[int, Exception], None],
) -> Pipeline:
    """Return a pipeline of which records, results and errors are those of calls."""

    def completed(operator: Operator) -> Operator:
        if operator.kind is Kind.SOURCE:
            return replace(operator, function=records, form=Form.CALLABLE)
        settings = returning(operator.settings, take_error)
        if operator.kind is Kind.RESULT:
            return replace(operator, function=take_result)
        return replace(operator, settings=settings)

    return replace(pipeline, operators=tuple(map(completed, pipeline.operators)))


def returning(settings: Settings, take_error: Callable[[int, Exception], None]) -> Settings:
    """Return settings with which a record that fails for good gives its error to who sent it."""
    if settings.last_resort != "fail":
        return settings
    back = Returned(take_error)
    return replace(settings, on_error=replace(settings.retry, then=back) if settings.retry is not None else back)
