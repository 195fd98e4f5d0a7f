"""One output under the cell that shows a job: live while it runs, a still picture with the receipt at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from IPython.display import DisplayHandle, display

from autostop_lab.events import Subscription
from autostop_lab.job.job import Job
from autostop_lab.origin import Origin

#: Shortest time between two updates, in seconds: a server drops the messages of a kernel that sends too many.
UPDATE_S = 0.1
#: How often the end of the job is looked for where no event tells it, in seconds.
LOOK_S = 1.0
#: Longest wait for the thread that updates, in seconds, at the end of a cell.
JOIN_S = 2.0


def has_pictures(shell: Any) -> bool:
    """Return whether the shell is a kernel's, with a front end that can change an output; a terminal cannot."""
    return getattr(shell, "kernel", None) is not None


class JobView:
    """Shows one job under the cell that begins it.

    It only reads the job's events, so a front end that is slow or gone never delays the job.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    name : str
        Name of the job. Its place is taken at once, above what it will print.
    """

    def __init__(self, shell: Any, name: str) -> None:
        self._name = name
        self._job: Job | None = None
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._handle: DisplayHandle | None = None
        if has_pictures(shell):
            self._handle = display({"text/plain": f"job {name!r}"}, raw=True, display_id=True)

    def begin(self, job: Job, on_end: Callable[[], None] | None = None) -> None:
        """Show a job now and with every move; `on_end` is called in a thread when its end was shown."""
        self._job = job
        job.when_done(self._is_over.set)
        news = job.bus.subscribe(max_items=1)
        self._update()

        def work() -> None:
            self._follow(news)
            if on_end is not None:
                self._show_end()
                on_end()

        if self._handle is not None or on_end is not None:
            self._thread = Origin().start_thread(work, name=f"view of job {self._name}")

    def _follow(self, news: Subscription) -> None:
        """Show the latest state whenever something has moved, until the job is over."""
        while not self._is_over.wait(UPDATE_S):
            if news.take(timeout_s=LOOK_S):
                self._update()
        news.close()

    def _update(self) -> None:
        if self._handle is not None and self._job is not None:
            self._handle.update(self._job._repr_mimebundle_(), raw=True)

    def end(self) -> None:
        """Show the end of a job that is over, or that there was none."""
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._show_end()

    def _show_end(self) -> None:
        if self._job is None:
            if self._handle is not None:
                self._handle.update({"text/plain": f"job {self._name!r} was not begun"}, raw=True)
        elif self._handle is not None:
            self._update()
        else:
            print(self._job.summary())
