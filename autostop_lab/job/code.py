"""What a job computes, wherever it runs: a function in a thread, or the body of a notebook cell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol

from autostop_lab.dataflow.control import Control
from autostop_lab.job.audit import Leak
from autostop_lab.job.job import Job, run_as
from autostop_lab.origin import Origin
from autostop_lab.services.coroutines import stack_of

OnEnd = Callable[[Any, BaseException | None], None]


class JobCode(Protocol):
    """What a job computes, wherever it runs. Orders to it return at once."""

    def start(self, on_end: OnEnd) -> None:
        """Begin; `on_end` is called once, from whatever thread, with its value or its exception."""

    def drain(self) -> bool:
        """Ask it to finish what is inside; return whether it has only ``cancel_timeout_s`` for that."""

    def cancel(self) -> None:
        """Ask it to end now."""

    def survivor(self) -> Leak | None:
        """Return what of it still runs."""


class ThreadCode:
    """Job code in a daemon thread: a pipeline in its engine, or a callable.

    Parameters
    ----------
    job : Job
        Whose code it is.
    function : callable
        The code.
    control : Control
        How it is asked to end.
    origin : Origin
        Under whose cell its output appears.
    drains : bool
        Whether asking it to drain is bounded by the job's time-out only (a pipeline), not by
        ``cancel_timeout_s`` (a callable).
    """

    def __init__(
        self, job: Job, function: Callable[[], Any], control: Control, origin: Origin, *, drains: bool
    ) -> None:
        self._job = job
        self._function = function
        self._control = control
        self._origin = origin
        self._drains = drains
        self._thread: Any = None

    def start(self, on_end: OnEnd) -> None:
        """Begin."""

        def work() -> None:
            result, error = None, None
            try:
                result = run_as(self._job, self._function)
            except BaseException as raised:
                error = raised.with_traceback(_users_part(raised.__traceback__))
            on_end(result, error)

        self._thread = self._origin.start_thread(work, name=f"job {self._job.name}")

    def drain(self) -> bool:
        """Ask it to finish what is inside."""
        self._control.drain()
        return not self._drains

    def cancel(self) -> None:
        """Ask it to end now."""
        self._control.cancel()

    def survivor(self) -> Leak | None:
        """Return its thread, if that still runs."""
        if self._thread is None or not self._thread.is_alive():
            return None
        others = [thread for thread in self._control.threads if thread.is_alive()]
        # With others, its own thread only waits for them.
        running = others or [self._thread]
        return Leak(
            kind="thread",
            what=f"{', '.join(repr(thread.name) for thread in running)}: the job's code did not stop and is abandoned",
            stack="\n".join(stack_of(thread) for thread in running),
        )


class CellCode:
    """Job code that the caller runs itself: the body of a notebook cell, in the kernel's main thread.

    Parameters
    ----------
    interrupt : callable
        Interrupts the body, once per call; may be called from any thread.
    control : Control
        Where code that looks at ``current_job().stopping`` finds that it is asked to end.

    Attributes
    ----------
    began : concurrent.futures.Future
        Done when the services are ready and the body may run; never done when it must not.
    """

    def __init__(self, interrupt: Callable[[], None], control: Control) -> None:
        self._interrupt = interrupt
        self._control = control
        self._on_end: OnEnd | None = None
        self._is_over = False
        self.began: Future[None] = Future()

    def start(self, on_end: OnEnd) -> None:
        """Let the body run."""
        self._on_end = on_end
        self.began.set_result(None)

    def end(self, result: Any, error: BaseException | None) -> None:
        """Tell that the body has ended, with its value or its exception."""
        self._is_over = True
        assert self._on_end is not None
        self._on_end(result, error)

    def drain(self) -> bool:
        """Interrupt the body."""
        self._control.drain()
        self._interrupt_body()
        return True

    def cancel(self) -> None:
        """Interrupt the body."""
        self._control.cancel()
        self._interrupt_body()

    def _interrupt_body(self) -> None:
        if not self._is_over:
            self._interrupt()

    def survivor(self) -> Leak | None:
        """Return the cell, if its body still runs."""
        if self._is_over or not self.began.done():
            return None
        return Leak(
            kind="cell",
            what="body: it did not stop and is abandoned; the cell stays busy until it returns",
            stack=stack_of(threading.main_thread()),
        )


class FollowedCode:
    """Job code that may declare more while it runs: a body, and after it the pipeline that it has built.

    Parameters
    ----------
    first : JobCode
        The body.
    follow : callable
        Called when the body has ended well and nobody has asked it to end; returns what runs after it, or None.
    control : Control
        Shared with both.
    """

    def __init__(self, first: JobCode, follow: Callable[[], JobCode | None], control: Control) -> None:
        self._now = first
        self._follow = follow
        self._control = control

    def start(self, on_end: OnEnd) -> None:
        """Begin with the body."""

        def go_on(result: Any, error: BaseException | None) -> None:
            following = None
            try:
                if error is None and not self._control.stopping.is_set():
                    following = self._follow()
            except Exception as raised:  # what the body declared cannot run
                error = raised
            if following is None:
                on_end(result, error)
            else:
                self._now = following
                following.start(on_end)

        self._now.start(go_on)

    def drain(self) -> bool:
        """Ask what runs now to finish what is inside."""
        return self._now.drain()

    def cancel(self) -> None:
        """Ask what runs now to end."""
        self._now.cancel()

    def survivor(self) -> Leak | None:
        """Return what still runs."""
        return self._now.survivor()


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame that is not ours."""
    found = traceback
    while found is not None and str(found.tb_frame.f_globals.get("__name__", "")).startswith("autostop_lab"):
        found = found.tb_next
    return found or traceback
