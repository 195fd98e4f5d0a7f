"""The local engine against plain loops that call the same functions, and beside other libraries."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from autostop_lab import LocalEnvironment, Service
from autostop_lab.dataflow import Control, Graph, Progress, from_batch
from autostop_lab.engines import LocalEngine
from tests.benchmarks.registry import Result, benchmark, compare, seconds

#: An interpreter that has bytewax, dask and streamz installed.
PEERS_PYTHON = "AUTOSTOP_LAB_PEERS_PYTHON"
#: How often somebody looks at the progress while it is measured, in seconds.
LOOK_EVERY_S = 0.1


def increment(x: int) -> int:
    return x + 1


def is_even(x: int) -> bool:
    return x % 2 == 0


def double(x: int) -> int:
    return x * 2


def pair(x: int) -> tuple[int, int]:
    return x, x


def forget(x: int) -> None:
    pass


def no_services(name: str) -> Any:
    raise LookupError(name)


def run(graph: Graph, *, looks: bool = False) -> None:
    """Run a graph; with looks at its progress meanwhile, as a panel takes them."""
    pipelines = graph.pipelines()
    progress = Progress(pipelines)
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            progress.snapshot()

    looker = threading.Thread(target=look)
    if looks:
        looker.start()
    LocalEngine().run(pipelines, control=Control(), progress=progress, services=no_services)
    over.set()
    if looks:
        looker.join()


def plain_loop(
    n: int, add: Callable[[int], int], keep: Callable[[int], bool], scale: Callable[[int], int]
) -> list[int]:
    results: list[int] = []
    take = results.append
    for x in range(n):
        y = add(x)
        if keep(y):
            take(scale(y))
    return results


def plain_nested_loop(n: int, spread: Callable[[int], tuple[int, int]], scale: Callable[[int], int]) -> list[int]:
    results: list[int] = []
    take = results.append
    for x in range(n):
        for y in spread(x):
            take(scale(y))
    return results


@benchmark
def pipeline() -> list[Result]:
    """Trivial functions, so that nothing but the engine is measured."""
    n = 1_000_000

    def chain(**options: Any) -> Callable[[], None]:
        def work() -> None:
            results: list[int] = []
            graph = Graph()
            stream = from_batch(graph, range(n)).map(increment, **options).filter(is_even, **options)
            stream.map(double, **options).sink(results.append)
            run(graph, looks=True)
            assert len(results) == n // 2

        return work

    def nested() -> None:
        results: list[int] = []
        graph = Graph()
        from_batch(graph, range(n // 2)).flatmap(pair).map(double).sink(results.append)
        run(graph, looks=True)

    def plain() -> None:
        plain_loop(n, increment, is_even, double)

    return [
        compare("map, filter, map, sink / plain loop", chain(), plain, n=n),
        compare("the same, on_error='skip' / plain loop", chain(on_error="skip"), plain, n=n),
        compare("flatmap, map, sink / plain loop", nested, lambda: plain_nested_loop(n // 2, pair, double), n=n),
    ]


@benchmark
def stages() -> list[Result]:
    """What a change of threads costs where the functions cost nothing."""
    n = 1_000_000

    def parallel() -> None:
        graph = Graph()
        stream = from_batch(graph, range(n)).map(increment, parallelism=2).filter(is_even, parallelism=2)
        stream.map(double, parallelism=2).sink(forget)
        run(graph)

    def branched() -> None:
        graph = Graph()
        stream = from_batch(graph, range(n)).map(increment).filter(is_even)
        stream.map(double).sink(forget)
        stream.sink(forget)
        run(graph)

    def keyed() -> None:
        graph = Graph()
        from_batch(graph, range(n)).keyby(lambda x: x % 1000).map(increment, parallelism=2).sink(forget)
        run(graph)

    def joined() -> None:
        graph = Graph()
        left, right = from_batch(graph, range(n)), from_batch(graph, range(1000))
        left.connect(right).keyby(lambda x: x % 1000).join().sink(forget)
        run(graph)

    def plain() -> None:
        plain_loop(n, increment, is_even, double)

    return [
        compare("2 replicas, in order / plain loop", parallel, plain, n=n, repeats=5),
        compare("two branches / plain loop", branched, plain, n=n, repeats=5),
        compare("keyby, 2 replicas / plain loop", keyed, plain, n=n, repeats=5),
        compare("join of 1 M with 1,000 / plain loop", joined, plain, n=n, repeats=5),
    ]


@benchmark
def flat_memory() -> list[Result]:
    """What 10 M records through three stages need in memory, against 0.1 M."""
    process = psutil.Process(os.getpid())

    def peak_growth(n: int) -> float:
        gc.collect()
        before = peak = process.memory_info().rss
        over = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.01):
                peak = max(peak, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        graph = Graph()
        from_batch(graph, range(n)).map(increment).filter(is_even, parallelism=2).map(double).sink(forget)
        run(graph)
        over.set()
        watcher.join()
        return (peak - before) / 2**20

    peak_growth(100_000)
    small = peak_growth(100_000)
    began_s = time.perf_counter()
    large = peak_growth(10_000_000)
    took_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    for x in range(10_000_000):
        if is_even(increment(x)):
            forget(double(x))
    plain_s = time.perf_counter() - began_s
    what = f"10 M records grow memory by {large:.1f} MiB (0.1 M: {small:.1f})"
    return [Result(what, took_s, plain_s, took_s / plain_s, 10_000_000, 1)]


@benchmark
def waiting() -> list[Result]:
    """10 ms of waiting per record with 8 replicas, in order, against an eighth of the plain loop."""
    n, replicas = 800, 8

    def wait(x: int) -> int:
        time.sleep(0.01)
        return x

    def serial() -> float:
        began_s = time.perf_counter()
        for x in range(n // replicas):
            wait(x)
        return time.perf_counter() - began_s

    def parallel() -> float:
        results: list[int] = []
        graph = Graph()
        from_batch(graph, range(n)).map(wait, parallelism=replicas).sink(results.append)
        began_s = time.perf_counter()
        run(graph)
        assert results == list(range(n))
        return time.perf_counter() - began_s

    pairs = [(serial(), parallel()) for _ in range(3)]
    ratio = median(took_s / ideal_s for ideal_s, took_s in pairs)
    return [
        Result(
            f"10 ms of I/O, parallelism=8: {8 / ratio:.2f} of 8 times",
            median(took_s for _, took_s in pairs), median(ideal_s for ideal_s, _ in pairs), ratio, n, len(pairs),
        )
    ]  # fmt: skip


def count_down(x: int) -> int:
    """Need the processor for about a millisecond."""
    left = 20_000
    while left:
        left -= 1
    return x


@benchmark
def working() -> list[Result]:
    """A millisecond of CPU per record in 2 processes, their start included, against half of the plain loop."""
    n, replicas = 4000, 2

    def parallel() -> None:
        results: list[int] = []
        graph = Graph()
        from_batch(graph, range(n)).map(count_down, parallelism=replicas, runtime="process").sink(results.append)
        run(graph)
        assert results == list(range(n))

    def half() -> None:
        for x in range(n // replicas):
            count_down(x)

    result = compare("1 ms of CPU, 2 processes / half the plain loop", parallel, half, n=n, repeats=3)
    return [result]


class Echo(Service):
    """Answers with what it gets."""

    def echo(self, value: int) -> int:
        return value


@benchmark
def call_per_record() -> list[Result]:
    """A call of a thread service for each record, against the same function called directly."""
    n = 20_000
    env = LocalEnvironment("calls per record")
    handle = env.register_service("echo", Echo)
    direct = Echo().echo

    def job(function: Callable[[int], int]) -> Callable[[], None]:
        def work() -> None:
            env.from_batch(range(n)).map(function).sink(forget)
            env.submit(autostop=True)

        return work

    through, plain = job(handle.echo), job(direct)
    plain(), through()
    pairs = [(seconds(plain), seconds(through)) for _ in range(60)]
    env.close()
    plain_s, through_s = (min(times) for times in zip(*pairs, strict=True))
    what = f"a service call per record: {(through_s - plain_s) / n * 1e6:.2f} us over the direct one (best of 60)"
    return [Result(what, through_s, plain_s, through_s / plain_s, n, len(pairs))]


@benchmark
def peers() -> list[Result]:
    """The same pipeline in other libraries, where an interpreter that has them is named."""
    python = os.environ.get(PEERS_PYTHON)
    if not python:
        print(f"(other libraries: set {PEERS_PYTHON} to an interpreter that has bytewax, dask and streamz)")
        return []
    program = str(Path(__file__).with_name("peers.py"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, program], env=environment, capture_output=True, text=True, check=True)
    return [Result(what=f"{name} / plain loop", **row) for name, row in json.loads(done.stdout).items()]
