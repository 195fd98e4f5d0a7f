from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab import (
    Command,
    LocalEnvironment,
    Restart,
    Service,
    ServiceCrashedError,
    ServiceManager,
    ServicePolicy,
    ServiceUnavailableError,
    current_job,
)
from autostop_lab.exceptions import ConfigurationError
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.supervisor.outcome import Outcome
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import begin, played, supervise

# -- idle, on a fake clock ---------------------------------------------------------------------------------


@played
async def test_one_that_nobody_uses_is_stopped_and_rests(clock: FakeClock) -> None:
    service = FakeService("a", idle_timeout_s=100, restart="always")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.times("stop") == [100]
    slot = supervisor.unit("a").slot
    assert (slot.state, slot.reason, slot.is_resting) == (S.STOPPED, "idle", True)
    assert supervisor.unit("a").life.outcome is Outcome.STOPPED
    assert ends == []


@played
async def test_each_use_puts_its_rest_off(clock: FakeClock) -> None:
    service = FakeService("a", idle_timeout_s=100)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    for _ in range(10):
        await asyncio.sleep(90)
        service.touch()
    await asyncio.sleep(3600)

    (stopped_at,) = service.times("stop")
    assert 1000 <= stopped_at <= 1026


@played
async def test_a_call_that_goes_on_is_not_idle(clock: FakeClock) -> None:
    service = FakeService("a", idle_timeout_s=100)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    service.life.is_busy = True
    await asyncio.sleep(3600)
    assert supervisor.unit("a").state is S.RUNNING
    service.life.is_busy = False
    await asyncio.sleep(60)

    assert supervisor.unit("a").slot.is_resting


@played
async def test_one_that_another_depends_on_does_not_rest_before_that(clock: FakeClock) -> None:
    db, api = FakeService("db", idle_timeout_s=10), FakeService("api", idle_timeout_s=100, depends_on=("db",))
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(3600)

    assert api.times("stop") == pytest.approx([100], abs=0.1)
    (stopped_at,) = db.times("stop")
    assert 100 <= stopped_at <= 103


@played
async def test_waking_starts_it_and_what_it_needs(clock: FakeClock) -> None:
    db, api = FakeService("db", idle_timeout_s=10), FakeService("api", idle_timeout_s=10, depends_on=("db",))
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(100)
    assert [unit.slot.is_resting for unit in supervisor.units.values()] == [True, True]
    await supervisor.wake("api")

    assert [unit.state for unit in supervisor.units.values()] == [S.RUNNING, S.RUNNING]
    assert supervisor.unit("api").life.restarts == 1


@pytest.mark.parametrize("by_hand", [False, True])
@played
async def test_a_stop_of_one_that_rests_ends_its_rest(clock: FakeClock, by_hand: bool) -> None:
    service = FakeService("a", idle_timeout_s=10)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(60)
    await supervisor.stop(["a"], reason="job succeeded", by_hand=by_hand)
    slot = supervisor.unit("a").slot
    assert (slot.reason, slot.is_resting) == ("job succeeded", False)
    await supervisor.wake("a")

    assert slot.state is S.STOPPED
    assert service.count("launch") == 1


@played
async def test_a_stop_while_it_goes_to_rest_counts(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=5.0), idle_timeout_s=10)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(12)
    assert supervisor.unit("a").slot.is_resting
    await supervisor.stop(["a"], reason="job succeeded")

    assert supervisor.unit("a").slot.reason == "job succeeded"
    assert service.count("stop") == 1


@played
async def test_a_kill_at_the_end_of_a_rests_grace_period_is_still_rest(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=math.inf, kill_s=1.0), idle_timeout_s=10, stop_timeout_s=1)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(11.5)
    assert supervisor.unit("a").state is S.KILLING
    assert supervisor.unit("a").slot.is_resting
    waking = begin(supervisor.wake("a"))
    await waking

    assert supervisor.unit("a").state is S.RUNNING
    assert service.most_at_once == 1


@played
async def test_what_cannot_say_that_it_is_idle_is_not(clock: FakeClock) -> None:
    service = FakeService("a", idle_timeout_s=10)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    asked = 0

    async def broken() -> float:
        nonlocal asked
        asked += 1
        raise OSError("no answer")

    service.life.idle_for_s = broken  # type: ignore[method-assign]
    await asyncio.sleep(100)

    assert supervisor.unit("a").state is S.RUNNING
    assert asked > 5


# -- lifetime, on a fake clock -----------------------------------------------------------------------------


@played
async def test_at_the_end_of_its_lifetime_it_is_stopped_politely_and_told_of(clock: FakeClock) -> None:
    service = FakeService("a", Script(stop_s=1.0), max_lifetime_s=50, restart="always")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.times("stop") == [50]
    unit = supervisor.unit("a")
    assert (unit.state, unit.slot.reason, unit.life.outcome) == (S.STOPPED, "lifetime", Outcome.STOPPED)
    assert [(name, str(end)) for name, end in ends] == [("a", "its lifetime of 50 s is over")]
    assert service.count("launch") == 1


@played
async def test_what_depends_on_it_ends_first_and_is_told_of(clock: FakeClock) -> None:
    db, api = FakeService("db", max_lifetime_s=50), FakeService("api", Script(stop_s=2.0), depends_on=("db",))
    supervisor, ends = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(60)

    assert (api.times("stop"), db.times("stop")) == ([50], [52])
    assert [(name, str(end)) for name, end in ends] == [
        ("db", "its lifetime of 50 s is over"),
        ("api", "it depends on 'db', whose lifetime is over"),
    ]


@played
async def test_each_life_has_its_own_time(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=40.0), Script(), max_lifetime_s=50, restart=Restart(backoff_s=5))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.times("launch") == [0, 45]
    assert service.times("stop") == [95]


@played
async def test_nothing_is_left_of_limits_when_a_life_is_over(clock: FakeClock) -> None:
    service = FakeService("a", max_lifetime_s=1e6, idle_timeout_s=1e5)
    supervisor, _ = supervise(clock, service)
    for _ in range(100):
        await supervisor.start(["a"])
        await supervisor.stop(["a"])
    loop: Any = asyncio.get_running_loop()

    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


# -- with real services, in real time ----------------------------------------------------------------------


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


class Model(Service):
    """Something large that is worth a rest."""

    def __init__(self, lives: list[str]) -> None:
        self.lives = lives
        lives.append("start")

    def stop(self) -> None:
        self.lives.append("stop")

    def predict(self, value: int) -> int:
        return value + 1

    def predict_slowly(self, go: threading.Event) -> int:
        go.wait(30)
        return 1


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as services:
        yield services


SHORT_REST = ServicePolicy(idle_timeout_s=0.1)


def test_the_next_call_wakes_it_with_a_new_object(manager: ServiceManager) -> None:
    lives: list[str] = []
    model = manager.add("model", Model, lives, policy=SHORT_REST)
    manager.start_all()
    assert model.predict(1) == 2
    until(lambda: model.state is S.STOPPED)

    assert model.predict(2) == 3
    assert lives == ["start", "stop", "start"]


def test_many_calls_at_once_wake_it_once(manager: ServiceManager) -> None:
    lives: list[str] = []
    model = manager.add("model", Model, lives, policy=SHORT_REST)
    manager.start_all()
    until(lambda: model.state is S.STOPPED)
    futures = [model.predict.submit(number) for number in range(20)]

    assert [future.result(20) for future in futures] == list(range(1, 21))
    assert lives[:3] == ["start", "stop", "start"]


def test_calls_while_it_goes_to_rest_are_all_answered(manager: ServiceManager) -> None:
    lives: list[str] = []
    model = manager.add("model", Model, lives, policy=ServicePolicy(idle_timeout_s=0.02))
    manager.start_all()
    for number in range(60):
        assert model.predict(number) == number + 1
        time.sleep(0.001 * (number % 40))

    assert lives.count("start") > 1


def test_a_long_call_keeps_it_awake(manager: ServiceManager) -> None:
    lives: list[str] = []
    go = threading.Event()
    model = manager.add("model", Model, lives, policy=SHORT_REST)
    manager.start_all()
    call = model.predict_slowly.submit(go)
    time.sleep(0.5)
    assert lives == ["start"]
    go.set()

    assert call.result(10) == 1


def test_after_a_manual_stop_a_call_does_not_wake_it(manager: ServiceManager) -> None:
    model = manager.add("model", Model, [], policy=SHORT_REST)
    manager.start_all()
    until(lambda: model.state is S.STOPPED)
    model.stop()

    with pytest.raises(ServiceUnavailableError, match="stopped: stopped by hand"):
        model.predict(1)


def test_a_service_that_rests_when_its_job_ends_is_not_woken_after_it() -> None:
    lives: list[str] = []
    with LocalEnvironment("test") as env:
        model = env.register_service("model", Model, lives, policy=SHORT_REST)
        env.run(lambda: until(lambda: model.state is S.STOPPED))
        env.submit(autostop=True)

        with pytest.raises(ServiceUnavailableError, match="it is stopped: its job is over"):
            model.predict(1)
    assert lives == ["start", "stop"]


def test_a_job_wakes_a_service_that_rests_and_the_receipt_says_so() -> None:
    with LocalEnvironment("test") as env:
        model = env.register_service("model", Model, [], policy=SHORT_REST)

        def work() -> int:
            until(lambda: model.state is S.STOPPED)
            return int(model.predict(1))

        env.run(work)
        job = env.submit(autostop=True)

    assert job.result() == 2
    assert "RESTARTED: model" in str(job.report).splitlines()[0]


class Busy(Service):
    """Says by itself whether it is idle."""

    def __init__(self, idle: threading.Event) -> None:
        self.idle = idle

    def is_idle(self) -> bool:
        return self.idle.is_set()


def test_a_service_may_say_by_itself_whether_it_is_idle(manager: ServiceManager) -> None:
    idle = threading.Event()
    busy = manager.add("busy", Busy, idle, policy=SHORT_REST)
    manager.start_all()
    time.sleep(0.5)
    assert busy.state is S.RUNNING
    idle.set()

    until(lambda: busy.state is S.STOPPED)


class Quiet(Command):
    """A program that tells by a file whether it is idle."""

    argv = ("sleep", "1000")

    def is_idle(self) -> bool:
        return (self.workdir / "idle").exists()

    def rest(self) -> None:
        (self.workdir / "idle").touch()

    def ping(self) -> str:
        return "pong"


def test_a_program_that_says_it_is_idle_rests_and_is_woken_by_a_call(manager: ServiceManager) -> None:
    quiet = manager.add("quiet", Quiet, policy=SHORT_REST)
    manager.start_all()
    time.sleep(0.3)
    assert quiet.state is S.RUNNING
    quiet.rest()
    until(lambda: quiet.state is S.STOPPED)

    assert quiet.ping() == "pong"
    assert quiet.state is S.RUNNING


def test_rest_is_refused_for_a_program_that_does_not_say_whether_it_is_idle(manager: ServiceManager) -> None:
    with pytest.raises(ConfigurationError, match=r"idle_timeout_s=0.1, but Command .* Define is_idle"):
        manager.add("a", Command, ["sleep", "1"], policy=SHORT_REST)


def test_an_inherited_rest_is_refused_in_the_same_way_and_can_be_waived() -> None:
    with LocalEnvironment("test", policy=SHORT_REST) as env:
        with pytest.raises(ConfigurationError, match="is_idle"):
            env.register_service("a", Command, ["sleep", "1"])
        env.register_service("b", Command, ["sleep", "1"], policy=ServicePolicy(idle_timeout_s=None))


def test_a_critical_service_whose_lifetime_is_over_fails_the_job() -> None:
    with LocalEnvironment("test") as env:
        env.register_service("model", Model, [], policy=ServicePolicy(max_lifetime_s=0.1))
        env.run(lambda: current_job().stopping.wait(30))
        with pytest.raises(ServiceCrashedError, match=r"'model' .* its lifetime of 0.1 s is over"):
            env.submit(autostop=True)
        job = env.last_job

    assert job is not None
    assert job.report is not None
    assert str(job.report["model"].outcome) == "stopped"


def test_one_that_is_not_critical_may_end_with_its_lifetime() -> None:
    with LocalEnvironment("test") as env:
        model = env.register_service("model", Model, [], policy=ServicePolicy(max_lifetime_s=0.1, critical=False))
        env.run(lambda: until(lambda: model.state is S.STOPPED))

        assert env.submit(autostop=True).state == "succeeded"
