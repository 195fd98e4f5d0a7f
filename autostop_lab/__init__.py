"""Services that live exactly as long as the job that needs them.

Public names are imported when they are first used; importing the package itself pulls in nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autostop_lab.dataflow.functions import BatchFunction as BatchFunction
    from autostop_lab.dataflow.functions import CoMapFunction as CoMapFunction
    from autostop_lab.dataflow.functions import FilterFunction as FilterFunction
    from autostop_lab.dataflow.functions import FlatMapFunction as FlatMapFunction
    from autostop_lab.dataflow.functions import JoinFunction as JoinFunction
    from autostop_lab.dataflow.functions import KeyByFunction as KeyByFunction
    from autostop_lab.dataflow.functions import MapFunction as MapFunction
    from autostop_lab.dataflow.functions import SinkFunction as SinkFunction
    from autostop_lab.dataflow.functions import SourceFunction as SourceFunction
    from autostop_lab.dataflow.settings import DeadLetter as DeadLetter
    from autostop_lab.dataflow.settings import Retry as Retry
    from autostop_lab.environment.local import LocalEnvironment as LocalEnvironment
    from autostop_lab.environment.manager import ServiceManager as ServiceManager
    from autostop_lab.environment.registry import jobs as jobs
    from autostop_lab.environment.registry import last_job as last_job
    from autostop_lab.exceptions import ArgumentError as ArgumentError
    from autostop_lab.exceptions import AutostopError as AutostopError
    from autostop_lab.exceptions import CleanupWarning as CleanupWarning
    from autostop_lab.exceptions import ConfigurationError as ConfigurationError
    from autostop_lab.exceptions import DependencyError as DependencyError
    from autostop_lab.exceptions import DuplicateServiceError as DuplicateServiceError
    from autostop_lab.exceptions import EnvironmentClosedError as EnvironmentClosedError
    from autostop_lab.exceptions import JobCancelledError as JobCancelledError
    from autostop_lab.exceptions import JobError as JobError
    from autostop_lab.exceptions import JobLostError as JobLostError
    from autostop_lab.exceptions import JobRunningError as JobRunningError
    from autostop_lab.exceptions import JobTimeoutError as JobTimeoutError
    from autostop_lab.exceptions import PipelineError as PipelineError
    from autostop_lab.exceptions import ReadinessTimeoutError as ReadinessTimeoutError
    from autostop_lab.exceptions import RemoteServiceError as RemoteServiceError
    from autostop_lab.exceptions import ServiceCallTimeoutError as ServiceCallTimeoutError
    from autostop_lab.exceptions import ServiceCrashedError as ServiceCrashedError
    from autostop_lab.exceptions import ServiceError as ServiceError
    from autostop_lab.exceptions import ServiceStartError as ServiceStartError
    from autostop_lab.exceptions import ServiceStopError as ServiceStopError
    from autostop_lab.exceptions import ServiceUnavailableError as ServiceUnavailableError
    from autostop_lab.exceptions import TransitionError as TransitionError
    from autostop_lab.exceptions import UnknownJobError as UnknownJobError
    from autostop_lab.exceptions import UnknownServiceError as UnknownServiceError
    from autostop_lab.job.job import Job as Job
    from autostop_lab.job.job import current_job as current_job
    from autostop_lab.job.report import CleanupReport as CleanupReport
    from autostop_lab.lifecycle import JobState as JobState
    from autostop_lab.lifecycle import ServiceState as ServiceState
    from autostop_lab.services.command import Command as Command
    from autostop_lab.services.handle import ServiceHandle as ServiceHandle
    from autostop_lab.services.policies import Cron as Cron
    from autostop_lab.services.policies import Health as Health
    from autostop_lab.services.policies import Restart as Restart
    from autostop_lab.services.policies import ServicePolicy as ServicePolicy
    from autostop_lab.services.probes import CallReady as CallReady
    from autostop_lab.services.probes import HttpReady as HttpReady
    from autostop_lab.services.probes import LogReady as LogReady
    from autostop_lab.services.probes import TcpReady as TcpReady
    from autostop_lab.services.service import Service as Service
    from autostop_lab.services.slot import HealthResult as HealthResult

__version__ = "0.1.0"

#: Where each public name lives.
_HOME = {
    "autostop_lab.dataflow.functions": (
        "BatchFunction",
        "CoMapFunction",
        "FilterFunction",
        "FlatMapFunction",
        "JoinFunction",
        "KeyByFunction",
        "MapFunction",
        "SinkFunction",
        "SourceFunction",
    ),
    "autostop_lab.dataflow.settings": ("DeadLetter", "Retry"),
    "autostop_lab.environment.local": ("LocalEnvironment",),
    "autostop_lab.environment.manager": ("ServiceManager",),
    "autostop_lab.environment.registry": ("jobs", "last_job"),
    "autostop_lab.exceptions": (
        "ArgumentError",
        "AutostopError",
        "CleanupWarning",
        "ConfigurationError",
        "DependencyError",
        "DuplicateServiceError",
        "EnvironmentClosedError",
        "JobCancelledError",
        "JobError",
        "JobLostError",
        "JobRunningError",
        "JobTimeoutError",
        "PipelineError",
        "ReadinessTimeoutError",
        "RemoteServiceError",
        "ServiceCallTimeoutError",
        "ServiceCrashedError",
        "ServiceError",
        "ServiceStartError",
        "ServiceStopError",
        "ServiceUnavailableError",
        "TransitionError",
        "UnknownJobError",
        "UnknownServiceError",
    ),
    "autostop_lab.job.job": ("Job", "current_job"),
    "autostop_lab.job.report": ("CleanupReport",),
    "autostop_lab.lifecycle": ("JobState", "ServiceState"),
    "autostop_lab.services.command": ("Command",),
    "autostop_lab.services.handle": ("ServiceHandle",),
    "autostop_lab.services.policies": ("Cron", "Health", "Restart", "ServicePolicy"),
    "autostop_lab.services.probes": ("CallReady", "HttpReady", "LogReady", "TcpReady"),
    "autostop_lab.services.service": ("Service",),
    "autostop_lab.services.slot": ("HealthResult",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_MODULE_OF, "load_ipython_extension", "unload_ipython_extension"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*__all__, "__version__"})


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; IPython calls it for ``%load_ext autostop_lab``."""
    import_module("autostop_lab.jupyter").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again."""
    import_module("autostop_lab.jupyter").unload(shell)
