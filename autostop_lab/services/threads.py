"""Threads for the hooks of services, awaited from the event loop of their supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from autostop_lab.origin import Origin
from autostop_lab.services.coroutines import place_of


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Take note of a future's exception, so that nobody is told later that nobody did."""
    # A hook that fails after its supervisor has given it up is in the receipt already.
    if not future.cancelled():
        future.exception()


def text_of(error: BaseException) -> str:
    """Return the text of an exception; "" where asking for it fails."""
    try:
        return str(error)
    except Exception:
        return ""


class HookError(Exception):
    """Carries through an event loop, as `cause`, what user code raised and the loop would choke on.

    It would end on a SystemExit or KeyboardInterrupt, and takes no StopIteration.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(text_of(cause))
        self.cause = cause


def carried(error: BaseException) -> Exception:
    """Return what carries an exception of user code through an event loop: itself, or a `HookError`."""
    return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else HookError(error)


def cause_of(error: BaseException) -> BaseException:
    """Return what user code has raised, however it was carried."""
    return error.cause if isinstance(error, HookError) else error


class HookThread:
    """A daemon thread that calls functions one after another; a hung one holds nobody but itself.

    Parameters
    ----------
    origin : Origin
        Under whose cell its output appears.
    name : str
        What it is for.
    """

    def __init__(self, origin: Origin, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        # Each is written by one thread only: by the loop's, and by the one that works.
        self._given = 0
        self._done = 0
        self.thread = origin.start_thread(self._work, name=name)

    @property
    def is_busy(self) -> bool:
        """Whether it has something to call, or calls it."""
        return self._done < self._given

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `function` in the thread after what was given before; the future has its value or `HookError`."""
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(mark_retrieved)
        self._given += 1
        self._calls.put((function, future))
        return future

    def close(self) -> None:
        """Let the thread end when it is through with what it has."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            function, future = item
            result: Any = None
            error: Exception | None = None
            try:
                result = function()
            except BaseException as raised:
                error = carried(raised)
            self._done += 1
            post(self._loop, future, result, error)
            del item, function, future, result, error

    def survivor(self) -> str:
        """Return its name and where it is now, in traceback form."""
        return place_of(self.thread, verb="is still")


def post(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    """Settle a future of another thread's loop; a loop that is gone no longer waits for it."""
    try:
        loop.call_soon_threadsafe(_settle, future, result, error)
    except RuntimeError:
        if not loop.is_closed():
            raise


def call_in_thread(
    function: Callable[[], Any], *, origin: Origin, name: str, or_here: bool = False
) -> asyncio.Future[Any]:
    """Call `function` once in a daemon thread of its own; the future has its value or its exception.

    Where the machine has no thread left, that is a `RuntimeError`; with `or_here`, the calling thread does it.
    """
    try:
        thread = HookThread(origin, name)
    except RuntimeError:
        if not or_here:
            raise
        return _call_here(function)
    future = thread.call(function)
    thread.close()
    return future


def _call_here(function: Callable[[], Any]) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(mark_retrieved)
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
    return future
