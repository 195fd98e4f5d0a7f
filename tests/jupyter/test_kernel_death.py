"""A kernel that is killed, and what the next one says of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.jupyter.conftest import Kernel, wait_until

pytestmark = pytest.mark.kernel

BUSY = """%%autostop_job busy --service napper=Napper
import os
from autostop_lab.reaper.guard import current_guard
print("pids", os.getpid(), current_guard().status.pid, flush=True)
import time
time.sleep(600)
"""
NAPPER = """
import sys
from autostop_lab import Command, LogReady
class Napper(Command):
    argv = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
    ready = LogReady("up")
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[Kernel]:
    """A kernel of a notebook that no other test has."""
    monkeypatch.setenv("JPY_SESSION_NAME", f"{tmp_path}/words.ipynb")
    kernel = Kernel()
    yield kernel
    kernel.close()


def begin(kernel: Kernel) -> tuple[int, int]:
    """Begin a job with a program; return the pids of the kernel and of its reaper."""
    assert kernel.run("%load_ext autostop_lab").printed() == ""
    kernel.run(NAPPER)
    number = kernel.send(BUSY)
    kernel.wait_for_text(number, "pids")
    text = "".join(m["content"]["text"] for m in kernel.of(number) if m["msg_type"] == "stream")
    words = text.partition("pids")[2].split()
    return int(words[0]), int(words[1])


def programs(kernel_pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(kernel_pid).children() if "time.sleep(600)" in str(child.cmdline())]


def restart(kernel: Kernel) -> None:
    """Start another kernel in the place of a dead one, as Jupyter does."""
    kernel.client.stop_channels()
    kernel.manager.restart_kernel(now=True)
    kernel.client = kernel.manager.blocking_client()
    kernel.client.start_channels()
    kernel.client.wait_for_ready(timeout=60)


def test_after_a_kernel_was_killed_the_next_one_says_what_was_cleaned(kernel: Kernel) -> None:
    pid, _ = begin(kernel)
    (program,) = programs(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not program.is_running())
    restart(kernel)

    told = kernel.run("%load_ext autostop_lab").printed()
    assert f"process {pid} of" in told
    assert "words.ipynb ended without closing. Cleaned within" in told
    assert "napper stopped" in told
    assert kernel.run("%reload_ext autostop_lab").printed() == ""


def test_what_a_killed_kernel_and_its_killed_reaper_left_is_cleaned_by_the_next_load(kernel: Kernel) -> None:
    pid, reaper_pid = begin(kernel)
    (program,) = programs(pid)
    reaper = psutil.Process(reaper_pid)
    os.kill(pid, signal.SIGSTOP)  # else it would replace the reaper
    reaper.kill()
    os.kill(pid, signal.SIGKILL)
    restart(kernel)
    assert program.is_running()

    number = kernel.send("%load_ext autostop_lab")
    kernel.wait_for_text(number, "ended without closing, and its reaper with it")
    kernel.wait_for_text(number, "napper stopped")
    wait_until(lambda: not program.is_running())
