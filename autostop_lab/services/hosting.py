"""A host as its owner sees it: a child process that carries out what it is given, and is ended with its whole tree."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autostop_lab.origin import Origin
from autostop_lab.reaper.session import Instance
from autostop_lab.services.child import Child, LaunchError, launch_problem
from autostop_lab.services.containment import group_for
from autostop_lab.services.host import Host
from autostop_lab.services.logs import LogRing
from autostop_lab.services.runtime import Exit
from autostop_lab.services.sweep import Tree, sweeper
from autostop_lab.services.switchboard import switchboard
from autostop_lab.services.threads import call_in_thread, carried, post
from autostop_lab.services.travel import pack, unpack, unpack_error
from autostop_lab.services.wire import Connection, LostError, connection_pair, send_socket

#: What a host begins with; its arguments are the folder of this package, the address of the switchboard, and an id.
PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from autostop_lab.services.host import main; main()"
#: How long a host has to end by itself when all is done, and then after a TERM, in seconds.
EXIT_S, TERM_S = 1.0, 0.5
#: How long the last messages of a host that has died may take, in seconds.
LAST_WORDS_S = 0.3
#: Longest look at who belongs to a host before it ends, in seconds.
LOOK_TIMEOUT_S = 0.5

Work = Callable[[Host], Any]


class HostGoneError(Exception):
    """A host ended before it had answered; the text says how."""


class HostProcess:
    """One host. Made and used on one event loop, `connect` aside.

    Parameters
    ----------
    name : str
        What it is for, in texts.
    instance : Instance
        To whom it belongs.
    ring : LogRing
        Takes its output.
    origin : Origin
        Under whose cell its threads run.
    on_tell : callable
        Told, in some thread, what it tells by itself: a word and values.

    Attributes
    ----------
    exited : asyncio.Future
        Resolved with an `Exit` when the process has ended.
    is_over : threading.Event
        Set then.
    address : str
        Where it finds its owner, once it is launched.
    """

    def __init__(
        self, name: str, instance: Instance, ring: LogRing, origin: Origin, on_tell: Callable[..., None]
    ) -> None:
        self.name = name
        self.address = ""
        self.was_killed = False
        self.is_over = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._instance = instance
        self._ring = ring
        self._origin = origin
        self._on_tell = on_tell
        self._launching: asyncio.Future[Any] | None = None
        self._arrived: asyncio.Future[Connection] = self._loop.create_future()
        self._read_all: asyncio.Future[None] = self._loop.create_future()
        self._child: Child | None = None
        self._tree: Tree | None = None
        self._control: Connection | None = None
        self._door: Connection | None = None
        self._sending = threading.Lock()
        self._knocking = threading.Lock()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._switchboard = switchboard()
        self._is_open = False

    def _in_thread(self, function: Callable[[], Any], purpose: str, *, or_here: bool = False) -> asyncio.Future[Any]:
        return call_in_thread(function, origin=self._origin, name=f"{purpose} of {self.name}", or_here=or_here)

    @property
    def containment(self) -> str:
        """How the process is contained; "" before it was launched."""
        return self._child.containment if self._child is not None else ""

    @property
    def pid(self) -> int | None:
        """Pid of the process; None before it was launched."""
        return self._child.pid if self._child is not None else None

    # -- start ---------------------------------------------------------------------------------------------

    async def launch(
        self,
        *,
        environment: Mapping[str, str],
        cwd: str | None,
        memory_limit_mb: float | None,
        on_launch: Callable[[Child], None],
    ) -> None:
        """Launch the process and return when it takes orders.

        Parameters
        ----------
        environment, cwd
            Its environment and working directory; None is ours.
        memory_limit_mb : float or None
            How much memory it may take beyond what it needs itself, in MiB.
        on_launch : callable
            Called in a thread when it is launched, while it comes up; what that raises fails the launch.

        Raises
        ------
        LaunchError
            It could not be launched.
        GuardError
            There is no reaper, so it was not launched.
        HostGoneError
            It ended on its way.
        """
        if not sys.executable:
            raise LaunchError("this interpreter does not know its own program (sys.executable is empty)")
        self._launching = self._in_thread(lambda: self._popen(environment, cwd), "launch")
        await asyncio.shield(self._launching)
        self._adopt()
        assert self._child is not None
        child = self._child
        registering = self._in_thread(lambda: on_launch(child), "registration")
        watched: set[asyncio.Future[Any]] = {self._arrived, self.exited}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if not self._arrived.done():
            raise HostGoneError(str(self.exited.result()))
        self._control = self._arrived.result()
        boot = {
            "name": self.name,
            "path": [os.path.abspath(entry) if entry == "" else entry for entry in sys.path],
            "memory_limit_mb": memory_limit_mb,
        }
        self._door, theirs = connection_pair()
        control = self._control

        def send_boot() -> None:
            with suppress(OSError):
                send_socket(control.socket, theirs)
                control.send(b"boot", pickle.dumps(boot))

        await self._in_thread(send_boot, "boot")
        await asyncio.shield(registering)
        self._origin.start_thread(lambda: self._read(control), name=f"control of {self.name}")

    def _popen(self, environment: Mapping[str, str], cwd: str | None) -> None:
        self.address = address = self._switchboard.acquire()
        self._is_open = True
        self._switchboard.expect(self._instance.id, lambda arrived: post(self._loop, self._arrived, arrived, None))
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        root = str(Path(__file__).parents[2])
        argv = [sys.executable, *flags, "-c", PROGRAM, root, address, self._instance.id]
        try:
            group = group_for(self._instance)
        except OSError as error:
            raise LaunchError(launch_problem(error, sys.executable, cwd)) from error
        self._child = Child.launch(argv, instance=self._instance, environment=environment, cwd=cwd)
        if group is not None:
            self._child.enter(group)

    def _adopt(self) -> None:
        """Take up, on the event loop, a process that was launched in a thread."""
        child = self._child
        if child is not None and self._tree is None:
            self._tree = tree = Tree(
                self._instance.id, child.leader, process_group=child.pid, control_group=child.control_group
            )

            def note_exit(end: Exit) -> None:
                tree.is_pinned = child.is_pinned
                self._ending = asyncio.ensure_future(self._note_exit(end))

            child.adopt(self._ring, note_exit)

    async def settled(self) -> None:
        """Wait for a launch that goes on although nobody waits for the host any more."""
        if self._launching is not None:
            await asyncio.wait({self._launching})
            self._adopt()

    async def _note_exit(self, end: Exit) -> None:
        if self._control is not None:
            await asyncio.wait({self._read_all}, timeout=LAST_WORDS_S)
        self.exited.set_result(end)
        self.is_over.set()
        asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(HostGoneError(str(end)))
                future.exception()

    # -- orders --------------------------------------------------------------------------------------------

    async def ask(self, work: Work) -> Any:
        """Have `work` carried out and return its value; raises what it raised, as `carried`, or `HostGoneError`.

        Giving up the wait changes nothing there.
        """
        number, future = len(self._asked) + 1, self._loop.create_future()
        while number in self._asked:
            number += 1
        self._asked[number] = future
        try:
            await self._in_thread(lambda: self._send(work, number), "order")
            if self.exited.done():
                raise HostGoneError(str(self.exited.result()))
            kind, body, buffers = await asyncio.shield(future)
        finally:
            self._asked.pop(number, None)
        if kind == "error":
            raise carried(await self._in_thread(lambda: unpack_error(body, self.name), "answer"))
        return await self._in_thread(lambda: unpack(body, buffers), "answer")

    def _send(self, work: Work, number: int) -> None:
        data, buffers = pack(work)
        control = self._control
        with self._sending, suppress(OSError):
            if control is not None:
                control.send(pickle.dumps(number), data, buffers)

    def _read(self, control: Connection) -> None:
        """Take up what the host says, until it says no more."""
        with suppress(EOFError, OSError):
            while True:
                head, body, buffers = control.receive()
                kind, number = pickle.loads(head)
                if number:
                    self._loop.call_soon_threadsafe(self._take_answer, number, (kind, body, buffers))
                else:
                    self._on_tell(kind, *unpack(body, buffers))
        control.close()
        post(self._loop, self._read_all, None, None)

    def _take_answer(self, number: int, answer: tuple[str, bytes, list[Any]]) -> None:
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(answer)

    def connect(self) -> Connection:
        """Return a new connection to what lives in the host; may be called from any thread.

        Raises
        ------
        LostError
            The host is gone.
        """
        ours, theirs = connection_pair()
        assert self._door is not None
        try:
            with self._knocking:
                send_socket(self._door.socket, theirs)
        except OSError as error:
            raise LostError(was_sent=False) from error
        return ours

    # -- end -----------------------------------------------------------------------------------------------

    async def end(self, *, is_polite: bool, timeout_s: float) -> None:
        """End the process and its whole tree, by force where need be; return when all is gone, or time is over.

        Parameters
        ----------
        is_polite : bool
            Whether it may end by itself first.
        timeout_s : float
            Longest wait after it was killed, in seconds.
        """
        await self.settled()
        child, tree = self._child, self._tree
        if child is None or tree is None:
            return
        if not self.exited.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(sweeper().look(tree), LOOK_TIMEOUT_S)
            if is_polite:
                await self._in_thread(self._dismiss, "order", or_here=True)
                await asyncio.wait({self.exited}, timeout=EXIT_S)
        if not self.exited.done() and is_polite:
            child.signal_group(signal.SIGTERM, signal.SIGCONT)
            tree.note_group_asked()
            await asyncio.wait({self.exited}, timeout=TERM_S)
        if not self.exited.done():
            self.was_killed = True
            child.signal_group(signal.SIGKILL)
        tree.grace_until = time.monotonic() + TERM_S if is_polite else 0.0
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wait_gone(tree), timeout_s + TERM_S)

    def _dismiss(self) -> None:
        with self._sending, suppress(OSError):
            if self._control is not None:
                self._control.send(b"")

    async def _wait_gone(self, tree: Tree) -> None:
        await asyncio.wait({self.exited})
        await sweeper().end(tree)

    @property
    def left(self) -> list[int]:
        """Pids of what is still there."""
        left = [process.pid for process in self._tree.left] if self._tree is not None else []
        return left or ([self.pid] if self.pid is not None and not self.exited.done() else [])

    @property
    def killed_others(self) -> bool:
        """Whether anything that it had started had to be killed."""
        return self._tree is not None and bool(self._tree.killed)

    def release(self) -> None:
        """Reap the process and let go of all that served it."""
        if self._control is not None:
            self._control.cut()  # the thread that reads it closes it
        if self._door is not None:
            self._door.close()
        if self._child is not None:
            self._child.release()
        elif self._launching is not None and not self._launching.done():
            self._launching.add_done_callback(lambda _: self._end_late_child())
        self._let_go()

    def _let_go(self) -> None:
        if self._is_open:
            self._is_open = False
            self._switchboard.forget(self._instance.id)
            self._switchboard.release()

    def _end_late_child(self) -> None:
        """End a process whose launch took longer than anybody has waited for it."""
        if self._child is not None:
            self._child.signal_group(signal.SIGKILL)
            self._child.release()
            self._in_thread(self._child.wait, "late end")
        self._let_go()
