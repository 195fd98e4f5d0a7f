"""The life of a service in a process of its own: start, stop, kill, crash; and that nothing of it is left."""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from autostop_lab import ServiceManager
from autostop_lab.exceptions import ServiceCrashedError, ServiceError, ServiceStartError, ServiceStopError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import Service
from tests.services.hosted_services import Diary, Worker
from tests.services.lives import LONG_S, Life, eventually, is_running

QUICK = ServicePolicy(stop_timeout_s=1.0, kill_timeout_s=2.0)


@pytest.fixture
def hosted(make: Callable[..., Life]) -> Callable[..., Life]:
    def make_hosted(target: Any, *args: Any, **kwargs: Any) -> Life:
        return make(target, *args, runtime="process", **kwargs)

    return make_hosted


MakeLife = Callable[..., Life]


# -- a life ------------------------------------------------------------------------------------------------


def test_a_life_in_a_process_has_the_same_steps(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary").start()
    pid, folder = life.pid, life.folder
    workdir = life.handle.touch()
    assert is_running(pid)
    assert pid != os.getpid()
    assert workdir.parent == folder
    assert workdir.stat().st_mode & 0o777 == 0o700

    life.stop()
    life.clean()

    assert (tmp_path / "diary").read_text().split() == ["init", "start", "stop", "cleanup"]
    assert not is_running(pid)
    assert not folder.exists()


def test_the_process_ends_by_itself_when_all_is_done(hosted: MakeLife) -> None:
    life = hosted(Worker).start()
    runtime = life.runtime
    life.stop()
    life.clean()

    assert runtime.exit_code == 0
    assert not runtime.was_forced


def test_a_local_class_travels(hosted: MakeLife) -> None:
    class Here(Service):
        def __init__(self, number: int) -> None:
            self.number = number

        def me(self) -> tuple[int, int]:
            return os.getpid(), self.number

    life = hosted(Here, 7).start()

    assert life.handle.me() == (life.pid, 7)


def test_a_factory_is_called_in_the_process(hosted: MakeLife) -> None:
    def make_it() -> Any:
        class Made:
            def where(self) -> int:
                return os.getpid()

        return Made()

    life = hosted(make_it).start()

    assert life.handle.where() == life.pid


def test_what_it_prints_and_logs_is_shown(hosted: MakeLife) -> None:
    life = hosted(Worker).start()
    life.handle.say("hello")

    life.says("hello")
    life.says("WARNING logged hello")


# -- failed starts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["init", "start"])
def test_what_a_start_raises_comes_home(hosted: MakeLife, tmp_path: Path, phase: str) -> None:
    life = hosted(Diary, tmp_path / "diary", **{phase: ValueError("not today")})

    with pytest.raises(ValueError, match="not today"):
        life.start()
    assert life.runtime.phase == {"init": "construct", "start": "start"}[phase]


def test_a_process_that_dies_on_its_way_says_how(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary", start="exit")

    with pytest.raises(ServiceStartError, match="its process ended with exit code 3 before it was ready") as caught:
        life.start()
    assert caught.value.exit_code == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to such a limit")
@pytest.mark.parametrize(("size", "problem"), [(10**9, "MemoryError"), (0, "RuntimeError: can't start new thread")])
def test_a_start_that_fails_for_lack_of_memory_names_the_limit(hosted: MakeLife, size: int, problem: str) -> None:
    class Large(Service):
        def __init__(self) -> None:
            self.data = bytearray(size)
            while True:
                threading.Thread(target=self.stopping.wait, daemon=True).start()

    words = f"its constructor raised {problem}; it may take memory_limit_mb=32, raise that"
    with pytest.raises(ServiceStartError, match=words):
        hosted(Large, options={"memory_limit_mb": 32}).start()


ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), futures.CancelledError()]


@pytest.mark.parametrize("error", ENDS, ids=repr)
@pytest.mark.parametrize("phase", ["init", "start"])
def test_what_would_end_a_thread_or_a_task_fails_a_start_and_nothing_else(
    tmp_path: Path, phase: str, error: BaseException
) -> None:
    where = {"init": "its constructor", "start": "start()"}[phase]
    with ServiceManager() as manager:
        handle = manager.add("it", Diary, tmp_path / "diary", runtime="process", **{phase: error})
        with pytest.raises(ExceptionGroup) as caught:
            manager.start_all()

        assert f"{where} raised {type(error).__name__}" in str(caught.value.exceptions[0])
        assert handle.state is ServiceState.CRASHED


@pytest.mark.parametrize("error", ENDS[:4:3], ids=repr)
@pytest.mark.parametrize("phase", ["stop", "cleanup"])
def test_what_would_end_a_thread_or_a_task_is_an_error_of_the_end(
    tmp_path: Path, phase: str, error: BaseException
) -> None:
    with ServiceManager() as manager:
        manager.add("it", Diary, tmp_path / "diary", runtime="process", **{phase: error})
        manager.start_all()
        errors = manager.stop_all()["it"].errors

    assert [(type(raised), raised.args) for _, raised in errors] == [(type(error), error.args)]


def test_a_run_and_a_health_check_may_raise_anything() -> None:
    class Rude(Service):
        def run(self) -> None:
            self.stopping.wait()
            raise SystemExit(3)

        def health_check(self) -> None:
            raise SystemExit(4)

    with ServiceManager() as manager:
        handle = manager.add("it", Rude, runtime="process")
        manager.start_all()

        assert handle.health().error == "SystemExit: 4"
        assert str(manager.stop_all()["it"].outcome) == "stopped"


# -- the end -----------------------------------------------------------------------------------------------


def test_a_stop_that_hangs_is_followed_by_cleanup_and_the_kill(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary", stop="hang", policy=QUICK).start()
    runtime, pid = life.runtime, life.pid
    assert not life.stop(0.2)
    assert life.kill()
    life.clean()

    assert (tmp_path / "diary").read_text().split()[-1] == "cleanup"
    assert not is_running(pid)
    assert runtime.was_forced
    assert runtime.survivor() == ""


@pytest.mark.parametrize("act", ["hang", "hog"])
def test_a_cleanup_that_does_not_return_is_ended(hosted: MakeLife, tmp_path: Path, act: str) -> None:
    life = hosted(Diary, tmp_path / "diary", cleanup=act, policy=QUICK).start()
    pid = life.pid
    life.stop()
    with pytest.raises(TimeoutError):
        life.clean(0.2)

    assert not is_running(pid)


@pytest.mark.parametrize("phase", ["stop", "cleanup"])
def test_a_hook_that_hung_is_reported_with_its_place(tmp_path: Path, phase: str) -> None:
    policy = ServicePolicy(stop_timeout_s=0.5, cleanup_timeout_s=0.5)
    with ServiceManager() as manager:
        manager.add("it", Diary, tmp_path / "diary", runtime="process", policy=policy, **{phase: "hang"})
        manager.start_all()
        report = manager.stop_all()
    ((_, error),) = report["it"].errors

    late = rf"{phase}\(\) did not return within 0.5 s"
    assert re.search(rf"{late}; thread .* was at .*hosted_services.py.* in note$", str(error))
    assert f"in {phase}\n" in error.__notes__[0]
    assert "time.sleep(3600)" in str(report)


def test_a_start_that_hangs_is_reported_with_its_place(tmp_path: Path) -> None:
    with ServiceManager() as manager:
        policy = ServicePolicy(start_timeout_s=3.0)
        manager.add("it", Diary, tmp_path / "diary", runtime="process", policy=policy, start="hang")
        with pytest.raises(ExceptionGroup) as caught:
            manager.start_all()

    assert re.search(r"start\(\) did not return; thread .* was at .* in note\.", str(caught.value.exceptions[0]))


def test_a_call_that_is_inside_at_the_end_is_named_with_its_place(hosted: MakeLife) -> None:
    life = hosted(Worker, policy=QUICK).start()
    call = life.handle.sleep_and_return.submit(3600.0, None)
    eventually(lambda: life.handle.state and call.running())
    life.stop()

    life.says("in sleep_and_return")
    life.clean()
    with pytest.raises(ServiceError):
        call.result(LONG_S)


def test_a_process_whose_interpreter_is_held_is_killed(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary", stop="hog", policy=QUICK).start()
    pid = life.pid
    assert not life.stop(0.2)
    assert life.kill()

    assert not is_running(pid)
    with pytest.raises(ServiceStopError, match=r"signal 9, so its cleanup\(\) could not run"):
        life.clean()


def test_a_crash_is_seen_and_the_cleanup_that_could_not_run_is_told(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary").start()
    os.kill(life.pid, signal.SIGKILL)

    assert life.exit().code == -signal.SIGKILL
    life.settle()
    with pytest.raises(ServiceStopError, match="could not run"):
        life.clean()


def test_a_call_inside_when_the_process_dies_raises_with_its_last_lines(hosted: MakeLife) -> None:
    life = hosted(Worker).start()

    with pytest.raises(ServiceCrashedError, match="signal 9") as caught:
        life.handle.die()
    assert "last words" in caught.value.log_lines


def test_a_crash_of_the_interpreter_shows_what_the_service_did(hosted: MakeLife) -> None:
    life = hosted(Worker).start()

    with pytest.raises(ServiceCrashedError, match="signal 11") as caught:
        life.handle.die(signal.SIGSEGV)
    lines = caught.value.log_lines
    assert [line for line in lines if line.startswith(("last", "Fatal"))] == ["last words", lines[-3]]
    assert lines[-1].endswith(" in die")


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "obedient", "stubborn"])
@pytest.mark.parametrize("end", ["stop", "crash"])
def test_what_a_service_has_started_ends_with_it(hosted: MakeLife, kind: str, end: str) -> None:
    life = hosted(Worker, policy=QUICK).start()
    pid = life.handle.start_child(kind)
    assert is_running(pid)
    if end == "stop":
        life.stop()
    else:
        os.kill(life.pid, signal.SIGKILL)
        life.exit()
        life.settle()
    life.clean()

    eventually(lambda: not is_running(pid))


def test_a_run_that_ends_is_the_end_of_the_service(hosted: MakeLife) -> None:
    class Short(Service):
        def run(self) -> None:
            raise KeyError("done")

    end = hosted(Short).start().exit()

    assert isinstance(end.error, KeyError)


# -- an owner that is dead ---------------------------------------------------------------------------------


def test_a_term_from_outside_stops_and_cleans(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary").start()
    os.kill(life.pid, signal.SIGTERM)

    assert life.exit().code == 0
    assert (tmp_path / "diary").read_text().split() == ["init", "start", "stop", "cleanup"]


@pytest.mark.parametrize("end", ["TERM", "stop"])
def test_its_exit_waits_for_no_child_and_calls_what_is_registered(hosted: MakeLife, tmp_path: Path, end: str) -> None:
    path = tmp_path / "exits"

    class Leaving(Worker):
        def start(self) -> None:
            atexit.register(path.touch)
            self.thread = threading.Thread(target=time.sleep, args=(600,))
            self.thread.start()

    life = hosted(Leaving).start()
    runtime, pid = life.runtime, life.handle.start_child("fork")
    if end == "TERM":
        os.kill(life.pid, signal.SIGTERM)
        life.exit()
        life.settle()
    else:
        life.stop()
        life.clean()

    assert runtime.exit_code == 0
    assert path.exists()
    eventually(lambda: not is_running(pid))


def test_the_end_of_the_owner_s_connection_stops_and_cleans(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Diary, tmp_path / "diary").start()
    began = time.monotonic()
    life.runtime.host._control.cut()

    assert life.exit().code == 0
    assert time.monotonic() - began < LONG_S
    assert (tmp_path / "diary").read_text().split() == ["init", "start", "stop", "cleanup"]
