"""Owners that a test can kill: a process of its own with services, told what to do line by line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from autostop_lab.reaper.deaths import Death, deaths
from autostop_lab.reaper.folders import root_in

#: For what has to happen at last; nothing waits that long in a test that passes.
LONG_S = 30.0

PRELUDE = """\
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
from autostop_lab import Command, LocalEnvironment, LogReady, Service, ServicePolicy, TcpReady
from autostop_lab.reaper.guard import Guard, GuardError, current_guard
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.processes import process
from autostop_lab.reaper.timings import Timings

def python(code):
    return [sys.executable, "-S", "-u", "-c", code]

def say(**values):
    print(json.dumps(values), flush=True)

def own(argv, name="it", **values):
    '''Launch a program and register it, without anything above the guard.'''
    guard = current_guard()
    instance = guard.session.new_instance(name)
    marker = instance.open_marker()
    child = subprocess.Popen(argv, start_new_session=True, pass_fds=(marker,), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, env={**os.environ, **instance.environment})
    instance.close_marker(marker)
    guard.register(Lease(instance_id=instance.id, name=name, kind="command", pid=child.pid,
                         started=process(child.pid).started, folder=str(instance.folder), **values))
    return child, instance

def told():
    '''Carry out what the test says, until it says no more.'''
    for line in sys.stdin:
        exec(json.loads(line), globals())
"""


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until `condition` holds, and return what it returned."""
    deadline = time.monotonic() + LONG_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what or "it did not come"
        time.sleep(0.005)
    return value


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started_of(pid: int) -> str:
    """Return the start time of a process as the system has it, without our own code."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


class Owner:
    """A process that owns services; its folder for temporary files is `temp`."""

    def __init__(self, temp: Path, code: str = "", **environment: str) -> None:
        self.temp = temp
        self._popen = subprocess.Popen(
            [sys.executable, "-c", f"{PRELUDE}\n{code}\nsay(is_up=True)\ntold()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(temp), **environment},
        )
        self.pid = self._popen.pid
        self.said: dict[str, Any] = {}
        while not self.said.get("is_up"):
            self.hear()

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it says."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, f"it ended with {self._popen.wait()}"
        self.said.update(json.loads(line))
        return self.said

    def do(self, code: str) -> dict[str, Any]:
        """Have it carry out something, and return what it has said by the end."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(f"{code}\nsay(did=True)") + "\n")
        self._popen.stdin.flush()
        self.said.pop("did", None)
        while not self.said.get("did"):
            self.hear()
        return self.said

    @property
    def reaper(self) -> int:
        """Pid of its reaper."""
        pid: int = self.do("say(reaper=current_guard().status.pid)")["reaper"]
        return pid

    @property
    def root(self) -> Path:
        return root_in(self.temp)

    def folders(self) -> list[str]:
        """Return the folders of sessions that are there."""
        try:
            return [name for name in os.listdir(self.root) if name.startswith("session-")]
        except FileNotFoundError:
            return []

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Kill it, and only it, for good."""
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait(LONG_S)

    def end(self) -> int:
        """Let it come to its end by itself; return its exit status."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        return self._popen.wait(LONG_S)

    def close(self) -> None:
        """Kill it if need be, and wait until its reaper has cleaned."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGCONT)
            self.kill()
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            pipe.close()

    def cleaned(self) -> Death:
        """Wait for the record of its cleaning."""
        found: list[Death] = eventually(lambda: deaths(root=self.root), "nothing was recorded")
        return found[-1]
