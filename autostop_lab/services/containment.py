"""How a program is kept from getting away when it daemonises and clears its environment; and what works here.

``signs`` contains nothing: whoever carries a sign is found, and a program that sheds all of them is not. In a
control group (``cgroup``) it cannot. Below a process that stays and adopts its orphans (``subreaper``) its descent
tells. The last two launch it through `autostop_lab.reaper.shim`; a process of ours
that waits for orders is put into its control group while it comes up, which saves a shim's start.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autostop_lab.reaper import forks, shim
from autostop_lab.reaper.groups import Group, NoGroupError, own_group
from autostop_lab.reaper.processes import SESSION_VARIABLE
from autostop_lab.reaper.session import Instance, current_session
from autostop_lab.services.scarcity import is_scarcity

logger = logging.getLogger("autostop_lab.services")

#: What may be asked for.
CHOICES = ("auto", "signs", "subreaper", "cgroup")
#: Longest launch by the shim, in seconds: it starts an interpreter, which may have to wait for a disk.
LAUNCH_TIMEOUT_S = 30.0


class ContainmentError(Exception):
    """A program could not be contained, and was not launched; the text says why."""


@dataclass(frozen=True)
class Contained:
    """A program that was launched.

    Attributes
    ----------
    popen : Popen
        What we launched: the program, or the shim that stays as its parent.
    pid : int
        Pid of the program, and number of its process group.
    containment : str
        One of `CHOICES`, ``auto`` aside.
    group : Group or None
        Its control group, if it has one.
    news : socket or None
        Where the shim that stays tells of the program's end; nobody stays if None.
    """

    popen: subprocess.Popen[bytes]
    pid: int
    containment: str = "signs"
    group: Group | None = None
    news: socket.socket | None = None

    def undo(self) -> None:
        """Kill it, right after its launch."""
        if self.news is not None:
            self.news.setblocking(False)
            with self.news, suppress(ProcessLookupError):
                if not self._has_news(self.news):
                    os.kill(self.pid, signal.SIGKILL)
        _end(self.popen)

    @staticmethod
    def _has_news(news: socket.socket) -> bool:
        # It would be that the program has ended and was reaped, and that its pid may be somebody else's.
        try:
            news.recv(1)
        except BlockingIOError:
            return False
        return True


def launch(
    argv: Sequence[str], *, contain: str, instance: Instance, environment: Mapping[str, str], **options: Any
) -> Contained:
    """Launch a program in a session of its own.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments.
    contain : str
        One of `CHOICES`.
    instance : Instance
        To whom it belongs.
    environment : mapping of str to str
        All of its environment.
    **options
        Of ``subprocess.Popen``.

    Returns
    -------
    Contained
        The program; it has begun.

    Raises
    ------
    ContainmentError
        It could not be contained as it was asked for.
    OSError, ValueError
        It could not be launched: what ``subprocess.Popen`` raises.
    """
    chosen = best_containment() if contain == "auto" else contain
    try:
        if chosen == "subreaper":
            return _by_shim(argv, keeps=True, environment=environment, **options)
        if chosen == "cgroup":
            return _by_shim(argv, group=_group_of(instance), environment=environment, **options)
    except ContainmentError as error:
        if contain != "auto":
            raise
        logger.warning("%r is not contained: %s", argv[0], error)
    popen = subprocess.Popen(argv, env=environment, start_new_session=True, **options)
    return Contained(popen, popen.pid)


def group_for(instance: Instance) -> Group | None:
    """Return a control group for a process of ours, None where there can be none.

    Raises
    ------
    OSError
        There is too little of something at the moment.
    """
    try:
        return _group_of(instance)
    except ContainmentError:
        return None


def _group_of(instance: Instance) -> Group:
    try:
        return instance.make_group()
    except (NoGroupError, OSError) as error:
        if is_scarcity(error):
            raise
        raise ContainmentError(f"it can have no control group ({error})") from error


def _by_shim(
    argv: Sequence[str],
    *,
    group: Group | None = None,
    keeps: bool = False,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    **options: Any,
) -> Contained:
    block = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())
    if block.count(b"\0") != len(environment):
        raise ValueError("embedded null byte")
    block += b"\0"
    ours: socket.socket | None = None

    def open_pair() -> int:
        nonlocal ours
        ours, other = socket.socketpair()
        return other.detach()

    theirs = forks.opened(open_pair)
    assert ours is not None
    words = [str(theirs), str(group.path) if group is not None else "", "keeps" if keeps else ""]
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", shim.__file__, *words, *argv],
            # A library path, say, that is meant for the program must not reach the interpreter.
            env={name: value for name, value in environment.items() if name == SESSION_VARIABLE},
            pass_fds=(*pass_fds, theirs),
            start_new_session=True,
            **options,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        forks.close(theirs)
    try:
        told = _hear_of_launch(ours, block)
        if number := told.get("exec"):
            raise OSError(number, os.strerror(number), argv[0])
        if number := told.get("group"):
            raise ContainmentError(
                f"it could not be put into the control group {group.path if group else ''} ({os.strerror(number)})"
            )
        if number := told.get("keep"):
            raise ContainmentError(f"no process could adopt its orphans ({os.strerror(number)})")
        if not {"go", "pid"} & told.keys():
            raise ContainmentError("what launches it ended before it could")
    except BaseException:
        ours.close()
        _end(popen)  # where it stays, it has no program yet
        raise
    if keeps:
        return Contained(popen, told["pid"], "subreaper", None, ours)
    ours.close()
    return Contained(popen, popen.pid, "cgroup", group)


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    if popen.stdin is not None:
        popen.stdin.close()


def _hear_of_launch(news: socket.socket, block: bytes) -> dict[str, int]:
    """Send the environment and return what is told until the program has begun."""
    news.settimeout(LAUNCH_TIMEOUT_S)
    told: dict[str, int] = {}
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            news.sendall(block)
            news.shutdown(socket.SHUT_WR)
            while "pid" not in told and (line := _read_line(news)):
                word, number = line.split()
                told[word] = int(number)
    except TimeoutError:
        raise ContainmentError(f"what launches it gave no answer within {LAUNCH_TIMEOUT_S:g} s") from None
    return told


def _read_line(news: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n") and (byte := news.recv(1)):  # what comes after it is for others to read
        line += byte
    return line.decode()


# -- what works here ---------------------------------------------------------------------------------------


_problems: dict[str, str] = {}


def best_containment() -> str:
    """Return what ``auto`` stands for on this machine; raises `OSError` if that could not be tried just now."""
    return "signs" if _tried("cgroup") else "cgroup"


def problem_with(containment: str) -> str:
    """Return why a kind of containment does not work on this machine, "" if it does; tried once, for real."""
    try:
        return _tried(containment)
    except OSError as error:
        return f"it could not be tried ({error})"


def _tried(containment: str) -> str:
    if containment not in _problems:
        _problems[containment] = _try(containment)
    return _problems[containment]


def _try(containment: str) -> str:
    """Return why a kind of containment does not work; an error that says nothing about that is raised."""
    if containment == "signs":
        return ""
    if sys.platform != "linux":
        return "it is a matter of Linux"
    try:
        _try_subreaper() if containment == "subreaper" else _try_cgroup()
    except (ContainmentError, NoGroupError, OSError, subprocess.TimeoutExpired) as error:
        if is_scarcity(error):
            raise
        return str(error)
    return ""


def _try_subreaper() -> None:
    kept = _by_shim(["true"], keeps=True, environment=_environment("probe"), **_SILENT)
    assert kept.news is not None
    with kept.news:
        code = kept.popen.wait(LAUNCH_TIMEOUT_S)
    if code != 0:
        raise ContainmentError(f"a process that adopts orphans ended with status {code}")


def _try_cgroup() -> None:
    # The group of an instance, since a reaper removes that too, should this process be killed on the way.
    instance = current_session().new_instance("probe")
    try:
        group = _probe_group(instance)
        # It reads from us, so that it ends with this process, too, in whatever moment that dies.
        silent = {**_SILENT, "stdin": subprocess.PIPE}
        caught = _by_shim(["cat"], group=group, environment=_environment(instance.id), **silent)
        try:
            is_in = caught.pid in group.pids()
            if group.kill():
                caught.popen.wait(LAUNCH_TIMEOUT_S)
        finally:
            caught.undo()
            assert caught.popen.stdin is not None
            caught.popen.stdin.close()
        if not is_in:
            raise ContainmentError("a process that was put into a control group was not in it")
    finally:
        instance.remove()


def _probe_group(instance: Instance) -> Group:
    try:
        return instance.make_group()
    except OSError as error:
        if is_scarcity(error):
            raise
        why = error.strerror or error
        raise NoGroupError(f"no control group can be made below {own_group()} ({why})") from error


_SILENT: Mapping[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "cwd": "/",
}


def _environment(name: str) -> dict[str, str]:
    return {"PATH": os.defpath, SESSION_VARIABLE: f"{current_session().path}/{name}"}
