"""What the live view costs: of a core, of the channel to the front end, and of the job that it shows."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from dataclasses import replace
from typing import Any

from autostop_lab import LocalEnvironment, Service
from autostop_lab.diagrams import PAGE, fleet_svg
from autostop_lab.events import ServiceMoved
from autostop_lab.job.job import Job
from autostop_lab.jupyter.panel.panel import Panel
from autostop_lab.jupyter.panel.publisher import Publisher
from autostop_lab.jupyter.panel.regions import UPDATE_S
from autostop_lab.jupyter.panel.sources import JobSource
from autostop_lab.lifecycle import ServiceState
from tests.benchmarks.registry import Result, benchmark, seconds
from tests.diagrams.pictures import FULL

SERVICES, MOVES_PER_S, LOOK_S = 10, 50, 5.0
ALLOWED_BYTES_PER_S = 150_000
RECORDS, PAIRS = 4_000_000, 7
#: Odd, so that the last move is one whose reason is shown.
BURST = 20_001


class Store(Service):
    """Does nothing."""


class Channel:
    """Stands where the front end listens: counts what is sent to it, made ready to be sent as a kernel does."""

    def __init__(self) -> None:
        from jupyter_client.session import Session

        self._session = Session(key=b"key")
        self.comm_id = "a"
        self.sent_bytes, self.messages, self.last = 0, 0, ""

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        message = self._session.msg("comm_msg", {"comm_id": "a", "data": data})
        self.sent_bytes += sum(map(len, self._session.serialize(message)))
        self.messages += 1

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Send nothing more."""

    def on_msg(self, callback: Any) -> None:
        """Never say anything."""


class LivePanel:
    """A panel of a job whose widgets all send into one channel."""

    def __init__(self, job: Job) -> None:
        from ipywidgets import Widget

        self.channel = Channel()
        former, Widget.open = Widget.open, lambda widget: setattr(widget, "comm", self.channel)
        try:
            self.panel = Panel(None, JobSource(job))
        finally:
            Widget.open = former
        self.ends = threading.Event()

    def tick(self) -> bool:
        self.panel.draw()
        return not self.ends.is_set()


def busy_job() -> tuple[LocalEnvironment, Job, threading.Event]:
    """A job with services that do nothing, until the event is set."""
    env = LocalEnvironment("busy")
    for number in range(SERVICES):
        env.register_service(f"service-{number}", Store)
    end = threading.Event()
    env.run(end.wait)
    job = env.submit(autostop=True, wait=False)
    while job.state != "running":
        time.sleep(0.01)
    return env, job, end


def move(job: Job, name: str, number: int) -> None:
    """Let a service move on, as its supervisor tells it."""
    source, target = ServiceState.RUNNING, ServiceState.UNHEALTHY
    if number % 2:
        source, target = target, source
    slot = job.slots[name]
    slot.publish(target, f"number {number}", slot.endpoint)
    job.bus.publish(ServiceMoved(service=name, source=source, target=target, trigger="probe ok", why="it is so"))


def thread_seconds(thread: threading.Thread) -> float:
    """CPU seconds that a thread has used."""
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


@benchmark
def view_of_a_busy_fleet() -> list[Result]:
    """Ten services that move 50 times a second: CPU of the view against a core, bytes against 150 KB/s."""
    env, job, end = busy_job()
    publisher = Publisher()
    live = LivePanel(job)
    publisher.add(live)
    thread = publisher._thread
    assert thread is not None
    time.sleep(0.5)
    cpu_s, sent, began_s = thread_seconds(thread), live.channel.sent_bytes, time.perf_counter()
    number = 0
    while time.perf_counter() - began_s < LOOK_S:
        for name in job.slots:
            move(job, name, number)
        number += 1
        time.sleep(max(0.0, began_s + number / MOVES_PER_S - time.perf_counter()))
    wall_s = time.perf_counter() - began_s
    cpu_s, sent = thread_seconds(thread) - cpu_s, live.channel.sent_bytes - sent
    live.ends.set()
    end.set()
    job.wait()
    env.close()
    thread.join()
    moves = number * SERVICES
    at_limit_s = sent / ALLOWED_BYTES_PER_S
    return [
        Result("CPU of the view of 10 busy services, vs a core", cpu_s, wall_s, cpu_s / wall_s, moves, 1),
        Result(f"its {sent / wall_s / 1e3:.0f} KB/s, vs 150 KB/s", at_limit_s, wall_s, at_limit_s / wall_s, moves, 1),
    ]


@benchmark
def view_of_a_burst() -> list[Result]:
    """20,000 moves as fast as they come: the last state is shown, and the messages are bounded."""
    env, job, end = busy_job()
    publisher = Publisher()
    live = LivePanel(job)
    publisher.add(live)
    thread = publisher._thread
    assert thread is not None
    before, began_s = live.channel.messages, time.perf_counter()
    for number in range(BURST):
        move(job, "service-3", number)
    burst_s = time.perf_counter() - began_s
    while f"number {BURST - 1}" not in live.panel._regions["fleet"].widget.value:
        time.sleep(0.01)
    wall_s = time.perf_counter() - began_s
    messages = live.channel.messages - before
    allowed = 8 * (wall_s / UPDATE_S + 2)
    live.ends.set()
    end.set()
    job.wait()
    env.close()
    thread.join()
    return [
        Result("a burst until its last state is shown, vs the burst", wall_s, burst_s, wall_s / burst_s, BURST, 1),
        Result(f"its {messages} messages, vs ten a second and region", messages, allowed, messages / allowed, BURST, 1),
    ]


def run_records(*, with_view: bool) -> float:
    """Run a pipeline, with or without a panel that shows it; return the seconds that the job took."""
    gc.collect()
    env = LocalEnvironment("records")
    for number in range(3):
        env.register_service(f"service-{number}", Store)
    env.from_batch(range(RECORDS)).map(lambda x: x + 1).filter(lambda x: x % 3).sink(lambda x: None)
    publisher, live = Publisher(), None
    job = env.submit(autostop=True, wait=False)
    if with_view:
        live = LivePanel(job)
        publisher.add(live)
    thread = publisher._thread
    job.wait()
    if live is not None and thread is not None:
        live.ends.set()
        thread.join()
    env.close()
    return job.elapsed_s


@benchmark
def throughput_with_view() -> list[Result]:
    """A job with the panel against the same job without it."""
    run_records(with_view=True)
    pairs = []
    for _ in range(PAIRS):
        pairs.append((run_records(with_view=False), run_records(with_view=True)))
    return [
        Result(
            "a job with the panel, vs without",
            statistics.median(took for _, took in pairs),
            statistics.median(base for base, _ in pairs),
            statistics.median(took / base for base, took in pairs),
            RECORDS,
            PAIRS,
        )
    ]


@benchmark
def picture_of_thirty_services() -> list[Result]:
    """The fleet of 30 services with clocks that move, against a millisecond."""
    pictures = [
        tuple(replace(one, since_s=number / 10, cpu_percent=number % 100) for one in FULL.services)
        for number in range(200)
    ]

    def draw() -> None:
        for services in pictures:
            fleet_svg(services, theme=PAGE)

    draw()
    took_s = statistics.median(seconds(draw) / len(pictures) for _ in range(7))
    return [Result("SVG of 30 services, vs 1 ms", took_s, 1e-3, took_s / 1e-3, 30, 7)]


