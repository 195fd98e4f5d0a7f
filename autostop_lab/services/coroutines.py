"""`ServiceLoop`: the event loop of a service's own, for its async hooks and methods.

asyncio is imported with the first coroutine, so that the process of a service without any starts without it.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


class StartsThreads(Protocol):
    """Starts daemon threads, as an `Origin` does."""

    def start_thread(self, function: Callable[[], Any], *, name: str) -> threading.Thread:
        """Start one that calls `function`."""


def stack_of(thread: threading.Thread) -> str:
    """Return where a thread is now, in traceback form; "" if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None and thread.is_alive() else ""


def place_of(thread: threading.Thread, *, verb: str) -> str:
    """Return the name of a thread and where it is now, in a line of words and in traceback form."""
    stack = stack_of(thread)
    where = stack.rstrip().rpartition("  File ")[2].partition("\n")[0]
    return f"thread {thread.name!r} {verb} at {where or 'its end'}\n{stack}"


class _Call:
    """A coroutine on its way through a `ServiceLoop`, and the future of its value for the thread that waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.future: Future[Any] = Future()
        self.task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        import asyncio

        self.task = asyncio.ensure_future(self.coroutine)
        self.task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[Any]) -> None:
        # Not by asyncio.run_coroutine_threadsafe(), which hands on a TimeoutError as a copy.
        if self.future.done():
            task.cancelled() or task.exception()
        elif task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class ServiceLoop:
    """An event loop of a service's own, for its async hooks and methods; its thread starts with the first of them.

    Parameters
    ----------
    origin : StartsThreads
        Starts its thread: an `Origin`, under whose cell its output then appears.
    name : str
        What it is for.
    """

    #: How long cancelled coroutines may take to end when the loop is closed, in seconds.
    CLOSING_S = 1.0

    def __init__(self, origin: StartsThreads, name: str) -> None:
        self._origin = origin
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: set[_Call] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def finish(self, value: Any) -> Any:
        """Return `value`, awaited in this loop if it is a coroutine; blocks the calling thread.

        Raises
        ------
        concurrent.futures.CancelledError
            The service ended first.
        RuntimeError
            This is the loop's own thread, which cannot wait for itself.
        """
        if not isinstance(value, Coroutine):
            return value
        if threading.current_thread() is self._thread:
            value.close()
            raise RuntimeError(
                "an async method of a service was called from the service's own event loop without await; "
                "await self.method(...) there."
            )
        call = _Call(value)
        if not self._tell(call.begin, call):
            value.close()
            raise CancelledError
        try:
            return call.future.result()
        except KeyboardInterrupt:
            if not call.future.done():  # of who waits
                self._tell(call.cancel)
            raise
        finally:
            self._calls.discard(call)

    async def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a coroutine in this loop, from another one; cancelling that cancels it here."""
        import asyncio

        call = _Call(coroutine)
        if not self._tell(call.begin, call):
            coroutine.close()
            raise asyncio.CancelledError
        try:
            return await asyncio.shield(asyncio.wrap_future(call.future))
        except asyncio.CancelledError:
            self._tell(call.cancel)
            raise
        finally:
            self._calls.discard(call)

    def _tell(self, order: Callable[[], object], call: _Call | None = None) -> bool:
        """Have `order` called in the loop, which is started for a `call`; return whether it will be."""
        with self._lock:  # so that nothing is begun behind the order to stop
            if self._is_closed or (self._loop is None and call is None):
                return False
            if call is not None:
                self._calls.add(call)
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                self._thread = self._origin.start_thread(self._work, name=self._name)
            self._loop.call_soon_threadsafe(order)
            return True

    def _work(self) -> None:
        import asyncio

        loop = self._loop
        assert loop is not None
        while True:
            try:
                loop.run_forever()
                break
            except (SystemExit, KeyboardInterrupt):  # raised by a coroutine: who waits for it has it
                continue
        try:
            tasks = _cancel_all(loop)
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=self.CLOSING_S))
            with suppress(TimeoutError):
                loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), self.CLOSING_S))
        finally:
            loop.close()
            for call in tuple(self._calls):  # a coroutine that would not be cancelled keeps nobody waiting
                call.future.cancel()

    def cancel(self) -> None:
        """Cancel what runs in the loop: unlike a thread, a hung coroutine can be ended."""
        self._tell(lambda: _cancel_all(self._loop))

    def close(self) -> None:
        """Cancel what still runs in the loop and let its thread end; may be called twice."""
        with self._lock:
            if self._loop is not None and not self._is_closed:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._is_closed = True

    def survivor(self) -> str:
        """Return where its thread and its coroutines are now, in traceback form; "" if it has none."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return ""
        import asyncio

        stacks = [f"thread {thread.name!r} is still at\n{stack_of(thread)}"]
        for task in asyncio.all_tasks(loop):
            coroutine: Any = task.get_coro()
            frames = []
            while (frame := getattr(coroutine, "cr_frame", None)) is not None:
                frames += traceback.format_stack(frame, limit=1)
                coroutine = coroutine.cr_await
            stacks.append(f"a coroutine is still at\n{''.join(frames)}")
        return "\n".join(stacks)


def _cancel_all(loop: asyncio.AbstractEventLoop | None) -> set[asyncio.Task[Any]]:
    import asyncio

    if loop is None:
        return set()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    return tasks
