"""Checks with real services, in real time: that nothing is left, and that a service behaves as services should."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

from autostop_lab.environment.local import LocalEnvironment
from autostop_lab.exceptions import AutostopError, ServiceError, ServiceStartError
from autostop_lab.job.audit import Belongings, find_leaks
from autostop_lab.job.report import ServiceEntry, seconds
from autostop_lab.lifecycle import SERVICE_TABLE, ServiceState
from autostop_lab.origin import THREAD_PREFIX, thread_name
from autostop_lab.reaper.folders import is_id
from autostop_lab.reaper.guard import THREAD_NAME as GUARD_THREAD_NAME
from autostop_lab.reaper.processes import find_owned
from autostop_lab.reaper.session import current_session
from autostop_lab.services.command import Command
from autostop_lab.services.coroutines import stack_of
from autostop_lab.services.handle import ServiceHandle, run_in_background
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.runtime import describe_error
from autostop_lab.supervisor.loop import supervisor_loop
from autostop_lab.supervisor.outcome import Outcome

# -- leaks -------------------------------------------------------------------------------------------------

#: The threads of ours that live as long as the process.
FOR_LIFE = (thread_name("supervisor"), GUARD_THREAD_NAME)
#: Pause between two looks, in seconds.
PAUSE_S = 0.005


@dataclass(frozen=True)
class Possessions:
    """What this process has at a moment, ours included.

    Attributes
    ----------
    others : Belongings
        What is not ours.
    threads : frozenset of threading.Thread
        Threads of ours.
    processes : frozenset of int
        Pids of processes that carry our session's id.
    folders : frozenset of str
        Folders of our session.
    """

    others: Belongings
    threads: frozenset[threading.Thread]
    processes: frozenset[int]
    folders: frozenset[str]

    @classmethod
    def now(cls) -> Possessions:
        """Look."""
        session = current_session()
        found = find_owned(frozenset({session.id}), since="")
        return cls(
            Belongings.now(),
            frozenset(t for t in threading.enumerate() if t.name.startswith(THREAD_PREFIX) and t.name not in FOR_LIFE),
            frozenset(process.pid for processes in found.values() for process in processes),
            # The journal beside them is the reaper's.
            frozenset(str(path) for path in session.folder.glob("*") if is_id(path.name)),
        )

    def left(self) -> list[str]:
        """Return in words what has come since and is still there."""
        now = Possessions.now()
        left = [f"{leak}{_at(leak.stack)}" for leak in find_leaks(self.others)]
        left += [f"thread {thread.name!r}{_at(stack_of(thread))}" for thread in now.threads - self.threads]
        left += [f"process {pid}" for pid in sorted(now.processes - self.processes - now.others.children)]
        return left + [f"folder {path}" for path in sorted(now.folders - self.folders)]

    def left_after(self, settle_s: float) -> list[str]:
        """Return what is left as soon as it is nothing, or else after `settle_s`."""
        deadline = time.monotonic() + settle_s
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        return left


def _at(stack: str) -> str:
    return f", which is at\n{stack.rstrip()}" if stack else ""


@contextmanager
def leak_check(*, settle_s: float = 5.0) -> Iterator[None]:
    """See to it that the body of the ``with`` leaves nothing: processes, threads, open files, ports, folders.

    Parameters
    ----------
    settle_s : float
        How long what is just ending may take, in seconds.

    Raises
    ------
    AssertionError
        Something is left; the text names each. An exception of the body goes on, with this as a note.
    """
    supervisor_loop()  # it lives as long as the process
    before = Possessions.now()
    try:
        yield
    except BaseException as error:
        if left := before.left_after(settle_s):
            error.add_note(_left_behind(left))
        raise
    if left := before.left_after(settle_s):
        raise AssertionError(_left_behind(left))


def _left_behind(left: Sequence[str]) -> str:
    return "left behind: " + "; ".join(left)


# -- the check of a service --------------------------------------------------------------------------------

#: How long what a service leaves may take to go, in seconds.
SETTLE_S = 1.0


class ServiceCheckError(AutostopError, AssertionError):
    """A service does not behave as services should.

    Parameters
    ----------
    message : str
        The text, with all that is wrong.
    problems : sequence of str
        What is wrong, one sentence each.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class ServiceCheck:
    """What `check_service` did, when all was well.

    Attributes
    ----------
    name : str
        The class.
    checks : tuple of str
        What was checked.
    start_s, stop_s : float
        How long its start and its stop took, in seconds.
    """

    name: str
    checks: tuple[str, ...]
    start_s: float
    stop_s: float

    def __str__(self) -> str:
        """Return it in words."""
        times = f"start {seconds(self.start_s)}, stop {seconds(self.stop_s)}"
        return f"{self.name} passed ({times}): {'; '.join(self.checks)}"


def check_service(
    service_class: type,
    /,
    *args: Any,
    calls: Sequence[tuple[str, Sequence[Any]]] = (),
    policy: ServicePolicy | None = None,
    runtime: str | None = None,
    **kwargs: Any,
) -> ServiceCheck:
    """Put a service through what a life can bring, and say what is wrong with it.

    It is started, called, looked at and stopped, with ``stop()`` called twice; it is stopped before it is ready, and
    with a call inside; it is made to crash, where it is a program or has a ``run()``, and started again after that.
    Each time its cleanup has to run, all has to be over in time, and nothing may be left.

    Parameters
    ----------
    service_class : type
        The class, as for ``register_service``.
    *args, **kwargs
        For its constructor.
    calls : sequence of (str, sequence)
        Methods to call, with their arguments.
    policy : ServicePolicy or None
        For its time-outs, secrets and number of calls; what else it says is left out.
    runtime : str or None
        As for ``register_service``.

    Returns
    -------
    ServiceCheck
        A short report.

    Raises
    ------
    ServiceCheckError
        With everything that is wrong.
    ConfigurationError
        The class cannot be registered like this.
    """
    checker = _Checker(service_class, args, kwargs, calls, _policy_for_check(policy), runtime)
    return checker.check()


_CHECKED_FIELDS = (
    "start_timeout_s",
    "stop_timeout_s",
    "kill_timeout_s",
    "cleanup_timeout_s",
    "call_timeout_s",
    "max_concurrent_calls",
    "secret",
)


def _policy_for_check(policy: ServicePolicy | None, **changes: Any) -> ServicePolicy:
    given = policy or ServicePolicy()
    kept = {field.name: getattr(given, field.name) for field in fields(given) if field.name in _CHECKED_FIELDS}
    return ServicePolicy(**{**kept, **changes})


class _SecondStopError(Exception):
    """A second ``stop()`` raised, where the first one did not."""


class _MadeCrashError(Exception):
    """Raised in place of ``run()``."""


class _Checker:
    """One check of one class."""

    def __init__(
        self,
        service_class: type,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        calls: Sequence[tuple[str, Sequence[Any]]],
        policy: ServicePolicy,
        runtime: str | None,
    ) -> None:
        self._class = service_class
        self._args = args
        self._kwargs = kwargs
        self._calls = calls
        self._policy = policy
        self._runtime = runtime
        self._is_command = issubclass(service_class, Command)
        self._problems: list[str] = []
        self._checks: list[str] = []
        self._cleanups = 0
        self._entry = ServiceEntry(name="", outcome=Outcome.STOPPED)

    def check(self) -> ServiceCheck:
        self._lives()
        first = self._entry
        if first.start_s is not None:
            self._is_stopped_before_it_is_ready()
            for method, args in self._calls:
                self._is_stopped_during_a_call(method, args)
            if self._is_command or self._has("run"):
                self._crashes()
        name = self._class.__name__
        if self._problems:
            listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(self._problems, 1))
            raise ServiceCheckError(f"{name} does not behave as a service should:{listed}", problems=self._problems)
        return ServiceCheck(name, tuple(self._checks), first.start_s or 0.0, first.stop_s or 0.0)

    def _has(self, hook: str) -> bool:
        return callable(getattr(self._class, hook, None))

    # -- what it goes through ------------------------------------------------------------------------------

    def _lives(self) -> None:
        # Both calls of stop() are within one grace period, so it is twice as long.
        policy = _policy_for_check(self._policy, stop_timeout_s=2 * self._policy.stop_timeout_s)
        variant = {} if self._is_command or not self._has("stop") else {"stop": _stopping_twice(self._class)}
        with self._life("start, calls and two stops", variant, policy) as handle:
            if not self._starts(handle, "it does not start"):
                return
            for method, args in self._calls:
                try:
                    handle.call(method, *args, timeout=self._policy.start_timeout_s)
                except Exception as error:
                    self._problems.append(f"{method}({_shown(args)}) raised {describe_error(error)}")
            health = handle.health()
            if not health.is_healthy:
                self._problems.append(f"it is not healthy although it runs: {health.error}")
            self._stop(handle)
            self._stop(handle)

    def _is_stopped_before_it_is_ready(self) -> None:
        with self._life("a stop before it is ready") as handle:
            starting = run_in_background(handle.start, name="check of a start")
            self._wait(lambda: handle.state is not ServiceState.STOPPED or starting.done())
            self._stop(handle)
            starting.exception()

    def _is_stopped_during_a_call(self, method: str, args: Sequence[Any]) -> None:
        what = f"a stop with {method}() inside"
        with self._life(what) as handle:
            if not self._starts(handle, f"{what}: it does not start a second time"):
                return
            call = getattr(handle, method).submit(*args)
            self._stop(handle)
            if not self._wait(call.done):
                self._problems.append(f"{what}: the call never ended")

    def _crashes(self) -> None:
        variant = {} if self._is_command else {"run": _crash}
        with self._life("a crash, and a start after it", variant) as handle:
            if not self._starts(handle, "before a crash: it does not start again"):
                return
            if self._is_command:
                os.kill(handle.health().details["pid"], signal.SIGKILL)
            if not self._wait(lambda: handle.state in SERVICE_TABLE.at_rest):
                self._problems.append("its crash was not noticed")
            self._starts(handle, "it does not start again after a crash")

    # -- how ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _life(
        self, what: str, variant: dict[str, Any] | None = None, policy: ServicePolicy | None = None
    ) -> Iterator[ServiceHandle]:
        """Register it for a life, end that afterwards, and note what was wrong with it."""
        self._checks.append(what)
        self._cleanups = 0
        supervisor_loop()
        before = Possessions.now()
        with LocalEnvironment(f"check of {self._class.__name__}") as env:
            service_class = self._variant({"cleanup": self._counted_cleanup(), **(variant or {})})
            handle = env.register_service(
                self._class.__name__,
                service_class,
                *self._args,
                runtime=self._runtime,
                policy=policy or self._policy,
                **self._kwargs,
            )
            yield handle
            report = env.stop()
        self._entry = report[handle.name]
        self._judge(what, self._entry)
        if not self._entry.survivor and (left := before.left_after(SETTLE_S)):
            self._problems.append(f"{what}: {_left_behind(left)}")

    def _variant(self, methods: dict[str, Any]) -> type:
        """Return the class with other methods in place of its own."""
        present = {name: method for name, method in methods.items() if name == "run" or self._has(name)}

        def fill(namespace: dict[str, Any]) -> None:
            namespace.update(__module__=self._class.__module__, __qualname__=self._class.__qualname__, **present)

        return types.new_class(self._class.__name__, (self._class,), exec_body=fill)

    def _counted_cleanup(self) -> Callable[[Any], Any]:
        def cleanup(service: Any) -> Any:
            self._cleanups += 1
            return self._class.cleanup(service)  # type: ignore[attr-defined]  # only used where it is there

        return cleanup

    def _starts(self, handle: ServiceHandle, otherwise: str) -> bool:
        try:
            handle.start()
        except ServiceStartError as error:
            self._problems.append(f"{otherwise}: {error}")
            return False
        return True

    def _stop(self, handle: ServiceHandle) -> None:
        with suppress(ServiceError):  # the receipt has it
            handle.stop()

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until `condition` holds; return whether it did within the longest that a stop may take."""
        policy = self._policy
        deadline = time.monotonic() + policy.stop_timeout_s + policy.kill_timeout_s + policy.cleanup_timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        return condition()

    def _judge(self, what: str, entry: ServiceEntry) -> None:
        for phase, error in entry.errors:
            if isinstance(error, _SecondStopError):
                self._problems.append(f"{what}: a second stop() raised {describe_error(error.__cause__ or error)}")
            elif isinstance(error, ServiceError) and phase != "start":
                self._problems.append(f"{what}: {error}")
            elif phase != "start":
                self._problems.append(f"{what}: {phase}() raised {describe_error(error)}")
        if entry.survivor:
            self._problems.append(f"{what}: it cannot be ended: {entry.survivor}")
        elif entry.outcome is Outcome.KILLED and not any(phase == "stop" for phase, _ in entry.errors):
            self._problems.append(f"{what}: it, or something that it had started, had to be killed")
        if self._has("cleanup") and entry.cleanup_s is not None and self._cleanups == 0:
            self._problems.append(f"{what}: cleanup() did not run")


def _stopping_twice(service_class: Any) -> Callable[[Any], Any]:
    """Return a ``stop()`` that calls the one of the class twice."""

    def stop(service: Any) -> Any:
        first = service_class.stop(service)
        if inspect.isawaitable(first):
            return finish(service, first)
        try:
            service_class.stop(service)
        except Exception as error:
            raise _SecondStopError from error
        return None

    async def finish(service: Any, first: Any) -> None:
        await first
        try:
            await service_class.stop(service)
        except Exception as error:
            raise _SecondStopError from error

    return stop


def _crash(service: Any) -> None:
    raise _MadeCrashError("a crash made by check_service()")


def _shown(args: Sequence[Any]) -> str:
    return ", ".join(map(repr, args))
