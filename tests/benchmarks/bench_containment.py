"""What it costs to contain a program: from its launch until all of it is gone."""

from __future__ import annotations

from collections.abc import Callable

from autostop_lab import Command, ServiceManager
from autostop_lab.services.containment import problem_with
from tests.benchmarks.registry import Result, benchmark, compare

LIVES = 20


@benchmark
def containment() -> list[Result]:
    """Start and stop of a small program that is contained, vs one that is not (``signs``)."""

    def lives(contain: str) -> Callable[[], None]:
        def start_and_stop() -> None:
            with ServiceManager("lives") as manager:
                handle = manager.add("one", Command, ["sleep", "1000"], contain=contain)
                for _ in range(LIVES):
                    handle.start()
                    handle.stop()

        return start_and_stop

    return [
        compare(f"{kind} vs signs, per {LIVES} lives", lives(kind), lives("signs"), n=LIVES)
        for kind in ("subreaper", "cgroup")
        if not problem_with(kind)
    ]
