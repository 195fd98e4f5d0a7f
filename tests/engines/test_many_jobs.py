"""A hundred jobs at once in one process."""

from __future__ import annotations

import threading
import time

import pytest

from autostop_lab import LocalEnvironment
from tests.engines.runs import DEADLINE_S

JOBS, RECORDS = 100, 10_000


def job_threads() -> list[str]:
    starts = ("autostop-lab: job", "autostop-lab: operator")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(starts)]


@pytest.mark.slow
def test_a_hundred_jobs_at_once_are_all_right_and_leave_nothing() -> None:
    results: list[list[int]] = [[] for _ in range(JOBS)]
    all_run = threading.Barrier(JOBS + 1)
    environments = [LocalEnvironment(f"job {number}") for number in range(JOBS)]

    def begin(record: int) -> int:
        if record == 0:
            all_run.wait(DEADLINE_S)
        return record

    for env, out in zip(environments, results, strict=True):
        stream = env.from_batch(range(RECORDS)).map(begin)
        stream.map(lambda x: x + 1, parallelism=2).filter(lambda x: x % 2).sink(out.append)
    jobs = [env.submit(autostop=True, wait=False) for env in environments]
    all_run.wait(DEADLINE_S)
    most = len(job_threads())
    for job in jobs:
        job.result()

    assert all(out == list(range(1, RECORDS + 1, 2)) for out in results)
    # One for the source and what shares its loop, one for each replica, one for what is behind.
    assert most <= JOBS * (1 + 2 + 1)
    for env in environments:
        env.close()
    deadline = time.monotonic() + DEADLINE_S
    while job_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job_threads() == []


def test_a_straight_pipeline_takes_one_thread() -> None:
    seen: list[int] = []
    env = LocalEnvironment("straight")
    before = len(job_threads())
    env.from_batch(range(10)).map(str).filter(bool).sink(lambda x: seen.append(len(job_threads()) - before))
    env.submit(autostop=True)
    env.close()

    assert set(seen) == {1}
