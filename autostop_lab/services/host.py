"""The host: a process of ours that carries out what its owner gives it, one thread for each work.

It is told to end by its owner; by a TERM, which comes from the reaper when the owner is dead; or by the end of the
owner's connection, when no TERM comes. In the latter cases what lives in it is ended politely first, within its own
deadlines. It imports little, since its start is waited for.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from autostop_lab.services.travel import pack, pack_error, unpack
from autostop_lab.services.wire import Connection, receive_socket

#: How long a TERM may take to come when the owner's connection has ended, in seconds.
TERM_PATIENCE_S = 3.0
#: How long the interpreter may take to end when nobody watches it, in seconds.
EXIT_S = 1.0
#: Memory that a host needs beyond that of its start, in MiB: the system counts the stacks of its threads in full.
OWN_MB = 64


class Resident(Protocol):
    """What lives in a host."""

    def end(self) -> None:
        """End politely, within deadlines of its own."""

    def serve(self, connection: Connection) -> None:
        """Answer on a connection until it ends; called in a thread of its own."""


class Host:
    """What this process is to the owner that has launched it.

    Parameters
    ----------
    control : Connection
        Orders come here, and answers go back.
    door : socket.socket
        Further connections come in here.
    name : str
        What it is for, in error texts.
    memory_limit_mb : float or None
        How much memory it may take beyond what it needs itself, in MiB.

    Attributes
    ----------
    resident : Resident or None
        What lives here, once a work has put it there.
    """

    def __init__(
        self, control: Connection, door: socket.socket, name: str, memory_limit_mb: float | None = None
    ) -> None:
        self.name = name
        self.memory_limit_mb = memory_limit_mb
        self.resident: Resident | None = None
        self._control = control
        self._door = door
        self._sending = threading.Lock()
        self._is_asked_to_end = False
        self._wakes, self._wake = socket.socketpair()

    def start_thread(self, function: Callable[[], Any], *, name: str) -> threading.Thread:
        """Start a daemon thread that calls `function`."""
        thread = threading.Thread(target=function, name=f"autostop-lab: {name}", daemon=True)
        thread.start()
        return thread

    def tell(self, what: str, *values: Any) -> None:
        """Tell the owner something; an owner that is gone is not told."""
        data, buffers = pack(values)
        self._send(pickle.dumps((what, 0)), data, buffers)

    def _send(self, head: bytes, data: bytes, buffers: list[memoryview]) -> None:
        with self._sending, suppress(OSError):
            self._control.send(head, data, buffers)

    def pack_error(self, error: BaseException, where: str) -> bytes:
        """Pickle an exception as `travel.pack_error` does, with the limit that a `MemoryError` comes of."""
        if isinstance(error, MemoryError) and self.memory_limit_mb is not None:
            error.add_note(f"It may take memory_limit_mb={self.memory_limit_mb:g}: raise that in runtime_options.")
        return pack_error(error, where)

    # -- the main thread -----------------------------------------------------------------------------------

    def watch_signals(self) -> None:
        """Take TERM as the order to end, and let an interrupt be: that is for whoever sits at the keyboard."""
        self._wakes.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._note_term)
        # Not SIG_IGN, which programs that are started from here would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        os.register_at_fork(after_in_child=self._be_nobody)

    def _note_term(self, *_: object) -> None:
        self._is_asked_to_end = True

    def _be_nobody(self) -> None:
        """Undo in a forked child what makes this process a host."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for ours in (self._door, self._wakes, self._wake):
            ours.close()

    def run(self) -> None:
        """Carry out what comes until told to end; then end what lives here, unless the owner has."""
        control, poll = self._control.fileno(), select.poll()
        for descriptor in (control, self._door.fileno(), self._wakes.fileno()):
            poll.register(descriptor, select.POLLIN)
        while not self._is_asked_to_end:
            ready = {control} if self._control.has_more else {descriptor for descriptor, _ in poll.poll()}
            if self._wakes.fileno() in ready:
                self._wakes.recv(4096)
            if self._door.fileno() in ready and not self._let_in():
                poll.unregister(self._door.fileno())
            if control in ready:
                try:
                    message = self._control.receive()
                except (EOFError, OSError):
                    self._wait_for_term()
                    break
                if not message[0]:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    return
                try:
                    self.start_thread(partial(self._carry_out, *message), name=f"work for {self.name}")
                except (RuntimeError, MemoryError):  # no thread is left: this one can do it, and most works are short
                    self._carry_out(*message)
        if self.resident is not None:
            self.resident.end()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Nobody is there who would end an interpreter that does not come to its end.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, EXIT_S)

    def _wait_for_term(self) -> None:
        deadline = time.monotonic() + TERM_PATIENCE_S
        while not self._is_asked_to_end and (left_s := deadline - time.monotonic()) > 0:
            select.select([self._wakes], [], [], left_s)
            with suppress(BlockingIOError):
                self._wakes.recv(4096)

    def _let_in(self) -> bool:
        """Serve a further connection; return whether others may follow."""
        try:
            end = receive_socket(self._door)
        except OSError:
            return True  # whoever connected sees the end of its connection
        if end is not None:
            connection = Connection(end)
            try:
                self.start_thread(lambda: self._serve(connection), name=f"calls of {self.name}")
            except (RuntimeError, MemoryError):  # no thread is left: whoever connected sees the end
                connection.close()
        return end is not None

    def _serve(self, connection: Connection) -> None:
        if self.resident is not None:
            self.resident.serve(connection)
        connection.close()

    def _carry_out(self, head: bytes, body: bytes, buffers: list[Any]) -> None:
        number = pickle.loads(head)
        try:
            data, out = pack(unpack(body, buffers)(self))
            kind = "value"
        except BaseException as error:
            data, out = self.pack_error(error, f"in the process of {self.name} (pid {os.getpid()})"), []
            kind = "error"
        if number:
            self._send(pickle.dumps((kind, number)), data, out)


def limit_memory(limit_mb: float) -> None:
    """Let this process, and each that it starts, have so much memory beyond what a host needs itself, in MiB."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[5]) * resource.getpagesize()
    limit = taken + int((limit_mb + OWN_MB) * 2**20)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def leave(code: int) -> None:
    """End this process, with what others have registered for its exit, but without a wait for its threads and children.

    Those have had their stop and cleanup; what is left of them is swept.
    """
    try:
        if (children := sys.modules.get("multiprocessing.util")) is not None:
            atexit.unregister(children._exit_function)  # it would join them
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Check in with the owner whose socket the command line names, and carry out what it wants."""
    _, address, instance_id = sys.argv
    sys.argv[1:] = []
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    control = socket.socket(socket.AF_UNIX)
    control.connect(address)
    checking_in = Connection(control)
    checking_in.send(b"host", instance_id.encode())
    door = receive_socket(checking_in.socket)
    if door is None:
        return
    _, body, _ = checking_in.receive()
    boot = pickle.loads(body)
    sys.path[:] = boot["path"]
    host = Host(checking_in, door, boot["name"], boot["memory_limit_mb"])
    host.watch_signals()
    if boot["memory_limit_mb"] is not None:
        limit_memory(boot["memory_limit_mb"])
    try:
        host.run()
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)
