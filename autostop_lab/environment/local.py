"""`LocalEnvironment`: jobs and services of this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.declaration import Graph
from autostop_lab.dataflow.graph import Pipeline
from autostop_lab.dataflow.progress import Progress
from autostop_lab.dispatcher import Dispatcher, entries
from autostop_lab.engines import Engine, LocalEngine
from autostop_lab.environment.base import Environment, refuse_unknown_keywords
from autostop_lab.environment.registry import registry
from autostop_lab.exceptions import (
    DependencyError,
    EnvironmentClosedError,
    JobRunningError,
    PipelineError,
    ServiceStopError,
)
from autostop_lab.job.code import CellCode, FollowedCode, JobCode, ThreadCode
from autostop_lab.job.job import Job, JobOptions, current_job
from autostop_lab.job.report import CleanupReport
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import Origin
from autostop_lab.services.context import current_hook
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.slot import HealthResult, ServiceSlot
from autostop_lab.services.threads import text_of
from autostop_lab.supervisor.lifetime import HURRIED_S
from autostop_lab.supervisor.loop import LoopThread, result_in_ticks, supervisor_loop, wait_in_ticks
from autostop_lab.supervisor.plan import start_levels, unknown_service
from autostop_lab.supervisor.supervisor import Supervisor


class LocalEnvironment(Environment):
    """Services and jobs of this process.

    An environment owns its services: they end with their job (``autostop=True``), with ``stop()``, ``close()`` or
    the ``with`` block, and at the latest with the process. Made again by the same notebook cell under the same
    name, it closes the former one first, and says so.

    Parameters
    ----------
    name : str
        Name of the environment and of its jobs.
    policy : ServicePolicy or None
        What services inherit that do not say otherwise.

    Attributes
    ----------
    engine : Engine
        What runs its pipelines.

    Raises
    ------
    ConfigurationError
        An argument makes no sense.

    Examples
    --------
    >>> from autostop_lab import LocalEnvironment
    >>> words = []
    >>> env = LocalEnvironment("shout")
    >>> env.from_batch(["a", "b"]).map(str.upper).sink(words.append)
    >>> env.submit(autostop=True).state
    <JobState.SUCCEEDED: 'succeeded'>
    >>> words
    ['A', 'B']
    """

    def __init__(self, name: str, *, policy: ServicePolicy | None = None, **unknown: Any) -> None:
        refuse_unknown_keywords("LocalEnvironment", unknown, ("policy",))
        super().__init__(name, policy=policy)
        self.engine: Engine = LocalEngine()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._loop: LoopThread | None = None
        self._supervisor: Supervisor | None = None
        self._submitted: tuple[Pipeline, ...] = ()
        self._closing_report: CleanupReport | None = None
        # Not `_lock`: a signal may come while the main thread holds that.
        self._exit_lock = threading.Lock()
        self._exit_wait: Callable[[], None] | None = None
        former = registry.made_by(name, self.cell)
        if isinstance(former, LocalEnvironment) and not former._runs_caller():
            was_running = former.last_job is not None and not former.last_job.is_over
            report = former.close()
            if report.services or was_running:
                print(f"environment {name!r} of this cell's earlier run is closed: {report.headline}")
        registry.add(self)

    def _runs_caller(self) -> bool:
        """Whether the calling code is part of this environment's job."""
        job = self.last_job
        with suppress(LookupError):
            return job is not None and not job.is_over and job is current_job()
        return False

    # -- the supervisor ------------------------------------------------------------------------------------

    def _supervise(self) -> tuple[LoopThread, Supervisor]:
        """Return the loop and the supervisor, with all registered services taken in."""
        if os.getpid() != self._pid:
            raise EnvironmentClosedError(
                f"environment {self.name!r} belongs to process {self._pid}, and this is a forked child of it. "
                "Make an environment of its own here."
            )
        with self._lock:
            if self._loop is None or self._supervisor is None:
                self._loop = supervisor_loop()
                self._supervisor = self._loop.run(_make_supervisor())
                self._supervisor.listeners.append(self.bus.publish)
            loop, supervisor = self._loop, self._supervisor
            new = [
                slot
                for name, slot in self._slots.items()
                if name not in supervisor.units or supervisor.units[name].slot is not slot
            ]
            if new:
                loop.run(_add_all(supervisor, new))
            return loop, supervisor

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self._loop is not None
        return self._loop.run(coroutine)

    def _is_in_use(self, name: str) -> bool:
        job = self.last_job
        if job is not None and not job.is_over:
            return True
        return self._supervisor is not None and name in self._supervisor.units and self._supervisor.units[name].is_busy

    def _check_dependencies(self) -> None:
        start_levels({name: slot.spec.policy.depends_on for name, slot in self._slots.items()})

    # -- jobs ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all registered services without a job, for work across several cells.

        Later jobs keep them (``kept`` in the receipt); ``stop()``, ``close()``, the end of ``with`` or of the process
        ends them. Services that run already stay as they are.

        Raises
        ------
        DependencyError
            Unknown, circular or self dependency; nothing was started.
        ServiceStartError, ExceptionGroup
            One or several failed; what this call had started is stopped again.
        """
        self._check_open()
        self._check_dependencies()
        loop, supervisor = self._supervise()
        self._fresh.clear()
        names = [name for name in self._slots if name not in supervisor.live()]
        origin = Origin()
        starting = loop.submit(_start_or_roll_back(supervisor, names, origin))
        try:
            _wait_interruptibly(starting)
        except KeyboardInterrupt:
            starting.cancel()
            rolling_back = loop.submit(supervisor.stop(names, reason="interrupted"))
            _wait_interruptibly(rolling_back, on_interrupt=self._hurry)
            raise

    def submit(
        self,
        autostop: bool | str = False,
        wait: bool | None = None,
        timeout_s: float | None = None,
        cancel_timeout_s: float = 5.0,
        shutdown_timeout_s: float = 30.0,
    ) -> Job:
        """Run what was declared since the last submit as a job; with nothing new, the same as last time.

        Parameters
        ----------
        autostop : bool or "on-success"
            True: the services end with the job. ``"on-success"``: those of a job that failed stay, for a look.
            False: they stay until ``stop()``, ``close()``, the end of ``with`` or of the process.
        wait : bool or None
            Whether to return only when the job is over and clean, and to raise what it failed with; None is
            True with autostop, and False without.
        timeout_s : float or None
            Longest duration of the job in seconds, before its cleanup; None for no limit.
        cancel_timeout_s : float
            How long job code has to end when it was asked to, in seconds; then it is abandoned.
        shutdown_timeout_s : float
            Longest cleanup in seconds; then what is left is killed.

        Returns
        -------
        Job
            The job: over if it was waited for, else running.

        Raises
        ------
        JobRunningError
            A job of this environment is not over.
        PipelineError, DependencyError, ConfigurationError
            What was declared cannot run; nothing was started.
        BaseException
            If it was waited for: what the job failed with, the user's own exception with notes.
        """
        options = self._options(autostop, timeout_s, cancel_timeout_s, shutdown_timeout_s)
        job, _ = self._launch(options, self._thread_code)
        if wait if wait is not None else autostop:
            job.result()
        elif autostop is False and self._slots:
            names = ", ".join(self._slots)
            print(
                f"job {self.name!r} runs; its services ({names}) live until env.stop(), env.close(), the end of "
                "`with`, or of this process."
            )
        return job

    def submit_cell(self, options: JobOptions, *, interrupt: Callable[[], None]) -> tuple[Job, CellCode]:
        """Begin a job whose code the caller runs itself, as the notebook's magic does.

        Parameters
        ----------
        options : JobOptions
            As for `submit`.
        interrupt : callable
            Interrupts the body; may be called from any thread.

        Returns
        -------
        tuple of Job and CellCode
            The job, and the code: wait for its ``began`` (or for the job, which may end before), run the body, tell
            the code of its ``end``, then take ``job.result()``. A pipeline that the body declared runs in between.
        """
        cells: list[CellCode] = []

        def make_code(job: Job, _: tuple[Pipeline, ...], control: Control, origin: Origin) -> JobCode:
            cells.append(CellCode(interrupt, control))
            return self._followed(cells[0], job, control, origin)

        job, _ = self._launch(options, make_code, needs_pipelines=False)
        return job, cells[0]

    def submit_body(self, options: JobOptions, body: Callable[[], Any]) -> Job:
        """Begin a job whose code is a function that runs in a thread, as the notebook's magic does in the background.

        Parameters
        ----------
        options : JobOptions
            As for `submit`.
        body : callable
            Called without arguments when the services are ready. A pipeline that it declares runs after it.

        Returns
        -------
        Job
            The running job.
        """

        def make_code(job: Job, _: tuple[Pipeline, ...], control: Control, origin: Origin) -> JobCode:
            first = ThreadCode(job, body, control, origin, drains=False)
            return self._followed(first, job, control, origin)

        return self._launch(options, make_code, needs_pipelines=False)[0]

    def _followed(self, first: JobCode, job: Job, control: Control, origin: Origin) -> JobCode:
        def follow() -> JobCode | None:
            pipelines = self._graph.pipelines()
            if not pipelines:
                return None
            self._graph.seal()
            self._graph = Graph(self)
            self._start_registered_since(origin)
            job.progress = Progress(pipelines)
            return self._thread_code(job, pipelines, control, origin)

        return FollowedCode(first, follow, control)

    def _start_registered_since(self, origin: Origin) -> None:
        """Start what the body has registered, for the pipeline that it has built."""
        self._check_dependencies()
        loop, supervisor = self._supervise()
        fresh, self._fresh = list(self._fresh), set()
        if fresh:
            loop.run(supervisor.start(fresh, origin))

    def _thread_code(self, job: Job, pipelines: tuple[Pipeline, ...], control: Control, origin: Origin) -> JobCode:
        def work() -> Any:
            return self.engine.run(
                pipelines, control=control, progress=job.progress, services=_Finder(self._slots)
            )

        return ThreadCode(job, work, control, origin, drains=not pipelines[0].is_callable)

    def _launch(
        self,
        options: JobOptions,
        make_code: Callable[[Job, tuple[Pipeline, ...], Control, Origin], JobCode],
        *,
        needs_pipelines: bool = True,
    ) -> tuple[Job, JobCode]:
        """Make a job of what was declared and begin it."""
        with self._lock:
            self._check_open()
            if self.last_job is not None and not self.last_job.is_over:
                raise JobRunningError(
                    f"environment {self.name!r} is busy with job {self.last_job.id} ({self.last_job.state}). Wait for "
                    "it with env.last_job.wait(), or end it with env.last_job.stop() or .cancel().",
                    job=self.last_job.name,
                    job_id=self.last_job.id,
                )
            pipelines = self._take_pipelines() if needs_pipelines else ()
            self._check_dependencies()
            loop, supervisor = self._supervise()
            origin = Origin()
            control = Control()
            job = Job(
                self.name, options=options, control=control, progress=Progress(pipelines), slots=dict(self._slots)
            )
            code = make_code(job, pipelines, control, origin)
            self._fresh.clear()
            dispatcher = Dispatcher(
                job,
                code,
                supervisor,
                control=control,
                loop=loop,
                origin=origin,
                is_shared=lambda: bool(registry.running_jobs() - {job}),
            )
            self.last_job = job
            registry.add_job(job)
            loop.post(dispatcher.begin)
            return job, code

    @property
    def has_work(self) -> bool:
        """Whether there is anything that `submit` would run."""
        try:
            return bool(self._submitted or self._graph.pipelines())
        except PipelineError:  # one that is not finished yet
            return False

    def _take_pipelines(self) -> tuple[Pipeline, ...]:
        declared = self._graph.pipelines()
        if declared:
            self._submitted = declared
            self._graph.seal()
            self._graph = Graph(self)
        if not self._submitted:
            raise PipelineError(
                f"environment {self.name!r} has nothing to run: declare a pipeline with from_batch(...)...sink(...), "
                "or a callable with run(function). env.start() starts services without a job."
            )
        return self._submitted

    # -- the end -------------------------------------------------------------------------------------------

    def stop(self) -> CleanupReport:
        """Cancel the job if it still runs, and stop all services; the environment can be used again.

        Returns
        -------
        CleanupReport
            What became of the services. `CleanupReport.check` raises what went wrong.
        """
        return self._stop(is_final=False)

    def _stop(self, *, is_final: bool) -> CleanupReport:
        began_s = time.monotonic()
        job = self.last_job
        if os.getpid() != self._pid:
            return CleanupReport(
                title=f"environment {self.name!r}", reason="a forked child: its parent has the services"
            )
        reason = f"environment {self.name!r} was stopped"
        if self._is_in_own_hook() or self._runs_caller():
            return self._stop_without_waiting(reason, is_final=is_final)
        if job is not None and not job.is_over:
            job.cancel(reason)
            job.wait()
        if self._supervisor is None or self._loop is None:
            return CleanupReport(title=f"environment {self.name!r}", state="stopped")
        stopping = self._loop.submit(self._supervisor.stop_all(reason="environment stopped", is_final=is_final))
        _wait_interruptibly(stopping, on_interrupt=self._hurry)
        services = entries(self._supervisor, self._slots)
        return CleanupReport(
            title=f"environment {self.name!r}",
            state="stopped",
            elapsed_s=time.monotonic() - began_s,
            services=services,
        )

    def _hurry(self) -> None:
        if self._loop is not None and self._supervisor is not None:
            self._loop.post(self._supervisor.hurry)

    def _is_in_own_hook(self) -> bool:
        """Return whether a hook of one of our services calls this: what it orders would wait for the hook."""
        caller = current_hook.get()
        return caller is not None and caller.key in {slot.key for slot in self._slots.values()}

    def _stop_without_waiting(self, reason: str, *, is_final: bool) -> CleanupReport:
        """Stop for code of our own job or services, which would wait for itself."""
        loop, supervisor = self._supervise()

        def stop_services() -> None:
            loop.submit(supervisor.stop_all(reason=reason, is_final=is_final))

        job = self.last_job
        if job is not None and not job.is_over:
            job.cancel(reason)
            job.when_done(stop_services)
        else:
            stop_services()
        return CleanupReport(
            title=f"environment {self.name!r}", state="stopping", reason="ordered from within, and not waited for"
        )

    def close(self) -> CleanupReport:
        """Cancel the job if it still runs, and stop all services, for good; a second call returns the same report.

        Returns
        -------
        CleanupReport
            What became of the services.
        """
        if self._closing_report is None:
            with self._lock:
                self._is_closed = True  # so that nothing starts behind the stop
            self._closing_report = self._stop(is_final=True)
            registry.remove(self)
        return self._closing_report

    def close_at_exit(self, reason: str, budget_s: float) -> Callable[[], None]:
        """Begin to close at the end of the process, within `budget_s`; the returned function waits for the end.

        A second call begins nothing, and returns what waits for the first.
        """
        with self._exit_lock:
            if self._exit_wait is None:
                self._exit_wait = self._begin_exit(reason, budget_s)
            return self._exit_wait

    def _begin_exit(self, reason: str, budget_s: float) -> Callable[[], None]:
        self._is_closed = True
        job = self.last_job
        if self._supervisor is None or self._loop is None:
            return lambda: None
        loop, supervisor = self._loop, self._supervisor
        deadline_s = time.monotonic() + budget_s
        if job is not None and not job.is_over:
            job.cancel(reason)
        # The hurried stop and cleanup of objects that are late then have their time within the budget.
        polite_s = max(0.0, budget_s - 2 * HURRIED_S)
        stopping = loop.submit(supervisor.stop_for_exit(reason=reason, timeout_s=polite_s))

        def wait() -> None:
            stopping.exception(max(0.0, deadline_s - time.monotonic()) + HURRIED_S)
            if job is not None:
                wait_in_ticks(job.over, min(HURRIED_S, max(0.0, deadline_s - time.monotonic())))

        return wait

    def remove_service(self, name: str) -> None:
        """Stop a service and forget it; if the stop fails it stays.

        Parameters
        ----------
        name : str
            Which.

        Raises
        ------
        UnknownServiceError
            There is none of this name.
        DependencyError
            Another service depends on it.
        ServiceStopError
            It could not be stopped.
        """
        if name not in self._slots:
            raise unknown_service(name, self._slots)
        dependants = [other for other, slot in self._slots.items() if name in slot.spec.policy.depends_on]
        if dependants:
            names = ", ".join(map(repr, dependants))
            raise DependencyError(f"service {name!r} is needed by {names}; remove those first.")
        loop, supervisor = self._supervise()
        self._end_service(name, kill=False)
        if supervisor.unit(name).state is ServiceState.ABANDONED:
            survivor = supervisor.unit(name).life.survivor
            raise ServiceStopError(f"service {name!r} was abandoned: {survivor}", service=name, phase="stop")
        loop.run(_remove(supervisor, name))
        del self._slots[name]
        self._fresh.discard(name)

    def check_all(self) -> dict[str, HealthResult]:
        """Look at all services at once; return what was found, by name."""
        self._check_open()
        loop, supervisor = self._supervise()
        return loop.run(_check_all(supervisor))

    # -- orders of handles ---------------------------------------------------------------------------------

    def start_service(self, name: str) -> None:
        """Start one service, what it depends on first."""
        self._check_open()
        self._check_dependencies()
        loop, supervisor = self._supervise()
        loop.run(supervisor.start([name], Origin(), by_hand=True))

    def wake_service(self, name: str) -> None:
        """Start one service that rests because nobody called it; one that was stopped since stays at rest."""
        self._check_open()
        loop, supervisor = self._supervise()
        loop.run(supervisor.wake(name, Origin()))

    def stop_service(self, name: str) -> None:
        """Stop one service, what depends on it first."""
        self._end_service(name, kill=False)

    def kill_service(self, name: str) -> None:
        """End one service without a grace period, what depends on it first."""
        self._end_service(name, kill=True)

    def _end_service(self, name: str, *, kill: bool) -> None:
        loop, supervisor = self._supervise()
        ending = loop.submit(_end_by_hand(supervisor, name, kill=kill))
        if not self._is_in_own_hook():
            result_in_ticks(ending)

    def restart_service(self, name: str) -> None:
        """Stop one service and start it anew, with what depends on it and was running."""
        self._check_open()
        self._check_dependencies()
        loop, supervisor = self._supervise()
        restarting = loop.submit(supervisor.restart(name, Origin()))
        if not self._is_in_own_hook():
            result_in_ticks(restarting)

    def check_service(self, name: str) -> HealthResult:
        """Look at one service."""
        loop, supervisor = self._supervise()
        unit = supervisor.unit(name)
        result: HealthResult = loop.run(unit.check_health(unit.slot.spec.policy.look_timeout_s))
        return result


class _Finder:
    """Gives functions of a job the handles of its services."""

    def __init__(self, slots: dict[str, ServiceSlot]) -> None:
        self._slots = slots

    def __call__(self, name: str) -> ServiceHandle:
        if name not in self._slots:
            raise unknown_service(name, self._slots)
        return ServiceHandle(self._slots[name])

    def names(self) -> tuple[str, ...]:
        """Return the names of all of them."""
        return tuple(self._slots)


async def _check_all(supervisor: Supervisor) -> dict[str, HealthResult]:
    units = list(supervisor.units.values())
    looks = (unit.check_health(unit.slot.spec.policy.look_timeout_s) for unit in units)
    return {unit.name: result for unit, result in zip(units, await asyncio.gather(*looks), strict=True)}


async def _make_supervisor() -> Supervisor:
    return Supervisor()


async def _add_all(supervisor: Supervisor, slots: Iterable[Any]) -> None:
    for slot in slots:
        supervisor.add(slot)


async def _remove(supervisor: Supervisor, name: str) -> None:
    supervisor.remove(name)


async def _start_or_roll_back(supervisor: Supervisor, names: list[str], origin: Origin) -> None:
    try:
        await supervisor.start(names, origin)
    except BaseException:
        await supervisor.stop(names, reason="another service did not start")
        raise


async def _end_by_hand(supervisor: Supervisor, name: str, *, kill: bool) -> None:
    unit = supervisor.unit(name)
    life, was_over = unit.life, unit.life.is_over
    await supervisor.stop([name], reason="killed by hand" if kill else "stopped by hand", kill=kill, by_hand=True)
    if unit.life is life and was_over:
        return  # what it ended with then was told then
    errors = [(phase, error) for phase, error in unit.life.errors if phase != "start"]
    if errors or unit.life.survivor:
        phase, error = errors[0] if errors else ("stop", None)
        problems = "\n".join(filter(None, (text_of(error) if error else "", unit.life.survivor)))
        raise ServiceStopError(
            f"service {name!r} was stopped by hand, and that failed: {problems}",
            service=name,
            phase=phase,
        ) from error


def _wait_interruptibly(future: Future[Any], *, on_interrupt: Callable[[], object] | None = None) -> Any:
    """Wait for a future; an interrupt goes on at once, or after `on_interrupt` when the future is done."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            value = result_in_ticks(future)
            break
        except KeyboardInterrupt as raised:
            if on_interrupt is None or future.done():
                raise
            interrupt = raised
            on_interrupt()
    if interrupt is not None:
        raise interrupt
    return value
