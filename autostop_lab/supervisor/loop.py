"""The event loop that all supervisors of this process run on, in one daemon thread.

It is started by the first service or job and lives as long as the process. No user code runs in it.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from autostop_lab.origin import thread_name

Result = TypeVar("Result")

#: How often who waits wakes up to see an interrupt, in seconds. A signal may be taken by another thread, and then
#: nothing wakes the main thread; and ipykernel delivers the interrupt of an ``await`` only when its loop wakes up.
TICK_S = 0.1
#: How long tasks have to end that are cancelled at the end of the process, in seconds.
LAST_TASKS_S = 0.5


def wait_in_ticks(event: threading.Event, timeout_s: float | None = None) -> bool:
    """Wait for an event and return whether it came, waking up often enough to see an interrupt.

    A signal may be taken by another thread (the main thread blocks it while it starts one); then nothing wakes the
    main thread up, and Python acts on signals in no other.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not event.wait(max(0.0, min(TICK_S, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


def result_in_ticks(future: Future[Result]) -> Result:
    """Return a future's value as soon as it is there, waking up often enough to see an interrupt."""
    is_done = threading.Event()
    future.add_done_callback(lambda _: is_done.set())
    wait_in_ticks(is_done)
    return future.result()


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.SelectorEventLoop()
        self._is_over = False
        self.thread = threading.Thread(target=self._work, name=thread_name("supervisor"), daemon=True)
        self.thread.start()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_over:
            # Whoever waits for a task that has raised one of these has it; the loop goes on for all others.
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
        # The process ends: what is still under way is told, so that it ends without a word.
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=LAST_TASKS_S))
        self.loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine in the loop and return a future of its value."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and return its value; blocks the calling thread."""
        if threading.current_thread() is self.thread:
            coroutine.close()
            raise RuntimeError("a supervisor cannot wait for itself")
        return result_in_ticks(self.submit(coroutine))

    def post(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop soon; does not wait."""
        self.loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the loop and its thread, at the end of the process."""
        if self.pid == os.getpid():
            self.loop.call_soon_threadsafe(self._stop)
            self.thread.join(2 * LAST_TASKS_S)

    def _stop(self) -> None:
        self._is_over = True
        self.loop.stop()


_current: LoopThread | None = None
_lock = threading.Lock()


def supervisor_loop() -> LoopThread:
    """Return this process's loop; a forked child gets one of its own."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = LoopThread()
        return _current


def close_supervisor_loop() -> None:
    """End this process's loop, if it has one: the last thing at the end of the process."""
    if _current is not None:
        _current.close()
