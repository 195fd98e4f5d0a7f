"""How far a job is: exact counts per operator, written per batch and read by anyone at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    """

    pipeline: int
    name: str
    kind: str
    function: str
    records_in: int | None
    records_out: int | None
    errors: int


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The counts at one moment.

    Attributes
    ----------
    operators : tuple of OperatorProgress
        Pipeline by pipeline, in the order in which a record passes them.
    records : int
        Records taken from all sources.
    length : int or None
        How many records the sources hold in all; None while one of them does not know.
    elapsed_s : float
        Since the run began, up to its end.
    is_over : bool
        Whether the run has ended.
    """

    operators: tuple[OperatorProgress, ...]
    records: int
    length: int | None
    elapsed_s: float
    is_over: bool

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


class PipelineProgress:
    """Counts of one pipeline; one engine writes, anyone reads.

    Parameters
    ----------
    pipeline : Pipeline
        What is counted.

    Attributes
    ----------
    length : int or None
        How many records the source holds, where it knows that.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.length = pipeline.length
        # Replaced as a whole, so that whoever reads meanwhile gets numbers that belong together.
        self._state: tuple[tuple[int, ...], int | None] = ((0,) * pipeline.count_size, None)

    @property
    def counts(self) -> tuple[int, ...]:
        """Records taken from the source, then those behind each filter and flatmap."""
        return self._state[0]

    def note(self, counts: tuple[int, ...], failed_at: int | None = None) -> None:
        """Note the counts, and the position of the operator in which the last record failed."""
        self._state = (counts, failed_at)

    def operators(self) -> tuple[OperatorProgress, ...]:
        """Return the counts of each operator."""
        rows = tally(self.pipeline.kinds, *self._state)
        return tuple(
            OperatorProgress(self.pipeline.number, operator.name, operator.kind.value, operator.shown, *row)
            for operator, row in zip(self.pipeline.operators, rows, strict=True)
        )


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

    def snapshot(self) -> ProgressSnapshot:
        """Return the counts, which while it runs are at most as old as the last look or the last batch."""
        ended_s = self._ended_s
        now_s = self._clock() if ended_s is None else ended_s
        operators = tuple(row for pipeline in self.pipelines for row in pipeline.operators())
        lengths = [pipeline.length for pipeline in self.pipelines]
        self._recall()
        return ProgressSnapshot(
            operators=operators,
            records=sum(row.records_out or 0 for row in operators if row.kind == Kind.SOURCE),
            length=None if None in lengths else sum(filter(None, lengths)),
            elapsed_s=0.0 if self._started_s is None else now_s - self._started_s,
            is_over=ended_s is not None,
        )

    def __str__(self) -> str:
        """Return a table of all counts, and a line with time and rate."""
        return str(self.snapshot())

    def __repr__(self) -> str:
        """Return records, time and rate."""
        return f"<Progress: {str(self).splitlines()[-1]}>"


def do_nothing() -> None:
    """Stand for an engine that is not running."""


def tally(
    kinds: Sequence[Kind], counts: Sequence[int], failed_at: int | None = None
) -> list[tuple[int | None, int | None, int]]:
    """Return records in, records out and errors of each operator of a pipeline.

    Parameters
    ----------
    kinds : sequence of Kind
        Of its operators.
    counts : sequence of int
        Records taken from the source, then those behind each filter and flatmap.
    failed_at : int or None
        Position of the operator in which the last record failed.

    Returns
    -------
    list of tuple
        For each operator, in order.
    """
    rows: list[tuple[int | None, int | None, int]] = []
    stretch = 0  # operators between two that change the number share one count
    is_cut = False
    for position, kind in enumerate(kinds):
        failed = position == failed_at
        taken = counts[stretch] - is_cut
        if kind is Kind.SOURCE:
            rows.append((None, taken, int(failed)))
            continue
        if kind.changes_count:
            stretch += 1
            is_cut = False
            rows.append((taken, counts[stretch], int(failed)))
            continue
        is_cut = is_cut or failed
        rows.append((taken, None if kind.is_sink else taken - failed, int(failed)))
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
