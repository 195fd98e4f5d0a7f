"""Interrupts of a cell's body: the user's, and those by which a job ends it.

While a job owns the cell, SIGINT comes here. In the body it raises KeyboardInterrupt, or cancels the task of a
body that awaits; outside of the body nothing is raised, so that no line of ours can be torn: the user's goes to
the job, and one of ours that comes late, when the body has just ended, is dropped.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from types import FrameType, TracebackType
from typing import Any, Self

from autostop_lab.job.job import Job
from autostop_lab.origin import thread_name

#: Longest wait for a signal of ours that was sent and has not come yet, in seconds.
LATE_SIGNAL_S = 1.0
#: How often it is looked whether a signal has come, in seconds; two that are closer are taken for one.
LOOK_S = 0.01
#: When a signal that has not come is sent again, in seconds after it was sent: first, and at most.
RESEND_S = (0.1, 1.0)


class Sender(Enum):
    """Who interrupts."""

    USER = auto()
    JOB = auto()


class Interrupts:
    """Takes SIGINT in the main thread while it is entered, and gives back the former handler after."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._is_in_body = False
        self._is_told = False
        self._is_pending = False
        self._is_sending = False
        self._is_closed = False
        self._last: Sender | None = None
        self._task: asyncio.Task[Any] | None = None
        self._former: Any = None
        # Never taken in the handler, which may come while this thread holds it.
        self._lock = threading.Lock()
        self.has_user_interrupted = False

    def __enter__(self) -> Self:
        """Take SIGINT."""
        # None stands for a handler that is not Python's; nobody could put it back.
        self._former = signal.signal(signal.SIGINT, self._handle) or signal.default_int_handler
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back, once nothing of ours is on its way."""
        with self._lock:
            self._is_closed = True
        deadline = time.monotonic() + LATE_SIGNAL_S
        while self._is_sending and time.monotonic() < deadline:
            time.sleep(LOOK_S / 10)
        if self._is_mine():
            signal.signal(signal.SIGINT, self._former)

    def _is_mine(self) -> bool:
        return signal.getsignal(signal.SIGINT) == self._handle

    def attach(self, job: Job) -> None:
        """Take the job that the user's interrupts go to, with one that came already."""
        self._job = job
        if self.has_user_interrupted:
            job.interrupt()

    # -- from any thread -----------------------------------------------------------------------------------

    def interrupt_body(self) -> None:
        """Interrupt the body for the job, now or as soon as it begins."""
        with self._lock:
            self._is_told = True
            if self._is_in_body and not self._is_sending and not self._is_closed:
                self._is_sending = self._is_pending = True
                threading.Thread(target=self._send, name=thread_name("interrupt of a cell"), daemon=True).start()

    def _send(self) -> None:
        """Send the signal until it has come.

        It goes to the main thread itself: of one to the process, another thread might be told, and no system call
        of the main thread would end. One that comes when the main thread is about to enter a system call does not
        end that either; the next one does.
        """
        main = threading.main_thread().ident
        assert main is not None
        pause_s, longest_s = RESEND_S
        while self._is_pending:
            signal.pthread_kill(main, signal.SIGINT)
            if not self._is_mine():
                break  # the body's own handler, or that of a job within the body
            again_s = time.monotonic() + pause_s
            while self._is_pending and time.monotonic() < again_s:
                time.sleep(LOOK_S)
            pause_s = min(2 * pause_s, longest_s)
        time.sleep(LOOK_S)
        self._is_sending = False

    # -- in the main thread --------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_pending:
            self._is_pending = False
            self.interrupt(Sender.JOB)
        elif not self._is_sending and not self._is_closed:
            self.interrupt(Sender.USER)

    def interrupt(self, sender: Sender) -> None:
        """Interrupt the body if it runs; else tell the job of what the user wants."""
        if not self._is_in_body:
            if sender is Sender.USER:
                self.has_user_interrupted = True
                if self._job is not None:
                    self._job.interrupt()
            return
        self._last = sender
        if self._task is None or asyncio.current_task(self._task.get_loop()) is self._task:
            raise KeyboardInterrupt
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _begin_body(self) -> None:
        with self._lock:
            if self._is_told:  # before it could begin
                self._last = Sender.JOB
                raise KeyboardInterrupt
            self._is_in_body = True

    def run(self, body: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """Run a body; return its value and what it raised."""
        value, error = None, None
        try:
            try:
                self._begin_body()
                value = body()
            finally:
                self._is_in_body = False
        except BaseException as raised:
            error = self._blame(raised)
        return value, error

    async def run_async(self, body: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
        """Run a body that awaits, as a task of its own; return its value and what it raised.

        A KeyboardInterrupt must not leave the task, or it would end the event loop; nor must a cancellation.
        """
        self._task = asyncio.current_task()
        value, error = None, None
        try:
            try:
                self._begin_body()
                value = await body()
            finally:
                self._is_in_body = False
        except BaseException as raised:
            error = self._blame(raised)
        return value, error

    def _blame(self, error: BaseException) -> BaseException:
        """Note that the user has interrupted the body, and show what a cancelled task raises as that."""
        _forget_handler(error.__traceback__)
        if self._is_pending:  # a job within the body has taken the signal
            self._last = Sender.JOB
        is_interrupt = isinstance(error, KeyboardInterrupt) or (
            isinstance(error, asyncio.CancelledError) and self._last is not None
        )
        if not is_interrupt or self._last is Sender.JOB:
            return error
        self.has_user_interrupted = True
        if self._job is not None:
            self._job.interrupt()
        if isinstance(error, KeyboardInterrupt):
            return error
        return KeyboardInterrupt().with_traceback(error.__traceback__)


def _forget_handler(traceback: TracebackType | None) -> None:
    """Cut the frames of our handler off the end of a traceback: it ends where the body was."""
    while traceback is not None:
        following = traceback.tb_next
        if following is not None and following.tb_frame.f_code is Interrupts._handle.__code__:
            traceback.tb_next = None
        traceback = traceback.tb_next
