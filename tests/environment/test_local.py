from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest

import autostop_lab
from autostop_lab import (
    ArgumentError,
    CleanupWarning,
    ConfigurationError,
    DependencyError,
    DuplicateServiceError,
    EnvironmentClosedError,
    JobCancelledError,
    JobRunningError,
    JobState,
    JobTimeoutError,
    LocalEnvironment,
    PipelineError,
    Service,
    ServiceCrashedError,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    ServiceStopError,
    ServiceUnavailableError,
    current_job,
)
from tests.services_for_tests import ONE_LIFE, Diary, Recorder


@pytest.fixture
def diary() -> Diary:
    return Diary()


# -- a job and its services --------------------------------------------------------------------------------


def test_submit_with_autostop_returns_when_everything_is_clean(env: LocalEnvironment, diary: Diary) -> None:
    handle = env.register_service("a", Recorder, diary, "a")
    results: list[int] = []
    env.from_batch([1, 2, 3]).map(handle.echo).sink(results.append)

    job = env.submit(autostop=True)

    assert results == [1, 2, 3]
    assert diary.of("a") == ["construct", "start", "echo", "echo", "echo", "stop", "cleanup"]
    assert job.state is JobState.SUCCEEDED
    assert handle.state is ServiceState.STOPPED
    assert job.report is not None
    assert job.report["a"].outcome == "stopped"
    assert job.report.is_clean


def test_submit_without_autostop_returns_at_once_and_services_live_on(
    env: LocalEnvironment, diary: Diary, capsys: pytest.CaptureFixture[str]
) -> None:
    go = threading.Event()
    handle = env.register_service("a", Recorder, diary, "a")
    env.run(go.wait)

    job = env.submit()

    assert not job.is_over
    assert "(a) live until env.stop()" in capsys.readouterr().out
    go.set()
    assert job.wait(10)
    assert job.state is JobState.SUCCEEDED
    assert handle.state is ServiceState.RUNNING
    assert handle.echo(7) == 7
    assert job.report is not None
    assert job.report["a"].outcome == "kept"


@pytest.mark.parametrize("way", ["stop", "close", "with", "start and close"])
def test_each_way_to_end_an_environment_stops_and_cleans_exactly_once(diary: Diary, way: str) -> None:
    env = LocalEnvironment("ends")
    env.register_service("a", Recorder, diary, "a")
    if way == "start and close":
        env.start()
        env.start()
        env.close()
    else:
        env.run(lambda: None)
        if way == "with":
            with env:
                env.submit(wait=True)
        else:
            env.submit(wait=True)
            getattr(env, way)()
            getattr(env, way)()
    env.close()

    assert diary.of("a") == ONE_LIFE


def test_a_second_submit_makes_new_service_objects_and_a_new_job(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    env.run(lambda: "first")
    first = env.submit(autostop=True)
    env.run(lambda: "second")
    second = env.submit(autostop=True)

    assert (first.result(), second.result()) == ("first", "second")
    assert first.id != second.id
    assert diary.of("a") == ONE_LIFE * 2


def test_submit_with_nothing_new_runs_the_same_again(env: LocalEnvironment) -> None:
    results: list[int] = []
    env.from_batch([1, 2]).sink(results.append)
    env.submit(autostop=True)
    env.submit(autostop=True)

    assert results == [1, 2, 1, 2]


def test_submit_while_a_job_runs_is_refused(env: LocalEnvironment) -> None:
    go = threading.Event()
    env.run(go.wait)
    job = env.submit(wait=False, autostop=True)
    env.run(lambda: None)
    with pytest.raises(JobRunningError, match=job.id) as caught:
        env.submit()
    go.set()
    job.wait()

    assert caught.value.job_id == job.id


def test_the_job_fails_with_the_users_own_exception_and_notes(env: LocalEnvironment, diary: Diary) -> None:
    error = ValueError("fifty")

    def fail_at_fifty(record: int) -> int:
        if record == 50:
            raise error
        return record

    env.register_service("a", Recorder, diary, "a")
    env.from_batch(range(100)).map(fail_at_fifty).sink(lambda record: None)

    with pytest.raises(ValueError, match="fifty") as caught:
        env.submit(autostop=True)

    assert caught.value is error
    notes = "\n".join(error.__notes__)
    assert "operator 'map'" in notes
    assert "record 50" in notes
    assert "1 service: 1 stopped" in notes
    assert diary.of("a") == ONE_LIFE
    assert env.last_job is not None
    assert env.last_job.state is JobState.FAILED


def test_a_source_that_raises_fails_the_job_with_its_own_exception(env: LocalEnvironment, diary: Diary) -> None:
    def source() -> Any:
        yield from range(3)
        raise OSError("the source is dry")

    taken: list[int] = []
    env.register_service("a", Recorder, diary, "a")
    env.from_batch(source).sink(taken.append)

    with pytest.raises(OSError, match="dry") as caught:
        env.submit(autostop=True)

    assert taken == [0, 1, 2]
    assert any("operator 'source'" in note and "record 3" in note for note in caught.value.__notes__)
    assert diary.of("a") == ONE_LIFE


def test_system_exit_in_a_scripts_job_is_the_scripts_exit_code() -> None:
    script = """
import sys
from autostop_lab import LocalEnvironment, Service
class S(Service):
    def cleanup(self): print("clean", flush=True)
env = LocalEnvironment("exits"); env.register_service("s", S)
env.run(lambda: sys.exit(7)); env.submit(autostop=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (7, "clean\n"), done.stderr


def test_a_failed_start_rolls_back_what_had_started(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("db", Recorder, diary, "db")
    env.register_service(
        "api", Recorder, diary, "api", start=OSError("no port"), policy=ServicePolicy(depends_on=["db"])
    )
    env.register_service("web", Recorder, diary, "web", policy=ServicePolicy(depends_on=["api"]))
    env.run(lambda: diary.append(("job", "ran")))

    with pytest.raises(ServiceStartError, match=r"'api'.*no port") as caught:
        env.submit(autostop=True)

    assert (caught.value.service, caught.value.phase) == ("api", "start")
    assert isinstance(caught.value.__cause__, OSError)
    assert diary == [
        ("db", "construct"),
        ("db", "start"),
        ("api", "construct"),
        ("api", "start"),
        ("api", "cleanup"),
        ("db", "stop"),
        ("db", "cleanup"),
    ]
    report = env.last_job.report if env.last_job else None
    assert report is not None
    assert [(entry.name, str(entry.outcome)) for entry in report.services] == [
        ("db", "stopped"),
        ("api", "failed"),
        ("web", "stopped"),
    ]
    assert env.services["api"].state is ServiceState.CRASHED


def test_a_failed_start_rolls_back_without_autostop_too(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    env.register_service("b", Recorder, diary, "b", start=OSError("no"), policy=ServicePolicy(depends_on=["a"]))
    env.run(lambda: None)
    job = env.submit()
    job.wait()

    assert isinstance(job.exception, ServiceStartError)
    assert diary.of("a") == ONE_LIFE


def test_several_failed_starts_come_as_a_group_and_the_others_are_stopped(env: LocalEnvironment, diary: Diary) -> None:
    for number in range(10):
        acts = {"start": OSError(f"no {number}")} if number < 3 else {}
        env.register_service(f"s{number}", Recorder, diary, f"s{number}", **acts)
    with pytest.raises(ExceptionGroup) as caught:
        env.start()

    assert sorted(error.service for error in caught.value.exceptions) == ["s0", "s1", "s2"]  # type: ignore[attr-defined]
    assert sorted(diary.names("stop")) == [f"s{number}" for number in range(3, 10)]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_base_exception_in_start_is_a_failed_start(env: LocalEnvironment, diary: Diary, error: BaseException) -> None:
    env.register_service("a", Recorder, diary, "a", start=error)

    with pytest.raises(ServiceStartError, match=type(error).__name__):
        env.start()


def test_autostop_on_success_keeps_the_services_of_a_failed_job(env: LocalEnvironment, diary: Diary) -> None:
    handle = env.register_service("a", Recorder, diary, "a")
    env.run(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        env.submit(autostop="on-success")
    assert handle.echo("look") == "look"
    env.run(lambda: 1)
    env.submit(autostop="on-success")
    assert handle.state is ServiceState.RUNNING  # it was there before this job
    env.stop()

    assert diary.of("a") == ["construct", "start", "echo", "stop", "cleanup"]


def test_autostop_on_success_ends_the_services_of_a_job_that_succeeded(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    env.run(lambda: 1)
    env.submit(autostop="on-success")

    assert diary.of("a") == ONE_LIFE


def test_services_started_before_are_kept_by_autostop_jobs(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("early", Recorder, diary, "early")
    env.start()
    env.register_service("late", Recorder, diary, "late")
    env.run(lambda: None)
    job = env.submit(autostop=True)

    assert job.report is not None
    assert (str(job.report["early"].outcome), str(job.report["late"].outcome)) == ("kept", "stopped")
    assert diary.of("early") == ["construct", "start"]
    report = env.close()
    assert diary.of("early") == ONE_LIFE
    assert str(report["early"].outcome) == "stopped"


# -- order and time ----------------------------------------------------------------------------------------


def test_a_chain_starts_in_order_and_stops_in_reverse(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("c", Recorder, diary, "c", policy=ServicePolicy(depends_on=["b"]))
    env.register_service("b", Recorder, diary, "b", policy=ServicePolicy(depends_on=["a"]))
    env.register_service("a", Recorder, diary, "a")
    env.run(lambda: None)
    env.submit(autostop=True)

    assert diary.names("start") == ["a", "b", "c"]
    assert diary.names("stop") == ["c", "b", "a"]
    assert diary.index(("b", "stop")) > diary.index(("c", "cleanup"))


def test_a_handle_as_argument_makes_the_service_depend_on_it(env: LocalEnvironment) -> None:
    class Store(Service):
        def get(self) -> int:
            return 5

    class Client(Service):
        def __init__(self, store: Any) -> None:
            self.store = store

        def start(self) -> None:
            self.value = self.store.get()

        def read(self) -> int:
            return self.value

    client = env.register_service("client", Client, env.register_service("store", Store))
    env.run(client.read)

    assert env.submit(autostop=True).result() == 5


def test_a_service_asks_for_one_that_it_declared_and_for_no_other(env: LocalEnvironment) -> None:
    class Asker(Service):
        def ask(self, name: str) -> Any:
            return self.call_service(name, 1, method="echo")

    diary = Diary()
    env.register_service("known", Recorder, diary, "known")
    env.register_service("other", Recorder, diary, "other")
    asker = env.register_service("asker", Asker, policy=ServicePolicy(depends_on=["known"]))
    env.start()

    assert asker.ask("known") == 1
    with pytest.raises(autostop_lab.UnknownServiceError, match="did not declare"):
        asker.ask("other")


def test_a_hundred_services_stop_in_parallel(env: LocalEnvironment, diary: Diary) -> None:
    for number in range(100):
        env.register_service(f"s{number}", Recorder, diary, f"s{number}", stop=0.2)
    env.run(lambda: None)
    env.submit(autostop=True)
    began = time.monotonic()
    env.submit(autostop=True)

    assert time.monotonic() - began < 15  # one after another they would take 20 s
    assert len(diary.names("cleanup")) == 200


def test_a_stop_that_raises_hinders_nobody_and_is_reported(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("good", Recorder, diary, "good")
    env.register_service("bad", Recorder, diary, "bad", stop=OSError("will not"))
    env.run(lambda: "value")

    with pytest.warns(CleanupWarning, match="will not"):
        job = env.submit(autostop=True)

    assert job.result() == "value"
    assert diary.of("good") == diary.of("bad") == ONE_LIFE
    assert job.report is not None
    assert str(job.report["bad"].outcome) == "failed"
    assert isinstance(job.report["bad"].error, OSError)
    with pytest.raises(ExceptionGroup) as caught:
        job.report.check()
    assert isinstance(caught.value.exceptions[0], ServiceStopError)
    assert "will not" in str(job.report)


def test_a_stop_that_fails_never_masks_the_jobs_own_error(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("bad", Recorder, diary, "bad", stop=OSError("will not"))
    env.run(lambda: 1 / 0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError) as caught:
            env.submit(autostop=True)

    assert any("will not" in note for note in caught.value.__notes__)


@pytest.mark.leaves_thread("service stuck")
def test_a_stop_that_hangs_is_abandoned_named_and_cleaned(diary: Diary) -> None:
    never = threading.Event()
    with LocalEnvironment("hangs") as env:
        env.register_service(
            "stuck", Recorder, diary, "stuck", stop=never, policy=ServicePolicy(stop_timeout_s=0.3, kill_timeout_s=0.1)
        )
        env.register_service("good", Recorder, diary, "good")
        env.run(lambda: None)
        began = time.monotonic()
        with pytest.warns(CleanupWarning, match="stuck"):
            job = env.submit(autostop=True)
        elapsed_s = time.monotonic() - began

        assert elapsed_s < 20
        assert job.report is not None
        entry = job.report["stuck"]
        assert str(entry.outcome) == "abandoned"
        assert "act.wait()" in entry.survivor
        assert "act.wait()" in str(job.report)
        assert diary.of("stuck") == diary.of("good") == ONE_LIFE
        assert env.services["stuck"].state is ServiceState.ABANDONED
        with pytest.raises(ServiceStartError, match="abandoned"):
            env.start()
    never.set()


def test_the_interpreter_exits_at_once_although_a_stop_hangs() -> None:
    script = """
import threading, time
from autostop_lab import LocalEnvironment, Service, ServicePolicy
class S(Service):
    def stop(self): time.sleep(1e6)
env = LocalEnvironment("hangs", policy=ServicePolicy(stop_timeout_s=0.2, kill_timeout_s=0.1))
env.register_service("s", S); env.run(lambda: None)
env.submit(autostop=True)
print(time.time(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )

    assert time.time() - float(done.stdout) < 5


def test_services_of_a_script_that_just_ends_are_stopped_at_exit() -> None:
    script = """
from autostop_lab import LocalEnvironment, Service
class S(Service):
    def __init__(self, name): self.name = name
    def stop(self): print("stop", self.name, flush=True)
    def cleanup(self): print("cleanup", self.name, flush=True)
env = LocalEnvironment("forgotten"); a = env.register_service("a", S, "a")
class T(S):
    def __init__(self, a): self.name = "b"
env.register_service("b", T, a); env.start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split("\n") == ["stop b", "cleanup b", "stop a", "cleanup a", ""], done.stderr


@pytest.mark.leaves_thread("job test")
def test_job_code_that_does_not_end_is_abandoned_after_a_time_out_and_named(
    env: LocalEnvironment, diary: Diary
) -> None:
    never = threading.Event()
    env.register_service("a", Recorder, diary, "a")
    env.run(never.wait)
    began = time.monotonic()
    with pytest.raises(JobTimeoutError, match="'test'"):
        env.submit(autostop=True, timeout_s=0.3, cancel_timeout_s=0.3)
    elapsed_s = time.monotonic() - began

    assert elapsed_s < 20
    assert diary.of("a") == ONE_LIFE
    assert env.last_job is not None
    assert env.last_job.report is not None
    (leak,) = env.last_job.report.leaks
    assert leak.kind == "thread"
    assert "wait" in leak.stack
    assert "abandoned" in str(env.last_job.report)
    never.set()


@pytest.mark.leaves_thread("service ")
def test_shutdown_timeout_caps_the_whole_cleanup(env: LocalEnvironment, diary: Diary) -> None:
    never = threading.Event()
    for name, needs in (("a", []), ("b", ["a"]), ("c", ["b"])):
        env.register_service(name, Recorder, diary, name, stop=never, policy=ServicePolicy(depends_on=needs))
    env.run(lambda: None)
    with pytest.warns(CleanupWarning):
        job = env.submit(autostop=True, shutdown_timeout_s=0.2)

    assert job.elapsed_s < 10
    assert sorted(diary.names("stop")) == ["a", "b", "c"]
    assert sorted(diary.names("cleanup")) == ["a", "b", "c"]
    never.set()


# -- orders ------------------------------------------------------------------------------------------------


def test_stop_drains_and_the_job_succeeds(env: LocalEnvironment) -> None:
    taken: list[int] = []
    first = threading.Event()

    def source() -> Any:
        number = 0
        while True:
            yield number
            number += 1

    def take(record: int) -> None:
        taken.append(record)
        first.set()
        time.sleep(0.001)

    env.from_batch(source).sink(take)
    job = env.submit(autostop=True, wait=False)
    assert first.wait(10)
    job.stop()
    job.result()

    assert job.state is JobState.SUCCEEDED
    assert job.reason == "stopped"
    assert taken == list(range(len(taken)))


def test_cancel_ends_the_job_as_cancelled(env: LocalEnvironment, diary: Diary) -> None:
    running = threading.Event()

    def work() -> None:
        running.set()
        current_job().stopping.wait()

    env.register_service("a", Recorder, diary, "a")
    env.run(work)
    job = env.submit(autostop=True, wait=False)
    running.wait()
    job.cancel()

    with pytest.raises(JobCancelledError, match="cancelled"):
        job.result()
    assert job.state is JobState.CANCELLED
    assert diary.of("a") == ONE_LIFE


def test_cancel_right_after_submit_is_not_lost(env: LocalEnvironment) -> None:
    for _ in range(50):
        env.run(lambda: current_job().stopping.wait())
        job = env.submit(autostop=True, wait=False)
        job.cancel()
        assert job.wait(20)
        assert job.state is JobState.CANCELLED


def test_cancel_while_services_start_stops_them(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("first", Recorder, diary, "first")
    env.register_service("slow", Recorder, diary, "slow", start=0.5, policy=ServicePolicy(depends_on=["first"]))
    env.register_service("never", Recorder, diary, "never", policy=ServicePolicy(depends_on=["slow"]))
    env.run(lambda: diary.append(("job", "ran")))
    job = env.submit(autostop=True, wait=False)
    while ("slow", "start") not in diary:
        time.sleep(0.001)
    job.cancel()
    job.wait()

    assert job.state is JobState.CANCELLED
    assert diary.of("slow") == diary.of("first") == ONE_LIFE
    assert diary.of("never") == diary.of("job") == []


def test_orders_to_a_job_that_is_over_change_nothing(env: LocalEnvironment) -> None:
    env.run(lambda: 1)
    job = env.submit(autostop=True)
    job.stop()
    job.cancel()
    env.submit(autostop=True)

    assert job.state is JobState.SUCCEEDED
    assert job.result() == 1


def test_env_stop_cancels_a_running_job_and_can_be_used_again(env: LocalEnvironment, diary: Diary) -> None:
    began = threading.Event()
    env.register_service("a", Recorder, diary, "a")
    env.run(lambda: (began.set(), current_job().stopping.wait()))
    job = env.submit()
    assert began.wait(10)
    report = env.stop()

    assert job.state is JobState.CANCELLED
    assert str(report["a"].outcome) == "stopped"
    assert diary.of("a").count("stop") == diary.of("a").count("cleanup") == 1
    env.run(lambda: 2)
    assert env.submit(autostop=True).result() == 2


def test_a_closed_environment_is_refused_and_close_returns_the_same_report() -> None:
    env = LocalEnvironment("closed")
    report = env.close()

    assert env.close() is report
    for use in (env.start, env.submit, lambda: env.from_batch([1]), lambda: env.register_service("a", Service)):
        with pytest.raises(EnvironmentClosedError, match="'closed'"):
            use()


def test_a_job_can_be_awaited(env: LocalEnvironment) -> None:
    async def main() -> Any:
        env.run(lambda: 42)
        return await env.submit(wait=False, autostop=True)

    assert asyncio.run(main()) == 42


def test_awaiting_a_failed_job_raises_its_error(env: LocalEnvironment) -> None:
    async def main() -> Any:
        env.run(lambda: 1 / 0)
        return await env.submit(wait=False, autostop=True)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


def test_cancelling_the_awaiting_task_cancels_the_job_and_cleans_first(env: LocalEnvironment, diary: Diary) -> None:
    async def main() -> None:
        env.register_service("a", Recorder, diary, "a")
        env.run(lambda: current_job().stopping.wait())
        job = env.submit(wait=False, autostop=True)
        task = asyncio.ensure_future(asyncio.wait_for(job, 0.2))
        with pytest.raises(TimeoutError):
            await task
        assert job.is_over

    asyncio.run(main())
    assert diary.of("a").count("cleanup") == 1


def test_submit_blocks_inside_a_running_event_loop_without_harm(env: LocalEnvironment) -> None:
    async def main() -> Any:
        env.run(lambda: 1)
        return env.submit(autostop=True).result()

    assert asyncio.run(main()) == 1


# -- services that die -------------------------------------------------------------------------------------


class Mortal(Service):
    """Runs until it is told to die."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.die = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.001):
            if self.die.is_set():
                if self.error is not None:
                    raise self.error
                return

    def end(self) -> None:
        self.die.set()


def test_a_critical_service_that_dies_fails_the_job(env: LocalEnvironment, diary: Diary) -> None:
    mortal = env.register_service("mortal", Mortal, OSError("lost"))
    env.register_service("other", Recorder, diary, "other")

    def work() -> None:
        mortal.end()
        current_job().stopping.wait()

    env.run(work)
    with pytest.raises(ServiceCrashedError, match=r"'mortal'.*OSError: lost") as caught:
        env.submit(autostop=True)

    assert isinstance(caught.value.__cause__, OSError)
    assert diary.of("other") == ONE_LIFE
    assert env.last_job is not None
    assert env.last_job.report is not None
    entry = env.last_job.report["mortal"]
    assert (str(entry.outcome), entry.state) == ("exited", "crashed")


def test_a_service_that_is_not_critical_may_die(env: LocalEnvironment) -> None:
    mortal = env.register_service("mortal", Mortal, OSError("lost"), policy=ServicePolicy(critical=False))

    def work() -> str:
        mortal.end()
        while mortal.state is ServiceState.RUNNING:
            time.sleep(0.001)
        return "done"

    env.run(work)
    assert env.submit(autostop=True).result() == "done"


def test_a_service_whose_run_returns_is_done_and_not_a_failure(env: LocalEnvironment) -> None:
    mortal = env.register_service("mortal", Mortal)

    def work() -> str:
        mortal.end()
        while mortal.state is ServiceState.RUNNING:
            time.sleep(0.001)
        with pytest.raises(ServiceUnavailableError, match="stopped"):
            mortal.end()
        return "done"

    env.run(work)
    job = env.submit(autostop=True)

    assert job.report is not None
    assert (str(job.report["mortal"].outcome), job.report["mortal"].state) == ("exited", "stopped")


# -- handles by hand ---------------------------------------------------------------------------------------


def test_a_service_is_stopped_and_started_by_hand_with_its_dependants(env: LocalEnvironment, diary: Diary) -> None:
    base = env.register_service("base", Recorder, diary, "base")
    top = env.register_service("top", Recorder, diary, "top", policy=ServicePolicy(depends_on=["base"]))
    env.start()
    base.stop()
    assert (base.state, top.state) == (ServiceState.STOPPED, ServiceState.STOPPED)
    base.stop()
    top.start()
    assert (base.state, top.state) == (ServiceState.RUNNING, ServiceState.RUNNING)
    base.restart()
    assert (base.state, top.state) == (ServiceState.RUNNING, ServiceState.RUNNING)

    assert diary.names("stop") == ["top", "base", "top", "base"]
    assert diary.names("start") == ["base", "top", "base", "top", "base", "top"]


def test_stopping_by_hand_raises_what_stop_raised(env: LocalEnvironment, diary: Diary) -> None:
    handle = env.register_service("a", Recorder, diary, "a", stop=OSError("will not"))
    env.start()

    with pytest.raises(ServiceStopError, match="will not"):
        handle.stop()


def test_ten_threads_that_stop_at_once_stop_once(env: LocalEnvironment, diary: Diary) -> None:
    handle = env.register_service("a", Recorder, diary, "a", stop=0.05)
    env.start()
    threads = [threading.Thread(target=handle.stop) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert diary.of("a") == ONE_LIFE


def test_a_service_that_stops_its_own_environment_does_not_block(env: LocalEnvironment, diary: Diary) -> None:
    class Selfish(Service):
        def stop(self) -> None:
            diary.append(("selfish", "stop"))

        def end_all(self) -> None:
            env.last_job.cancel()  # type: ignore[union-attr]

    handle = env.register_service("selfish", Selfish)

    def work() -> None:
        handle.end_all()
        current_job().stopping.wait()

    env.run(work)
    with pytest.raises(JobCancelledError):
        env.submit(autostop=True)
    assert diary == [("selfish", "stop")]


@pytest.mark.parametrize("order", ["env.stop()", "handle.stop()"])
def test_a_stop_that_orders_a_stop_does_not_wait_for_itself(env: LocalEnvironment, diary: Diary, order: str) -> None:
    class Eager(Service):
        def stop(self) -> None:
            env.stop() if order == "env.stop()" else handle.stop()
            diary.append(("eager", "stop"))

    handle = env.register_service("eager", Eager)
    env.run(lambda: None)
    job = env.submit(autostop=True)
    env.start()
    handle.stop()

    assert diary == [("eager", "stop")] * 2
    assert job.elapsed_s < 9  # the grace period is 10 s
    assert handle.state is ServiceState.STOPPED


@pytest.mark.parametrize("order", ["stop", "close"])
def test_job_code_that_stops_its_own_environment_does_not_wait_for_itself(diary: Diary, order: str) -> None:
    env = LocalEnvironment("own end")
    handle = env.register_service("a", Recorder, diary, "a")
    env.run(lambda: getattr(env, order)())
    job = env.submit(cancel_timeout_s=60)
    with pytest.raises(JobCancelledError):
        job.result()
    while handle.state is not ServiceState.STOPPED:
        time.sleep(0.001)

    assert job.elapsed_s < 30
    assert diary.of("a") == ONE_LIFE
    env.close()


# -- what is refused ---------------------------------------------------------------------------------------


def test_a_name_twice_is_refused_before_the_submit_and_replaces_after_the_job(
    env: LocalEnvironment, diary: Diary
) -> None:
    env.register_service("a", Recorder, diary, "old")
    with pytest.raises(DuplicateServiceError, match="'a'"):
        env.register_service("a", Recorder, diary, "other")
    env.run(lambda: None)
    env.submit(autostop=True)
    env.register_service("a", Recorder, diary, "new")
    env.submit(autostop=True)

    assert diary.of("old") == diary.of("new") == ONE_LIFE


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ({"a": ["nobody"]}, "'a' depends on 'nobody', which is not registered"),
        ({"a": ["a"]}, "'a' depends on itself"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "in a circle: "),
    ],
)
def test_dependencies_that_cannot_be_are_refused_before_anything_starts(
    env: LocalEnvironment, diary: Diary, needs: dict[str, list[str]], text: str
) -> None:
    for name, depends_on in needs.items():
        env.register_service(name, Recorder, diary, name, policy=ServicePolicy(depends_on=depends_on))
    env.run(lambda: None)
    with pytest.raises(DependencyError, match=text):
        env.submit(autostop=True)
    with pytest.raises(DependencyError, match=text):
        env.start()

    assert diary == []


def test_an_environment_with_nothing_to_run_is_refused(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    with pytest.raises(PipelineError, match="nothing to run"):
        env.submit()

    assert diary == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"autostop": "yes"}, "autostop='yes'"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"timeout_s": "1"}, "timeout_s='1'"),
        ({"cancel_timeout_s": -1}, "cancel_timeout_s=-1"),
        ({"shutdown_timeout_s": float("nan")}, "shutdown_timeout_s=nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(env: LocalEnvironment, options: Any, text: str) -> None:
    env.run(lambda: None)
    with pytest.raises(ConfigurationError, match=text):
        env.submit(**options)


def test_an_unknown_keyword_names_the_nearest_of_ours() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'policy'"):
        LocalEnvironment("x", polcy=None)


@pytest.mark.parametrize("name", ["", "  ", None, 3, "a\nb", "x" * 201])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError):
        LocalEnvironment(name)


# -- many --------------------------------------------------------------------------------------------------


def test_twenty_jobs_at_once_have_each_their_own_services_and_results() -> None:
    diary = Diary()
    environments = [LocalEnvironment(f"job {number}") for number in range(20)]
    for number, env in enumerate(environments):
        handle = env.register_service("a", Recorder, diary, str(number))
        env.from_batch(range(100)).map(handle.echo).collect()
    jobs = [env.submit(autostop=True, wait=False) for env in environments]

    assert [job.result() for job in jobs] == [list(range(100))] * 20
    assert all(diary.of(str(number)).count("cleanup") == 1 for number in range(20))
    assert all(env.close().title for env in environments)


def test_a_forgotten_environment_is_held_until_it_is_closed(diary: Diary) -> None:
    LocalEnvironment("forgotten").register_service("a", Recorder, diary, "a").start()
    gc.collect()

    assert diary.of("a") == ["construct", "start"]
    (env,) = [kept for kept in autostop_lab.environment.registry.registry.environments() if kept.name == "forgotten"]  # type: ignore[attr-defined]
    env.close()
    assert diary.of("a") == ONE_LIFE


def test_jobs_and_last_job_name_what_was_submitted(env: LocalEnvironment) -> None:
    env.run(lambda: None)
    job = env.submit(autostop=True)

    assert autostop_lab.last_job() is job
    assert autostop_lab.jobs()[-1] is job
