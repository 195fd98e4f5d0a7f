"""Every way in which the process that owns services ends, and some in which it does not."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab import Command, Health, LocalEnvironment, LogReady, Restart, ServicePolicy, current_job
from tests.chaos import programs
from tests.chaos.holds import submit
from tests.chaos.kills import PHASES, come_to
from tests.chaos.owners import Owner
from tests.chaos.world import end_for_sure, hold_gone, numbers_in, running, runs, see
from tests.services_for_tests import ONE_LIFE, Diary, Recorder

MakeOwner = Callable[..., Owner]


def hold_all_gone(owner: Owner, pids: Collection[int] = (), *, beside: Collection[int] = ()) -> None:
    """Hold that nothing of a dead owner is left: not its programs, not its reaper, not its folders."""
    owner.hold_nothing_left(beside)
    hold_gone({*pids, *numbers_in(owner.folder / "pids")})


# -- SIGKILL -----------------------------------------------------------------------------------------------

#: Rounds, and programs in each.
KILLS = [
    pytest.param(3, 12, id="3 times"),
    pytest.param(2, 100, id="twice 100", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("rounds", "count"), KILLS)
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_left_of_an_owner_that_was_killed(owner: MakeOwner, phase: str, rounds: int, count: int) -> None:
    delays = random.Random(f"{phase} {rounds}")
    for _ in range(rounds):
        killed = owner("fleet", phase=phase, count=count)
        come_to(killed, phase, count)
        time.sleep(0 if phase == "first launch" else delays.uniform(0, 0.1))
        killed.kill()
        killed.wait()
        hold_all_gone(killed)


@pytest.mark.parametrize("contain", ["signs", "auto"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_owner_that_is_killed_while_its_first_program_and_its_reaper_come_up_leaves_nothing(
    owner: MakeOwner, contain: str, moment: str
) -> None:
    delays = random.Random(moment)
    for _ in range(4):
        killed = owner("first_program", contain=contain)
        if moment == "after":  # the program is there, and the reaper takes longer
            numbers_in(killed.folder / "pids")
        else:
            killed.said("starts")
            time.sleep(delays.uniform(0, 0.1))
        killed.kill()
        killed.wait()
        killed.hold_nothing_left()
        pids = killed.folder / "pids"
        assert not pids.exists() or not running(int(line) for line in pids.read_text().split())


def test_an_owner_that_was_killed_leaves_programs_their_grace_and_their_order(owner: MakeOwner) -> None:
    killed = owner("slow_chain")
    killed.said("there")
    killed.kill()
    killed.wait()
    killed.hold_nothing_left()

    assert (killed.folder / "stamps").read_text().split() == [
        f"{name}-{what}" for name in ("web", "api", "db") for what in ("asked", "ended")
    ]


# -- signals and crashes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["idle", "job"])
def test_a_signal_to_end_stops_services_and_the_status_is_the_signals(
    owner: MakeOwner, phase: str, number: signal.Signals
) -> None:
    asked = owner("fleet", phase=phase)
    asked.said("there" if phase == "idle" else "working")
    asked.signal(number)

    assert asked.wait() == -number
    words = asked.words()
    assert words.count("speaker stop") == words.count("speaker cleanup") == 1
    hold_all_gone(asked)


def test_an_owner_that_is_asked_and_then_killed_leaves_nothing(owner: MakeOwner) -> None:
    delays = random.Random(47)
    for _ in range(3):
        asked = owner("fleet", deaf=3, grace_s=2)
        pids = asked.said("there")["pids"]
        asked.signal(signal.SIGTERM)
        time.sleep(delays.uniform(0, 1.5))
        asked.kill()
        asked.wait()
        hold_all_gone(asked, pids)


def test_a_quit_ends_the_owner_on_the_spot_and_nothing_is_left(owner: MakeOwner) -> None:
    asked = owner("fleet")
    pids = asked.said("there")["pids"]
    asked.signal(signal.SIGQUIT)

    assert asked.wait() == -signal.SIGQUIT
    assert "speaker stop" not in asked.words()
    hold_all_gone(asked, pids)


@pytest.mark.parametrize(
    ("order", "status"), [("die_at_once", 5), ("abort", -signal.SIGABRT), ("crash", -signal.SIGSEGV)]
)
def test_nothing_is_left_of_an_owner_that_crashed_and_its_status_is_its_own(
    owner: MakeOwner, order: str, status: int
) -> None:
    crashed = owner("fleet")
    told = crashed.said("there")
    crashed.tell(order)

    assert crashed.wait() == status
    hold_all_gone(crashed, told["pids"])
    assert not Path(told["workdir"]).exists()


# -- children and successors of the owner ------------------------------------------------------------------


def test_a_child_that_keeps_everything_open_does_not_stand_for_its_dead_owner(owner: MakeOwner) -> None:
    killed = owner("fleet")
    pids = killed.said("there")["pids"]
    killed.tell("fork_in_c")
    children = killed.said("forked")["pids"]
    killed.kill()
    try:
        killed.wait()
        hold_all_gone(killed, pids, beside=children)

        assert running(children) == children  # they are not ours
    finally:
        end_for_sure(children)


def test_an_owner_that_is_suspended_is_not_dead(owner: MakeOwner) -> None:
    paused = owner("fleet")
    pids = paused.said("there")["pids"]
    reaper = paused.reaper()
    paused.signal(signal.SIGSTOP)
    time.sleep(2)  # four times as long as a look at it may take
    assert running(pids) == pids
    paused.signal(signal.SIGCONT)
    paused.tell("go_on")

    told = paused.said("went on")
    assert set(told["states"].values()) == {"running"}
    assert paused.reapers() == [reaper]
    paused.tell("")
    assert set(paused.said("stopped")["outcomes"].values()) == {"stopped", "killed"}
    assert paused.wait() == 0
    hold_all_gone(paused, pids + told["pids"])


def test_an_owner_that_became_another_program_is_no_owner_any_more(owner: MakeOwner) -> None:
    became = owner("fleet")
    pids = became.said("there")["pids"]
    me = see(became.pid)
    became.tell("become_another")
    hold_gone(pids)

    assert runs(me)  # what it is now is not ours
    assert psutil.Process(became.pid).name() == "sleep"
    became.kill()
    became.wait()
    hold_all_gone(became, pids)


def test_forked_children_that_end_take_nothing_of_their_parents_along(owner: MakeOwner) -> None:
    parent = owner("fleet")
    pids = parent.said("there")["pids"]
    parent.tell("fork_in_python")
    told = parent.said("forked")

    assert set(told["states"]) == {"running"}
    assert running(pids) == pids
    parent.tell("")
    assert set(parent.said("stopped")["outcomes"].values()) == {"stopped", "killed"}
    assert parent.wait() == 0, parent.errors
    assert parent.words().count("speaker stop") == 1
    hold_all_gone(parent, pids)


# -- clocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_clock_that_jumps_ends_and_starts_nothing(
    env: LocalEnvironment, diary: Diary, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    real, offset_s = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset_s[0])
    policy = ServicePolicy(
        start_timeout_s=60,
        stop_timeout_s=60,
        max_lifetime_s=600,
        idle_timeout_s=600,
        health=Health(interval_s=0.05, timeout_s=60),
        restart=Restart("always"),
    )

    class Jumper(Recorder):
        def start(self) -> None:
            super().start()
            offset_s[0] += jump_s

        def stop(self) -> None:
            super().stop()
            offset_s[0] += jump_s

        def health_check(self) -> dict[str, Any]:
            return {}

    handle = env.register_service("jumper", Jumper, diary, "jumper", policy=policy)
    program = env.register_service("program", Command, programs.polite(), ready=LogReady("up"))

    def work() -> str:
        offset_s[0] -= 2 * jump_s
        for _ in range(10):
            assert handle.echo(1) == 1
            assert handle.health().is_healthy
            assert program.health().is_healthy
            assert not current_job().stopping.wait(0.02)
        return "done"

    env.run(work)
    ended = submit(env, {"jumper": "stopped", "program": "stopped"}, timeout_s=60)

    assert ended.job.result() == "done"
    assert 0 < ended.job.elapsed_s < 60
    assert diary.of("jumper")[:2] + diary.of("jumper")[-2:] == ONE_LIFE
    assert all(entry.restarts == 0 for entry in ended.report.services)
