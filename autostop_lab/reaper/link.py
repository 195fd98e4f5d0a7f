"""The owner's end of one reaper: its launch, requests that wait to be sent, answers that came."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from autostop_lab.reaper import forks
from autostop_lab.reaper.lease import identity, process_from_json
from autostop_lab.reaper.processes import SESSION_VARIABLE, Process, process, send_signal
from autostop_lab.reaper.protocol import Lines, decode, encode

# The first process forks before it imports anything and ends, so that the reaper is soon nobody's descendant: a
# sweep of an outer session must not find it among the owner's. Our package comes last in the path, so that nothing
# beside it can take the place of a module of the standard library.
_CODE = """\
# autostop_lab: the reaper of process {pid} ends what that process leaves behind
import os, sys
if os.fork():
    os._exit(0)
sys.path.append(sys.argv[1])
from autostop_lab.reaper.loop import main
main(int(sys.argv[2]))
"""
#: Variables that a reaper must not have: our own sign, and what is secret.
_HIDDEN = (SESSION_VARIABLE, "AUTOSTOP_LAB_API_KEY")
#: Longest try to kill a reaper, in seconds.
KILL_TIMEOUT_S = 5.0


class Link:
    """One reaper, from its launch to its end. Used by one thread.

    Attributes
    ----------
    reaper : Process or None
        Its identity, once it has said it.
    """

    def __init__(self) -> None:
        self.reaper: Process | None = None
        self._lines = Lines()
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._socket, theirs = forks.socket_pair()
        self._socket.setblocking(False)
        folder = Path(__file__).parents[2]  # of our package
        try:
            self._first = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CODE.format(pid=os.getpid()), str(folder), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: value for name, value in os.environ.items() if name not in _HIDDEN},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            forks.close_socket(self._socket)
            raise
        finally:
            forks.close_socket(theirs)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    @property
    def launcher_pid(self) -> int | None:
        """Pid of the process that starts the reaper and ends; None when it was waited for."""
        return self._first.pid if self._first.poll() is None else None

    @property
    def has_outgoing(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Line up a message, with a descriptor that has to stay open until it was sent."""
        self._outgoing.append((encode(message), descriptor))

    def flush(self) -> None:
        """Send as much as goes without waiting; `OSError` if the reaper is gone."""
        while self._outgoing:
            data, descriptor = self._outgoing[0]
            try:
                if descriptor is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
            except BlockingIOError:
                return
            if sent < len(data):
                self._outgoing[0] = (data[sent:], None)
            else:
                self._outgoing.popleft()

    def receive(self) -> list[dict[str, Any]] | None:
        """Return what has come, None if the reaper is gone; does not wait."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return messages
            except OSError:
                data = b""
            if not data:
                return messages or None
            for line in self._lines.feed(data):
                message = decode(line)
                if (ready := message.get("ready")) is not None:
                    self.reaper = process_from_json(ready, "a reaper")
                    self._first.wait()
                messages.append(message)

    def kill(self) -> None:
        """Kill the reaper, if it ever said who it is; one that did not knows no session and ends with the socket."""
        if self.reaper is None:
            return
        until = time.monotonic() + KILL_TIMEOUT_S
        while True:
            try:
                send_signal(identity(self.reaper.pid, self.reaper.started), 9)
            except OSError:  # no descriptor left, say; one that lived on would end what its owner still needs
                if time.monotonic() > until:
                    return
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        """Let go of it; a reaper that lives takes this for the end of its owner."""
        forks.close_socket(self._socket)
        if self.reaper is None:
            with suppress(OSError):
                self._first.kill()
        self._first.wait()
        if self.reaper is not None:
            self._reap(self.reaper)

    @staticmethod
    def _reap(reaper: Process) -> None:
        """Wait for a dead reaper where this process adopts orphans, as one with pid 1 does."""
        with suppress(OSError):
            now = process(reaper.pid)
            if now is not None and now == reaper and now.is_zombie and now.parent_pid == os.getpid():
                os.waitpid(reaper.pid, os.WNOHANG)
