"""The same pipeline in other libraries; run by an interpreter that has some of them. Prints JSON: name -> seconds.

Each is timed right after the plain loop, so that the ratio of the two minds no change of the machine's load.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

RECORDS = 200_000
REPEATS = 3


def increment(x: int) -> int:
    return x + 1


def is_even(x: int) -> bool:
    return x % 2 == 0


def double(x: int) -> int:
    return x * 2


def plain(n: int) -> list[int]:
    out: list[int] = []
    for x in range(n):
        y = increment(x)
        if is_even(y):
            out.append(double(y))
    return out


def bytewax(n: int) -> list[int]:
    op = import_module("bytewax.operators")
    dataflow = import_module("bytewax.dataflow").Dataflow("peer")
    testing = import_module("bytewax.testing")
    out: list[int] = []
    stream = op.input("in", dataflow, testing.TestingSource(range(n), batch_size=1024))
    stream = op.map("double", op.filter("even", op.map("add", stream, increment), is_even), double)
    op.output("out", stream, testing.TestingSink(out))
    testing.run_main(dataflow)
    return out


def dask_bag(n: int) -> list[int]:
    bag = import_module("dask.bag").from_sequence(range(n), npartitions=8)
    result: list[int] = bag.map(increment).filter(is_even).map(double).compute(scheduler="threads")
    return result


def streamz(n: int) -> list[int]:
    stream: Any = import_module("streamz").Stream()
    out: list[int] = []
    stream.map(increment).filter(is_even).map(double).sink(out.append)
    for x in range(n):
        stream.emit(x)
    return out


PEERS: dict[str, tuple[str, Callable[[int], list[int]]]] = {
    "bytewax, batches of 1024": ("bytewax", bytewax),
    "dask.bag, threads": ("dask", dask_bag),
    "streamz": ("streamz", streamz),
}


def seconds(work: Callable[[int], list[int]]) -> float:
    gc.collect()
    started_s = time.perf_counter()
    assert len(work(RECORDS)) == RECORDS // 2
    return time.perf_counter() - started_s


def main() -> None:
    found = {}
    for name, (package, work) in PEERS.items():
        try:
            label = f"{name} ({package} {version(package)})"
            seconds(work)
        except ImportError:
            print(f"{package} is not installed in {sys.prefix}", file=sys.stderr)
            continue
        pairs = [(seconds(plain), seconds(work)) for _ in range(REPEATS)]
        found[label] = {
            "median_s": statistics.median(took_s for _, took_s in pairs),
            "baseline_s": statistics.median(base_s for base_s, _ in pairs),
            "ratio": statistics.median(took_s / base_s for base_s, took_s in pairs),
            "n": RECORDS,
            "repeats": REPEATS,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
