"""`Service`: a Python object that a job needs. Every hook is optional, sync or async."""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partialmethod, singledispatchmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autostop_lab.exceptions import UnknownServiceError
from autostop_lab.reaper.session import Instance, current_session
from autostop_lab.services.logs import LogRing, RingHandler

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle

#: What a service may define for its supervisor; everything else is the user's.
HOOKS = ("start", "run", "stop", "cleanup", "health_check", "is_idle")


class HasWorkdir(Protocol):
    """One life of a service, as the owner of files."""

    @property
    def workdir(self) -> Path:
        """Its private folder, made on first use."""


class ServiceContext:
    """What the supervisor gives to one life of a service.

    Parameters
    ----------
    name : str
        Name of the service.
    instance : HasWorkdir
        Owner of its folder.
    handler : logging.Handler
        Takes what it logs.
    find_service : callable
        ``name -> ServiceHandle`` for the services that it depends on.
    """

    def __init__(
        self,
        name: str,
        instance: HasWorkdir,
        handler: logging.Handler,
        find_service: Callable[[str], ServiceHandle],
    ) -> None:
        self.name = name
        self.instance = instance
        self.find_service = find_service
        self.stopping = threading.Event()
        # Not registered with the logging module: it lives and dies with this life of the service.
        self.logger = logging.Logger(f"autostop_lab.service.{name}", logging.DEBUG)
        self.logger.propagate = False
        self.logger.addHandler(handler)


def _no_services(name: str) -> ServiceHandle:
    raise UnknownServiceError(f"service {name!r} is not known here: this object was not started by us.", service=name)


def _detached_context(service: Service) -> ServiceContext:
    """Return the context of an object that somebody made by hand, in a unit test for instance."""
    name = type(service).__name__
    instance = current_session().new_instance(name)
    weakref.finalize(service, _remove_quietly, instance)  # when it is collected, at the latest at exit
    return ServiceContext(name, instance, RingHandler(LogRing()), _no_services)


def _remove_quietly(instance: Instance) -> None:
    with suppress(OSError):
        instance.remove()


class ServiceCalls:
    """`service` and `call_service`, for whatever runs beside services."""

    def service(self, name: str) -> ServiceHandle:
        """Return the handle of a service by its name.

        Parameters
        ----------
        name : str
            A service that this one declared in ``depends_on``.

        Returns
        -------
        ServiceHandle
            Its handle.

        Raises
        ------
        UnknownServiceError
            There is no such service, or it was not declared.
        """
        raise UnknownServiceError(f"service {name!r} is not known here.", service=name)

    def call_service(
        self, name: str, /, *args: Any, method: str = "process", timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Call a method of a service and return its value.

        Parameters
        ----------
        name : str
            Name of the service.
        *args, **kwargs
            Go to the method.
        method : str
            Which one.
        timeout : float or None
            Longest duration of the whole call in seconds; None for no limit.

        Returns
        -------
        object
            What the method returned.

        Raises
        ------
        UnknownServiceError
            There is no such service.
        ServiceUnavailableError
            It cannot take a call now.
        ServiceCallTimeoutError
            The call took longer than `timeout`.
        """
        return self.service(name).call(method, *args, timeout=timeout, **kwargs)

    def call_service_async(
        self, name: str, /, *args: Any, method: str = "process", timeout: float | None = None, **kwargs: Any
    ) -> Future[Any]:
        """Begin a call as `call_service` does and return a future of its value."""
        return self.service(name)._submit_call(method, args, kwargs, timeout_s=timeout)


class Service(ServiceCalls):
    """Base class of services that are Python objects.

    A subclass defines what it needs of: ``start()`` (returns when ready), ``run()`` (long work: its end is the
    service's end), ``stop()`` (polite: finish and let go), ``cleanup()`` (after stop, also when stop failed or
    was late), ``health_check()`` (bool, or a dict of details; False or an exception is unhealthy). Each may be a
    coroutine function. Other public methods are what its handle offers.

    There is no ``__init__`` here; what this class offers is there before yours runs.
    """

    __autostop: ServiceContext | None = None

    def _autostop_attach(self, context: ServiceContext) -> None:
        self.__autostop = context

    @property
    def _autostop_context(self) -> ServiceContext:
        if self.__autostop is None:
            self.__autostop = _detached_context(self)
        return self.__autostop

    @property
    def stopping(self) -> threading.Event:
        """Set when the service is asked to stop; wait on it in long work."""
        return self._autostop_context.stopping

    @property
    def workdir(self) -> Path:
        """A private folder (0700), made on first use and removed with the service."""
        return self._autostop_context.instance.workdir

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines are shown as this service's."""
        return self._autostop_context.logger

    def service(self, name: str) -> ServiceHandle:
        """Return the handle of a service that this one declared in ``depends_on``; see `ServiceCalls.service`."""
        return self._autostop_context.find_service(name)


def construct(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: ServiceContext) -> Any:
    """Make the object of a service, with its context attached before ``__init__`` runs.

    Parameters
    ----------
    make : type or callable
        A class, or a factory for everything else.
    args, kwargs : tuple, dict
        Its arguments.
    context : ServiceContext
        For a `Service`; others do without.

    Returns
    -------
    object
        The service.
    """
    if not (isinstance(make, type) and issubclass(make, Service)):
        return attach(make(*args, **kwargs), context)
    new = make.__new__
    service = attach(new(make) if new is object.__new__ else new(make, *args, **kwargs), context)
    if isinstance(service, make):  # as type.__call__ does it
        make.__init__(service, *args, **kwargs)
    return service


def attach(made: Any, context: ServiceContext) -> Any:
    """Give an object its context, if it is a `Service`, and return it."""
    if isinstance(made, Service):
        made._autostop_attach(context)
    return made


def hook(service: object, name: str) -> Callable[[], Any] | None:
    """Return a service's hook, or None where it has none (an attribute that is not callable is the user's)."""
    if inspect.getattr_static(service, name, None) is None:  # a proxy that answers to every name has no hooks
        return None
    found = getattr(service, name, None)
    return found if callable(found) else None


def public_methods(cls: type, ours: type | None = None) -> dict[str, Callable[..., Any]]:
    """Return what a handle of `cls` offers: its public methods, without hooks and without those of our class `ours`."""
    theirs = [name for name in dir(cls) if not name.startswith("_") and name not in HOOKS and not hasattr(ours, name)]
    return {name: getattr(cls, name) for name in theirs if _is_method(inspect.getattr_static(cls, name))}


def _is_method(member: object) -> bool:
    if isinstance(member, staticmethod | classmethod | partialmethod | singledispatchmethod):
        return True
    return callable(member) and not isinstance(member, type)
