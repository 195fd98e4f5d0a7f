"""The end of a program's whole tree: who still carries its signs is asked to end, then killed, then looked for again.

One look proves nothing: a child forked after the list of processes was read is invisible to it. So a tree counts
as gone after three empty looks in a row. All trees that are being ended are looked for in the same pass, by one
thread that lives as long as there is something to end.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from dataclasses import dataclass, field

from autostop_lab.origin import thread_name
from autostop_lab.reaper.processes import Process, find_owned, is_alive, send_signal

#: Empty looks in a row before a tree counts as gone.
LOOKS_NEEDED = 3
#: Pause in seconds between looks that confirm emptiness, and between looks that wait for something to end.
CONFIRM_PAUSE_S = 0.003
WAIT_PAUSE_S = 0.02


@dataclass(eq=False)
class Tree:
    """The processes of one instance, on their way out.

    Attributes
    ----------
    instance_id : str
        The id that they carry.
    leader : Process
        The program itself, not reaped by us, so that its session number is still its own.
    grace_until : float
        Monotonic time in seconds: until then they are only asked to end.
    asked, killed : set of Process
        Who was sent TERM, and who was sent KILL.
    """

    instance_id: str
    leader: Process
    grace_until: float
    asked: set[Process] = field(default_factory=set)
    killed: set[Process] = field(default_factory=set)
    left: list[Process] = field(default_factory=list)
    empty_looks: int = 0

    def see(self, found: list[Process], now: float) -> list[tuple[Process, int]]:
        """Take in what one look found and return the signals to send."""
        self.left = found
        self.empty_looks = 0 if found else self.empty_looks + 1
        if now < self.grace_until:
            new = [process for process in found if process not in self.asked]
            self.asked.update(new)
            return [(process, number) for process in new for number in (signal.SIGTERM, signal.SIGCONT)]
        self.killed.update(found)
        return [(process, signal.SIGKILL) for process in found]

    @property
    def is_gone(self) -> bool:
        """Whether enough looks in a row were empty."""
        return self.empty_looks >= LOOKS_NEEDED


class Sweeper:
    """Ends trees until they are gone; safe to use from many event loops and threads."""

    def __init__(self) -> None:
        self._trees: dict[Tree, tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = {}
        self._lock = threading.Lock()
        self._is_working = False

    async def end(self, tree: Tree) -> None:
        """Return when `tree` is gone; cancelling gives it up."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._trees[tree] = (loop, done)
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name=thread_name("sweep"), daemon=True).start()
        try:
            await done
        finally:
            with self._lock:
                self._trees.pop(tree, None)

    def _work(self) -> None:
        while True:
            with self._lock:
                trees = dict(self._trees)
                if not trees:
                    self._is_working = False
                    return
            self._look(trees)
            waits = any(tree.left for tree in trees)
            time.sleep(WAIT_PAUSE_S if waits else CONFIRM_PAUSE_S)

    def _look(self, trees: dict[Tree, tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]) -> None:
        found = find_owned(
            frozenset(tree.instance_id for tree in trees),
            since=min((tree.leader.started for tree in trees), key=_order),
            sessions=frozenset(tree.leader.session for tree in trees if tree.leader.session),
        )
        now = time.monotonic()
        for tree, (loop, done) in trees.items():
            members = {*found.get(tree.instance_id, ()), *found.get(str(tree.leader.session), ())} - {tree.leader}
            for process, number in tree.see(list(members), now):
                send_signal(process, number)
            if tree.is_gone:
                with self._lock:
                    self._trees.pop(tree, None)
                loop.call_soon_threadsafe(_resolve, done)


def _order(started: str) -> tuple[int, str]:
    return (int(started), "") if started.isdigit() else (0, started)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def alive(processes: set[Process]) -> list[Process]:
    """Return those of `processes` that still run."""
    return [process for process in processes if is_alive(process)]


sweeper = Sweeper()
