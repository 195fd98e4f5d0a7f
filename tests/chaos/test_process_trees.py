"""Programs whose children try to get away."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab import Command, ConfigurationError, LocalEnvironment, LogReady, Service, ServicePolicy, ServiceState
from tests.chaos import escapees, programs
from tests.chaos.holds import hold_report, submit
from tests.chaos.owners import Owner
from tests.chaos.world import end_for_sure, eventually, hold_gone, numbers_in, running

MakeOwner = Callable[..., Owner]

ESCAPEES = [sys.executable, "-S", "-E", "-u", escapees.__file__]


@pytest.fixture
def runaways(tmp_path: Path) -> Iterator[Path]:
    """The folder in which escapees write their pids; what a failed test leaves is killed."""
    folder = tmp_path / "runaways"
    folder.mkdir()
    yield folder
    end_for_sure(pid for path in folder.iterdir() for pid in numbers_in(path))


@pytest.mark.parametrize("way", ["popen", *escapees.WAYS])
@pytest.mark.parametrize("kind", ["auto", "signs"])
def test_a_child_that_gets_away_is_dead_when_the_job_is_over(
    env: LocalEnvironment, runaways: Path, way: str, kind: str
) -> None:
    policy = ServicePolicy(stop_timeout_s=1)
    contained(env, kind, "tree", [*ESCAPEES, str(runaways), way], ready=LogReady("up"), policy=policy)
    env.run(lambda: numbers_in(runaways / way))
    ended = submit(env, {"tree": "killed" if "deaf" in way else "stopped"})

    hold_gone(ended.job.result(), patience_s=0.5)


def contained(into: LocalEnvironment, kind: str, name: str, *args: Any, **fields: Any) -> None:
    """Register a program with containment of this kind, or skip the test where the machine has none."""
    try:
        into.register_service(name, Command, *args, contain=kind, **fields)
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["subreaper", "cgroup"])
@pytest.mark.parametrize("end", ["by its job", "by itself"])
def test_a_child_that_sheds_every_sign_is_dead_where_its_program_is_contained(
    env: LocalEnvironment, runaways: Path, kind: str, end: str
) -> None:
    policy = ServicePolicy(stop_timeout_s=1, critical=False)
    then = {"THEN": "exit 0"} if end == "by itself" else {}
    argv = [*ESCAPEES, str(runaways), escapees.WORST]
    contained(env, kind, "tree", argv, env=then, policy=policy)
    handle = env.services["tree"]

    def work() -> list[int]:
        pids = numbers_in(runaways / escapees.WORST)
        if then:
            eventually(lambda: handle.state is ServiceState.STOPPED)
        return pids

    env.run(work)
    ended = submit(env, {"tree": "exited" if then else "stopped"})

    assert ended.report["tree"].contain == kind
    hold_gone(ended.job.result(), patience_s=0.5)


def test_a_child_that_sheds_every_sign_lives_on_where_nothing_contains_it(
    env: LocalEnvironment, runaways: Path
) -> None:
    """What `contain="signs"` does not promise; whoever asks for it is told by its documentation."""
    contained(env, "signs", "tree", [*ESCAPEES, str(runaways), escapees.WORST], ready=LogReady("up"))
    env.run(lambda: numbers_in(runaways / escapees.WORST))
    ended = submit(env, {"tree": "stopped"})

    assert running(ended.job.result())


@pytest.mark.parametrize("code", [0, 4])
def test_children_of_a_program_that_ended_by_itself_are_dead_too(
    env: LocalEnvironment, runaways: Path, code: int
) -> None:
    policy = ServicePolicy(stop_timeout_s=0.5, critical=False)
    ways = [way for way in escapees.WAYS if way != "plain"]
    argv = [*ESCAPEES, str(runaways), "plain", *ways]
    handle = env.register_service("tree", Command, argv, env={"THEN": f"exit {code}"}, policy=policy)
    env.start()
    pids = [pid for way in escapees.WAYS for pid in numbers_in(runaways / way)]
    eventually(lambda: handle.state is (ServiceState.CRASHED if code else ServiceState.STOPPED))
    hold_report(env.stop(), {"tree": "killed"})  # one of them ignores the polite signal

    hold_gone(pids, patience_s=0.5)


@pytest.mark.parametrize("kind", ["signs", "subreaper", "cgroup"])
def test_a_storm_of_forks_is_outlasted(env: LocalEnvironment, runaways: Path, kind: str) -> None:
    policy = ServicePolicy(stop_timeout_s=0.3, kill_timeout_s=20)
    argv = [*ESCAPEES, str(runaways), "storm", "storm", "storm"]
    contained(env, kind, "storm", argv, ready=LogReady("up"), policy=policy)
    env.run(lambda: numbers_in(runaways / "storm", 60))
    submit(env, {"storm": "killed"})
    pids = numbers_in(runaways / "storm")

    assert len(pids) >= 60
    hold_gone(pids, patience_s=0.5)
    time.sleep(0.1)
    assert numbers_in(runaways / "storm") == pids


# -- output ------------------------------------------------------------------------------------------------


def test_a_grandchild_that_holds_the_log_open_keeps_nobody_waiting(env: LocalEnvironment, tmp_path: Path) -> None:
    policy = ServicePolicy(critical=False)
    code = f"sleep 1000 & echo $! > {tmp_path / 'pid'}; echo last words; exit 3"
    handle = env.register_service("short", Command, programs.sh(code), policy=policy)
    env.run(lambda: eventually(lambda: handle.state is ServiceState.CRASHED))
    ended = submit(env, {"short": "exited"})

    assert ended.report["short"].exit_code == 3
    assert [line.text for line in handle.logs()] == ["last words"]
    assert ended.job.elapsed_s < 20
    hold_gone(numbers_in(tmp_path / "pid"), patience_s=0.5)


def test_a_flood_of_output_that_nobody_reads_holds_nobody_and_stays_bounded(
    env: LocalEnvironment, tmp_path: Path
) -> None:
    rest = f"head -c 50000000; echo; echo the end; touch {tmp_path / 'done'}; exec sleep 1000"
    handle = env.register_service("loud", Command, programs.sh(f"yes 'a line of output' | {rest}"))
    before = psutil.Process().memory_info().rss
    env.run(lambda: eventually((tmp_path / "done").exists, patience_s=60))
    submit(env, {"loud": "stopped"})

    lines = handle.logs()
    assert lines[-1].text == "the end"
    assert len(lines) <= 1000
    assert psutil.Process().memory_info().rss - before < 60 << 20


def test_a_program_that_writes_without_end_is_stopped_in_the_middle(env: LocalEnvironment) -> None:
    handle = env.register_service("loud", Command, ["yes"])
    one_line = env.register_service("one line", Command, programs.sh("tr '\\0' x < /dev/zero"))
    env.run(lambda: eventually(lambda: len(handle.logs()) > 10))
    submit(env, {"loud": "stopped", "one line": "stopped"})

    assert max(len(line.text) for line in one_line.logs()) < 5000


# -- children of Python services ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_that_a_service_in_this_process_leaves_is_named(owner: MakeOwner, method: str) -> None:
    """It is the process's own child, not ours to kill; the receipt says so."""
    script = owner("forgotten_child", method=method)
    told = script.said("over")
    shown = told["pid"] if method != "forkserver" else told["server"]  # the child of a forkserver is that server's

    assert told["outcomes"] == {"parent": "stopped"}
    assert "LEFT BEHIND: " in told["receipt"]
    assert f"process {shown} '" in told["receipt"]
    assert running([told["pid"]])
    script.tell("end")
    assert script.wait() == 0, script.errors
    hold_gone([told["pid"]])


class Parent(Service):
    """Starts a process with `multiprocessing` and forgets about it."""

    def __init__(self, method: str) -> None:
        self.method = method

    def start(self) -> None:
        context = multiprocessing.get_context(self.method)
        self.child = context.Process(target=time.sleep, args=(1000,))  # type: ignore[attr-defined]
        self.child.start()

    def pids(self) -> list[int]:
        return [os.getpid(), self.child.pid]


@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_that_a_service_in_a_process_leaves_is_dead(env: LocalEnvironment, method: str, end: str) -> None:
    policy = ServicePolicy(critical=False, stop_timeout_s=5)
    handle = env.register_service("parent", Parent, method, runtime="process", policy=policy)

    def work() -> list[int]:
        pids: list[int] = handle.pids()
        if end == "kill":
            handle.kill()
        elif end == "crash":
            os.kill(pids[0], signal.SIGSEGV)
            eventually(lambda: handle.state is ServiceState.CRASHED)
        return pids

    env.run(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = env.submit(autostop=True)
    assert job.report is not None
    outcome = str(job.report["parent"].outcome)
    # Its child need not hear of the polite end of its parent.
    assert outcome in {"stop": ("stopped", "killed"), "kill": ("killed",), "crash": ("exited", "killed")}[end]
    hold_report(job.report, {"parent": outcome})
    assert job.report.leaks == ()
    hold_gone(job.result(), patience_s=0.5)
