"""What a panel looks at: a job, or an environment with whatever job it has."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autostop_lab.diagrams import FlowSnapshot, Snapshot
from autostop_lab.environment.base import Environment
from autostop_lab.environment.local import LocalEnvironment
from autostop_lab.job.job import Job
from autostop_lab.job.snapshots import Ways
from autostop_lab.jupyter.panel.again import again_of
from autostop_lab.jupyter.panel.orders import job_actions
from autostop_lab.jupyter.panel.vitals import Meter
from autostop_lab.lifecycle import SERVICE_TABLE, JobState
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.slot import ServiceSlot


class Rates:
    """How many records pass each operator in a second, of late."""

    def __init__(self) -> None:
        self._last: tuple[float, tuple[int | None, ...]] = (0.0, ())

    def fill_in(self, flow: FlowSnapshot, now_s: float) -> FlowSnapshot:
        """Return a dataflow with the rates since the last look, smoothed by what they were on average."""
        before_s, before = self._last
        counts = tuple(node.records for node in flow.nodes)
        took_s = now_s - before_s
        if len(before) != len(counts) or took_s < 0.05:
            self._last = (now_s, counts)
            return flow
        if took_s > 1.0:
            self._last = (now_s, counts)
        nodes = tuple(
            replace(node, per_s=max(0.0, ((count or 0) - (former or 0)) / took_s))
            for node, count, former in zip(flow.nodes, counts, before, strict=True)
        )
        return replace(flow, nodes=nodes)


class Source(ABC):
    """What a panel looks at.

    Attributes
    ----------
    name : str
        What it is called.
    """

    name: str

    def __init__(self) -> None:
        self._meter = Meter()
        self._rates = Rates()

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether it will not change any more."""

    @property
    @abstractmethod
    def job(self) -> Job | None:
        """The job that it is about, if there is one."""

    @abstractmethod
    def slots(self) -> dict[str, ServiceSlot]:
        """Return its services."""

    @abstractmethod
    def has_news(self) -> bool:
        """Take in what has happened since the last call; return whether anything has."""

    @abstractmethod
    def look(self) -> Snapshot:
        """Return it as it is now."""

    @abstractmethod
    def actions(self) -> tuple[str, ...]:
        """Return the orders, by their keys, that make sense for the whole of it now."""

    @abstractmethod
    def order(self, action: str) -> Callable[[], object]:
        """Return what carries out one of `actions`."""

    @abstractmethod
    def bundle(self) -> dict[str, Any]:
        """Return it as a still picture, in all its forms."""

    @property
    def may_start(self) -> bool:
        """Whether services of it may be started."""
        return not self.is_over

    def handle(self, name: str) -> ServiceHandle | None:
        """Return the handle of a service, if there is one of this name."""
        slot = self.slots().get(name)
        return ServiceHandle(slot) if slot is not None else None

    def measure(self, now_s: float) -> bool:
        """Look at memory and CPU if it is time; return whether there is anything new."""
        pids = {name: pid for name, slot in self.slots().items() if (pid := slot.vitals().pid) is not None}
        return self._meter.look(pids, now_s)

    def snapshot(self, now_s: float) -> Snapshot:
        """Return it as it is now, with what its processes use and how fast its records pass."""
        seen, uses = self.look(), self._meter.uses
        if uses and not seen.is_over:
            services = tuple(
                replace(one, memory_bytes=use.memory_bytes, cpu_percent=use.cpu_percent)
                if (use := uses.get(one.name)) is not None and one.since_s >= 0
                else one
                for one in seen.services
            )
            seen = replace(seen, services=services)
        if seen.flow is not None and not seen.is_over:
            seen = replace(seen, flow=self._rates.fill_in(seen.flow, now_s))
        return seen


class JobSource(Source):
    """One job.

    Parameters
    ----------
    job : Job
        The job.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self.name = f"job {job.name}"
        self._ways = Ways(job.began_s)
        self._seen = 0

    @property
    def is_over(self) -> bool:
        """Whether the job is."""
        return self._job.is_over

    @property
    def job(self) -> Job:
        """The job."""
        return self._job

    def slots(self) -> dict[str, ServiceSlot]:
        """Return its services."""
        return self._job.slots

    def has_news(self) -> bool:
        """Take in what has happened since the last call; return whether anything has."""
        events = self._job.bus.record(self._seen)
        self._seen += len(events)
        self._ways.add(events)
        return bool(events)

    def look(self) -> Snapshot:
        """Return it as it is now."""
        return self._job.snapshot(self._ways)

    def actions(self) -> tuple[str, ...]:
        """Return the orders that make sense now."""
        if self._job.is_over:
            again = again_of(self._job)
            return ("again",) if again is not None and again.job.is_over else ()
        return job_actions(self._job.state)

    def order(self, action: str) -> Callable[[], object]:
        """Return what carries out one of `actions`."""
        job = self._job
        if action == "again":
            again = again_of(job)
            assert again is not None
            return again.run
        return {"stop_job": job.stop, "cancel_job": job.cancel}[action]

    def bundle(self) -> dict[str, Any]:
        """Return it as a still picture, in all its forms."""
        return dict(self._job._repr_mimebundle_())

    @property
    def may_start(self) -> bool:
        """Whether services of it may be started."""
        return self._job.state in (JobState.STARTING, JobState.RUNNING, JobState.DRAINING)


class EnvironmentSource(Source):
    """An environment, with the job that it runs.

    Parameters
    ----------
    environment : Environment
        The environment.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self._environment = environment
        self.name = f"environment {environment.name}"
        self._ways = Ways(time.monotonic())
        self._news = environment.bus.subscribe()
        self._job_source: JobSource | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is closed, and its job over."""
        job = self.job
        return self._environment.is_closed and (job is None or job.is_over)

    @property
    def job(self) -> Job | None:
        """Its newest job."""
        return self._environment.last_job

    def slots(self) -> dict[str, ServiceSlot]:
        """Return its services."""
        return self._environment.slots

    def _running(self) -> JobSource | None:
        """Return the source of the job that runs."""
        job = self.job
        if job is None or job.is_over:
            return None
        if self._job_source is None or self._job_source.job is not job:
            self._job_source = JobSource(job)
        return self._job_source

    def has_news(self) -> bool:
        """Take in what has happened since the last call; return whether anything has."""
        events = self._news.take(timeout_s=0)
        self._ways.add(events)
        running = self._running()
        return (running is not None and running.has_news()) or bool(events)

    def look(self) -> Snapshot:
        """Return it as it is now."""
        running = self._running()
        return running.look() if running is not None else self._environment.snapshot(self._ways)

    def actions(self) -> tuple[str, ...]:
        """Return the orders that make sense now."""
        if self._environment.is_closed:
            return ()
        running = self._running()
        if running is not None:
            return (*running.actions(), "stop_all")
        slots = self.slots().values()
        can_run = self.job is not None or self._environment.has_work
        return (
            *(("submit",) if can_run else ()),
            *(("start_all",) if any(slot.state in SERVICE_TABLE.at_rest for slot in slots) else ()),
            *(("stop_all",) if any(slot.state not in SERVICE_TABLE.at_rest for slot in slots) else ()),
        )

    def order(self, action: str) -> Callable[[], object]:
        """Return what carries out one of `actions`."""
        running = self._running()
        if action in ("stop_job", "cancel_job") and running is not None:
            return running.order(action)
        if action == "submit":
            return self._submit
        return {"start_all": self._environment.start, "stop_all": self._environment.stop}[action]

    def _submit(self) -> None:
        job = self.job
        if job is None:
            self._environment.submit(autostop=True, wait=False)
            return
        again = again_of(job)
        if again is not None:
            again.run()
            return
        options = job.options
        self._environment.submit(
            autostop=options.autostop,
            wait=False,
            timeout_s=options.timeout_s,
            cancel_timeout_s=options.cancel_timeout_s,
            shutdown_timeout_s=options.shutdown_timeout_s,
        )

    def bundle(self) -> dict[str, Any]:
        """Return it as a still picture, in all its forms."""
        return self._environment._repr_mimebundle_()

    @property
    def may_start(self) -> bool:
        """Whether services of it may be started."""
        return isinstance(self._environment, LocalEnvironment) and not self._environment.is_closed
