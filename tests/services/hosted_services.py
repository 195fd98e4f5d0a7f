"""Services of tests that live in processes of their own: importable there, without pytest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

from autostop_lab.services.command import Command
from autostop_lab.services.service import Service


class OddError(Exception):
    """Its constructor takes something else than its text."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class UnreadableError(Exception):
    """Brings along what cannot travel."""


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

    async def later(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()

    def path(self) -> list[str]:
        return sys.path

    def argv(self) -> list[str]:
        return sys.argv

    def cwd(self) -> str:
        return os.getcwd()

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def apply(self, function: Any, value: Any) -> Any:
        return function(value)

    def invoke(self, value: Any, method: str) -> Any:
        return getattr(value, method)()

    def lock(self) -> Any:
        return threading.Lock()

    def nbytes(self, array: Any) -> int:
        return int(array.nbytes)

    def sleep_and_return(self, seconds: float, value: Any) -> Any:
        time.sleep(seconds)
        return value

    def die_once(self, mark: Path) -> int:
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return os.getpid()

    def fail(self, error: BaseException) -> None:
        raise error

    def fail_with_cause(self) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    def fail_oddly(self) -> None:
        raise OddError(5)

    def fail_unreadably(self) -> None:
        raise UnreadableError("it is so", threading.Lock())

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


class Busy(Service):
    """Sees how many calls are inside."""

    def __init__(self, health: Any = True) -> None:
        self.health = health
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    def health_check(self) -> Any:
        if isinstance(self.health, BaseException):
            raise self.health
        return self.health

    def meet(self, seconds: float) -> int:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(seconds)
        with self.lock:
            self.inside -= 1
        return self.most

    def touch(self, path: Path) -> None:
        path.touch()

    def wait_for(self, door: Path, inside: Path) -> str:
        """Say that it is inside, and stay until the door is there."""
        inside.touch()
        while not door.exists():
            time.sleep(0.005)
        return "done"


class Moody(Service):
    """Is unwell when a file says so, which ends with it."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def health_check(self) -> bool:
        return not self.sign.exists()

    def stop(self) -> None:
        self.sign.unlink(missing_ok=True)

    def pid(self) -> int:
        return os.getpid()


class Ticker(Service):
    """Notes each of its runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def pid(self) -> int:
        return os.getpid()


class Reentrant(Service):
    """Calls itself by all ways there are."""

    def __init__(self) -> None:
        self.handle: Any = None

    def set(self, handle: Any) -> None:
        self.handle = handle

    def end(self) -> str:
        return "end"

    async def end_later(self) -> str:
        return "end"

    def nested(self) -> Any:
        return self.handle.end()

    def submitted(self) -> Any:
        return self.handle.end.submit().result(20)

    def to_async(self) -> Any:
        return self.handle.end_later()

    async def from_async(self) -> Any:
        return self.handle.end()

    async def from_async_by_aio(self) -> Any:
        return await self.handle.end_later.aio()

    def in_thread(self) -> Any:
        return self.handle.call("end", timeout=20)


class Counter(Service):
    """Counts, so that a copy of it would be noticed."""

    def __init__(self) -> None:
        self.number = 0

    def add(self, number: int) -> int:
        self.number += number
        return self.number

    def pid(self) -> int:
        return os.getpid()

    def fail(self, error: BaseException) -> None:
        raise error

    def last_byte(self, data: Any) -> int:
        return int(memoryview(data)[-1])


class Asker(Service):
    """Asks another service, by whatever way."""

    def __init__(self, other: Any) -> None:
        self.other = other
        self.answer = ""

    def leaf(self) -> str:
        return "leaf"

    def ask(self, method: str, *args: Any) -> Any:
        return getattr(self.other, method)(*args)

    def ask_that(self, handle: Any, method: str, *args: Any) -> Any:
        return getattr(handle, method)(*args)

    def ask_all(self, method: str, values: list[Any]) -> Any:
        return getattr(self.other, method).map(values)

    def ask_by_name(self, name: str, method: str, *args: Any) -> Any:
        return getattr(self.service(name), method)(*args)

    def other_handle(self) -> Any:
        return self.other

    def wait_for(self, door: Path, inside: Path) -> str:
        return Busy.wait_for(self, door, inside)  # type: ignore[arg-type]

    def leave_asking(self, handle: Any, go: Path) -> None:
        """Leave something running that asks once `go` is there, as part of this call or not."""

        def ask() -> None:
            while not go.exists():
                time.sleep(0.005)
            try:
                self.answer = str(handle.leaf())
            except Exception as error:
                self.answer = str(error)

        threading.Thread(target=copy_context().run, args=(ask,), daemon=True).start()

    def left(self) -> str:
        return self.answer

    def look(self) -> dict[str, Any]:
        """Use all that a handle has."""
        other = self.other
        other.restart()
        try:
            other.missing  # noqa: B018
        except AttributeError as error:
            missing = str(error)
        return {
            "state": other.state,
            "host": other.host,
            "port": other.port,
            "ports": other.ports,
            "dir": dir(other),
            "repr": repr(other),
            "logs": [line.text for line in other.logs()],
            "health": other.health(),
            "missing": missing,
        }


class Site(Command):
    """A program with methods."""

    def where(self, value: Any) -> tuple[Any, ...]:
        return os.getpid(), self.host, self.port, value

    async def where_later(self) -> int:
        return os.getpid()

    def folder(self) -> Path:
        return self.workdir

    def say(self, text: str) -> None:
        self.logger.warning(text)


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
