"""`Job`: the handle of one run of a pipeline, a callable or a cell, with the services it needs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.progress import Progress
from autostop_lab.diagrams import Snapshot, lifecycle_svg
from autostop_lab.diagrams.figures import CallTimes, job_figure, timeline_figure
from autostop_lab.diagrams.page import image_html
from autostop_lab.diagrams.text import clean
from autostop_lab.events import Bus, Event, JobMoved
from autostop_lab.exceptions import CleanupWarning, JobError
from autostop_lab.job.metrics import Gauge, Metrics
from autostop_lab.job.report import CleanupReport, seconds
from autostop_lab.job.snapshots import Ways, flow_snapshot, service_snapshot
from autostop_lab.lifecycle import JOB_TABLE, JobState, JobTrigger, Machine
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.logs import LogLine
from autostop_lab.services.runtime import describe_error
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.supervisor.loop import TICK_S, wait_in_ticks
from autostop_lab.supervisor.plan import unknown_service

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("autostop_lab.job")


class JobOrders(Protocol):
    """Who carries out what a job is told: its dispatcher. Each returns at once."""

    def stop(self, reason: str) -> None:
        """Drain it."""

    def cancel(self, reason: str) -> None:
        """Cancel it."""

    def interrupt(self) -> None:
        """Cancel it for the user's interrupt."""

    def hurry(self) -> None:
        """Skip its grace periods."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What was asked of one job; times in seconds, as in `submit`."""

    autostop: bool | str = False
    timeout_s: float | None = None
    cancel_timeout_s: float = 5.0
    shutdown_timeout_s: float = 30.0


class Job:
    """One run of a pipeline, a callable or a cell, with the services it needs.

    A job is made by ``env.submit()`` or ``%%autostop_job``, never by hand. It is over when its services are
    cleaned (or kept, as was asked), not before.

    Attributes
    ----------
    id, name : str
        A short unique id, and the name of its environment.
    autostop : bool or "on-success"
        What was asked for.
    stopping : threading.Event
        Set when the job is asked to end; job code may wait on it.
    progress : Progress
        Exact record counts per operator; ``str(job.progress)`` shows them.
    """

    def __init__(
        self, name: str, *, options: JobOptions, control: Control, progress: Progress, slots: Mapping[str, ServiceSlot]
    ) -> None:
        self.id = secrets.token_hex(4)
        self.name = name
        self.options = options
        self.stopping = control.stopping
        self.progress = progress
        self.bus = Bus()
        self._slots = dict(slots)
        self._gauge = Gauge(self._slots, pids=control.pids)
        self._machine = Machine(JOB_TABLE, name)
        self._orders: JobOrders | None = None
        self._reason = ""
        self.began_s = time.monotonic()
        self._moved_s: list[tuple[JobState, float]] = [(JobState.PENDING, self.began_s)]
        self._started_at = time.time()
        self._ended_at: float | None = None
        self._report: CleanupReport | None = None
        self._result: Any = None
        self._exception: BaseException | None = None
        self._done = threading.Event()
        self._when_done: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._has_warned = False
        self._is_interrupted = False

    # -- what a user reads ---------------------------------------------------------------------------------

    @property
    def autostop(self) -> bool | str:
        """What was asked for: True, False or ``"on-success"``."""
        return self.options.autostop

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self._machine.state

    @property
    def reason(self) -> str:
        """Why it is there, in words; "" where the state says all."""
        return self._reason

    @property
    def started_at(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return self._started_at

    @property
    def ended_at(self) -> float | None:
        """When all was over, in seconds since the epoch; None before."""
        return self._ended_at

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was submitted, up to its end."""
        first = self.began_s
        return (self._moved_s[-1][1] if self.is_over else time.monotonic()) - first

    @property
    def is_over(self) -> bool:
        """Whether it has ended and everything is cleaned."""
        return self._done.is_set()

    @property
    def over(self) -> threading.Event:
        """Set when the job is over."""
        return self._done

    @property
    def services(self) -> dict[str, ServiceHandle]:
        """Handles of its services, by name."""
        return {name: ServiceHandle(slot) for name, slot in self._slots.items()}

    @property
    def slots(self) -> dict[str, ServiceSlot]:
        """What stands behind the names of its services, for whoever shows them."""
        return dict(self._slots)

    @property
    def report(self) -> CleanupReport | None:
        """The receipt; None before the job is over."""
        return self._report

    @property
    def exception(self) -> BaseException | None:
        """What `result` raises; None if the job succeeded or is not over."""
        return self._exception

    def events(self) -> tuple[Event, ...]:
        """Return everything that has happened to the job and its services, oldest first."""
        return self.bus.record()

    def logs(self, service: str | None = None) -> tuple[LogLine, ...]:
        """Return the log lines of a service, or of all services in order of time.

        Parameters
        ----------
        service : str or None
            Name of the service; None for all.

        Returns
        -------
        tuple of LogLine
            The lines that are kept, oldest first.

        Raises
        ------
        UnknownServiceError
            The job has no such service.
        """
        if service is None:
            lines = [line for slot in self._slots.values() for line in slot.ring.lines()]
            return tuple(sorted(lines, key=lambda line: line.at))
        if service not in self._slots:
            raise unknown_service(service, self._slots)
        return self._slots[service].ring.lines()

    def metrics(self) -> Metrics:
        """Return its numbers: records per operator, calls per service and method, CPU and memory of processes.

        Returns
        -------
        Metrics
            They print as a table; ``to_json()``, ``to_csv()`` and ``to_prometheus()`` are for machines. Processes are
            looked at when this is called, at most once per second.
        """
        return self._gauge.read(self.name, self.id, self.progress)

    def summary(self) -> str:
        """Return the whole story in five lines or fewer."""
        why = f" ({self.reason})" if self.reason not in ("", self.state) else ""
        lines = [f"job {self.name!r} [{self.id}]: {self.state}{why}, {seconds(self.elapsed_s)}"]
        services = ", ".join(f"{slot.name} {slot.state}" for slot in self._slots.values())
        lines.append(f"services: {services or 'none'}")
        counts = self.progress.snapshot()
        if counts.operators:
            lines.append(f"records: {counts.records} taken, {counts.records_per_s:.0f}/s")
        if self._exception is not None:
            lines.append(f"error: {describe_error(self._exception)}")
        if self._report is not None:
            lines.append(f"receipt: {self._report.headline.partition('; ')[2]}")
        return "\n".join(map(clean, lines))  # reasons and errors come from anywhere

    # -- what a user orders --------------------------------------------------------------------------------

    def stop(self, reason: str = "stopped") -> None:
        """Drain: finish what is inside and take nothing new, then clean up. Returns at once; a job over stays so."""
        if self._orders is not None:
            self._orders.stop(reason)

    def cancel(self, reason: str = "cancelled") -> None:
        """Discard what is inside and clean up. Returns at once; a job over stays so."""
        if self._orders is not None:
            self._orders.cancel(reason)

    def interrupt(self) -> None:
        """Take the user's interrupt: the first one cancels the job, a further one skips the grace periods."""
        if self._orders is None:
            return
        if self._is_interrupted:
            self._orders.hurry()
        else:
            self._is_interrupted = True
            self._orders.interrupt()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job is over and everything is clean.

        An interrupt while waiting is an interrupt of the job: it is stopped and cleaned, then KeyboardInterrupt
        goes on; a second one skips the grace periods.

        Parameters
        ----------
        timeout_s : float or None
            Longest wait in seconds; None waits as long as it takes.

        Returns
        -------
        bool
            Whether the job is over.
        """
        if _current.get() is self and not self.is_over:
            raise JobError(
                f"job {self.name!r} waits for itself: its own code called wait() or result(). Do that outside the job.",
                job=self.name,
                job_id=self.id,
            )
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                is_over = wait_in_ticks(self._done, None if interrupt is not None else timeout_s)
                break
            except KeyboardInterrupt as raised:
                if self._orders is None:
                    raise
                interrupt = raised
                self.interrupt()
        if interrupt is not None:
            if self._report is not None:
                interrupt.add_note(self._report.headline)
            raise interrupt
        if is_over:
            self._warn()
        return is_over

    def result(self) -> Any:
        """Wait until the job is over and return its value, or raise what it failed with.

        Raises
        ------
        BaseException
            The job code's own exception, with notes on operator, record and receipt.
        JobTimeoutError, JobCancelledError, ServiceStartError, ServiceCrashedError
            What ended the job otherwise.
        """
        self.wait()
        if self._exception is not None:
            raise self._exception
        return self._result

    def __await__(self) -> Generator[Any, None, Any]:
        """Await the job's value; cancelling that cancels the job, and ends when it is clean."""
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> Any:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not over.done():
                over.set_result(None)

        self.when_done(lambda: loop.call_soon_threadsafe(tell))
        was_cancelled = False
        while not over.done():
            try:
                await asyncio.wait({over}, timeout=TICK_S)
            except asyncio.CancelledError:
                self.interrupt()
                was_cancelled = True
        if was_cancelled:
            raise asyncio.CancelledError
        self._warn()
        if self._exception is not None:
            raise self._exception
        return self._result

    def _warn(self) -> None:
        with self._lock:
            if self._has_warned:
                return
            self._has_warned = True
        if self._exception is None and self._report is not None:
            trouble = [f"{entry.name} ({entry.note})" for entry in self._report.services if entry.is_trouble]
            if trouble:
                warnings.warn(
                    f"job {self.name!r} succeeded, but not its cleanup: {'; '.join(trouble)}. "
                    "print(job.report) says more.",
                    CleanupWarning,
                    stacklevel=_users_level(),
                )

    # -- how it is shown -----------------------------------------------------------------------------------

    def snapshot(self, ways: Ways | None = None) -> Snapshot:
        """Return what is to be drawn of it now.

        Parameters
        ----------
        ways : Ways or None
            Where its services have been, for whoever draws it again and again; None reads it from its events.
        """
        if ways is None:
            ways = Ways(self.began_s)
            ways.add(self.events())
        entries = {entry.name: entry for entry in self._report.services} if self._report is not None else {}
        now_s = time.monotonic()
        return Snapshot(
            name=self.name,
            id=self.id,
            state=self.state,
            reason="" if self.reason == self.state else self.reason,
            elapsed_s=self.elapsed_s,
            visited=tuple((state, at_s - self.began_s) for state, at_s in tuple(self._moved_s)),
            services=tuple(
                service_snapshot(slot, ways, now_s=now_s, entry=entries.get(slot.name))
                for slot in tuple(self._slots.values())
            ),
            flow=flow_snapshot(self.progress),
            grace_s=self.options.cancel_timeout_s,
            error=describe_error(self._exception) if self._exception is not None else "",
        )

    def timeline(self) -> Figure:
        """Return a figure that shows when the job and its services were in which state.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``job.timeline().savefig("job.pdf")`` stores it.
        """
        return timeline_figure(self.snapshot())

    def plot(self) -> Figure:
        """Return a figure with the operators' rates, how long calls took, and the states of services over time.

        Returns
        -------
        matplotlib.figure.Figure
            As of `timeline`.
        """
        numbers = self.metrics()
        rates = [(row.name, row.records_per_s) for row in numbers.operators]
        calls = [
            CallTimes(f"{row.service}.{row.method}", *(row.counts.quantile_s(part) or 0.0 for part in (0.5, 0.95, 1.0)))
            for row in numbers.calls
            if row.counts.ended
        ]
        return job_figure(self.snapshot(), rates, calls)

    def __repr__(self) -> str:
        """Return name, id and state."""
        return f"<job {self.name!r} [{self.id}]: {self.state}>"

    def _repr_mimebundle_(self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> Any:
        """Return text and HTML with the picture and the receipt, without any widget."""
        snapshot = self.snapshot()
        image = image_html(lambda theme: lifecycle_svg(snapshot, theme=theme), self.summary())
        receipt = self._report._repr_html_() if self._report is not None else ""
        return {
            "text/plain": self.summary(),
            "text/html": f"<div>{image}{receipt}</div>",
            "image/svg+xml": lifecycle_svg(snapshot),
        }

    # -- what its dispatcher does --------------------------------------------------------------------------

    def attach(self, orders: JobOrders) -> None:
        """Take the dispatcher that carries out orders."""
        self._orders = orders

    def accepts(self, trigger: JobTrigger) -> bool:
        """Return whether `trigger` moves it from where it is."""
        return self._machine.accepts(trigger)

    def move(self, trigger: JobTrigger, reason: str = "") -> JobState:
        """Make a move of the job's table, publish it, and return the new state."""
        row = self._machine.step(trigger)
        self._reason = reason or self._reason
        event = JobMoved(
            job=self.name, source=row.source, target=row.target, trigger=row.trigger, why=row.why, reason=reason
        )
        self._moved_s.append((row.target, event.at_monotonic_s))
        self.bus.publish(event)
        return row.target

    def finish(self, *, result: Any, exception: BaseException | None, report: CleanupReport) -> None:
        """Take the end of the job, and tell whoever waits for it."""
        if self._done.is_set():
            return
        self._result, self._exception, self._report = result, exception, report
        self._gauge.end()
        self._ended_at = time.time()
        self.bus.close()
        with self._lock:
            self._done.set()
            callbacks, self._when_done = self._when_done, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # who waits must not keep the others waiting
                logger.exception("job %r: a callback failed when it was over", self.name)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, from whatever thread, when the job is over; at once if it is."""
        with self._lock:
            if not self._done.is_set():
                self._when_done.append(callback)
                return
        callback()


def _users_level() -> int:
    """Return how many frames the nearest code that is not ours is away from who calls this."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("autostop_lab"):
        frame, level = frame.f_back, level + 1
    return level


_current: ContextVar[Job | None] = ContextVar("autostop_lab_current_job", default=None)


def current_job() -> Job:
    """Return the job whose code calls this.

    Raises
    ------
    LookupError
        The calling code is not part of a job.
    """
    job = _current.get()
    if job is None:
        raise LookupError(
            "this code is not part of a job; current_job() works in operators, callables and cells of one."
        )
    return job


def run_as(job: Job, function: Callable[[], Any]) -> Any:
    """Call `function` as code of `job`, so that `current_job` finds it there."""
    token = _current.set(job)
    try:
        return function()
    finally:
        _current.reset(token)
