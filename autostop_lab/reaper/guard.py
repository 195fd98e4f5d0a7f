"""The owner's end: starts the reaper when it is first needed, tells it what there is, and replaces it when it dies.

One thread talks to the reaper; whoever calls only lines up requests, and waits for an answer where that matters.
A reaper that dies is replaced at once and told everything anew; one that does not answer is killed first. If they
die again and again there are pauses, the guard is degraded, and says so once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from autostop_lab.reaper import forks
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.link import Link
from autostop_lab.reaper.outbox import Entry, Outbox
from autostop_lab.reaper.session import Session, current_session, end_session
from autostop_lab.reaper.talk import IDLE_S, StartError, Talk
from autostop_lab.reaper.timings import DEFAULT, Timings

logger = logging.getLogger("autostop_lab.reaper")

#: Name of the thread that talks to the reaper.
THREAD_NAME = "autostop-lab: guard"
#: Reapers that are started to say goodbye to, if those before them died of it.
TRIES_TO_SAY_BYE = 3
#: Reapers in a row that ended before they said that they are there, until whoever waits for one is told.
MOST_STILLBORN = 3


class GuardError(Exception):
    """Nobody guards what was to be registered; the text says why."""


class GuardState(StrEnum):
    """Whether a reaper guards this process."""

    OFF = "off"  # not needed so far, or no more
    GUARDING = "guarding"
    DEGRADED = "degraded"  # it dies again and again, cannot be started, or cannot write its journal


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """How it stands with the reaper.

    Attributes
    ----------
    state : GuardState
        Whether it guards.
    reason : str
        Why it is degraded; "" otherwise.
    pid : int or None
        Pid of the reaper that answers; None while there is none.
    """

    state: GuardState
    reason: str = ""
    pid: int | None = None


class Guard:
    """Sees to it that a reaper knows what this process owns.

    It lives as long as its session. All methods may be called from any thread, and none blocks longer than its
    time-out.

    Parameters
    ----------
    session : Session
        Whose services and folders are guarded.
    timings : Timings
        How long what may take.

    Attributes
    ----------
    is_bye_asked : bool
        Whether `bye` was called.
    """

    def __init__(self, session: Session, timings: Timings = DEFAULT) -> None:
        self.session = session
        self.is_bye_asked = False
        self._timings = timings
        self._lock = threading.RLock()  # a signal may come, and say goodbye, while the main thread holds it
        self._outbox: Outbox | None = None
        self._link: Link | None = None
        self._news = threading.Condition(self._lock)  # of the four that follow
        self._has_reaper = False  # one that guards
        self._attempt = 0  # number of the last reaper that was launched, or should have been
        self._failed_attempt = 0  # and of the one after which those who waited were told that there is none
        self._is_done = threading.Event()
        self._is_wanted = False  # by somebody who waits
        self._failure = ""  # why none could be started
        self._last_problem = ""
        self._journal_problem = ""
        self._deaths: deque[float] = deque()
        self._stillborn = 0  # in a row
        self._status = GuardStatus(GuardState.OFF)
        self._listeners: list[Callable[[GuardStatus], None]] = []

    # -- for callers ---------------------------------------------------------------------------------------

    @property
    def status(self) -> GuardStatus:
        """How it stands with the reaper."""
        return self._status

    @property
    def pids(self) -> frozenset[int]:
        """Pids of the reaper, which is a child of whoever adopts orphans, and of the process that starts it."""
        link = self._link
        if link is None:
            return frozenset()
        reaper_pid = link.reaper.pid if link.reaper is not None else None
        return frozenset(pid for pid in (link.launcher_pid, reaper_pid) if pid is not None)

    def on_change(self, listener: Callable[[GuardStatus], None]) -> Callable[[], None]:
        """Have `listener` called with each new status, in the guard's thread; return what takes that back."""
        self._listeners.append(listener)

        def remove() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    def begin(self) -> None:
        """Start the reaper if there is none, and do not wait for it.

        Raises
        ------
        GuardError
            This process has said goodbye, or is another one by now.
        """
        self._begin().wake()

    def _begin(self) -> Outbox:
        with self._lock:
            if self.is_bye_asked:
                raise GuardError("the session is over: its reaper was told goodbye")
            if self.session.pid != os.getpid():
                raise GuardError("this is a forked child: the session and its reaper are its parent's")
            if self._is_done.is_set():
                raise GuardError(self._failure or "the guard has ended")
            self._is_wanted = True
            if self._outbox is None:
                self._outbox = self._start()
            return self._outbox

    def _start(self) -> Outbox:
        try:
            outbox = Outbox()
        except OSError as error:
            raise GuardError(f"the reaper could not be started: {error}") from error
        try:
            threading.Thread(target=self._run, args=(outbox,), name=THREAD_NAME, daemon=True).start()
        except RuntimeError as error:
            outbox.close()
            raise GuardError(f"the reaper could not be started: {error}") from error
        return outbox

    def ensure(self) -> None:
        """Start the reaper if there is none, and return when it guards the session.

        Raises
        ------
        GuardError
            There is no reaper, and none can be started.
        """
        with self._news:
            outbox, attempt = self._begin(), self._attempt
            outbox.wake()
            # The failure of an attempt that went on already says nothing of the next.
            self._news.wait_for(
                lambda: self._has_reaper or self._failed_attempt > attempt or self._is_done.is_set(),
                self._timings.register_timeout_s,
            )
            if not self._has_reaper:
                raise GuardError(self._problem())

    def _problem(self) -> str:
        why = f": {self._last_problem}" if self._last_problem else ""
        return self._failure or f"no reaper could be reached within {self._timings.register_timeout_s:g} s{why}"

    def register(self, lease: Lease, output_fd: int | None = None) -> None:
        """Register a lease, or its new text, and return when the reaper has it in its journal.

        Parameters
        ----------
        lease : Lease
            What is to be guarded from now on.
        output_fd : int or None
            Read end of the program's output. The reaper gets a duplicate and drains it when this process no
            longer does.

        Raises
        ------
        GuardError
            The reaper has refused it, or there is none. Nothing is registered then.
        """
        outbox = self._begin()
        try:
            entry = outbox.add(lease, forks.duplicate(output_fd) if output_fd is not None else None)
        except OSError as error:
            raise GuardError(f"its output cannot be shared with the reaper: {error}") from error
        if entry.answered.wait(self._timings.register_timeout_s):
            if not entry.refusal:
                return
            problem = entry.refusal
        else:
            problem = self._problem()
        outbox.take_back(entry)
        raise GuardError(problem)

    def note_asked(self, instance_id: str) -> None:
        """Note that the polite signal has been sent: the reaper must not send it a second time. Does not wait."""
        if self._is_usable and self._outbox is not None:
            self._outbox.note_asked(instance_id)

    def release(self, instance_id: str, *, only_folder: bool = False) -> None:
        """Take a lease back, since nothing of it is left; an unknown one is ignored. Does not wait.

        Parameters
        ----------
        instance_id : str
            Whose lease.
        only_folder : bool
            Whether the lease of a program stays.
        """
        if self._is_usable and self._outbox is not None:
            self._outbox.release(instance_id, only_folder=only_folder)

    def leases(self) -> list[Lease]:
        """Return what is registered."""
        return self._outbox.leases() if self._outbox is not None else []

    @property
    def _is_usable(self) -> bool:
        return self.session.pid == os.getpid() and not self._is_done.is_set()

    def bye(self) -> None:
        """Say goodbye: the reaper ends what is still registered, in order and with full grace periods, and goes.

        Returns when the reaper has heard it. The session is over then; the next use begins a new one.
        """
        with self._lock:
            is_first, self.is_bye_asked = not self.is_bye_asked, True
            outbox = self._outbox
        end_session(self.session)
        if is_first and outbox is not None and self.session.pid == os.getpid():
            outbox.wake()
            self._is_done.wait(self._timings.bye_timeout_s)

    # -- the thread that talks to the reaper ---------------------------------------------------------------

    def _run(self, outbox: Outbox) -> None:
        tries_to_say_bye = 0
        last = GuardStatus(GuardState.OFF)
        try:
            while tries_to_say_bye < TRIES_TO_SAY_BYE:
                with self._lock:
                    self._is_wanted = False
                    self._attempt += 1
                tries_to_say_bye += self.is_bye_asked
                problem = self._live_one_reaper(outbox)
                if problem is None or (self.is_bye_asked and outbox.is_empty):
                    return
                self._note_death(outbox, problem)
                if self.is_bye_asked and self._failure and outbox.is_empty:
                    return
        except Exception:
            logger.exception("the guard has failed: the services of this process are guarded no more")
            last = GuardStatus(GuardState.DEGRADED, self._fail(outbox, outbox.waiting(), "the guard has failed"))
        finally:
            self._is_done.set()
            with self._news:
                self._news.notify_all()
            outbox.close()
            self._set_status(last)

    def _live_one_reaper(self, outbox: Outbox) -> str | None:
        """Start a reaper and talk to it; return why it is gone, None if it was told goodbye."""
        waiting = outbox.waiting()
        try:
            self._link = Link()
        except (OSError, ValueError, TypeError) as error:
            return self._fail(outbox, waiting, f"the reaper could not be started: {error}")
        try:
            problem = Talk(self._link, self.session, outbox, self, self._timings).run()
            self._stillborn = 0 if self._link.reaper is not None else self._stillborn + 1
            if self._stillborn >= MOST_STILLBORN:
                why = "the reaper could not be started: it ends before it says that it is there"
                problem = self._fail(outbox, waiting, why)
            return problem
        except StartError as error:
            return self._fail(outbox, waiting, str(error))
        except OSError as error:  # no descriptor left, say: for the moment there is none
            return self._fail(outbox, waiting, f"the reaper cannot be talked to: {error}")
        finally:
            self._has_reaper = False
            self._link.close()
            self._link = None
            outbox.close_unused()

    def _fail(self, outbox: Outbox, waiting: list[Entry], why: str) -> str:
        """Tell those who waited already when this attempt began that there is no reaper."""
        with self._news:
            self._failure, self._failed_attempt, self._has_reaper = why, self._attempt, False
            self._news.notify_all()
        outbox.refuse(waiting, why)
        return why

    def _note_death(self, outbox: Outbox, problem: str) -> None:
        self._last_problem = problem
        self._deaths.append(time.monotonic())
        pauses_s = self._timings.respawn_pauses_s
        until = time.monotonic() + pauses_s[min(self._recent_deaths(), len(pauses_s)) - 1]
        self.judge()
        # Whoever needs one that could not be started has it tried again at once; if nobody does, it is not.
        while not self.is_bye_asked and not (self._failure and self._is_wanted):
            left_s = IDLE_S if self._failure and outbox.is_empty else until - time.monotonic()
            if left_s <= 0:
                return
            outbox.sleep(left_s)
            outbox.close_unused()

    def _recent_deaths(self) -> int:
        oldest = time.monotonic() - self._timings.degraded_window_s
        while self._deaths and self._deaths[0] < oldest:
            self._deaths.popleft()
        return len(self._deaths)

    # -- heard in the talk ---------------------------------------------------------------------------------

    def note_greeted(self) -> None:
        """Hear that the reaper guards the session."""
        with self._news:
            self._failure, self._has_reaper = "", True
            self._news.notify_all()

    def note_journal(self, problem: str) -> None:
        """Hear why the journal cannot be written, "" if it can again."""
        self._journal_problem = problem

    def judge(self) -> float:
        """Find out how it stands; return for how long that holds if nothing happens, in seconds."""
        deaths = self._recent_deaths()
        reason = self._failure or self._journal_problem
        if deaths >= self._timings.degraded_deaths:
            reason = f"the reaper died {deaths} times within {self._timings.degraded_window_s:g} s; at last, "
            reason += self._last_problem
        if reason and not self._status.reason:
            logger.warning(
                "the guard is degraded: %s. If this process is killed now, its services may live until the next "
                "session, or `autostop-lab sweep`, ends them.",
                reason,
            )
        elif self._status.reason and not reason:
            logger.info("the guard is healthy again")
        reaper = self._link.reaper if self._link is not None else None
        state = GuardState.DEGRADED if reason else GuardState.GUARDING
        self._set_status(GuardStatus(state, reason, reaper.pid if reaper is not None else None))
        return max(self._deaths[0] + self._timings.degraded_window_s - time.monotonic(), 0.01) if deaths else IDLE_S

    def _set_status(self, status: GuardStatus) -> None:
        if status == self._status:
            return
        self._status = status
        for listener in list(self._listeners):
            try:
                listener(status)
            except Exception:
                logger.exception("a listener of the guard has failed")


def current_guard() -> Guard:
    """Return the guard of this process's session; a forked child gets one of its own."""
    with forks.fork_lock:
        session = current_session()
        if not isinstance(session.guard, Guard):
            session.guard = Guard(session)
        return session.guard
