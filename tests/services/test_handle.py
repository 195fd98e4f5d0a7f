from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import cloudpickle
import pytest

from autostop_lab.exceptions import ServiceCallTimeoutError, ServiceError, ServiceUnavailableError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.command import Command
from autostop_lab.services.handle import HANDLE_NAMES, ServiceHandle, run_in_background
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import Service
from autostop_lab.services.slot import HealthResult, ServiceSlot
from tests.services.lives import LONG_S, Life, NoOrders, eventually, spec_of

MakeLife = Callable[..., Life]


class Worker(Service):
    """Does what calls of all kinds need."""

    kind = "worker"

    def __init__(self) -> None:
        self.door = threading.Event()
        self.inside = 0
        self.begun: list[Any] = []

    def start(self) -> None: ...

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return (args, kwargs) if kwargs else args[0] if args else None

    def me(self) -> Any:
        return self

    def fail(self, error: BaseException) -> None:
        raise error

    def wait(self, value: Any = None) -> Any:
        self.begun.append(value)
        self.inside += 1
        self.door.wait(LONG_S)
        self.inside -= 1
        return value

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def fail_later(self, error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error


@pytest.fixture
def life(make: MakeLife) -> Life:
    return make(Worker).start()


@pytest.fixture
def handle(life: Life) -> ServiceHandle:
    return life.handle


@pytest.fixture
def worker(handle: ServiceHandle) -> Iterator[Worker]:
    """The object behind the handle; its door is opened in the end."""
    worker: Worker = handle.me()
    yield worker
    worker.door.set()


# -- what it has -------------------------------------------------------------------------------------------


def test_a_handle_has_exactly_the_names_of_the_contract_and_the_methods(handle: ServiceHandle) -> None:
    methods = {"echo", "me", "fail", "wait", "later", "fail_later"}

    assert set(dir(handle)) == {*HANDLE_NAMES, *methods}
    assert HANDLE_NAMES == (
        *("name", "state", "host", "port", "ports", "start", "stop", "restart", "kill", "health", "logs", "call"),
    )
    assert {name for name in vars(ServiceHandle) if not name.startswith("_")} == set(HANDLE_NAMES)


def test_attributes_are_not_forwarded_and_the_error_says_so(handle: ServiceHandle) -> None:
    for name in ("kind", "begun", "run", "missing"):
        with pytest.raises(AttributeError) as caught:
            getattr(handle, name)
        assert f"service 'it' has no public method {name!r} (it has: echo, fail, fail_later" in str(caught.value)
        assert "define a method that returns what you need" in str(caught.value)


def test_hooks_and_private_names_are_not_offered(handle: ServiceHandle) -> None:
    for name in ("cleanup", "health_check", "_private", "__len__"):
        assert not hasattr(handle, name)


@pytest.mark.parametrize("name", ["start", "stop", "_private", "kind", "missing", "__init__"])
def test_call_offers_no_more_than_the_attributes(handle: ServiceHandle, name: str) -> None:
    with pytest.raises(AttributeError, match="has no public method"):
        handle.call(name)


def test_a_handle_shows_name_kind_and_state(handle: ServiceHandle) -> None:
    assert repr(handle) == "<service 'it' (Worker): running>"
    assert repr(handle.echo) == "<method 'echo' of service 'it'>"
    assert handle.echo.__name__ == "echo"
    assert handle.echo is handle.echo


def test_a_python_service_has_no_address(handle: ServiceHandle) -> None:
    assert (handle.host, handle.port, handle.ports) == (None, None, {})


def test_logs_are_those_of_the_service(life: Life) -> None:
    life.slot.ring.write("a\nb")

    assert [line.text for line in life.handle.logs()] == ["a", "b"]
    assert [line.text for line in life.handle.logs(1)] == ["b"]


def test_a_handle_is_hashable_and_has_no_length(handle: ServiceHandle) -> None:
    assert {handle: 1}[handle] == 1
    with pytest.raises(TypeError):
        len(handle)


def test_orders_go_to_the_environment() -> None:
    class Orders(NoOrders):
        def __init__(self) -> None:
            self.given: list[tuple[str, str]] = []

        def __getattribute__(self, name: str) -> Any:
            if name.endswith("_service"):
                return lambda service: self.given.append((name, service))
            return super().__getattribute__(name)

    orders = Orders()
    handle = ServiceHandle(ServiceSlot(spec_of("it", Worker), orders))
    for order in (handle.start, handle.stop, handle.restart, handle.kill, handle.health):
        order()

    wanted = ["start_service", "stop_service", "restart_service", "kill_service", "check_service"]
    assert orders.given == [(name, "it") for name in wanted]


def test_a_health_result_is_true_when_healthy() -> None:
    assert HealthResult(state=ServiceState.RUNNING, is_healthy=True)
    assert not HealthResult(state=ServiceState.RUNNING, is_healthy=False)


# -- calls -------------------------------------------------------------------------------------------------


def test_a_call_passes_arguments_and_returns_the_very_value(handle: ServiceHandle) -> None:
    value = object()

    assert handle.echo(value) is value
    assert handle.echo(1, key=2) == ((1,), {"key": 2})
    assert handle.call("echo", 1, key=2) == ((1,), {"key": 2})


@pytest.mark.parametrize(
    "error", [ValueError("mine"), TimeoutError("mine"), KeyError("mine"), StopIteration(3), SystemExit(3)]
)
def test_what_a_method_raises_arrives_as_the_same_object(handle: ServiceHandle, error: BaseException) -> None:
    ways: list[Callable[[], object]] = [
        lambda: handle.fail(error),
        lambda: handle.call("fail", error),
        lambda: handle.call("fail", error, timeout=LONG_S),
        lambda: handle.fail.submit(error).result(LONG_S),
    ]
    for way in ways:
        with pytest.raises(type(error)) as caught:
            way()
        assert caught.value is error


@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_what_an_async_method_raises_arrives_as_the_same_object(handle: ServiceHandle, error: BaseException) -> None:
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            handle.fail_later(error)
        assert caught.value is error

    assert handle.later(1) == 1


def test_the_cause_of_an_exception_stays_with_it(handle: ServiceHandle) -> None:
    error, cause = ValueError("mine"), KeyError("cause")
    error.__cause__ = cause
    for method in (handle.fail, handle.fail_later):
        with pytest.raises(ValueError, match="mine"):
            method(error)
        assert error.__cause__ is cause


def test_async_methods_are_called_like_the_others(handle: ServiceHandle) -> None:
    assert handle.later(3) == 3
    assert handle.later.map([1, 2]) == [1, 2]
    assert handle.later.submit(3).result(LONG_S) == 3


def test_map_sends_a_batch_and_keeps_the_order(handle: ServiceHandle) -> None:
    assert handle.echo.map(range(5)) == [0, 1, 2, 3, 4]
    assert handle.echo.map([]) == []


def test_map_ends_with_the_first_failure(handle: ServiceHandle) -> None:
    with pytest.raises(ValueError, match="second"):
        handle.fail.map([ValueError("second"), ValueError("third")])


def test_submit_gives_a_future(handle: ServiceHandle, worker: Worker) -> None:
    future = handle.wait.submit(7)
    eventually(lambda: worker.inside)

    assert not future.done()
    assert not future.cancel()
    worker.door.set()
    assert future.result(LONG_S) == 7


def test_aio_lets_the_event_loop_go_on(handle: ServiceHandle, worker: Worker) -> None:
    async def main() -> list[Any]:
        waiting = asyncio.ensure_future(handle.wait.aio(7))
        while not worker.inside:
            await asyncio.sleep(0.001)
        worker.door.set()
        return [await waiting, await handle.later.aio(8)]

    assert asyncio.run(main()) == [7, 8]


def test_aio_that_is_given_up_leaves_nothing_behind(handle: ServiceHandle, worker: Worker) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.wait.aio(7), 0.02)

    asyncio.run(main())
    worker.door.set()

    assert handle.echo(1) == 1


def test_aio_raises_what_the_method_raised(handle: ServiceHandle) -> None:
    error = ValueError("mine")

    async def main() -> None:
        with pytest.raises(ValueError, match="mine") as caught:
            await handle.fail.aio(error)
        assert caught.value is error
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await asyncio.wait_for(handle.fail.aio(StopIteration(3)), LONG_S)

    asyncio.run(main())


def test_a_call_beside_an_event_loop_that_runs_works(handle: ServiceHandle) -> None:
    async def main() -> Any:
        return handle.later(3)

    assert asyncio.run(main()) == 3


def test_background_calls_are_named_daemons() -> None:
    seen = run_in_background(threading.current_thread, name="call it").result(LONG_S)

    assert seen.daemon
    assert seen.name == "autostop-lab: call it"


# -- one at a time -----------------------------------------------------------------------------------------


class Reentrant(Service):
    """Calls itself by all ways there are."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.other: Any = None

    def end(self) -> str:
        return "end"

    async def end_later(self) -> str:
        return "end"

    def nested(self) -> Any:
        return self.handle.end()

    def through_other(self) -> Any:
        return self.other.call_back(self.handle)

    def submitted(self) -> Any:
        return self.handle.end.submit().result(LONG_S)

    def to_async(self) -> Any:
        return self.handle.end_later()

    async def from_async(self) -> Any:
        return self.handle.end()

    async def from_async_by_aio(self) -> Any:
        return await self.handle.end_later.aio()

    async def from_async_without_await(self) -> Any:
        return self.handle.end_later()

    def set(self, handle: Any, other: Any = None) -> None:
        self.handle, self.other = handle, other


class Other(Service):
    def call_back(self, handle: Any) -> Any:
        return handle.end()


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("way", ["nested", "through_other", "submitted", "to_async", "from_async", "from_async_by_aio"])
def test_a_call_within_a_call_does_not_wait_for_itself(make: MakeLife, way: str, limit: int) -> None:
    policy = ServicePolicy(call_timeout_s=0, max_concurrent_calls=limit)
    handle = make(Reentrant, policy=policy).start().handle
    handle.set(handle, make(Other, name="other", policy=policy).start().handle)

    assert handle.call(way) == "end"


def test_an_async_method_that_waits_for_its_own_loop_is_told_to_await(make: MakeLife) -> None:
    handle = make(Reentrant).start().handle
    handle.set(handle)

    with pytest.raises(RuntimeError, match=r"await self\.method\(\.\.\.\) there"):
        handle.from_async_without_await()


@pytest.mark.parametrize("limit", [1, 3])
def test_as_many_calls_as_the_policy_says_are_inside(make: MakeLife, limit: int) -> None:
    handle = make(Worker, policy=ServicePolicy(max_concurrent_calls=limit)).start().handle
    worker: Worker = handle.me()
    futures = [handle.wait.submit(number) for number in range(5)]
    eventually(lambda: worker.inside == limit)
    time.sleep(0.02)  # so that one that is too many would come in

    assert worker.inside == limit
    worker.door.set()
    assert [future.result(LONG_S) for future in futures] == [0, 1, 2, 3, 4]


def test_a_call_without_a_turn_in_time_says_what_to_do(make: MakeLife) -> None:
    handle = make(Worker, policy=ServicePolicy(call_timeout_s=0.02)).start().handle
    worker: Worker = handle.me()
    waiting = handle.wait.submit()
    eventually(lambda: worker.inside)

    with pytest.raises(ServiceUnavailableError, match=r"had no turn within 0\.02 s.*Raise call_timeout_s"):
        handle.echo(1)
    worker.door.set()
    waiting.result(LONG_S)


# -- timeout= ----------------------------------------------------------------------------------------------


def test_a_call_that_takes_too_long_is_given_up_and_goes_on(handle: ServiceHandle, worker: Worker) -> None:
    with pytest.raises(ServiceCallTimeoutError, match=r"service 'it': wait\(\) took longer than 0\.02 s") as caught:
        handle.call("wait", 7, timeout=0.02)

    assert caught.value.service == "it"
    assert isinstance(caught.value, TimeoutError)
    assert worker.inside == 1


def test_a_call_that_was_given_up_while_it_waited_is_not_begun_later(handle: ServiceHandle, worker: Worker) -> None:
    first = handle.wait.submit("first")
    eventually(lambda: worker.inside)
    with pytest.raises(ServiceCallTimeoutError):
        handle.call("wait", "given up", timeout=0.02)
    worker.door.set()
    first.result(LONG_S)
    handle.wait("last")

    assert worker.begun == ["first", "last"]


def test_what_a_call_has_left_running_may_call_on_after_its_time(make: MakeLife) -> None:
    class Starter(Service):
        def begin(self, door: threading.Event, handle: Any) -> Any:
            return run_in_background(lambda: door.wait(LONG_S) and handle.echo(7), name="left running")

    handle, door = make(Worker, name="worker").start().handle, threading.Event()
    left = make(Starter).start().handle.call("begin", door, handle, timeout=0.2)
    time.sleep(0.25)
    door.set()

    assert left.result(LONG_S) == 7


def test_the_time_of_a_call_includes_waiting_for_a_service_on_its_way_up() -> None:
    slot = ServiceSlot(spec_of("it", Worker), NoOrders())
    slot.publish(ServiceState.STARTING, "", None)
    before = threading.active_count()

    with pytest.raises(ServiceCallTimeoutError):
        ServiceHandle(slot).call("echo", 1, timeout=0.02)
    eventually(lambda: threading.active_count() == before, "the call still waits")


def test_a_timeout_error_of_the_method_is_not_taken_for_ours(handle: ServiceHandle) -> None:
    error = TimeoutError("mine")
    with pytest.raises(TimeoutError, match="mine") as caught:
        handle.call("fail", error, timeout=LONG_S)

    assert caught.value is error


def test_call_service_async_bounds_the_call_too(make: MakeLife) -> None:
    class Caller(Service):
        def ask(self, seconds: float | None) -> Any:
            return self.call_service_async("store", 7, method="wait", timeout=seconds)

    store = make(Worker, name="store").start().handle
    worker: Worker = store.me()
    caller = make(Caller, name="caller")
    caller.needed["store"] = store
    ask = caller.start().handle.ask

    assert isinstance(ask(0.02).exception(LONG_S), ServiceCallTimeoutError)
    worker.door.set()
    assert ask(None).result(LONG_S) == 7
    assert ask(LONG_S).result(LONG_S) == 7


# -- availability ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (ServiceState.STOPPED, r"takes no calls: it is stopped: why\. Start it with env\.start\(\) or within a job\."),
        (ServiceState.CRASHED, r"it is crashed: why\. Read its last lines .* start it anew with handle\.start\(\)\."),
        (ServiceState.STOPPING, "it is stopping: why. Calls end when the job ends"),
        (ServiceState.KILLING, "it is killing: why"),
        (ServiceState.ABANDONED, "it is abandoned: why"),
    ],
)
def test_a_service_that_is_not_there_refuses_calls_at_once_and_says_its_state(state: ServiceState, text: str) -> None:
    slot = ServiceSlot(spec_of("it", Worker), NoOrders())
    slot.publish(state, "why", None)

    with pytest.raises(ServiceUnavailableError, match=text) as caught:
        ServiceHandle(slot).echo(1)
    assert (caught.value.service, caught.value.phase) == ("it", "call")


@pytest.mark.parametrize("state", [ServiceState.STARTING, ServiceState.BACKOFF])
def test_a_call_waits_for_a_service_on_its_way_up_and_no_longer_than_its_policy_says(state: ServiceState) -> None:
    slot = ServiceSlot(spec_of("it", Worker, policy=ServicePolicy(call_timeout_s=0.05)), NoOrders())
    slot.publish(state, "", None)

    with pytest.raises(ServiceUnavailableError, match=rf"it is {state} for 0\.05 s"):
        ServiceHandle(slot).echo(1)


def test_a_call_that_waits_goes_in_when_the_service_is_ready(make: MakeLife) -> None:
    class Slow(Worker):
        door_of_start = threading.Event()

        def start(self) -> None:
            self.door_of_start.wait(LONG_S)

    life = make(Slow)
    starting = run_in_background(life.start, name="start")
    eventually(lambda: life.slot.state is ServiceState.STARTING)
    call = life.handle.echo.submit(7)
    Slow.door_of_start.set()

    assert call.result(LONG_S) == 7
    starting.result(LONG_S)


def test_a_call_that_waits_is_refused_when_the_service_does_not_come_up() -> None:
    slot = ServiceSlot(spec_of("it", Worker), NoOrders())
    slot.publish(ServiceState.STARTING, "", None)
    call = ServiceHandle(slot).echo.submit(1)
    slot.publish(ServiceState.CRASHED, "exit code 1", None)

    assert isinstance(call.exception(LONG_S), ServiceUnavailableError)
    assert "it is crashed: exit code 1" in str(call.exception())


def test_calls_are_refused_while_the_service_stops_and_those_inside_finish(life: Life, worker: Worker) -> None:
    inside = life.handle.wait.submit(7)
    waiting = life.handle.echo.submit(8)
    eventually(lambda: worker.inside)
    bound = life.handle.echo
    stopping = run_in_background(life.stop, name="stop")

    error = waiting.exception(LONG_S / 2)
    assert isinstance(error, ServiceUnavailableError)
    assert "it is stopping" in str(error)
    with pytest.raises(ServiceUnavailableError, match="it is stopping"):
        bound(9)
    worker.door.set()
    assert inside.result(LONG_S) == 7
    assert stopping.result(LONG_S) is True


def test_a_handle_stays_the_same_over_several_lives(life: Life) -> None:
    echo, first = life.handle.echo, life.handle.me()
    assert echo(1) == 1
    life.stop()
    life.clean()
    with pytest.raises(ServiceUnavailableError):
        echo(1)
    life.start()

    assert echo(2) == 2
    assert life.handle.me() is not first


def test_handles_and_methods_do_not_keep_a_stopped_service_in_memory(life: Life) -> None:
    echo = life.handle.echo
    echo(1)
    alive = weakref.ref(life.handle.me())
    life.stop()
    life.clean()
    gc.collect()

    assert alive() is None


# -- services from a factory -------------------------------------------------------------------------------


class Proxy:
    """Answers to names that its class does not have."""

    def known(self) -> str:
        return "known"

    @property
    def size(self) -> int:
        return 3

    def stop(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("remote_"):
            return lambda: name
        raise AttributeError(name)


def test_methods_of_what_a_factory_makes_can_be_named_before_it_lives(make: MakeLife) -> None:
    life = make(lambda: Proxy())
    known, unknown = life.handle.known, life.handle.unknown
    with pytest.raises(ServiceUnavailableError, match="it is stopped"):
        known()
    life.start()

    assert known() == "known"
    with pytest.raises(AttributeError, match=r"has no public method 'unknown' \(it has: known\)"):
        unknown()


def test_methods_of_what_a_factory_makes_are_known_when_it_lives(make: MakeLife) -> None:
    handle = make(lambda: Proxy()).start().handle

    assert set(dir(handle)) == {*HANDLE_NAMES, "known"}
    for name in ("size", "unknown", "run", "_private"):
        assert not hasattr(handle, name)
        with pytest.raises(AttributeError, match="has no public method"):
            handle.call(name)


def test_a_method_that_only_the_object_answers_to_is_reached_by_call(make: MakeLife) -> None:
    assert make(lambda: Proxy()).start().handle.call("remote_thing") == "remote_thing"


def test_a_hook_of_what_a_factory_makes_is_not_offered(make: MakeLife) -> None:
    life = make(lambda: Proxy())
    with pytest.raises(AttributeError, match="known once it runs"):
        life.handle.call("stop")


def test_a_name_that_the_handle_has_is_reached_by_call(make: MakeLife) -> None:
    class Killer:
        def kill(self, what: str) -> str:
            return f"killed {what}"

    assert make(lambda: Killer()).start().handle.call("kill", "it") == "killed it"


# -- pickling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_handle_pickles_to_a_reference_to_the_same_service(handle: ServiceHandle, pickler: Any) -> None:
    data = pickler.dumps((handle, handle.echo))
    copy, echo = pickle.loads(data)

    assert copy.name == "it"
    assert copy.me() is handle.me()
    assert echo(7) == 7
    assert len(data) < 500


def test_a_handle_whose_service_is_gone_cannot_be_unpickled() -> None:
    data = pickle.dumps(ServiceHandle(ServiceSlot(spec_of("it", Worker), NoOrders())))
    gc.collect()

    with pytest.raises(ServiceError, match="'it' came to a process where the service does not live"):
        pickle.loads(data)


def test_commands_offer_the_methods_of_their_class_only() -> None:
    class Store(Command):
        argv = ("true",)

        def client(self) -> None: ...

    handle = ServiceHandle(ServiceSlot(spec_of("it", Store), NoOrders()))

    assert set(dir(handle)) == {*HANDLE_NAMES, "client"}
    assert not hasattr(handle, "argv")
    with pytest.raises(AttributeError):
        handle.call("_autostop_check")


def test_what_waits_for_an_async_method_is_told_when_the_service_ends(make: MakeLife) -> None:
    class Endless(Service):
        entered = threading.Event()

        async def wait(self) -> None:
            self.entered.set()
            await asyncio.Event().wait()

    life = make(Endless, policy=ServicePolicy(stop_timeout_s=0.1)).start()
    waiting = life.handle.wait.submit()
    assert Endless.entered.wait(LONG_S)
    life.stop()
    life.clean()

    error = waiting.exception(LONG_S)
    assert isinstance(error, ServiceUnavailableError)
    assert not isinstance(error, CancelledError)
