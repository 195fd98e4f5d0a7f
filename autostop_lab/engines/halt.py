"""How all threads of a run hear that what is inside is to be discarded, wherever they wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

from autostop_lab.dataflow.control import Control


class DiscardedError(BaseException):
    """What is inside is discarded: the run was cancelled, or has failed elsewhere."""


class Halt:
    """Whether what is inside a run is to be discarded, and who waits for something and has to hear of it.

    Parameters
    ----------
    control : Control
        Who cancels the run.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._waiting: list[threading.Condition] = []
        self._event = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._forget = control.on_cancel(self.abort)
        if control.is_cancelled:
            self._event.set()

    @property
    def is_ordered(self) -> bool:
        """Whether what is inside is to be discarded."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `DiscardedError` if what is inside is to be discarded."""
        if self._event.is_set():
            raise DiscardedError

    def abort(self) -> None:
        """Discard what is inside; whoever waits is woken."""
        self._event.set()
        self._control.recall()
        for condition in list(self._waiting):
            with condition:
                condition.notify_all()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def on_abort(self, listener: Callable[[], None]) -> None:
        """Call `listener` once, from whatever thread, when what is inside is to be discarded."""
        self._listeners.append(listener)
        if self._event.is_set():
            self.abort()

    def wakes(self, condition: threading.Condition) -> threading.Condition:
        """Wake who waits on a condition when it comes to that; return it."""
        self._waiting.append(condition)
        return condition

    def rest(self, duration_s: float) -> None:
        """Wait; raise `DiscardedError` if what is inside is to be discarded meanwhile."""
        if self._event.wait(duration_s):
            raise DiscardedError

    def close(self) -> None:
        """Hear of no further orders."""
        self._forget()
