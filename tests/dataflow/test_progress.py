from __future__ import annotations

import pytest

from autostop_lab.dataflow import Graph, Kind, Progress, from_batch, run
from autostop_lab.dataflow.fuse import Step
from autostop_lab.dataflow.progress import Meter, tally


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def progress(clock: Clock) -> Progress:
    graph = Graph()
    from_batch(graph, range(200)).map(str).filter(str.isdigit).collect()
    return Progress(graph.pipelines(), clock=clock)


def meter(run_progress: Progress) -> Meter:
    """Return the counts of its first pipeline, all of whose operators share one loop."""
    (pipeline,) = run_progress.pipelines
    kinds = pipeline.pipeline.kinds
    pipeline.meters.append(Meter(range(len(kinds)), [Step(kind, str(kind)) for kind in kinds]))
    return pipeline.meters[-1]


def no_recall() -> None:
    pass


S, M, F, X, K = Kind.SOURCE, Kind.MAP, Kind.FILTER, Kind.FLATMAP, Kind.SINK


@pytest.mark.parametrize(
    ("kinds", "counts", "failed_at", "rows"),
    [
        ((S, K), (5,), None, [(5, 5, 0), (5, 5, 0)]),
        ((S, M, F, M, K), (9, 4), None, [(9, 9, 0), (9, 9, 0), (9, 4, 0), (4, 4, 0), (4, 4, 0)]),
        ((S, M, M, K), (9,), 0, [(9, 9, 1), (9, 9, 0), (9, 9, 0), (9, 9, 0)]),
        ((S, M, M, K), (9,), 1, [(9, 9, 0), (9, 8, 1), (8, 8, 0), (8, 8, 0)]),
        ((S, M, M, K), (9,), 2, [(9, 9, 0), (9, 9, 0), (9, 8, 1), (8, 8, 0)]),
        ((S, M, M, K), (9,), 3, [(9, 9, 0), (9, 9, 0), (9, 9, 0), (9, 8, 1)]),
        ((S, M, F, K), (9, 3), 1, [(9, 9, 0), (9, 8, 1), (8, 3, 0), (3, 3, 0)]),
        ((S, F, M, K), (9, 3), 1, [(9, 9, 0), (9, 3, 1), (3, 3, 0), (3, 3, 0)]),
        ((S, X, M, K), (2, 7), 2, [(2, 2, 0), (2, 7, 0), (7, 6, 1), (6, 6, 0)]),
        ((M, K), (5,), None, [(5, 5, 0), (5, 5, 0)]),
    ],
)
def test_a_few_counts_say_it_for_all_operators(
    kinds: tuple[Kind, ...],
    counts: tuple[int, ...],
    failed_at: int | None,
    rows: list[tuple[int, int, int]],
) -> None:
    assert tally([Step(kind, str(kind)) for kind in kinds], counts, failed_at) == rows


@pytest.mark.parametrize(
    ("kind", "counts", "rows"),
    [
        (M, (9, 2), [(9, 9, 0), (9, 7, 2), (7, 7, 0)]),
        (F, (9, 4, 2), [(9, 9, 0), (9, 4, 2), (4, 4, 0)]),
        (X, (9, 12, 2), [(9, 9, 0), (9, 12, 2), (12, 12, 0)]),
    ],
)
def test_dropped_records_are_counted_where_they_failed(
    kind: Kind, counts: tuple[int, ...], rows: list[tuple[int, int, int]]
) -> None:
    steps = [Step(S, "source"), Step(kind, str(kind), is_guarded=True), Step(K, "sink")]

    assert tally(steps, counts) == rows


def test_before_the_run_all_counts_are_zero() -> None:
    snapshot = progress(Clock()).snapshot()

    assert (snapshot.records, snapshot.length, snapshot.elapsed_s, snapshot.is_over) == (0, 200, 0.0, False)
    assert snapshot.remaining_s is None
    assert snapshot.records_per_s == 0.0


def test_rate_and_remaining_time_are_those_of_the_run_so_far() -> None:
    clock = Clock()
    run_progress = progress(clock)
    run_progress.start(no_recall)
    meter(run_progress).note((50, 10))
    clock.now_s += 5
    snapshot = run_progress.snapshot()

    assert (snapshot.records, snapshot.elapsed_s, snapshot.records_per_s) == (50, 5.0, 10.0)
    assert snapshot.remaining_s == 15.0


def test_the_clock_stops_with_the_run() -> None:
    clock = Clock()
    run_progress = progress(clock)
    run_progress.start(no_recall)
    clock.now_s += 5
    run_progress.finish()
    clock.now_s += 5

    snapshot = run_progress.snapshot()
    assert (snapshot.elapsed_s, snapshot.is_over, snapshot.remaining_s) == (5.0, True, 0.0)


def test_a_look_asks_the_engine_for_new_counts_while_it_runs() -> None:
    looks: list[str] = []
    run_progress = progress(Clock())
    run_progress.snapshot()
    run_progress.start(lambda: looks.append("look"))
    run_progress.snapshot()
    str(run_progress)
    run_progress.finish()
    run_progress.snapshot()

    assert looks == ["look", "look"]


def test_the_text_has_exact_counts_of_each_operator() -> None:
    clock = Clock()
    run_progress = progress(clock)
    run_progress.start(no_recall)
    meter(run_progress).note((123456, 7), 1)
    clock.now_s += 2
    run_progress.finish()

    assert str(run_progress) == (
        "operator  function         in     out  errors\n"
        "source    range             -  123456       0\n"
        "map       str          123456  123455       1\n"
        "filter    str.isdigit  123455       7       0\n"
        "collect                     7       -       0\n"
        "123456 of 200 records in 2.00 s, 61728 records/s"
    )
    assert repr(run_progress) == "<Progress: 123456 of 200 records in 2.00 s, 61728 records/s>"


def test_several_pipelines_show_their_numbers() -> None:
    graph = Graph()
    from_batch(graph, [1]).collect()
    from_batch(graph, [1]).print()
    lines = str(Progress(graph.pipelines())).splitlines()

    assert [line.split()[:2] for line in lines[:-1]] == [
        ["pipeline", "operator"],
        ["1", "source"],
        ["1", "collect"],
        ["2", "source"],
        ["2", "print"],
    ]


def test_the_length_is_unknown_while_one_source_does_not_know_it() -> None:
    graph = Graph()
    from_batch(graph, [1]).collect()
    from_batch(graph, iter([1])).collect()

    assert Progress(graph.pipelines()).snapshot().length is None


def test_a_callable_counts_no_records() -> None:
    graph = Graph()
    run(graph, dict)

    assert str(Progress(graph.pipelines())) == "no records are counted; 0.00 s"
