"""Whatever order orders and accidents come in, the promises of supervision hold.

A state machine of hypothesis drives the real supervisor with fake services on a fake clock. What must hold at any
moment is checked at each move, not only between two steps.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from autostop_lab import Cron, Health, Restart
from autostop_lab.events import ServiceMoved
from autostop_lab.lifecycle import SERVICE_TABLE, ServiceState, ServiceTrigger
from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.outcome import Outcome
from autostop_lab.supervisor.plan import with_dependants, with_needed
from autostop_lab.supervisor.supervisor import Supervisor
from autostop_lab.supervisor.unit import ANSWERING, Unit
from autostop_lab.testing import FakeClock, FakeService, Script, fake_supervisor

NAMES = ("db", "cache", "api", "web", "lone")
SHAPES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"api": ("db",), "web": ("api", "cache")},
    {"api": ("db", "cache"), "web": ("db",)},
    {"cache": ("db",), "api": ("cache",), "web": ("api",), "lone": ("web",)},
    {},
)
#: More than any stop can take.
LONGEST_ORDER_S = 60.0
REST = SERVICE_TABLE.at_rest

restarts = st.one_of(
    st.just(Restart("no")),
    st.builds(
        Restart,
        st.sampled_from(["on-failure", "always", "unless-stopped"]),
        max_restarts=st.sampled_from([0, 1, 2, 4]),
        window_s=st.sampled_from([5.0, 60.0]),
        backoff_s=st.sampled_from([0.0, 1.0]),
        backoff_max_s=st.just(8.0),
        strategy=st.sampled_from(["one_for_one", "rest_for_one", "one_for_all"]),
    ),
)
healths = st.one_of(
    st.none(),
    st.builds(
        Health,
        interval_s=st.sampled_from([0.5, 3.0]),
        timeout_s=st.just(1.0),
        failure_threshold=st.integers(1, 2),
        on_unhealthy=st.sampled_from(["report", "restart"]),
    ),
)
durations = st.sampled_from([0.0, 0.0, 0.0, 0.5, 2.0, math.inf])
errors = st.sampled_from([None, None, None, OSError("script")])
scripts = st.builds(
    Script,
    ready_after_s=durations,
    start_error=errors,
    ends_after_s=st.sampled_from([None, None, None, 0.0, 0.3, 4.0]),
    exit=st.sampled_from([Exit(code=0), Exit(code=1)]),
    run_s=durations,
    run_error=errors,
    stop_s=durations,
    stop_error=errors,
    kill_s=st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.5, math.inf]),
    cleanup_s=st.sampled_from([0.0, 0.0, 0.5, math.inf]),
    cleanup_error=errors,
    health=st.lists(st.sampled_from([True, True, False, OSError("sick"), math.inf]), max_size=3).map(tuple),
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "start_timeout_s": 3.0,
        "stop_timeout_s": 1.0,
        "kill_timeout_s": 1.0,
        "cleanup_timeout_s": 1.0,
        "critical": draw(st.booleans()),
        "idle_timeout_s": draw(st.sampled_from([None, None, None, 6.0])),
        "max_lifetime_s": draw(st.sampled_from([None, None, None, 20.0])),
    }
    if draw(st.integers(0, 4)) == 0:
        overlap = draw(st.sampled_from(["skip", "queue", "cancel"]))
        policy["cron"] = Cron("*/2 * * * * *", run_timeout_s=draw(st.sampled_from([None, 1.5])), overlap=overlap)
    else:
        policy["restart"] = draw(restarts)
        policy["health"] = draw(healths)
    return policy


@dataclass(eq=False)
class Order:
    """An order that was given, and whom it covers."""

    number: int
    kind: str
    covers: frozenset[str]
    task: asyncio.Task[None]
    began_s: float
    ended_s: float = math.inf


@dataclass
class Watcher:
    """Checks at each move what must hold at any moment."""

    supervisor: Supervisor
    orders: list[Order]
    last_start: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    last_ended_stop: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    retries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    state: dict[str, ServiceState] = field(default_factory=lambda: defaultdict(lambda: ServiceState.STOPPED))
    told: set[str] = field(default_factory=set)
    died: set[str] = field(default_factory=set)
    is_hurried: bool = False
    complaints: list[str] = field(default_factory=list)
    moves: int = 0

    def expect(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)

    def see_end(self, unit: Unit, end: Exit) -> None:
        self.told.add(unit.name)

    def see(self, event: ServiceMoved) -> None:
        name = event.service
        self.moves += 1
        row = SERVICE_TABLE.next.get((event.source, ServiceTrigger(event.trigger)))
        self.expect(row is not None and row.target is event.target, f"{event} is not in the table")
        self.expect(self.state[name] is event.source, f"{event}, but it was {self.state[name]}")
        self.state[name] = event.target
        if event.target is ServiceState.STARTING:
            self.told.discard(name)
            self.died.discard(name)
            is_void = self.last_ended_stop[name] > self.last_start[name]
            self.expect(not is_void, f"{name} starts after its stop returned")
        if event.trigger == ServiceTrigger.RETRY:
            self._check_limit(name)
        is_order = not event.reason.startswith(("ServiceStopError", "OSError"))  # a run that cannot be ended
        if event.trigger in (ServiceTrigger.STOP, ServiceTrigger.KILL) and is_order and not self.is_hurried:
            self._check_order(event)
        if event.trigger == ServiceTrigger.DIED_FINAL and event.source in ANSWERING:
            self.died.add(name)

    def _check_limit(self, name: str) -> None:
        rule = self.supervisor.units[name].slot.spec.policy.restart_rule
        now = asyncio.get_running_loop().time()
        self.retries[name].append(now)
        recent = [at for at in self.retries[name] if now - at < rule.window_s]
        # Each manual start may empty the window once, and is such a move itself if it comes in backoff.
        starts = [o for o in self.orders if name in o.covers and o.kind != "stop" and o.ended_s > now - rule.window_s]
        assert rule.max_restarts is not None
        limit = rule.max_restarts * (len(starts) + 1) + len(starts)
        self.expect(len(recent) <= limit, f"{name}: {len(recent)} restarts within {rule.window_s} s")

    def _check_order(self, event: ServiceMoved) -> None:
        # One that is between two lives has died already.
        dependants = with_dependants([event.service], self.supervisor.dependencies) - {event.service}
        up = [other for other in dependants if self.state[other] not in REST | {ServiceState.BACKOFF}]
        self.expect(not up, f"{event}, while {up} that depend on it are not at rest")


class SupervisorMachine(RuleBasedStateMachine):
    """Random orders and accidents."""

    steps = 0
    all_moves = 0

    @initialize(shape=st.sampled_from(SHAPES), plans=st.lists(policies(), min_size=5, max_size=5))
    def begin(self, shape: dict[str, tuple[str, ...]], plans: list[dict[str, Any]]) -> None:
        self.clock = FakeClock()
        self.services = {
            name: FakeService(name, depends_on=shape.get(name, ()), **plan)
            for name, plan in zip(NAMES, plans, strict=True)
        }
        self.supervisor = self.clock.run(self._make())
        self.orders: list[Order] = []
        self.watcher = Watcher(self.supervisor, self.orders)
        self.supervisor.listeners.append(self.watcher.see)
        self.supervisor.exit_listeners.append(self.watcher.see_end)

    async def _make(self) -> Supervisor:
        return fake_supervisor(self.clock, *self.services.values())

    def _give(self, kind: str, covers: set[str], work: Coroutine[Any, Any, None], *, wait: bool) -> Order:
        number = len(self.orders)

        async def begin() -> Order:
            order = Order(number, kind, frozenset(covers), asyncio.ensure_future(work), self.clock.now())
            self.orders.append(order)
            order.task.add_done_callback(lambda task: self._note_end_of(order))
            if kind != "stop":
                for name in covers:
                    self.watcher.last_start[name] = number
            await asyncio.wait({order.task}, timeout=LONGEST_ORDER_S if wait else 0.0)
            return order

        order = self.clock.run(begin())
        # A start is repeated for ever where its restarts are slower than its window.
        assert order.task.done() or not wait or kind != "stop", (
            f"{kind} of {sorted(covers)} does not come to an end: {self._shown()}"
        )
        return order

    def _is_gone(self, name: str) -> bool:
        unit = self.supervisor.units[name]
        is_up = unit.state in ANSWERING and unit.slot.endpoint is not None
        return is_up and self.services[name].live_count == 0

    def _shown(self) -> dict[str, str]:
        return {name: str(unit.state) for name, unit in self.supervisor.units.items()}

    def _note_end_of(self, order: Order) -> None:
        order.ended_s = self.clock.now()
        if order.kind == "stop":
            for name in order.covers:
                self.watcher.last_ended_stop[name] = max(self.watcher.last_ended_stop[name], order.number)
        if not order.task.cancelled() and (error := order.task.exception()) is not None:
            self.watcher.expect(isinstance(error, Exception) and order.kind != "stop", f"{order.kind}: {error!r}")

    # -- orders --------------------------------------------------------------------------------------------

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1), wait=st.booleans(), by_hand=st.booleans())
    def start(self, names: set[str], wait: bool, by_hand: bool) -> None:
        covers = with_needed(names, self.supervisor.dependencies)
        self._give("start", covers, self.supervisor.start(names, by_hand=by_hand), wait=wait)

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        wait=st.booleans(),
        by_hand=st.booleans(),
        kill=st.booleans(),
    )
    def stop(self, names: set[str], wait: bool, by_hand: bool, kill: bool) -> None:
        covers = with_dependants(names, self.supervisor.dependencies)
        self._give("stop", covers, self.supervisor.stop(names, reason="x", kill=kill, by_hand=by_hand), wait=wait)

    @rule(name=st.sampled_from(NAMES), wait=st.booleans())
    def restart(self, name: str, wait: bool) -> None:
        dependencies = self.supervisor.dependencies
        covers = with_needed([name], dependencies) | with_dependants([name], dependencies)
        self._give("restart", covers, self.supervisor.restart(name), wait=wait)

    @rule(name=st.sampled_from(NAMES))
    def wake(self, name: str) -> None:
        if self.supervisor.units[name].slot.is_resting:
            covers = with_needed([name], self.supervisor.dependencies)
            self._give("wake", covers, self.supervisor.wake(name), wait=False)

    @precondition(lambda self: any(self.supervisor._ends))
    @rule()
    def hurry(self) -> None:
        self.watcher.is_hurried = True

        async def hurry() -> None:
            self.supervisor.hurry()

        self.clock.run(hurry())

    # -- accidents -----------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), code=st.sampled_from([0, 1]))
    def end(self, name: str, code: int) -> None:
        async def end() -> None:
            self.services[name].end(Exit(code=code))
            await asyncio.sleep(0.001)

        self.clock.run(end())

    @rule(code=st.sampled_from([0, 1]))
    def end_all_at_once(self, code: int) -> None:
        async def end() -> None:
            for service in self.services.values():
                service.end(Exit(code=code))
            await asyncio.sleep(0.001)

        self.clock.run(end())

    @rule(name=st.sampled_from(NAMES), script=scripts)
    def change(self, name: str, script: Script) -> None:
        self.services[name].script = script

    @rule(duration_s=st.sampled_from([0.0, 0.1, 0.6, 1.0, 2.5, 10.0, 70.0]))
    def wait(self, duration_s: float) -> None:
        self.clock.advance(duration_s)

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        type(self).steps += 1
        assert self.watcher.complaints == [], self.watcher.complaints
        assert self.watcher.died <= self.watcher.told, "one that died for good was not told of"
        for name, unit in self.supervisor.units.items():
            service = self.services[name]
            assert service.most_at_once <= 1, f"{name} had two lives at once"
            assert service.most_runs_at_once <= 1, f"{name} had two runs at once"
            assert unit.state is unit.slot.state
            if self._is_gone(name):  # its end may be under way to its unit
                self.clock.advance(0.001)
                assert not self._is_gone(name), f"{name} is {unit.state} and not there"
            if self.watcher.last_ended_stop[name] > self.watcher.last_start[name]:
                assert unit.state in REST, f"{name} is {unit.state} after its stop returned"
                assert service.live_count == 0 or unit.life.outcome is Outcome.ABANDONED

    def teardown(self) -> None:
        try:
            if hasattr(self, "orders"):
                self._end_all()
        finally:
            if hasattr(self, "clock"):
                self.clock.close()

    def _end_all(self) -> None:
        self._expect_that_all_settles()
        self.stop(set(NAMES), wait=True, by_hand=False, kill=False)
        self.clock.advance(0.01)
        for order in self.orders:
            assert order.task.done(), f"{order.kind} of {sorted(order.covers)} still waits"
        launches = {name: service.count("launch") for name, service in self.services.items()}
        self.clock.advance(200.0)
        self.promises_hold()
        for name, service in self.services.items():
            unit = self.supervisor.units[name]
            assert service.count("launch") == launches[name], f"{name} starts after everything was stopped"
            assert service.count("cleanup") == service.count("release") == len(service.lives), service.diary
            assert unit.life.is_over or unit.life.started_s is None
            assert unit.life.outcome is not Outcome.KEPT
        self.clock.run(self._look_for_what_is_left())
        type(self).all_moves += self.watcher.moves

    def _expect_that_all_settles(self) -> None:
        """When nothing goes wrong any more, nobody waits for ever, and who is said to come back does."""
        for service in self.services.values():
            service._scripts.clear()
            service.script = Script()
        self.clock.advance(100.0)
        self.promises_hold()
        settled = REST | ANSWERING
        for name, unit in self.supervisor.units.items():
            is_settled = unit.state in settled or self.supervisor.lacks(unit)  # in vain, as its policy has it
            assert is_settled, f"{name} is {unit.state} for ever: {self._shown()}"
            assert not unit.slot.is_returning, f"{name} is said to come back: {self._shown()}"
        for order in self.orders:
            assert order.task.done(), f"{order.kind} of {sorted(order.covers)} still waits: {self._shown()}"

    async def _look_for_what_is_left(self) -> None:
        loop: Any = asyncio.get_running_loop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert {task for task in tasks if "FakeRuntime" not in repr(task)} == set(), tasks
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == [], loop._scheduled


EXAMPLES = int(os.environ.get("AUTOSTOP_LAB_EXAMPLES", "40"))


@pytest.mark.timeout(0 if EXAMPLES > 40 else 120)
def test_the_promises_hold_in_any_order_of_orders_and_accidents() -> None:
    run_state_machine_as_test(
        SupervisorMachine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{SupervisorMachine.steps} steps, {SupervisorMachine.all_moves} moves")
