"""Calls of services, the same in whatever process they live; and what is special about those in another one."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from autostop_lab.exceptions import (
    ArgumentError,
    RemoteServiceError,
    ServiceCallTimeoutError,
    ServiceUnavailableError,
)
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import Service
from tests.services.hosted_services import Busy, OddError, Reentrant, Worker
from tests.services.lives import LONG_S, Life, eventually

MakeLife = Callable[..., Life]
RUNTIMES = ("thread", "process")


@pytest.fixture(params=RUNTIMES)
def anywhere(request: pytest.FixtureRequest, make: MakeLife) -> MakeLife:
    """Makes lives in this process, and in one of their own."""

    def make_it(target: Any, *args: Any, **kwargs: Any) -> Life:
        return make(target, *args, runtime=request.param, **kwargs)

    return make_it


@pytest.fixture
def hosted(make: MakeLife) -> MakeLife:
    def make_it(target: Any, *args: Any, **kwargs: Any) -> Life:
        return make(target, *args, runtime="process", **kwargs)

    return make_it


@pytest.fixture
def worker(hosted: MakeLife) -> ServiceHandle:
    return hosted(Worker, name="worker").start().handle


# -- everywhere --------------------------------------------------------------------------------------------


def test_values_arguments_and_exceptions_pass(anywhere: MakeLife) -> None:
    handle = anywhere(Worker).start().handle

    assert handle.echo(1, key=2) == ((1,), {"key": 2})
    assert handle.echo() is None
    assert handle.call("echo", "x", timeout=LONG_S) == "x"
    assert handle.echo.map(range(3)) == [0, 1, 2]
    assert handle.echo.map([]) == []
    assert handle.echo.submit(5).result(LONG_S) == 5
    assert asyncio.run(handle.echo.aio(6)) == 6
    assert handle.later(7) == 7
    assert handle.later.map([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        KeyError("mine"),
        TimeoutError("mine"),
        OSError(2, "mine", "file"),
        StopIteration(3),
        SystemExit(3),
        KeyboardInterrupt(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "mine"),
        ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_arrive_as_themselves(anywhere: MakeLife, error: BaseException) -> None:
    handle = anywhere(Worker).start().handle
    ways: list[Callable[[], object]] = [
        lambda: handle.fail(error),
        lambda: handle.call("fail", error, timeout=LONG_S),
        lambda: handle.fail.submit(error).result(LONG_S),
    ]
    for way in ways:
        with pytest.raises(type(error)) as caught:
            way()
        assert str(caught.value) == str(error)
        assert caught.value.args == error.args or isinstance(error, ExceptionGroup)

    assert handle.echo(1) == 1


def test_a_batch_ends_with_the_first_failure(anywhere: MakeLife) -> None:
    handle = anywhere(Worker).start().handle

    with pytest.raises(ValueError, match="second"):
        handle.fail.map([ValueError("second"), ValueError("third")])


@pytest.mark.parametrize("limit", [1, 3])
def test_as_many_calls_as_the_policy_says_are_inside(anywhere: MakeLife, limit: int) -> None:
    handle = anywhere(Busy, policy=ServicePolicy(max_concurrent_calls=limit)).start().handle
    futures = [handle.meet.submit(0.05) for _ in range(6)]

    assert max(future.result(LONG_S) for future in futures) == limit


def test_a_call_without_a_turn_in_time_says_what_to_do(anywhere: MakeLife, tmp_path: Path) -> None:
    handle = anywhere(Busy, policy=ServicePolicy(call_timeout_s=0.02)).start().handle
    waiting = handle.wait_for.submit(tmp_path / "door", tmp_path / "inside")
    eventually((tmp_path / "inside").exists)

    with pytest.raises(ServiceUnavailableError, match=r"had no turn within 0\.02 s.*Raise call_timeout_s"):
        handle.meet(0)
    (tmp_path / "door").touch()
    waiting.result(LONG_S)


def test_a_call_that_was_given_up_while_it_waited_is_not_begun_later(anywhere: MakeLife, tmp_path: Path) -> None:
    handle = anywhere(Busy).start().handle
    waiting = handle.wait_for.submit(tmp_path / "door", tmp_path / "inside")
    eventually((tmp_path / "inside").exists)
    with pytest.raises(ServiceCallTimeoutError):
        handle.call("touch", tmp_path / "given up", timeout=0.1)
    (tmp_path / "door").touch()
    waiting.result(LONG_S)
    handle.touch(tmp_path / "last")

    assert not (tmp_path / "given up").exists()


def test_a_call_that_takes_too_long_goes_on(anywhere: MakeLife, tmp_path: Path) -> None:
    handle = anywhere(Busy).start().handle
    with pytest.raises(ServiceCallTimeoutError, match=r"wait_for\(\) took longer than 0\.5 s"):
        handle.call("wait_for", tmp_path / "door", tmp_path / "inside", timeout=0.5)
    (tmp_path / "door").touch()

    assert handle.meet(0) == 1


@pytest.mark.parametrize("way", ["nested", "submitted", "to_async", "from_async", "from_async_by_aio", "in_thread"])
def test_a_call_within_a_call_does_not_wait_for_itself(anywhere: MakeLife, way: str) -> None:
    handle = anywhere(Reentrant, policy=ServicePolicy(call_timeout_s=0)).start().handle
    handle.set(handle)

    assert handle.call(way) == "end"


def test_during_stop_new_calls_are_refused_and_those_inside_may_finish(anywhere: MakeLife, tmp_path: Path) -> None:
    life = anywhere(Busy).start()
    inside = life.handle.wait_for.submit(tmp_path / "door", tmp_path / "inside")
    eventually((tmp_path / "inside").exists)
    stopping = threading.Thread(target=life.stop)
    stopping.start()
    eventually(lambda: life.slot.state is ServiceState.STOPPING)
    with pytest.raises(ServiceUnavailableError, match="it is stopping"):
        life.handle.touch(tmp_path / "late")
    (tmp_path / "door").touch()
    stopping.join(LONG_S)

    assert inside.result(LONG_S) == "done"
    assert not (tmp_path / "late").exists()


def test_the_methods_of_a_handle_are_those_of_the_class(anywhere: MakeLife) -> None:
    handle = anywhere(Worker).start().handle

    assert {"echo", "fail", "pid"} <= set(dir(handle))
    with pytest.raises(AttributeError, match="has no public method 'secret'"):
        handle.call("secret")


def test_what_a_factory_made_has_the_methods_it_has(anywhere: MakeLife) -> None:
    handle = anywhere(lambda: Worker()).start().handle

    assert handle.echo(1) == 1
    with pytest.raises(AttributeError, match="has no public method 'missing'"):
        handle.call("missing")


def test_health_is_what_the_check_says(anywhere: MakeLife) -> None:
    for answer, is_healthy in (({"rows": 3}, True), (False, False), (ValueError("broken"), False)):
        result = anywhere(Busy, health=answer, name=f"it {answer}").start().health()
        assert result.is_healthy is is_healthy
        assert answer is not False or "returned False" in str(result.error)
        assert not isinstance(answer, dict) or result.details["rows"] == 3
        assert not isinstance(answer, ValueError) or result.error == "ValueError: broken"


def test_idleness_counts_from_the_last_call(anywhere: MakeLife) -> None:
    life = anywhere(Worker, policy=ServicePolicy(idle_timeout_s=60)).start()
    time.sleep(0.1)
    assert life.run(life.runtime.idle_for_s()) >= 0.1
    life.handle.echo(1)

    assert life.run(life.runtime.idle_for_s()) < 0.1 + LONG_S / 10


# -- what travels ------------------------------------------------------------------------------------------


def test_the_remote_traceback_can_be_read(worker: ServiceHandle) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        worker.fail(ValueError("mine"))

    (note,) = caught.value.__notes__
    assert note.startswith("Traceback in service 'worker' (pid ")
    assert "in fail\n" in note
    assert "autostop_lab/services" not in note


def test_causes_come_along(worker: ServiceHandle) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        worker.fail_with_cause()

    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__suppress_context__


def test_an_exception_with_a_constructor_of_its_own_is_rebuilt(worker: ServiceHandle) -> None:
    with pytest.raises(OddError) as caught:
        worker.fail_oddly()

    assert str(caught.value) == "code 5"
    assert caught.value.code == 5


def test_an_exception_that_cannot_travel_is_told_in_full(worker: ServiceHandle) -> None:
    with pytest.raises(RemoteServiceError, match="it is so") as caught:
        worker.fail_unreadably()

    assert caught.value.error_type.endswith("UnreadableError")
    assert "in fail_unreadably" in caught.value.traceback_text
    assert caught.value.service == "worker"


def test_a_result_that_cannot_travel_is_an_error_and_the_service_lives_on(worker: ServiceHandle) -> None:
    with pytest.raises(RemoteServiceError, match=r"what the method returned \(_thread\.lock\) cannot travel"):
        worker.lock()
    with pytest.raises(RemoteServiceError, match="cannot travel"):
        worker.call("lock", timeout=LONG_S)

    assert worker.echo(1) == 1


def test_an_argument_that_cannot_travel_is_named(worker: ServiceHandle) -> None:
    with pytest.raises(ArgumentError, match=r"'worker', echo\(\): argument 2\['b'\] \(_thread\.lock\) cannot travel"):
        worker.echo(1, {"a": 1, "b": threading.Lock()})
    with pytest.raises(ArgumentError, match="argument 'key'"):
        worker.echo(key=threading.Lock())
    with pytest.raises(TypeError):
        worker.echo.map([1, threading.Lock()])

    assert worker.echo(1) == 1


def test_what_only_this_process_knows_travels_by_value(worker: ServiceHandle) -> None:
    class Here:
        def __init__(self, value: int) -> None:
            self.value = value

    class HereError(Exception):
        pass

    factor = 3
    here = worker.echo(Here(7))

    assert type(here) is Here
    assert here.value == 7
    assert worker.apply(lambda value: value * factor, 2) == 6
    with pytest.raises(HereError):
        worker.fail(HereError("mine"))


def test_a_class_that_comes_home_keeps_its_methods_and_their_variables(worker: ServiceHandle) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "limit = 1\nclass Mine:\n    count = 0\n    def over(self):\n        return limit\n    def add(self):\n"
        "        type(self).count += 1\n        return self",
        namespace,
    )
    mine = namespace["Mine"]
    over = mine.over
    returned = worker.invoke(mine(), "add")
    namespace["limit"] = 2

    assert type(returned) is mine
    assert mine.over is over
    assert returned.over() == 2
    assert mine.count == 0
    assert worker.invoke(worker.invoke(mine(), "add"), "over") == 1


def test_a_large_array_comes_back_writable_and_is_not_pickled_in_band(worker: ServiceHandle) -> None:
    array = numpy.arange(1 << 20, dtype=numpy.int64)
    came, small = worker.echo([array, numpy.arange(3)])
    came[0] = 7

    assert numpy.array_equal(came[1:], array[1:])
    assert array[0] == 0
    assert small.tolist() == [0, 1, 2]
    assert worker.nbytes(array) == array.nbytes


def test_very_many_arrays_fit_into_one_call(worker: ServiceHandle) -> None:
    arrays = [numpy.full(1 << 13, number) for number in range(600)]

    assert [int(array[0]) for array in worker.echo(arrays)] == list(range(600))


def test_a_read_only_array_stays_so(worker: ServiceHandle) -> None:
    array = numpy.zeros(1 << 17)
    array.setflags(write=False)

    assert not worker.echo(array).flags.writeable


# -- callers -----------------------------------------------------------------------------------------------


def test_many_callers_at_once_get_their_own_answers(hosted: MakeLife) -> None:
    handle = hosted(Worker, policy=ServicePolicy(max_concurrent_calls=8)).start().handle
    futures = [handle.echo.submit(number) for number in range(300)]

    assert [future.result(LONG_S) for future in futures] == list(range(300))


def test_an_interrupted_caller_leaves_the_others_in_order(worker: ServiceHandle) -> None:
    class StopError(Exception):
        pass

    def interrupt(*_: Any) -> None:
        raise StopError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(StopError):
            worker.sleep_and_return(0.5, "late")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert [worker.echo(number) for number in range(5)] == list(range(5))


def test_an_interrupt_that_another_thread_took_is_seen_while_a_call_is_waited_for(hosted: MakeLife) -> None:
    """The main thread alone acts on signals, and is not woken up by one that the system gave to another."""
    life = hosted(Worker).start()
    worker = life.handle

    class StopError(Exception):
        pass

    def interrupt(*_: Any) -> None:
        raise StopError

    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    before = signal.signal(signal.SIGALRM, interrupt)

    def send() -> None:
        time.sleep(0.2)
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGALRM)

    sender = threading.Thread(target=send)
    sender.start()
    began = time.monotonic()
    try:
        with pytest.raises(StopError):
            worker.sleep_and_return(LONG_S, "late")
    finally:
        signal.signal(signal.SIGALRM, before)
        done.set()
        sender.join()
        other.join()

    assert time.monotonic() - began < LONG_S / 2
    os.kill(life.pid, signal.SIGKILL)  # it would stay in the call
    life.exit()


def test_a_call_that_died_with_its_service_is_repeated_once_where_the_policy_says_so(
    hosted: MakeLife, tmp_path: Path
) -> None:
    life = hosted(Worker, policy=ServicePolicy(retry_calls=True)).start()
    future = life.handle.die_once.submit(tmp_path / "died")
    life.exit()
    life.slot.set_return(True, "it died")
    eventually(lambda: life.slot.endpoint is None, "the call has not heard of it")
    life.settle()
    life.clean()
    life.start()

    assert future.result(LONG_S) == life.pid


def test_a_call_waits_for_the_next_life(hosted: MakeLife) -> None:
    life = hosted(Worker).start()
    os.kill(life.pid, signal.SIGKILL)
    life.exit()
    life.slot.set_return(True, "it died")
    future = life.handle.pid.submit()
    life.settle()
    life.clean()
    life.start()

    assert future.result(LONG_S) == life.pid


# -- options -----------------------------------------------------------------------------------------------


def test_environment_and_working_directory_are_as_given(hosted: MakeLife, tmp_path: Path) -> None:
    options = {"env": {"MINE": "7"}, "cwd": tmp_path}
    handle = hosted(Worker, options=options).start().handle

    assert handle.variable("MINE") == "7"
    assert handle.variable("AUTOSTOP_LAB_API_KEY") is None
    assert handle.cwd() == str(tmp_path)


def test_a_working_directory_that_is_not_there_is_named(hosted: MakeLife, tmp_path: Path) -> None:
    life = hosted(Worker, options={"cwd": tmp_path / "missing"})

    with pytest.raises(Exception, match=r"working directory '.*missing' does not exist"):
        life.start()


def test_a_secret_of_its_environment_is_not_shown(hosted: MakeLife) -> None:
    policy = ServicePolicy(secret=("TOKEN",))
    life = hosted(Worker, policy=policy, options={"env": {"TOKEN": "hunter2"}}).start()
    life.handle.say("it is hunter2")

    life.says("it is ***")
    assert not [text for text in life.texts() if "hunter2" in text]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone holds a process to the limit")
def test_memory_beyond_the_limit_is_refused_in_the_service(hosted: MakeLife) -> None:
    handle = hosted(Worker, options={"memory_limit_mb": 256}).start().handle

    assert handle.take(10) == 10 << 20
    with pytest.raises(MemoryError) as caught:
        handle.take(400)
    assert "memory_limit_mb=256" in caught.value.__notes__[0]
    assert handle.take(10) == 10 << 20


def test_the_process_has_this_one_s_path_and_no_arguments_of_ours(worker: ServiceHandle) -> None:
    assert worker.path() == sys.path
    assert worker.argv() == ["-c"]


def test_pickles_of_plain_data_are_plain(worker: ServiceHandle) -> None:
    """A plain pickle is several times as fast as cloudpickle's."""
    from autostop_lab.services.travel import pack

    data, buffers = pack({"a": [1, 2.0, "x"], "b": Path("x")})

    assert buffers == []
    assert b"cloudpickle" not in data
    assert pickle.loads(data) == {"a": [1, 2.0, "x"], "b": Path("x")}


class InThisModule(Service):
    def who(self) -> str:
        return type(self).__module__


def test_a_class_of_a_module_travels_by_its_name(hosted: MakeLife) -> None:
    assert hosted(InThisModule).start().handle.who() == __name__
