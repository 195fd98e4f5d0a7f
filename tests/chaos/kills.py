"""``python -m tests.chaos.kills [ROUNDS] [PROGRAMS]``: how long what an owner has left lives on after its SIGKILL.

For each phase in which it is killed: seconds until the last of its processes is dead, and how many were left.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.owners import Owner, close
from tests.chaos.world import numbers_in, running

#: Phases in which an owner of a fleet is killed.
PHASES = ("idle", "job", "first launch", "start", "stop", "restart")
PATIENCE_S = 30.0


def come_to(owner: Owner, phase: str, count: int) -> None:
    """Wait until the owner of a fleet is in the phase that it was to come to."""
    if phase in ("idle", "stop"):
        owner.said("there")
    elif phase == "job":
        owner.said("working")
    elif phase == "first launch":
        numbers_in(owner.folder / "pids")  # nothing of it was there before, no reaper either
    else:
        numbers_in(owner.folder / "pids", count // 2 if phase == "start" else count + 6)


def measure(phase: str, rounds: int, count: int) -> None:
    delays, seconds, left = random.Random(phase), [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            owner = Owner("fleet", Path(folder, "owner"), {"phase": phase, "count": count, "deaf": 0})
            try:
                come_to(owner, phase, count)
                time.sleep(delays.uniform(0, 0.1))
                pids = owner.left()
                began = owner.kill()
                while (alive := running(pids)) and time.monotonic() < began + PATIENCE_S:
                    time.sleep(0.002)
                seconds.append(time.monotonic() - began)
                owner.wait()
                left += len(alive) + len(owner.left())
            finally:
                close([owner], set())
    middle, longest = statistics.median(seconds), max(seconds)
    print(f"{phase:8} {rounds} times {count} programs: median {middle:.3f} s, longest {longest:.3f} s, left {left}")


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    rounds, count = [*given, 20, 100][:2] if len(given) != 1 else (given[0], 100)
    os.environ.setdefault("AUTOSTOP_LAB_SESSION", f"kills-{os.getpid()}")
    for phase in PHASES:
        measure(phase, rounds, count)


if __name__ == "__main__":
    main()
