from __future__ import annotations

import asyncio
import math

import pytest

from autostop_lab import Restart
from autostop_lab.exceptions import ServiceStartError, UnknownServiceError
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.services.runtime import Exit
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.supervisor.outcome import Outcome
from autostop_lab.supervisor.supervisor import Supervisor
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import begin, played, refused, supervise

ALL = ("db", "api", "web")


def chain(**scripts: Script) -> dict[str, FakeService]:
    """Return db <- api <- web, and lone beside them; each takes a second to stop."""
    usual = Script(stop_s=1.0)
    return {
        "db": FakeService("db", scripts.get("db", usual)),
        "api": FakeService("api", scripts.get("api", usual), depends_on=("db",)),
        "web": FakeService("web", scripts.get("web", usual), depends_on=("api",)),
        "lone": FakeService("lone", scripts.get("lone", usual)),
    }


def states(supervisor: Supervisor) -> dict[str, S]:
    return {name: unit.state for name, unit in supervisor.units.items()}


# -- order -------------------------------------------------------------------------------------------------


@played
async def test_each_level_starts_when_the_one_before_is_ready(clock: FakeClock) -> None:
    services = chain(db=Script(ready_after_s=2.0), api=Script(ready_after_s=3.0))
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(["web", "lone"])

    assert {name: service.times("launch") for name, service in services.items()} == {
        "db": [0],
        "lone": [0],
        "api": [2],
        "web": [5],
    }


@played
async def test_each_service_stops_when_all_that_need_it_have_ended(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    await supervisor.stop(["db", "lone"])

    assert services["web"].times("stop") == [0]
    assert services["lone"].times("stop") == [0]
    assert services["api"].times("stop") == services["web"].times("release") == [1]
    assert services["db"].times("stop") == services["api"].times("release") == [2]


@played
async def test_the_order_holds_where_what_lies_between_is_at_rest(clock: FakeClock) -> None:
    services = chain(api=Script(ends_after_s=1.0, exit=Exit(code=0)))
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    await asyncio.sleep(5)
    assert states(supervisor)["api"] is S.STOPPED
    await supervisor.restart("db")

    assert services["web"].times("stop") == [5]
    assert services["db"].times("stop") == [6]


@played
async def test_a_stop_goes_on_when_one_fails(clock: FakeClock) -> None:
    services = chain(web=Script(stop_error=OSError()), api=Script(stop_s=math.inf, kill_s=math.inf))
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    await supervisor.stop(ALL)

    outcomes = [supervisor.unit(name).life.outcome for name in ALL]
    assert outcomes == [Outcome.STOPPED, Outcome.ABANDONED, Outcome.FAILED]


@played
async def test_a_stop_is_not_hindered_by_what_was_added_with_an_impossible_dependency(clock: FakeClock) -> None:
    services = chain()
    wrong = FakeService("wrong", depends_on=("nobody", "db"))
    supervisor, _ = supervise(clock, *services.values(), wrong)
    for name in ALL:
        await supervisor.unit(name).start()
    await supervisor.stop(["db", "wrong"])

    assert [services[name].times("stop") for name in ("web", "api", "db")] == [[0], [1], [2]]


@played
async def test_a_hundred_services_stop_side_by_side(clock: FakeClock) -> None:
    services = [FakeService(f"s{number}", Script(stop_s=1.0)) for number in range(100)]
    supervisor, _ = supervise(clock, *services)
    names = [service.name for service in services]
    await supervisor.start(names)
    await supervisor.stop(names)

    assert clock.now() == 1


@played
async def test_when_the_time_for_all_is_over_what_is_left_is_killed(clock: FakeClock) -> None:
    services = chain(**{name: Script(stop_s=math.inf) for name in ALL})
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    await supervisor.stop(ALL, timeout_s=2)

    assert clock.now() < 4
    assert [supervisor.unit(name).life.outcome for name in ALL] == [Outcome.KILLED] * 3
    assert all(service.count("cleanup") == 1 for name, service in services.items() if name in ALL)


# -- starts that fail --------------------------------------------------------------------------------------


@played
async def test_a_failed_start_keeps_later_levels_at_rest(clock: FakeClock) -> None:
    services = chain(db=Script(start_error=OSError("no")))
    supervisor, _ = supervise(clock, *services.values())
    await refused(begin(supervisor.start(ALL)), "'db' did not start: start.. raised OSError: no")

    assert services["api"].lives == services["web"].lives == []


@played
async def test_several_failures_come_as_a_group_and_the_slow_ones_are_stopped(clock: FakeClock) -> None:
    bad = [FakeService(f"bad{number}", Script(start_error=OSError(str(number)))) for number in range(3)]
    slow = FakeService("slow", Script(ready_after_s=20.0))
    supervisor, _ = supervise(clock, *bad, slow)
    with pytest.raises(ExceptionGroup, match="3 services did not start: 'bad0', 'bad1', 'bad2'") as caught:
        await supervisor.start(["slow", "bad0", "bad1", "bad2"])

    assert len(caught.value.exceptions) == 3
    assert clock.now() < 1
    assert (slow.count("ready"), slow.count("release")) == (0, 1)


@played
async def test_what_another_order_had_begun_is_not_stopped_by_a_failure_beside_it(clock: FakeClock) -> None:
    services = chain(db=Script(ready_after_s=10.0), lone=Script(start_error=OSError()))
    supervisor, _ = supervise(clock, *services.values())
    first = begin(supervisor.start(["db"]))
    await asyncio.sleep(1)
    await refused(begin(supervisor.start(["db", "lone"])), "'lone' did not start")
    await first

    assert supervisor.unit("db").state is S.RUNNING


@played
async def test_one_that_is_not_critical_may_fail_but_its_dependant_cannot_start(clock: FakeClock) -> None:
    db = FakeService("db", Script(start_error=OSError("no")), critical=False)
    api = FakeService("api", depends_on=("db",))
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["db"])
    await refused(begin(supervisor.start(["api"])), "'api': it was not started, since it depends on 'db', which is cr")

    assert api.lives == []


@played
async def test_a_dependant_starts_behind_one_that_is_done(clock: FakeClock) -> None:
    setup = FakeService("setup", Script(ends_after_s=0.0, exit=Exit(code=0)))
    slow = FakeService("slow", Script(ready_after_s=5.0))
    api = FakeService("api", depends_on=("setup", "slow"))
    supervisor, _ = supervise(clock, setup, slow, api)
    await supervisor.start(["api"])

    assert setup.count("launch") == 1
    assert states(supervisor) == {"setup": S.STOPPED, "slow": S.RUNNING, "api": S.RUNNING}


@played
async def test_an_unknown_name_is_named(clock: FakeClock) -> None:
    supervisor, _ = supervise(clock, FakeService("store"))

    with pytest.raises(UnknownServiceError, match="Did you mean 'store'"):
        supervisor.unit("stroe")


# -- orders that cross -------------------------------------------------------------------------------------


@played
async def test_a_stop_makes_a_start_void_whose_turn_has_not_come(clock: FakeClock) -> None:
    services = chain(db=Script(ready_after_s=5.0))
    supervisor, _ = supervise(clock, *services.values())
    starting = begin(supervisor.start(ALL))
    await asyncio.sleep(1)
    await supervisor.stop(["web"])
    await refused(starting, "'web': it was stopped before its start")
    await asyncio.sleep(3600)

    assert services["web"].lives == []
    assert states(supervisor)["api"] is S.RUNNING


@played
async def test_a_start_after_a_stop_counts_although_the_stop_has_not_come_to_it(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    stopping = begin(supervisor.stop(["db"]))
    await asyncio.sleep(0.5)  # web is being stopped, and db still runs
    await supervisor.start(["db"], by_hand=True)

    assert stopping.done()
    assert states(supervisor) == {"db": S.RUNNING, "api": S.STOPPED, "web": S.STOPPED, "lone": S.STOPPED}
    assert services["db"].times("launch") == [0, 3]


@played
async def test_a_start_waits_until_what_it_needs_has_come_back(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(["db", "api"])
    restarting = begin(supervisor.restart("db"))
    await asyncio.sleep(0.5)
    await supervisor.start(["web"], by_hand=True)
    await restarting

    assert services["db"].times("launch") == [0, 2]
    assert services["web"].times("launch") == [2]


@played
async def test_a_hundred_starts_and_stops_at_once_come_to_rest(clock: FakeClock) -> None:
    service = FakeService("a", Script(ready_after_s=0.3, stop_s=0.2))
    supervisor, _ = supervise(clock, service)
    orders = []
    for number in range(100):
        orders.append(begin(supervisor.start(["a"]) if number % 2 else supervisor.stop(["a"])))
        await asyncio.sleep(0.05 * (number % 5))
    await supervisor.stop(["a"])
    await asyncio.gather(*orders, return_exceptions=True)

    assert supervisor.unit("a").state is S.STOPPED
    assert service.most_at_once == 1
    assert service.count("cleanup") == len(service.lives)


# -- manual restart ----------------------------------------------------------------------------------------


@played
async def test_a_restart_takes_down_what_depends_on_it_and_brings_back_what_was_up(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(["db", "api", "lone"])
    await supervisor.restart("db")

    assert states(supervisor) == {"db": S.RUNNING, "api": S.RUNNING, "web": S.STOPPED, "lone": S.RUNNING}
    assert services["api"].times("stop") == [0]
    assert services["db"].times("stop") == [1]
    assert services["db"].times("launch") == services["api"].times("launch") == [0, 2]
    assert services["lone"].count("launch") == 1


@played
async def test_a_stop_during_a_restart_counts(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    restarting = begin(supervisor.restart("db"))
    await asyncio.sleep(1.5)  # web is at rest, api stops
    await supervisor.stop(["web"], by_hand=True)
    await refused(restarting, "'web': it was stopped before its start")
    await asyncio.sleep(3600)

    assert states(supervisor)["web"] is S.STOPPED
    assert services["web"].count("launch") == 1


@played
async def test_what_is_restarted_says_that_it_comes_back(clock: FakeClock) -> None:
    services = chain(api=Script(stop_s=1.0))
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(["db", "api"])
    restarting = begin(supervisor.restart("db"))
    await asyncio.sleep(0.5)
    slots = [supervisor.unit(name).slot for name in ("db", "api")]
    assert [slot.is_returning for slot in slots] == [True, True]
    await restarting

    assert [slot.is_returning for slot in slots] == [False, False]


@played
async def test_a_failed_restart_gives_up_what_depends_on_it(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(["db", "api"])
    services["db"].script = Script(start_error=OSError("no"))
    await refused(begin(supervisor.restart("db")), "OSError: no")

    assert states(supervisor)["api"] is S.STOPPED
    assert not supervisor.unit("api").slot.is_returning


# -- always, unless-stopped --------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "state"), [("always", S.RUNNING), ("unless-stopped", S.STOPPED)])
@played
async def test_after_a_manual_stop_an_order_to_start_all_starts_always_only(
    clock: FakeClock, word: str, state: S
) -> None:
    service, other = FakeService("a", restart=word), FakeService("b")
    supervisor, _ = supervise(clock, service, other)
    await supervisor.start(["a", "b"])
    await supervisor.stop(["a"], by_hand=True)
    await supervisor.start(["a", "b"])

    assert states(supervisor) == {"a": state, "b": S.RUNNING}


@pytest.mark.parametrize(("word", "state"), [("always", S.RUNNING), ("unless-stopped", S.STOPPED), ("no", S.STOPPED)])
@played
async def test_after_a_manual_stop_the_restart_of_its_dependency_starts_always_only(
    clock: FakeClock, word: str, state: S
) -> None:
    service, db = FakeService("a", restart=word, depends_on=("db",)), FakeService("db")
    supervisor, _ = supervise(clock, db, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"], by_hand=True)
    await supervisor.restart("db")

    assert states(supervisor) == {"db": S.RUNNING, "a": state}


@played
async def test_after_the_stop_of_a_job_unless_stopped_starts_with_the_next_one(clock: FakeClock) -> None:
    service = FakeService("a", restart="unless-stopped")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"], reason="job succeeded")
    await supervisor.start(["a"])

    assert supervisor.unit("a").state is S.RUNNING


@played
async def test_its_own_start_ends_the_rest_of_unless_stopped(clock: FakeClock) -> None:
    service = FakeService("a", restart="unless-stopped")
    supervisor, _ = supervise(clock, service)
    await supervisor.stop(["a"], by_hand=True)
    await supervisor.start(["a"], by_hand=True)
    assert supervisor.unit("a").state is S.RUNNING
    await supervisor.stop(["a"])
    await supervisor.start(["a"])

    assert supervisor.unit("a").state is S.RUNNING


@played
async def test_what_depends_on_one_that_waits_for_its_own_start_waits_too(clock: FakeClock) -> None:
    db = FakeService("db", restart="unless-stopped")
    api, lone = FakeService("api", depends_on=("db",)), FakeService("lone")
    supervisor, _ = supervise(clock, db, api, lone)
    await supervisor.start(["db", "api", "lone"])
    await supervisor.stop(["db"], by_hand=True)
    await supervisor.start(["db", "api", "lone"])
    assert states(supervisor) == {"db": S.STOPPED, "api": S.STOPPED, "lone": S.RUNNING}

    await refused(begin(supervisor.start(["api"], by_hand=True)), "depends on 'db', which is stopped")


# -- strategies --------------------------------------------------------------------------------------------


def family(strategy: str, **scripts: Script) -> dict[str, FakeService]:
    """Return db <- api <- web and lone, where db restarts by `strategy` after a pause of 10 s."""
    services = chain(**{"db": Script(ends_after_s=5.0), **scripts})
    again = Restart(backoff_s=10, strategy=strategy)
    services["db"] = FakeService("db", scripts.get("db", Script(ends_after_s=5.0)), Script(stop_s=1.0), restart=again)
    return services


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [
        ("one_for_one", {"db"}),
        ("rest_for_one", {"db", "api", "web"}),
        ("one_for_all", {"db", "api", "web", "lone"}),
    ],
)
@played
async def test_each_strategy_restarts_whom_it_says(clock: FakeClock, strategy: str, restarted: set[str]) -> None:
    services = family(strategy)
    supervisor, ends = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    await asyncio.sleep(60)

    assert {name for name, service in services.items() if service.count("launch") == 2} == restarted
    assert set(states(supervisor).values()) == {S.RUNNING}
    assert {name for name, unit in supervisor.units.items() if unit.life.restarts == 1} == restarted
    assert ends == []


@played
async def test_what_depends_on_it_ends_before_it_is_cleaned_and_returns_when_it_is_ready(clock: FakeClock) -> None:
    services = family("rest_for_one")
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start(ALL)
    await asyncio.sleep(60)

    assert services["web"].times("stop") == [5]
    assert services["api"].times("stop") == [6]
    assert services["db"].times("cleanup") == [7]
    assert services["db"].times("launch") == services["api"].times("launch") == services["web"].times("launch")
    assert services["db"].times("launch") == [0, 17]


@played
async def test_what_it_depends_on_ends_after_it_is_cleaned(clock: FakeClock) -> None:
    again = Restart(backoff_s=10, strategy="one_for_all")
    db = FakeService("db", Script(stop_s=1.0))
    api = FakeService("api", Script(ends_after_s=5.0, cleanup_s=3.0), Script(), depends_on=("db",), restart=again)
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(60)

    assert api.times("cleanup") == [5]
    assert db.times("stop") == [8]
    assert api.times("launch") == [0, 19]
    assert db.times("launch") == [0, 19]
    assert supervisor.unit("api").state is S.RUNNING


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
@played
async def test_one_that_is_stopped_while_it_steps_aside_stays_at_rest(clock: FakeClock, strategy: str) -> None:
    services = family(strategy)
    supervisor, ends = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    await asyncio.sleep(10)
    assert states(supervisor)["db"] is S.BACKOFF
    await supervisor.stop(["web"], by_hand=True)
    await asyncio.sleep(60)

    assert states(supervisor) == {"db": S.RUNNING, "api": S.RUNNING, "web": S.STOPPED, "lone": S.RUNNING}
    assert ends == []


@played
async def test_an_order_to_start_waits_where_a_restart_comes_in_between(clock: FakeClock) -> None:
    services = family("one_for_all", api=Script(ready_after_s=10.0), lone=Script(ready_after_s=10.0))
    supervisor, ends = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])

    assert services["db"].times("launch") == [0, 15]
    assert set(states(supervisor).values()) == {S.RUNNING}
    assert ends == []


@played
async def test_a_stop_of_all_while_some_stepped_aside_starts_none_of_them_again(clock: FakeClock) -> None:
    services = family("one_for_all")
    supervisor, ends = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    await asyncio.sleep(10)
    await supervisor.stop([*ALL, "lone"])
    await asyncio.sleep(3600)

    assert set(states(supervisor).values()) == {S.STOPPED}
    assert all(service.count("launch") == 1 for service in services.values())
    assert ends == []


@played
async def test_a_stop_of_all_while_they_return_leaves_all_at_rest(clock: FakeClock) -> None:
    services = family("one_for_all")
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    services["api"].script = services["lone"].script = Script(ready_after_s=3.0)
    await asyncio.sleep(19)
    assert S.STARTING in states(supervisor).values()
    await supervisor.stop([*ALL, "lone"])
    await asyncio.sleep(3600)

    assert set(states(supervisor).values()) == {S.STOPPED}


@played
async def test_the_stop_of_the_one_that_restarts_brings_back_those_that_do_not_need_it(clock: FakeClock) -> None:
    services = family("one_for_all")
    supervisor, _ = supervise(clock, *services.values())
    await supervisor.start([*ALL, "lone"])
    await asyncio.sleep(10)
    await supervisor.stop(["db"], by_hand=True)
    await asyncio.sleep(60)

    assert states(supervisor) == {"db": S.STOPPED, "api": S.STOPPED, "web": S.STOPPED, "lone": S.RUNNING}


@played
async def test_when_it_gives_up_those_that_stepped_aside_and_need_it_are_told_of(clock: FakeClock) -> None:
    services = family("rest_for_one")
    services["db"].script = Script(start_error=OSError("no disk"))
    services["db"]._scripts.pop()
    supervisor, ends = supervise(clock, *services.values())
    await supervisor.start(ALL)
    await asyncio.sleep(3600)

    assert ends.names() == ["db", "api", "web"]
    assert "no disk" in str(ends[0][1])
    assert "it depends on 'db', which is crashed" in str(ends[1][1])


@played
async def test_all_that_restart_all_others_may_die_at_once(clock: FakeClock) -> None:
    again = Restart(strategy="one_for_all", backoff_s=1)
    dying = Script(ends_after_s=5.0, cleanup_s=1.0)
    services = [FakeService(name, dying, Script(), restart=again) for name in "abc"]
    supervisor, ends = supervise(clock, *services)
    await supervisor.start(["a", "b", "c"])
    await asyncio.sleep(60)

    assert set(states(supervisor).values()) == {S.RUNNING}
    assert [service.count("launch") for service in services] == [2, 2, 2]
    assert ends == []


@played
async def test_one_that_returns_with_another_keeps_its_own_window(clock: FakeClock) -> None:
    again = Restart(strategy="one_for_all", max_restarts=2, backoff_s=1, backoff_max_s=1)
    a = FakeService("a", Script(ends_after_s=4.0), restart=again)
    b = FakeService("b", Script(ends_after_s=7.0), restart=again)
    supervisor, _ = supervise(clock, a, b)
    await supervisor.start(["a", "b"])
    await asyncio.sleep(3600)

    # Each restart of a begins b anew before b dies; when a has given up, b has its own two restarts.
    assert a.count("end") == 3
    assert b.count("end") == 3
    assert set(states(supervisor).values()) == {S.CRASHED}


# -- restarts and dependencies -----------------------------------------------------------------------------


@played
async def test_a_restart_waits_for_a_dependency_that_restarts_too(clock: FakeClock) -> None:
    db = FakeService("db", Script(ends_after_s=5.0), Script(ready_after_s=2.0), restart=Restart(backoff_s=20))
    api = FakeService("api", Script(ends_after_s=6.0), Script(), depends_on=("db",), restart="on-failure")
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(60)

    assert db.times("ready") == [0, 27]
    assert api.times("launch") == [0, 27]
    assert supervisor.unit("api").life.restarts == 1


@played
async def test_a_restart_whose_dependency_is_gone_fails_and_says_why(clock: FakeClock) -> None:
    db = FakeService("db", Script(ends_after_s=5.0), critical=False)
    api = FakeService("api", Script(ends_after_s=6.0), depends_on=("db",), restart=Restart(max_restarts=1))
    supervisor, ends = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(60)

    assert api.count("launch") == 1
    assert ends.names() == ["db", "api"]
    assert "it depends on 'db', which is crashed (exit code 1)" in str(ends[1][1])


@played
async def test_a_stop_while_a_restart_waits_for_its_dependency_counts(clock: FakeClock) -> None:
    db = FakeService("db", Script(ends_after_s=5.0), Script(), restart=Restart(backoff_s=20))
    api = FakeService("api", Script(ends_after_s=6.0), Script(), depends_on=("db",), restart="on-failure")
    supervisor, _ = supervise(clock, db, api)
    await supervisor.start(["api"])
    await asyncio.sleep(10)
    assert states(supervisor) == {"db": S.BACKOFF, "api": S.BACKOFF}
    await supervisor.stop(["api"])
    await asyncio.sleep(60)

    assert states(supervisor) == {"db": S.RUNNING, "api": S.STOPPED}


# -- services --------------------------------------------------------------------------------------------


@played
async def test_one_at_rest_is_replaced_by_another_of_the_same_name(clock: FakeClock) -> None:
    service = FakeService("a")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await supervisor.stop(["a"])
    slot = ServiceSlot(service.spec, supervisor.unit("a").slot.orders)
    supervisor.add(slot)
    await supervisor.start(["a"])

    assert slot.state is S.RUNNING
    supervisor.remove("a")
    assert supervisor.units == {}


@played
async def test_a_service_finds_what_it_declared_and_nothing_else(clock: FakeClock) -> None:
    services = chain()
    supervisor, _ = supervise(clock, *services.values())

    assert supervisor._find(supervisor.unit("api").slot, "db").name == "db"
    with pytest.raises(UnknownServiceError, match=r"depends_on=\('lone',\)"):
        supervisor._find(supervisor.unit("api").slot, "lone")


@played
async def test_what_was_never_started_has_no_outcome_of_its_own(clock: FakeClock) -> None:
    supervisor, _ = supervise(clock, FakeService("a"))
    await supervisor.stop(["a"])

    assert supervisor.unit("a").life.outcome is Outcome.STOPPED


@played
async def test_a_start_that_nobody_waits_for_any_more_goes_on(clock: FakeClock) -> None:
    service = FakeService("a", Script(ready_after_s=5.0))
    supervisor, _ = supervise(clock, service)
    starting = begin(supervisor.start(["a"]))
    await asyncio.sleep(1)
    starting.cancel()
    await asyncio.sleep(10)

    assert supervisor.unit("a").state is S.RUNNING


@played
async def test_the_error_of_a_start_tells_service_and_phase(clock: FakeClock) -> None:
    supervisor, _ = supervise(clock, FakeService("a", Script(start_error=ZeroDivisionError("x"))))
    with pytest.raises(ServiceStartError) as caught:
        await supervisor.start(["a"])

    assert (caught.value.service, caught.value.phase) == ("a", "start")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
