"""One run of a cell as a job: environment, services, body, end."""

from __future__ import annotations

import asyncio
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast
from weakref import WeakSet

from IPython.core.error import UsageError
from IPython.display import DisplayHandle, display

from autostop_lab.environment.local import LocalEnvironment
from autostop_lab.environment.registry import registry
from autostop_lab.exceptions import ConfigurationError, JobCancelledError
from autostop_lab.job.code import CellCode
from autostop_lab.job.job import Job, JobOptions, run_as
from autostop_lab.jupyter.body import Body, compile_body
from autostop_lab.jupyter.interrupts import Interrupts, Sender
from autostop_lab.jupyter.namespace import Namespace
from autostop_lab.jupyter.options import ENVIRONMENT, CellOptions
from autostop_lab.jupyter.panel.again import Again
from autostop_lab.jupyter.raising import format_lines, hide_our_frames, raise_as_users
from autostop_lab.jupyter.view import JobView
from autostop_lab.origin import Origin, current_cell
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.supervisor.loop import TICK_S, wait_in_ticks

_in_background: WeakSet[LocalEnvironment] = WeakSet()


def make_environment(shell: Any, options: CellOptions) -> tuple[LocalEnvironment, dict[str, Any]]:
    """Make the environment of a cell with its services; one of the cell's earlier run is closed first.

    Parameters
    ----------
    shell : InteractiveShell
        The shell, in whose namespace classes and arguments are evaluated.
    options : CellOptions
        What the line of the magic asks for.

    Returns
    -------
    tuple of LocalEnvironment and dict
        The environment, and what the body finds: it, and a handle for each service.

    Raises
    ------
    UsageError
        Something that the line asks for makes no sense; nothing is started.
    """
    classes = [service.find_class(shell.user_ns) for service in options.services]
    _close_former(options.name)
    policy = None if options.stop_timeout_s is None else ServicePolicy(stop_timeout_s=options.stop_timeout_s)
    try:
        env = LocalEnvironment(options.name, policy=policy)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    handles: dict[str, ServiceHandle] = {}
    try:
        for service, found in zip(options.services, classes, strict=True):
            args, kwargs = service.find_arguments(shell.user_ns, handles)
            if service.runtime is not None:
                kwargs = {**kwargs, "runtime": service.runtime}
            handles[service.name] = env.register_service(service.name, found, *args, **kwargs)
    except BaseException as error:
        env.close()
        if isinstance(error, ConfigurationError):
            raise UsageError(str(error)) from None
        raise
    return env, {ENVIRONMENT: env, **handles}


def _close_former(name: str) -> None:
    """Close what the same cell has left running under another name; under the same, its successor does that."""
    for env in tuple(_in_background):
        if env.cell is not None and env.cell == current_cell() and env.name != name and env in registry.environments():
            print(f"job {env.name!r} of this cell's earlier run is closed: {env.close().headline}")


def _job_options(options: CellOptions) -> JobOptions:
    return JobOptions(autostop=True, timeout_s=options.timeout_s)


class CellJob:
    """A job whose body runs in the main thread; the cell ends when all is clean.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    namespace : Namespace
        Where the body finds its services.
    options : CellOptions
        What the line of the magic asks for.
    body : Body
        The body.
    text : str
        The body as it was written.
    """

    def __init__(self, shell: Any, namespace: Namespace, options: CellOptions, body: Body, text: str) -> None:
        self._shell = shell
        self._namespace = namespace
        self._options = options
        self._body = body
        self._text = text
        self._interrupts = Interrupts()
        self._body_error: BaseException | None = None

    def run(self) -> None:
        """Run it; return when it is over and clean, or raise what it failed with."""
        env, variables = self._prepare()
        with self._interrupts, ExitStack() as at_end:
            job, code = self._begin(env, variables, at_end)
            is_ready, is_over = threading.Event(), threading.Event()
            _tell(job, code, is_ready.set, is_over.set)
            wait_in_ticks(is_ready)
            if code.began.done():
                self._end_body(code, *self._interrupts.run(lambda: run_as(job, self._body.run)))
            wait_in_ticks(is_over)
        self._raise(job)

    async def run_async(self) -> None:
        """Run it in the shell's event loop, which goes on meanwhile."""
        env, variables = self._prepare()
        with self._interrupts, ExitStack() as at_end:
            job, code = self._begin(env, variables, at_end)
            loop = asyncio.get_running_loop()
            ready, over = loop.create_future(), loop.create_future()
            _tell(
                job,
                code,
                lambda: loop.call_soon_threadsafe(_set, ready),
                lambda: loop.call_soon_threadsafe(_set, over),
            )
            await self._done(ready)
            if code.began.done():
                body = self._interrupts.run_async(self._body.run_async)
                task = run_as(job, lambda: loop.create_task(body))
                await self._done(task)
                self._end_body(code, *task.result())
            await self._done(over)
        self._raise(job)

    async def _done(self, future: asyncio.Future[Any]) -> None:
        """Wait for a future, whatever interrupts; the loop wakes up often enough to see a signal."""
        while not future.done():
            try:
                await asyncio.wait({future}, timeout=TICK_S)
            except asyncio.CancelledError:
                self._interrupts.interrupt(Sender.USER)

    def _prepare(self) -> tuple[LocalEnvironment, dict[str, Any]]:
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "this cell runs in a subshell, and a body can be interrupted in the main thread only. Run it in the "
                "notebook itself, or with --background."
            )
        return make_environment(self._shell, self._options)

    def _begin(self, env: LocalEnvironment, variables: dict[str, Any], at_end: ExitStack) -> tuple[Job, CellCode]:
        """Begin the job; `at_end` closes its environment, shows its end and takes its variables away."""
        at_end.callback(self._namespace.put(variables))
        view = JobView(self._shell, env.name, with_panel=self._options.with_panel)
        at_end.callback(view.end)
        at_end.callback(env.close)
        try:
            job, code = env.submit_cell(_job_options(self._options), interrupt=self._interrupts.interrupt_body)
        except ConfigurationError as error:
            raise UsageError(str(error)) from None
        self._interrupts.attach(job)
        launch_again(self._shell, self._namespace, self._options, self._text, job, view.handle)
        view.begin(job)
        return job, code

    def _end_body(self, code: CellCode, value: Any, error: BaseException | None) -> None:
        self._body_error = error
        code.end(value, error)

    def _raise(self, job: Job) -> None:
        """Raise what the job failed with, or the user's interrupt; return if there is nothing to raise."""
        error = job.exception
        if self._interrupts.has_user_interrupted and (error is None or isinstance(error, JobCancelledError)):
            escaped = isinstance(self._body_error, KeyboardInterrupt)
            error = self._body_error if escaped else KeyboardInterrupt()
            assert error is not None
            if job.report is not None:
                error.add_note(job.report.headline)
        if error is None:
            job.wait()  # warns of a cleanup that failed
            return
        hide_our_frames(error)
        if error.__traceback__ is None and self._body_error is not None:
            hide_our_frames(self._body_error)
            error = error.with_traceback(self._body_error.__traceback__)  # where the body was
        raise_as_users(self._shell, error)


def _tell(job: Job, code: CellCode, when_ready: Callable[[], object], when_over: Callable[[], object]) -> None:
    """Call `when_ready` when the body may run, or must not any more, and `when_over` when all is clean."""
    code.began.add_done_callback(lambda _: when_ready())

    def tell_both() -> None:
        when_ready()
        when_over()

    job.when_done(tell_both)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def launch_again(
    shell: Any, namespace: Namespace, options: CellOptions, text: str, job: Job, handle: DisplayHandle | None
) -> None:
    """Make it known how the job of a cell is run once more: in the background, shown where it was shown."""
    origin = Origin()

    def launch() -> Job:
        return cast(Job, origin.run(lambda: begin_in_background(shell, namespace, options, text, handle)))

    Again(job, launch)


def start_in_background(shell: Any, namespace: Namespace, options: CellOptions, text: str) -> None:
    """Begin a job whose body runs in a thread, and return at once; parameters and errors as below."""
    job = begin_in_background(shell, namespace, options, text)
    print(f"job {job.name!r} [{job.id}] runs in the background; %autostop status shows it, %autostop stop ends it.")


def begin_in_background(
    shell: Any, namespace: Namespace, options: CellOptions, text: str, handle: DisplayHandle | None = None
) -> Job:
    """Begin a job whose body runs in a thread.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    namespace : Namespace
        Where the body finds its services.
    options : CellOptions
        What the line of the magic asks for.
    text : str
        The body as it was written.
    handle : DisplayHandle or None
        The output of a former run, to be used again.

    Returns
    -------
    Job
        The running job.

    Raises
    ------
    UsageError
        The line makes no sense, or the body needs the main thread; nothing is started.
    """
    token = secrets.token_hex(4)
    renamed = {name: f"_autostop_{name}_{token}" for name in (ENVIRONMENT, *(one.name for one in options.services))}
    body = compile_body(shell, text, in_background=True, renamed=renamed)
    env, variables = make_environment(shell, options)
    take_away = namespace.put({**variables, **{renamed[name]: value for name, value in variables.items()}})
    view = JobView(shell, env.name, with_panel=options.with_panel, blocks=False, handle=handle)
    try:
        job = env.submit_body(_job_options(options), lambda: body.run(_show))
    except BaseException as error:
        view.end()
        take_away()
        env.close()
        if isinstance(error, ConfigurationError):
            raise UsageError(str(error)) from None
        raise
    _in_background.add(env)

    def end() -> None:
        env.close()
        take_away()
        _tell_end(shell, job)

    if handle is None:
        launch_again(shell, namespace, options, text, job, view.handle)
    view.begin(job, end)
    return job


def _show(value: Any) -> None:
    """Show a value under the cell of this thread; the shell's own way is the main thread's."""
    if value is not None:
        display(value)


def _tell_end(shell: Any, job: Job) -> None:
    """Say under the cell what nobody waits for: the error of a job in the background."""
    job.wait()  # warns of a cleanup that failed
    error = job.exception
    if error is not None and not isinstance(error, JobCancelledError):
        hide_our_frames(error)
        print(shell.InteractiveTB.stb2text(format_lines(shell, error)), file=sys.stderr)
