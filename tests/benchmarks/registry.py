"""What benchmarks there are, and how two ways of doing a thing are compared.

A module ``bench_<subject>.py`` beside this one adds benchmarks with `benchmark`; nothing else is needed.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Does the thing once.
Work = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes
    ----------
    what : str
        What was measured.
    median_s, baseline_s : float
        Medians of the seconds that the thing and its baseline took.
    ratio : float
        Median of the ratios of pairs that ran one right after the other: unlike the ratio of the medians it
        does not mind a machine whose load changes.
    n : int
        How many records, calls or services one run deals with.
    repeats : int
        How many pairs.
    """

    what: str
    median_s: float
    baseline_s: float
    ratio: float
    n: int
    repeats: int


#: Benchmarks by name.
REGISTRY: dict[str, Callable[[], list[Result]]] = {}


def benchmark(function: Callable[[], list[Result]]) -> Callable[[], list[Result]]:
    """Register a function as the benchmark of its name; a decorator."""
    if function.__name__ in REGISTRY:
        raise ValueError(f"benchmark {function.__name__!r} is there already; choose another name")
    REGISTRY[function.__name__] = function
    return function


def load() -> None:
    """Import every ``bench_*.py`` beside this module, which fills `REGISTRY`."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"{__package__}.{path.stem}")


def seconds(work: Work) -> float:
    """Return how long `work` takes once, with garbage of earlier runs out of the way."""
    gc.collect()
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def compare(what: str, work: Work, baseline: Work, *, n: int, repeats: int = 7) -> Result:
    """Measure `work` against `baseline` in interleaved pairs.

    Parameters
    ----------
    what : str
        What is measured.
    work, baseline : callable
        Each does the whole thing once; both run once before anything is measured.
    n : int
        How many records, calls or services one run deals with.
    repeats : int
        How many pairs.

    Returns
    -------
    Result
        The medians.
    """
    seconds(baseline)
    seconds(work)
    pairs = [(seconds(baseline), seconds(work)) for _ in range(repeats)]
    return Result(
        what,
        statistics.median(took_s for _, took_s in pairs),
        statistics.median(base_s for base_s, _ in pairs),
        statistics.median(took_s / base_s for base_s, took_s in pairs),
        n,
        repeats,
    )
