"""What every fault runs under, beside the leak check of all tests."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab import LocalEnvironment
from tests.chaos.owners import Owner, close
from tests.chaos.world import adopting_orphans, listening_ports
from tests.services_for_tests import Diary


def _belongings() -> dict[str, Any]:
    return {
        "ports": listening_ports(),
        # SIGALRM is the clock of the tests' time-outs.
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGALRM}},
        "threads that hold the exit": {thread.name for thread in threading.enumerate() if not thread.daemon},
        "shared memory": set(os.listdir("/dev/shm")) if sys.platform == "linux" else set(),
        "folders": {Path(path).name for path in glob(f"{tempfile.gettempdir()}/autostop_lab-*/*")},
        "working directory": os.getcwd(),
    }


@pytest.fixture(autouse=True)
def nothing_else_left(leak_check: None) -> Iterator[None]:
    """Fail a test that leaves a port, a signal handler, a thread that holds the exit, or shared memory."""
    before = _belongings()
    yield
    after = _belongings()
    mine = f"{os.getpid()}_"  # of others who test on this machine there may be more
    after["shared memory"] = {name for name in after["shared memory"] - before["shared memory"] if mine in name}
    before["shared memory"] = set()
    assert after == before


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("chaos") as environment:
        yield environment


@pytest.fixture
def diary() -> Diary:
    return Diary()


@contextmanager
def owners_in(folder: Path, orphans: AbstractContextManager[None]) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []
    mine = {child.pid for child in psutil.Process().children()}

    def start(scenario: str, *, temp: Path | None = None, **facts: Any) -> Owner:
        owners.append(Owner(scenario, folder / f"owner-{len(owners)}", facts, temp))
        return owners[-1]

    with orphans:
        yield start
        left = close(owners, mine)
    assert not left, f"left by an owner: {left}"


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Starts owners of services, ``owner(scenario, **facts)``: processes of their own that a test may kill.

    Whoever loses its parent becomes a child of ours meanwhile; none of them may be left in the end.
    """
    with owners_in(tmp_path, adopting_orphans()) as start:
        yield start


@pytest.fixture
def owner_of_strangers(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """The same, but who loses its parent becomes a child of the machine's first process, as ever."""
    with owners_in(tmp_path, nullcontext()) as start:
        yield start
