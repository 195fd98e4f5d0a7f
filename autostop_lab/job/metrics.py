"""What a job does and needs in numbers: records per operator, calls per service, CPU and memory per process tree."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from types import MappingProxyType
from typing import Any

from autostop_lab.dataflow.progress import OperatorProgress, Progress
from autostop_lab.services.meters import BOUNDS_S, CallCounts
from autostop_lab.services.slot import ServiceSlot

#: Process trees are looked at at most so often.
LOOK_EVERY_S = 1.0
#: The parts of calls whose durations are told.
QUANTILES = (0.5, 0.95, 0.99)
#: What a line of CSV is about, by the list that it comes from.
PARTS = {"operators": "operator", "calls": "call", "processes": "process"}
#: Every so many bounds of the histogram of calls one is told to Prometheus: two for each power of ten.
BOUNDS_PER_BUCKET = 4


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """Calls of one method of a service, made from this process since the job began.

    Attributes
    ----------
    service, method : str
        Which.
    counts : CallCounts
        How many, and how long they took, waiting for their turn included.
    """

    service: str
    method: str
    counts: CallCounts

    def as_dict(self) -> dict[str, Any]:
        """Return names and numbers."""
        counts = self.counts
        return {
            "service": self.service,
            "method": self.method,
            "calls": counts.begun,
            "errors": counts.errors,
            "in_flight": counts.in_flight,
            "total_s": counts.total_s,
            **{f"p{part * 100:.0f}_s": counts.quantile_s(part) for part in QUANTILES},
        }


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """What the processes of a service, or this process itself, need.

    Attributes
    ----------
    name : str
        The service, or the operator's replica; ``"kernel"`` for this process, in which those in threads live.
    pid : int
        The process, or the first one of the tree.
    processes : int
        How many there are.
    cpu_percent : float
        Of one core, since the look before, or since the process began.
    memory_bytes : int
        Resident memory of all.
    """

    name: str
    pid: int
    processes: int
    cpu_percent: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Metrics:
    """The numbers of a job at one moment.

    Attributes
    ----------
    job, job_id : str
        Whose they are.
    elapsed_s : float
        Since the run of its pipelines began, up to its end.
    completed : int
        How many of the sources' first records are through.
    operators : tuple of OperatorProgress
        Records, errors, rates and queues.
    calls : tuple of CallMetrics
        Calls of services, by service and method.
    processes : tuple of ProcessMetrics
        This process, and the process tree of each service that has one.
    """

    job: str
    job_id: str
    elapsed_s: float
    completed: int
    operators: tuple[OperatorProgress, ...]
    calls: tuple[CallMetrics, ...]
    processes: tuple[ProcessMetrics, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        operators = [
            {
                "pipeline": row.pipeline,
                "operator": row.name,
                "kind": row.kind,
                "records_in": row.records_in,
                "records_out": row.records_out,
                "errors": row.errors,
                "records_per_s": row.records_per_s,
                "queued": row.queued,
                "remaining_s": row.remaining_s,
            }
            for row in self.operators
        ]
        processes = [
            {
                "name": row.name,
                "pid": row.pid,
                "processes": row.processes,
                "cpu_percent": row.cpu_percent,
                "memory_bytes": row.memory_bytes,
            }
            for row in self.processes
        ]
        return {
            "job": self.job,
            "job_id": self.job_id,
            "elapsed_s": self.elapsed_s,
            "completed": self.completed,
            "operators": operators,
            "calls": [row.as_dict() for row in self.calls],
            "processes": processes,
        }

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """Return a line per number: part, name, detail, metric, value."""
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["part", "name", "detail", "metric", "value"])
        data = self.as_dict()
        for metric in ("elapsed_s", "completed"):
            writer.writerow(["job", self.job, self.job_id, metric, data[metric]])
        parts = {"operators": ("operator", "pipeline"), "calls": ("service", "method"), "processes": ("name", "pid")}
        for part, (name, detail) in parts.items():
            for row in data[part]:
                for metric, value in row.items():
                    if metric not in (name, detail, "kind"):
                        shown = "" if value is None else value
                        writer.writerow([PARTS[part], row[name], row[detail], metric, shown])
        return out.getvalue()

    def to_prometheus(self) -> str:
        """Return the text that Prometheus reads, with durations of calls as a histogram."""
        lines: list[str] = []
        for name, kind, text, samples in self._families():
            found = [f"{sample}{labels} {value!r}" for sample, labels, value in samples]
            if found:
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *found]
        return "\n".join(lines) + "\n"

    def _families(self) -> Iterator[tuple[str, str, str, list[tuple[str, str, float]]]]:
        job = {"job": self.job, "job_id": self.job_id}

        def family(name: str, kind: str, text: str, values: list[tuple[Mapping[str, Any], float | None]]) -> Any:
            full = f"autostop_lab_{name}"
            samples = [(full, labels_of({**job, **own}), value) for own, value in values if value is not None]
            return full, kind, text, samples

        done: list[tuple[Mapping[str, Any], float | None]] = [({}, self.completed)]
        yield family("job_completed_records_total", "counter", "First records that are through.", done)
        rows = [({"pipeline": row.pipeline, "operator": row.name, "kind": row.kind}, row) for row in self.operators]
        yield family(
            "operator_records_total", "counter", "Records taken; of a source, given.", [(o, r.records) for o, r in rows]
        )
        yield family("operator_errors_total", "counter", "Records that failed.", [(o, r.errors) for o, r in rows])
        yield family(
            "operator_records_per_second", "gauge", "Average rate.", [(o, r.records_per_s) for o, r in rows]
        )
        yield family("operator_queued_records", "gauge", "Records that wait.", [(o, r.queued) for o, r in rows])
        calls = [({"service": row.service, "method": row.method}, row.counts) for row in self.calls]
        yield family("service_calls_total", "counter", "Calls begun.", [(o, c.begun) for o, c in calls])
        yield family("service_call_errors_total", "counter", "Calls that failed.", [(o, c.errors) for o, c in calls])
        yield family("service_calls_in_flight", "gauge", "Calls that go on.", [(o, c.in_flight) for o, c in calls])
        name = "autostop_lab_service_call_duration_seconds"
        samples = [sample for own, counts in calls for sample in histogram(name, {**job, **own}, counts)]
        yield name, "histogram", "Duration of calls.", samples
        trees = [({"process": row.name}, row) for row in self.processes]
        yield family("process_cpu_percent", "gauge", "CPU of a process tree.", [(o, r.cpu_percent) for o, r in trees])
        yield family("process_memory_bytes", "gauge", "Resident memory.", [(o, r.memory_bytes) for o, r in trees])

    def __str__(self) -> str:
        """Return a line per operator, method and process tree."""
        lines = [f"job {self.job!r} [{self.job_id}], {self.elapsed_s:.2f} s, {self.completed} records completed"]
        lines += [
            f"operator {row.name}: {row.records} records, {row.records_per_s:.0f}/s, {row.errors} errors, "
            f"{row.queued} queued"
            for row in self.operators
        ]
        for row in self.calls:
            parts = [row.counts.quantile_s(part) for part in QUANTILES]
            times = " / ".join("-" if part is None else f"{part * 1e3:.3g}" for part in parts)
            lines.append(
                f"service {row.service}.{row.method}: {row.counts.begun} calls, {row.counts.errors} errors, "
                f"{row.counts.in_flight} in flight, p50/p95/p99 {times} ms"
            )
        lines += [
            f"process {row.name}: {row.cpu_percent:.0f} % CPU, {row.memory_bytes / 2**20:.0f} MiB"
            for row in self.processes
        ]
        return "\n".join(lines)


class Gauge:
    """Takes the numbers of one job.

    Parameters
    ----------
    slots : mapping of str to ServiceSlot
        Its services.
    look : callable or None
        ``pids by name -> ProcessMetrics``; None for the one that psutil gives.
    pids : mapping of str to int
        Further processes, by name; it may change.
    """

    def __init__(
        self,
        slots: Mapping[str, ServiceSlot],
        look: Callable[[Mapping[str, int]], tuple[ProcessMetrics, ...]] | None = None,
        *,
        pids: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._slots = slots
        self._pids = pids
        self._before = {name: counts_of(slot) for name, slot in slots.items()}
        self._look = look or ProcessLook()
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._processes: tuple[ProcessMetrics, ...] = ()
        self._ended: dict[str, dict[str, CallCounts]] | None = None

    def end(self) -> None:
        """Count no further calls and look at no further processes: the job is over."""
        self._ended = {name: counts_of(slot) for name, slot in self._slots.items()}

    def calls(self) -> tuple[CallMetrics, ...]:
        """Return the calls of each method that was called since the job began."""
        now = self._ended or {name: counts_of(slot) for name, slot in self._slots.items()}
        found = []
        for service, methods in now.items():
            for method, counts in methods.items():
                since = counts.since(self._before.get(service, {}).get(method, CallCounts()))
                if since.begun:
                    found.append(CallMetrics(service, method, since))
        return tuple(found)

    def processes(self) -> tuple[ProcessMetrics, ...]:
        """Return what process trees need, as of the last second."""
        with self._lock:
            if self._ended is None and time.monotonic() - self._looked_s >= LOOK_EVERY_S:
                pids = {"kernel": os.getpid(), **dict(self._pids)}
                for name, slot in self._slots.items():
                    if (pid := slot.vitals().pid) is not None:
                        pids[name] = pid
                self._processes = self._look(pids)
                self._looked_s = time.monotonic()
            return self._processes

    def read(self, job: str, job_id: str, progress: Progress) -> Metrics:
        """Return all numbers."""
        counts = progress.snapshot()
        return Metrics(
            job, job_id, counts.elapsed_s, counts.completed, counts.operators, self.calls(), self.processes()
        )


class ProcessLook:
    """Looks at process trees, and remembers what CPU time they had used."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[int, float, float]] = {}

    def __call__(self, pids: Mapping[str, int]) -> tuple[ProcessMetrics, ...]:
        """Return what each tree needs; of this process alone, without its children."""
        import psutil  # takes 40 ms to import, and most jobs are never asked

        parents: dict[int, list[Any]] = {}
        for process in psutil.process_iter(["ppid"]):
            parents.setdefault(process.info["ppid"], []).append(process)
        found = []
        for name, pid in pids.items():
            try:
                tree = [psutil.Process(pid)]
            except psutil.Error:
                continue
            if pid != os.getpid():
                for process in tree:
                    tree += parents.get(process.pid, ())
            cpu_s, memory, members = 0.0, 0, 0
            for process in tree:
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        memory += process.memory_info().rss
                except psutil.Error:
                    continue
                cpu_s += times.user + times.system
                members += 1
            if members:
                found.append(ProcessMetrics(name, pid, members, self._percent(name, tree[0], cpu_s), memory))
        return tuple(found)

    def _percent(self, name: str, first: Any, cpu_s: float) -> float:
        now_s = time.monotonic()
        pid, before_s, used_s = self._used.get(name, (None, 0.0, 0.0))
        if pid != first.pid:
            before_s, used_s = now_s - max(0.01, time.time() - first.create_time()), 0.0
        self._used[name] = (first.pid, now_s, cpu_s)
        return 100 * max(0.0, cpu_s - used_s) / max(0.01, now_s - before_s)


def counts_of(slot: ServiceSlot) -> dict[str, CallCounts]:
    """Return what was counted of the calls of each method of a service."""
    return {method: meter.counts() for method, meter in list(slot.meters.items())}


def histogram(name: str, labels: Mapping[str, Any], counts: CallCounts) -> Iterator[tuple[str, str, float]]:
    """Return the samples of a histogram in the way of Prometheus."""
    below = 0
    for place, size in enumerate(counts.buckets[:-1]):
        below += size
        if place % BOUNDS_PER_BUCKET == 0:
            yield f"{name}_bucket", labels_of({**labels, "le": f"{BOUNDS_S[place]:.3g}"}), below
    yield f"{name}_bucket", labels_of({**labels, "le": "+Inf"}), sum(counts.buckets)
    yield f"{name}_sum", labels_of(labels), counts.total_s
    yield f"{name}_count", labels_of(labels), sum(counts.buckets)


def labels_of(labels: Mapping[str, Any]) -> str:
    """Return labels in the way of Prometheus."""
    shown = ((name, str(value)) for name, value in labels.items())
    escaped = ((name, text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, text in shown)
    return "{" + ",".join(f'{name}="{text}"' for name, text in escaped) + "}"
