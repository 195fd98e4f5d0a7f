"""The local engine against plain loops that call the same functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autostop_lab.dataflow import Control, Graph, Progress, from_batch
from autostop_lab.engines import LocalEngine
from tests.benchmarks.registry import Result, benchmark, compare


def increment(x: int) -> int:
    return x + 1


def is_even(x: int) -> bool:
    return x % 2 == 0


def double(x: int) -> int:
    return x * 2


def pair(x: int) -> tuple[int, int]:
    return x, x


def no_services(name: str) -> Any:
    raise LookupError(name)


def run(graph: Graph) -> None:
    pipelines = graph.pipelines()
    LocalEngine().run(pipelines, control=Control(), progress=Progress(pipelines), services=no_services)


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

    def chain() -> None:
        results: list[int] = []
        graph = Graph()
        from_batch(graph, range(n)).map(increment).filter(is_even).map(double).sink(results.append)
        run(graph)

    def nested() -> None:
        results: list[int] = []
        graph = Graph()
        from_batch(graph, range(n // 2)).flatmap(pair).map(double).sink(results.append)
        run(graph)

    return [
        compare(
            "map, filter, map, sink / plain loop",
            chain,
            lambda: plain_loop(n, increment, is_even, double),
            n=n,
        ),
        compare("flatmap, map, sink / plain loop", nested, lambda: plain_nested_loop(n // 2, pair, double), n=n),
    ]
