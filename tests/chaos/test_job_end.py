"""Every way in which a job ends by itself, by its code or by the user."""

from __future__ import annotations

import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from autostop_lab import (
    Command,
    Job,
    JobCancelledError,
    JobState,
    JobTimeoutError,
    LocalEnvironment,
    LogReady,
    ServicePolicy,
    current_job,
)
from tests.chaos import programs
from tests.chaos.holds import submit
from tests.chaos.owners import Owner
from tests.chaos.world import eventually, hold_gone, numbers_in
from tests.services_for_tests import ONE_LIFE, Diary, Recorder

MakeOwner = Callable[..., Owner]


def chain(env: LocalEnvironment, diary: Diary, *names: str) -> None:
    """Register services each of which needs the one before it."""
    for before, name in zip(("", *names), names, strict=False):
        env.register_service(name, Recorder, diary, name, policy=ServicePolicy(depends_on=(before,) if before else ()))


def test_a_job_that_returns_a_value_has_it_and_services_stop_in_reverse(env: LocalEnvironment, diary: Diary) -> None:
    chain(env, diary, "db", "api", "web")
    env.run(lambda: 42)
    ended = submit(env, {"db": "stopped", "api": "stopped", "web": "stopped"})

    assert ended.job.result() == 42
    assert diary.names("start") == ["db", "api", "web"]
    assert [step for step in diary if step[1] in ("stop", "cleanup")] == [
        (name, what) for name in ("web", "api", "db") for what in ("stop", "cleanup")
    ]


def test_a_job_that_raises_keeps_its_exception_whatever_fails_in_the_cleanup(
    env: LocalEnvironment, diary: Diary
) -> None:
    problem = ValueError("x")

    def work() -> None:
        raise problem

    env.register_service("a", Recorder, diary, "a", stop=OSError("a will not"))
    env.register_service("b", Recorder, diary, "b", cleanup=OSError("b is stuck"))
    env.run(work)
    ended = submit(env, {"a": "failed", "b": "failed"})

    assert ended.error is problem
    assert problem.__traceback__ is not None
    assert "work" in [frame.name for frame in traceback.extract_tb(problem.__traceback__)]
    assert problem.__cause__ is None
    assert "a will not" in ended.notes
    assert "b is stuck" in ended.notes
    assert diary.of("a") == diary.of("b") == ONE_LIFE


@pytest.mark.parametrize("scenario", ["exit_from_job", "exit_from_with"])
def test_a_job_that_exits_has_its_own_exit_code(owner: MakeOwner, scenario: str) -> None:
    script = owner(scenario, code=7)
    pids = script.said("pids")["pids"]

    assert script.wait() == 7
    assert script.words() == ["speaker start", "speaker stop", "speaker cleanup"]
    hold_gone(pids)


@pytest.mark.parametrize(("code", "status"), [("exit 3", 3), ("kill -SEGV $$", -signal.SIGSEGV)])
@pytest.mark.parametrize("stop", [0, OSError("no")])
def test_the_exit_status_of_a_program_that_was_the_job_is_kept(
    env: LocalEnvironment, diary: Diary, code: str, status: int, stop: object
) -> None:
    env.register_service("a", Recorder, diary, "a", stop=stop)
    env.run(lambda: subprocess.run(programs.sh(code), check=True))
    ended = submit(env, {"a": "failed" if stop else "stopped"})

    assert isinstance(ended.error, subprocess.CalledProcessError)
    assert ended.error.returncode == status
    assert diary.of("a") == ONE_LIFE


def test_a_time_out_names_the_job_and_cleans_its_services(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    env.register_service("program", Command, programs.SLEEP)
    env.run(lambda: current_job().stopping.wait())
    ended = submit(env, {"a": "stopped", "program": "stopped"}, timeout_s=0.5)

    assert isinstance(ended.error, JobTimeoutError)
    assert "job 'chaos' was not done after 0.5 s" in str(ended.error)
    assert ended.job.state is JobState.FAILED
    assert diary.of("a") == ONE_LIFE


def test_ctrl_c_ends_the_job_by_that_signal_and_reaches_no_service(owner: MakeOwner) -> None:
    script = owner("interrupted_job")
    pids = script.said("pids")["pids"]
    script.said("working")
    script.press_ctrl_c()
    told = script.said("interrupted")

    assert script.wait() == -signal.SIGINT  # which a shell shows as 130
    assert (told["state"], told["outcomes"]) == ("cancelled", {"speaker": "stopped", "program": "stopped"})
    assert not (script.folder / "interrupts").exists()
    assert script.errors.count("KeyboardInterrupt") == 1
    hold_gone(pids)


def test_ctrl_c_while_the_second_of_three_starts_leaves_the_third_unborn(owner: MakeOwner) -> None:
    script = owner("interrupted_start")
    pids = numbers_in(script.folder / "pids", 2)
    script.press_ctrl_c()
    told = script.said("interrupted")

    assert script.wait() == -signal.SIGINT
    assert told["outcomes"] == {"one": "stopped", "two": "stopped", "three": "stopped"}
    assert "never started" in told["receipt"]
    assert numbers_in(script.folder / "pids", 2) == pids
    assert "ran" not in script.words()
    hold_gone(pids)


def test_ctrl_c_during_the_cleanup_lets_it_finish(owner: MakeOwner) -> None:
    script = owner("interrupted_stop", stop_timeout_s=1)
    pids = numbers_in(script.folder / "pids", 3)
    script.said("speaker stop")
    script.press_ctrl_c()
    told = script.said("interrupted")

    assert script.wait() == -signal.SIGINT
    assert told["state"] == "succeeded"  # its code was done
    assert told["outcomes"] == {"one": "killed", "two": "killed", "three": "killed", "speaker": "stopped"}
    hold_gone(pids)


def test_a_second_ctrl_c_during_the_cleanup_skips_the_grace_periods(owner: MakeOwner) -> None:
    script = owner("interrupted_stop", stop_timeout_s=300)
    pids = numbers_in(script.folder / "pids", 3)
    script.said("speaker stop")
    script.press_ctrl_c()
    time.sleep(0.3)  # two signals at once are one
    script.press_ctrl_c()
    told = script.said("interrupted")

    assert script.wait() == -signal.SIGINT
    assert told["outcomes"] == {"one": "killed", "two": "killed", "three": "killed", "speaker": "stopped"}
    hold_gone(pids)


ENDS: dict[str, tuple[Callable[[Job], object], type[BaseException] | None]] = {
    "stop": (Job.stop, None),
    "cancel": (Job.cancel, JobCancelledError),
    "time-out": (lambda job: None, JobTimeoutError),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_job_that_ends_before_its_service_is_ready_ends_the_start(
    env: LocalEnvironment, tmp_path: Path, how: str
) -> None:
    end, kind = ENDS[how]
    policy = ServicePolicy(stop_timeout_s=0.2, start_timeout_s=100)
    env.register_service("slow", Command, programs.deaf(tmp_path / "pid"), ready=LogReady("never"), policy=policy)
    env.run(lambda: pytest.fail("the job's code ran without its service"))
    job = env.submit(autostop=True, wait=False, timeout_s=1.5 if how == "time-out" else None)
    pids = numbers_in(tmp_path / "pid")
    end(job)
    eventually(lambda: job.is_over)

    assert kind is None or isinstance(job.exception, kind)
    assert job.report is not None
    assert str(job.report["slow"].outcome) == "killed"
    hold_gone(pids)
