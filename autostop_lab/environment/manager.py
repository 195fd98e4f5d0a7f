"""`ServiceManager`: the supervisor without a job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from autostop_lab.environment.local import LocalEnvironment
from autostop_lab.exceptions import DuplicateServiceError, ServiceError
from autostop_lab.job.report import CleanupReport
from autostop_lab.lifecycle import SERVICE_TABLE
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.slot import HealthResult
from autostop_lab.supervisor.plan import unknown_service

logger = logging.getLogger("autostop_lab.supervisor")


class ServiceManager:
    """Keeps services alive without a job: the same supervisor, policies and handles.

    It owns its services: they end with ``stop_all()``, with the ``with`` block, and at the latest with the process.

    Parameters
    ----------
    name : str
        What it is called in texts.
    policy : ServicePolicy or None
        What services inherit that do not say otherwise.

    Examples
    --------
    >>> from autostop_lab import Service, ServiceManager
    >>> class Greeter(Service):
    ...     def greet(self, name):
    ...         return f"hello, {name}"
    >>> with ServiceManager() as manager:
    ...     greeter = manager.add("greeter", Greeter)
    ...     manager.start_all()
    ...     greeter.greet("world")
    'hello, world'
    """

    def __init__(self, name: str = "services", *, policy: ServicePolicy | None = None) -> None:
        self._environment = LocalEnvironment(name, policy=policy)

    def add(
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
        """Add a service; nothing starts yet. Parameters and errors are those of ``register_service``."""
        if name in self._environment.services:
            raise DuplicateServiceError(f"service {name!r} is there already. Choose another name, or remove() it.")
        return self._environment.register_service(
            name,
            service_class,
            *args,
            runtime=runtime,
            runtime_options=runtime_options,
            policy=policy,
            **kwargs,
        )

    def remove(self, name: str) -> None:
        """Stop a service and forget it; if the stop fails it stays.

        Raises
        ------
        UnknownServiceError
            There is none of this name.
        DependencyError
            Another service depends on it.
        ServiceStopError
            It could not be stopped; it is still here, and may be removed again.
        """
        self._environment.remove_service(name)

    def _handle(self, name: str) -> ServiceHandle:
        services = self._environment.services
        if name not in services:
            raise unknown_service(name, services)
        return services[name]

    def start(self, name: str) -> None:
        """Start a service, what it depends on first, and return when it is ready; errors as of `ServiceHandle`."""
        self._handle(name).start()

    def stop(self, name: str) -> None:
        """Stop and clean a service, what depends on it first.

        Raises
        ------
        UnknownServiceError
            There is none of this name.
        ServiceStopError
            Its stop or cleanup failed, or it is still there.
        """
        self._handle(name).stop()

    def restart(self, name: str) -> None:
        """Stop a service and start it anew, with what depends on it."""
        self._handle(name).restart()

    def health(self, name: str) -> HealthResult:
        """Look at a service now."""
        return self._handle(name).health()

    def start_all(self) -> None:
        """Start all services by their dependencies.

        An ``unless-stopped`` one that was stopped by hand stays at rest, and so does what depends on it.

        Raises
        ------
        DependencyError
            Unknown, circular or self dependency; nothing was started.
        ExceptionGroup
            With the error of each that did not start; what this call had started is stopped again.
        """
        try:
            self._environment.start()
        except ServiceError as error:
            raise ExceptionGroup(f"1 service did not start: {error.service!r}", [error]) from None

    def stop_all(self) -> CleanupReport:
        """Stop and clean all services, whatever fails.

        Returns
        -------
        CleanupReport
            What became of each; ``check()`` raises what went wrong. Failures are logged too.
        """
        live = {name for name, handle in self.services.items() if handle.state in SERVICE_TABLE.live}
        report = self._environment.stop()
        for entry in report.services:
            errors = [error for phase, error in entry.errors if phase != "start"]
            if entry.name in live and (errors or entry.survivor):
                said = f": {entry.survivor}" if entry.survivor else ""
                logger.error("Service %r failed to stop%s", entry.name, said, exc_info=errors[0] if errors else None)
        return report

    def health_all(self) -> dict[str, HealthResult]:
        """Look at all services at once; return what was found, by name."""
        return self._environment.check_all()

    @property
    def services(self) -> dict[str, ServiceHandle]:
        """Handles of the services, by name."""
        return self._environment.services

    def __enter__(self) -> Self:
        """Return the manager; nothing starts yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop all services for good; what fails is logged, not raised."""
        self.stop_all()
        self._environment.close()

    def __repr__(self) -> str:
        """Return names and states."""
        shown = ", ".join(f"{name} {handle.state}" for name, handle in self.services.items())
        return f"<ServiceManager: {shown or 'no services'}>"
