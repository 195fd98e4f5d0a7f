"""The end of a program's whole tree: who still carries its signs is asked to end, then killed, then looked for again.

One look proves nothing: a child forked after the list of processes was read is invisible to it. So a tree counts
as gone after three empty looks in a row. All trees that are being ended are looked for in the same pass, by one
thread that lives as long as there is something to look for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from autostop_lab.origin import thread_name
from autostop_lab.reaper.groups import Group
from autostop_lab.reaper.processes import Process, find_owned, is_alive, send_signal
from autostop_lab.reaper.timings import DEFAULT
from autostop_lab.services.threads import post

logger = logging.getLogger("autostop_lab.services")

#: Empty looks in a row before a tree counts as gone.
LOOKS_NEEDED = DEFAULT.looks_needed
#: Looks at a shim that should have ended by itself before it is woken up, and as many again before it is killed.
SHIM_LOOKS = 100
#: Pause between looks that confirm emptiness, and between looks that wait for something to end, in seconds.
CONFIRM_PAUSE_S = DEFAULT.confirm_pause_s
WAIT_PAUSE_S = 0.02
#: A pause is at least so many times as long as the look before it: on a machine with many processes, waiting for
#: something to end must not take a whole processor.
PAUSE_PER_LOOK = DEFAULT.pause_per_look


@dataclass(eq=False)
class Tree:
    """The processes of one instance.

    Attributes
    ----------
    instance_id : str
        The id that they carry.
    leader : Process
        What was launched: the program itself, or the shim that stays as its parent.
    process_group : int or None
        The number of the program's process group; None is the leader's.
    has_shim : bool
        Whether the leader is a shim. It ends by itself once nobody is left that it could adopt, and not before the
        others may it be killed: its orphans would be lost.
    control_group : Group or None
        The program's control group, if it has one.
    grace_until : float
        Monotonic time in seconds: until then they are only asked to end.
    is_pinned : bool
        Whether the leader is not reaped, so that its session's number is still its own.
    known : set of Process
        Who was there at the last look: they stay ours when their parent dies or they leave the session.
    asked, killed : set of Process
        Who was sent TERM, and who was sent KILL.
    left : list of Process
        Who was there at the last look, the leader aside.
    """

    instance_id: str
    leader: Process
    process_group: int | None = None
    has_shim: bool = False
    control_group: Group | None = None
    grace_until: float = float("inf")
    is_pinned: bool = True
    known: set[Process] = field(default_factory=set)
    asked: set[Process] = field(default_factory=set)
    killed: set[Process] = field(default_factory=set)
    left: list[Process] = field(default_factory=list)
    empty_looks: int = 0
    lone_looks: int = 0

    def see(self, found: set[Process]) -> None:
        """Take in what one look found."""
        self.known = found
        self.left = sorted(found - {self.leader}, key=lambda process: process.pid)
        has_lone_shim = not self.left and self.has_shim and self.leader in found
        self.empty_looks = 0 if self.left or has_lone_shim else self.empty_looks + 1
        self.lone_looks = self.lone_looks + 1 if has_lone_shim else 0

    def end_those_left(self, now: float, send: Callable[[Process, int], bool]) -> None:
        """Ask those that are left to end, each once; after the grace period kill them, as often as it takes."""
        for process in self.left:
            if now >= self.grace_until:
                if send(process, signal.SIGKILL):
                    self.killed.add(process)
            elif process not in self.asked:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)
                self.asked.add(process)
        if self.left and now >= self.grace_until and self.control_group is not None:
            self.control_group.kill()  # those too that were born since the look
        if self.lone_looks == SHIM_LOOKS:
            send(self.leader, signal.SIGCONT)
        elif self.lone_looks >= 2 * SHIM_LOOKS:
            send(self.leader, signal.SIGKILL)

    def note_group_asked(self) -> None:
        """Note that the program's process group was sent a polite signal: a second one may mean "at once"."""
        number = self.process_group or self.leader.pid
        self.asked.update(process for process in self.left if process.group == number)

    @property
    def is_gone(self) -> bool:
        """Whether enough looks in a row were empty."""
        return self.empty_looks >= LOOKS_NEEDED


@dataclass(eq=False)
class _Order:
    """What somebody waits for: one look at a tree, or its end."""

    tree: Tree
    is_end: bool
    report: Callable[[], None]


class Sweeper:
    """Looks at trees and ends them; safe to use from many event loops and threads."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._orders: list[_Order] = []
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._is_working = False

    async def look(self, tree: Tree) -> None:
        """Return when who belongs to `tree` now is known; sends no signal. Cancelling gives it up."""
        await self._carry_out(tree, is_end=False)

    async def end(self, tree: Tree) -> None:
        """Return when `tree` is gone. Cancelling gives it up."""
        await self._carry_out(tree, is_end=True)

    async def _carry_out(self, tree: Tree, *, is_end: bool) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        tree.empty_looks = 0
        order = _Order(tree, is_end, lambda: post(loop, done, None, None))
        try:
            with self._lock:
                self._orders.append(order)
                self._news.set()
            while not self._see_to_work():
                await asyncio.sleep(WAIT_PAUSE_S)
            await done
        finally:
            self._drop(order)

    def _see_to_work(self) -> bool:
        """Have a thread at work; return whether there is one: the machine may have none left just now."""
        with self._lock:
            if not self._is_working:
                try:
                    threading.Thread(target=self._work, name=thread_name("sweep"), daemon=True).start()
                except RuntimeError:
                    return False
                self._is_working = True
            return True

    def _drop(self, order: _Order) -> None:
        with self._lock:
            if order in self._orders:
                self._orders.remove(order)

    def _work(self) -> None:
        has_failed = False
        while True:
            with self._lock:
                orders = list(self._orders)
                self._news.clear()
                if not orders:
                    self._is_working = False
                    return
            began = time.monotonic()
            try:
                self._look(orders)
            except Exception:  # no descriptor left, say: what cannot be seen is not gone
                if not has_failed:
                    logger.warning("looking for processes of services failed and is tried again", exc_info=True)
                has_failed = True
            took_s = time.monotonic() - began
            is_waiting = any(order.tree.left for order in orders)
            self._news.wait(max(WAIT_PAUSE_S, took_s * PAUSE_PER_LOOK) if is_waiting else CONFIRM_PAUSE_S)

    def _look(self, orders: list[_Order]) -> None:
        trees = [order.tree for order in orders]
        found = find_owned(
            frozenset(tree.instance_id for tree in trees),
            since=min((tree.leader.started for tree in trees), key=int),
            # Only of a leader; else this would be the session that we live in ourselves.
            sessions=frozenset(t.leader.pid for t in trees if t.is_pinned and t.leader.session == t.leader.pid),
        )
        now = time.monotonic()
        for order in orders:
            tree = order.tree
            members = {*found.get(tree.instance_id, ()), *found.get(str(tree.leader.pid), ())}
            members.update(process for process in tree.known - members if is_alive(process))
            tree.see(members)
            if order.is_end:
                tree.end_those_left(now, send_signal)
            if tree.is_gone or not order.is_end:
                self._drop(order)
                order.report()


_current = Sweeper()


def sweeper() -> Sweeper:
    """Return this process's sweeper; a forked child gets one of its own."""
    global _current
    if _current.pid != os.getpid():
        _current = Sweeper()
    return _current
