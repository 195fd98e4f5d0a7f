"""What supervision costs: a thousand services, and ten thousand lives of one."""

from __future__ import annotations

import gc
import os
import threading
import time

import psutil

from autostop_lab import Health, Restart, Service, ServiceManager, ServicePolicy
from tests.benchmarks.registry import Result, benchmark

SERVICES = 1000
LOOK_S = 5.0
LIVES = 10_000


class Well(Service):
    """Is always well."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def health_check(self) -> bool:
        return True


class Mortal(Well):
    """Dies after a while."""

    def run(self) -> None:
        if not self.stopping.wait(0.5):
            raise OSError("it happens")


def thread_starts_and_joins(number: int) -> float:
    """Return the seconds that bare threads take to start, wait for one event, and end."""
    go = threading.Event()
    began = time.perf_counter()
    threads = [threading.Thread(target=go.wait) for _ in range(number)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


@benchmark
def a_thousand_services() -> list[Result]:
    """Start and stop of 1,000 services, 100 of them crashing, health checks each second; and what they cost idle."""
    policy = ServicePolicy(health=Health(interval_s=1.0), restart=Restart(max_restarts=2))
    with ServiceManager("a thousand") as manager:
        for number in range(SERVICES):
            manager.add(f"s{number}", Mortal if number % 10 == 0 else Well, policy=policy)
        threads_before = threading.active_count()
        began = time.perf_counter()
        manager.start_all()
        start_s = time.perf_counter() - began
        time.sleep(6.0)  # those that crash have given up
        own = sum(1 for thread in threading.enumerate() if thread.name.startswith("autostop-lab: service"))
        beyond = threading.active_count() - threads_before - own
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        time.sleep(LOOK_S)
        cpu_s, wall_s = time.process_time() - cpu_before, time.perf_counter() - wall_before
        began = time.perf_counter()
        manager.stop_all()
        total_s = start_s + time.perf_counter() - began
    bare_s = thread_starts_and_joins(SERVICES)
    return [
        Result("start + stop of all, vs as many bare threads", total_s, bare_s, total_s / bare_s, SERVICES, 1),
        Result(
            f"their CPU while idle, vs a core ({beyond} threads of ours)", cpu_s, wall_s, cpu_s / wall_s, SERVICES, 1
        ),
    ]


@benchmark
def ten_thousand_lives() -> list[Result]:
    """10,000 start/stop cycles of one service; memory, threads and open files before and after."""
    process = psutil.Process(os.getpid())

    def belongings() -> tuple[int, int, int]:
        gc.collect()
        return process.memory_info().rss // 2**20, threading.active_count(), process.num_fds()

    with ServiceManager("lives") as manager:
        handle = manager.add("one", Well)
        for _ in range(500):
            handle.start()
            handle.stop()
        before = belongings()
        began = time.perf_counter()
        for _ in range(LIVES):
            handle.start()
            handle.stop()
        lives_s = time.perf_counter() - began
        after = belongings()
    bare_s = thread_starts_and_joins(LIVES // 10) * 10
    grown = ", ".join(f"{what} {b}->{a}" for what, b, a in zip(("MiB", "threads", "files"), before, after, strict=True))
    return [Result(f"start + stop, vs a bare thread ({grown})", lives_s, bare_s, lives_s / bare_s, LIVES, 1)]
