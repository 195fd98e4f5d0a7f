"""How this process ends, and what its services get of the time that is left.

The end is seen by the first of: the kernel's shutdown request, a signal to end, the interpreter's exit. Whoever sees
it begins to close every environment, once; all services together then have `EXIT_BUDGET_S`. Objects of this process
are stopped and cleaned within it. Programs and host processes that need longer are left to the reaper, which gives
them their whole grace period in the right order; where there is no reaper they are killed within the budget. After a
death that nobody sees (SIGKILL, a crash, exec) the reaper does all of it.

Nothing of ours can hold the exit up:

- every thread is a daemon thread, and none works through the interpreter's executors, whose exit waits for hung ones:
  the supervisor's loop, hooks and event loops of services, job code, calls in the background, the sweep, the watch of
  an exit, the guard's;
- at exit this module runs once, bounded by the budget; then the supervisor's loop ends, bounded by `LAST_TASKS_S`;
- the folder of a service object that was made by hand is removed by a finalizer, which waits for nobody;
- a signal's work is done in a thread that the handler waits for no longer than the budget, so that a lock which the
  interrupted code holds delays the end and does not prevent it.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

from autostop_lab.origin import thread_name
from autostop_lab.reaper.guard import current_guard
from autostop_lab.supervisor.loop import close_supervisor_loop

#: All services together have this long at the end of the process, in seconds: Jupyter kills a kernel 2.5 s after
#: it was asked to shut down.
EXIT_BUDGET_S = 1.5
#: How long a signal's handler waits beyond the budget, in seconds.
LAST_WAIT_S = 0.5
#: Signals that ask a process to end, and would end it on the spot.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Closable(Protocol):
    """An environment, as the end of the process sees it."""

    def close_at_exit(self, reason: str, budget_s: float) -> Callable[[], None]:
        """Begin to close, within `budget_s`; the returned function waits for the end. May be called twice."""


class Ends:
    """Closes what is open when this process ends.

    Parameters
    ----------
    opened : callable
        Returns the environments that are open, oldest first.
    """

    def __init__(self, opened: Callable[[], Iterable[Closable]]) -> None:
        self._opened = opened
        self._pid = os.getpid()
        self._former: dict[int, Any] = {}
        self._is_watching = False
        self._forking = threading.local()

    def watch(self) -> None:
        """Begin to watch for the end; called with each new environment, and does nothing the second time.

        Handlers of signals can be set in the main thread only. A signal that is ignored, or has a handler that is
        not Python's, stays as it is.
        """
        if not self._is_watching:
            self._is_watching = True
            atexit.register(self._at_exit)
            os.register_at_fork(
                before=self._hold_signals, after_in_parent=self._let_signals_go, after_in_child=self._give_signals_back
            )
        if threading.current_thread() is threading.main_thread():
            for number in ENDING_SIGNALS:
                former = signal.getsignal(number)
                if former not in (signal.SIG_IGN, None, self._handle):
                    self._former[number] = former
                    signal.signal(number, self._handle)

    def begin(self, reason: str) -> list[Callable[[], None]]:
        """Begin to close all that is open, and return what waits for it; does not wait itself."""
        if os.getpid() != self._pid:
            return []  # a forked child: the services are its parent's
        return [environment.close_at_exit(reason, EXIT_BUDGET_S) for environment in reversed(list(self._opened()))]

    def close(self, reason: str) -> None:
        """Close all that is open, within the budget."""
        deadline_s = time.monotonic() + EXIT_BUDGET_S + LAST_WAIT_S
        for wait in self.begin(reason):
            if time.monotonic() < deadline_s:
                with suppress(TimeoutError):  # what is late is the reaper's, or ends with the process
                    wait()
        current_guard().bye()

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self.close("the process ends")
            close_supervisor_loop()

    # -- signals -------------------------------------------------------------------------------------------

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Close what is open, then do what the signal would have done without us."""
        closing = _Closing(self, number)
        former: Any = None
        is_told = False
        while not is_told:
            # The body of a job in this thread is ended by an interrupt, which may come at any line here, and again.
            with suppress(KeyboardInterrupt):
                closing.wait()
                former = self._former.get(number, signal.SIG_DFL)
                signal.signal(number, former)
                if not callable(former):
                    os.kill(os.getpid(), number)
                is_told = True
        self._former.pop(number, None)
        if callable(former):
            former(number, frame)

    def _hold_signals(self) -> None:
        # A signal that reaches a forked child before its handlers are put back would be lost: Python forgets, in the
        # child, what came before the fork was complete.
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)

    def _let_signals_go(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _give_signals_back(self) -> None:
        """Let a forked child end as it would without us."""
        for number, former in self._former.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, former)
        self._former.clear()
        self._let_signals_go()


class _Closing:
    """The work of a signal's handler, in a thread: the code that was interrupted may hold any lock.

    Parameters
    ----------
    ends : Ends
        Who closes.
    number : int
        The signal.
    """

    def __init__(self, ends: Ends, number: int) -> None:
        self._ends = ends
        self._reason = f"the process got {signal.Signals(number).name}"
        self._is_done = threading.Event()
        self._is_begun = False
        self._until_s = time.monotonic() + EXIT_BUDGET_S + LAST_WAIT_S

    def wait(self) -> None:
        """Wait for its end, within the budget; called again after an interrupt."""
        if not self._is_begun:
            threading.Thread(target=self._work, name=thread_name("end by a signal"), daemon=True).start()
            self._is_begun = True
        # Not by Thread.join(): after an interrupt that takes a thread for dead which lives (Python 3.11).
        self._is_done.wait(max(0.0, self._until_s - time.monotonic()))

    def _work(self) -> None:
        try:
            self._ends.close(self._reason)
        finally:
            self._is_done.set()
