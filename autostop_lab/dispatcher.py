"""One job: start its services, run its code, clean up, write the receipt. All of it on the supervisor's event loop.

The first reason to end a job decides what it ends with; what fails afterwards is told in notes and in the receipt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from autostop_lab.dataflow.control import Control
from autostop_lab.exceptions import (
    JobCancelledError,
    JobError,
    JobTimeoutError,
    ServiceCrashedError,
)
from autostop_lab.job.audit import Belongings, Leak, find_leaks
from autostop_lab.job.code import JobCode
from autostop_lab.job.job import Job
from autostop_lab.job.report import CleanupReport, ServiceEntry
from autostop_lab.lifecycle import JobState, JobTrigger
from autostop_lab.origin import Origin
from autostop_lab.services.runtime import Exit, describe_error
from autostop_lab.services.threads import call_in_thread
from autostop_lab.supervisor.loop import LoopThread
from autostop_lab.supervisor.outcome import Life
from autostop_lab.supervisor.supervisor import Supervisor, program_pids
from autostop_lab.supervisor.unit import Unit

logger = logging.getLogger("autostop_lab.dispatcher")

class Cause(Enum):
    """Why a job ends; the first one counts."""

    DONE = auto()
    STOPPED = auto()
    CANCELLED = auto()
    TIMED_OUT = auto()
    SERVICE_LOST = auto()
    FAILED = auto()


@dataclass(frozen=True)
class Verdict:
    """Why a job ends, in words, and with what error."""

    cause: Cause
    reason: str = ""
    error: BaseException | None = None


class Dispatcher:
    """Takes one job through its life.

    Parameters
    ----------
    job : Job
        The job.
    code : JobCode
        What it computes.
    supervisor : Supervisor
        Keeps the environment's services.
    control : Control
        Shared with the code: its ``stopping`` is the job's.
    loop : LoopThread
        Where all this runs.
    origin : Origin
        Where it was submitted.
    is_shared : callable
        Whether other jobs run, too.
    """

    def __init__(
        self,
        job: Job,
        code: JobCode,
        supervisor: Supervisor,
        *,
        control: Control,
        loop: LoopThread,
        origin: Origin,
        is_shared: Callable[[], bool],
    ) -> None:
        self._job = job
        self._code = code
        self._supervisor = supervisor
        self._control = control
        self._loop = loop
        self._origin = origin
        self._is_shared = is_shared
        self._verdict: Verdict | None = None
        self._result: Any = None
        self._code_ended = asyncio.Event()
        self._is_code_abandoned = False
        self._starting: asyncio.Future[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._lost: list[str] = []
        self._run: asyncio.Future[None] | None = None
        job.attach(self)

    # -- orders, from any thread ---------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Drain the job."""
        self._loop.post(lambda: self._end(JobTrigger.STOP, Verdict(Cause.STOPPED, reason)))

    def cancel(self, reason: str) -> None:
        """Cancel the job."""
        self._loop.post(lambda: self._end(JobTrigger.CANCEL, Verdict(Cause.CANCELLED, reason)))

    def interrupt(self) -> None:
        """Cancel the job, for the user's interrupt."""
        self.cancel("interrupted")

    def hurry(self) -> None:
        """Skip the grace periods of code and services."""
        self._loop.post(self._skip_graces)

    def _skip_graces(self) -> None:
        self._supervisor.hurry()
        if self._grace is not None:
            self._abandon_code()

    # -- the life of a job ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin the job; called on the event loop."""
        self._job.move(JobTrigger.START)
        self._run = asyncio.ensure_future(self._take_through())
        self._run.add_done_callback(self._note_own_failure)

    def _note_own_failure(self, run: asyncio.Future[None]) -> None:
        """Whatever happens in here, whoever waits for the job is told."""
        if not run.cancelled() and (error := run.exception()) is not None:
            logger.error("job %r: its dispatcher failed", self._job.name, exc_info=error)
            report = CleanupReport(title=f"job {self._job.name!r}", state="failed", reason=describe_error(error))
            self._job.finish(result=None, exception=error, report=report)

    async def _take_through(self) -> None:
        job, options = self._job, self._job.options
        before = Belongings.now()
        was_shared = self._is_shared()
        kept = {name: self._supervisor.units[name].life.restarts for name in self._supervisor.live()}
        mine = [name for name in self._supervisor.units if name not in kept]
        self._supervisor.begin_afresh(mine)
        self._supervisor.listeners.append(job.bus.publish)
        self._supervisor.exit_listeners.append(self._note_service_exit)
        timer = None
        if options.timeout_s is not None:
            timer = self._loop.loop.call_later(options.timeout_s, self._note_timeout, options.timeout_s)
        try:
            if await self._start_services(mine):
                job.move(JobTrigger.SERVICES_READY)
                self._code.start(lambda result, error: self._loop.post(lambda: self._note_code_end(result, error)))
                await self._code_ended.wait()
        except Exception as error:  # not the user's: the code could not be begun
            self._note_own_error(error)
        finally:
            if timer is not None:
                timer.cancel()
        # What the code has registered meanwhile is the job's, too.
        mine = [name for name in self._supervisor.units if name not in kept]
        with self._supervisor.holding(mine):
            await self._clean_up(mine, kept, before, was_shared=was_shared)

    def _note_own_error(self, error: Exception) -> None:
        logger.error("job %r: its code could not be run", self._job.name, exc_info=error)
        reason = f"its code could not be run: {describe_error(error)}"
        failure = JobError(f"job {self._job.name!r}: {reason}.", job=self._job.name, job_id=self._job.id)
        failure.__cause__ = error
        self._verdict = self._verdict or Verdict(Cause.FAILED, reason, failure)
        for trigger in (JobTrigger.START_FAILED, JobTrigger.CODE_ENDED):
            if self._job.accepts(trigger):
                self._job.move(trigger, reason)
                return

    async def _start_services(self, names: Collection[str]) -> bool:
        """Start services; return whether the job's code may run."""
        if self._verdict is not None:  # an order came first
            return False
        self._starting = asyncio.ensure_future(self._supervisor.start(names, self._origin))
        await asyncio.wait({self._starting})
        if self._verdict is not None:
            return False
        if (error := self._starting.exception()) is not None:
            self._end(JobTrigger.START_FAILED, Verdict(Cause.FAILED, describe_error(error), error))
            return False
        return True

    def _end(self, trigger: JobTrigger, verdict: Verdict) -> None:
        """Make the job end, for the first reason that its table accepts."""
        if not self._job.accepts(trigger):
            return
        if self._verdict is None or self._verdict.cause is Cause.STOPPED:
            self._verdict = verdict
        state = self._job.move(trigger, verdict.reason)
        if state is JobState.DRAINING:
            if self._code.drain():
                self._set_grace()
        elif state is JobState.CANCELLING:
            self._code.cancel()
            self._set_grace()
        elif state is JobState.CLEANING_UP:
            self._control.stopping.set()
            if self._starting is not None:
                self._starting.cancel()

    def _set_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self._grace = self._loop.loop.call_later(self._job.options.cancel_timeout_s, self._abandon_code)

    def _abandon_code(self) -> None:
        if self._job.accepts(JobTrigger.GRACE_OVER) and not self._code_ended.is_set():
            self._job.move(JobTrigger.GRACE_OVER)
            self._is_code_abandoned = True
            self._code_ended.set()

    def _note_timeout(self, timeout_s: float) -> None:
        error = JobTimeoutError(
            f"job {self._job.name!r} was not done after {timeout_s:g} s. Raise timeout_s, or look at job.progress "
            "and job.logs() for what took the time.",
            job=self._job.name,
            job_id=self._job.id,
        )
        self._end(JobTrigger.TIMED_OUT, Verdict(Cause.TIMED_OUT, f"time-out after {timeout_s:g} s", error))

    def _note_service_exit(self, unit: Unit, end: Exit) -> None:
        if end.is_clean or not unit.slot.spec.policy.critical:
            return
        # Where it gave up after restarts, its state says so.
        how = unit.slot.reason if unit.slot.reason.startswith(str(end)) else str(end)
        problem = f"service {unit.name!r} died while the job needed it: {how}"
        self._lost.append(problem)
        lines = unit.slot.ring.last_words()
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        error = ServiceCrashedError(
            f"{problem}.{said}" if said else f"{problem}. It has logged nothing.",
            service=unit.name,
            phase="run",
            exit_code=end.code,
            log_lines=lines,
        )
        error.__cause__ = end.error
        self._end(JobTrigger.SERVICE_LOST, Verdict(Cause.SERVICE_LOST, problem, error))

    def _note_code_end(self, result: Any, error: BaseException | None) -> None:
        if self._code_ended.is_set():
            return  # abandoned before
        if self._grace is not None:
            self._grace.cancel()
        if self._verdict is None:
            self._result = result
            reason = describe_error(error) if error is not None else ""
            self._verdict = Verdict(Cause.DONE if error is None else Cause.FAILED, reason, error)
        elif self._verdict.cause is Cause.STOPPED:
            self._result = result
            if error is not None and not _is_our_interrupt(error):
                self._verdict = Verdict(Cause.FAILED, describe_error(error), error)
        elif error is not None and self._verdict.error is not None and not _is_our_interrupt(error):
            self._verdict.error.__context__ = error
        reason = self._verdict.reason if self._verdict.cause is Cause.FAILED else ""
        self._job.move(JobTrigger.CODE_ENDED, reason)
        self._code_ended.set()

    # -- the end -------------------------------------------------------------------------------------------

    async def _clean_up(
        self, mine: Collection[str], kept: Mapping[str, int], before: Belongings, *, was_shared: bool
    ) -> None:
        job, options, verdict = self._job, self._job.options, self._verdict or Verdict(Cause.DONE)
        succeeded = verdict.cause in (Cause.DONE, Cause.STOPPED)
        stays = options.autostop is False or (options.autostop == "on-success" and not succeeded)
        is_started = self._starting is not None and self._starting.done() and not self._starting.cancelled()
        has_started = is_started and self._starting is not None and self._starting.exception() is None
        if not (stays and has_started):
            await self._supervisor.stop(
                mine, reason="its job is over", timeout_s=options.shutdown_timeout_s, spare=kept
            )
        self._supervisor.listeners.remove(job.bus.publish)
        self._supervisor.exit_listeners.remove(self._note_service_exit)
        leaks = await self._find_leaks(before, is_shared=was_shared or self._is_shared())
        trigger, exception = self._conclude(verdict, stays=stays and has_started)
        state = job.move(trigger, verdict.reason)
        report = CleanupReport(
            title=f"job {job.name!r}",
            state=state,
            reason=job.reason,
            elapsed_s=time.monotonic() - job.began_s,
            services=entries(self._supervisor, (*kept, *mine), restarts_before=kept),
            leaks=tuple(leaks),
        )
        if exception is not None:
            _add_notes(exception, report, self._lost if verdict.cause is not Cause.SERVICE_LOST else ())
            if not options.autostop:
                logger.warning("%s; job.result() raises it: %s", report.headline, describe_error(exception))
        job.finish(result=self._result if succeeded else None, exception=exception, report=report)

    async def _find_leaks(self, before: Belongings, *, is_shared: bool) -> list[Leak]:
        leaks = []
        if self._is_code_abandoned and (survivor := self._code.survivor()) is not None:
            leaks.append(survivor)
        if Belongings.now() - before:
            ours = program_pids()
            search: Awaitable[list[Leak]] = call_in_thread(
                lambda: find_leaks(before, ours=ours, is_shared=is_shared),
                origin=self._origin,
                name="leak audit",
                or_here=True,
            )
            leaks += await search
        return leaks

    def _conclude(self, verdict: Verdict, *, stays: bool) -> tuple[JobTrigger, BaseException | None]:
        if verdict.cause in (Cause.DONE, Cause.STOPPED):
            return JobTrigger.SUCCESS, None
        if verdict.cause is Cause.CANCELLED:
            how = f" ({verdict.reason})" if verdict.reason != "cancelled" else ""
            services = "its services live on" if stays else "its services are stopped and cleaned"
            text = f"job {self._job.name!r} was cancelled{how}; {services}."
            return JobTrigger.CANCELLATION, JobCancelledError(text, job=self._job.name, job_id=self._job.id)
        assert verdict.error is not None
        return JobTrigger.FAILURE, verdict.error


def entries(
    supervisor: Supervisor, names: Collection[str], *, restarts_before: Mapping[str, int] | None = None
) -> tuple[ServiceEntry, ...]:
    """Return what became of services, in the order of their registration; earlier restarts are not counted."""
    before = restarts_before or {}
    return tuple(
        ServiceEntry.of(
            unit.name,
            unit.slot.spec.kind,
            str(unit.state),
            unit.life if unit.life.started_s else Life(),
            restarts=max(0, unit.life.restarts - before.get(name, 0)),
        )
        for name, unit in supervisor.units.items()
        if name in names
    )


def _is_our_interrupt(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | asyncio.CancelledError | JobCancelledError)


def _add_notes(exception: BaseException, report: CleanupReport, lost: Collection[str]) -> None:
    told = exception.exceptions if isinstance(exception, BaseExceptionGroup) else (exception,)
    entries_to_tell = [
        entry for entry in report.services if entry.is_trouble and not any(entry.error is error for error in told)
    ]
    for note in (*lost, report.note, *(f"service {entry.name!r}: {entry.note}" for entry in entries_to_tell)):
        with suppress(Exception):  # an exception need not take notes
            exception.add_note(note)
