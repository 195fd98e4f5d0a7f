from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab import Command, Cron, Health, LocalEnvironment, Service, ServiceManager, ServicePolicy
from autostop_lab.exceptions import ConfigurationError, ServiceStopError
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.supervisor.cron import LARGEST_SETBACK_S
from autostop_lab.supervisor.outcome import Outcome
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import played, supervise

BERLIN = "Europe/Berlin"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN), fold=fold)


def ticks(schedule: str, start: datetime, number: int, timezone: str = BERLIN) -> list[str]:
    """Return the next ticks as a clock in the zone shows them, with the offset to UTC."""
    rule, moment, found = Cron(schedule, timezone=timezone), start, []
    for _ in range(number):
        moment = rule.next_after(moment)
        found.append(moment.astimezone(ZoneInfo(timezone)).strftime("%d %H:%M%z"))
    return found


# -- the schedule ------------------------------------------------------------------------------------------


def test_a_schedule_of_five_fields_ticks_by_the_minute() -> None:
    assert ticks("*/20 9-10 * * *", berlin("2026-06-01T08:50"), 4) == [
        *("01 09:00+0200", "01 09:20+0200", "01 09:40+0200", "01 10:00+0200")
    ]


def test_the_first_of_six_fields_are_the_seconds() -> None:
    rule = Cron("*/10 * * * * *", timezone="UTC")

    assert rule.next_after(MIDNIGHT) == MIDNIGHT + timedelta(seconds=10)


def test_in_spring_what_falls_into_the_missing_hour_runs_once_right_after_it() -> None:
    assert ticks("30 2 * * *", berlin("2026-03-28T00:00"), 3) == ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]


def test_in_spring_a_tick_each_half_hour_has_no_gap_and_no_double() -> None:
    assert ticks("*/30 * * * *", berlin("2026-03-29T01:00"), 3) == ["29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]


def test_in_autumn_what_falls_into_the_double_hour_runs_once() -> None:
    assert ticks("30 2 * * *", berlin("2026-10-24T12:00"), 2) == ["25 02:30+0200", "26 02:30+0100"]


def test_in_autumn_a_tick_each_half_hour_comes_in_both_hours() -> None:
    assert ticks("*/30 * * * *", berlin("2026-10-25T01:30"), 5) == [
        *("25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100")
    ]


def test_in_the_second_of_the_double_hours_the_tick_of_the_first_is_over() -> None:
    moment = berlin("2026-10-25T02:10", fold=1)

    assert ticks("30 2 * * *", moment, 1) == ["26 02:30+0100"]


@given(
    st.datetimes(datetime(2026, 3, 27), datetime(2026, 3, 31))
    | st.datetimes(datetime(2026, 10, 23), datetime(2026, 10, 27)),
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0,30 1-3 * * *", "15 */2 * * *", "0 0 2 * * *", "59 * * * *"]),
)
def test_around_a_change_of_clocks_the_next_tick_is_always_later(moment: datetime, schedule: str) -> None:
    rule = Cron(schedule, timezone=BERLIN)
    at = moment.replace(tzinfo=UTC)
    for _ in range(5):
        following = rule.next_after(at).astimezone(UTC)
        assert following > at
        at = following


@pytest.mark.parametrize("schedule", ["", "* * * *", "60 * * * *", "x * * * *", "0 0 30 2 *", 5])
def test_a_schedule_that_is_none_or_never_comes_is_refused(schedule: Any) -> None:
    with pytest.raises(ConfigurationError, match="Cron"):
        Cron(schedule)


def test_an_unknown_time_zone_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigurationError, match="'Europe/Berlin'"):
        Cron("* * * * *", timezone="Europe/Atlantis")


def test_a_string_is_short_for_a_schedule() -> None:
    assert ServicePolicy(cron="* * * * *").cron_rule == Cron("* * * * *")


def test_restart_beside_cron_is_refused_and_told_why() -> None:
    with pytest.raises(ConfigurationError, match="repeated by the next tick"):
        ServicePolicy(cron="* * * * *", restart="on-failure")


def test_a_restart_of_unhealthy_ones_beside_cron_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="on_unhealthy='report'"):
        ServicePolicy(cron="* * * * *", health=Health(on_unhealthy="restart"))


def test_a_schedule_for_a_class_without_run_is_refused() -> None:
    class Idle(Service):
        pass

    with LocalEnvironment("test") as env, pytest.raises(ConfigurationError, match="Idle has no run"):
        env.register_service("idle", Idle, policy=ServicePolicy(cron="* * * * *"))


# -- on a fake clock ---------------------------------------------------------------------------------------


def scheduled(*scripts: Script, schedule: str = "* * * * *", **policy: Any) -> FakeService:
    """Return a service with a schedule in UTC; the wall clock of a fake clock begins on the minute."""
    cron = {key: policy.pop(key) for key in ("run_timeout_s", "overlap", "run_on_start", "timezone") if key in policy}
    return FakeService("a", *scripts, cron=Cron(schedule, **{"timezone": "UTC", **cron}), **policy)


@played
async def test_it_starts_once_and_runs_at_each_tick_on_the_same_object(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=5.0))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(200)

    assert service.times("run") == [60, 120, 180]
    assert service.count("launch") == 1
    assert ends == []


@played
async def test_between_runs_it_waits_and_the_next_run_is_seen(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=5.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    slot = supervisor.unit("a").slot
    seen = []
    for pause_s in (1, 61, 5):
        await asyncio.sleep(pause_s)
        seen.append((slot.state, slot.next_at))

    assert seen == [(S.WAITING, 60), (S.RUNNING, 120), (S.WAITING, 120)]


@played
async def test_run_on_start_begins_with_a_run(clock: FakeClock) -> None:
    service = scheduled(run_on_start=True)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(70)

    assert service.times("run") == [0, 60]


@pytest.mark.parametrize(("overlap", "runs"), [("skip", [60, 180, 300]), ("queue", [60, 160, 260])])
@played
async def test_a_tick_during_a_run_is_skipped_or_queued_once(clock: FakeClock, overlap: str, runs: list[float]) -> None:
    service = scheduled(Script(run_s=100.0), overlap=overlap)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(350)

    assert service.times("run") == runs
    assert service.most_runs_at_once == 1


@played
async def test_many_ticks_during_a_run_queue_one(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=250.0), overlap="queue")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(600)

    assert service.times("run") == [60, 310, 560]


@played
async def test_cancel_ends_the_run_that_goes_on_and_a_new_object_takes_its_place(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=math.inf), overlap="cancel", stop_timeout_s=2)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(130)

    assert service.times("run") == [60, 122]
    assert service.most_runs_at_once == service.most_at_once == 1
    assert [str(error) for error in supervisor.unit("a").life.failed_runs] == ["service 'a': a new run takes its place"]


@played
async def test_a_late_run_is_ended_and_the_next_tick_is_its_retry(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=math.inf), Script(run_s=1.0), run_timeout_s=10, stop_timeout_s=2)
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(200)

    assert service.times("run") == [60, 120, 180]
    assert service.times("launch") == [0, 72]
    (error,) = supervisor.unit("a").life.failed_runs
    assert isinstance(error, ServiceStopError)
    assert "its run took longer than 10 s" in str(error)
    assert ends == []


@played
async def test_a_time_out_belongs_to_its_own_run(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=8.0), schedule="*/10 * * * * *", run_timeout_s=9)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(605)

    assert service.count("run") == 60
    assert service.count("launch") == 1
    assert supervisor.unit("a").life.failed_runs == []


@played
async def test_a_failed_run_is_recorded_cleaned_and_followed_by_a_new_object(clock: FakeClock) -> None:
    error = OSError("no disk")
    service = scheduled(Script(run_s=1.0, run_error=error), Script(run_s=1.0))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(62)
    slot = supervisor.unit("a").slot
    assert (slot.state, slot.reason, slot.next_at) == (S.WAITING, "run failed: OSError: no disk", 120)
    await asyncio.sleep(60)
    await supervisor.stop(["a"])

    assert [what for at, what in service.diary if at == 61] == [
        *("stop", "gone", "cleanup", "release", "launch", "ready")
    ]
    assert service.times("run") == [60, 120]
    life = supervisor.unit("a").life
    assert (life.failed_runs, life.outcome) == ([error], Outcome.STOPPED)
    assert ends == []


@played
async def test_where_no_new_object_can_be_made_the_next_tick_tries_again(clock: FakeClock) -> None:
    broken = Script(start_error=OSError("no port"))
    service = scheduled(Script(run_error=OSError()), broken, broken, Script())
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(61)
    assert supervisor.unit("a").state is S.WAITING
    await asyncio.sleep(200)

    assert service.times("launch") == [0, 60, 120, 180]
    assert service.times("run") == [60, 180, 240]
    assert len(supervisor.unit("a").life.failed_runs) == 3
    await supervisor.stop(["a"])
    assert service.count("cleanup") == 4


@played
async def test_what_fails_at_the_end_of_a_replaced_object_stays_on_the_record(clock: FakeClock) -> None:
    error = OSError("left open")
    service = scheduled(Script(run_error=OSError(), cleanup_error=error), Script())
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(130)
    await supervisor.stop(["a"])

    assert supervisor.unit("a").life.errors == [("cleanup", error)]


@played
async def test_a_run_that_cannot_be_ended_leaves_the_service_abandoned_and_told_of(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=math.inf, kill_s=math.inf), run_timeout_s=5, stop_timeout_s=1)
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(600)

    assert supervisor.unit("a").state is S.ABANDONED
    assert service.count("launch") == service.count("run") == 1
    assert ends.names() == ["a"]


@played
async def test_a_stop_disarms_the_schedule_and_a_start_arms_it_again(clock: FakeClock) -> None:
    service = scheduled()
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(70)
    await supervisor.stop(["a"])
    await asyncio.sleep(600)
    assert service.times("run") == [60]
    await supervisor.start(["a"])
    await asyncio.sleep(60)

    assert service.times("run") == [60, 720]


@played
async def test_a_stop_during_a_run_waits_for_it(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=8.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(62)
    await supervisor.stop(["a"])

    assert clock.now() == 68
    life = supervisor.unit("a").life
    assert (life.outcome, life.failed_runs) == (Outcome.STOPPED, [])


@played
async def test_a_run_that_raises_while_it_is_stopped_is_no_failure(clock: FakeClock) -> None:
    service = scheduled(Script(run_s=8.0, run_error=RuntimeError("aborted")))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(62)
    await supervisor.stop(["a"])

    unit = supervisor.unit("a")
    assert (unit.state, unit.life.outcome, ends) == (S.STOPPED, Outcome.STOPPED, [])


@played
async def test_a_stop_while_a_failed_run_is_cleared_starts_nothing(clock: FakeClock) -> None:
    service = scheduled(Script(run_error=OSError(), cleanup_s=5.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(62)
    await supervisor.stop(["a"])

    assert clock.now() == 65
    assert service.count("launch") == 1
    assert supervisor.unit("a").state is S.STOPPED


@played
async def test_a_new_object_after_a_failed_run_is_looked_at_and_has_its_own_lifetime(clock: FakeClock) -> None:
    service = scheduled(
        Script(run_s=1.0, run_error=OSError()),
        Script(health=[False]),
        health=Health(interval_s=7, failure_threshold=1),
        max_lifetime_s=300,
    )
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(300)
    assert supervisor.unit("a").is_live
    assert service.count("health") > 30
    await asyncio.sleep(62)

    assert supervisor.unit("a").state is S.STOPPED
    assert supervisor.unit("a").slot.reason == "lifetime"


# -- the clock on the wall ---------------------------------------------------------------------------------


@pytest.fixture
def wall_clock() -> Iterator[FakeClock]:
    with FakeClock(berlin("2026-10-24T12:00")) as fake_clock:
        yield fake_clock


def runs_by_the_wall(clock: FakeClock, service: FakeService, start: datetime) -> list[str]:
    zone = ZoneInfo(BERLIN)
    return [datetime.fromtimestamp(start.timestamp() + at, zone).strftime("%d %H:%M%z") for at in service.times("run")]


def test_over_a_night_in_autumn_each_service_runs_as_its_schedule_says(wall_clock: FakeClock) -> None:
    nightly = FakeService("nightly", cron=Cron("30 2 * * *", timezone=BERLIN))
    hourly = FakeService("hourly", cron=Cron("15 * * * *", timezone=BERLIN))

    async def story() -> None:
        supervisor, _ = supervise(wall_clock, nightly, hourly)
        await supervisor.start(["nightly", "hourly"])
        await asyncio.sleep(48 * 3600)
        await supervisor.stop(["nightly", "hourly"])

    wall_clock.run(story())
    start = berlin("2026-10-24T12:00")
    assert runs_by_the_wall(wall_clock, nightly, start) == ["25 02:30+0200", "26 02:30+0100"]
    assert hourly.count("run") == 48
    assert all(later - earlier == 3600 for earlier, later in itertools.pairwise(hourly.times("run")))


def test_one_that_is_started_in_the_second_of_the_double_hours_waits_for_the_next_day() -> None:
    start = berlin("2026-10-25T02:10", fold=1)
    service = FakeService("a", cron=Cron("30 2 * * *", timezone=BERLIN))
    with FakeClock(start) as clock:

        async def story() -> None:
            supervisor, _ = supervise(clock, service)
            await supervisor.start(["a"])
            await asyncio.sleep(26 * 3600)

        clock.run(story())
        assert runs_by_the_wall(clock, service, start) == ["26 02:30+0100"]


@played
async def test_a_clock_that_is_set_back_a_little_repeats_no_run(clock: FakeClock) -> None:
    service = scheduled(schedule="0 * * * *")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600 + 60)
    clock.set_wall(3000.0)
    await asyncio.sleep(600 + 120)
    assert service.count("run") == 1
    await asyncio.sleep(3600)

    assert service.count("run") == 2


@played
async def test_a_clock_that_was_wrong_by_a_year_is_followed_when_it_is_set_right(clock: FakeClock) -> None:
    clock.set_wall(datetime(2027, 1, 1, tzinfo=UTC))
    service = scheduled(schedule="0 * * * *")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(60)
    clock.set_wall(MIDNIGHT)
    await asyncio.sleep(2 * 3600 + 60)

    assert service.count("run") == 2


@played
async def test_a_clock_that_is_set_forward_runs_what_it_skipped_once(clock: FakeClock) -> None:
    service = scheduled(schedule="0 * * * *")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(60)
    clock.set_wall(5 * 3600.0 + 60)
    await asyncio.sleep(31)
    assert service.count("run") == 1
    await asyncio.sleep(3600)

    assert service.count("run") == 2


def test_the_largest_setback_is_as_in_debian() -> None:
    assert LARGEST_SETBACK_S == 3 * 3600


# -- with real services, in real time ----------------------------------------------------------------------

EACH_SECOND = ServicePolicy(cron="* * * * * *")


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


class Ticker(Service):
    """Counts its runs."""

    def __init__(self, runs: list[int]) -> None:
        self.runs = runs

    def run(self) -> None:
        self.runs.append(threading.get_ident())

    def answer(self) -> int:
        return 42


def test_a_python_service_runs_each_second_and_takes_calls_between_runs() -> None:
    runs: list[int] = []
    with ServiceManager() as manager:
        ticker = manager.add("ticker", Ticker, runs, policy=EACH_SECOND)
        manager.start_all()
        assert ticker.state is S.WAITING
        assert ticker.answer() == 42
        until(lambda: len(runs) >= 2)
    count = len(runs)
    time.sleep(1.2)

    assert len(runs) == count


class Flaky(Service):
    """Fails in its first life."""

    lives = 0

    def __init__(self) -> None:
        type(self).lives += 1

    def run(self) -> None:
        if self.lives == 1:
            raise OSError("no disk")

    def life(self) -> int:
        return self.lives


def test_a_failed_run_of_a_python_service_is_in_the_receipt_and_calls_reach_the_new_object() -> None:
    with ServiceManager() as manager:
        flaky = manager.add("flaky", Flaky, policy=ServicePolicy(cron=Cron("* * * * * *", run_on_start=True)))
        manager.start_all()
        until(lambda: flaky.life() == 2)
        report = manager.stop_all()

    assert report["flaky"].note == "1 runs failed, the last with OSError: no disk"
    assert str(report["flaky"].outcome) == "stopped"


def test_a_program_with_a_schedule_is_launched_for_each_run(tmp_path: Any) -> None:
    log = tmp_path / "log"
    with ServiceManager() as manager:
        script = "echo $$ >> " + str(log)
        manager.add("job", Command, ["sh", "-c", script], policy=EACH_SECOND)
        manager.start_all()
        until(lambda: log.exists() and len(log.read_text().split()) >= 2)
        report = manager.stop_all()

    assert len(set(log.read_text().split())) == len(log.read_text().split())
    assert str(report["job"].outcome) == "stopped"


def test_a_program_whose_run_fails_is_recorded_with_its_exit_code_and_runs_again(tmp_path: Any) -> None:
    log = tmp_path / "log"
    with ServiceManager() as manager:
        manager.add("job", Command, ["sh", "-c", f"echo x >> {log}; exit 3"], policy=EACH_SECOND)
        manager.start_all()
        until(lambda: log.exists() and len(log.read_text().split()) >= 2)
        report = manager.stop_all()

    assert any("exit code 3" in str(error) for error in report["job"].failed_runs)


def test_a_late_run_of_a_program_is_killed_with_its_tree(tmp_path: Any) -> None:
    pid_file = tmp_path / "pid"
    policy = ServicePolicy(cron=Cron("* * * * * *", run_timeout_s=0.3), stop_timeout_s=0.2)
    script = f"trap '' TERM; sleep 100 & echo $! > {pid_file}; wait"
    with ServiceManager() as manager:
        handle = manager.add("job", Command, ["sh", "-c", script], policy=policy)
        manager.start_all()
        until(pid_file.exists)
        unit = manager._environment._supervise()[1].unit("job")
        until(lambda: unit.life.failed_runs)
        assert handle.state in (S.WAITING, S.RUNNING)


def test_a_schedule_never_keeps_a_job_open() -> None:
    runs: list[int] = []
    with LocalEnvironment("test") as env:
        env.register_service("ticker", Ticker, runs, policy=ServicePolicy(cron=Cron("* * * * *", run_on_start=True)))
        env.run(lambda: until(lambda: runs))
        report = env.submit(autostop=True).report

    assert report is not None
    assert str(report["ticker"].outcome) == "stopped"
