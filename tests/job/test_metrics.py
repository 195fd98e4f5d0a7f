"""The numbers of a job, and the three forms in which machines read them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from io import StringIO
from typing import Any

import psutil
import pytest

from autostop_lab import Command, LocalEnvironment, Service, ServicePolicy
from autostop_lab.dataflow.progress import OperatorProgress
from autostop_lab.job.metrics import CallMetrics, Gauge, Metrics, ProcessLook, ProcessMetrics, labels_of
from autostop_lab.services.meters import CallMeter

DEADLINE_S = 30.0


class Shout(Service):
    def loud(self, text: str) -> str:
        if text == "no":
            raise ValueError("no")
        return text.upper()


def test_a_job_counts_records_errors_and_calls() -> None:
    env = LocalEnvironment("numbers")
    shout = env.register_service("shout", Shout)
    env.from_batch(["a", "no", "b"]).map(shout.loud, on_error="skip", name="shout").collect()
    job = env.submit(autostop=True)
    metrics = job.metrics()

    assert [(row.name, row.records, row.errors) for row in metrics.operators] == [
        ("source", 3, 0),
        ("shout", 3, 1),
        ("collect", 2, 0),
    ]
    ((service, method, counts),) = [(row.service, row.method, row.counts) for row in metrics.calls]
    assert (service, method, counts.begun, counts.errors, counts.in_flight) == ("shout", "loud", 3, 1, 0)
    assert metrics.completed == 3

    again = env.submit(autostop=True)
    assert again.metrics().calls[0].counts.begun == 3
    env.close()
    assert again.metrics() == again.metrics()


def test_calls_that_go_on_are_in_flight_and_queues_have_a_depth() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Service):
        def wait(self, record: int) -> int:
            inside.set()
            assert go_on.wait(DEADLINE_S)
            return record

    env = LocalEnvironment("in flight")
    slow = env.register_service("slow", Slow, policy=ServicePolicy(max_concurrent_calls=2))
    env.from_batch(range(100)).map(slow.wait, parallelism=2).collect()
    job = env.submit(autostop=True, wait=False)
    assert inside.wait(DEADLINE_S)
    deadline = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        metrics = job.metrics()
        if metrics.calls[0].counts.in_flight == 2 and metrics.operators[1].queued:
            break
        deadline.wait(0.02)
    go_on.set()
    job.result()

    assert metrics.calls[0].counts.in_flight == 2
    assert 0 < metrics.operators[1].queued < 100
    env.close()


class Sleeper(Command):
    argv = (
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])",
    )


def test_the_process_tree_of_a_program_is_looked_at() -> None:
    with LocalEnvironment("trees") as env:
        env.register_service("sleeper", Sleeper)
        env.from_source(lambda: None).sink(print)
        job = env.submit(wait=False)
        deadline = threading.Event()
        row: Any = None
        for _ in range(int(DEADLINE_S / 0.2)):
            row = next((row for row in job.metrics().processes if row.name == "sleeper"), None)
            if row is not None and row.processes == 2:
                break
            deadline.wait(0.2)

        assert row is not None
        assert (row.processes, row.memory_bytes > 2**20) == (2, True)


def test_processes_are_looked_at_once_per_second_at_most() -> None:
    looks: list[Mapping[str, int]] = []

    def look(pids: Mapping[str, int]) -> tuple[ProcessMetrics, ...]:
        looks.append(pids)
        return ()

    gauge = Gauge({}, look)
    for _ in range(5):
        gauge.processes()
    assert looks == [{"kernel": os.getpid()}]
    gauge.end()
    gauge.processes()
    assert len(looks) == 1


def test_cpu_is_measured_between_two_looks_and_only_of_the_process_asked_for() -> None:
    look = ProcessLook()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        first = look({"kernel": os.getpid(), "child": child.pid, "gone": 2**22 - 1})
        second = look({"kernel": os.getpid()})
    finally:
        child.communicate()

    assert [row.name for row in first] == ["kernel", "child"]
    assert all(row.processes == 1 and row.cpu_percent >= 0 for row in (*first, *second))
    assert second[0].memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)


def example() -> Metrics:
    meter = CallMeter()
    for duration_s in (0.001, 0.002, 0.1):
        number = meter.begin()
        meter.end()
        meter.note(number, duration_s)
    operators = (
        OperatorProgress(1, "source", "source", "range", None, 7, 0, 3.5),
        OperatorProgress(1, 'so "odd"\n', "map", "f", 7, 6, 1, 3.5, queued=2, remaining_s=1.5),
    )
    return Metrics(
        "job", "1a2b", 2.0, 6, operators, (CallMetrics("store", "get", meter.counts()),), (
            ProcessMetrics("kernel", 12, 1, 55.0, 2**20),
        )
    )  # fmt: skip


def test_json_has_all_numbers() -> None:
    data = json.loads(example().to_json())

    assert (data["job"], data["completed"]) == ("job", 6)
    assert data["operators"][1]["queued"] == 2
    assert (data["calls"][0]["calls"], data["calls"][0]["in_flight"]) == (3, 0)
    assert 0.0005 < data["calls"][0]["p50_s"] < 0.004 < data["calls"][0]["p99_s"] < 0.15
    assert data["processes"][0]["memory_bytes"] == 2**20


def test_csv_has_a_line_per_number() -> None:
    rows = list(csv.DictReader(StringIO(example().to_csv())))

    assert {"part", "name", "detail", "metric", "value"} == set(rows[0])
    found = {(row["part"], row["name"], row["detail"], row["metric"]): row["value"] for row in rows}
    assert found["operator", "source", "1", "records_out"] == "7"
    assert found["operator", "source", "1", "records_in"] == ""
    assert found["call", "store", "get", "calls"] == "3"
    assert found["process", "kernel", "12", "cpu_percent"] == "55.0"


LINE = re.compile(r'^[a-z_]+(\{([a-z_]+="(\\.|[^"\\\n])*",?)*\})? -?[0-9.e+-]+$')


def test_prometheus_can_read_it() -> None:
    lines = example().to_prometheus().splitlines()
    samples = [line for line in lines if not line.startswith("#")]

    assert all(LINE.match(line) for line in samples), [line for line in samples if not LINE.match(line)]
    names = {line.split("{")[0] for line in samples}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names} == typed
    labels = 'job="job",job_id="1a2b",service="store",method="get"'
    assert f"autostop_lab_service_calls_total{{{labels}}} 3" in samples
    assert f'autostop_lab_service_call_duration_seconds_bucket{{{labels},le="+Inf"}} 3' in samples
    assert f"autostop_lab_service_call_duration_seconds_count{{{labels}}} 3" in samples
    assert 'operator="so \\"odd\\"\\n"' in "\n".join(samples)


def test_labels_are_escaped() -> None:
    assert labels_of({"a": 'x"\\\n'}) == '{a="x\\"\\\\\\n"}'


def test_the_text_has_a_line_per_operator_method_and_process() -> None:
    lines = str(example()).splitlines()

    assert lines[0] == "job 'job' [1a2b], 2.00 s, 6 records completed"
    assert lines[1] == "operator source: 7 records, 4/s, 0 errors, 0 queued"
    assert lines[-2].startswith("service store.get: 3 calls, 0 errors, 0 in flight, p50/p95/p99 ")
    assert lines[-1] == "process kernel: 55 % CPU, 1 MiB"
