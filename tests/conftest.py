"""What every test runs under: the leak check.

It shares no code with what it checks: it reads /proc and the threading module by itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest

# Everything of this run carries its id and lies in its own folder, so that runs side by side do not see each other.
RUN_ID = f"tests-{os.getpid()}"
os.environ["AUTOSTOP_LAB_SESSION"] = RUN_ID
RUN_FOLDER = tempfile.TemporaryDirectory(prefix="autostop_lab_tests-")
os.environ["TMPDIR"] = tempfile.tempdir = RUN_FOLDER.name

#: What may go on for the life of the process: two threads, with the descriptors of an event loop and of the way to
#: the reaper; and the reaper's own files.
OURS_FOR_LIFE = ("autostop-lab: supervisor", "autostop-lab: guard")
REAPERS_FILES = ("journal.json", "lock")
SETTLING_S = 5.0


def carriers() -> set[tuple[int, str]]:
    """Return the processes that carry the id of this run, and our child processes, zombies among them."""
    found = set()
    for process in psutil.process_iter():
        try:
            is_ours = RUN_ID in process.environ().get("AUTOSTOP_LAB_SESSION", "").split("/")
        except (psutil.Error, OSError):
            continue
        if is_ours:
            found.add((process.pid, process.name()))
    me = psutil.Process()
    for child in me.children():
        try:
            found.add((child.pid, child.name()))
        except psutil.Error:
            continue
    return found


def descriptors() -> set[str]:
    found = set()
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    for entry in os.listdir(folder):
        try:
            found.add(f"{entry} {os.readlink(f'{folder}/{entry}')}" if sys.platform == "linux" else entry)
        except OSError:
            continue
    return found


def session_folders() -> set[str]:
    """Return the folders of instances, and what else is in the folders of sessions."""
    found = glob(f"{tempfile.gettempdir()}/autostop_lab-*/session-*/*")
    return {path for path in found if not os.path.basename(path).startswith(REAPERS_FILES)}


def control_groups() -> set[str]:
    """Return the groups (cgroup v2) of this run, wherever they are."""
    mounts = Path("/proc/mounts").read_text().splitlines() if sys.platform == "linux" else []
    places = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
    # Groups of other runs come and go meanwhile.
    found = {os.path.join(folder, name) for place in places for folder, names, _ in os.walk(place) for name in names}
    return {path for path in found if fnmatch(os.path.basename(path), f"autostop_lab.*{RUN_ID}.*")}


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name not in OURS_FOR_LIFE}


def signal_handlers() -> set[tuple[int, Any]]:
    # An event loop of a library that has watched for SIGTERM leaves the default action behind.
    found = {(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    return found - {(signal.SIGTERM, signal.SIG_DFL)}


def belongings() -> dict[str, set[Any]]:
    return {
        "processes": carriers(),
        "threads": threads(),
        "descriptors": descriptors(),
        "session folders": session_folders(),
        "control groups": control_groups(),
        "signal handlers": signal_handlers(),
    }


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, thread, descriptor, folder or signal handler behind.

    A test that provokes a thread which cannot be ended marks itself with ``leaves_thread(name)``: threads whose
    names contain it are let be.
    """
    allowed = [str(mark.args[0]) for mark in request.node.iter_markers("leaves_thread")]
    start_what_lives_on()
    before = belongings()
    yield
    deadline = time.monotonic() + SETTLING_S
    while (left := leaks(before, allowed)) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    if left:
        pytest.fail(f"left behind: {left}", pytrace=False)


def leaks(before: dict[str, set[Any]], allowed: list[str]) -> dict[str, set[Any]]:
    after = belongings()
    left = {what: after[what] - before[what] for what in after}
    left["threads"] = {t for t in left["threads"] if not any(name in t.name for name in allowed)}
    return {what: values for what, values in left.items() if values}


def start_what_lives_on() -> None:
    """Start what lives as long as the process, so that it is not taken for a leak of the first test."""
    from autostop_lab.environment.registry import registry
    from autostop_lab.reaper.guard import current_guard
    from autostop_lab.supervisor.loop import supervisor_loop

    supervisor_loop().run(asyncio.sleep(0))
    registry.ends.watch()
    current_guard().ensure()


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_run() -> Iterator[None]:
    """Fail the run if a reaper or the folder of a session is left when this process has said goodbye."""
    yield
    from autostop_lab.reaper.guard import current_guard

    current_guard().bye()
    deadline = time.monotonic() + SETTLING_S
    while (left := [*reapers(), *folders_of_sessions()]) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        pytest.fail(f"the run has left behind: {left}", pytrace=False)


def folders_of_sessions() -> list[str]:
    return glob(f"{RUN_FOLDER.name}/autostop_lab-*/session-*")


def reapers() -> list[psutil.Process]:
    """Return the reapers that this run has started, directly or in processes of its tests."""
    return [process for process in psutil.process_iter() if is_reaper_of_this_run(process)]


def is_reaper_of_this_run(process: psutil.Process) -> bool:
    try:
        is_reaper = any("autostop_lab.reaper.loop" in word for word in process.cmdline())
        return is_reaper and process.environ().get("TMPDIR", "").startswith(RUN_FOLDER.name)
    except (psutil.Error, OSError):
        return False


@pytest.fixture(autouse=True)
def no_lost_exceptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which an exception ended a thread, or was lost in a destructor."""
    lost: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: lost.append(f"{args.thread}: {args.exc_value!r}"))
    monkeypatch.setattr(sys, "unraisablehook", lambda args: lost.append(f"{args.object!r}: {args.exc_value!r}"))
    yield
    assert not lost
