"""Run benchmarks and print a table of ratios: ``python -m tests.benchmarks [name ...]`` from the repository's root."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from tests.benchmarks.registry import REGISTRY, Result, load

ROW = "{:<44}  {:>12}  {:>12}  {:>6}  {:>9}"


def duration(value_s: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value_s * scale >= 1:
            return f"{value_s * scale:.3g} {unit}"
    return f"{value_s * 1e9:.3g} ns"


def installed(package: str) -> str:
    """Return a package's version, or what is known instead."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed, from the working copy"


def row(result: Result) -> str:
    """Return one line of the table."""
    return ROW.format(
        result.what,
        duration(result.median_s),
        duration(result.baseline_s),
        f"{result.ratio:.2f}",
        result.n,
    )


def main() -> None:
    """Run the benchmarks that the command line names, all without names."""
    load()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of: {', '.join(REGISTRY)}")
    names = parser.parse_args().names or list(REGISTRY)
    if unknown := set(names) - set(REGISTRY):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(REGISTRY)}")
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"autostop_lab {installed('autostop_lab')}; load over 1, 5, 15 minutes: {loads}")
    print("ratio: median over pairs of runs, the baseline right before the thing; lower is better.\n")
    print(ROW.format("what", "median", "baseline", "ratio", "n"))
    for name in names:
        for result in REGISTRY[name]():
            print(row(result), flush=True)


if __name__ == "__main__":
    main()
