"""One thread for all live outputs of the kernel: ten times a second it lets each show its latest state."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from autostop_lab.jupyter.panel.regions import UPDATE_S
from autostop_lab.origin import thread_name

logger = logging.getLogger("autostop_lab.jupyter")

#: After so many failures one after another an output is given up.
MOST_FAILURES = 20


class Live(Protocol):
    """What is shown live."""

    def tick(self) -> bool:
        """Show its latest state; return whether there is more to come."""


class Publisher:
    """Lets live outputs show themselves until they are over; its thread lives as long as one of them."""

    def __init__(self) -> None:
        self._live: list[Live] = []
        self._failures: dict[int, int] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, live: Live) -> None:
        """Show this from now on, until it is over."""
        with self._lock:
            self._live.append(live)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=thread_name("view"), daemon=True)
                self._thread.start()
        self._wake.set()

    def remove(self, live: Live) -> None:
        """Show this no more; one that is not there is ignored."""
        with self._lock:
            self._live = [kept for kept in self._live if kept is not live]

    def hurry(self) -> None:
        """Let all show themselves now, since something is over."""
        self._wake.set()

    def _work(self) -> None:
        while True:
            for live in tuple(self._live):
                if not self._has_more(live):
                    self.remove(live)
            with self._lock:
                if not self._live:
                    self._thread = None
                    return
            self._wake.wait(UPDATE_S)
            self._wake.clear()

    def _has_more(self, live: Live) -> bool:
        """Let one show itself. A view must never hurt: what fails again and again stays as it was."""
        try:
            has_more = live.tick()
        except Exception:
            failures = self._failures.get(id(live), 0) + 1
            self._failures[id(live)] = failures
            if failures == 1:
                logger.warning("a live output could not be shown; it is tried again", exc_info=True)
            return failures < MOST_FAILURES
        self._failures.pop(id(live), None)
        return has_more


publisher = Publisher()
