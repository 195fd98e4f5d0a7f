from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.reaper.groups import Group
from autostop_lab.reaper.processes import Process
from autostop_lab.services import sweep
from autostop_lab.services.sweep import LOOKS_NEEDED, SHIM_LOOKS, Sweeper, Tree, sweeper
from autostop_lab.supervisor.loop import supervisor_loop
from tests.services.lives import LONG_S, eventually

LEADER = Process(2**22 + 10, "100", parent_pid=1, group=2**22 + 10, session=2**22 + 10, is_zombie=True)


def member(number: int, group: int = 1) -> Process:
    return Process(2**22 + number, "200", parent_pid=1, group=group, session=1, is_zombie=False)


def tree(grace_s: float = 0.0) -> Tree:
    return Tree("store-1", LEADER, grace_until=time.monotonic() + grace_s)


def signals(it: Tree) -> list[tuple[Process, int]]:
    """Return what a tree sends now."""
    sent: list[tuple[Process, int]] = []

    def send(known: Process, number: int) -> bool:
        sent.append((known, number))
        return True

    it.end_those_left(time.monotonic(), send)
    return sent


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return supervisor_loop().run(asyncio.wait_for(work, LONG_S))


class World:
    """Stands for the processes of the machine: what each look finds, and the signals that are sent."""

    def __init__(self) -> None:
        self.looks: list[Any] = []
        self.count = 0
        self.signals: list[tuple[int, int]] = []
        self.asked: list[dict[str, Any]] = []
        self.alive: set[Process] = set()

    def find_owned(self, ids: frozenset[str], **kwargs: Any) -> dict[str, list[Process]]:
        self.asked.append({"ids": ids, **kwargs})
        self.count += 1
        found = self.looks.pop(0) if self.looks else []
        if isinstance(found, Exception):
            raise found
        return {"store-1": list(found)}

    def send_signal(self, known: Process, number: int) -> bool:
        self.signals.append((known.pid - 2**22, number))
        return True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(sweep, "find_owned", world.find_owned)
    monkeypatch.setattr(sweep, "send_signal", world.send_signal)
    monkeypatch.setattr(sweep, "is_alive", lambda known: known in world.alive)
    return world


# -- what a tree says --------------------------------------------------------------------------------------


def test_a_tree_is_gone_after_three_empty_looks_in_a_row() -> None:
    it = tree()
    seen = []
    for found in (set(), set(), {member(1)}, set(), set(), set()):
        it.see(found)
        seen.append(it.is_gone)

    assert LOOKS_NEEDED == 3
    assert seen == [False, False, False, False, False, True]


def test_within_the_grace_period_each_is_asked_once_to_end_and_woken_up() -> None:
    it = tree(grace_s=LONG_S)
    it.see({member(1), member(2)})
    first = signals(it)
    it.see({member(2), member(3)})

    assert first == [(member(n), number) for n in (1, 2) for number in (signal.SIGTERM, signal.SIGCONT)]
    assert signals(it) == [(member(3), signal.SIGTERM), (member(3), signal.SIGCONT)]
    assert not it.killed


def test_one_that_could_not_be_asked_is_asked_again() -> None:
    it = tree(grace_s=LONG_S)
    it.see({member(1)})

    def fail(known: Process, number: int) -> bool:
        raise OSError(24, "no descriptor left")

    with pytest.raises(OSError, match="no descriptor left"):
        it.end_those_left(time.monotonic(), fail)

    assert signals(it) == [(member(1), signal.SIGTERM), (member(1), signal.SIGCONT)]


def test_one_that_ends_before_the_kill_was_not_killed() -> None:
    it = tree()
    it.see({member(1)})
    it.end_those_left(time.monotonic(), lambda known, number: False)

    assert not it.killed


def test_one_whose_parent_has_died_in_between_is_not_asked_again() -> None:
    it = tree(grace_s=LONG_S)
    it.see({member(1)})
    signals(it)
    it.see({Process(member(1).pid, "200", parent_pid=7, group=7, session=7, is_zombie=False)})

    assert signals(it) == []


def test_after_the_grace_period_all_are_killed_until_they_are_gone() -> None:
    it = tree()
    for _ in range(2):
        it.see({member(1)})
        assert signals(it) == [(member(1), signal.SIGKILL)]

    assert it.killed == {member(1)}


def test_members_of_the_group_that_was_asked_are_not_asked_twice() -> None:
    it = tree(grace_s=LONG_S)
    it.see({member(1, group=LEADER.pid), member(2), LEADER})
    it.note_group_asked()

    assert {process for process, _ in signals(it)} == {member(2)}


def test_the_leader_is_not_among_those_that_are_left() -> None:
    it = tree()
    it.see({LEADER, member(1)})

    assert it.left == [member(1)]
    assert signals(it) == [(member(1), signal.SIGKILL)]


# -- a tree below a shim -----------------------------------------------------------------------------------


def shim_tree() -> Tree:
    it = tree()
    it.has_shim = True
    return it


def test_a_shim_is_not_killed_before_those_that_it_would_adopt() -> None:
    it = shim_tree()
    for _ in range(10 * SHIM_LOOKS):
        it.see({LEADER, member(1)})
        assert signals(it) == [(member(1), signal.SIGKILL)]

    assert not it.is_gone


def test_a_tree_is_not_gone_before_its_shim() -> None:
    it = shim_tree()
    seen = []
    for found in ({LEADER}, {LEADER}, {LEADER}, set(), set(), set()):
        it.see(found)
        seen.append(it.is_gone)

    assert seen == [False, False, False, False, False, True]


def test_a_shim_that_does_not_end_by_itself_is_woken_up_and_killed_at_last() -> None:
    it = shim_tree()
    sent = []
    for _ in range(2 * SHIM_LOOKS):
        it.see({LEADER})
        sent.append(signals(it))

    assert [number for number, what in enumerate(sent, 1) if what] == [SHIM_LOOKS, 2 * SHIM_LOOKS]
    assert [what for what in sent if what] == [[(LEADER, signal.SIGCONT)], [(LEADER, signal.SIGKILL)]]
    assert not it.killed


def test_looks_that_find_somebody_give_a_shim_its_time_anew() -> None:
    it = shim_tree()
    for _ in range(5):
        for _ in range(SHIM_LOOKS - 1):
            it.see({LEADER})
            assert signals(it) == []
        it.see({LEADER, member(1)})


def test_members_of_the_program_s_own_group_are_not_asked_twice() -> None:
    it = shim_tree()
    it.grace_until = float("inf")
    it.process_group = member(5).pid
    it.see({LEADER, member(1, group=member(5).pid), member(2)})
    it.note_group_asked()

    assert {process for process, _ in signals(it)} == {member(2)}


# -- a tree in a control group -----------------------------------------------------------------------------


class Killable(Group):
    kills = 0

    def kill(self) -> bool:
        self.kills += 1
        return True


def test_after_the_grace_period_a_control_group_is_killed_as_a_whole_while_anybody_is_left() -> None:
    group = Killable(Path("/no/such"))
    it = tree(grace_s=LONG_S)
    it.control_group = group
    it.see({member(1)})
    signals(it)
    assert group.kills == 0

    it.grace_until = 0.0
    assert signals(it) == [(member(1), signal.SIGKILL)]
    assert group.kills == 1
    it.see(set())
    signals(it)
    assert group.kills == 1


# -- what the sweeper does ---------------------------------------------------------------------------------


def test_the_sweeper_looks_until_a_tree_is_gone(world: World) -> None:
    world.looks = [[member(1)], [member(1)], [], [member(2)]]
    run(Sweeper().end(tree()))

    assert world.signals == [(1, signal.SIGKILL), (1, signal.SIGKILL), (2, signal.SIGKILL)]
    assert world.count == 4 + LOOKS_NEEDED


def test_it_asks_for_the_instance_since_its_leader_and_for_the_leader_s_session(world: World) -> None:
    run(Sweeper().end(tree()))

    assert world.asked[0] == {
        "ids": frozenset({"store-1"}),
        "since": "100",
        "sessions": frozenset({LEADER.pid}),
    }


@pytest.mark.parametrize("change", ["session", "reaped"])
def test_a_session_that_may_be_a_stranger_s_is_not_looked_at(world: World, change: str) -> None:
    it = tree()
    if change == "session":  # that of this very process, say
        it.leader = Process(LEADER.pid, "100", 1, LEADER.pid, os.getsid(0), False)
    else:
        it.is_pinned = False
    run(Sweeper().end(it))

    assert world.asked[0]["sessions"] == frozenset()


def test_a_look_sends_no_signal_and_is_one_look(world: World) -> None:
    world.looks = [[member(1)]]
    it = tree()
    run(Sweeper().look(it))

    assert it.known == {member(1)}
    assert world.signals == []
    assert world.count == 1


def test_who_was_seen_once_stays_ours_as_long_as_it_lives(world: World) -> None:
    world.looks = [[member(1)], []]
    world.alive = {member(1)}
    it = tree(grace_s=LONG_S)
    end = Sweeper()

    async def both() -> None:
        await end.look(it)
        ending = asyncio.ensure_future(end.end(it))
        while not world.signals:
            await asyncio.sleep(0.001)
        world.alive.clear()
        await ending

    run(both())

    assert world.signals == [(1, signal.SIGTERM), (1, signal.SIGCONT)]


def test_a_look_that_fails_counts_for_nothing_and_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    failure = OSError(24, "no descriptor left")
    world.looks = [[], [], failure, failure, [member(1)]]
    run(Sweeper().end(tree()))

    assert world.signals == [(1, signal.SIGKILL)]
    assert world.count == 5 + LOOKS_NEEDED
    assert [record.getMessage() for record in caplog.records] == [
        "looking for processes of services failed and is tried again"
    ]


def test_many_trees_are_looked_for_in_the_same_pass(world: World) -> None:
    trees = [Tree(f"store-{number}", LEADER) for number in range(50)]
    end = Sweeper()

    async def all_of_them() -> None:
        await asyncio.gather(*(end.end(it) for it in trees))

    run(all_of_them())

    assert world.count <= 2 * LOOKS_NEEDED
    assert max(len(asked["ids"]) for asked in world.asked) == 50


def test_one_that_is_given_up_is_not_looked_for_any_more(world: World) -> None:
    world.alive = {member(1)}
    world.looks = [[member(1)]]
    end = Sweeper()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(end.end(tree(grace_s=LONG_S)), 0.05)

    run(give_up())
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "autostop-lab: sweep"])


def test_the_thread_lives_as_long_as_there_is_something_to_look_for(world: World) -> None:
    end = Sweeper()
    for _ in range(3):
        run(end.end(tree()))
        eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "autostop-lab: sweep"])


def test_a_thread_that_cannot_be_started_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    end, tries, start = Sweeper(), [], threading.Thread.start

    def start_third(thread: threading.Thread) -> None:
        tries.append(thread)
        if len(tries) < 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_third)
        run(end.end(tree()))

    assert len(tries) == 3


def test_who_waits_for_a_thread_that_never_comes_may_give_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(TimeoutError):
        run(asyncio.wait_for(Sweeper().end(tree()), 0.05))


def test_a_loop_that_is_gone_is_no_trouble(world: World) -> None:
    world.looks = [[member(1)]] * 3
    end = Sweeper()
    ending: list[asyncio.Future[None]] = []

    async def abandon() -> None:
        ending.append(asyncio.ensure_future(end.end(tree())))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandon())
    loop.close()
    del ending[:]
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "autostop-lab: sweep"])
    run(end.end(tree()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_gets_a_sweeper_of_its_own() -> None:
    mine = sweeper()
    assert sweeper() is mine
    child = os.fork()
    if child == 0:
        os._exit(0 if sweeper() is not mine else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
