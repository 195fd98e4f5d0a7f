"""Services in processes of their own, in environments and jobs: order, restarts, receipts, and that nothing is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autostop_lab import (
    CleanupWarning,
    Cron,
    Health,
    LocalEnvironment,
    ReadinessTimeoutError,
    Restart,
    ServiceCrashedError,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    ServiceStopError,
)
from tests.services.hosted_services import Asker, Counter, Diary, Moody, Ticker, Worker
from tests.services.lives import LONG_S, eventually, is_running

AGAIN = Restart("on-failure", backoff_s=0.01)


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("processes") as environment:
        yield environment


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_job_with_services_in_processes_is_clean_when_it_is_over(env: LocalEnvironment, tmp_path: Path) -> None:
    worker = env.register_service(
        "worker", Worker, runtime="process", policy=ServicePolicy(max_concurrent_calls=4, call_timeout_s=LONG_S)
    )
    after = ServicePolicy(depends_on=("worker",))
    env.register_service("diary", Diary, tmp_path / "diary", runtime="process", policy=after)
    results: list[int] = []
    pids: list[int] = []
    env.from_batch(range(100)).map(worker.echo, parallelism=2).sink(results.append)
    job = env.submit(autostop=True)
    env.start()
    pids.append(worker.pid())
    env.stop()

    assert results == list(range(100))
    assert [(each.name, str(each.outcome)) for each in job.report.services] == [
        ("worker", "stopped"),
        ("diary", "stopped"),
    ]
    assert not job.report.leaks
    assert lines(tmp_path / "diary")[:4] == ["init", "start", "stop", "cleanup"]
    assert not any(map(is_running, pids))


def test_they_stop_in_reverse_order_of_their_dependencies(env: LocalEnvironment, tmp_path: Path) -> None:
    counter = env.register_service("counter", Counter, runtime="process")
    asker = env.register_service("asker", Asker, counter, runtime="process")
    env.start()
    assert asker.ask("add", 2) == 2
    report = env.stop()

    assert {str(each.outcome) for each in report.services} == {"stopped"}
    assert counter.state is ServiceState.STOPPED


def test_one_that_died_is_restarted_and_its_callers_wait(env: LocalEnvironment) -> None:
    worker = env.register_service("worker", Worker, runtime="process", policy=ServicePolicy(restart=AGAIN))
    env.start()
    first = worker.pid()
    with pytest.raises(ServiceCrashedError, match="signal 9") as caught:
        worker.die()
    second = worker.pid()

    assert (caught.value.service, caught.value.exit_code) == ("worker", -signal.SIGKILL)
    assert second != first
    assert not is_running(first)
    report = env.stop()
    assert [each.restarts for each in report.services] == [1]


def test_a_call_that_died_with_it_is_repeated_where_the_policy_says_so(env: LocalEnvironment, tmp_path: Path) -> None:
    policy = ServicePolicy(restart=AGAIN, retry_calls=True)
    worker = env.register_service("worker", Worker, runtime="process", policy=policy)
    asker = env.register_service("asker", Asker, worker, runtime="process", policy=ServicePolicy(call_timeout_s=LONG_S))
    env.start()

    assert worker.die_once(tmp_path / "died") == worker.pid()
    assert worker.die_once.map([tmp_path / "died again"]) == [worker.pid()]
    with pytest.raises(ServiceCrashedError, match="signal 9"):
        worker.die()
    assert asker.state in (ServiceState.RUNNING, ServiceState.STOPPED)


def test_where_its_process_died_the_receipt_says_that_cleanup_could_not_run(
    env: LocalEnvironment, tmp_path: Path
) -> None:
    diary = env.register_service(
        "diary", Diary, tmp_path / "diary", runtime="process", policy=ServicePolicy(critical=False)
    )
    env.start()
    folder = diary.touch()
    os.kill(diary.health().details["pid"], signal.SIGKILL)
    eventually(lambda: diary.state is ServiceState.CRASHED)
    report = env.stop()

    assert "its process ended with signal 9, so its cleanup() could not run" in str(report)
    assert not folder.exists()


def test_kill_skips_stop_but_not_cleanup(env: LocalEnvironment, tmp_path: Path) -> None:
    diary = env.register_service("diary", Diary, tmp_path / "diary", runtime="process")
    env.start()
    pid = diary.health().details["pid"]
    diary.kill()

    assert not is_running(pid)
    assert lines(tmp_path / "diary") == ["init", "start", "cleanup"]
    assert [str(each.outcome) for each in env.stop().services] == ["killed"]


@pytest.mark.parametrize(
    ("acts", "outcome", "error"),
    [
        ({"stop": ValueError("no")}, "failed", "ValueError: no"),
        ({"cleanup": ValueError("no")}, "failed", "ValueError: no"),
        ({"stop": "exit"}, "failed", "its process ended with exit code 3 while it was stopped"),
        ({"stop": "hang"}, "killed", "stop() did not return within 0.5 s"),
        ({"stop": "hog"}, "killed", "stop() did not return within 0.5 s"),
        ({"cleanup": "hang"}, "failed", "cleanup() did not return within 0.5 s"),
    ],
    ids=str,
)
def test_what_goes_wrong_at_the_end_is_told_and_nothing_is_left(
    env: LocalEnvironment, tmp_path: Path, acts: dict[str, Any], outcome: str, error: str
) -> None:
    hangs = {"hang", "hog"}  # only then is the time-out short: the machine may be slow
    policy = ServicePolicy(
        stop_timeout_s=0.5 if acts.get("stop") in hangs else LONG_S,
        cleanup_timeout_s=0.5 if acts.get("cleanup") in hangs else LONG_S,
        kill_timeout_s=4,
    )
    diary = env.register_service("diary", Diary, tmp_path / "diary", runtime="process", policy=policy, **acts)
    env.start()
    pid = diary.health().details["pid"]
    report = env.stop()

    assert not is_running(pid)
    assert [str(each.outcome) for each in report.services] == [outcome]
    assert error in str(report)
    with pytest.raises(BaseExceptionGroup):
        report.check()


@pytest.mark.parametrize("act", ["hang", "hog"])
def test_a_start_that_does_not_return_is_ended(env: LocalEnvironment, tmp_path: Path, act: str) -> None:
    policy = ServicePolicy(start_timeout_s=2, stop_timeout_s=0.5, cleanup_timeout_s=0.5)
    env.register_service("diary", Diary, tmp_path / "diary", runtime="process", policy=policy, start=act)

    with pytest.raises(ReadinessTimeoutError, match=r"was not ready after 2 s: start\(\) did not return"):
        env.start()
    assert "start" in lines(tmp_path / "diary")


def test_a_constructor_that_raises_fails_the_start_with_its_own_error(env: LocalEnvironment, tmp_path: Path) -> None:
    env.register_service("diary", Diary, tmp_path / "diary", runtime="process", init=ValueError("no"))

    with pytest.raises(ServiceStartError, match="its constructor raised ValueError: no") as caught:
        env.start()
    assert isinstance(caught.value.__cause__, ValueError)
    assert "in note" in caught.value.__cause__.__notes__[0]


def test_a_module_that_its_process_cannot_import_is_named(
    env: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here_for_a_test.py").write_text("class Mine:\n    def work(self): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("only_here_for_a_test").Mine
    env.register_service("mine", mine, runtime="process")
    sys.path.remove(str(tmp_path))

    with pytest.raises(ServiceStartError, match="No module named 'only_here_for_a_test'"):
        env.start()


def test_health_checks_restart_one_that_is_unwell(env: LocalEnvironment, tmp_path: Path) -> None:
    health = Health(interval_s=0.05, failure_threshold=1, on_unhealthy="restart")
    moody = env.register_service(
        "moody", Moody, tmp_path / "unwell", runtime="process", policy=ServicePolicy(health=health, restart=AGAIN)
    )
    env.start()
    first = moody.pid()
    (tmp_path / "unwell").touch()
    eventually(lambda: not (tmp_path / "unwell").exists())

    eventually(lambda: moody.state is ServiceState.RUNNING and moody.pid() != first)


def test_a_schedule_calls_run_on_the_same_object(env: LocalEnvironment, tmp_path: Path) -> None:
    policy = ServicePolicy(cron=Cron("* * * * * *", run_on_start=True))
    ticker = env.register_service("ticker", Ticker, tmp_path / "ticks", runtime="process", policy=policy)
    env.start()
    eventually(lambda: len(lines(tmp_path / "ticks")) >= 2)
    pid = ticker.pid()

    assert set(lines(tmp_path / "ticks")) == {str(pid)}


def test_one_that_nobody_calls_rests_and_is_woken_by_the_next_call(env: LocalEnvironment) -> None:
    worker = env.register_service("worker", Worker, runtime="process", policy=ServicePolicy(idle_timeout_s=0.2))
    env.start()
    first = worker.pid()
    eventually(lambda: worker.state is ServiceState.STOPPED)
    assert not is_running(first)

    assert worker.pid() != first


def test_a_restart_by_hand_makes_a_new_process(env: LocalEnvironment) -> None:
    worker = env.register_service("worker", Worker, runtime="process")
    env.start()
    first = worker.pid()
    worker.restart()

    assert worker.pid() != first
    assert not is_running(first)


def test_a_failure_of_the_end_is_a_warning_when_the_job_succeeded(env: LocalEnvironment, tmp_path: Path) -> None:
    env.register_service("diary", Diary, tmp_path / "diary", runtime="process", stop=ValueError("no"))
    env.run(lambda: 7)

    with pytest.warns(CleanupWarning):
        job = env.submit(autostop=True)
    assert job.result() == 7
    with pytest.raises(BaseExceptionGroup) as caught:
        job.report.check()
    assert caught.group_contains(ValueError) or caught.group_contains(ServiceStopError)


def test_twenty_lives_leave_no_descriptor(env: LocalEnvironment) -> None:
    worker = env.register_service("worker", Worker, runtime="process")

    def live() -> None:
        worker.start()
        worker.echo.map(range(3))
        worker.stop()

    live()
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    before = len(os.listdir(folder))
    for _ in range(20):
        live()

    eventually(lambda: len(os.listdir(folder)) <= before)
