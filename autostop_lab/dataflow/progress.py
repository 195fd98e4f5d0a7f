"""How far a job is: exact counts per operator, written per batch and read by anyone at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from autostop_lab.dataflow.flight import Completion
from autostop_lab.dataflow.fuse import Step
from autostop_lab.dataflow.graph import Kind, Pipeline


@dataclass(frozen=True, slots=True)
class OperatorProgress:
    """Counts of one operator.

    Attributes
    ----------
    pipeline : int
        Number of its pipeline, from 1.
    name, kind, function : str
        Its name, what it does, and its function's name.
    records_in : int or None
        Records that it took; None for a source.
    records_out : int or None
        Records that left it; None for a sink.
    errors : int
        Records that failed in it.
    records_per_s : float
        Records taken per second, on average (for a source: given).
    queued : int
        Records that wait in front of it.
    last_error : str
        The last record's error that did not end the job, on one line; "" if there was none.
    remaining_s : float or None
        Seconds to go at the average rate, where the length of the sources is known and each record comes here once.
    """

    pipeline: int
    name: str
    kind: str
    function: str
    records_in: int | None
    records_out: int | None
    errors: int
    records_per_s: float = 0.0
    queued: int = 0
    last_error: str = ""
    remaining_s: float | None = None

    @property
    def records(self) -> int:
        """Records that it took, or that it gave, for a source."""
        return (self.records_out if self.records_in is None else self.records_in) or 0


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The counts at one moment.

    Attributes
    ----------
    operators : tuple of OperatorProgress
        Pipeline by pipeline, in the order of their declaration.
    records : int
        Records taken from all sources.
    length : int or None
        How many records the sources hold in all; None while one of them does not know.
    elapsed_s : float
        Since the run began, up to its end.
    is_over : bool
        Whether the run has ended.
    completed : int
        How many of the sources' first records are through with all that became of them.
    """

    operators: tuple[OperatorProgress, ...]
    records: int
    length: int | None
    elapsed_s: float
    is_over: bool
    completed: int = 0

    def __getitem__(self, name: str) -> OperatorProgress:
        """Return the counts of an operator by its name, of the first pipeline that has one."""
        for operator in self.operators:
            if operator.name == name:
                return operator
        raise KeyError(name)

    @property
    def records_per_s(self) -> float:
        """Records taken per second, on average."""
        return self.records / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the average rate; None where length or rate is not known."""
        if self.is_over:
            return 0.0
        if self.length is None or not self.records:
            return None
        return max(0, self.length - self.records) / self.records_per_s if self.records_per_s else None

    def __str__(self) -> str:
        """Return a table of all counts, and a line with time and rate."""
        time_line = f"{self.elapsed_s:.2f} s"
        if not self.operators:
            return f"no records are counted; {time_line}"
        of = f" of {self.length}" if self.length is not None and self.length != self.records else ""
        rate = f", {self.records_per_s:.{0 if self.records_per_s >= 10 else 2}f} records/s"
        return f"{table(self.operators)}\n{self.records}{of} records in {time_line}{rate}"


class Meter:
    """Counts of one loop: one replica of a stage, for one of the streams that it takes. One thread writes.

    Parameters
    ----------
    positions : sequence of int
        Positions in the pipeline of its operators.
    steps : sequence of Step
        What its operators do, in the same order.
    """

    def __init__(self, positions: Sequence[int], steps: Sequence[Step]) -> None:
        self.positions = tuple(positions)
        self.steps = tuple(steps)
        size = 1 + sum(step.kind.changes_count + step.is_guarded for step in steps)
        # Replaced as a whole, so that whoever reads meanwhile gets numbers that belong together.
        self._state: tuple[tuple[int, ...], int | None] = ((0,) * size, None)

    @property
    def counts(self) -> tuple[int, ...]:
        """Records taken, then what the loop counts."""
        return self._state[0]

    def note(self, counts: tuple[int, ...], failed_at: int | None = None) -> None:
        """Note the counts, and the position in the loop of the operator in which the last record failed."""
        self._state = (counts, failed_at)

    def rows(self) -> list[tuple[int, int, int]]:
        """Return records in, records out and errors of each operator."""
        return tally(self.steps, *self._state)


class PipelineProgress:
    """Counts of one pipeline; its engine writes, anyone reads.

    Parameters
    ----------
    pipeline : Pipeline
        What is counted.

    Attributes
    ----------
    lengths : dict of int to (int or None)
        How many records each source holds, by position, where it knows that.
    completions : dict of int to Completion
        Of each source, by position.
    meters : list of Meter
        Of all its loops.
    queued : callable
        Returns how many records wait in front of the operator at a position.
    last_errors : dict of int to str
        The last error of a dropped record, by position.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        sources = [position for position, kind in enumerate(pipeline.kinds) if kind is Kind.SOURCE]
        self.lengths: dict[int, int | None] = dict.fromkeys(sources)
        if len(sources) == 1:
            self.lengths[sources[0]] = pipeline.length
        self.completions = {position: Completion() for position in sources}
        self.meters: list[Meter] = []
        self.queued: Callable[[int], int] = nothing_queued
        self.last_errors: dict[int, str] = {}

    @property
    def length(self) -> int | None:
        """How many records the sources hold in all; None while one of them does not know."""
        lengths = self.lengths.values()
        return None if None in lengths else sum(filter(None, lengths))

    @property
    def completed(self) -> int:
        """How many of the sources' first records are through."""
        return sum(completion.completed for completion in self.completions.values())

    def operators(self, elapsed_s: float = 0.0) -> tuple[OperatorProgress, ...]:
        """Return the counts of each operator."""
        sums = [[0, 0, 0] for _ in self.pipeline.operators]
        for meter in list(self.meters):
            for position, counts in zip(meter.positions, meter.rows(), strict=True):
                for column, number in enumerate(counts):
                    sums[position][column] += number
        found = []
        for position, (operator, (taken, left, errors)) in enumerate(zip(self.pipeline.operators, sums, strict=True)):
            is_source = operator.kind is Kind.SOURCE
            row = OperatorProgress(
                self.pipeline.number,
                operator.name,
                operator.kind.value,
                operator.shown,
                None if is_source else taken,
                None if operator.kind.is_sink else left,
                errors,
                queued=self.queued(position),
                last_error=self.last_errors.get(position, ""),
            )
            found.append(replace(row, records_per_s=row.records / elapsed_s) if elapsed_s > 0 else row)
        return tuple(self._with_remaining(found))

    def _with_remaining(self, rows: Sequence[OperatorProgress]) -> list[OperatorProgress]:
        """Add how long each operator has to go, as far as as many records come to it as the sources give."""
        expected: list[int | None] = []
        done = []
        for position, row in enumerate(rows):
            before = self.pipeline.inputs[position]
            kind = self.pipeline.operators[position].kind
            arriving: int | None = self.lengths.get(position)
            if before:
                counts = [expected[one] for one in before]
                arriving = None if None in counts else sum(filter(None, counts))
            expected.append(None if kind.changes_count or kind is Kind.FUTURE else arriving)
            remaining_s = None
            if arriving is not None and row.records_per_s > 0:
                remaining_s = max(0, arriving - row.records) / row.records_per_s
            done.append(replace(row, remaining_s=remaining_s))
        return done


class Progress:
    """How far one run is.

    Parameters
    ----------
    pipelines : sequence of Pipeline
        What will run; a job that is one callable counts no records.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, pipelines: Sequence[Pipeline], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.pipelines = tuple(PipelineProgress(one) for one in pipelines if not one.is_callable)
        self._clock = clock
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._recall: Callable[[], None] = do_nothing

    def start(self, recall: Callable[[], None]) -> None:
        """Note that the run begins.

        Parameters
        ----------
        recall : callable
            Asks the engine to bring its counts up to date at the next record.
        """
        self._recall = recall
        self._started_s = self._clock()

    def finish(self) -> None:
        """Note that the run has ended."""
        self._ended_s = self._clock()
        self._recall = do_nothing

    @property
    def completed(self) -> int:
        """How many of the sources' first records have reached every sink with all that became of them."""
        return sum(pipeline.completed for pipeline in self.pipelines)

    def snapshot(self) -> ProgressSnapshot:
        """Return the counts, which while it runs are at most as old as the last look or the last batch."""
        ended_s = self._ended_s
        now_s = self._clock() if ended_s is None else ended_s
        elapsed_s = 0.0 if self._started_s is None else now_s - self._started_s
        operators = tuple(row for pipeline in self.pipelines for row in pipeline.operators(elapsed_s))
        lengths = [pipeline.length for pipeline in self.pipelines]
        completed = self.completed
        self._recall()
        return ProgressSnapshot(
            operators=operators,
            records=sum(row.records_out or 0 for row in operators if row.kind == Kind.SOURCE),
            length=None if None in lengths else sum(filter(None, lengths)),
            elapsed_s=elapsed_s,
            is_over=ended_s is not None,
            completed=completed,
        )

    def __str__(self) -> str:
        """Return a table of all counts, and a line with time and rate."""
        return str(self.snapshot())

    def __repr__(self) -> str:
        """Return records, time and rate."""
        return f"<Progress: {str(self).splitlines()[-1]}>"


def do_nothing() -> None:
    """Stand for an engine that is not running."""


def nothing_queued(position: int) -> int:
    """Stand for an engine that has no queues."""
    return 0


def tally(steps: Sequence[Step], counts: Sequence[int], failed_at: int | None = None) -> list[tuple[int, int, int]]:
    """Return records in, records out and errors of each operator of a loop.

    Parameters
    ----------
    steps : sequence of Step
        What its operators do.
    counts : sequence of int
        Records taken, then in the order of the operators: the records behind each that changes their number, and
        those that were dropped in each that is guarded.
    failed_at : int or None
        Position of the operator in which the last record failed.

    Returns
    -------
    list of tuple
        For each operator, in order; a source takes what it gives.
    """
    rows: list[tuple[int, int, int]] = []
    rest = iter(counts)
    flow = next(rest)
    for position, step in enumerate(steps):
        failed = int(position == failed_at)
        left = next(rest) if step.kind.changes_count else None
        lost = next(rest) if step.is_guarded else 0
        if left is None:
            left = flow if step.kind is Kind.SOURCE else flow - lost - failed
        rows.append((flow, left, failed + lost))
        flow = left
    return rows


def table(operators: Iterable[OperatorProgress]) -> str:
    """Return the counts as aligned columns."""
    rows = [["pipeline", "operator", "function", "in", "out", "errors"]]
    for row in operators:
        counts = ("-" if n is None else str(n) for n in (row.records_in, row.records_out, row.errors))
        rows.append([str(row.pipeline), row.name, row.function, *counts])
    if {row[0] for row in rows[1:]} <= {"1"}:
        rows = [row[1:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [cell.ljust(width) for cell, width in zip(row[:-3], widths[:-3], strict=True)]
        + [cell.rjust(width) for cell, width in zip(row[-3:], widths[-3:], strict=True)]
        for row in rows
    ]
    return "\n".join("  ".join(row) for row in aligned)
