"""What all environments have: registering services and writing pipelines. Nothing starts here."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Self

from autostop_lab.dataflow import beginnings
from autostop_lab.dataflow.declaration import Graph
from autostop_lab.dataflow.streams import DataStream
from autostop_lab.diagrams import Snapshot, fleet_svg
from autostop_lab.diagrams.page import image_html
from autostop_lab.diagrams.text import clean, escape
from autostop_lab.engines.pipeline_service import PipelineService, needs_of, pipeline_of
from autostop_lab.events import Bus
from autostop_lab.exceptions import ArgumentError, ConfigurationError, DuplicateServiceError, EnvironmentClosedError
from autostop_lab.job.job import Job, JobOptions
from autostop_lab.job.report import CleanupReport
from autostop_lab.job.snapshots import Ways, service_snapshot
from autostop_lab.origin import current_cell
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy, check_seconds
from autostop_lab.services.slot import HealthResult, ServiceSlot
from autostop_lab.services.spec import ServiceSpec, check_name, spec_of_class, spec_of_factory


def refuse_unknown_keywords(owner: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keywords that are not ours, naming the nearest of ours."""
    for key in given:
        near = get_close_matches(key, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It takes {', '.join(known)}."
        raise ArgumentError(f"{owner} has no argument {key!r}.{hint}")


class Environment(ABC):
    """Where services are registered, pipelines written and jobs submitted.

    Parameters
    ----------
    name : str
        Name of the environment and of its jobs.
    policy : ServicePolicy or None
        What services inherit that do not say otherwise.

    Attributes
    ----------
    last_job : Job or None
        The job that was submitted last.
    """

    default_runtime = "thread"

    def __init__(self, name: str, *, policy: ServicePolicy | None = None) -> None:
        self.name = check_name("environment", name)
        if policy is not None and not isinstance(policy, ServicePolicy):
            raise ConfigurationError(f"environment {name!r}: policy={policy!r} is not a ServicePolicy.")
        self.policy = policy
        self.cell = current_cell()
        self.last_job: Job | None = None
        #: Carries the moves of its services, within jobs and without; what was before a subscription is not kept.
        self.bus = Bus(keeps_record=False)
        self._slots: dict[str, ServiceSlot] = {}
        self._is_closed = False
        # Names registered since the last submit: taken, while older ones may be replaced.
        self._fresh: set[str] = set()
        self._graph = Graph(self)

    # -- services ------------------------------------------------------------------------------------------

    def register_service(
        self,
        name: str,
        service_class: type,
        /,
        *args: Any,
        runtime: str | None = None,
        runtime_options: Mapping[str, Any] | None = None,
        policy: ServicePolicy | None = None,
        **kwargs: Any,
    ) -> ServiceHandle:
        """Declare a service that jobs of this environment need. It starts with the job.

        Parameters
        ----------
        name : str
            What it is called; taken until the next submit.
        service_class : type
            A `Service`, a `Command`, or any class: its hooks are optional.
        *args, **kwargs
            For its constructor, checked against its signature at once. A handle among them makes the service
            depend on that handle's.
        runtime : str or None
            Where a Python object lives: ``"thread"`` is in this process, ``"process"`` in one of its own, which can
            be killed; class, arguments, calls and results travel there and back. A `Command` takes none.
        runtime_options : mapping or None
            Options of the runtime; an unknown one is refused. For ``"process"``: `env` (added to its environment),
            `cwd`, and `memory_limit_mb` (how much memory it may take beyond what it needs itself; Linux only).
        policy : ServicePolicy or None
            How it is kept and ended; what is not given is inherited.

        Returns
        -------
        ServiceHandle
            To call it and to give it orders.

        Raises
        ------
        ArgumentError
            The arguments do not fit the constructor.
        DuplicateServiceError
            The name is taken.
        ConfigurationError
            Something else makes no sense; the text says what.
        """
        return self._register(
            name,
            lambda: spec_of_class(
                name,
                service_class,
                args,
                kwargs,
                runtime=runtime,
                default_runtime=self.default_runtime,
                options=runtime_options,
                policy=self._inherited(name, policy),
            ),
        )

    def register_service_factory(
        self,
        name: str,
        factory: Callable[[], Any],
        *,
        runtime: str | None = None,
        policy: ServicePolicy | None = None,
        runtime_options: Mapping[str, Any] | None = None,
    ) -> ServiceHandle:
        """Declare a service made by a function, called once per start where the service lives.

        Parameters and errors are those of `register_service`.

        Parameters
        ----------
        name : str
            What it is called.
        factory : callable
            Called without arguments; returns the object.
        runtime, policy, runtime_options
            As for `register_service`.

        Returns
        -------
        ServiceHandle
            To call it and to give it orders; its methods are known once it runs.
        """
        return self._register(
            name,
            lambda: spec_of_factory(
                name,
                factory,
                runtime=runtime,
                default_runtime=self.default_runtime,
                options=runtime_options,
                policy=self._inherited(name, policy),
            ),
        )

    def register_pipeline_service(
        self, name: str, build: Callable[[DataStream], DataStream], policy: ServicePolicy | None = None
    ) -> ServiceHandle:
        """Declare a service that is a pipeline: a call puts a record in and waits for what becomes of it.

        Parameters
        ----------
        name : str
            What it is called.
        build : callable
            ``stream -> stream``: gets the stream of the records that callers send, and returns that of the results.
        policy : ServicePolicy or None
            As for `register_service`. With ``max_concurrent_calls`` above 1 so many records are inside at once.

        Returns
        -------
        ServiceHandle
            ``handle.process(record)``, or ``call_service(name, record)``, gives the record that leaves the pipeline;
            None if a filter dropped it; a list where the pipeline can make several of one. What an operator raises is
            raised by the call, and the service goes on.

        Raises
        ------
        PipelineError
            `build` gives no pipeline.
        """
        pipeline = pipeline_of(check_name("service", name), build, self)
        return self.register_service(
            name, PipelineService, pipeline, needs_of(pipeline), runtime="thread", policy=policy
        )

    def _inherited(self, name: str, policy: ServicePolicy | None) -> ServicePolicy:
        if policy is not None and not isinstance(policy, ServicePolicy):
            raise ConfigurationError(f"service {name!r}: policy={policy!r} is not a ServicePolicy.")
        return (policy or ServicePolicy()).inherit(self.policy)

    def _register(self, name: str, make_spec: Callable[[], ServiceSpec]) -> ServiceHandle:
        self._check_open()
        spec = make_spec()
        if name in self._fresh or (name in self._slots and self._is_in_use(name)):
            why = "is registered already" if name in self._fresh else "is running"
            raise DuplicateServiceError(
                f"service {name!r} {why} in environment {self.name!r}. Choose another name, or submit and let the "
                "job end first: then a service of the same name replaces it."
            )
        slot = ServiceSlot(spec, self)
        self._slots[name] = slot
        self._fresh.add(name)
        return ServiceHandle(slot)

    @property
    def services(self) -> dict[str, ServiceHandle]:
        """Handles of the registered services, by name."""
        return {name: ServiceHandle(slot) for name, slot in self._slots.items()}

    @abstractmethod
    def _is_in_use(self, name: str) -> bool:
        """Return whether a service lives, or belongs to a job that runs."""

    # -- pipelines -----------------------------------------------------------------------------------------

    def from_batch(self, source: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
        """Begin a pipeline that ends when its source does; see `autostop_lab.dataflow.beginnings.from_batch`."""
        self._check_open()
        return beginnings.from_batch(self._graph, source, *args, name=name, **kwargs)

    def from_collection(self, collection: Collection[Any], /, *, name: str | None = None) -> DataStream:
        """Begin a pipeline that reads a list or another collection, anew by every run."""
        self._check_open()
        return beginnings.from_collection(self._graph, collection, name=name)

    def from_source(self, source: Any, /, *args: Any, name: str | None = None, **kwargs: Any) -> DataStream:
        """Begin a pipeline that goes on until it is stopped; see `autostop_lab.dataflow.beginnings.from_source`."""
        self._check_open()
        return beginnings.from_source(self._graph, source, *args, name=name, **kwargs)

    def from_future(self, name: str | None = None) -> DataStream:
        """Begin where records come back that a later stream sends with ``fill_future``."""
        self._check_open()
        return beginnings.from_future(self._graph, name)

    def run(self, function: Callable[[], Any]) -> None:
        """Declare the job as one callable; its value is the job's result.

        Parameters
        ----------
        function : callable
            Called without arguments. It can look at ``current_job().stopping``.

        Raises
        ------
        PipelineError
            It cannot be called, or something else is declared already.
        """
        self._check_open()
        beginnings.run(self._graph, function)

    # -- life ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise EnvironmentClosedError(
                f"environment {self.name!r} is closed. Make a new one; env.stop() ends services and can be used again."
            )

    @staticmethod
    def _options(
        autostop: bool | str, timeout_s: float | None, cancel_timeout_s: float, shutdown_timeout_s: float
    ) -> JobOptions:
        if not isinstance(autostop, bool) and autostop != "on-success":
            raise ConfigurationError(f"submit: autostop={autostop!r} must be True, False or 'on-success'.")
        if timeout_s is not None:
            check_seconds("submit", "timeout_s", timeout_s, exclusive=True)
        check_seconds("submit", "cancel_timeout_s", cancel_timeout_s)
        check_seconds("submit", "shutdown_timeout_s", shutdown_timeout_s)
        return JobOptions(
            autostop=autostop,
            timeout_s=timeout_s,
            cancel_timeout_s=cancel_timeout_s,
            shutdown_timeout_s=shutdown_timeout_s,
        )

    @abstractmethod
    def start(self) -> None:
        """Start all registered services without a job, for work across several cells."""

    @abstractmethod
    def submit(
        self,
        autostop: bool | str = False,
        wait: bool | None = None,
        timeout_s: float | None = None,
        cancel_timeout_s: float = 5.0,
        shutdown_timeout_s: float = 30.0,
    ) -> Job:
        """Run what was declared as a job."""

    @abstractmethod
    def stop(self) -> CleanupReport:
        """End the job and the services; the environment can be used again."""

    @abstractmethod
    def close(self) -> CleanupReport:
        """End the job and the services for good."""

    def __enter__(self) -> Self:
        """Return the environment; leaving the ``with`` closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    # -- orders of handles ---------------------------------------------------------------------------------

    @abstractmethod
    def start_service(self, name: str) -> None:
        """Start one service, what it depends on first."""

    @abstractmethod
    def wake_service(self, name: str) -> None:
        """Start one service that rests because nobody called it; one that was stopped since stays at rest."""

    @abstractmethod
    def stop_service(self, name: str) -> None:
        """Stop one service, what depends on it first."""

    @abstractmethod
    def restart_service(self, name: str) -> None:
        """Stop one service and start it anew, with what depends on it."""

    @abstractmethod
    def kill_service(self, name: str) -> None:
        """End one service without a grace period."""

    @abstractmethod
    def check_service(self, name: str) -> HealthResult:
        """Look at one service."""

    @property
    @abstractmethod
    def has_work(self) -> bool:
        """Whether there is anything that `submit` would run."""

    @property
    def slots(self) -> dict[str, ServiceSlot]:
        """What stands behind the names of its services, for whoever shows them."""
        return dict(self._slots)

    @property
    def is_closed(self) -> bool:
        """Whether it was closed for good."""
        return self._is_closed

    def snapshot(self, ways: Ways | None = None) -> Snapshot:
        """Return what is to be drawn of it now: its services, with its job if there was one.

        Parameters
        ----------
        ways : Ways or None
            Where its services have been, if somebody has noted that.
        """
        job = self.last_job
        if job is not None and not job.is_over:
            return job.snapshot()
        now_s = time.monotonic()
        ways = ways or Ways(now_s)
        services = tuple(service_snapshot(slot, ways, now_s=now_s) for slot in tuple(self._slots.values()))
        return Snapshot(
            name=f"environment {self.name!r}",
            id="",
            state=None,
            reason="closed" if self._is_closed else f"last job: {job.state}" if job is not None else "",
            elapsed_s=now_s - ways.began_s,
            services=services,
        )

    def summary(self) -> str:
        """Return the whole story in five lines or fewer."""
        services = ", ".join(f"{slot.name} {slot.state}" for slot in tuple(self._slots.values()))
        closed = " (closed)" if self._is_closed else ""
        lines = [f"environment {self.name!r}{closed}", f"services: {services or 'none'}"]
        if self.last_job is not None:
            lines += self.last_job.summary().splitlines()[:3]
        return "\n".join(map(clean, lines))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Return text and a picture, without any widget."""
        services = self.snapshot().services
        image = image_html(lambda theme: fleet_svg(services, theme=theme), self.summary())
        name = f"environment {escape(self.name)}"
        return {
            "text/plain": self.summary(),
            "text/html": f"<div><b>{name}</b><br>{image}</div>",
            "image/svg+xml": fleet_svg(services),
        }

    def __repr__(self) -> str:
        """Return name and services."""
        shown = ", ".join(f"{slot.name} {slot.state}" for slot in self._slots.values())
        return f"<{type(self).__name__} {self.name!r}: {shown or 'no services'}>"
