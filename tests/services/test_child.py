"""The pipes of a program, and the news of its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab.services.command import Command
from autostop_lab.services.handle import run_in_background
from autostop_lab.services.probes import LogReady
from autostop_lab.supervisor.loop import supervisor_loop
from tests.services.lives import LONG_S, Life, is_running, pid_in, python

MakeLife = Callable[..., Life]

SLEEP = python("import time; time.sleep(1000)")


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


# -- input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "read"),
    [(None, ""), ("text ü", "text ü"), (b"bytes", "bytes"), ("", "")],
)
def test_a_program_reads_what_it_is_given_and_then_its_end(make: MakeLife, stdin: Any, read: str) -> None:
    life = make(Command, python("import sys; print('read', sys.stdin.read())"), stdin=stdin).start()
    life.exit()

    assert life.texts() == (f"read {read}".rstrip("\n"),)


def test_a_program_reads_more_than_a_pipe_holds(make: MakeLife) -> None:
    code = "import sys; print(len(sys.stdin.buffer.read()))"
    life = make(Command, python(code), stdin=b"x" * 5_000_000).start()
    life.exit()

    assert life.texts() == ("5000000",)


def test_a_program_that_does_not_read_its_input_is_ended_all_the_same(make: MakeLife) -> None:
    life = make(Command, SLEEP, stdin=b"x" * 5_000_000).start()

    assert life.stop()
    life.clean()


def test_an_open_input_ends_with_the_service(make: MakeLife) -> None:
    code = "import signal, sys\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\nsys.stdin.read()\nprint('end of input')"
    life = make(Command, python(code), stdin=subprocess.PIPE, ready=LogReady("up")).start()
    assert is_running(life.pid)
    assert life.stop()

    assert life.texts()[-1] == "end of input"


# -- a flood of output -------------------------------------------------------------------------------------


async def _nothing() -> None: ...


def worst_wait_of_the_loop(seconds: float) -> float:
    """Return how long, in seconds, something at most had to wait for the event loop."""
    worst, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        supervisor_loop().run(_nothing())
        worst = max(worst, time.monotonic() - began)
    return worst


@pytest.mark.parametrize("ready", [None, LogReady("go")])
def test_endless_output_neither_blocks_the_loop_nor_piles_up(make: MakeLife, ready: Any) -> None:
    life = make(Command, shell("echo go; exec yes"), ready=ready).start()
    worst_s = worst_wait_of_the_loop(1.0)

    assert len(life.texts()) == 1000
    assert set(life.texts()[-10:]) == {"y"}
    assert worst_s < 5.0
    assert life.stop()
    life.clean()


def test_a_flood_before_the_line_that_is_waited_for_blocks_nobody(make: MakeLife) -> None:
    life = make(Command, shell("yes | head -c 2000000; echo up; sleep 1000"), ready=LogReady("^up$"))
    starting = run_in_background(life.start, name="start")
    worst_s = worst_wait_of_the_loop(0.5)
    starting.result(LONG_S)

    assert worst_s < 5.0


def test_a_program_that_prints_much_gets_through(make: MakeLife) -> None:
    code = "import sys\nfor _ in range(100): sys.stdout.write(('x' * 99 + '\\n') * 10000)\nprint('done')"
    life = make(Command, python(code)).start()

    assert life.exit().is_clean
    assert life.texts()[-1] == "done"
    assert len(life.texts()) == 1000


def test_the_last_words_are_there_when_the_end_is_told(make: MakeLife) -> None:
    for number in range(10):
        life = make(Command, shell(f"echo last words {number}; exit 1"), name=f"s{number}").start()
        life.exit()
        assert life.texts() == (f"last words {number}",)


def test_a_grandchild_that_holds_the_output_keeps_nobody_waiting(make: MakeLife, tmp_path: Path) -> None:
    life = make(Command, shell(f"(sleep 1000 & echo $! > {tmp_path}/pid); echo bye; exit 3")).start()
    assert life.exit().code == 3
    assert life.texts() == ("bye",)
    pid = pid_in(tmp_path / "pid")
    assert is_running(pid)
    assert life.settle()
    life.clean()

    assert not is_running(pid)


# -- the moment of an exit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$", -9)])
def test_the_exit_status_is_known_and_the_program_not_reaped_yet(make: MakeLife, text: str, code: int) -> None:
    life = make(Command, shell(text)).start()

    assert life.exit().code == code
    assert psutil.Process(life.pid).status() == psutil.STATUS_ZOMBIE
    assert life.health().error == f"it ended with {life.exit()}"
    pid = life.pid
    life.settle()
    life.clean()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("error", [OSError(38, "ENOSYS"), None])
def test_the_exit_is_seen_where_there_is_no_pidfd(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """As in an old kernel or a sandbox; and, without ``waitid`` as well, as on macOS."""

    def fail(pid: int) -> int:
        raise OSError(38, "ENOSYS")

    monkeypatch.setattr(os, "pidfd_open", fail, raising=False)
    if error is None:
        monkeypatch.delattr(os, "waitid")
    life = make(Command, shell("exit 5")).start()
    assert life.exit().code == 5
    life.settle()
    life.clean()
    life = make(Command, SLEEP, name="other").start()
    pid = life.pid
    assert life.stop()
    life.clean()

    assert not psutil.pid_exists(pid)


def test_a_status_that_somebody_else_has_taken_is_no_clean_exit_and_no_trouble(make: MakeLife) -> None:
    life = make(Command, shell("read line; exit 5"), stdin=subprocess.PIPE).start()
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps all children
    try:
        os.kill(life.pid, signal.SIGKILL)
        end = life.exit()
    finally:
        signal.signal(signal.SIGCHLD, former)

    assert isinstance(end.error, ChildProcessError)
    assert life.settle()
    life.clean()
