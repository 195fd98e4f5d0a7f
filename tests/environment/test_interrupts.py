"""Ctrl-C in a script: the first stops the job politely, the second skips the grace periods."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRELUDE = """
import signal, sys, threading, time
from autostop_lab import *
signal.signal(signal.SIGINT, signal.default_int_handler)
def say(text): print(text, flush=True)
class S(Service):
    def __init__(self, name, start_s=0, stop_s=0): self.name, self.start_s, self.stop_s = name, start_s, stop_s
    def start(self):
        say(f"{self.name} start")
        time.sleep(self.start_s)
    def stop(self):
        say(f"{self.name} stop")
        time.sleep(self.stop_s)
    def cleanup(self): say(f"{self.name} cleanup")
env = LocalEnvironment("script")
"""


class Script:
    """A script in a process of its own, read line by line."""

    def __init__(self, code: str, folder: Path) -> None:
        path = folder / "script.py"
        path.write_text(PRELUDE + code)
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if text in line:
                return
        raise AssertionError(f"{text!r} did not come: {self.lines}, {self.process.communicate()[1]}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> tuple[list[str], str, int]:
        out, err = self.process.communicate(timeout=60)
        return [*self.lines, *out.split("\n")], err, self.process.returncode


def test_an_interrupt_cancels_the_job_cleans_and_goes_on_to_the_caller(tmp_path: Path) -> None:
    script = Script(
        """
env.register_service("a", S, "a")
def work():
    say("working")
    current_job().stopping.wait()
env.run(work)
try: env.submit(autostop=True)
except KeyboardInterrupt:
    say(f"interrupted {env.last_job.state} {env.last_job.reason}")
    raise
""",
        tmp_path,
    )
    script.read_until("working")
    script.interrupt()
    lines, err, code = script.finish()

    assert lines[:-1] == ["a start", "working", "a stop", "a cleanup", "interrupted cancelled interrupted"]
    assert code == -signal.SIGINT
    assert err.count("KeyboardInterrupt") == 1


def test_an_interrupt_during_the_start_stops_only_what_had_started(tmp_path: Path) -> None:
    script = Script(
        """
a = env.register_service("a", S, "a")
env.register_service("b", S, "b", start_s=0.5, policy=ServicePolicy(depends_on=["a"]))
env.register_service("c", S, "c", policy=ServicePolicy(depends_on=["b"]))
env.run(lambda: say("ran"))
try: env.submit(autostop=True)
except KeyboardInterrupt: say("interrupted")
""",
        tmp_path,
    )
    script.read_until("b start")
    script.interrupt()
    lines, _, code = script.finish()

    assert lines[:-1] == ["a start", "b start", "b stop", "b cleanup", "a stop", "a cleanup", "interrupted"]
    assert code == 0


@pytest.mark.parametrize("call", ["env.start()", "with env: env.start()"])
def test_an_interrupt_of_env_start_stops_what_had_started(tmp_path: Path, call: str) -> None:
    script = Script(
        f"""
env.register_service("a", S, "a", start_s=0.5)
env.register_service("never", S, "never", policy=ServicePolicy(depends_on=["a"]))
try: {call}
except KeyboardInterrupt: say("interrupted")
"""
        if not call.startswith("with")
        else f"""
env.register_service("a", S, "a", start_s=0.5)
env.register_service("never", S, "never", policy=ServicePolicy(depends_on=["a"]))
try:
    {call}
except KeyboardInterrupt: say("interrupted")
""",
        tmp_path,
    )
    script.read_until("a start")
    script.interrupt()
    lines, _, code = script.finish()

    assert lines[:-1] == ["a start", "a stop", "a cleanup", "interrupted"]
    assert code == 0


def test_a_second_interrupt_skips_the_grace_periods(tmp_path: Path) -> None:
    script = Script(
        """
env.register_service("a", S, "a", stop_s=60, policy=ServicePolicy(stop_timeout_s=100))
def work():
    say("working")
    current_job().stopping.wait()
env.run(work)
try: env.submit(autostop=True)
except KeyboardInterrupt: say(f"interrupted {env.last_job.report['a'].outcome}")
""",
        tmp_path,
    )
    script.read_until("working")
    script.interrupt()
    script.read_until("a stop")
    began = time.monotonic()
    script.interrupt()
    lines, err, _ = script.finish()

    assert time.monotonic() - began < 20
    assert lines[-3:-1] == ["a cleanup", "interrupted abandoned"], err


def test_an_interrupt_of_env_stop_skips_the_grace_periods_and_goes_on(tmp_path: Path) -> None:
    script = Script(
        """
env.register_service("a", S, "a", stop_s=60, policy=ServicePolicy(stop_timeout_s=100))
env.start()
try: env.stop()
except KeyboardInterrupt: say("interrupted")
""",
        tmp_path,
    )
    script.read_until("a stop")
    script.interrupt()
    lines, err, code = script.finish()

    assert lines[-3:-1] == ["a cleanup", "interrupted"], err
    assert code == 0
