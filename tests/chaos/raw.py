"""A reaper that is spoken to byte by byte, on behalf of an owner that is a plain program."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.world import PATIENCE_S

ROOT = Path(__file__).parents[2]
CODE = "import sys; sys.path.append(sys.argv[1])\nfrom autostop_lab.reaper.loop import main\nmain(int(sys.argv[2]))"


def started(pid: int) -> str:
    """Return the start time of a process in the system's own unit."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def new_id(word: str) -> str:
    return f"{word}-{secrets.token_hex(5)}"


class RawReaper:
    """A reaper of an owner that does nothing but live."""

    def __init__(self, temp: Path) -> None:
        code = "sleep 1000 & echo $!; wait"
        self.owner = subprocess.Popen(["sh", "-c", code], start_new_session=True, stdout=subprocess.PIPE)
        assert self.owner.stdout is not None
        self._child = int(self.owner.stdout.readline())
        self.session_id = new_id("session")
        self.folder = temp / f"autostop_lab-{os.getuid()}" / self.session_id
        self.folder.parent.mkdir(mode=0o700, exist_ok=True)
        self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CODE, str(ROOT), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={"TMPDIR": str(temp)},
        )
        theirs.close()
        self._seq = 0
        self._rest = b""
        assert self.answer()["ready"]["pid"] == self.process.pid

    # -- bytes ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict[str, Any]:
        """Wait for one line of it."""
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in self._rest:
            assert select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))[0], "no answer"
            data = self.socket.recv(1 << 20)
            assert data, "the reaper has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    # -- requests ------------------------------------------------------------------------------------------

    def request(self, op: str, **body: Any) -> bytes:
        self._seq += 1
        return json.dumps({"seq": self._seq, "op": op, **body}).encode() + b"\n"

    def ask(self, op: str, **body: Any) -> str:
        """Send a request; return "" for yes, else why it was refused."""
        self.write(self.request(op, **body))
        while True:
            answer = self.answer()
            if answer.get("ack") == self._seq:
                return ""
            if "nak" in answer:
                return str(answer["why"])

    def hello(self) -> None:
        owner = {"pid": self.owner.pid, "started": started(self.owner.pid)}
        texts = {"session_id": self.session_id, "path": self.session_id, "folder": str(self.folder), "place": "here"}
        assert self.ask("hello", owner=owner, **texts) == ""

    def lease(self, **fields: Any) -> dict[str, Any]:
        return {"instance_id": new_id("service"), "name": "service", "kind": "command", "stop_grace_s": 1.0, **fields}

    def lease_of(self, pid: int, **fields: Any) -> dict[str, Any]:
        return self.lease(pid=pid, started=started(pid), **fields)

    # -- the end -------------------------------------------------------------------------------------------

    def kill_owner(self) -> None:
        """Kill the owner, and wait until the reaper has done its work."""
        self.owner.kill()
        self.owner.wait(PATIENCE_S)
        assert self.process.wait(PATIENCE_S) == 0

    def child_of_owner(self) -> int:
        """Return the pid of a child that the owner has, in its own process group; it is nobody's service."""
        return self._child

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        assert self.owner.stdout is not None
        self.owner.stdout.close()
        for process in (self.owner, self.process):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(PATIENCE_S)
        self.socket.close()
