from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab import Health, Restart, Service, ServiceManager, ServicePolicy
from autostop_lab.exceptions import ConfigurationError
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.lifecycle import ServiceTrigger as T
from autostop_lab.services.command import Command
from autostop_lab.services.probes import TcpReady
from autostop_lab.supervisor.health import GRID_S, Tally
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import played, supervise

EACH_SECOND = Health(interval_s=1.0, timeout_s=0.5, failure_threshold=1)

# -- the tally ---------------------------------------------------------------------------------------------


def moves(rule: Health, looks: list[bool]) -> list[T | None]:
    tally, found, is_unhealthy = Tally(rule), [], False
    for is_healthy in looks:
        move = tally.count(is_healthy=is_healthy, is_unhealthy_now=is_unhealthy)
        is_unhealthy = {T.PROBE_FAILED: True, T.PROBE_OK: False, None: is_unhealthy}[move]
        found.append(move)
    return found


def test_so_many_failures_in_a_row_make_it_unhealthy_and_so_many_successes_well_again() -> None:
    rule = Health(failure_threshold=3, success_threshold=2)
    looks = [False, False, True, False, False, False, True, False, True, True]

    assert moves(rule, looks) == [None] * 5 + [T.PROBE_FAILED] + [None] * 3 + [T.PROBE_OK]


def test_one_that_is_unhealthy_already_does_not_become_it_again() -> None:
    assert moves(Health(failure_threshold=1), [False] * 5) == [T.PROBE_FAILED, None, None, None, None]


# -- on a fake clock ---------------------------------------------------------------------------------------


@played
async def test_a_failing_check_makes_it_unhealthy_and_a_passing_one_well_again(clock: FakeClock) -> None:
    looks = [True, OSError("sick"), False, True]
    service = FakeService("a", Script(health=looks), health=EACH_SECOND)
    supervisor, ends = supervise(clock, service)
    times: list[float] = []
    seen: list[tuple[S, str]] = []
    supervisor.listeners.append(lambda event: times.append(clock.now()))
    supervisor.listeners.append(lambda event: seen.append((event.target, event.reason)))
    await supervisor.start(["a"])
    await asyncio.sleep(10)

    assert seen[2:] == [(S.UNHEALTHY, "OSError: sick"), (S.RUNNING, "")]
    assert times[2:] == pytest.approx([2 * (1 + GRID_S), 4 * (1 + GRID_S)])
    assert ends == []


@played
async def test_the_threshold_counts_failures_in_a_row(clock: FakeClock) -> None:
    looks = [False, False, True, False, False, False]
    service = FakeService("a", Script(health=looks), health=Health(interval_s=1, failure_threshold=3))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(5.9)
    assert supervisor.unit("a").state is S.RUNNING
    await asyncio.sleep(1)

    assert supervisor.unit("a").state is S.UNHEALTHY


@played
async def test_an_unhealthy_service_still_takes_calls_and_is_stopped_as_any_other(clock: FakeClock) -> None:
    service = FakeService("a", Script(health=[False]), health=EACH_SECOND)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(5)

    assert supervisor.unit("a").state is S.UNHEALTHY
    assert supervisor.unit("a").slot.endpoint is not None
    await supervisor.stop(["a"])
    assert supervisor.unit("a").state is S.STOPPED


@played
async def test_on_unhealthy_restart_stops_it_politely_and_starts_it_anew(clock: FakeClock) -> None:
    rule = Health(interval_s=1, failure_threshold=2, on_unhealthy="restart")
    sick = Script(health=[False], stop_s=0.5)
    service = FakeService("a", sick, Script(), health=rule, restart=Restart(backoff_s=0.25))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(30)

    assert [what for _, what in service.diary if what != "health"] == [
        *("launch", "ready", "stop", "gone", "cleanup", "release"),
        *("launch", "ready"),
    ]
    assert supervisor.unit("a").state is S.RUNNING
    assert ends == []


@pytest.mark.parametrize("word", ["no", "on-failure"])
@played
async def test_restarts_of_unhealthy_ones_keep_within_the_limit_whatever_the_policy_says_of_crashes(
    clock: FakeClock, word: str
) -> None:
    rule = Health(interval_s=1, failure_threshold=1, on_unhealthy="restart")
    service = FakeService("a", Script(health=[False]), health=rule, restart=Restart(word, max_restarts=2))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.count("launch") == 3
    assert supervisor.unit("a").state is S.CRASHED
    assert [str(end) for _, end in ends] == ["unhealthy: health_check() returned False"]
    assert service.live_count == 0


@played
async def test_a_hung_check_counts_as_failed_and_does_not_delay_others(clock: FakeClock) -> None:
    hung = FakeService("hung", Script(health=[math.inf]), health=EACH_SECOND)
    well = FakeService("well", health=EACH_SECOND)
    supervisor, _ = supervise(clock, hung, well)
    await supervisor.start(["hung", "well"])
    await asyncio.sleep(60)

    assert supervisor.unit("hung").state is S.UNHEALTHY
    assert supervisor.unit("hung").slot.reason == "no answer within 0.5 s"
    assert well.count("health") >= 57
    assert supervisor.unit("well").state is S.RUNNING


@played
async def test_the_next_look_comes_an_interval_after_the_end_of_the_last(clock: FakeClock) -> None:
    service = FakeService("a", Script(health=[0.4]), health=EACH_SECOND)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(5)

    assert service.times("health") == pytest.approx([1.05, 2.5, 3.95])


@played
async def test_a_short_interval_is_kept_beside_a_long_one_that_came_first(clock: FakeClock) -> None:
    slow = FakeService("slow", health=Health(interval_s=60))
    quick = FakeService("quick", health=EACH_SECOND)
    supervisor, _ = supervise(clock, slow, quick)
    await supervisor.start(["slow"])
    await supervisor.start(["quick"])
    await asyncio.sleep(10)

    assert quick.count("health") == 9


@played
async def test_each_life_begins_with_a_clean_tally(clock: FakeClock) -> None:
    first = Script(health=[False, False, True], ends_after_s=2.5)
    second = Script(health=[False, False, True])
    service = FakeService("a", first, second, health=Health(interval_s=1, failure_threshold=3), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    seen: list[S] = []
    supervisor.listeners.append(lambda event: seen.append(event.target))
    await supervisor.start(["a"])
    await asyncio.sleep(30)

    assert S.UNHEALTHY not in seen


@played
async def test_nothing_is_looked_at_that_does_not_run_and_no_timer_is_left(clock: FakeClock) -> None:
    services = [FakeService(f"s{number}", health=EACH_SECOND) for number in range(50)]
    supervisor, _ = supervise(clock, *services)
    names = [service.name for service in services]
    for _ in range(20):
        await supervisor.start(names)
        await asyncio.sleep(0.3)
        await supervisor.stop(names)
        await asyncio.sleep(0.001)
    loop: Any = asyncio.get_running_loop()

    assert all(service.count("health") == 0 for service in services)
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
    assert supervisor._health._due == []


@played
async def test_the_last_look_is_kept(clock: FakeClock) -> None:
    service = FakeService("a", Script(health=[{"queue": 7}]), health=EACH_SECOND)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(2)
    result = supervisor.unit("a").last_health

    assert result is not None
    assert (result.is_healthy, result.details, result.state) == (True, {"queue": 7}, S.RUNNING)


# -- with real services, in real time ----------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as services:
        yield services


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "health check" in thread.name]


class Checked(Service):
    """Notes its checks; each may be told to wait for an event, or to answer otherwise."""

    def __init__(self, log: list[tuple[str, int, str]], name: str) -> None:
        self.log = log
        self.name = name
        self.answer: Any = True
        self.gate: threading.Event | None = None

    def set(self, answer: Any = True, gate: threading.Event | None = None) -> None:
        self.answer, self.gate = answer, gate

    def health_check(self) -> Any:
        self.log.append((self.name, threading.get_ident(), "begin"))
        if self.gate is not None:
            self.gate.wait(30)
        self.log.append((self.name, threading.get_ident(), "end"))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


QUICK = ServicePolicy(health=Health(interval_s=0.02, timeout_s=0.2, failure_threshold=1))


def test_checks_run_one_after_another_in_one_thread(manager: ServiceManager) -> None:
    log: list[tuple[str, int, str]] = []
    for number in range(5):
        manager.add(f"s{number}", Checked, log, f"s{number}", policy=QUICK)
    manager.start_all()
    until(lambda: len(log) > 100)
    manager.stop_all()

    assert len({thread for _, thread, _ in log}) == 1
    assert all(first[0] == second[0] for first, second in zip(log[::2], log[1::2], strict=False))


def test_a_hung_check_is_left_to_its_thread_and_another_goes_on(manager: ServiceManager) -> None:
    log: list[tuple[str, int, str]] = []
    gate = threading.Event()
    hung = manager.add("hung", Checked, log, "hung", policy=QUICK)
    well = manager.add("well", Checked, log, "well", policy=QUICK)
    manager.start_all()
    hung.set(gate=gate)
    until(lambda: hung.state is S.UNHEALTHY)
    before = len(log)
    until(lambda: len(log) > before + 40)

    assert well.state is S.RUNNING
    assert {name for name, _, _ in log[before:]} == {"well"}
    assert len(workers()) == 2
    gate.set()
    until(lambda: len(workers()) == 1)
    until(lambda: hung.state is S.RUNNING)


def test_a_check_that_hangs_is_not_called_a_second_time(manager: ServiceManager) -> None:
    log: list[tuple[str, int, str]] = []
    gate = threading.Event()
    handle = manager.add("hung", Checked, log, "hung", policy=QUICK)
    manager.start_all()
    handle.set(gate=gate)
    until(lambda: handle.state is S.UNHEALTHY)
    begun = sum(what == "begin" for _, _, what in log)
    time.sleep(0.3)

    assert sum(what == "begin" for _, _, what in log) == begun
    assert len(workers()) <= 2
    gate.set()


def test_with_the_last_service_the_worker_ends(manager: ServiceManager) -> None:
    log: list[tuple[str, int, str]] = []
    for name in "ab":
        manager.add(name, Checked, log, name, policy=ServicePolicy(health=Health(interval_s=0.02)))
    manager.start_all()
    until(lambda: len(log) > 10)
    assert len(workers()) == 1
    manager.stop("a")
    manager.stop("b")

    until(lambda: not workers())


def test_what_the_check_raises_and_returns_is_seen(manager: ServiceManager) -> None:
    handle = manager.add("a", Checked, [], "a", policy=QUICK)
    manager.start_all()
    handle.set(answer=OSError("disk full"))
    until(lambda: handle.state is S.UNHEALTHY)
    result = handle.health()

    assert (result.is_healthy, result.error, result.state) == (False, "OSError: disk full", S.UNHEALTHY)
    handle.set(answer={"queue": 3})
    until(lambda: handle.state is S.RUNNING)
    assert handle.health().details == {"queue": 3}


def test_a_system_exit_in_a_check_is_a_failed_check(manager: ServiceManager) -> None:
    handle = manager.add("a", Checked, [], "a", policy=QUICK)
    manager.start_all()
    handle.set(answer=SystemExit(3))

    until(lambda: handle.state is S.UNHEALTHY)


@pytest.mark.parametrize(("error", "said"), [(SystemExit(3), "SystemExit: 3"), (asyncio.CancelledError(), "cancelled")])
def test_an_async_check_may_raise_anything(manager: ServiceManager, error: BaseException, said: str) -> None:
    class Rude(Service):
        async def health_check(self) -> None:
            raise error

    handle = manager.add("a", Rude)
    manager.start_all()
    result = handle.health()

    assert not result.is_healthy
    assert said in str(result.error)


class AsyncChecked(Service):
    """Its check is a coroutine that hangs once it is told to."""

    def __init__(self) -> None:
        self.hangs = False
        self.cancelled = 0
        self.looks = 0

    def hang(self, hangs: bool) -> None:
        self.hangs = hangs

    def counts(self) -> tuple[int, int]:
        return self.looks, self.cancelled

    async def health_check(self) -> bool:
        self.looks += 1
        try:
            if self.hangs:
                await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return True


def test_a_coroutine_check_runs_without_a_thread_and_is_cancelled_when_it_is_late(manager: ServiceManager) -> None:
    handle = manager.add("a", AsyncChecked, policy=ServicePolicy(health=Health(interval_s=0.02, timeout_s=0.1)))
    manager.start_all()
    until(lambda: handle.counts()[0] > 3)
    assert workers() == []
    handle.hang(True)
    until(lambda: handle.state is S.UNHEALTHY)
    until(lambda: handle.counts()[1] >= 3)
    handle.hang(False)

    until(lambda: handle.state is S.RUNNING)


SERVER = """
import os, socket, sys, threading, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def serve():
    while True:
        server.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
server.shutdown(socket.SHUT_RDWR)
server.close()
threading.Event().wait()
"""


class Server(Command):
    """Listens until it is made deaf."""

    argv = ("python3", "-c", SERVER, "{port}", "{workdir}/deaf")
    ready = TcpReady("{port}")

    def deafen(self) -> None:
        (self.workdir / "deaf").touch()


def test_a_program_is_looked_at_by_its_readiness_probe(manager: ServiceManager) -> None:
    handle = manager.add("server", Server, policy=QUICK)
    manager.start_all()
    time.sleep(0.1)
    assert handle.state is S.RUNNING
    handle.deafen()

    until(lambda: handle.state is S.UNHEALTHY)
    assert not handle.health()


@pytest.mark.parametrize("field", ["interval_s", "timeout_s", "failure_threshold", "success_threshold", "on_unhealthy"])
def test_health_values_that_make_no_sense_are_refused(field: str) -> None:
    values: dict[str, Any] = {field: 0}
    with pytest.raises(ConfigurationError, match=field):
        Health(**values)
