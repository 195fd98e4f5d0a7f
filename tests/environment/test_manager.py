from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autostop_lab import (
    ArgumentError,
    DependencyError,
    DuplicateServiceError,
    EnvironmentClosedError,
    Restart,
    Service,
    ServiceManager,
    ServicePolicy,
    ServiceStartError,
    ServiceStopError,
    UnknownServiceError,
)
from autostop_lab.lifecycle import ServiceState as S
from tests.services_for_tests import ONE_LIFE, Diary, Recorder


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as services:
        yield services


def needs(*names: str, **fields: Any) -> ServicePolicy:
    return ServicePolicy(depends_on=names, **fields)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def chain(manager: ServiceManager, diary: Diary, **acts: Any) -> None:
    """Add db <- api <- web."""
    for name, needed in (("db", ()), ("api", ("db",)), ("web", ("api",))):
        manager.add(name, Recorder, diary, name, policy=needs(*needed, stop_timeout_s=0.2), **acts.get(name, {}))


# -- add ---------------------------------------------------------------------------------------------------


def test_add_returns_the_handle_and_starts_nothing(manager: ServiceManager, diary: Diary) -> None:
    handle = manager.add("a", Recorder, diary, "a")

    assert (handle.name, handle.state, diary) == ("a", S.STOPPED, [])
    assert list(manager.services) == ["a"]


def test_a_name_twice_is_refused_also_when_the_first_is_at_rest(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    with pytest.raises(DuplicateServiceError, match=r"'a' is there already. Choose another name, or remove\(\) it"):
        manager.add("a", Recorder, diary, "a")


def test_arguments_that_do_not_fit_are_refused_at_once(manager: ServiceManager) -> None:
    with pytest.raises(ArgumentError, match="Recorder"):
        manager.add("a", Recorder)


def test_services_inherit_the_policy_of_the_manager(diary: Diary) -> None:
    with ServiceManager(policy=ServicePolicy(stop_timeout_s=0.1)) as manager:
        manager.add("a", Recorder, diary, "a", stop=0.6)
        manager.start_all()
        report = manager.stop_all()

    assert "stop() did not return within 0.1 s" in str(report["a"].error)


def test_a_service_is_added_while_others_run(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    manager.start_all()
    manager.add("b", Recorder, diary, "b", policy=needs("a"))
    manager.start_all()

    assert diary.names("start") == ["a", "b"]


# -- start and stop ----------------------------------------------------------------------------------------


def test_all_start_by_their_dependencies_and_stop_in_reverse(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.start_all()
    report = manager.stop_all()

    assert diary.names("start") == ["db", "api", "web"]
    assert diary.names("stop") == ["web", "api", "db"]
    assert [str(entry.outcome) for entry in report.services] == ["stopped"] * 3
    report.check()


def test_start_brings_up_what_it_needs(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.start("api")

    assert [handle.state for handle in manager.services.values()] == [S.RUNNING, S.RUNNING, S.STOPPED]


def test_stop_takes_down_what_needs_it(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.start_all()
    manager.stop("api")

    assert diary.names("stop") == ["web", "api"]


def test_restart_makes_new_objects_of_it_and_of_what_needs_it(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.start_all()
    manager.restart("api")

    assert diary.of("db") == ONE_LIFE[:2]
    assert diary.of("api") == diary.of("web") == ONE_LIFE + ONE_LIFE[:2]


def test_after_stop_all_all_can_be_started_again(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    for _ in range(3):
        manager.start_all()
        manager.stop_all()

    assert diary.of("a") == ONE_LIFE * 3


def test_leaving_the_with_stops_all(diary: Diary) -> None:
    with ServiceManager() as manager:
        manager.add("a", Recorder, diary, "a")
        manager.start_all()

    assert diary.of("a") == ONE_LIFE


def test_leaving_the_with_lets_an_exception_through(diary: Diary) -> None:
    def work() -> None:
        with ServiceManager() as manager:
            manager.add("a", Recorder, diary, "a", stop=OSError("no"))
            manager.start_all()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()

    assert diary.of("a") == ONE_LIFE


def test_after_the_with_it_is_closed(diary: Diary) -> None:
    with ServiceManager() as manager:
        manager.add("a", Recorder, diary, "a")

    with pytest.raises(EnvironmentClosedError):
        manager.start("a")
    with pytest.raises(EnvironmentClosedError):
        manager.start_all()


def test_ten_threads_that_stop_and_start_at_once_come_to_an_agreement(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a", start=0.01)
    barrier = threading.Barrier(10)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        barrier.wait()
        try:
            manager.start("a") if number % 2 else manager.stop("a")
        except ServiceStartError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.stop("a")

    assert manager.services["a"].state is S.STOPPED
    assert diary.of("a").count("construct") == diary.of("a").count("cleanup")
    assert all("it was stopped before" in str(error) for error in errors)


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["start", "stop", "restart", "health", "remove"])
def test_an_unknown_name_is_answered_with_the_nearest(manager: ServiceManager, diary: Diary, order: str) -> None:
    manager.add("store", Recorder, diary, "store")
    with pytest.raises(UnknownServiceError, match=r"there is no service 'stroe'\. Did you mean 'store'") as caught:
        getattr(manager, order)("stroe")

    assert caught.value.service == "stroe"


def test_it_shows_names_and_states(manager: ServiceManager, diary: Diary) -> None:
    assert repr(manager) == "<ServiceManager: no services>"
    manager.add("a", Recorder, diary, "a")
    manager.start_all()
    assert repr(manager) == "<ServiceManager: a running>"


# -- what fails --------------------------------------------------------------------------------------------


def test_a_failed_stop_is_raised_with_its_cause_once(manager: ServiceManager, diary: Diary) -> None:
    cause = OSError("disk full")
    manager.add("a", Recorder, diary, "a", stop=cause)
    manager.start_all()
    with pytest.raises(ServiceStopError, match="'a' was stopped by hand, and that failed: disk full") as caught:
        manager.stop("a")

    assert caught.value.__cause__ is cause
    manager.stop("a")
    assert diary.of("a") == ONE_LIFE


def test_a_stop_of_one_whose_start_had_failed_raises_nothing(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a", start=OSError("no"))
    with pytest.raises(ServiceStartError):
        manager.start("a")

    manager.stop("a")


def test_stop_all_finishes_all_and_logs_each_failure_with_its_cause(
    manager: ServiceManager, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    cause = OSError("disk full")
    chain(manager, diary, web={"stop": cause})
    manager.start_all()
    report = manager.stop_all()

    assert diary.names("stop") == ["web", "api", "db"]
    assert [str(entry.outcome) for entry in report.services] == ["stopped", "stopped", "failed"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "Service 'web' failed to stop"
    assert record.exc_info is not None
    assert record.exc_info[1] is cause
    with pytest.raises(ExceptionGroup):
        report.check()


def test_a_second_stop_all_logs_nothing_again(
    manager: ServiceManager, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    manager.add("a", Recorder, diary, "a", stop=OSError("no"))
    manager.start_all()
    manager.stop_all()
    caplog.clear()
    manager.stop_all()

    assert caplog.records == []


@pytest.mark.leaves_thread("service stuck")
def test_a_stop_that_hangs_is_logged_with_where_it_hangs(
    manager: ServiceManager, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    policy = ServicePolicy(stop_timeout_s=0.1, kill_timeout_s=0.2)
    manager.add("stuck", Recorder, diary, "stuck", policy=policy, stop=threading.Event())
    manager.start_all()
    report = manager.stop_all()

    assert str(report["stuck"].outcome) == "abandoned"
    text = caplog.records[0].getMessage()
    assert text.startswith("Service 'stuck' failed to stop: thread 'autostop-lab: service stuck' is still at")
    assert "act.wait()" in text


def test_start_all_rolls_back_and_raises_all_causes_as_a_group(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.add("bad", Recorder, diary, "bad", policy=needs("db"), start=OSError("no port"))
    manager.add("worse", Recorder, diary, "worse", policy=needs("db"), start=ValueError("no disk"))
    with pytest.raises(ExceptionGroup) as caught:
        manager.start_all()

    causes = {str(error.__cause__) for error in caught.value.exceptions}
    assert causes == {"no port", "no disk"}
    assert {str(handle.state) for handle in manager.services.values()} <= {"stopped", "crashed"}
    assert diary.names("construct").count("web") == 0
    assert sorted(diary.names("cleanup")) == sorted(set(diary.names("start")))


def test_a_single_failure_of_start_all_is_a_group_too(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    manager.add("bad", Recorder, diary, "bad", start=OSError("no port"))
    with pytest.raises(ExceptionGroup, match="1 service did not start: 'bad'") as caught:
        manager.start_all()

    (error,) = caught.value.exceptions
    assert isinstance(error, ServiceStartError)
    assert diary.of("a") == ONE_LIFE


def test_dependencies_that_cannot_be_are_refused_before_anything_starts(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    manager.add("b", Recorder, diary, "b", policy=needs("nobody"))
    with pytest.raises(DependencyError, match="'nobody', which is not registered"):
        manager.start_all()

    assert diary == []


def test_an_impossible_dependency_added_later_hinders_no_stop(diary: Diary) -> None:
    with ServiceManager() as manager:
        manager.add("a", Recorder, diary, "a")
        manager.start_all()
        manager.add("b", Recorder, diary, "b", policy=needs("nobody"))
        assert manager.health("a").is_healthy
        manager.stop_all()

    assert diary.of("a") == ONE_LIFE


class Mortal(Service):
    """Dies soon after its start."""

    def run(self) -> None:
        raise OSError("it happens")


def test_leaving_the_with_does_not_raise_for_services_that_gave_up() -> None:
    with ServiceManager() as manager:
        handle = manager.add("a", Mortal, policy=ServicePolicy(restart=Restart(max_restarts=1, backoff_s=0.01)))
        manager.start_all()
        until(lambda: handle.state is S.CRASHED)

    assert handle.state is S.CRASHED


def test_one_that_gave_up_is_no_failed_stop(manager: ServiceManager, caplog: pytest.LogCaptureFixture) -> None:
    handle = manager.add("a", Mortal)
    manager.start_all()
    until(lambda: handle.state is S.CRASHED)
    report = manager.stop_all()

    assert str(report["a"].outcome) == "exited"
    assert caplog.records == []


# -- remove ------------------------------------------------------------------------------------------------


def test_remove_stops_first_and_frees_the_name(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    manager.start_all()
    manager.remove("a")

    assert diary.of("a") == ONE_LIFE
    assert manager.services == {}
    manager.add("a", Recorder, diary, "a")
    manager.start_all()
    assert manager.services["a"].state is S.RUNNING


def test_remove_of_one_that_was_never_started_just_forgets_it(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    manager.remove("a")

    assert (diary, manager.services) == ([], {})


def test_one_whose_stop_failed_stays_owned_and_can_be_removed_again(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a", stop=OSError("no"))
    manager.start_all()
    with pytest.raises(ServiceStopError):
        manager.remove("a")
    assert list(manager.services) == ["a"]
    manager.remove("a")

    assert manager.services == {}
    assert diary.of("a") == ONE_LIFE


@pytest.mark.leaves_thread("service stuck")
def test_one_that_cannot_be_ended_stays_owned(manager: ServiceManager, diary: Diary) -> None:
    policy = ServicePolicy(stop_timeout_s=0.1, kill_timeout_s=0.2)
    manager.add("stuck", Recorder, diary, "stuck", policy=policy, stop=threading.Event())
    manager.start_all()
    for _ in range(2):
        with pytest.raises(ServiceStopError, match="service stuck' is still at"):
            manager.remove("stuck")

    assert manager.services["stuck"].state is S.ABANDONED


def test_what_another_needs_is_not_removed(manager: ServiceManager, diary: Diary) -> None:
    chain(manager, diary)
    manager.start_all()
    with pytest.raises(DependencyError, match="'api' is needed by 'web'; remove those first"):
        manager.remove("api")

    assert diary.names("stop") == []


# -- health ------------------------------------------------------------------------------------------------


class Slow(Service):
    """Takes a while to say how it is."""

    def health_check(self) -> dict[str, int]:
        time.sleep(1)
        return {"queue": 3}


def test_health_all_looks_at_all_at_once(manager: ServiceManager) -> None:
    for number in range(20):
        manager.add(f"s{number}", Slow)
    manager.start_all()
    began = time.monotonic()
    found = manager.health_all()

    assert time.monotonic() - began < 15  # one after another they would take 20 s
    assert list(found) == list(manager.services)
    assert all(result.is_healthy and result.details == {"queue": 3} for result in found.values())


def test_health_of_what_does_not_run_says_where_it_is(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")
    result = manager.health("a")

    assert (result.state, result.is_healthy, result.error) == (S.STOPPED, False, "it is stopped")
    assert manager.health_all()["a"].state is S.STOPPED


# -- always and unless-stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "state"), [("always", S.RUNNING), ("unless-stopped", S.STOPPED)])
def test_start_all_after_a_manual_stop(manager: ServiceManager, diary: Diary, word: str, state: S) -> None:
    handle = manager.add("a", Recorder, diary, "a", policy=ServicePolicy(restart=word))
    manager.start_all()
    manager.stop("a")
    manager.start_all()
    assert handle.state is state
    manager.start("a")

    assert handle.state is S.RUNNING


def test_a_stop_within_an_event_loop_does_not_block_that_for_ever(manager: ServiceManager, diary: Diary) -> None:
    manager.add("a", Recorder, diary, "a")

    async def story() -> None:
        manager.start_all()
        await asyncio.sleep(0)
        manager.stop_all()

    asyncio.run(story())
    assert diary.of("a") == ONE_LIFE
