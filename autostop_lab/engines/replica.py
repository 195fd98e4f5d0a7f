"""One replica of a stage: takes records, sends them through the generated loop, and passes them on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import add
from typing import TYPE_CHECKING, Any

from autostop_lab.dataflow.flight import Span
from autostop_lab.dataflow.fuse import Exit, Failure, FusedLoop, RunBatch, Step, fuse
from autostop_lab.dataflow.graph import Kind, Operator
from autostop_lab.dataflow.keys import router
from autostop_lab.dataflow.progress import Meter
from autostop_lab.dataflow.settings import DeadLetter
from autostop_lab.dataflow.sources import Reading
from autostop_lab.dataflow.stages import Routing, Stage
from autostop_lab.engines.halt import DiscardedError
from autostop_lab.engines.hops import Outlet, Piece
from autostop_lab.engines.objects import Objects, without_engine

if TYPE_CHECKING:
    from autostop_lab.engines.local import PipelineRun

#: How long a source that has nothing now is let be, in seconds: first, and at most.
REST_S, LONGEST_REST_S = 0.001, 0.05


class Program:
    """The loop of a replica for one of the streams that it takes.

    Attributes
    ----------
    loop : FusedLoop
        As it was generated.
    run_batch : callable
        The loop, bound to this replica's functions.
    meter : Meter
        Its counts.
    before : tuple of int
        The counts when the batch at hand began.
    """

    def __init__(self, loop: FusedLoop, run_batch: RunBatch, meter: Meter) -> None:
        self.loop = loop
        self.run_batch = run_batch
        self.meter = meter
        self.before = meter.counts


class Replica:
    """One replica of a stage.

    Parameters
    ----------
    run : PipelineRun
        Whose it is.
    stage : Stage
        What it does.
    index : int
        Which of the stage's replicas.
    """

    def __init__(self, run: PipelineRun, stage: Stage, index: int) -> None:
        self.name = run.name_of(stage, index)
        self._run = run
        self._stage = stage
        self._index = index
        self._operators = [run.pipeline.operators[position] for position in stage.positions]
        self._objects = Objects(
            run.pipeline, self._operators, run.services, given=self._given(), rest=run.halt.rest
        )
        self._gate: list[int] = []
        self._full_gate = slice(0, 0)
        self._numbers = list(range(run.sizes.longest))
        self._size = run.sizes.first
        self._exits: list[Exit] = []
        self._outlets: list[Outlet] = []
        self._bindings: dict[str, Any] = {}
        self._program: Program | None = None
        self._origins: Sequence[int] = ()
        self._span: Span | None = None
        self._taken = 0  # of the piece at hand, before the batch at hand
        self._is_cut = False
        self._make_exits()

    # -- what it is made of --------------------------------------------------------------------------------

    def _given(self) -> Mapping[Operator, Callable[..., Any]]:
        given: dict[Operator, Callable[..., Any]] = {}
        for operator in self._operators:
            if operator.kind is Kind.COLLECT:
                given[operator] = self._run.collected[operator].append
            elif operator.kind is Kind.RESULT:
                given[operator] = self._result_taker(operator.function)
        return given

    def _result_taker(self, take: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        return lambda record, index: take(record, self._origins[index])

    def _make_exits(self) -> None:
        """Make an outlet for each hop, or for each part of it."""
        plan = self._run.plan
        steps = self._steps()
        changes = any(step.kind.changes_count or step.is_guarded for step in steps)
        for number, hop in enumerate(plan.out_of(self._stage)):
            queues = self._run.queues[hop]
            is_dealt = hop.routing is Routing.HASH
            groups = [[queue] for queue in queues] if is_dealt else [queues]
            outlets = [Outlet(group, self.recall, has_marks=is_dealt or changes) for group in groups]
            self._outlets += outlets
            self._exits.append(Exit(hop.routing, hop.has_keys))
            puts = [outlet.records.append for outlet in outlets]
            marks = [outlet.marks.append for outlet in outlets]
            self._bindings[f"put_{number}"] = puts if is_dealt else puts[0]
            self._bindings[f"mark_{number}"] = marks if is_dealt else marks[0]
            if is_dealt:
                self._bindings[f"route_{number}"] = router(len(queues))

    def _steps(self) -> list[Step]:
        return [
            Step(one.kind, self._run.pipeline.label(one), one.settings.last_resort != "fail")
            for one in self._operators
        ]

    def _bind(self, tag: int) -> Program:
        steps = self._steps()
        has_keys = any(hop.has_keys for hop in self._run.plan.into(self._stage))
        loop = fuse(steps, self._exits, has_keys=has_keys)
        functions = [
            self._objects.function(operator, tag)
            for operator in self._operators
            if operator.kind not in (Kind.SOURCE, Kind.FUTURE, Kind.FEEDBACK)
        ]
        bindings = dict(self._bindings)
        for place, operator in enumerate(self._operators):
            if steps[place].is_guarded:
                bindings[f"failed_{place}"] = self._taker_of_failures(operator)
        return Program(loop, loop.bind(functions, self._pause, **bindings), self._meter(steps))

    def _meter(self, steps: Sequence[Step]) -> Meter:
        meter = Meter(self._stage.positions, steps)
        self._run.progress.meters.append(meter)
        return meter

    def _taker_of_failures(self, operator: Operator) -> Callable[[Exception, Any, int], None]:
        resort = operator.settings.last_resort
        take = self._run.taker_of_letters(operator, resort) if isinstance(resort, DeadLetter) else None
        position = self._run.pipeline.operators.index(operator)

        def failed(error: Exception, record: Any, index: int) -> None:
            # The loop's own frame would keep everything in it alive as long as the user keeps the exception.
            inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
            error = error.with_traceback(inner or error.__traceback__)
            self._run.note_dropped(position, error)
            if take is not None:
                origin = self._origin(index)
                self._objects.add_note(error, operator, f"record {origin}{self._of_source(position)}")
                take(record, error, origin)

        return failed

    def _origin(self, index: int) -> int:
        return self._origins[index] if 0 <= index < len(self._origins) else index

    # -- its life ------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Make and open its functions, take records until there are no more, and close them; fail the run or not."""
        __tracebackhide__ = True
        failure: BaseException | None = None
        try:
            self._make_functions()
            self._run.wait_for_all()
            self._objects.begin()
            if self._operators[0].kind is Kind.SOURCE:
                self._read()
            else:
                self._take()
            for outlet in self._outlets:
                outlet.flush()
                outlet.end()
        except DiscardedError:
            pass
        except BaseException as error:
            failure = error.with_traceback(without_engine(error.__traceback__))
            self._run.halt.abort()
        failure = self._close(failure)
        self._run.control.retire(self)
        if failure is not None:
            self._run.fail(failure)
            del failure  # the traceback knows this frame, and the frame would know the traceback

    def _make_functions(self) -> None:
        self._objects.make()
        self._objects.open()

    def _close(self, failure: BaseException | None) -> BaseException | None:
        return self._objects.close(failure)

    def recall(self) -> None:
        """Look up at the next record; any thread may ask for it."""
        self._gate.clear()

    def _publish(self, first: int, stop: int) -> list[int]:
        """Return a new gate for the records from index `first` on, which orders can empty from now on."""
        self._full_gate = slice(first, stop)
        gate = self._gate = self._numbers[self._full_gate]
        self._run.control.publish(gate, self)
        return gate

    # -- a source ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        run, operator = self._run, self._operators[0]
        position = self._stage.positions[0]
        program = self._program = self._bind(0)
        try:
            reading = Reading(operator, self._objects.function(operator, 0))
        except BaseException as error:
            self._fail(error, Failure(0, program.before, 0))
            raise
        run.progress.lengths[position] = reading.length
        self._objects.close_with(operator, reading.close)
        completion = run.progress.completions[position]
        rest_s = REST_S
        while True:
            size = self._batch_size()
            gate = self._publish(0, size)
            if run.control.stopping.is_set() or run.halt.is_ordered:
                break
            start = program.before[0]
            self._origins = range(start, start + size)
            span = self._span = run.flight.begin(completion, start) if self._outlets else None
            for outlet in self._outlets:
                assert span is not None
                outlet.begin(self._origins, span, None)
            counts, elapsed_s = self._run_batch(program, gate, reading.records)
            self._size = run.sizes.after(self._size, counts[0], elapsed_s)
            if reading.escaped:
                stop = reading.escaped.pop()
                self._fail(stop, Failure(0, counts, counts[0]))
                raise stop
            program.before = added(program.before, counts)
            program.meter.note(program.before)
            for outlet in self._outlets:
                outlet.flush()
            if span is not None:
                if not self._is_cut:
                    run.flight.release(span, program.before[0])
            else:
                completion.complete(start, program.before[0] - self._is_cut)
            # An empty gate is what ended the batch; with a full one it was the source.
            if gate and counts[0] < size:
                if not reading.go_on():
                    break
                rest_s = REST_S if counts[0] else min(LONGEST_REST_S, 2 * rest_s)
                run.control.stopping.wait(rest_s)
        run.halt.check()
        run.flight.end_source()

    def _batch_size(self) -> int:
        if not self._outlets:
            return self._size
        if any(outlet.is_hungry for outlet in self._outlets):
            return 1
        return max(1, min(self._size, *(outlet.room for outlet in self._outlets)))

    # -- what comes over hops ------------------------------------------------------------------------------

    def _take(self) -> None:
        run = self._run
        tags = {hop.tag for hop in run.plan.into(self._stage)}
        first = self._operators[0]
        if first.kind in (Kind.JOIN, Kind.COMAP):
            programs = {tag: self._bind(tag) for tag in sorted(tags)}
        else:
            programs = dict.fromkeys(tags, self._bind(0))
        if first.pairing is not None and first.pairing.is_batch:
            self._take_batch_join(programs)
            return
        inbox = run.inboxes[self._stage.number]
        while (piece := inbox.take(self._index, self._size)) is not None:
            self._process(programs[piece.tag], piece)
            run.flight.release(piece.span)

    def _take_batch_join(self, programs: Mapping[int, Program]) -> None:
        """Read the second stream to its end first; what comes of the first one meanwhile is kept, where it must."""
        run = self._run
        inbox = run.inboxes[self._stage.number]
        others = not run.plan.can_wait(self._stage, 0)
        seconds, firsts = [], []
        while (piece := inbox.take(self._index, self._size, until=1, others=others)) is not None:
            if piece.tag == 1:
                self._process(programs[1], piece)
                seconds.append(piece.span)
                run.flight.hold(piece.span)
            else:
                firsts.append(piece)
        for held in firsts:
            self._process(programs[0], held)
            run.flight.release(held.span)
        while (piece := inbox.take(self._index, self._size)) is not None:
            self._process(programs[0], piece)
            run.flight.release(piece.span)
        for span in seconds:
            run.flight.release_held(span)

    def _process(self, program: Program, piece: Piece) -> None:
        run = self._run
        self._program = program
        self._origins, self._span = piece.origins, piece.span
        self._taken = 0
        for outlet in self._outlets:
            outlet.begin(piece.origins, piece.span, piece.ticket)
        size = len(piece.records)
        records = iter(piece.records)
        elapsed_s = 0.0
        while self._taken < size:
            gate = self._publish(self._taken, size)
            run.halt.check()
            counts, batch_s = self._run_batch(program, gate, records)
            elapsed_s += batch_s
            program.before = added(program.before, self._since(counts))
            program.meter.note(program.before)
            self._taken = max(self._taken, counts[0])
            if self._is_cut:
                raise DiscardedError
        for outlet in self._outlets:
            outlet.flush(is_last=True)
        inbox = run.inboxes[self._stage.number]
        self._size = inbox.size = run.sizes.after(self._size, size, elapsed_s)

    def _since(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return counts with the records that were taken in this batch alone."""
        return (max(0, counts[0] - self._taken), *counts[1:])

    # -- a batch -------------------------------------------------------------------------------------------

    def _run_batch(self, program: Program, gate: list[int], records: Iterator[Any]) -> tuple[tuple[int, ...], float]:
        __tracebackhide__ = True
        started_s = time.perf_counter()
        try:
            counts = program.run_batch(gate, records)
        except DiscardedError:
            raise
        except BaseException as error:
            failure = program.loop.locate(error.__traceback__)
            if failure is not None:
                self._fail(error, failure)
            raise
        return counts, time.perf_counter() - started_s

    def _pause(self, *counts: int) -> bool:
        """Look up within the records of a flatmap, which may be many; return whether to discard the rest."""
        program, halt = self._program, self._run.halt
        assert program is not None
        program.meter.note(added(program.before, self._since(counts)))
        for outlet in self._outlets:
            outlet.flush()
        if self._gate:
            return False
        # As everywhere: first the gate, then the flags, so that no order is lost.
        is_source = self._operators[0].kind is Kind.SOURCE
        self._gate[:] = self._numbers[self._full_gate]
        if halt.is_ordered:
            self._gate.clear()
            self._is_cut = True
            return True
        if is_source and self._run.control.stopping.is_set():
            del self._gate[counts[0] :]
        return False

    def _fail(self, error: BaseException, failure: Failure) -> None:
        """Note where a record failed, in the counts and on the exception."""
        program = self._program
        assert program is not None
        is_source = self._operators[0].kind is Kind.SOURCE
        counts = failure.counts if is_source else self._since(failure.counts)
        program.meter.note(added(program.before, counts), failure.position)
        if failure.position is None:
            return
        operator = self._operators[failure.position]
        origin = program.before[0] + failure.index if is_source else self._origin(failure.index)
        if is_source and not self._outlets:
            self._run.progress.completions[self._stage.positions[0]].completed = origin
        position = self._stage.positions[failure.position]
        if self._run.is_behind_join(position):
            where = f"record {self._run.records_at(position) - 1}"
        else:
            where = f"record {origin}{self._of_source(position)}"
        self._objects.add_note(error, operator, f"{where}: {failure.hint}" if failure.hint else where)

    def _of_source(self, position: int) -> str:
        """Return which source the record at hand came of, where there are several."""
        if len(self._run.progress.completions) == 1 or self._span is None:
            return ""
        return f" of {self._run.source_of(self._span).label}"


def added(before: tuple[int, ...], counts: Sequence[int]) -> tuple[int, ...]:
    """Return the sums of two rows of counts."""
    return tuple(map(add, before, counts))

