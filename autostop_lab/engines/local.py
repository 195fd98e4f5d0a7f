"""The engine of this process: a stage without others runs in the calling thread, the replicas of several in threads."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.flight import Flight, Span
from autostop_lab.dataflow.graph import Kind, Operator, Pipeline
from autostop_lab.dataflow.progress import PipelineProgress, Progress
from autostop_lab.dataflow.settings import DeadLetter, Returned
from autostop_lab.dataflow.stages import Hop, Routing, Stage, plan
from autostop_lab.engines.halt import DiscardedError, Halt
from autostop_lab.engines.hops import Inbox, Queue
from autostop_lab.engines.objects import FindService, Letters, note, without_engine
from autostop_lab.engines.process import Hosts, ProcessReplica
from autostop_lab.engines.replica import Replica
from autostop_lab.engines.sizes import BatchSizes
from autostop_lab.origin import Origin
from autostop_lab.services.runtime import describe_error

logger = logging.getLogger("autostop_lab.engines")


class LocalEngine:
    """Runs pipelines in this process.

    Parameters
    ----------
    sizes : BatchSizes
        How large batches are.
    """

    name = "local"

    def __init__(self, sizes: BatchSizes = BatchSizes()) -> None:  # noqa: B008  # frozen
        self._sizes = sizes

    def run(
        self, pipelines: Sequence[Pipeline], *, control: Control, progress: Progress, services: FindService
    ) -> Any:
        """Run pipelines, or one callable, and return when that is over; see `autostop_lab.engines.Engine.run`."""
        __tracebackhide__ = True
        progress.start(control.recall)
        try:
            if len(pipelines) == 1 and pipelines[0].is_callable:
                return pipelines[0].operators[0].function()
            return self._run_all(pipelines, control, progress, services)
        finally:
            progress.finish()

    def _run_all(
        self, pipelines: Sequence[Pipeline], control: Control, progress: Progress, services: FindService
    ) -> Any:
        __tracebackhide__ = True
        halt = Halt(control)
        try:
            runs = [
                PipelineRun(one.pipeline, one, halt=halt, control=control, services=services, sizes=self._sizes)
                for one in progress.pipelines
            ]
            crew = Crew(control)
            if len(runs) > 1:  # those that do not end by themselves run beside the others
                for run in runs:
                    if run.pipeline.is_unbounded:
                        crew.start(run.run, name=f"pipeline {run.pipeline.number}")
                here = [run for run in runs if not run.pipeline.is_unbounded]
            else:
                here = runs
            failure: BaseException | None = None
            for run in here:
                if not control.stopping.is_set() and not halt.is_ordered:
                    run.run()
                    failure = run.failure
            failure = crew.wait(failure, halt)
            failure = failure or next(filter(None, (run.failure for run in runs)), None)
        finally:
            halt.close()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # the traceback knows this frame, and the frame would know the traceback
        results = [records for run in runs for records in run.collected.values()]
        return (results[0] if len(results) == 1 else results) if results else None


class Crew:
    """The threads of a run, besides the one that called the engine.

    Parameters
    ----------
    control : Control
        Where they are listed while they run.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._threads: list[threading.Thread] = []
        self._origin: Origin | None = None
        self._context = contextvars.copy_context()

    def start(self, work: Callable[[], None], *, name: str) -> None:
        """Call `work` in a thread, as part of the same job."""
        if self._origin is None:
            self._origin = Origin()
        context = self._context.copy()
        thread = self._origin.start_thread(lambda: context.run(work), name=name)
        self._threads.append(thread)
        self._control.threads.append(thread)

    def wait(self, failure: BaseException | None, halt: Halt) -> BaseException | None:
        """Wait until all have ended; the first interrupt meanwhile, or `failure`, discards what is inside.

        Returns
        -------
        BaseException or None
            `failure`, or the interrupt.
        """
        if failure is not None and self._threads:
            halt.abort()
        while self._threads:
            try:
                self._threads[-1].join()
                self._control.threads.remove(self._threads.pop())
            except BaseException as interrupt:
                if failure is not None:
                    raise
                failure = interrupt.with_traceback(without_engine(interrupt.__traceback__))
                halt.abort()
        return failure


class PipelineRun:
    """One run of one pipeline.

    Parameters
    ----------
    pipeline : Pipeline
        What to run.
    progress : PipelineProgress
        Where the counts go.
    halt : Halt
        Shared by all pipelines of the job.
    control : Control
        Who tells it to end.
    services : callable
        ``name -> ServiceHandle``.
    sizes : BatchSizes
        How large batches are.

    Attributes
    ----------
    collected : dict of Operator to list
        The records of each ``collect()``.
    failure : BaseException or None
        What it failed with.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        progress: PipelineProgress,
        *,
        halt: Halt,
        control: Control,
        services: FindService,
        sizes: BatchSizes,
    ) -> None:
        self.pipeline = pipeline
        self.progress = progress
        self.halt = halt
        self.control = control
        self.services = services
        self.sizes = sizes
        self.plan = plan(pipeline)
        self.collected: dict[Operator, list[Any]] = {
            operator: [] for operator in pipeline.operators if operator.kind is Kind.COLLECT
        }
        self.failure: BaseException | None = None
        self.flight = Flight(len(pipeline.sources), self._end_feedback)
        self.inboxes: dict[int, Inbox] = {}
        self.queues: dict[Hop, list[Queue]] = {}
        self._letters: dict[Operator, Letters] = {}
        self._lock = threading.Lock()
        self._all_open = halt.wakes(threading.Condition(self._lock))
        self._unopened = sum(stage.parallelism for stage in self.plan.stages)
        self._behind_join = behind_joins(pipeline)
        self._make_inboxes()
        progress.queued = self._queued_at

    def _make_inboxes(self) -> None:
        for stage in self.plan.stages:
            hops = self.plan.into(stage)
            if not hops:
                continue
            inbox = self.inboxes[stage.number] = Inbox(
                self.halt, self.flight, stage.parallelism, keeps_order=stage.keeps_order
            )
            for hop in hops:
                if hop.routing is Routing.SHARED:
                    self.queues[hop] = [inbox.add_queue(hop.tag, is_bounded=not hop.is_feedback)]
                else:
                    self.queues[hop] = inbox.add_partitions(hop.tag)

    def run(self) -> None:
        """Run it to its end, or to the first failure, which is `failure` then; close what was opened in any case."""
        __tracebackhide__ = True
        replicas = [self._replica(stage, n) for stage in self.plan.stages for n in range(stage.parallelism)]
        hosts = Hosts(self)
        for hop, queues in self.queues.items():
            if hop.is_feedback:  # ends when nothing is on its way, not with those who put
                for queue in queues:
                    queue.producers = 1
        try:
            self._open_letters()
            hosts.start(replicas)
            crew = Crew(self.control)
            for replica in replicas[1:]:
                crew.start(replica.work, name=replica.name)
            replicas[0].work()
            interrupt = crew.wait(None, self.halt)
            if interrupt is not None:
                self.fail(interrupt)
        except DiscardedError:
            pass
        except BaseException as error:
            self.fail(error.with_traceback(without_engine(error.__traceback__)))
        finally:
            hosts.stop()
            self._close_letters()

    def _replica(self, stage: Stage, index: int) -> Replica:
        return (ProcessReplica if stage.runtime == "process" else Replica)(self, stage, index)

    def _open_letters(self) -> None:
        for operator in self.pipeline.operators:
            resort = operator.settings.last_resort
            if isinstance(resort, DeadLetter) and not isinstance(resort, Returned):
                try:
                    self._letters[operator] = Letters(resort, operator.name, self.services)
                except BaseException as error:
                    note(error, f"{self.pipeline.label(operator)}, in its dead letter")
                    raise

    def _close_letters(self) -> None:
        for operator, letters in self._letters.items():
            try:
                letters.close()
            except BaseException as error:
                note(error, f"{self.pipeline.label(operator)}, in close() of its dead letter")
                self.fail(error.with_traceback(without_engine(error.__traceback__)))

    def _end_feedback(self) -> None:
        for hop, queues in self.queues.items():
            if hop.is_feedback:
                self.inboxes[hop.consumer].end_one(queues)

    # -- what replicas ask ---------------------------------------------------------------------------------

    def name_of(self, stage: Stage, index: int) -> str:
        """Return the name of a replica, for its thread."""
        names = " -> ".join(self.pipeline.operators[position].name for position in stage.positions)
        return f"operator {names}" if stage.parallelism == 1 else f"operator {names}, replica {index + 1}"

    def wait_for_all(self) -> None:
        """Return when all replicas have opened their functions."""
        with self._lock:
            self._unopened -= 1
            if not self._unopened:
                self._all_open.notify_all()
            while self._unopened:
                self.halt.check()
                self._all_open.wait()

    def fail(self, error: BaseException) -> None:
        """Note a failure; the first one is the run's, and discards what is inside."""
        with self._lock:
            if self.failure is None:
                self.failure = error
            elif error is not self.failure:
                note(self.failure, f"and also failed: {describe_error(error)}")
        self.halt.abort()

    def taker_of_letters(self, operator: Operator, letter: DeadLetter) -> Callable[[Any, Exception, int], None]:
        """Return what takes the records that fail in an operator, with the index of the source's record."""
        if isinstance(letter, Returned):
            give_back = letter.give_back
            return lambda record, error, origin: give_back(origin, error)
        letters = self._letters[operator]

        def take(record: Any, error: Exception, origin: int) -> None:
            try:
                letters.take(record, error)
            except Exception as failure:
                note(failure, "in its dead letter")
                raise

        return take

    def note_dropped(self, position: int, error: BaseException) -> None:
        """Note why a record was dropped that failed in the operator at `position`."""
        text = describe_error(error)
        if position not in self.progress.last_errors:
            operator = self.pipeline.operators[position]
            logger.info("%s: a record failed and is dropped: %s", self.pipeline.label(operator), text)
        self.progress.last_errors[position] = text

    def is_behind_join(self, position: int) -> bool:
        """Return whether records come to an operator from a join."""
        return position in self._behind_join

    def records_at(self, position: int) -> int:
        """Return how many records have come to an operator."""
        return self.progress.operators()[position].records

    def source_of(self, span: Span) -> Operator:
        """Return the source whose records a span counts."""
        completions = self.progress.completions
        position = next(position for position, one in completions.items() if one is span.completion)
        return self.pipeline.operators[position]

    def _queued_at(self, position: int) -> int:
        for stage in self.plan.stages:
            if stage.positions[0] == position and stage.number in self.inboxes:
                return self.inboxes[stage.number].count
        return 0


def behind_joins(pipeline: Pipeline) -> frozenset[int]:
    """Return the positions of all operators that get records from a join."""
    found: set[int] = set()
    for position, inputs in enumerate(pipeline.inputs):
        if any(before in found or pipeline.operators[before].kind is Kind.JOIN for before in inputs):
            found.add(position)
    return frozenset(found)

