from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from autostop_lab.services.context import Waiting, seconds_waited_for
from autostop_lab.services.gate import CallGate, NoTurnError
from tests.services.lives import LONG_S, eventually


class RefusedError(Exception):
    def __init__(self, reason: NoTurnError) -> None:
        super().__init__(str(vars(reason)))
        self.reason = reason


def guard(gate: CallGate, function: Callable[..., Any]) -> Callable[..., Any]:
    return gate.guard(function, finish=asyncio.run, refuse=RefusedError)


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


class Room:
    """Counts who is inside; whoever comes in waits until the door is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.door = threading.Event()
        self.lock = threading.Lock()

    def visit(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.door.wait(LONG_S)
        with self.lock:
            self.inside -= 1


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_calls_are_inside_at_once_and_no_more(limit: int) -> None:
    room, gate = Room(), CallGate(limit, LONG_S)
    call = guard(gate, room.visit)
    visits = [in_thread(call) for _ in range(6)]
    eventually(lambda: room.inside == limit)
    room.door.set()
    for visit in visits:
        visit.result(LONG_S)

    assert room.most == limit


def test_a_call_returns_the_value_and_passes_arguments_on() -> None:
    assert guard(CallGate(1, 0), lambda *args, **kwargs: (args, kwargs))(1, two=2) == ((1,), {"two": 2})


def test_a_turn_comes_back_after_an_exception_which_arrives_unchanged() -> None:
    error = ValueError("mine")

    def fail() -> None:
        raise error

    gate = CallGate(1, 0)
    for _ in range(3):
        with pytest.raises(ValueError, match="mine") as caught:
            guard(gate, fail)()
        assert caught.value is error
    assert gate.wait_empty(0)


def test_a_coroutine_is_finished_within_the_call() -> None:
    gate = CallGate(1, 0)

    async def later() -> bool:
        return gate.wait_empty(0)

    assert guard(gate, later)() is False


# -- re-entrance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2])
def test_a_call_within_a_call_does_not_wait_for_itself(limit: int) -> None:
    gate = CallGate(limit, 0)

    def down(depth: int) -> int:
        return int(call(depth - 1)) if depth else 7

    call = guard(gate, down)

    assert call(10) == 7
    assert gate.wait_empty(0)


def test_a_call_by_way_of_another_service_does_not_wait_for_itself() -> None:
    here, there = CallGate(1, 0), CallGate(1, 0)
    back = guard(here, lambda: "back")
    over = guard(there, back)

    assert guard(here, over)() == "back"


def test_a_call_from_a_context_copied_within_a_call_does_not_wait() -> None:
    gate = CallGate(1, LONG_S)
    call = guard(gate, lambda: "inside")

    def outer() -> str:
        context = contextvars.copy_context()
        value: str = in_thread(lambda: context.run(call)).result(LONG_S)
        return value

    assert guard(gate, outer)() == "inside"


def test_a_context_that_outlives_its_call_waits_like_any_other() -> None:
    gate = CallGate(1, 0)
    call = guard(gate, lambda: None)
    contexts: list[contextvars.Context] = []
    guard(gate, lambda: contexts.append(contextvars.copy_context()))()
    room = Room()
    visit = in_thread(guard(gate, room.visit))
    eventually(lambda: room.inside)

    with pytest.raises(RefusedError):
        contexts[0].run(call)
    room.door.set()
    visit.result(LONG_S)


def test_a_plain_thread_started_within_a_call_waits_for_its_turn() -> None:
    gate = CallGate(1, 0)
    call = guard(gate, lambda: None)

    with pytest.raises(RefusedError):
        guard(gate, lambda: in_thread(call).result(LONG_S))()


# -- waiting -----------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[tuple[CallGate, Room]]:
    """A gate whose only turn is taken, and the room to let it go."""
    room, gate = Room(), CallGate(1, 0.05)
    visit = in_thread(guard(gate, room.visit))
    eventually(lambda: room.inside)
    yield gate, room
    room.door.set()
    visit.result(LONG_S)


def test_a_call_without_a_turn_in_time_is_refused(taken: tuple[CallGate, Room]) -> None:
    gate, _ = taken
    with pytest.raises(RefusedError) as caught:
        guard(gate, lambda: None)()

    assert not caught.value.reason.is_closed
    assert not caught.value.reason.is_given_up


def test_the_work_itself_is_not_bounded(taken: tuple[CallGate, Room]) -> None:
    gate, room = taken
    time.sleep(3 * gate.timeout_s)

    assert room.inside == 1


def test_a_call_waits_no_longer_than_somebody_waits_for_it(taken: tuple[CallGate, Room]) -> None:
    gate, _ = taken
    gate.timeout_s = LONG_S
    with Waiting(0.05), pytest.raises(RefusedError) as caught:
        guard(gate, lambda: None)()

    assert caught.value.reason.is_given_up


def test_the_shorter_of_two_waits_counts() -> None:
    with Waiting(10):
        with Waiting(1000):
            assert 5 < seconds_waited_for() <= 10
        with Waiting(1):
            assert seconds_waited_for() <= 1
    assert seconds_waited_for() == float("inf")


def test_what_a_call_has_left_running_is_not_bounded_by_it_any_more() -> None:
    with Waiting(0) as waiting:
        context = contextvars.copy_context()
    assert context.run(seconds_waited_for) <= 0
    waiting.end()

    assert context.run(seconds_waited_for) == float("inf")


def test_a_call_that_waits_is_refused_when_the_gate_closes(taken: tuple[CallGate, Room]) -> None:
    gate, room = taken
    gate.timeout_s = LONG_S
    waiting = in_thread(guard(gate, lambda: None))
    gate.close()

    error = waiting.exception(LONG_S / 2)
    assert isinstance(error, RefusedError)
    assert error.reason.is_closed
    assert room.inside == 1


# -- closing -----------------------------------------------------------------------------------------------


def test_a_closed_gate_lets_nobody_in_and_takes_no_turn() -> None:
    gate = CallGate(1, LONG_S)
    gate.close()
    for _ in range(3):
        with pytest.raises(RefusedError) as caught:
            guard(gate, lambda: None)()
        assert caught.value.reason.is_closed
    assert gate.wait_empty(0)


def test_a_call_that_is_inside_when_the_gate_closes_may_finish_with_all_that_it_calls() -> None:
    gate = CallGate(1, 0)
    inner = guard(gate, lambda: "finished")

    def outer() -> str:
        gate.close()
        value: str = inner()
        return value

    assert guard(gate, outer)() == "finished"


def test_waiting_for_emptiness_says_whether_it_came(taken: tuple[CallGate, Room]) -> None:
    gate, room = taken
    gate.close()

    assert not gate.wait_empty(0.02)
    room.door.set()
    assert gate.wait_empty(LONG_S)


def test_waiting_for_emptiness_waits_for_all_calls() -> None:
    gate, room = CallGate(3, LONG_S), Room()
    visits = [in_thread(guard(gate, room.visit)) for _ in range(2)]
    eventually(lambda: room.inside == 2)

    assert not gate.wait_empty(0)
    room.door.set()
    assert gate.wait_empty(LONG_S)
    for visit in visits:
        visit.result(LONG_S)


# -- interrupts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2])
def test_an_interrupt_at_whatever_moment_leaves_no_turn_taken(limit: int) -> None:
    """A cell that calls a service in a loop is interrupted; the service must be free for the next one."""
    gate = CallGate(limit, LONG_S)
    call = guard(gate, lambda: None)
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(200):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + number % 13 * 0.00001)
                    while True:
                        call()
                except KeyboardInterrupt:
                    pass
            except KeyboardInterrupt:  # in the handler above
                pass
            assert gate.wait_empty(0), f"a turn was lost at interrupt {number}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_an_interrupted_wait_leaves_no_turn_taken() -> None:
    gate, room = CallGate(1, LONG_S), Room()
    visit = in_thread(guard(gate, room.visit))
    eventually(lambda: room.inside)
    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            guard(gate, lambda: None)()
    finally:
        signal.signal(signal.SIGALRM, former)
    room.door.set()
    visit.result(LONG_S)

    assert gate.wait_empty(LONG_S)
