"""A Python object as a service: how it is made, and how its methods are called, in whatever process it lives."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from autostop_lab.services.coroutines import ServiceLoop
from autostop_lab.services.gate import CallGate, NoTurnError
from autostop_lab.services.service import Service, ServiceContext, attach, construct, public_methods


def make_object(
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: ServiceContext,
    coroutines: ServiceLoop,
) -> Any:
    """Make the object of a service; a factory may be a coroutine function.

    Parameters
    ----------
    target, args, kwargs
        Its class or factory, and what that is called with.
    context : ServiceContext
        For a `Service`.
    coroutines : ServiceLoop
        Awaits what a factory returns.

    Returns
    -------
    object
        The object.

    Raises
    ------
    TypeError
        There is none.
    """
    made = attach(coroutines.finish(construct(target, args, kwargs, context)), context)
    if made is None:
        name = getattr(target, "__name__", type(target).__name__)
        raise TypeError(f"{name}() returned None in place of the service")
    return made


class ObjectCalls(ABC):
    """Calls the methods of an object, within its limit of concurrent calls.

    Parameters
    ----------
    service : object
        The object.
    gate : CallGate
        The limit.
    coroutines : ServiceLoop
        Awaits what async methods return.
    notes_use : bool
        Whether the gate notes when the last call was over.
    """

    def __init__(self, service: object, gate: CallGate, coroutines: ServiceLoop, *, notes_use: bool) -> None:
        self._service = service
        self._gate = gate
        self._coroutines = coroutines
        self._notes_use = notes_use
        self._methods = public_methods(type(service), Service if isinstance(service, Service) else None)

    def methods(self) -> Iterable[str]:
        """Return the names of its public methods."""
        return self._methods

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the function that calls `method`, waiting for its turn."""
        if method not in self._methods and not self._answers_to(method):
            raise self.no_method(method)
        call = self._gate.guard(getattr(self._service, method), finish=self._finish, refuse=self.refusal)
        return self._gate.noting_use(call) if self._notes_use else call

    def _answers_to(self, method: str) -> bool:
        """Return whether the object itself has a method that its class does not have, as a proxy does."""
        own = inspect.getattr_static(self._service, method, None)
        return not isinstance(own, property) and callable(getattr(self._service, method, None))

    def _finish(self, coroutine: Any) -> Any:
        try:
            return self._coroutines.finish(coroutine)
        except CancelledError:
            if self._gate.is_closed:
                raise self.ended() from None
            raise

    @abstractmethod
    def no_method(self, method: str) -> Exception:
        """Return the error of a call of a method that it does not have."""

    @abstractmethod
    def refusal(self, reason: NoTurnError) -> Exception:
        """Return the error of a call that may not go in."""

    @abstractmethod
    def ended(self) -> Exception:
        """Return the error of a call that was inside when the service ended."""
