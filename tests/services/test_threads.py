from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

import pytest

from autostop_lab.origin import Origin
from autostop_lab.services.coroutines import ServiceLoop, stack_of
from autostop_lab.services.handle import run_in_background
from autostop_lab.services.threads import HookError, HookThread, call_in_thread
from autostop_lab.supervisor.loop import supervisor_loop
from tests.services.lives import LONG_S, eventually


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return supervisor_loop().run(work)


# -- HookThread --------------------------------------------------------------------------------------------


def test_functions_are_called_one_after_another_in_one_thread() -> None:
    def note(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    async def main() -> list[Any]:
        thread = HookThread(Origin(), "test")
        calls = [
            thread.call(partial(lambda number: (number, threading.current_thread()), number)) for number in range(3)
        ]
        thread.close()
        return [await call for call in calls]

    results = run(main())

    assert [number for number, _ in results] == [0, 1, 2]
    (thread,) = {thread for _, thread in results}
    assert thread.daemon
    assert thread.name == "autostop-lab: test"


@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine")])
def test_what_a_function_raises_is_the_future_s_exception(error: Exception) -> None:
    def fail() -> None:
        raise error

    async def main() -> Any:
        (done,), _ = await asyncio.wait({call_in_thread(fail, origin=Origin(), name="test")})
        return done.exception()

    assert run(main()) is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(3), GeneratorExit()])
def test_what_an_event_loop_would_choke_on_is_carried_as_a_cause(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main() -> Any:
        try:
            await call_in_thread(fail, origin=Origin(), name="test")
        except HookError as raised:
            return raised.cause

    assert run(main()) is error


def test_a_thread_is_busy_from_the_call_to_its_end_also_when_nobody_waits() -> None:
    door = threading.Event()

    async def main() -> tuple[list[bool], HookThread]:
        thread = HookThread(Origin(), "test")
        seen = [thread.is_busy]
        call = thread.call(lambda: door.wait(LONG_S))
        thread.close()
        seen.append(thread.is_busy)
        call.cancel()
        seen.append(thread.is_busy)
        return seen, thread

    seen, thread = run(main())
    assert seen == [False, True, True]
    door.set()
    eventually(lambda: not thread.is_busy)


def test_a_busy_thread_says_where_it_is() -> None:
    door = threading.Event()

    def hang_here() -> None:
        door.wait(LONG_S)

    async def main() -> HookThread:
        thread = HookThread(Origin(), "test")
        thread.call(hang_here)
        thread.close()
        return thread

    thread = run(main())
    eventually(lambda: "hang_here" in thread.survivor())
    assert thread.survivor().startswith("thread 'autostop-lab: test' is still at \"")
    door.set()
    thread.thread.join(LONG_S)
    assert stack_of(thread.thread) == ""


def test_a_hook_that_ends_after_its_event_loop_is_no_trouble() -> None:
    door, threads = threading.Event(), []

    async def main() -> None:
        threads.append(HookThread(Origin(), "test"))
        threads[0].call(lambda: door.wait(LONG_S))
        threads[0].close()

    asyncio.run(main())
    door.set()
    threads[0].thread.join(LONG_S)

    assert not threads[0].thread.is_alive()


def test_an_exception_that_nobody_asks_for_is_not_reported_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("mine")

    async def main() -> None:
        call_in_thread(fail, origin=Origin(), name="test")
        await asyncio.sleep(0.05)

    run(main())

    assert not caplog.records


# -- ServiceLoop -------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[ServiceLoop]:
    loop = ServiceLoop(Origin(), "loop")
    yield loop
    loop.close()


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "autostop-lab: loop"]


async def current_thread() -> threading.Thread:
    return threading.current_thread()


def test_what_is_no_coroutine_is_returned_as_it_is(loop: ServiceLoop) -> None:
    generator = (letter for letter in "abc")

    assert loop.finish(3) == 3
    assert loop.finish(generator) is generator
    assert not loop_threads()


def test_all_coroutines_run_in_one_thread(loop: ServiceLoop) -> None:
    threads = {loop.finish(current_thread()) for _ in range(3)}

    assert threads == set(loop_threads())
    assert len(threads) == 1


def test_coroutines_of_several_callers_run_together(loop: ServiceLoop) -> None:
    async def meet() -> None:
        events[0].set()
        await events[1].wait()

    async def answer() -> None:
        await events[0].wait()
        events[1].set()

    async def make_events() -> list[asyncio.Event]:
        return [asyncio.Event(), asyncio.Event()]

    events = loop.finish(make_events())
    first = run_in_background(lambda: loop.finish(meet()), name="first")
    loop.finish(answer())

    assert first.result(LONG_S) is None


@pytest.mark.parametrize("error", [ValueError("mine"), TimeoutError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_coroutine_raises_is_raised_and_the_loop_goes_on(loop: ServiceLoop, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        loop.finish(fail())

    assert caught.value is error
    assert loop.finish(current_thread()).is_alive()


def hung(loop: ServiceLoop, stubborn: bool = False) -> Any:
    """Begin a coroutine that never ends by itself, and return the future of its call."""
    entered = threading.Event()

    async def hang() -> None:
        while True:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    call = run_in_background(lambda: loop.finish(hang()), name="call")
    assert entered.wait(LONG_S)
    return call


def test_a_hung_coroutine_can_be_cancelled_and_the_loop_goes_on(loop: ServiceLoop) -> None:
    call = hung(loop)
    loop.cancel()

    assert isinstance(call.exception(LONG_S), CancelledError)
    assert loop.finish(current_thread()).is_alive()


def test_closing_cancels_what_runs_and_ends_the_thread(loop: ServiceLoop) -> None:
    call = hung(loop)
    loop.close()
    loop.close()

    assert isinstance(call.exception(LONG_S), CancelledError)
    eventually(lambda: not loop_threads())


def test_a_coroutine_that_will_not_be_cancelled_keeps_nobody_waiting(
    loop: ServiceLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServiceLoop, "CLOSING_S", 0.05)
    call = hung(loop, stubborn=True)
    loop.close()

    assert isinstance(call.exception(LONG_S), CancelledError)
    eventually(lambda: not loop_threads())


def test_a_coroutine_that_comes_after_the_end_is_not_begun(loop: ServiceLoop) -> None:
    loop.close()

    with pytest.raises(CancelledError):
        loop.finish(current_thread())
    assert not loop_threads()


def test_a_coroutine_that_comes_with_the_end_is_answered_or_cancelled() -> None:
    for _ in range(100):
        loop = ServiceLoop(Origin(), "loop")
        loop.finish(current_thread())
        call = run_in_background(partial(loop.finish, current_thread()), name="call")
        loop.close()
        assert call.exception(LONG_S) is None or isinstance(call.exception(), CancelledError)


def test_the_loop_s_own_thread_cannot_wait_for_itself(loop: ServiceLoop) -> None:
    async def outer() -> Any:
        return loop.finish(current_thread())

    with pytest.raises(RuntimeError, match="own event loop without await"):
        loop.finish(outer())


def test_a_loop_says_where_its_coroutines_are(loop: ServiceLoop) -> None:
    assert loop.survivor() == ""
    call = hung(loop)

    assert "thread 'autostop-lab: loop' is still at" in loop.survivor()
    assert "in hang" in loop.survivor()
    loop.close()
    call.exception(LONG_S)
    eventually(lambda: not loop.survivor())


def test_asynchronous_generators_are_closed_with_the_loop(loop: ServiceLoop) -> None:
    closed = threading.Event()

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            closed.set()

    kept: list[Any] = []

    async def begin() -> None:
        kept.append(numbers())
        await anext(kept[0])

    loop.finish(begin())
    loop.close()

    assert closed.wait(LONG_S)


def test_an_interrupt_of_who_waits_cancels_the_coroutine(loop: ServiceLoop) -> None:
    import signal

    entered, cancelled = threading.Event(), threading.Event()

    async def hang() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupt() -> None:
        entered.wait(LONG_S)
        time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    former = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        interrupting = run_in_background(interrupt, name="interrupt")
        with pytest.raises(KeyboardInterrupt):
            loop.finish(hang())
    finally:
        signal.signal(signal.SIGALRM, former)
    interrupting.result(LONG_S)

    assert cancelled.wait(LONG_S)
