"""The engine of this process: pipelines one after another, each one fused loop in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import add
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.functions import (
    BaseFunction,
    FlatMapFunction,
    FunctionContext,
    construct,
    gathering,
)
from autostop_lab.dataflow.fuse import Failure, fuse
from autostop_lab.dataflow.graph import Form, Kind, Operator, Pipeline
from autostop_lab.dataflow.progress import PipelineProgress, Progress
from autostop_lab.dataflow.sources import Reading

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizes:
    """How many records are taken before the engine looks up to bring its counts up to date.

    Neither latency nor a stop depends on it: each record goes through at once, and an order ends any batch.

    Attributes
    ----------
    first : int
        Records in the first batch.
    longest : int
        Most records in a batch.
    grow_below_s : float
        A batch that took less (from before its first record is read) is followed by one of twice its size.
    shrink_above_s : float
        A batch that took more is followed by one of half its size.
    """

    first: int = 1
    longest: int = 1024
    grow_below_s: float = 0.005
    shrink_above_s: float = 0.020

    def after(self, size: int, taken: int, elapsed_s: float) -> int:
        """Return the size of the batch after one of `size`, of which `taken` records came through."""
        if elapsed_s > self.shrink_above_s:
            return max(1, min(size, taken) // 2)
        return min(self.longest, 2 * size) if elapsed_s < self.grow_below_s else size


class LocalEngine:
    """Runs a job's pipelines, or its one callable, in the thread that calls `run`.

    Parameters
    ----------
    sizes : BatchSizes or None
        When counts are brought up to date; None for the usual.
    """

    name = "local"

    def __init__(self, sizes: BatchSizes | None = None) -> None:
        self._sizes = BatchSizes() if sizes is None else sizes

    def run(
        self,
        pipelines: Sequence[Pipeline],
        *,
        control: Control,
        progress: Progress,
        services: Callable[[str], ServiceHandle],
    ) -> Any:
        """Run pipelines one after another, or one callable; see `Engine.run`."""
        __tracebackhide__ = True
        progress.start(control.recall)
        try:
            if pipelines and pipelines[0].is_callable:
                return pipelines[0].operators[0].function()
            collected: list[list[Any]] = []
            for pipeline, counts in zip(pipelines, progress.pipelines, strict=True):
                run = PipelineRun(pipeline, control, counts, services, self._sizes)
                if pipeline.operators[-1].kind is Kind.COLLECT:
                    collected.append(run.collected)
                if not control.stopping.is_set():
                    run.run()
            return collected if len(collected) > 1 else collected[0] if collected else None
        finally:
            progress.finish()


class PipelineRun:
    """One run of one pipeline: its function objects are made, opened, used and closed here.

    Parameters
    ----------
    pipeline : Pipeline
        What to run.
    control : Control
        Who tells it to end.
    progress : PipelineProgress
        Where the counts go.
    services : callable
        ``name -> ServiceHandle``.
    sizes : BatchSizes
        When the counts go there.

    Attributes
    ----------
    collected : list
        The records of ``collect()``.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        control: Control,
        progress: PipelineProgress,
        services: Callable[[str], ServiceHandle],
        sizes: BatchSizes,
    ) -> None:
        self.collected: list[Any] = []
        self._pipeline = pipeline
        self._control = control
        self._progress = progress
        self._services = services
        self._sizes = sizes
        self._loop = fuse(pipeline.kinds, map(pipeline.label, pipeline.operators))
        self._objects: list[tuple[Operator, Any]] = []
        self._contexts: list[FunctionContext] = []
        self._to_close: list[tuple[Operator, Callable[[], Any]]] = []
        self._numbers = list(range(sizes.longest))
        self._size = sizes.first
        self._gate: list[int] = []
        self._before = progress.counts

    def run(self) -> None:
        """Run it to its end, or to the first failure; close what was opened in any case."""
        __tracebackhide__ = True
        failure: BaseException | None = None
        try:
            functions = [self._make(operator) for operator in self._pipeline.operators]
            for operator, function in self._objects:
                self._open(operator, function)
            self._process(self._pipeline.operators[0], functions)
        except BaseException as error:
            failure = error.with_traceback(without_engine(error.__traceback__))
        failure = self._close(failure)
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # the traceback knows this frame, and the frame would know the traceback

    def _make(self, operator: Operator) -> Any:
        """Return what a record is to be given to (of a source: what is to be read)."""
        if operator.kind is Kind.COLLECT:
            return self.collected.append
        if operator.form not in (Form.CLASS, Form.OBJECT):
            return operator.function
        context = FunctionContext(operator.name, self._services)
        function = operator.function
        if operator.form is Form.CLASS:
            try:
                function = construct(function, operator.args, dict(operator.kwargs), context)
            except BaseException as error:
                self._add_note(error, operator, "in its constructor")
                raise
        elif isinstance(function, BaseFunction):
            function._autostop_attach(context)
        self._contexts.append(context)
        self._objects.append((operator, function))
        if operator.kind is Kind.SOURCE:
            return function
        if isinstance(function, FlatMapFunction):
            return gathering(function.execute, context)
        return function.execute

    def _open(self, operator: Operator, function: Any) -> None:
        try:
            if callable(opening := getattr(function, "open", None)):
                opening()
        except BaseException as error:
            self._add_note(error, operator, "in open()")
            raise
        if callable(closing := getattr(function, "close", None)):
            self._to_close.append((operator, closing))

    def _process(self, source: Operator, functions: Sequence[Any]) -> None:
        try:
            reading = Reading(source, functions[0])
        except BaseException as error:
            self._fail(error, Failure(0, self._progress.counts, 0))
            raise
        self._progress.length = reading.length
        self._to_close.append((source, reading.close))
        for context in self._contexts:
            context.collected = []
        run_batch = self._loop.bind(functions[1:], self._pause)
        clock = time.perf_counter
        while True:
            size = self._size
            gate = self._gate = self._numbers[:size]
            self._control.publish(gate)
            if self._control.stopping.is_set():
                return
            started_s = clock()
            try:
                counts = run_batch(gate, reading.records)
            except BaseException as error:
                failure = self._loop.locate(error.__traceback__)
                if failure is not None:
                    self._fail(error, failure)
                raise
            self._size = self._sizes.after(size, counts[0], clock() - started_s)
            if reading.escaped:
                stop = reading.escaped.pop()
                self._fail(stop, Failure(0, counts, counts[0]))
                raise stop
            self._before = added(self._before, counts)
            self._progress.note(self._before)
            # An empty gate is what ended the batch; with a full one it was the source.
            if gate and counts[0] < size:
                return

    def _pause(self, *counts: int) -> bool:
        """Look up within the records of a flatmap, which may be many; return whether to discard the rest."""
        self._progress.note(added(self._before, counts))
        # As everywhere: first the gate, then the flags, so that no order is lost.
        self._gate[:] = self._numbers[: self._size]
        if self._control.is_cancelled:
            self._gate.clear()
            return True
        if self._control.stopping.is_set():
            del self._gate[counts[0] :]
        return False

    def _fail(self, error: BaseException, failure: Failure) -> None:
        """Note where a record failed, in the counts and on the exception."""
        self._progress.note(added(self._before, failure.counts), failure.position)
        if failure.position is not None:
            operator = self._pipeline.operators[failure.position]
            hint = f": {failure.hint}" if failure.hint else ""
            self._add_note(error, operator, f"record {self._before[0] + failure.index}{hint}")

    def _add_note(self, error: BaseException, operator: Operator, where: str) -> None:
        note = f"{self._pipeline.label(operator)}, {where}"
        # The user may raise one exception object again and again.
        if note not in getattr(error, "__notes__", ()):
            with suppress(Exception):  # an exception need not take notes
                error.add_note(note)

    def _close(self, failure: BaseException | None) -> BaseException | None:
        """Close what was opened, the last one first; return the first failure, the rest as notes on it."""
        for context in self._contexts:
            context.collected = None
        for operator, closing in reversed(self._to_close):
            try:
                closing()
            except BaseException as error:
                if failure is None:
                    self._add_note(error, operator, "in close()")
                    failure = error.with_traceback(without_engine(error.__traceback__))
                elif error is not failure:
                    label = self._pipeline.label(operator)
                    failure.add_note(f"{label} failed in close() as well: {type(error).__name__}: {error}")
        for _, function in self._objects:
            if isinstance(function, BaseFunction):
                function._autostop_attach(None)
        return failure


def added(before: tuple[int, ...], counts: Sequence[int]) -> tuple[int, ...]:
    """Return the sums of two rows of counts."""
    return tuple(map(add, before, counts))


def without_engine(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` from the generated loop or the user's code on, if it gets that far."""
    inner = traceback
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner or traceback
