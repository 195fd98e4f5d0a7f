"""Shutdown and restart of a kernel that has services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.jupyter.conftest import Kernel, wait_until

pytestmark = pytest.mark.kernel

SERVICES = '''
import os, subprocess, sys, time
from autostop_lab import *

def note(word):
    with open(FILE, "a") as file:
        file.write(word + "\\n")

class Store(Service):
    """Notes in a file what is done with it."""

    def start(self): note("started")
    def stop(self): note("stopped")
    def cleanup(self): note("cleaned")

class Program(Command):
    """A program that ends when it is asked to."""

    argv = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
    ready = LogReady("up")
'''
ONE_LIFE = ["started", "stopped", "cleaned"]
BUSY = "%%autostop_job busy --service store=Store --service program=Program\nprint(program.state, flush=True)\n"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def kernel(notes: Path) -> Iterator[Kernel]:
    """A kernel of its own for each test: they end it."""
    kernel = Kernel()
    assert kernel.run(f"%load_ext autostop_lab\nFILE = {str(notes)!r}").status == "ok"
    assert kernel.run(SERVICES).status == "ok"
    yield kernel
    kernel.close()


def begin(kernel: Kernel, body: str) -> None:
    number = kernel.send(BUSY + body)
    kernel.wait_for_text(number, "running")


def lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


def programs() -> list[int]:
    mine = os.environ["AUTOSTOP_LAB_SESSION"]
    found = []
    for process in psutil.process_iter():
        try:
            words = process.environ().get("AUTOSTOP_LAB_SESSION", "").split("/")
        except psutil.Error:
            continue
        if mine in words and len(words) > 1:
            found.append(process.pid)
    return found


@pytest.mark.parametrize("is_restart", [False, True], ids=["shutdown", "restart"])
def test_services_are_stopped_and_cleaned_while_a_cell_runs(kernel: Kernel, notes: Path, is_restart: bool) -> None:
    begin(kernel, "time.sleep(600)")
    if is_restart:
        kernel.manager.restart_kernel()
    else:
        kernel.manager.shutdown_kernel()

    assert lines(notes) == ONE_LIFE
    wait_until(lambda: not programs())


def test_a_body_that_swallows_its_interrupt_does_not_keep_its_services(kernel: Kernel, notes: Path) -> None:
    begin(kernel, "while True:\n    try:\n        time.sleep(600)\n    except BaseException:\n        pass")
    kernel.manager.shutdown_kernel()

    assert lines(notes) == ONE_LIFE
    wait_until(lambda: not programs())


def test_a_child_of_the_users_in_the_kernels_own_group_does_not_cost_services_their_stop(
    kernel: Kernel, notes: Path
) -> None:
    kernel.run("child = subprocess.Popen(['sleep', '600'])")
    kernel.run("env = LocalEnvironment('idle')\nenv.register_service('store', Store)\nenv.start()")
    kernel.manager.shutdown_kernel()

    assert lines(notes) == ONE_LIFE


def test_a_signal_to_the_kernel_stops_services_and_still_ends_it(kernel: Kernel, notes: Path) -> None:
    begin(kernel, "while True:\n    pass")
    kernel.manager.signal_kernel(15)
    wait_until(lambda: not kernel.manager.is_alive())

    assert lines(notes) == ONE_LIFE
    wait_until(lambda: not programs())


def test_unloading_the_extension_gives_the_kernel_its_own_method_back(kernel: Kernel) -> None:
    assert kernel.value("'do_shutdown' in vars(get_ipython().kernel)") == "True"
    kernel.run("%unload_ext autostop_lab")
    assert kernel.value("'do_shutdown' in vars(get_ipython().kernel)") == "False"
