"""``autostop-lab status`` and ``autostop-lab sweep`` with real sessions that live and die."""

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
import pytest

from autostop_lab.reaper.folders import root_in

ROOT = Path(__file__).parents[2]
OWNER = """
import sys, time
from autostop_lab import Command, LocalEnvironment
env = LocalEnvironment("owner")
env.register_service("napper", Command, ["sleep", "600"])
env.start()
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A temp folder of its own, so that no session of other tests is seen."""
    return str(tmp_path_factory.mktemp("t"))


def environment(folder: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": folder, "PYTHONPATH": str(ROOT)}


def command(folder: str, *words: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "autostop_lab.cli", *words, "--json"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


def start_owner(folder: str) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment(folder), stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    return owner


def kill(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate()


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_session_that_lives_is_shown_and_never_swept(folder: str) -> None:
    owner = start_owner(folder)
    try:
        _, status = command(folder, "status")
        (seen,) = status["sessions"]
        assert (seen["owner_pid"], seen["is_alive"]) == (owner.pid, True)
        assert [lease["name"] for lease in seen["services"]] == ["napper"]
        assert command(folder, "sweep") == (0, [])
        assert psutil.pid_exists(seen["services"][0]["pid"])
    finally:
        kill(owner)
    wait_until(lambda: not command(folder, "status")[1]["sessions"])


def test_a_death_that_the_reaper_has_cleaned_is_shown(folder: str) -> None:
    owner = start_owner(folder)
    kill(owner)
    wait_until(lambda: command(folder, "status")[1]["deaths"])

    (death,) = command(folder, "status")[1]["deaths"]
    assert death["owner_pid"] == owner.pid
    assert [(end["name"], end["outcome"]) for end in death["services"]] == [("napper", "stopped")]
    assert command(folder, "sweep") == (0, [])


def test_a_sweep_cleans_what_a_dead_owner_and_its_dead_reaper_left(folder: str) -> None:
    owner = start_owner(folder)
    _, status = command(folder, "status")
    napper = psutil.Process(status["sessions"][0]["services"][0]["pid"])
    (reaper,) = (p for p in psutil.process_iter(["cmdline"]) if holds_lock_in(p, folder))
    owner.send_signal(signal.SIGSTOP)  # else it would replace the reaper
    reaper.kill()
    kill(owner)
    assert napper.is_running()

    code, (death,) = command(folder, "sweep")
    assert code == 0
    assert death["why"].endswith("and its reaper with it")
    assert [(end["name"], end["outcome"]) for end in death["services"]] == [("napper", "stopped")]
    wait_until(lambda: not napper.is_running())
    assert not list(root_in(folder).glob("session-*"))


def holds_lock_in(process: psutil.Process, folder: str) -> bool:
    try:
        return any(file.path.startswith(folder) and file.path.endswith("/lock") for file in process.open_files())
    except psutil.Error:
        return False
