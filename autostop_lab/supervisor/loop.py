"""The event loop that all supervisors of this process run on, in one daemon thread.

It is started by the first service or job and lives as long as the process. No user code runs in it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from autostop_lab.origin import thread_name

Result = TypeVar("Result")


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.SelectorEventLoop()
        self.thread = threading.Thread(target=self._work, name=thread_name("supervisor"), daemon=True)
        self.thread.start()

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine in the loop and return a future of its value."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the loop and return its value; blocks the calling thread."""
        if threading.current_thread() is self.thread:
            coroutine.close()
            raise RuntimeError("a supervisor cannot wait for itself")
        return self.submit(coroutine).result()

    def post(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop soon; does not wait."""
        self.loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the loop and its thread, at the end of the process."""
        if self.pid == os.getpid():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(1.0)
            if not self.thread.is_alive():
                self.loop.close()


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
