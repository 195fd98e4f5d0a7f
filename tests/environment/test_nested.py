"""A service that is itself an owner of services."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from autostop_lab import Command, LocalEnvironment, LogReady, ServicePolicy, ServiceStopError
from autostop_lab.reaper.processes import SESSION_VARIABLE

INNER = """
import sys, time
from autostop_lab import Command, LocalEnvironment, LogReady, ServicePolicy, ServiceStopError
class Sleeper(Command):
    argv = [sys.executable, "-S", "-c", sys.argv[1]]
    ready = LogReady("up")
env = LocalEnvironment("inner")
env.register_service("sleeper", Sleeper, policy=ServicePolicy(stop_timeout_s=60))
env.start()
print("inner is up", flush=True)
time.sleep(600)
"""
OBEYS = "import time; print('up', flush=True); time.sleep(600)"
IGNORES = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def carriers(mine: set[str]) -> set[int]:
    """Return who carries one of these ids, looked up without the package."""
    found = set()
    for process in psutil.process_iter():
        try:
            if mine & set(process.environ().get(SESSION_VARIABLE, "").split("/")):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("inner_service", [OBEYS, IGNORES], ids=["obeys", "ignores"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_a_nested_session_started_ends_with_the_service_that_it_lives_in(
    tmp_path: Path, inner_service: str, how: str
) -> None:
    script = tmp_path / "inner.py"
    script.write_text(INNER)
    with LocalEnvironment("outer") as env:
        outer = env.register_service(
            "outer",
            Command,
            [sys.executable, str(script), inner_service],
            env={"PYTHONPATH": os.getcwd()},
            ready=LogReady("inner is up"),
            policy=ServicePolicy(stop_timeout_s=5),
        )
        env.start()
        everyone = carriers({os.environ[SESSION_VARIABLE]})
        assert len(everyone) >= 2
        # What the inner owner leaves to its reaper is asked again, and killed when the outer grace period is over.
        is_late = how == "stop" and inner_service == IGNORES
        with pytest.raises(ServiceStopError, match="within 5 s") if is_late else nullcontext():
            getattr(outer, how)()

        deadline = time.monotonic() + 20
        while any(psutil.pid_exists(pid) for pid in everyone):
            assert time.monotonic() < deadline
            time.sleep(0.01)
