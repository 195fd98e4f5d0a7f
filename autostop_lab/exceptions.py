"""Every error and warning of the package.

::

    AutostopError
    ├── ConfigurationError (ValueError)      refused before anything starts
    │   ├── ArgumentError (TypeError)        arguments that do not fit a signature
    │   ├── DependencyError                  unknown, circular or self dependency
    │   ├── DuplicateServiceError            a service name taken twice
    │   └── PipelineError                    a pipeline that cannot run
    ├── TransitionError                      a move that the state table does not have
    ├── EnvironmentClosedError               used after close()
    ├── UnknownServiceError (LookupError)    no service of this name
    ├── UnknownJobError (LookupError)        no job of this name or id
    ├── ServiceError                         something about one service
    │   ├── ServiceStartError                it did not become ready
    │   │   └── ReadinessTimeoutError (TimeoutError)
    │   ├── ServiceStopError                 its stop() or cleanup() failed, or it is still there
    │   ├── ServiceCrashedError              it died while it was needed
    │   ├── ServiceUnavailableError          it cannot take a call now
    │   ├── ServiceCallTimeoutError (TimeoutError)
    │   └── RemoteServiceError               its exception cannot travel; type, text and traceback can
    └── JobError                             something about one job
        ├── JobRunningError                  the environment is busy with a job
        ├── JobTimeoutError (TimeoutError)
        ├── JobCancelledError
        └── JobLostError                     its JobManager is gone

    CleanupWarning (UserWarning)             the job succeeded, its cleanup did not

The text of each says what happened, to which service or job, and what to do.
What the text says is there as attributes too, so that code need not read it.
"""

from __future__ import annotations

from collections.abc import Sequence


class AutostopError(Exception):
    """Root of all errors of the package."""


class ConfigurationError(AutostopError, ValueError):
    """Input that makes no sense, refused before anything starts."""


class ArgumentError(ConfigurationError, TypeError):
    """Arguments that do not fit the signature they are meant for."""


class DependencyError(ConfigurationError):
    """A ``depends_on`` that names an unknown service, itself, or closes a circle."""


class DuplicateServiceError(ConfigurationError):
    """A service name that is taken."""


class PipelineError(ConfigurationError):
    """A pipeline that cannot run as it was written."""


class TransitionError(AutostopError):
    """A move that the state table does not have.

    Parameters
    ----------
    message : str
        The text.
    state, trigger : str
        The state left and the trigger that it does not accept.
    """

    def __init__(self, message: str, *, state: str = "", trigger: str = "") -> None:
        super().__init__(message)
        self.state = state
        self.trigger = trigger


class EnvironmentClosedError(AutostopError):
    """An environment was used after ``close()``."""


class UnknownServiceError(AutostopError, LookupError):
    """No service of this name is registered.

    Parameters
    ----------
    message : str
        The text.
    service : str
        The name that was asked for.
    """

    def __init__(self, message: str, *, service: str = "") -> None:
        super().__init__(message)
        self.service = service


class UnknownJobError(AutostopError, LookupError):
    """No job of this name or id is known here."""


class ServiceError(AutostopError):
    """Something about one service.

    Parameters
    ----------
    message : str
        The text.
    service : str
        Name of the service.
    phase : str
        What it was doing: ``"construct"``, ``"launch"``, ``"start"``, ``"ready"``, ``"run"``,
        ``"call"``, ``"stop"`` or ``"cleanup"``.
    exit_code : int or None
        Exit status of its process, negative for a signal; None where there is none.
    log_lines : sequence of str
        Its last log lines, oldest first.
    """

    def __init__(
        self,
        message: str,
        *,
        service: str = "",
        phase: str = "",
        exit_code: int | None = None,
        log_lines: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.service = service
        self.phase = phase
        self.exit_code = exit_code
        self.log_lines = tuple(log_lines)


class ServiceStartError(ServiceError):
    """A service did not become ready. It has been stopped and cleaned."""


class ReadinessTimeoutError(ServiceStartError, TimeoutError):
    """The readiness probe, or ``start()``, took longer than ``start_timeout_s``."""


class ServiceStopError(ServiceError):
    """A service's ``stop()`` or ``cleanup()`` failed, or the service is still there."""


class ServiceCrashedError(ServiceError):
    """A service died while it was needed."""


class ServiceUnavailableError(ServiceError):
    """A service cannot take a call now."""


class ServiceCallTimeoutError(ServiceError, TimeoutError):
    """A call took longer than the ``timeout`` given for it."""


class RemoteServiceError(ServiceError):
    """An exception of a service that could not travel; its type, text and traceback could.

    Parameters
    ----------
    message : str
        The text.
    service : str
        Name of the service.
    error_type : str
        Qualified name of the original exception's class.
    traceback_text : str
        The original traceback.
    """

    def __init__(self, message: str, *, service: str = "", error_type: str = "", traceback_text: str = "") -> None:
        super().__init__(message, service=service, phase="call")
        self.error_type = error_type
        self.traceback_text = traceback_text


class JobError(AutostopError):
    """Something about one job.

    Parameters
    ----------
    message : str
        The text.
    job : str
        Name of the job.
    job_id : str
        Its id.
    """

    def __init__(self, message: str, *, job: str = "", job_id: str = "") -> None:
        super().__init__(message)
        self.job = job
        self.job_id = job_id


class JobRunningError(JobError):
    """The environment is busy with a job."""


class JobTimeoutError(JobError, TimeoutError):
    """The job took longer than its ``timeout_s``."""


class JobCancelledError(JobError):
    """The job was cancelled; its services are stopped and cleaned."""


class JobLostError(JobError):
    """The JobManager that ran the job is gone, and the job with it."""


class CleanupWarning(UserWarning):
    """The job succeeded, but something of its cleanup did not; ``job.report`` says what."""
