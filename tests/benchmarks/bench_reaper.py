"""How soon everything is gone after the owner was killed, and what it costs to be guarded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.registry import Result, benchmark

COUNT = 100
RUNS = 20
GRACE_S = 2.0

OWNER = """
import json, os, subprocess, sys, time
from autostop_lab.reaper.guard import current_guard
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.processes import process

argv, grace_s, count = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
guard = current_guard()
guard.ensure()
pids, times = [], []
for number in range(count):
    instance = guard.session.new_instance("it")
    marker = instance.open_marker()
    child = subprocess.Popen(argv, start_new_session=True, pass_fds=(marker,), stdout=subprocess.PIPE,
                             env={**os.environ, **instance.environment})
    instance.close_marker(marker)
    lease = Lease(instance_id=instance.id, name="it", kind="command", pid=child.pid,
                  started=process(child.pid).started, stop_grace_s=grace_s, folder=str(instance.folder))
    began = time.perf_counter()
    guard.register(lease)
    times.append(time.perf_counter() - began)
    child.stdout.readline()
    pids.append(child.pid)
print(json.dumps({"pids": pids, "times": times}), flush=True)
time.sleep(1000)
"""

OBEYS = ["sh", "-c", "echo up; exec sleep 1000"]
IGNORES = ["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_dead(pids: Sequence[int]) -> None:
    left = list(pids)
    while left:
        left = [pid for pid in left if is_there(pid)]
        time.sleep(0.001)


def seconds_to_die(argv: list[str], grace_s: float, kill: Callable[[int, list[int]], None]) -> tuple[float, float]:
    """Return how long it takes until all programs of an owner are gone, and what a registration took."""
    with tempfile.TemporaryDirectory() as temp:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, json.dumps(argv), str(grace_s), str(COUNT)],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": temp},
        )
        assert owner.stdout is not None
        said = json.loads(owner.stdout.readline())
        began = time.perf_counter()
        kill(owner.pid, said["pids"])
        wait_dead(said["pids"])
        took_s = time.perf_counter() - began
        owner.kill()
        owner.wait()
        owner.stdout.close()
        while list(Path(temp).glob("autostop_lab-*/session-*")):
            time.sleep(0.005)
        return took_s, median(said["times"])


def kill_owner(owner: int, _: list[int]) -> None:
    os.kill(owner, signal.SIGKILL)


def kill_groups(_: int, pids: list[int]) -> None:
    for pid in pids:
        os.killpg(pid, signal.SIGTERM)


@benchmark
def killed_owner() -> list[Result]:
    """SIGKILL of an owner of 100 programs that obey TERM, until all are gone."""
    runs = [seconds_to_die(OBEYS, GRACE_S, kill_owner) for _ in range(RUNS)]
    plain_s = median(seconds_to_die(OBEYS, GRACE_S, kill_groups)[0] for _ in range(5))
    time_s, worst_s, register_s = median(t for t, _ in runs), max(t for t, _ in runs), median(r for _, r in runs)
    return [
        Result("100 gone after SIGKILL of owner, vs TERM by hand", time_s, plain_s, time_s / plain_s, COUNT, RUNS),
        Result("  the worst of 20 runs, vs 1 s", worst_s, 1.0, worst_s, COUNT, RUNS),
        Result("register with the reaper, vs 1 ms", register_s, 1e-3, register_s / 1e-3, 1, RUNS * COUNT),
    ]


@benchmark
def killed_owner_of_the_deaf() -> list[Result]:
    """The same with programs that ignore TERM, against their grace period."""
    times = [seconds_to_die(IGNORES, GRACE_S, kill_owner)[0] for _ in range(RUNS)]
    time_s, worst_s = median(times), max(times)
    return [
        Result("100 that ignore TERM, vs their grace", time_s, GRACE_S, time_s / GRACE_S, COUNT, RUNS),
        Result("  the worst of 20 runs, vs grace + 1 s", worst_s, GRACE_S + 1, worst_s / (GRACE_S + 1), COUNT, RUNS),
    ]
