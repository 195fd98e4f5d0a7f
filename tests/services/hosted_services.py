"""Services of tests that live in processes of their own: importable there, without pytest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autostop_lab.services.service import Service


class OddError(Exception):
    """Its constructor takes something else than its text."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class UnreadableError(Exception):
    """Cannot be rebuilt anywhere."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


class Diary(Service):
    """Writes what is done with it into a file."""

    def __init__(self, path: Path, **acts: Any) -> None:
        self.path = path
        self.acts = acts
        self.note("init")

    def note(self, what: str) -> None:
        with self.path.open("a") as file:
            file.write(what + "\n")
        act = self.acts.get(what)
        if isinstance(act, BaseException):
            raise act
        if act == "hang":
            while True:
                time.sleep(3600)
        if act == "exit":
            os._exit(3)
        if act == "hog":
            hog()

    def start(self) -> None:
        self.note("start")

    def stop(self) -> None:
        self.note("stop" if self.stopping.is_set() else "stop without stopping")

    def cleanup(self) -> None:
        self.note("cleanup")

    def touch(self) -> Path:
        (self.workdir / "file").write_text("mine")
        return self.workdir


def hog() -> None:
    """Hold the interpreter, so that no other thread of it runs."""
    import ctypes

    ctypes.PyDLL(None).sleep(3600)


class Worker(Service):
    """Does what calls need."""

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return (args, kwargs) if kwargs else args[0] if args else None

    def pid(self) -> int:
        return os.getpid()

    def fail(self, error: BaseException) -> None:
        raise error

    def fail_oddly(self) -> None:
        raise OddError(5)

    def fail_unreadably(self) -> None:
        raise UnreadableError("it is so")

    def die(self, number: int = signal.SIGKILL) -> None:
        print("last words", flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)

    def take(self, mib: int) -> int:
        return len(bytearray(mib << 20))

    def say(self, text: str) -> None:
        print(text)
        self.logger.warning("logged %s", text)

    def start_child(self, kind: str) -> int:
        """Start a process that would live for long, and return its pid."""
        if kind in ("fork", "spawn", "forkserver"):
            child = multiprocessing.get_context(kind).Process(target=time.sleep, args=(600,))
            child.start()
            assert child.pid is not None
            return child.pid
        return int(subprocess.check_output([sys.executable, "-S", "-c", DAEMONISE.format(kind=kind)]))


#: Prints the pid of a grandchild that its parent has left.
DAEMONISE = """
import os, signal, sys, time
if pid := os.fork():
    print(pid, flush=True)
    os._exit(0)
os.close(1)
if {kind!r} == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
time.sleep(600)
"""
