"""Ends that something could slip through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass

import pytest

from autostop_lab import (
    Command,
    EnvironmentClosedError,
    JobCancelledError,
    JobError,
    JobState,
    LocalEnvironment,
    LogReady,
    Restart,
    Service,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    ServiceUnavailableError,
    current_job,
)
from tests.services_for_tests import ONE_LIFE, Diary, Recorder


@pytest.fixture
def diary() -> Diary:
    return Diary()


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


@pytest.mark.parametrize("error", [UnspeakableError(), FrozenError(3)])
def test_an_exception_without_text_or_room_for_notes_comes_through_as_it_is(
    env: LocalEnvironment, diary: Diary, error: Exception
) -> None:
    def fail() -> None:
        raise error

    env.register_service("a", Recorder, diary, "a")
    env.run(fail)
    with pytest.raises(type(error)) as caught:
        env.submit(autostop=True)

    assert caught.value is error
    assert diary.of("a") == ONE_LIFE


def test_a_start_that_raises_an_exception_without_text_is_told_and_cleaned(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a", start=UnspeakableError())
    with pytest.raises(ServiceStartError, match="UnspeakableError"):
        env.start()

    assert diary.of("a") == ["construct", "start", "cleanup"]


def test_close_waits_for_what_a_dead_service_left(diary: Diary) -> None:
    class Mortal(Recorder):
        def run(self) -> None:
            raise OSError("gone")

    env = LocalEnvironment("late cleanup")
    handle = env.register_service("a", Mortal, diary, "a", cleanup=0.3)
    env.start()
    while handle.state is not ServiceState.CRASHED:
        time.sleep(0.001)
    report = env.close()

    assert diary.of("a")[-1] == "cleanup"
    assert str(report["a"].outcome) == "exited"
    assert report["a"].cleanup_s is not None


def test_a_child_that_ignores_signals_does_not_outlive_its_dead_program() -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "child = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)'\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', child])\n"
        "time.sleep(0.5)\n"
        "raise SystemExit(3)\n"
    )
    env = LocalEnvironment("orphan")
    policy = ServicePolicy(stop_timeout_s=0.3)
    handle = env.register_service("a", Command, [sys.executable, "-S", "-c", code], ready=LogReady("1"), policy=policy)
    env.start()
    while handle.state is not ServiceState.CRASHED:
        time.sleep(0.001)
    report = env.close()

    assert str(report["a"].outcome) == "killed"  # the leak check sees that nothing is left


def test_a_call_does_not_wake_an_idle_service_of_a_closed_environment(diary: Diary) -> None:
    env = LocalEnvironment("idle")
    handle = env.register_service("a", Recorder, diary, "a", policy=ServicePolicy(idle_timeout_s=0.05))
    env.start()
    while handle.state is not ServiceState.STOPPED:
        time.sleep(0.001)
    env.close()
    with pytest.raises((ServiceUnavailableError, EnvironmentClosedError)):
        handle.echo(1)

    assert diary.names("start") == ["a"]


def test_a_stop_of_all_also_voids_those_that_would_return_with_another(diary: Diary) -> None:
    class Mortal(Service):
        def run(self) -> None:
            self.stopping.wait(0.05)
            raise OSError("gone")

    rule = Restart(backoff_s=60, backoff_max_s=60, strategy="one_for_all")
    with LocalEnvironment("all") as env:
        mortal = env.register_service("mortal", Mortal, policy=ServicePolicy(restart=rule))
        other = env.register_service("other", Recorder, diary, "other")
        env.start()
        while mortal.state is not ServiceState.BACKOFF or other.state is not ServiceState.STOPPED:
            time.sleep(0.001)
        env.stop()
        time.sleep(0.05)

        assert other.state is ServiceState.STOPPED
        assert diary.of("other") == ONE_LIFE


def test_a_restart_by_hand_does_not_win_against_the_end_of_the_job(env: LocalEnvironment, diary: Diary) -> None:
    handle = env.register_service("a", Recorder, diary, "a", stop=0.2)
    env.run(lambda: None)
    job = env.submit(autostop=True, wait=False)
    while ("a", "stop") not in diary:
        time.sleep(0.001)
    with pytest.raises(ServiceStartError, match="ended with its job"):
        handle.restart()
    job.wait()

    assert handle.state is ServiceState.STOPPED
    assert diary.of("a") == ONE_LIFE


def test_a_service_that_job_code_registers_and_starts_is_the_jobs_too(env: LocalEnvironment, diary: Diary) -> None:
    def work() -> None:
        env.register_service("late", Recorder, diary, "late").start()

    env.run(work)
    job = env.submit(autostop=True)

    assert diary.of("late") == ONE_LIFE
    assert job.report is not None
    assert str(job.report["late"].outcome) == "stopped"


def test_job_code_that_waits_for_its_own_job_is_refused_in_words(env: LocalEnvironment) -> None:
    env.run(lambda: current_job().result())
    with pytest.raises(JobError, match="waits for itself"):
        env.submit(autostop=True)


def test_a_forked_child_touches_nothing_of_its_parents() -> None:
    script = """
import os, sys
from autostop_lab import LocalEnvironment, Service
class S(Service):
    def stop(self): print("stop in", os.getpid() == PARENT, flush=True)
PARENT = os.getpid()
with LocalEnvironment("fork") as env:
    env.register_service("s", S)
    env.start()
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )

    assert (done.returncode, done.stdout) == (0, "stop in True\n"), done.stderr


def test_a_script_that_ends_right_after_its_submit_ends_without_a_word() -> None:
    script = """
from autostop_lab import Command, LocalEnvironment, Service
class S(Service):
    pass
env = LocalEnvironment("quiet")
env.register_service("s", S)
env.register_service("c", Command, ["sleep", "1000"])
env.run(lambda: None)
env.submit(autostop=True, wait=False)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_cancel_during_the_start_is_obeyed_at_once_by_who_has_not_begun(env: LocalEnvironment) -> None:
    began = threading.Event()

    class Slow(Service):
        def start(self) -> None:
            began.set()
            self.stopping.wait(30)

    env.register_service("slow", Slow)
    env.run(lambda: None)
    job = env.submit(autostop=True, wait=False)
    assert began.wait(20)
    job.cancel()
    with pytest.raises(JobCancelledError):
        job.result()

    assert job.state is JobState.CANCELLED
    assert job.elapsed_s < 20


def test_a_stop_that_holds_the_interpreter_is_bounded_by_its_own_length_and_told(
    env: LocalEnvironment, diary: Diary
) -> None:
    class Hog(Service):
        def stop(self) -> None:
            re.match(r"(a+)+$", "a" * 24 + "b")  # runs in C without a break
            diary.append(("hog", "let go"))

    env.register_service("hog", Hog, policy=ServicePolicy(stop_timeout_s=0.05))
    env.register_service("other", Recorder, diary, "other")
    env.run(lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = env.submit(autostop=True)

    assert job.state is JobState.SUCCEEDED
    assert diary.of("other") == ONE_LIFE
    assert job.report is not None
    stop_s = job.report["hog"].stop_s
    assert stop_s is not None
    # Nobody else could run meanwhile, so whether it is also called late depends on who runs first after it.
    assert stop_s > 0.05
    deadline = time.monotonic() + 20
    while ("hog", "let go") not in diary:
        assert time.monotonic() < deadline
        time.sleep(0.01)
