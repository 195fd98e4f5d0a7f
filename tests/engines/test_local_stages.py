"""Several stages: parallelism, order, branches, keys, joins, feedback, and what a stop or a failure does to them."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab.dataflow import (
    BatchFunction,
    CoMapFunction,
    Control,
    FlatMapFunction,
    Graph,
    JoinFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
    from_batch,
    from_future,
    from_source,
)
from autostop_lab.engines import Engine
from tests.engines.runs import DEADLINE_S, Run, ended, notes


class Meeting:
    """A function whose calls wait for each other: so many have to be inside at once."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)

    def __call__(self, record: Any) -> Any:
        self.barrier.wait(DEADLINE_S)
        return record


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "operator" in thread.name]


# -- parallelism and order ---------------------------------------------------------------------------------


def test_replicas_work_at_the_same_time(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, range(8)).map(Meeting(4), parallelism=4).collect()

    assert Run(engine, graph)() == list(range(8))


def test_order_is_kept_when_an_early_record_is_late(engine: Engine) -> None:
    others = threading.Semaphore(0)

    def late(record: int) -> int:
        if record == 0:
            for _ in range(3):
                assert others.acquire(timeout=DEADLINE_S)
        elif record <= 3:
            others.release()
        return record

    graph = Graph()
    from_batch(graph, range(100)).map(late, parallelism=4).filter(lambda x: x % 3).collect()

    assert Run(engine, graph)() == [x for x in range(100) if x % 3]


def test_order_is_kept_through_stages_that_drop_and_multiply(engine: Engine) -> None:
    graph = Graph()
    stream = from_batch(graph, range(3000)).filter(lambda x: x % 3, parallelism=3)
    stream.flatmap(lambda x: [x] * (x % 4), parallelism=4).map(lambda x: -x, parallelism=2).collect()

    assert Run(engine, graph)() == [-x for x in range(3000) if x % 3 for _ in range(x % 4)]


def test_without_order_a_late_record_holds_up_nobody(engine: Engine) -> None:
    rest_is_out = threading.Event()
    results: list[int] = []

    def late(record: int) -> int:
        if record == 0:
            assert rest_is_out.wait(DEADLINE_S)
        return record

    def take(record: int) -> None:
        results.append(record)
        if len(results) == 49:
            rest_is_out.set()

    graph = Graph()
    from_batch(graph, range(50)).map(late, parallelism=2, ordered=False).sink(take)
    Run(engine, graph)()

    assert sorted(results) == list(range(50))
    assert results[-1] == 0


def test_each_replica_has_objects_of_its_own_opened_and_closed_in_its_thread(engine: Engine) -> None:
    threads: dict[object, set[str]] = defaultdict(set)

    class Tag(MapFunction):
        def __init__(self, meeting: Meeting) -> None:
            self.meeting = meeting

        def open(self) -> None:
            threads[id(self)].add(threading.current_thread().name)

        def execute(self, record: int) -> int:
            threads[id(self)].add(threading.current_thread().name)
            return self.meeting(record)  # type: ignore[no-any-return]

        def close(self) -> None:
            threads[id(self)].add(threading.current_thread().name)

    graph = Graph()
    from_batch(graph, range(3)).map(Tag, Meeting(3), name="tag", parallelism=3).collect()
    Run(engine, graph)()

    assert sorted(map(tuple, threads.values())) == [(f"autostop-lab: operator tag, replica {n}",) for n in (1, 2, 3)]


def test_all_functions_are_open_before_the_first_record(engine: Engine) -> None:
    opened: list[str] = []

    class Slow(SinkFunction):
        def open(self) -> None:
            time.sleep(0.05)
            opened.append("sink")

        def execute(self, record: int) -> None:
            pass

    def numbers() -> Iterator[int]:
        assert opened == ["sink", "sink"]
        yield 1

    graph = Graph()
    from_batch(graph, numbers).sink(Slow, parallelism=2)
    Run(engine, graph)()


def test_the_first_record_comes_out_at_once(engine: Engine) -> None:
    came = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        assert came.wait(DEADLINE_S)  # no further record before the first is out
        yield 2

    graph = Graph()
    from_batch(graph, numbers).map(lambda x: x, parallelism=2).map(lambda x: x).sink(lambda x: came.set())
    Run(engine, graph)()


def test_a_record_does_not_wait_for_its_batch_when_the_source_pauses(engine: Engine) -> None:
    """Batches have grown when the source stops giving; what it gave last comes out all the same."""
    last, seen = threading.Event(), list[int]()

    def numbers() -> Iterator[int]:
        yield from range(20_000)
        assert last.wait(DEADLINE_S)
        yield 20_000

    def take(record: int) -> None:
        seen.append(record)
        if record == 19_999:
            last.set()

    graph = Graph()
    from_batch(graph, numbers).map(lambda x: x, parallelism=2).sink(take)
    Run(engine, graph)()

    assert seen == list(range(20_001))


def test_a_slow_stage_holds_back_the_source(engine: Engine) -> None:
    taken: list[int] = []
    go_on = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(10_000_000):
            taken.append(number)
            yield number

    def waits(record: int) -> int:
        assert go_on.wait(DEADLINE_S)
        return record

    graph = Graph()
    from_batch(graph, numbers).map(waits, parallelism=2).sink(lambda x: None)
    run = Run(engine, graph)
    thread = run.start()
    before = -1
    while len(taken) != before:
        before = len(taken)
        time.sleep(0.2)

    assert 0 < before < 100
    run.control.cancel()
    go_on.set()
    assert ended(thread)


def test_a_flatmap_without_end_is_held_back_too(engine: Engine) -> None:
    made = 0

    def endless(record: int) -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    seen = threading.Event()
    go_on = threading.Event()

    def slow(record: int) -> None:
        seen.set()
        assert go_on.wait(DEADLINE_S)

    graph = Graph()
    from_batch(graph, [1]).flatmap(endless).sink(slow, parallelism=2)
    run = Run(engine, graph)
    thread = run.start()
    assert seen.wait(DEADLINE_S)
    before = -1
    while made != before:
        before = made
        time.sleep(0.2)

    assert before < 20_000
    run.control.cancel()
    go_on.set()
    assert ended(thread)


# -- branches ----------------------------------------------------------------------------------------------


def test_a_stream_used_twice_sends_each_record_both_ways(engine: Engine) -> None:
    graph = Graph()
    stream = from_batch(graph, range(2000)).map(lambda x: x + 1)
    stream.filter(lambda x: x % 2).collect()
    stream.map(lambda x: -x, parallelism=2).collect()
    stream.collect()

    assert Run(engine, graph)() == [
        list(range(1, 2001, 2)),
        [-x for x in range(1, 2001)],
        list(range(1, 2001)),
    ]


def test_a_slow_branch_keeps_the_other_within_sight(engine: Engine) -> None:
    """A dead end of one branch is none of the other: both get all records."""
    slow, quick = list[int](), list[int]()
    graph = Graph()
    stream = from_batch(graph, range(30))
    stream.map(lambda x: time.sleep(0.005) or x).sink(slow.append)  # type: ignore[func-returns-value]
    stream.sink(quick.append)
    Run(engine, graph)()

    assert slow == quick == list(range(30))


# -- keys, joins, comap ------------------------------------------------------------------------------------


def test_records_of_one_key_go_to_one_replica_in_order(engine: Engine) -> None:
    class Remember(MapFunction):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def execute(self, record: int) -> tuple[int, int, list[int]]:
            self.seen.append(record)
            return record % 10, id(self), [x for x in self.seen if x % 10 == record % 10]

    graph = Graph()
    from_batch(graph, range(1000)).map(lambda x: x, parallelism=3).keyby(lambda x: x % 10).map(
        Remember, parallelism=4
    ).collect()
    results = Run(engine, graph)()

    assert len(results) == 1000
    replicas = {key: {replica for k, replica, _ in results if k == key} for key in range(10)}
    assert all(len(one) == 1 for one in replicas.values())
    assert len(set.union(*replicas.values())) > 1
    for key, _, seen in results:
        assert seen == list(range(key, key + 10 * len(seen), 10))


def test_a_broadcast_goes_to_all_replicas(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, range(50)).keyby(lambda x: x, strategy="broadcast").map(lambda x: x, parallelism=3).collect()

    assert Counter(Run(engine, graph)()) == dict.fromkeys(range(50), 3)


def test_a_key_class_has_arguments_and_services(engine: Engine) -> None:
    class Key(KeyByFunction):
        def __init__(self, divisor: int) -> None:
            self.divisor = divisor

        def execute(self, record: int) -> int:
            return self.service("store").get(record) % self.divisor  # type: ignore[no-any-return]

    class Store:
        def get(self, record: int) -> int:
            return record

    graph = Graph()
    from_batch(graph, range(20)).keyby(Key, 5).map(lambda x: x, parallelism=2).collect()

    assert sorted(Run(engine, graph, services={"store": Store()}.__getitem__)()) == list(range(20))


ORDERS = [("ann", "tea"), ("bob", "rum"), ("cid", "ale"), ("ann", "jam")]
USERS = [("ann", 31), ("bob", 44), ("ann", 13)]


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize(("how", "more"), [("inner", []), ("left", [("ale", None)])])
def test_a_join_pairs_records_of_equal_keys(engine: Engine, how: str, more: list[Any], parallelism: int) -> None:
    graph = Graph()
    orders, users = from_batch(graph, ORDERS), from_batch(graph, USERS)
    orders.connect(users).keyby(lambda row: row[0]).join(
        lambda order, user: (order[1], user and user[1]), how=how, parallelism=parallelism
    ).collect()
    results = Run(engine, graph)()
    expected = [("tea", 31), ("tea", 13), ("rum", 44), *more, ("jam", 31), ("jam", 13)]

    assert sorted(results) == sorted(expected)
    assert parallelism > 1 or results == expected


def test_one_function_per_stream_says_the_key(engine: Engine) -> None:
    graph = Graph()
    left, right = from_batch(graph, ["a1", "b2"]), from_batch(graph, ["2b", "1a"])
    left.connect(right).keyby([lambda x: x[0], lambda x: x[1]]).join().collect()

    assert Run(engine, graph)() == [("a1", "1a"), ("b2", "2b")]


def test_a_join_with_a_broadcast_stream_matches_everything_once(engine: Engine) -> None:
    graph = Graph()
    left, right = from_batch(graph, range(100)), from_batch(graph, range(10))
    keyed = left.connect(right).keyby(lambda x: x % 10, strategy=("hash", "broadcast"))
    keyed.join(parallelism=3).collect()

    assert sorted(Run(engine, graph)()) == sorted((x, x % 10) for x in range(100))


def test_a_join_of_a_stream_with_itself_ends(engine: Engine) -> None:
    graph = Graph()
    stream = from_batch(graph, range(5000))
    stream.connect(stream.map(lambda x: -x)).keyby(abs).join().collect()

    assert Run(engine, graph)() == [(x, -x) for x in range(5000)]


def test_joins_that_take_two_streams_crosswise_end(engine: Engine) -> None:
    graph = Graph()
    a, b = from_batch(graph, range(3000)).keyby(abs), from_batch(graph, range(3000)).keyby(abs)
    a.connect(b).join().collect()
    b.connect(a).join().collect()

    assert Run(engine, graph)() == [[(x, x) for x in range(3000)]] * 2


def test_streams_without_end_join_within_a_window(engine: Engine) -> None:
    """Whichever comes first: each pair is found when its second record comes."""
    lefts, rights = iter([10, 20, 21, 30]), iter([0, 1])
    results: list[Any] = []
    done = threading.Event()

    def take(record: Any) -> None:
        results.append(record)
        if len(results) == 4:
            done.set()

    graph = Graph()
    left, right = from_source(graph, lambda: next(lefts, None)), from_source(graph, lambda: next(rights, None))
    left.connect(right).keyby(lambda x: x % 10).join(window_records=100).sink(take)
    run = Run(engine, graph)
    thread = run.start()
    assert done.wait(DEADLINE_S)
    run.control.drain()

    assert ended(thread)
    assert run.error is None
    assert sorted(results) == [(10, 0), (20, 0), (21, 1), (30, 0)]


class Pairs(JoinFunction):
    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.kept: dict[tuple[int, Any], list[Any]] = {}

    def execute(self, payload: Any, key: Any, tag: int) -> list[Any] | None:
        self.kept.setdefault((tag, key), []).append(payload)
        found = [(payload, other) for other in self.kept.get((1 - tag, key), ())]
        return [f"{self.mark}{a}{b}" for a, b in (sorted(pair) for pair in found)] or None


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_join_function_gets_payload_key_and_tag(engine: Engine, parallelism: int) -> None:
    graph = Graph()
    streams = from_batch(graph, ["a1", "b1", "a2"]).connect(from_batch(graph, ["x1", "y2"]))
    streams.keyby(lambda text: text[1]).join(Pairs, mark=":", parallelism=parallelism).collect()

    assert sorted(Run(engine, graph)()) == [":a1x1", ":a2y2", ":b1x1"]


def test_comap_has_a_method_per_stream(engine: Engine) -> None:
    class Apart(CoMapFunction):
        def __init__(self, sign: str) -> None:
            self.sign = sign

        def map0(self, record: int) -> str:
            return f"first {self.sign} {record}"

        def map1(self, record: int) -> str:
            return f"second {self.sign} {record}"

    graph = Graph()
    streams = from_batch(graph, range(3)).connect(from_batch(graph, range(2)))
    streams.comap(Apart, sign="is").collect()
    streams.comap(str, float).collect()
    first, second = Run(engine, graph)()

    assert sorted(first) == ["first is 0", "first is 1", "first is 2", "second is 0", "second is 1"]
    assert [x for x in first if "first" in x] == ["first is 0", "first is 1", "first is 2"]
    assert sorted(second, key=repr) == ["0", "1", "2", 0.0, 1.0]


def test_connected_streams_go_on_as_one(engine: Engine) -> None:
    graph = Graph()
    a, b, c = (from_batch(graph, [n, n + 10]) for n in range(3))
    a.connect(b, c).filter(lambda x: x != 11).map(str).collect()
    results = Run(engine, graph)()

    assert sorted(results) == ["0", "1", "10", "12", "2"]
    assert results.index("0") < results.index("10")


# -- feedback and unbounded sources ------------------------------------------------------------------------


def test_feedback_ends_when_nothing_is_on_its_way(engine: Engine) -> None:
    graph = Graph()
    future = from_future(graph, "again")
    steps = from_batch(graph, [5, 0, 9]).connect(future).map(lambda x: x - 1, parallelism=2)
    steps.filter(lambda x: x > 0).fill_future(future)
    steps.filter(lambda x: x <= 0).collect()

    assert sorted(Run(engine, graph)()) == [-1, 0, 0]


def test_feedback_that_multiplies_ends(engine: Engine) -> None:
    """A walk over a tree: more comes back than came."""
    graph = Graph()
    future = from_future(graph)
    nodes = from_batch(graph, [1]).connect(future).map(lambda n: n)
    nodes.flatmap(lambda n: [c for c in (2 * n, 2 * n + 1) if c < 2000]).fill_future(future)
    nodes.collect()

    assert sorted(Run(engine, graph)()) == list(range(1, 2000))


def test_feedback_into_a_join_ends(engine: Engine) -> None:
    """What the join keeps of its second stream is not on its way."""
    graph = Graph()
    future = from_future(graph)
    halves = from_batch(graph, [40, 9]).connect(future).map(lambda x: x // 2)
    halves.filter(lambda x: x > 5).fill_future(future)
    names = from_batch(graph, [(20, "twenty"), (5, "five")])
    halves.connect(names).keyby(lambda x: x, lambda row: row[0]).join(lambda x, row: row[1]).collect()
    run = Run(engine, graph)

    assert sorted(run()) == ["five", "twenty"]
    assert run.progress.completed == 4


def test_a_source_without_end_goes_on_until_it_is_stopped(engine: Engine) -> None:
    class Ticks(SourceFunction):
        def __init__(self, start: int) -> None:
            self.calls = start

        def execute(self) -> int | None:
            self.calls += 1
            return self.calls if self.calls % 3 else None

    seen = threading.Event()
    results: list[int] = []

    def take(record: int) -> None:
        results.append(record)
        if record > 50:
            seen.set()

    graph = Graph()
    from_source(graph, Ticks, 0).map(lambda x: x).sink(take)
    run = Run(engine, graph)
    thread = run.start()
    assert seen.wait(DEADLINE_S)
    run.control.drain()

    assert ended(thread)
    assert run.error is None
    assert results == [n for n in range(1, results[-1] + 1) if n % 3]
    assert run.snapshot.completed == run.snapshot.records == len(results)


@pytest.mark.parametrize("form", ["class", "function", "generator"])
def test_stop_iteration_ends_a_source_without_end(engine: Engine, form: str) -> None:
    class Three(SourceFunction):
        def __init__(self) -> None:
            self.left = [3, None, 2, 1]

        def execute(self) -> int | None:
            if not self.left:
                raise StopIteration
            return self.left.pop()

    three = Three()

    def function() -> int | None:
        return three.execute()

    def generator() -> Iterator[int | None]:
        yield from (1, 2, None, 3)

    graph = Graph()
    from_source(graph, {"class": Three, "function": function, "generator": generator}[form]).collect()

    assert Run(engine, graph)() == [1, 2, 3]


def test_pipelines_without_end_run_beside_the_others(engine: Engine) -> None:
    ticks = iter(range(10**9))
    first, second = list[int](), list[int]()
    done = threading.Event()
    graph = Graph()
    from_source(graph, lambda: next(ticks)).sink(first.append)
    from_source(graph, lambda: None).sink(second.append)
    from_batch(graph, range(100)).map(str).sink(lambda text: done.set() if text == "99" else None)
    run = Run(engine, graph)
    thread = run.start()
    assert done.wait(DEADLINE_S)
    run.control.drain()

    assert ended(thread)
    assert run.error is None
    assert first[:3] == [0, 1, 2]
    assert second == []


# -- ends --------------------------------------------------------------------------------------------------


def shapes() -> dict[str, Callable[[Graph, Any, Any], None]]:
    def parallel(graph: Graph, source: Any, function: Any) -> None:
        from_batch(graph, source).map(function, parallelism=3).filter(lambda x: True).sink(lambda x: None)

    def branched(graph: Graph, source: Any, function: Any) -> None:
        stream = from_batch(graph, source)
        stream.sink(lambda x: time.sleep(0.001))
        stream.map(function).sink(lambda x: None)

    def keyed(graph: Graph, source: Any, function: Any) -> None:
        from_batch(graph, source).keyby(lambda x: x % 5).map(function, parallelism=2).sink(lambda x: None)

    def joined(graph: Graph, source: Any, function: Any) -> None:
        left = from_batch(graph, source).map(function)
        left.connect(from_batch(graph, [1, 2])).keyby(lambda x: x % 3).join().sink(lambda x: None)

    return {"parallel": parallel, "branched": branched, "keyed": keyed, "joined": joined}


@pytest.mark.parametrize("order", [Control.cancel, Control.drain])
@pytest.mark.parametrize("shape", shapes())
def test_an_order_ends_all_stages_and_leaves_no_thread(
    engine: Engine, shape: str, order: Callable[[Control], None]
) -> None:
    seen = threading.Event()

    def function(record: int) -> int:
        if record >= 20:
            seen.set()
        return record

    graph = Graph()
    shapes()[shape](graph, range(10**9), function)
    run = Run(engine, graph)
    thread = run.start()
    assert seen.wait(DEADLINE_S)
    order(run.control)

    assert ended(thread)
    assert run.error is None
    assert our_threads() == []


@pytest.mark.parametrize("shape", ["parallel", "keyed"])
def test_a_drain_finishes_what_was_taken(engine: Engine, shape: str) -> None:
    seen = threading.Event()

    def function(record: int) -> int:
        if record >= 500:
            seen.set()
        return record

    graph = Graph()
    shapes()[shape](graph, range(10**9), function)
    run = Run(engine, graph)
    thread = run.start()
    assert seen.wait(DEADLINE_S)
    run.control.drain()
    assert ended(thread)

    taken = run.counts[0][2]
    assert all(into == taken and not errors for _, into, _, errors in run.counts[1:])
    assert run.snapshot.completed == taken


@pytest.mark.parametrize("shape", shapes())
def test_a_failure_in_one_stage_ends_the_others(engine: Engine, shape: str) -> None:
    error = ValueError("bad")

    def function(record: int) -> int:
        if record == 777:
            raise error
        return record

    graph = Graph()
    shapes()[shape](graph, range(10**9), function)
    run = Run(engine, graph)
    thread = run.start()

    assert ended(thread)
    assert run.error is error
    assert our_threads() == []
    suffix = " of operator 'source' (range)" if shape == "joined" else ""
    assert notes(error) == [f"operator 'map' (function), record 777{suffix}"]


def test_the_index_is_that_of_the_source_behind_filters_flatmaps_and_hops(engine: Engine) -> None:
    graph = Graph()
    stream = from_batch(graph, range(1000)).filter(lambda x: x % 2).flatmap(lambda x: [x, x], parallelism=2)
    stream.keyby(lambda x: x % 7).filter(lambda x: x % 3, parallelism=3).map(lambda x: 1 // (x - 731)).collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'map' (<lambda>), record 731"]


def test_behind_a_join_the_index_is_that_of_the_operators_record(engine: Engine) -> None:
    graph = Graph()
    streams = from_batch(graph, range(100, 200)).connect(from_batch(graph, range(150, 300)))
    streams.keyby(lambda x: x).join(lambda a, b: a).map(lambda x: 1 // (x - 155)).collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'map' (<lambda>), record 5"]


def test_a_key_that_is_not_hashable_says_so(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [[1]]).keyby(lambda x: x, name="whole").map(lambda x: x, parallelism=2).collect()
    error = Run(engine, graph).fail()

    assert isinstance(error, TypeError)
    assert notes(error) == [
        "operator 'whole' (<lambda>), record 0: its key [1] is not hashable; return a text, a number or a tuple"
    ]


def test_a_failing_source_ends_the_stages_behind_it(engine: Engine) -> None:
    def numbers() -> Iterator[int]:
        yield from range(100)
        raise OSError("disk")

    graph = Graph()
    from_batch(graph, numbers).map(lambda x: x, parallelism=2).collect()

    assert notes(Run(engine, graph).fail()) == ["operator 'source' (numbers), record 100"]
    assert our_threads() == []


def test_a_failing_open_in_one_stage_lets_no_record_begin(engine: Engine) -> None:
    class Broken(SinkFunction):
        def open(self) -> None:
            raise OSError("no file")

        def execute(self, record: int) -> None:
            raise AssertionError

    class Numbers(BatchFunction):
        def execute(self) -> int:
            raise AssertionError("a record was read")

    graph = Graph()
    from_batch(graph, Numbers).map(lambda x: x, parallelism=2).sink(Broken)
    error = Run(engine, graph).fail()

    assert isinstance(error, OSError)
    assert notes(error) == ["operator 'sink' (Broken), in open()"]


def test_all_replicas_are_closed_after_a_failure(engine: Engine) -> None:
    closed: list[str] = []

    class Tag(FlatMapFunction):
        def execute(self, record: int) -> list[int]:
            if record == 50:
                raise ValueError
            return [record]

        def close(self) -> None:
            closed.append(self.name)

    graph = Graph()
    from_batch(graph, range(100)).flatmap(Tag, parallelism=3).flatmap(Tag, name="last").collect()
    Run(engine, graph).fail()

    assert sorted(closed) == ["flatmap"] * 3 + ["last"]


def test_an_interrupt_while_waiting_for_the_stages_ends_them(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [1]).map(interrupted, parallelism=2).collect()
    error = Run(engine, graph).fail()

    assert isinstance(error, KeyboardInterrupt)
    assert our_threads() == []


def interrupted(record: int) -> int:
    raise KeyboardInterrupt


def test_completed_counts_what_is_through_in_order(engine: Engine) -> None:
    reached, go_on = threading.Event(), threading.Event()
    results: list[int] = []

    def waits(record: int) -> int:
        if record == 100:
            reached.set()
            assert go_on.wait(DEADLINE_S)
        return record

    graph = Graph()
    from_batch(graph, range(200)).map(waits, parallelism=2, ordered=False).sink(results.append)
    run = Run(engine, graph)
    thread = run.start()
    assert reached.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while max(results) < 101 and time.monotonic() < deadline:  # later ones pass it
        time.sleep(0.01)
    completed = run.progress.completed

    assert completed <= 100
    assert set(range(completed)) <= set(results)
    go_on.set()
    assert ended(thread)
    assert run.progress.completed == 200
