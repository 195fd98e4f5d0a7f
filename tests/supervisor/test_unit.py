from __future__ import annotations

import asyncio
import math

import pytest

from autostop_lab.events import ServiceMoved
from autostop_lab.exceptions import ReadinessTimeoutError, ServiceStopError
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.outcome import Outcome
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import begin, played, refused, supervise

# -- start -------------------------------------------------------------------------------------------------


@played
async def test_two_starts_at_once_launch_once(clock: FakeClock) -> None:
    service = FakeService("a", Script(ready_after_s=1.0))
    supervisor, _ = supervise(clock, service)
    await asyncio.gather(supervisor.start(["a"]), supervisor.start(["a"], by_hand=True))

    assert service.diary == [(0, "launch"), (1, "ready")]


@played
async def test_a_start_of_what_runs_changes_nothing(clock: FakeClock) -> None:
    service = FakeService("a")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.start(["a"], by_hand=True)

    assert service.count("launch") == 1


@played
async def test_a_start_during_a_stop_waits_for_it_and_begins_a_new_life(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=2.0, cleanup_s=1.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    stopping = begin(supervisor.stop(["a"]))
    await asyncio.sleep(1)
    await supervisor.start(["a"])

    assert stopping.done()
    assert service.times("launch") == [0, 3]
    assert service.most_at_once == 1


@played
async def test_a_start_that_is_late_is_ended_politely_and_told_of(clock: FakeClock) -> None:
    service = FakeService("a", Script(ready_after_s=math.inf), start_timeout_s=5)
    supervisor, _ = supervise(clock, service)
    with pytest.raises(ReadinessTimeoutError, match="service 'a' was not ready after 5 s"):
        await supervisor.start(["a"])

    assert [what for _, what in service.diary] == ["launch", "stop", "gone", "cleanup", "release"]
    assert supervisor.unit("a").state is S.CRASHED
    assert supervisor.unit("a").life.outcome is Outcome.FAILED


# -- stop --------------------------------------------------------------------------------------------------


@played
async def test_stops_at_once_stop_once_and_all_return_when_it_is_over(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=2.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.gather(*(supervisor.stop(["a"]) for _ in range(10)))

    assert clock.now() == 2
    assert (service.count("stop"), service.count("cleanup")) == (1, 1)


@played
async def test_a_stop_before_it_is_ready_ends_it_and_tells_who_waits(clock: FakeClock) -> None:
    service = FakeService("a", Script(ready_after_s=10.0))
    supervisor, _ = supervise(clock, service)
    starting = begin(supervisor.start(["a"]))
    await asyncio.sleep(1)
    await supervisor.stop(["a"], reason="no longer needed")

    await refused(starting, r"'a': it was stopped before it was ready \(no longer needed\)")
    assert clock.now() == 1
    assert [what for _, what in service.diary] == ["launch", "stop", "gone", "cleanup", "release"]
    assert supervisor.unit("a").state is S.STOPPED
    assert supervisor.unit("a").life.outcome is Outcome.STOPPED


@played
async def test_a_stop_of_what_is_at_rest_changes_nothing(clock: FakeClock) -> None:
    service = FakeService("a")
    supervisor, _ = supervise(clock, service)
    await supervisor.stop(["a"])
    await supervisor.start(["a"])
    await supervisor.stop(["a"])
    diary = list(service.diary)
    await supervisor.stop(["a"])

    assert service.diary == diary


@played
async def test_a_late_stop_is_followed_by_a_kill_and_by_cleanup(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=math.inf), stop_timeout_s=4)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"])

    assert service.diary[2:] == [(0, "stop"), (4, "kill"), (4, "gone"), (4, "cleanup"), (4, "release")]
    life = supervisor.unit("a").life
    assert (life.outcome, supervisor.unit("a").state) == (Outcome.KILLED, S.STOPPED)
    ((phase, error),) = life.errors
    assert phase == "stop"
    assert isinstance(error, ServiceStopError)
    assert "stop() did not return within 4 s" in str(error)


@played
async def test_what_cannot_be_killed_is_abandoned_and_named(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=math.inf, kill_s=math.inf), stop_timeout_s=4, kill_timeout_s=2)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"])

    unit = supervisor.unit("a")
    assert (unit.state, unit.life.outcome, clock.now()) == (S.ABANDONED, Outcome.ABANDONED, 6)
    assert unit.life.survivor == "life 1 of fake service 'a'"
    assert service.count("cleanup") == 1


@played
async def test_a_stop_that_raises_is_on_the_record_and_cleanup_runs(clock: FakeClock) -> None:
    error = OSError("no")
    service = FakeService("a", Script(stop_error=error))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"])

    unit = supervisor.unit("a")
    assert (unit.state, unit.life.outcome, unit.life.errors) == (S.STOPPED, Outcome.FAILED, [("stop", error)])
    assert service.count("cleanup") == 1


@played
async def test_a_cleanup_that_hangs_is_left_after_its_time_out(clock: FakeClock) -> None:
    service = FakeService("a", Script(cleanup_s=math.inf), cleanup_timeout_s=3)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"])

    assert clock.now() == 3
    assert supervisor.unit("a").life.errors[0][0] == "cleanup"


@played
async def test_a_kill_skips_the_polite_stop(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=5.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"], kill=True)

    assert clock.now() == 0
    assert (service.count("stop"), service.count("kill"), service.count("cleanup")) == (0, 1, 1)
    assert supervisor.unit("a").life.outcome is Outcome.KILLED


@pytest.mark.parametrize("how", ["kill", "hurry"])
@played
async def test_the_rest_of_a_grace_period_can_be_skipped(clock: FakeClock, how: str) -> None:
    service = FakeService("a", Script(stop_s=math.inf), stop_timeout_s=100)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    stopping = begin(supervisor.stop(["a"]))
    await asyncio.sleep(1)
    if how == "kill":
        await supervisor.stop(["a"], kill=True)
    else:
        supervisor.hurry()
    await stopping

    assert clock.now() < 2
    assert supervisor.unit("a").life.outcome is Outcome.KILLED


# -- its own end -------------------------------------------------------------------------------------------


@played
async def test_a_clean_exit_is_no_crash_and_is_cleaned_at_once(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=5.0, exit=Exit(code=0)))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(5.5)

    unit = supervisor.unit("a")
    assert (unit.state, unit.life.outcome) == (S.STOPPED, Outcome.EXITED)
    assert unit.life.exit == Exit(code=0)
    assert service.diary[-1] == (5, "release")
    assert ends == [("a", Exit(code=0))]


@played
async def test_a_crash_without_a_policy_is_final_told_of_and_cleaned(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=5.0, exit=Exit(code=-9)))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    unit = supervisor.unit("a")
    assert (unit.state, unit.life.outcome, unit.slot.reason) == (S.CRASHED, Outcome.EXITED, "signal 9")
    assert service.count("launch") == service.count("cleanup") == 1
    assert ends == [("a", Exit(code=-9))]


@played
async def test_a_death_by_our_own_stop_is_no_crash(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=1.0, exit=Exit(code=1)), restart="always")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    stopping = begin(supervisor.stop(["a"]))
    await asyncio.sleep(0.5)
    service.end(Exit(error=RuntimeError("aborted")))
    await stopping
    await asyncio.sleep(3600)

    assert supervisor.unit("a").state is S.STOPPED
    assert service.count("launch") == 1
    assert ends == []


@played
async def test_one_that_exited_with_something_left_is_not_started_again(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=5.0))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    service.life.survivor = lambda: "pid 4312"  # type: ignore[method-assign]
    await asyncio.sleep(10)

    assert supervisor.unit("a").life.outcome is Outcome.ABANDONED
    await refused(begin(supervisor.start(["a"], by_hand=True)), "pid 4312")


# -- what is told ------------------------------------------------------------------------------------------


@played
async def test_each_move_is_told_with_its_reason(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=math.inf), stop_timeout_s=1)
    supervisor, _ = supervise(clock, service)
    moves: list[ServiceMoved] = []
    supervisor.listeners.append(moves.append)
    await supervisor.start(["a"])
    await supervisor.stop(["a"], reason="job succeeded")

    assert [(move.source, move.target, move.reason) for move in moves] == [
        (S.STOPPED, S.STARTING, ""),
        (S.STARTING, S.RUNNING, ""),
        (S.RUNNING, S.STOPPING, "job succeeded"),
        (S.STOPPING, S.KILLING, "job succeeded"),
        (S.KILLING, S.STOPPED, "job succeeded"),
    ]


@played
async def test_restarts_count_within_one_job_and_begin_anew_with_the_next(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=1.0), Script(), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    counts = []
    await supervisor.start(["a"])
    await asyncio.sleep(10)
    counts.append(supervisor.unit("a").life.restarts)
    await supervisor.restart("a")
    counts.append(supervisor.unit("a").life.restarts)
    await supervisor.stop(["a"], by_hand=True)
    await supervisor.start(["a"], by_hand=True)
    counts.append(supervisor.unit("a").life.restarts)
    await supervisor.stop(["a"], reason="job succeeded")
    await supervisor.start(["a"])
    counts.append(supervisor.unit("a").life.restarts)

    assert counts == [1, 2, 3, 0]


@played
async def test_a_look_at_what_does_not_run_says_where_it_is(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=1.0))
    supervisor, _ = supervise(clock, service)
    unit = supervisor.unit("a")
    before = await unit.check_health(1)
    await supervisor.start(["a"])
    await asyncio.sleep(2)
    after = await unit.check_health(1)

    assert (before.state, before.is_healthy, before.error) == (S.STOPPED, False, "it is stopped")
    assert (after.state, after.is_healthy, after.error) == (S.CRASHED, False, "it is crashed: exit code 1")


@pytest.mark.parametrize(
    ("answer", "is_healthy", "error"),
    [
        (True, True, None),
        (None, True, None),
        ({"queue": 3}, True, None),
        (False, False, "health_check() returned False"),
        (OSError("sick"), False, "OSError: sick"),
        (math.inf, False, "no answer within 2 s"),
        (1.0, True, None),
    ],
)
@played
async def test_a_look_says_what_it_found(clock: FakeClock, answer: object, is_healthy: bool, error: str | None) -> None:
    service = FakeService("a", Script(health=[answer]))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    result = await supervisor.unit("a").check_health(2)

    assert (result.state, result.is_healthy, result.error) == (S.RUNNING, is_healthy, error)
    assert result.details == ({"queue": 3} if isinstance(answer, dict) else {})


@played
async def test_a_look_that_itself_breaks_is_not_healthy(clock: FakeClock) -> None:
    service = FakeService("a")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])

    async def broken() -> None:
        raise ZeroDivisionError

    service.life.check_health = broken  # type: ignore[assignment]
    result = await supervisor.unit("a").check_health(2)

    assert (result.is_healthy, result.error) == (False, "ZeroDivisionError")
