"""Which signal goes to whom: without processes, in a world that the test makes up."""

from __future__ import annotations

from collections.abc import Iterable
from signal import SIGCONT, SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.policy import Outcome, Plan, Seen, Send, longest_grace_s
from autostop_lab.reaper.processes import Process
from autostop_lab.reaper.timings import Timings

TIMINGS = Timings()
TICK_S = 0.1
NEAR_S = 2 * TICK_S


def lease(name: str, *, pid: int | None = 100, needs: Iterable[str] = (), **values: Any) -> Lease:
    return Lease(
        instance_id=f"{name}-0123456789",
        name=name,
        kind="command",
        pid=pid,
        started="1" if pid else "",
        depends_on=tuple(needs),
        **values,
    )


def test_the_cap_is_never_shorter_than_the_grace_periods_in_their_order() -> None:
    first = lease("db", pid=100, stop_grace_s=40.0)
    second = lease("api", pid=101, needs=["db"], stop_grace_s=25.0)
    beside = lease("web", pid=102, needs=["db"], stop_grace_s=5.0)
    plan = Plan([first, second, beside], asked_at={}, began=0.0, timings=TIMINGS)
    looks = [
        (0.0, [first, second, beside]),
        (24.0, [first, second]),
        (26.0, [first]),
        (64.0, [first]),
        (67.0, [first]),
    ]
    sent = {}
    for now, left in looks:
        members = {each.instance_id: [process(each.pid)] for each in left if each.pid is not None}
        everyone = [one for ones in members.values() for one in ones]
        for empty in range(TIMINGS.looks_needed):
            for send in plan.step(Seen(members, everyone), now + empty / 1000):
                sent.setdefault((send.process.pid, send.signals[0]), now)

    assert sent == {(101, SIGTERM): 0.0, (102, SIGTERM): 0.0, (100, SIGTERM): 26.0, (100, SIGKILL): 67.0}
    assert plan.give_up_at > 67


def test_services_that_wait_for_each_other_share_their_time() -> None:
    ring = [lease("a", needs=["b"], stop_grace_s=3.0), lease("b", needs=["a"], stop_grace_s=4.0)]

    assert longest_grace_s([]) == 0
    assert longest_grace_s(ring) == 4
    assert longest_grace_s([*ring, lease("c", needs=["a"], stop_grace_s=5.0)]) == 9


def process(pid: int, *, group: int | None = None) -> Process:
    number = pid if group is None else group
    return Process(pid, "1", parent_pid=1, group=number, session=number, is_zombie=False)


class World:
    """Processes, and what signals do to them; time goes on with each look."""

    def __init__(self, *leases: Lease, asked_at: dict[str, float] | None = None) -> None:
        self.now = 1000.0
        self.leases = leases
        self.plan = Plan(leases, asked_at=asked_at or {}, began=self.now, timings=TIMINGS)
        self.members: dict[str, set[Process]] = {each.instance_id: set() for each in leases}
        self.strays: set[Process] = set()
        self.deaf_to: dict[int, set[int]] = {}
        self.log: list[tuple[float, int, tuple[int, ...], bool]] = []
        for each in leases:
            if each.pid is not None:
                self.members[each.instance_id].add(process(each.pid))

    def add(self, owner: Lease, *new: Process) -> None:
        self.members[owner.instance_id].update(new)

    def deaf(self, pid: int, *numbers: int) -> None:
        self.deaf_to[pid] = set(numbers)

    @property
    def alive(self) -> set[Process]:
        return set().union(self.strays, *self.members.values())

    def tick(self) -> list[Send]:
        seen = Seen({key: frozenset(found) for key, found in self.members.items()}, frozenset(self.alive))
        sends = self.plan.step(seen, self.now)
        for send in sends:
            self.log.append((round(self.now - 1000.0, 3), send.process.pid, send.signals, send.to_group))
            self._hit(send)
        self.now += TICK_S
        return sends

    def _hit(self, send: Send) -> None:
        for each in list(self.alive):
            is_meant = each.group == send.process.pid if send.to_group else each == send.process
            fatal = set(send.signals) - {SIGCONT} - self.deaf_to.get(each.pid, set())
            if is_meant and fatal:
                self.die(each)

    def die(self, gone: Process) -> None:
        for found in (self.strays, *self.members.values()):
            found.discard(gone)

    def run(self, seconds: float = 200.0) -> World:
        until = self.now + seconds
        while not self.plan.is_done and self.now < until:
            self.tick()
        return self

    def sent(self, pid: int) -> list[tuple[float, tuple[int, ...]]]:
        return [(at, signals) for at, to, signals, _ in self.log if to == pid]

    def outcomes(self) -> dict[str, Outcome]:
        return {end.name: end.outcome for end in self.plan.ends()}


POLITE = (SIGTERM, SIGCONT)
KILL = (SIGKILL,)


def test_the_group_of_a_program_is_asked_once_and_that_is_all_if_it_obeys() -> None:
    world = World(lease("a")).run()

    assert world.log == [(0.0, 100, POLITE, True)]
    assert world.outcomes() == {"a": Outcome.STOPPED}


def test_the_polite_signal_is_the_one_that_was_registered() -> None:
    world = World(lease("a", stop_signal=SIGINT)).run()

    assert world.sent(100) == [(0.0, (SIGINT, SIGCONT))]


def test_a_program_that_does_not_obey_is_killed_when_its_grace_period_is_over() -> None:
    world = World(lease("a", stop_grace_s=3.0))
    world.deaf(100, SIGTERM)
    world.run()

    assert [signals for _, signals in world.sent(100)] == [POLITE, KILL]
    assert world.sent(100)[1][0] == pytest.approx(3.0, abs=NEAR_S)
    assert world.outcomes() == {"a": Outcome.KILLED}


def test_what_cannot_be_killed_is_abandoned_and_hinders_nothing() -> None:
    stuck, other = lease("stuck", needs=["other"], stop_grace_s=1.0, kill_timeout_s=2.0), lease("other", pid=200)
    world = World(stuck, other)
    world.deaf(100, SIGTERM, SIGKILL)
    world.run()

    assert world.plan.is_done
    assert world.outcomes() == {"stuck": Outcome.ABANDONED, "other": Outcome.STOPPED}


def test_a_lease_of_which_nothing_is_left_was_gone_already() -> None:
    a = lease("a")
    world = World(a)
    world.die(process(100))
    world.run()

    assert world.log == []
    assert world.outcomes() == {"a": Outcome.GONE_ALREADY}


def test_one_empty_look_proves_nothing() -> None:
    a = lease("a")
    world = World(a)
    for _ in range(4):
        world.tick()
        assert not world.plan.is_done or not world.alive
        if len(world.log) == 1 and not world.alive:
            world.add(a, process(300))  # forked while the list of processes was read
    world.run()

    assert not world.alive
    assert 300 in {pid for _, pid, _, _ in world.log}


# -- order -------------------------------------------------------------------------------------------------


def test_what_needs_another_is_gone_before_that_is_asked() -> None:
    web, api, db = lease("web", pid=1001, needs=["api"]), lease("api", pid=1002, needs=["db"]), lease("db", pid=1003)
    world = World(db, web, api)
    world.deaf(1001, SIGTERM)
    world.run()

    asked = {pid: at for at, pid, signals, _ in world.log if signals == POLITE}
    killed_at = world.sent(1001)[-1][0]
    assert asked[1001] == 0.0
    assert asked[1002] > killed_at
    assert asked[1003] > asked[1002]


def test_those_that_do_not_need_each_other_are_asked_at_the_same_time() -> None:
    leases = [lease(f"s{n}", pid=1000 + n, needs=["db"]) for n in range(5)]
    world = World(*leases, lease("db", pid=2000)).run()

    assert {at for at, pid, _, _ in world.log if pid < 2000} == {0.0}
    assert world.sent(2000)[0][0] > 0.0


def test_dependencies_may_be_instance_ids() -> None:
    db = lease("db", pid=2000)
    world = World(lease("api", needs=[db.instance_id]), db).run()

    assert world.sent(2000)[0][0] > world.sent(100)[0][0]


def test_names_count_within_their_scope_only() -> None:
    world = World(lease("api", needs=["db"], scope="x"), lease("db", pid=2000, scope="y")).run()

    assert world.sent(2000)[0][0] == world.sent(100)[0][0]


def test_a_circle_is_asked_all_at_once() -> None:
    a, b, on_top = lease("a", needs=["b"]), lease("b", pid=200, needs=["a"]), lease("top", pid=300, needs=["a"])
    world = World(a, b, on_top).run()

    assert world.sent(300)[0][0] < world.sent(100)[0][0] == world.sent(200)[0][0]
    assert world.plan.is_done


# -- trees -------------------------------------------------------------------------------------------------


def test_children_outside_the_group_are_asked_when_the_program_has_ended() -> None:
    a = lease("a", stop_grace_s=5.0)
    world = World(a)
    world.add(a, process(101, group=100), process(102))
    world.deaf(100, SIGTERM)
    world.tick()
    world.tick()
    assert world.sent(102) == []
    world.die(process(100))
    world.run()

    assert [signals for _, signals in world.sent(102)] == [POLITE]
    assert world.sent(101) == []


def test_a_member_of_the_group_is_not_asked_twice() -> None:
    a = lease("a", stop_grace_s=5.0)
    world = World(a)
    world.add(a, process(101, group=100))
    world.deaf(101, SIGTERM)
    world.run()

    assert world.log[0] == (0.0, 100, POLITE, True)
    assert [signals for _, signals in world.sent(101)] == [KILL]


def test_all_of_a_tree_is_killed_in_the_end_inside_and_outside_of_the_group() -> None:
    a = lease("a", stop_grace_s=1.0)
    world = World(a)
    world.add(a, process(101, group=100), process(102), process(103, group=102))
    for pid in (100, 101, 102, 103):
        world.deaf(pid, SIGTERM)
    world.run()

    assert not world.alive
    assert (100, KILL, True) in {entry[1:] for entry in world.log}
    assert {pid for _, pid, signals, to_group in world.log if signals == KILL and not to_group} == {102, 103}


def test_a_program_that_leads_no_group_is_signalled_alone() -> None:
    a = lease("a")
    world = World(a)
    world.members[a.instance_id] = {process(100, group=7)}
    world.run()

    assert world.log == [(0.0, 100, POLITE, False)]


def test_a_storm_of_forks_is_killed_until_it_is_over() -> None:
    a = lease("a", stop_grace_s=0.5, kill_timeout_s=0.5)
    world = World(a)
    world.deaf(100, SIGTERM)
    for number in range(60):  # each look finds a new one
        world.tick()
        if world.now > 1000.6:
            world.add(a, process(5000 + number))
    world.run()

    assert not world.alive
    assert world.outcomes() == {"a": Outcome.KILLED}


# -- shims -------------------------------------------------------------------------------------------------


def shimmed() -> tuple[World, Lease]:
    a = lease("a", pid=100, program_pid=101, stop_grace_s=1.0)
    world = World(a)
    world.add(a, process(101), process(102, group=101))
    world.deaf(100, SIGTERM)
    return world, a


def test_behind_a_shim_the_program_s_group_is_asked() -> None:
    world, _ = shimmed()
    world.tick()

    assert world.log == [(0.0, 101, POLITE, True)]
    assert world.alive == {process(100)}


def test_a_shim_is_not_killed_before_the_orphans_that_it_adopts() -> None:
    world, a = shimmed()
    world.add(a, process(103))
    for pid in (101, 102, 103):
        world.deaf(pid, SIGTERM)
    while process(103) in world.alive:
        world.tick()
    assert process(100) in world.alive
    world.die(process(100))  # as it does by itself
    world.run()

    assert (100, KILL) not in {(pid, signals) for _, pid, signals, _ in world.log}


def test_a_shim_that_stays_alone_is_killed_at_last() -> None:
    world, _ = shimmed()
    world.run()

    assert not world.alive
    assert world.plan.is_done


# -- what the owner had begun ------------------------------------------------------------------------------


def test_one_that_the_owner_has_asked_is_not_asked_again_and_keeps_what_is_left_of_its_grace_period() -> None:
    a = lease("a", stop_grace_s=5.0)
    world = World(a, asked_at={a.instance_id: 997.0})
    world.add(a, process(101, group=100), process(102))
    world.deaf(100, SIGTERM)
    world.deaf(101, SIGTERM)
    world.run()

    assert {signals for _, signals in world.sent(100)} == {KILL}
    assert world.sent(100)[0][0] == pytest.approx(2.0, abs=NEAR_S)
    assert world.sent(101) == []


def test_one_that_the_owner_has_asked_goes_on_ending_though_others_need_it() -> None:
    db = lease("db", pid=200, stop_grace_s=1.0)
    world = World(lease("api", needs=["db"], stop_grace_s=5.0), db, asked_at={db.instance_id: 1000.0})
    world.deaf(100, SIGTERM)
    world.deaf(200, SIGTERM)
    world.run()

    assert world.sent(200)[0] == (pytest.approx(1.0, abs=NEAR_S), KILL)


def test_a_time_to_come_does_not_lengthen_a_grace_period() -> None:
    a = lease("a", stop_grace_s=5.0)
    world = World(a, asked_at={a.instance_id: 1e9})
    world.deaf(100, SIGTERM)
    world.run()

    assert world.sent(100)[0][0] == pytest.approx(5.0, abs=NEAR_S)


# -- strays ------------------------------------------------------------------------------------------------


def test_what_belongs_to_no_lease_is_asked_at_once_and_killed_soon() -> None:
    world = World(lease("a", stop_grace_s=20.0))
    world.deaf(100, SIGTERM)
    world.strays = {process(900)}
    world.deaf(900, SIGTERM)
    world.run()

    assert world.sent(900)[0] == (0.0, POLITE)
    assert world.sent(900)[1] == (pytest.approx(TIMINGS.stray_grace_s, abs=NEAR_S), KILL)
    assert [(end.pid, end.outcome) for end in world.plan.strays()] == [(900, Outcome.KILLED)]


def test_what_comes_up_of_a_service_that_was_gone_is_ended_too() -> None:
    a, b = lease("a"), lease("b", pid=200, stop_grace_s=10.0)
    world = World(a, b)
    world.deaf(200, SIGTERM)
    for _ in range(6):
        world.tick()
    world.add(a, process(104))
    world.run()

    assert not world.alive
    assert world.plan.is_done


# -- the cap -----------------------------------------------------------------------------------------------


def test_when_the_time_is_over_all_are_asked_and_soon_killed() -> None:
    stuck = lease("stuck", needs=["waiting"], stop_grace_s=1.0, kill_timeout_s=1000.0)
    world = World(stuck, lease("waiting", pid=200, stop_grace_s=10.0))
    world.deaf(100, SIGTERM, SIGKILL)
    world.deaf(200, SIGTERM)
    world.run()

    cap_s, end_s = TIMINGS.total_cap_s, TIMINGS.total_cap_s + TIMINGS.last_grace_s
    assert world.sent(200)[0] == (pytest.approx(cap_s, abs=NEAR_S), POLITE)
    assert world.sent(200)[1] == (pytest.approx(end_s, abs=NEAR_S), KILL)
    assert world.sent(100)[:2] == [(0.0, POLITE), (pytest.approx(1.0, abs=NEAR_S), KILL)]


def test_it_comes_to_an_end_though_a_storm_never_does() -> None:
    a = lease("a", stop_grace_s=1.0)
    world = World(a)
    for number in range(1000):
        world.add(a, process(5000 + number))
        world.deaf(5000 + number, SIGTERM)
        world.tick()
        if world.plan.ends()[0].is_abandoned:
            break

    assert world.now - 1000.0 == pytest.approx(TIMINGS.give_up_s, abs=3 * TICK_S)


def test_giving_up_abandons_what_is_not_known_to_be_gone() -> None:
    world = World(lease("a"), lease("b", pid=200))
    world.plan.give_up(world.now)

    assert set(world.outcomes().values()) == {Outcome.ABANDONED}


# -- laws --------------------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d", "e"]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    leases = [
        lease(
            name,
            pid=1000 + number,
            needs=draw(st.sets(st.sampled_from(NAMES[number + 1 :]))) if number < 4 else (),
            stop_grace_s=draw(st.sampled_from([0.0, 0.5, 3.0])),
            kill_timeout_s=1.0,
        )
        for number, name in enumerate(NAMES)
    ]
    world = World(*draw(st.permutations(leases)))
    for each in leases:
        assert each.pid is not None
        world.deaf(each.pid, *draw(st.sampled_from([(), (SIGTERM,), (SIGTERM, SIGKILL)])))
    return world


@settings(deadline=None, max_examples=60)
@given(worlds())
def test_whoever_is_asked_is_needed_by_nobody_that_is_left(world: World) -> None:
    while not world.plan.is_done:
        left = {each.name for each in world.leases if world.members[each.instance_id]}
        stuck = {name for name, outcome in world.outcomes().items() if outcome is Outcome.ABANDONED}
        by_pid = {each.pid: each for each in world.leases}
        for send in world.tick():
            if SIGTERM in send.signals:
                asked = by_pid[send.process.pid]
                assert not any(asked.name in each.depends_on for each in world.leases if each.name in left - stuck)
        assert world.now < 1100.0

    for each in world.leases:
        assert each.pid is not None
        signals = [sent for _, sent in world.sent(each.pid)]
        assert signals.count(POLITE) <= 1
        is_gone = not world.members[each.instance_id]
        assert is_gone == (world.outcomes()[each.name] is not Outcome.ABANDONED)
