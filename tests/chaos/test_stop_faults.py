"""Everything that can go wrong while services stop."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autostop_lab import (
    Command,
    LocalEnvironment,
    LogReady,
    Restart,
    Service,
    ServicePolicy,
    ServiceState,
    ServiceUnavailableError,
    current_job,
)
from tests.chaos import programs
from tests.chaos.holds import hold_report, submit
from tests.chaos.owners import Owner
from tests.chaos.world import eventually, hold_gone, numbers_in, running
from tests.services_for_tests import ONE_LIFE, Diary, Recorder

MakeOwner = Callable[..., Owner]


def needs(*names: str, **fields: Any) -> ServicePolicy:
    return ServicePolicy(depends_on=names, **fields)


# -- programs that will not end ----------------------------------------------------------------------------


def test_a_program_that_ignores_the_polite_signal_is_killed_after_its_grace(
    env: LocalEnvironment, diary: Diary, tmp_path: Path
) -> None:
    env.register_service(
        "deaf", Command, programs.deaf(tmp_path / "pid"), ready=LogReady("up"), policy=ServicePolicy(stop_timeout_s=0.5)
    )
    env.register_service("a", Recorder, diary, "a")
    env.run(lambda: 1)
    ended = submit(env, {"deaf": "killed", "a": "stopped"})

    assert ended.job.result() == 1
    entry = ended.report["deaf"]
    assert entry.exit_code == -signal.SIGKILL
    assert 0.5 <= (entry.stop_s or 0) < 20
    hold_gone(numbers_in(tmp_path / "pid"))


def test_a_group_of_five_that_ignore_the_polite_signal_is_killed_whole(env: LocalEnvironment, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = f"sh -c 'echo $$ >> {pids}; sleep 1000; sleep 1000' & "
    code = f"trap '' TERM; echo $$ >> {pids}; {child * 4} echo up; while :; do sleep 1000; done"
    env.register_service(
        "group", Command, programs.sh(code), ready=LogReady("up"), policy=ServicePolicy(stop_timeout_s=0.3)
    )
    env.run(lambda: numbers_in(pids, 5))
    ended = submit(env, {"group": "killed"})

    hold_gone(ended.job.result())


def test_a_stopped_program_ends_within_its_grace_where_it_obeys_and_is_killed_where_not(
    env: LocalEnvironment, tmp_path: Path
) -> None:
    policy = ServicePolicy(stop_timeout_s=2)
    env.register_service("obeys", Command, programs.polite(tmp_path / "a"), ready=LogReady("up"), policy=policy)
    env.register_service("deaf", Command, programs.deaf(tmp_path / "b"), ready=LogReady("up"), policy=policy)

    def freeze() -> list[int]:
        pids = numbers_in(tmp_path / "a") + numbers_in(tmp_path / "b")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    env.run(freeze)
    ended = submit(env, {"obeys": "stopped", "deaf": "killed"})

    assert ended.report["obeys"].exit_code == -signal.SIGTERM
    assert (ended.report["obeys"].stop_s or 9) < (ended.report["deaf"].stop_s or 0)
    hold_gone(ended.job.result())


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_that_ended_by_itself_is_told_with_its_code_and_leaves_no_zombie(
    env: LocalEnvironment, diary: Diary, tmp_path: Path, code: int
) -> None:
    policy = ServicePolicy(critical=False)
    wait = f"while [ ! -e {tmp_path / 'go'} ]; do sleep 0.01; done"
    argv = programs.sh(f"trap 'echo signalled' TERM; echo $$ > {tmp_path / 'pid'}; echo up; {wait}; exit {code}")
    handle = env.register_service("short", Command, argv, ready=LogReady("up"), policy=policy)
    env.register_service("a", Recorder, diary, "a")
    at_rest = ServiceState.CRASHED if code else ServiceState.STOPPED

    def work() -> None:
        (tmp_path / "go").touch()
        eventually(lambda: handle.state is at_rest)

    env.run(work)
    ended = submit(env, {"short": "exited", "a": "stopped"})

    entry = ended.report["short"]
    assert (entry.exit_code, entry.state) == (code, str(at_rest))
    assert entry.exit is not None
    assert [line.text for line in handle.logs()] == ["up"]
    (pid,) = numbers_in(tmp_path / "pid")
    assert not Path(f"/proc/{pid}").exists()


# -- stop() that fails -------------------------------------------------------------------------------------


def test_a_stop_that_raises_stops_nobody_elses_and_is_named(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("db", Recorder, diary, "db")
    env.register_service("bad", Recorder, diary, "bad", stop=OSError("I will not"), policy=needs("db"))
    env.register_service("web", Recorder, diary, "web", policy=needs("bad"))
    env.register_service("program", Command, programs.SLEEP, policy=needs("db"))
    env.run(lambda: "value")
    ended = submit(env, {"db": "stopped", "bad": "failed", "web": "stopped", "program": "stopped"})

    assert ended.job.result() == "value"
    assert ended.report["bad"].errors[0][0] == "stop"
    assert "I will not" in ended.warnings[0]
    assert diary.of("db") == diary.of("bad") == diary.of("web") == ONE_LIFE
    with pytest.raises(ExceptionGroup) as caught:
        ended.report.check()
    (error,) = caught.value.exceptions
    assert (error.service, error.phase) == ("bad", "stop")  # type: ignore[attr-defined]
    assert str(error.__cause__) == "I will not"


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Set at the end of the test, so that what hung ends with it."""
    event = threading.Event()
    yield event
    event.set()


def in_python(let_go: threading.Event) -> None:
    while not let_go.is_set():
        time.sleep(0.01)


def in_c(let_go: threading.Event) -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=lambda: (let_go.wait(), lock.release()), daemon=True).start()
    lock.acquire()


@pytest.mark.leaves_thread("service stuck")
@pytest.mark.parametrize("hang", [in_python, in_c])
def test_a_stop_that_hangs_is_abandoned_with_its_stack_and_the_rest_goes_on(
    env: LocalEnvironment, diary: Diary, let_go: threading.Event, hang: Callable[[threading.Event], None]
) -> None:
    class Stuck(Recorder):
        def stop(self) -> None:
            super().stop()
            hang(let_go)

    before = set(threading.enumerate())
    policy = needs("db", stop_timeout_s=0.3, kill_timeout_s=0.3)
    env.register_service("db", Recorder, diary, "db")
    env.register_service("stuck", Stuck, diary, "stuck", policy=policy)
    env.run(lambda: 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = env.submit(autostop=True)
    assert job.result() == 7
    assert job.report is not None
    hold_report(job.report, {"db": "stopped", "stuck": "abandoned"})

    entry = job.report["stuck"]
    assert entry.errors[0][0] == "stop"
    assert "thread 'autostop-lab: service stuck' is still at" in entry.survivor
    assert f"in {hang.__name__}" in entry.survivor
    assert entry.survivor.rstrip() in str(job.report)
    assert diary.of("stuck") == diary.of("db") == ONE_LIFE
    let_go.set()
    eventually(lambda: {thread for thread in threading.enumerate() if thread.name.startswith("autostop")} <= before)


def test_a_stop_that_holds_the_interpreter_delays_the_others_and_is_told(env: LocalEnvironment, diary: Diary) -> None:
    class Hog(Recorder):
        def stop(self) -> None:
            super().stop()
            ctypes.PyDLL(None).usleep(800_000)  # without letting go of the interpreter

    env.register_service("db", Recorder, diary, "db")
    env.register_service("hog", Hog, diary, "hog", policy=needs("db", stop_timeout_s=0.1))
    env.register_service("program", Command, programs.SLEEP, policy=needs("db"))
    env.run(lambda: 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = env.submit(autostop=True)
    assert job.report is not None
    # Nobody else could run meanwhile, so whether it also is called late depends on who runs first after it.
    how = str(job.report["hog"].outcome)
    assert how in ("stopped", "failed", "abandoned")
    hold_report(job.report, {"db": "stopped", "hog": how, "program": "stopped"})

    assert (job.report["hog"].stop_s or 0) >= 0.8
    assert diary.of("db") == ONE_LIFE
    assert diary.names("stop") == ["hog", "db"]


@pytest.mark.parametrize("how", ["falls off its end", "sys.exit(9)", "raise ValueError"])
def test_a_stop_that_never_returns_does_not_hold_the_exit(owner: MakeOwner, how: str) -> None:
    script = owner("hung_at_exit", how=how)
    pids = numbers_in(script.folder / "pids", 1)
    script.said("exits")
    began = time.monotonic()
    code = script.wait()

    assert code == {"falls off its end": 0, "sys.exit(9)": 9, "raise ValueError": 1}[how]
    assert time.monotonic() - began < 20
    assert {"stuck stop", "stuck cleanup", "speaker stop", "speaker cleanup"} <= set(script.words())
    hold_gone(pids)


# -- order and races ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["stop", "cleanup"])
@pytest.mark.parametrize("order", ["env.stop", "env.close", "job.cancel", "job.stop", "handle.stop", "handle.kill"])
def test_a_stop_within_a_stop_changes_nothing(env: LocalEnvironment, diary: Diary, where: str, order: str) -> None:
    class Meddler(Recorder):
        def _do(self, what: str) -> None:
            super()._do(what)
            if what == where:
                owner, method = order.split(".")
                getattr({"env": env, "job": env.last_job, "handle": env.services["a"]}[owner], method)()

    env.register_service("a", Recorder, diary, "a")
    env.register_service("meddler", Meddler, diary, "meddler", policy=needs("a"))
    env.run(lambda: 3)
    ended = submit(env, {"a": "stopped", "meddler": "stopped"})

    assert ended.job.result() == 3
    assert diary.of("a") == diary.of("meddler") == ONE_LIFE


def test_ten_that_stop_at_once_stop_once_and_see_the_same(env: LocalEnvironment, diary: Diary) -> None:
    for name in ("a", "b", "c"):
        env.register_service(name, Recorder, diary, name, stop=0.1)
    env.register_service("program", Command, programs.SLEEP)
    env.start()
    barrier = threading.Barrier(10)
    reports = []

    def stop() -> None:
        barrier.wait(20)
        reports.append(env.stop())

    threads = [threading.Thread(target=stop) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(reports) == 10
    for report in reports:
        hold_report(report, dict.fromkeys(("a", "b", "c", "program"), "stopped"))
    assert len({str(report.services) for report in reports}) == 1
    assert diary.of("a") == diary.of("b") == diary.of("c") == ONE_LIFE


RACES = [pytest.param(25, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("rounds", RACES)
def test_nothing_runs_when_a_stop_that_raced_with_a_start_has_returned(
    env: LocalEnvironment, diary: Diary, tmp_path: Path, rounds: int
) -> None:
    delays = random.Random(rounds)
    pids = tmp_path / "pids"
    db = env.register_service("db", Recorder, diary, "db", start=0.01)
    web = env.register_service("web", Command, programs.polite(pids), ready=LogReady("up"), policy=needs("db"))

    def start() -> None:
        try:
            env.start()
        except Exception:  # it was stopped on its way
            pass

    for _ in range(rounds):
        thread = threading.Thread(target=start)
        thread.start()
        time.sleep(delays.uniform(0, 0.06))
        hold_report(env.stop(), {"db": "stopped", "web": "stopped"})
        # Whoever began to start before the stop has lost; who begins after it is not stopped by it.
        thread.join()
        if db.state is ServiceState.RUNNING:
            assert web.state is ServiceState.RUNNING
            env.stop()
        assert (db.state, web.state) == (ServiceState.STOPPED, ServiceState.STOPPED)
        if pids.exists():
            assert not running(numbers_in(pids))

    assert diary.names("start") == diary.names("cleanup")


def test_a_stop_during_the_pause_before_a_restart_is_the_last_word(env: LocalEnvironment, diary: Diary) -> None:
    class Mortal(Recorder):
        def run(self) -> None:
            raise OSError("gone")

    rule = Restart("always", backoff_s=0.3, backoff_max_s=0.3)
    handle = env.register_service("a", Mortal, diary, "a", policy=ServicePolicy(restart=rule, call_timeout_s=60))
    env.start()
    eventually(lambda: handle.state is ServiceState.BACKOFF)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            handle.echo(1)
        except ServiceUnavailableError as error:
            errors.append(error)

    waiting = threading.Thread(target=call)
    waiting.start()
    lives = len(diary.names("start"))
    handle.stop()
    waiting.join(20)
    time.sleep(0.6)

    assert not waiting.is_alive()
    assert errors
    assert "service 'a'" in str(errors[0])
    assert handle.state is ServiceState.STOPPED
    assert len(diary.names("start")) == lives
    assert diary.names("start") == diary.names("cleanup")


def test_a_run_that_raises_because_it_was_stopped_is_a_stopped_one(env: LocalEnvironment, diary: Diary) -> None:
    class Aborted(Recorder):
        def run(self) -> None:
            self.stopping.wait()
            raise ConnectionAbortedError("my socket was closed")

    policy = ServicePolicy(restart=Restart("always", backoff_s=0.01))
    handle = env.register_service("a", Aborted, diary, "a", policy=policy)
    env.run(lambda: 5)
    ended = submit(env, {"a": "stopped"})

    assert ended.job.result() == 5
    assert handle.state is ServiceState.STOPPED
    assert diary.of("a") == ONE_LIFE
    assert ended.warnings == ()


def test_a_hundred_that_take_a_second_each_stop_side_by_side(env: LocalEnvironment, diary: Diary) -> None:
    names = [f"s{number}" for number in range(100)]
    for name in names:
        env.register_service(name, Recorder, diary, name, stop=1)
    env.run(lambda: None)
    ended = submit(env, dict.fromkeys(names, "stopped"))

    assert sum(entry.stop_s or 0 for entry in ended.report.services) >= 100
    assert ended.job.elapsed_s < 20
    assert all(diary.of(name) == ONE_LIFE for name in names)


class Stamped(Service):
    """Notes when its stop begins and ends."""

    def __init__(self, stamps: dict[str, tuple[float, float]], name: str) -> None:
        self.stamps, self.name = stamps, name

    def stop(self) -> None:
        began = time.monotonic()
        time.sleep(0.05)
        self.stamps[self.name] = (began, time.monotonic())


def test_each_stops_only_when_all_that_needs_it_has_ended(env: LocalEnvironment) -> None:
    stamps: dict[str, tuple[float, float]] = {}
    edges = {"db": (), "cache": (), "api": ("db", "cache"), "web": ("api",), "cron": ("db",), "edge": ("web", "cron")}
    for name, needed in edges.items():
        env.register_service(name, Stamped, stamps, name, policy=needs(*needed))
    env.run(lambda: None)
    submit(env, dict.fromkeys(edges, "stopped"))

    for name, needed in edges.items():
        for other in needed:
            assert stamps[other][0] >= stamps[name][1], f"{other} began to stop before {name} had ended"


def test_programs_stop_only_when_all_that_needs_them_has_ended(env: LocalEnvironment, tmp_path: Path) -> None:
    stamps = tmp_path / "stamps"
    note = "trap 'echo {name} begins >> {stamps}; sleep 0.1; echo {name} ends >> {stamps}; exit 0' TERM"
    before: tuple[str, ...] = ()
    for name in ("db", "api", "web"):
        code = f"{note.format(name=name, stamps=stamps)}; echo up; while :; do sleep 0.01; done"
        env.register_service(name, Command, programs.sh(code), ready=LogReady("up"), policy=needs(*before))
        before = (name,)
    env.run(lambda: None)
    submit(env, dict.fromkeys(("db", "api", "web"), "stopped"))

    assert stamps.read_text().split("\n")[:-1] == [
        f"{name} {what}" for name in ("web", "api", "db") for what in ("begins", "ends")
    ]


@pytest.mark.leaves_thread("service hung")
def test_a_cleanup_that_is_longer_than_the_whole_may_be_is_cut_short_and_told(
    env: LocalEnvironment, diary: Diary, let_go: threading.Event, tmp_path: Path
) -> None:
    class Hung(Recorder):
        def stop(self) -> None:
            super().stop()
            let_go.wait()

    patient = {"stop_timeout_s": 600, "cleanup_timeout_s": 600}
    pids = tmp_path / "pids"
    env.register_service("db", Command, programs.deaf(pids), ready=LogReady("up"), policy=ServicePolicy(**patient))
    env.register_service("hung", Hung, diary, "hung", policy=needs("db", **patient))
    env.register_service("web", Command, programs.deaf(pids), ready=LogReady("up"), policy=needs("hung", **patient))
    env.run(lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job = env.submit(autostop=True, shutdown_timeout_s=1)
    assert job.report is not None
    hold_report(job.report, {"db": "killed", "hung": "abandoned", "web": "killed"})

    assert job.elapsed_s < 20
    for name in ("db", "hung", "web"):
        assert any("within 0.5 s" in str(error) for _, error in job.report[name].errors), str(job.report)
    hold_gone(numbers_in(pids, 2))
    let_go.set()
    eventually(lambda: not any("service hung" in thread.name for thread in threading.enumerate()))


def test_what_job_code_leaves_running_is_asked_and_named(env: LocalEnvironment, diary: Diary) -> None:
    """The code of the job has its own deadline, and services are cleaned regardless."""
    go_on = threading.Event()
    env.register_service("a", Recorder, diary, "a")

    def deaf() -> None:
        current_job()
        go_on.wait()

    env.run(deaf)
    job = env.submit(autostop=True, wait=False, cancel_timeout_s=0.2)
    eventually(lambda: job.state == "running")
    job.cancel()
    eventually(lambda: job.is_over)

    assert diary.of("a") == ONE_LIFE
    assert job.report is not None
    (leak,) = job.report.leaks
    assert re.search("the job's code did not stop and is abandoned", str(leak))
    assert "in deaf" in leak.stack
    go_on.set()
