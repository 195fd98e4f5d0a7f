from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from autostop_lab import JobState, LocalEnvironment, ServiceState, UnknownServiceError, current_job
from autostop_lab.events import JobMoved, ServiceMoved
from tests.services_for_tests import Diary, Recorder


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("words") as environment:
        yield environment


def test_a_job_tells_everything_that_happened_in_order(env: LocalEnvironment) -> None:
    env.register_service("a", Recorder, Diary(), "a")
    env.run(lambda: None)
    job = env.submit(autostop=True)
    events = job.events()

    assert [event.target for event in events if isinstance(event, JobMoved)] == [
        JobState.STARTING,
        JobState.RUNNING,
        JobState.CLEANING_UP,
        JobState.SUCCEEDED,
    ]
    assert [event.target for event in events if isinstance(event, ServiceMoved)] == [
        ServiceState.STARTING,
        ServiceState.RUNNING,
        ServiceState.STOPPING,
        ServiceState.STOPPED,
    ]
    assert [event.at_monotonic_s for event in events] == sorted(event.at_monotonic_s for event in events)


def test_a_slow_reader_of_events_hinders_nobody_and_the_record_loses_nothing(env: LocalEnvironment) -> None:
    go = threading.Event()
    env.register_service("a", Recorder, Diary(), "a")
    env.run(go.wait)
    job = env.submit(autostop=True, wait=False)
    subscription = job.bus.subscribe(max_items=1)
    go.set()
    job.wait()

    assert [str(event) for event in subscription][-1].startswith("words: cleaning_up -> succeeded")
    assert len(job.events()) == 8


def test_the_summary_says_the_whole_story_in_five_lines(env: LocalEnvironment) -> None:
    env.register_service("a", Recorder, Diary(), "a")
    env.from_batch([1, 2, 3]).map(lambda record: 1 / (record - 3)).sink(lambda record: None)
    with pytest.raises(ZeroDivisionError):
        env.submit(autostop=True)
    job = env.last_job
    assert job is not None
    lines = job.summary().splitlines()

    assert len(lines) <= 5
    assert lines[0].startswith(f"job 'words' [{job.id}]: failed (ZeroDivisionError")
    assert "services: a stopped" in lines
    assert any(line.startswith("error: ZeroDivisionError") for line in lines)
    assert any("1 service: 1 stopped" in line for line in lines)


def test_logs_of_one_service_and_of_all(env: LocalEnvironment) -> None:
    class Talker(Recorder):
        def start(self) -> None:
            self.logger.warning("hello from %s", self.name)

    env.register_service("a", Talker, Diary(), "a")
    env.register_service("b", Talker, Diary(), "b")
    env.run(lambda: None)
    job = env.submit(autostop=True)

    assert [line.text for line in job.logs("a")] == ["WARNING hello from a"]
    assert sorted(line.text for line in job.logs()) == ["WARNING hello from a", "WARNING hello from b"]
    with pytest.raises(UnknownServiceError, match="'c'"):
        job.logs("c")


def test_wait_gives_up_after_its_time_and_says_so(env: LocalEnvironment) -> None:
    go = threading.Event()
    env.run(go.wait)
    job = env.submit(autostop=True, wait=False)

    assert job.wait(0.01) is False
    go.set()
    assert job.wait() is True


def test_job_code_finds_its_job_and_other_code_does_not(env: LocalEnvironment) -> None:
    env.run(lambda: current_job().id)
    job = env.submit(autostop=True)

    assert job.result() == job.id
    with pytest.raises(LookupError, match="not part of a job"):
        current_job()


def test_times_of_a_job_stand_still_when_it_is_over(env: LocalEnvironment) -> None:
    env.run(lambda: None)
    job = env.submit(autostop=True)

    assert job.ended_at is not None
    assert job.started_at <= job.ended_at
    assert job.elapsed_s == job.elapsed_s
    assert job.snapshot().elapsed_s == job.elapsed_s


def test_a_job_shows_text_and_html_without_a_widget(env: LocalEnvironment) -> None:
    env.register_service("a", Recorder, Diary(), "a")
    env.run(lambda: None)
    bundle = env.submit(autostop=True)._repr_mimebundle_()

    assert set(bundle) == {"text/plain", "text/html", "image/svg+xml"}
    assert bundle["image/svg+xml"].startswith("<svg")
    assert "<svg" not in bundle["text/html"]  # front ends take it out where they do not trust the notebook
    assert 'src="data:image/svg+xml;base64,' in bundle["text/html"]
    assert "1 service: 1 stopped" in bundle["text/html"]


def test_progress_gives_exact_counts_per_operator(env: LocalEnvironment) -> None:
    env.from_batch(range(10)).filter(lambda record: record % 2).sink(lambda record: None)
    job = env.submit(autostop=True)
    counts = [(count.records_in, count.records_out) for count in job.progress.snapshot().operators]

    assert counts == [(None, 10), (10, 5), (5, None)]
