"""The loop of all supervisors goes on, whatever comes up in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from autostop_lab.supervisor.loop import LoopThread

ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit()]


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    if loop.thread.is_alive():
        loop.close()


async def raise_it(error: BaseException) -> None:
    raise error


async def answer() -> int:
    return 42


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_who_waits_has_the_exception_and_the_loop_goes_on(loop: LoopThread, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        loop.run(raise_it(error))

    assert caught.value is error
    assert loop.run(answer()) == 42


def test_a_posted_function_that_raises_does_not_end_the_loop(loop: LoopThread) -> None:
    def leave() -> None:
        raise SystemExit(3)

    loop.post(leave)

    assert loop.run(answer()) == 42


def test_it_ends_although_something_raises_in_its_last_round(loop: LoopThread) -> None:
    has_begun, door = threading.Event(), threading.Event()

    def hold() -> None:
        has_begun.set()
        door.wait()

    def leave() -> None:
        raise SystemExit(3)

    loop.post(hold)
    has_begun.wait()
    closing = threading.Thread(target=loop.close)
    closing.start()
    while not loop.loop._ready:  # type: ignore[attr-defined]
        closing.join(0.01)
    loop.post(leave)  # behind the order to stop, in the same round
    door.set()
    closing.join()

    assert not loop.thread.is_alive()
