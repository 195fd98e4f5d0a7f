from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab import Health, Restart
from autostop_lab.lifecycle import ServiceState as S
from autostop_lab.services.policies import RESTART_WORDS
from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.restart import JITTER, Again, Enough, Past, decide, wants_restart
from autostop_lab.testing import FakeClock, FakeService, Script
from tests.supervisor.play import begin, played, refused, supervise

DONE = Exit(code=0)
CRASHING = Script(ends_after_s=5.0)
SICK_ONCE = Health(interval_s=1, failure_threshold=1, on_unhealthy="restart")

# -- the decision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "after_crash", "after_clean_exit"),
    [("no", False, False), ("on-failure", True, False), ("always", True, True), ("unless-stopped", True, True)],
)
def test_each_policy_wants_what_its_word_says(word: str, after_crash: bool, after_clean_exit: bool) -> None:
    rule = Restart(word)

    assert wants_restart(rule, is_clean=False) is after_crash
    assert wants_restart(rule, is_clean=True) is after_clean_exit


def test_what_is_not_wanted_is_enough_without_a_reason() -> None:
    assert decide(Restart(), Past(), is_wanted=False) == Enough()


def delays(rule: Restart, number: int) -> list[float]:
    """Return the pauses before so many restarts in a row, all in one window."""
    past, found = Past(), []
    for _ in range(number):
        again = decide(rule, past, is_wanted=True)
        assert isinstance(again, Again)
        found.append(again.delay_s)
        past = past.with_one(0.0)
    return found


def test_pauses_double_up_to_their_maximum() -> None:
    assert delays(Restart(max_restarts=None), 8) == [1, 2, 4, 8, 16, 30, 30, 30]


def test_pauses_stay_numbers_after_a_thousand_restarts() -> None:
    assert delays(Restart(max_restarts=None, backoff_s=0.001, backoff_max_s=1e9), 1100)[-1] < math.inf


@pytest.mark.parametrize("jitter", [-1.0, 0.0, 1.0])
def test_jitter_moves_a_pause_by_a_tenth_at_most(jitter: float) -> None:
    again = decide(Restart(backoff_s=10), Past(), is_wanted=True, jitter=jitter)

    assert isinstance(again, Again)
    assert again.delay_s == pytest.approx(10 * (1 + JITTER * jitter))


def test_none_is_no_limit() -> None:
    past = Past(tuple(float(at) for at in range(1000)), 1000)

    assert isinstance(decide(Restart(max_restarts=None), past, is_wanted=True), Again)


def test_zero_is_no_restart() -> None:
    assert decide(Restart(max_restarts=0), Past(), is_wanted=True) == Enough("its policy allows no restart")


def test_a_full_window_is_enough_and_says_so() -> None:
    enough = decide(Restart(max_restarts=2), Past((1.0, 2.0), 2), is_wanted=True)

    assert enough == Enough("2 restarts within 60 s, and no more are allowed")


def test_restarts_leave_the_window_behind_but_still_lengthen_the_pause() -> None:
    past = Past((0.0, 30.0), 2).seen_from(70.0, Restart(), ran_s=10.0)

    assert past == Past((30.0,), 2)


def test_a_window_of_running_empties_it() -> None:
    assert Past((0.0, 30.0), 2).seen_from(100.0, Restart(), ran_s=60.0) == Past()


def test_less_than_a_window_of_running_empties_nothing() -> None:
    assert Past((50.0,), 1).seen_from(100.0, Restart(), ran_s=49.9) == Past((50.0,), 1)


@given(
    st.lists(st.floats(0.0, 40.0), max_size=60),
    st.integers(0, 5),
    st.sampled_from([5.0, 60.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_no_window_ever_holds_more_restarts_than_the_limit(
    runs: list[float], limit: int, window_s: float, backoff_s: float
) -> None:
    rule = Restart(max_restarts=limit, window_s=window_s, backoff_s=backoff_s)
    past, now, restarts = Past(), 0.0, []
    for ran_s in runs:
        now += ran_s
        past = past.seen_from(now, rule, ran_s=ran_s)
        again = decide(rule, past, is_wanted=True)
        if isinstance(again, Enough):
            break
        now += again.delay_s
        past = past.with_one(now)
        restarts.append(now)

    for first, *_, last in (restarts[i : i + limit + 1] for i in range(len(restarts) - limit) if limit):
        assert last - first >= window_s
    assert limit or not restarts


# -- a supervised service ----------------------------------------------------------------------------------


@played
async def test_a_crash_is_followed_by_restarts_with_growing_pauses_until_the_limit(clock: FakeClock) -> None:
    service = FakeService("a", CRASHING, restart="on-failure")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.times("launch") == [0, 5 + 1, 11 + 2, 18 + 4]
    assert supervisor.unit("a").state is S.CRASHED
    assert supervisor.unit("a").slot.reason == "exit code 1; 3 restarts within 60 s, and no more are allowed"
    assert ends == [("a", Exit(code=1))]


@played
async def test_backoff_shows_why_which_try_and_when(clock: FakeClock) -> None:
    service = FakeService("a", CRASHING, restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(5.5)
    slot = supervisor.unit("a").slot

    assert slot.state is S.BACKOFF
    assert slot.reason == "exit code 1; restart 1 of 3 in 1.0 s"
    assert slot.next_at == clock.wall() + 0.5


@played
async def test_restarts_that_leave_the_window_make_room_for_others(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=25.0), restart=Restart(backoff_max_s=1))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    starts = service.times("launch")
    assert supervisor.unit("a").is_live
    assert len(starts) > 100
    assert all(later - earlier == 26 for earlier, later in itertools.pairwise(starts))


@played
async def test_a_window_of_uninterrupted_running_begins_anew(clock: FakeClock) -> None:
    lives = [Script(ends_after_s=s) for s in (1.0, 1.0, 1.0, 60.0, 1.0, 1.0)]
    service = FakeService("a", *lives, Script(), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    pauses = [launch - end for end, launch in zip(service.times("end"), service.times("launch")[1:], strict=True)]
    assert pauses == [1, 2, 4, 1, 2, 4]
    assert supervisor.unit("a").state is S.RUNNING


@played
async def test_less_running_than_a_window_empties_nothing(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=14.0), restart=Restart(backoff_s=0.5))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.count("launch") == 4
    assert supervisor.unit("a").state is S.CRASHED


@pytest.mark.parametrize("order", ["stop and start", "restart", "start"])
@played
async def test_a_manual_order_empties_the_window(clock: FakeClock, order: str) -> None:
    service = FakeService("a", CRASHING, restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    if order == "start":
        await asyncio.sleep(3600)  # it has given up
        assert supervisor.unit("a").state is S.CRASHED
    else:
        await asyncio.sleep(20)  # between its second and third restart
    before = service.count("launch")
    if order == "restart":
        await supervisor.restart("a")
    else:
        await supervisor.stop(["a"], by_hand=True)
        await supervisor.start(["a"], by_hand=True)
    began_s = clock.now()
    await asyncio.sleep(3600)

    assert [at - began_s for at in service.times("launch")[before:]] == [0, 6, 13, 22]


@played
async def test_no_limit_goes_on_for_hours_with_the_longest_pause(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=1.0), restart=Restart(max_restarts=None))
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(2 * 3600)

    pauses = [later - earlier - 1 for earlier, later in itertools.pairwise(service.times("launch"))]
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert set(pauses[6:]) == {30}
    assert len(pauses) > 200
    assert ends == []


@pytest.mark.parametrize("word", RESTART_WORDS)
@played
async def test_the_limit_holds_for_every_policy(clock: FakeClock, word: str) -> None:
    service = FakeService("a", CRASHING, restart=Restart(word, max_restarts=2))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.count("launch") == (1 if word == "no" else 3)
    assert supervisor.unit("a").state is S.CRASHED


@pytest.mark.parametrize(("word", "starts"), [("no", 1), ("on-failure", 1), ("always", 4), ("unless-stopped", 4)])
@played
async def test_a_clean_exit_is_restarted_by_always_and_unless_stopped_only(
    clock: FakeClock, word: str, starts: int
) -> None:
    service = FakeService("a", Script(ends_after_s=5.0, exit=DONE), restart=word)
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert service.count("launch") == starts
    assert supervisor.unit("a").state is S.STOPPED


@played
async def test_the_old_life_is_cleaned_before_the_pause_and_the_next_one_begins_after_it(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=5.0, cleanup_s=3.0), Script(), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(60)

    assert service.diary[2:6] == [(5, "end"), (5, "cleanup"), (8, "release"), (9, "launch")]


@played
async def test_what_failed_at_the_end_of_an_old_life_stays_on_the_record(clock: FakeClock) -> None:
    error = OSError("disk full")
    service = FakeService("a", Script(ends_after_s=5.0, cleanup_error=error), Script(), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(60)
    await supervisor.stop(["a"])

    life = supervisor.unit("a").life
    assert life.errors == [("cleanup", error)]
    assert life.restarts == 1


# -- a start that fails ------------------------------------------------------------------------------------


@played
async def test_a_start_that_fails_is_repeated_and_the_order_waits_for_the_outcome(clock: FakeClock) -> None:
    failing = Script(start_error=OSError("no port"))
    service = FakeService("a", failing, failing, Script(), restart="on-failure")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])

    assert clock.now() == 3
    assert supervisor.unit("a").state is S.RUNNING
    assert supervisor.unit("a").life.restarts == 2
    assert supervisor.unit("a").life.errors == []
    assert ends == []


@played
async def test_a_start_that_never_succeeds_raises_its_last_error(clock: FakeClock) -> None:
    service = FakeService("a", Script(start_error=OSError("no port")), restart="on-failure")
    supervisor, ends = supervise(clock, service)
    await refused(begin(supervisor.start(["a"])), "start.. raised OSError: no port")

    assert service.times("launch") == [0, 1, 3, 7]
    assert supervisor.unit("a").state is S.CRASHED
    assert ends == []  # whoever ordered the start was told


@played
async def test_all_who_wait_for_one_start_get_its_outcome(clock: FakeClock) -> None:
    service = FakeService("a", Script(start_error=OSError("no port")), Script(), restart="on-failure")
    supervisor, _ = supervise(clock, service)
    await asyncio.gather(*(supervisor.start(["a"]) for _ in range(3)))

    assert service.count("launch") == 2


# -- orders in backoff -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
@played
async def test_a_stop_in_backoff_makes_the_restart_void_and_tells_who_waits(clock: FakeClock, kill: bool) -> None:
    service = FakeService("a", Script(start_error=OSError()), restart=Restart(backoff_s=20))
    supervisor, ends = supervise(clock, service)
    waiting = [begin(supervisor.start(["a"])) for _ in range(2)]
    await asyncio.sleep(5)
    assert supervisor.unit("a").state is S.BACKOFF
    await supervisor.stop(["a"], reason="by hand", kill=kill)

    assert clock.now() == 5
    for waiter in waiting:
        await refused(waiter, r"stopped while it waited for its next try \(by hand\)")
    await asyncio.sleep(3600)
    assert service.count("launch") == 1
    assert supervisor.unit("a").state is S.STOPPED
    assert ends == []


@played
async def test_a_stop_while_the_old_life_is_cleared_waits_for_that(clock: FakeClock) -> None:
    service = FakeService("a", Script(ends_after_s=5.0, cleanup_s=3.0), restart="on-failure")
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(6)
    await supervisor.stop(["a"])

    assert clock.now() == 8
    assert service.diary[-1] == (8, "release")
    assert supervisor.unit("a").state is S.STOPPED
    assert ends == []


@played
async def test_a_manual_start_in_backoff_does_not_wait_for_the_end_of_the_pause(clock: FakeClock) -> None:
    service = FakeService("a", CRASHING, Script(), restart=Restart(backoff_s=20))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(6)
    await supervisor.start(["a"], by_hand=True)

    assert clock.now() == 6
    assert supervisor.unit("a").state is S.RUNNING


@played
async def test_an_order_to_start_others_too_waits_for_the_end_of_the_pause(clock: FakeClock) -> None:
    service = FakeService("a", CRASHING, Script(), restart=Restart(backoff_s=20))
    supervisor, _ = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(6)
    await supervisor.start(["a"])

    assert clock.now() == 25
    assert service.count("launch") == 2


# -- what is not gone --------------------------------------------------------------------------------------


@played
async def test_a_service_that_is_not_proved_gone_is_abandoned_and_never_started_again(clock: FakeClock) -> None:
    stuck = Script(health=[False], stop_s=math.inf, kill_s=math.inf)
    service = FakeService("a", stuck, restart="always", health=SICK_ONCE)
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(3600)

    assert supervisor.unit("a").state is S.ABANDONED
    assert ends.names() == ["a"]
    await refused(begin(supervisor.start(["a"], by_hand=True)), "abandoned and is not started again")
    assert service.count("launch") == 1


@played
async def test_a_start_that_leaves_something_is_not_repeated(clock: FakeClock) -> None:
    service = FakeService("a", Script(start_error=OSError("no"), kill_s=math.inf), restart="always")
    supervisor, _ = supervise(clock, service)
    await refused(begin(supervisor.start(["a"])), "OSError: no")

    assert supervisor.unit("a").state is S.ABANDONED
    assert service.count("launch") == 1


@played
async def test_a_stop_while_what_died_cannot_be_ended_names_the_survivor(clock: FakeClock) -> None:
    service = FakeService("a", Script(health=[False], stop_s=math.inf, kill_s=math.inf), health=SICK_ONCE)
    supervisor, ends = supervise(clock, service)
    await supervisor.start(["a"])
    await asyncio.sleep(2)
    assert supervisor.unit("a").state is S.BACKOFF
    await supervisor.stop(["a"])

    assert supervisor.unit("a").state is S.ABANDONED
    assert supervisor.unit("a").life.survivor == "life 1 of fake service 'a'"
    assert ends == []  # whoever stopped it was told
