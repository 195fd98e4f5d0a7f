"""Bugs of an ancestor (the service manager j8s), one test each, that must not exist here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab import (
    Cron,
    DuplicateServiceError,
    Health,
    Restart,
    Service,
    ServiceManager,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    ServiceStopError,
    UnknownServiceError,
)
from tests.services_for_tests import Diary, Recorder

FAST = Restart("on-failure", max_restarts=2, backoff_s=0.02)


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as services:
        yield services


@pytest.fixture
def diary() -> Diary:
    return Diary()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Script(Service):
    """Writes down its starts; dies a while after each, until it has died often enough."""

    def __init__(self, diary: Diary, *, deaths: int = 1_000_000, after_s: float = 0.02, fail_starts: int = 0) -> None:
        self.diary = diary
        self.deaths = deaths
        self.after_s = after_s
        self.fail_starts = fail_starts

    def start(self) -> None:
        self.diary.append(("it", "start"))
        if len(self.diary.names("start")) <= self.fail_starts:
            raise OSError("not yet")

    def run(self) -> None:
        if len(self.diary.names("start")) > self.deaths:
            self.stopping.wait()
        elif not self.stopping.wait(self.after_s):
            raise OSError("crash")

    def stop(self) -> None:
        self.diary.append(("it", "stop"))

    def cleanup(self) -> None:
        self.diary.append(("it", "cleanup"))


def starts(diary: Diary) -> int:
    return len(diary.names("start"))


def test_01_a_service_that_crashes_late_reaches_its_restart_limit(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("it", Script, diary, after_s=0.15, policy=ServicePolicy(restart=FAST))
    manager.start_all()
    until(lambda: handle.state is ServiceState.CRASHED)

    assert starts(diary) == 3


def test_02_who_waits_for_a_restart_is_told_when_a_stop_voids_it(manager: ServiceManager, diary: Diary) -> None:
    slow = Restart(backoff_s=60, backoff_max_s=60)
    handle = manager.add("it", Script, diary, fail_starts=9, policy=ServicePolicy(restart=slow))
    errors: list[Exception] = []

    def start() -> None:
        try:
            handle.start()
        except ServiceStartError as error:
            errors.append(error)

    waiter = threading.Thread(target=start)
    waiter.start()
    until(lambda: handle.state is ServiceState.BACKOFF)
    handle.stop()
    waiter.join(20)

    assert len(errors) == 1
    assert starts(diary) == 1


def test_03_a_start_that_returns_and_a_run_that_ends_well_are_no_failures(
    manager: ServiceManager, diary: Diary
) -> None:
    class Job(Recorder):
        def run(self) -> None:
            self._do("run")

    handle = manager.add("job", Job, diary, "job", policy=ServicePolicy(restart=FAST))
    manager.start_all()
    until(lambda: handle.state is ServiceState.STOPPED)
    until(lambda: ("job", "cleanup") in diary)

    assert diary.of("job") == ["construct", "start", "run", "cleanup"]


def test_04_a_manual_stop_is_never_answered_by_a_restart(manager: ServiceManager, diary: Diary) -> None:
    class Abort(Script):
        def run(self) -> None:
            self.stopping.wait()
            raise OSError("aborted")

    handle = manager.add("it", Abort, diary, policy=ServicePolicy(restart=Restart("always", backoff_s=0)))
    manager.start_all()
    handle.stop()
    time.sleep(0.2)

    assert (handle.state, starts(diary)) == (ServiceState.STOPPED, 1)


def test_05_a_stop_in_the_middle_of_everything_leaves_nothing_running(manager: ServiceManager, diary: Diary) -> None:
    policy = ServicePolicy(restart=Restart("always", max_restarts=None, backoff_s=0))
    handle = manager.add("it", Script, diary, after_s=0.001, policy=policy)
    for delay_ms in range(0, 40, 2):
        manager.start_all()
        time.sleep(delay_ms / 1000)
        manager.stop_all()
        before = starts(diary)
        assert handle.state is ServiceState.STOPPED
        time.sleep(0.005)
        assert (handle.state, starts(diary)) == (ServiceState.STOPPED, before)


def test_06_a_restart_that_fails_hurts_nobody_else(manager: ServiceManager, diary: Diary) -> None:
    class Once(Script):
        def start(self) -> None:
            super().start()
            if starts(self.diary) > 1:
                raise SystemExit(1)

    bad = manager.add("bad", Once, diary, policy=ServicePolicy(restart=FAST))
    good = manager.add("good", Recorder, Diary(), "good")
    manager.start_all()
    until(lambda: bad.state is ServiceState.CRASHED)

    assert good.echo(1) == 1


@pytest.mark.leaves_thread("service hang")
def test_07_a_stop_that_hangs_is_bounded_reported_and_named(diary: Diary) -> None:
    never = threading.Event()
    policy = ServicePolicy(stop_timeout_s=0.2, kill_timeout_s=0.1)
    with ServiceManager() as manager:
        manager.add("hang", Recorder, diary, "hang", stop=never, policy=policy)
        manager.start_all()
        began = time.monotonic()
        report = manager.stop_all()

        assert time.monotonic() - began < 10
        assert str(report["hang"].outcome) == "abandoned"
    never.set()


class Ticker(Service):
    """Counts how many of its runs go on at once."""

    def __init__(self, run_s: float, diary: Diary) -> None:
        self.run_s = run_s
        self.diary = diary
        self.now = 0

    def run(self) -> None:
        self.now += 1
        self.diary.append(("runs at once", str(self.now)))
        self.stopping.wait(self.run_s)
        self.now -= 1
        self.diary.append(("run", "ended"))


def test_08a_runs_of_a_schedule_never_overlap(manager: ServiceManager, diary: Diary) -> None:
    manager.add("tick", Ticker, 1.3, diary, policy=ServicePolicy(cron=Cron("* * * * * *", run_on_start=True)))
    manager.start_all()
    until(lambda: len(diary.of("run")) >= 2)

    assert set(diary.of("runs at once")) == {"1"}


def test_08b_a_time_out_belongs_to_its_own_run(manager: ServiceManager, diary: Diary) -> None:
    cron = Cron("* * * * * *", run_timeout_s=0.7, run_on_start=True)
    handle = manager.add("tick", Ticker, 0.1, diary, policy=ServicePolicy(cron=cron))
    manager.start_all()
    until(lambda: len(diary.of("run")) >= 3)

    assert handle.state in (ServiceState.WAITING, ServiceState.RUNNING)
    assert "runs failed" not in str(manager.stop_all())


def test_08c_a_stop_disarms_a_schedule_and_a_start_arms_it_again(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("tick", Ticker, 0, diary, policy=ServicePolicy(cron="* * * * * *"))
    manager.start_all()
    handle.stop()
    before = len(diary)
    time.sleep(1.2)
    assert len(diary) == before
    handle.start()
    until(lambda: len(diary) > before)


def test_08d_a_schedule_and_a_start_by_hand_share_one_life(manager: ServiceManager, diary: Diary) -> None:
    class Lasting(Recorder):
        def run(self) -> None:
            self._do("run")
            self.stopping.wait()

    handle = manager.add("it", Lasting, diary, "it", policy=ServicePolicy(cron=Cron("* * * * * *", run_on_start=True)))
    manager.start_all()
    until(lambda: handle.state is ServiceState.RUNNING)
    handle.start()
    time.sleep(1.2)  # at least one further tick
    handle.stop()

    assert diary.of("it") == ["construct", "start", "run", "stop", "cleanup"]


def test_08e_a_late_run_is_ended_and_the_next_one_has_a_new_object(manager: ServiceManager, diary: Diary) -> None:
    class Late(Recorder):
        def run(self) -> None:
            self._do("run")
            self.stopping.wait(60)

    cron = Cron("* * * * * *", run_timeout_s=0.2, run_on_start=True)
    manager.add("late", Late, diary, "late", policy=ServicePolicy(cron=cron, stop_timeout_s=1))
    manager.start_all()
    until(lambda: diary.of("late").count("run") >= 2)

    assert diary.of("late")[:6] == ["construct", "start", "run", "stop", "cleanup", "construct"]


def test_09_starting_twice_starts_once(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("a", Recorder, diary, "a", start=0.05)
    threads = [threading.Thread(target=handle.start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.start_all()

    assert diary.names("start") == ["a"]


@pytest.mark.parametrize(("limit", "expected"), [(0, 1), (1, 2)])
def test_10_a_limit_of_no_restarts_means_none(manager: ServiceManager, diary: Diary, limit: int, expected: int) -> None:
    rule = Restart(max_restarts=limit, backoff_s=0.01)
    handle = manager.add("it", Script, diary, policy=ServicePolicy(restart=rule))
    manager.start_all()
    until(lambda: handle.state is ServiceState.CRASHED)

    assert starts(diary) == expected


def test_10b_a_start_resolves_when_a_later_try_succeeds(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("it", Script, diary, deaths=0, fail_starts=1, policy=ServicePolicy(restart=FAST))
    handle.start()

    assert (handle.state, starts(diary)) == (ServiceState.RUNNING, 2)


def test_11_a_stop_of_all_with_a_failing_one_stops_the_others_reports_and_logs(
    manager: ServiceManager, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    manager.add("bad", Recorder, diary, "bad", stop=OSError("will not"))
    manager.add("good", Recorder, diary, "good")
    manager.start_all()
    with caplog.at_level(logging.ERROR):
        report = manager.stop_all()

    assert str(report["bad"].outcome) == "failed"
    assert sorted(diary.names("stop")) == ["bad", "good"]
    assert "Service 'bad' failed to stop" in caplog.text
    assert "will not" in caplog.text


def test_12_a_death_is_seen_at_once_without_a_probe(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("it", Script, diary, policy=ServicePolicy(health=Health(interval_s=60)))
    manager.start_all()
    until(lambda: handle.state is ServiceState.CRASHED)

    assert not manager.health("it")
    assert "OSError: crash" in str(manager.health("it").error)


def test_13_services_start_and_stop_in_the_order_of_their_dependencies(manager: ServiceManager, diary: Diary) -> None:
    manager.add("web", Recorder, diary, "web", policy=ServicePolicy(depends_on=["api"]))
    manager.add("api", Recorder, diary, "api", policy=ServicePolicy(depends_on=["db"]))
    manager.add("db", Recorder, diary, "db")
    manager.start_all()
    manager.stop_all()

    assert diary.names("start") == ["db", "api", "web"]
    assert diary.names("stop") == ["web", "api", "db"]


def test_14_a_failed_start_of_all_rolls_back_and_keeps_every_cause(manager: ServiceManager, diary: Diary) -> None:
    manager.add("ok", Recorder, diary, "ok")
    manager.add("bad", Recorder, diary, "bad", start=OSError("no port"), policy=ServicePolicy(depends_on=["ok"]))
    with pytest.raises(ExceptionGroup) as caught:
        manager.start_all()

    (error,) = caught.value.exceptions
    assert isinstance(error.__cause__, OSError)
    assert diary.names("stop") == ["ok"]


def test_15_removing_a_service_in_backoff_leaves_nobody_waiting(manager: ServiceManager, diary: Diary) -> None:
    slow = Restart(backoff_s=60, backoff_max_s=60)
    handle = manager.add("it", Script, diary, policy=ServicePolicy(restart=slow))
    manager.start_all()
    until(lambda: handle.state is ServiceState.BACKOFF)
    manager.remove("it")

    assert manager.services == {}
    assert starts(diary) == 1
    with pytest.raises(UnknownServiceError):
        manager.start("it")


def test_16_a_service_whose_stop_failed_stays_ours_and_can_be_removed(manager: ServiceManager, diary: Diary) -> None:
    manager.add("bad", Recorder, diary, "bad", stop=OSError("will not"))
    manager.start_all()
    with pytest.raises(ServiceStopError, match="will not"):
        manager.remove("bad")
    assert "bad" in manager.services
    with pytest.raises(DuplicateServiceError):
        manager.add("bad", Recorder, diary, "bad")
    manager.remove("bad")

    assert manager.services == {}


# -- and what belongs to them ------------------------------------------------------------------------------


def test_unwell_and_well_again(manager: ServiceManager) -> None:
    class Patient(Service):
        is_well: Any = True

        def health_check(self) -> bool:
            return bool(Patient.is_well)

    handle = manager.add("p", Patient, policy=ServicePolicy(health=Health(interval_s=0.02, failure_threshold=2)))
    manager.start_all()
    Patient.is_well = False
    until(lambda: handle.state is ServiceState.UNHEALTHY)
    Patient.is_well = True
    until(lambda: handle.state is ServiceState.RUNNING)


def test_unwell_and_restarted(manager: ServiceManager, diary: Diary) -> None:
    class Patient(Recorder):
        def health_check(self) -> bool:
            return len(self.diary.names("start")) > 1

    health = Health(interval_s=0.02, failure_threshold=2, on_unhealthy="restart")
    handle = manager.add("p", Patient, diary, "p", policy=ServicePolicy(health=health, restart=FAST))
    manager.start_all()
    until(lambda: len(diary.names("start")) == 2 and handle.state is ServiceState.RUNNING)

    assert diary.of("p") == ["construct", "start", "stop", "cleanup", "construct", "start"]


@pytest.mark.leaves_thread("health checks")
def test_a_hung_check_counts_as_failed_and_hinders_no_other(diary: Diary) -> None:
    never = threading.Event()

    class Hung(Service):
        def health_check(self) -> None:
            never.wait()

    class Well(Service):
        def health_check(self) -> None:
            diary.append(("well", "checked"))

    policy = ServicePolicy(health=Health(interval_s=0.02, timeout_s=0.1, failure_threshold=1))
    with ServiceManager() as manager:
        hung = manager.add("hung", Hung, policy=policy)
        well = manager.add("well", Well, policy=policy)
        manager.start_all()
        until(lambda: hung.state is ServiceState.UNHEALTHY)
        before = len(diary)
        until(lambda: len(diary) > before + 5)
        assert well.state is ServiceState.RUNNING
        never.set()


def test_an_idle_service_is_stopped_and_the_next_call_wakes_it(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("a", Recorder, diary, "a", policy=ServicePolicy(idle_timeout_s=0.1))
    manager.start_all()
    until(lambda: handle.state is ServiceState.STOPPED)

    assert handle.echo("wake") == "wake"
    assert diary.of("a")[:5] == ["construct", "start", "stop", "cleanup", "construct"]


@pytest.mark.parametrize(("strategy", "others"), [("one_for_one", 1), ("rest_for_one", 2)])
def test_a_strategy_says_who_restarts_with_a_service(
    manager: ServiceManager, diary: Diary, strategy: str, others: int
) -> None:
    its_own = Diary()
    rule = Restart(backoff_s=0.02, strategy=strategy)
    handle = manager.add("it", Script, its_own, deaths=1, policy=ServicePolicy(restart=rule))
    top = manager.add("top", Recorder, diary, "top", policy=ServicePolicy(depends_on=["it"]))
    manager.start_all()
    until(lambda: starts(its_own) == 2 and handle.state is ServiceState.RUNNING)
    until(lambda: diary.names("start") == ["top"] * others and top.state is ServiceState.RUNNING)


def test_always_and_unless_stopped_differ_after_a_stop_by_hand(manager: ServiceManager, diary: Diary) -> None:
    always = manager.add("always", Recorder, diary, "always", policy=ServicePolicy(restart="always"))
    unless = manager.add("unless", Recorder, diary, "unless", policy=ServicePolicy(restart="unless-stopped"))
    manager.start_all()
    always.stop()
    unless.stop()
    manager.start_all()
    assert (always.state, unless.state) == (ServiceState.RUNNING, ServiceState.STOPPED)
    unless.start()
    assert unless.state is ServiceState.RUNNING
