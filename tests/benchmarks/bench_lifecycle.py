"""What a job costs besides its own work: submit, services, cleanup, import."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import median

from autostop_lab import LocalEnvironment, Service
from tests.benchmarks.registry import Result, benchmark, compare

STOP_S = 0.2


class Prompt(Service):
    """Has every hook, and does nothing in them."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def echo(self, value: int) -> int:
        return value


class Slow(Service):
    """Needs a while to stop."""

    def stop(self) -> None:
        time.sleep(STOP_S)


def thread_start_and_join() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


@benchmark
def one_record_job() -> list[Result]:
    """Submit to return, everything clean, of a job with one record and one thread service."""
    env = LocalEnvironment("one record")
    service = env.register_service("prompt", Prompt)
    taken: list[int] = []
    env.from_batch([1]).map(service.echo).sink(taken.append)

    def job() -> None:
        env.submit(autostop=True)

    result = compare(
        "1-record job with a thread service, vs thread start + join", job, thread_start_and_join, n=1, repeats=200
    )
    env.close()
    return [result]


@benchmark
def a_hundred_stops() -> list[Result]:
    """Cleanup of 100 services that each need 0.2 s to stop, against the 0.2 s."""
    env = LocalEnvironment("a hundred")
    for number in range(100):
        env.register_service(f"slow {number}", Slow)

    def start_and_stop() -> float:
        env.start()
        began = time.perf_counter()
        env.stop()
        return time.perf_counter() - began

    times = [start_and_stop() for _ in range(5)]
    env.close()
    time_s = median(times)
    return [Result("stop of 100 services, 0.2 s each, vs 0.2 s", time_s, STOP_S, time_s / STOP_S, 100, len(times))]


def fresh_process(code: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    return run


@benchmark
def import_time() -> list[Result]:
    """``import autostop_lab`` in a fresh process, against one that imports nothing."""
    return [
        compare(
            "python -c 'import autostop_lab', vs python -c pass",
            fresh_process("import autostop_lab"),
            fresh_process("pass"),
            n=1,
            repeats=15,
        )
    ]


@benchmark
def service_call() -> list[Result]:
    """A call through the handle, against the direct call (per 1,000 calls)."""
    env = LocalEnvironment("calls")
    handle = env.register_service("prompt", Prompt)
    env.start()
    direct = Prompt().echo
    through = handle.echo

    def calls(function: Callable[[int], int]) -> Callable[[], None]:
        def run() -> None:
            for number in range(1000):
                function(number)

        return run

    result = compare("calls through a handle, vs direct", calls(through), calls(direct), n=1000, repeats=50)
    env.close()
    return [result]
