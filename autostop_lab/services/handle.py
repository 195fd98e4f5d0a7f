"""`ServiceHandle`: what a user holds of a service. It calls methods and gives orders; it never is the object.

A handle refers to a slot: the name of a service in one environment, whatever lives behind it at the moment.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from autostop_lab.exceptions import ServiceCallTimeoutError, ServiceCrashedError, ServiceError, ServiceUnavailableError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import thread_name
from autostop_lab.services.gate import Waiting, seconds_waited_for
from autostop_lab.services.logs import SHOWN_LOG_LINES, LogLine, LogRing
from autostop_lab.services.service import HOOKS

if TYPE_CHECKING:
    from autostop_lab.services.spec import ServiceSpec

#: What a handle has by itself; a service's public methods may not have these names.
HANDLE_NAMES = ("name", "state", "host", "port", "ports", "start", "stop", "restart", "kill", "health", "logs", "call")


@dataclass(frozen=True, kw_only=True)
class HealthResult:
    """What a look at a service's health found.

    Attributes
    ----------
    state : ServiceState
        Where the supervisor has it; what the service itself returns is in `details`.
    is_healthy : bool
        Whether it is there and its check passed.
    details : dict
        What ``health_check()`` returned, if that was a dict.
    checked_at : float
        When, in seconds since the epoch.
    latency_s : float
        How long the check took, in seconds.
    error : str or None
        Why it is not healthy.
    """

    state: ServiceState
    is_healthy: bool
    details: dict[str, Any] = field(default_factory=dict)
    checked_at: float = field(default_factory=time.time)
    latency_s: float = 0.0
    error: str | None = None

    def __bool__(self) -> bool:
        """Return whether it is healthy."""
        return self.is_healthy


class Endpoint(Protocol):
    """What answers calls while a service runs."""

    host: str | None
    port: int | None
    ports: dict[str, int]

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the function that calls `method`, waiting for its turn."""

    def methods(self) -> Iterable[str]:
        """Return the names of the methods that can be called."""


#: The reason of a stop that the next call undoes.
IDLE = "idle"
#: States in which what does not answer will; those of a service that runs are between two objects.
COMING = frozenset(
    {
        ServiceState.STARTING,
        ServiceState.BACKOFF,
        ServiceState.RUNNING,
        ServiceState.UNHEALTHY,
        ServiceState.WAITING,
    }
)
#: The slot whose hook this thread is in. Orders given there are not waited for: they would wait for the hook.
current_hook: ContextVar[ServiceSlot | None] = ContextVar("autostop_lab_current_hook", default=None)


class EndpointClosedError(Exception):
    """A life of a service takes no further calls; nothing was called."""


class Orders(Protocol):
    """Who carries out what a handle is told: the environment that the service belongs to."""

    def start_service(self, name: str) -> None:
        """Start it, and return when it is ready."""

    def wake_service(self, name: str) -> None:
        """Start it if it still rests, and return when it is ready."""

    def stop_service(self, name: str) -> None:
        """Stop it, and return when it is clean."""

    def restart_service(self, name: str) -> None:
        """Stop it and start it anew."""

    def kill_service(self, name: str) -> None:
        """End it without a grace period."""

    def check_service(self, name: str) -> HealthResult:
        """Look at it."""


_slots: WeakValueDictionary[str, ServiceSlot] = WeakValueDictionary()


class ServiceSlot:
    """A service's name in its environment, and what lives behind it now.

    Parameters
    ----------
    spec : ServiceSpec
        What was registered.
    orders : Orders
        Who starts and stops it.

    Attributes
    ----------
    key : str
        What pickled handles refer to.
    calls : dict of str to callable
        Methods of what lives now, as they are called; those that were called so far.
    """

    def __init__(self, spec: ServiceSpec, orders: Orders) -> None:
        self.spec = spec
        self.orders = orders
        self.ring = LogRing()
        self.state = ServiceState.STOPPED
        self.reason = ""
        self.next_at: float | None = None
        self.endpoint: Endpoint | None = None
        self.calls: dict[str, Callable[..., Any]] = {}
        self.is_returning = False
        self._changed = threading.Condition()
        self.pid = os.getpid()
        self.key = secrets.token_hex(16)
        _slots[self.key] = self

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.spec.name

    def publish(
        self, state: ServiceState, reason: str, endpoint: Endpoint | None, *, next_at: float | None = None
    ) -> None:
        """Show where the service is, what answers its calls, and when its next try or run comes."""
        with self._changed:
            if endpoint is not self.endpoint:
                self.calls = {}  # they hold the object that answered them
            self.state, self.reason, self.endpoint, self.next_at = state, reason, endpoint, next_at
            self._changed.notify_all()

    def bind(self, method: str) -> Callable[..., Any]:
        """Return what calls a method of what lives now, waiting for a service that is on its way up.

        Raises
        ------
        AttributeError
            It has no such method, or not for others.
        ServiceUnavailableError
            It is not on its way, or did not come within ``call_timeout_s``.
        ServiceCallTimeoutError
            It did not come as long as somebody waits for this call.
        """
        is_open = self.spec.methods_are_open and not method.startswith("_") and method not in HOOKS
        if not is_open and method not in self.spec.methods:
            raise self.no_method(method)
        endpoint, calls = self._wait_endpoint()
        call = calls[method] = endpoint.bind(method)
        return call

    def set_return(self, is_returning: bool, reason: str) -> None:
        """Show whether it is started again without a further order, and end a rest that the next call would undo."""
        with self._changed:
            self.is_returning = is_returning
            if self.is_resting:
                self.reason = reason
            self._changed.notify_all()

    def note_closed(self, endpoint_call: Callable[..., Any], method: str) -> None:
        """Forget a life that takes no further calls: it is on its way down, and another may come."""
        with self._changed:
            if self.calls.get(method) is endpoint_call:
                self.endpoint, self.calls = None, {}

    def _wait_endpoint(self) -> tuple[Endpoint, dict[str, Callable[..., Any]]]:
        timeout_s = self.spec.policy.call_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._changed:
                left_s = min(deadline_s - time.monotonic(), seconds_waited_for())
                self._changed.wait_for(lambda: not self._is_coming, max(0.0, left_s))
                if self.endpoint is not None:
                    return self.endpoint, self.calls
                if seconds_waited_for() <= 0:
                    raise self.too_late()
                if self._is_coming or not self.is_resting:
                    raise self.unavailable(f" for {timeout_s:g} s" if self._is_coming else "")
            self.orders.wake_service(self.name)

    @property
    def _is_coming(self) -> bool:
        """Whether it will answer without a further order: it starts, is restarted, or gets a new object."""
        if self.endpoint is not None:
            return False
        if self.is_returning:
            return True
        return self.state is not ServiceState.STOPPED and (self.state in COMING or self.is_resting)

    @property
    def is_resting(self) -> bool:
        """Whether it was stopped because nobody called it, so that the next call starts it again."""
        return self.reason == IDLE and self.state in (ServiceState.STOPPING, ServiceState.KILLING, ServiceState.STOPPED)

    def died_with_call(self) -> ServiceError:
        """Return the error of a call that was inside when the service ended."""
        if self.state in (ServiceState.STOPPING, ServiceState.KILLING, ServiceState.STOPPED):
            return self.unavailable()
        lines = self.ring.texts(SHOWN_LOG_LINES)
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return ServiceCrashedError(
            f"service {self.name!r} died while a call was inside: {self.reason}.{said}",
            service=self.name,
            phase="call",
            log_lines=lines,
        )

    def methods(self) -> set[str]:
        """Return the names of its methods, as far as they are known now."""
        endpoint = self.endpoint
        live = set(endpoint.methods()) if self.spec.methods_are_open and endpoint is not None else set()
        return set(self.spec.methods) | live

    def unavailable(self, detail: str = "") -> ServiceUnavailableError:
        """Return the error that says why it takes no call now."""
        reason = f": {self.reason}" if self.reason else ""
        advice = {
            ServiceState.STOPPED: "Start it with env.start() or within a job.",
            ServiceState.CRASHED: "Read its last lines with handle.logs(), then start it anew with handle.start().",
            ServiceState.BACKOFF: "Raise call_timeout_s, or read its last lines with handle.logs().",
            ServiceState.STARTING: "Raise call_timeout_s, or depend on it so that it is ready first.",
            ServiceState.STOPPING: "Calls end when the job ends.",
        }.get(self.state, "")
        next_try = f"; next try in {max(0.0, self.next_at - time.time()):.1f} s" if self.next_at is not None else ""
        text = f"service {self.name!r} takes no calls: it is {self.state}{detail}{reason}{next_try}. {advice}".rstrip()
        return ServiceUnavailableError(text, service=self.name, phase="call")

    def too_late(self) -> ServiceCallTimeoutError:
        """Return the error of a call that was not begun as long as somebody waited for it."""
        return ServiceCallTimeoutError(
            f"service {self.name!r}: the call was not begun in the time that its caller waits.",
            service=self.name,
            phase="call",
        )

    def no_method(self, method: str) -> AttributeError:
        """Return the error that says which methods there are."""
        unknown = self.spec.methods_are_open and self.endpoint is None
        offered = "known once it runs" if unknown else ", ".join(sorted(self.methods())) or "none"
        return AttributeError(
            f"service {self.name!r} has no public method {method!r} (it has: {offered}). "
            "Attributes of the service are not forwarded: define a method that returns what you need."
        )


def _slot_elsewhere(key: str, name: str) -> ServiceHandle:
    slot = _slots.get(key)
    if slot is None or slot.pid != os.getpid():
        raise ServiceError(
            f"the handle of service {name!r} came to a process where the service does not live. Use it in the process "
            "of its environment, and pass on the values that its methods return.",
            service=name,
        )
    return ServiceHandle(slot)


class ServiceMethod:
    """One method of a service: call it, `map` it over a batch, `submit` it, or await `aio`."""

    __slots__ = ("_name", "_slot")

    def __init__(self, slot: ServiceSlot, name: str) -> None:
        self._slot = slot
        self._name = name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method and return its value.

        A call that came just as the service went down waits for its next life, if there is one.
        """
        may_repeat = True
        while True:
            try:
                call = self._slot.calls[self._name]
            except KeyError:
                call = self._slot.bind(self._name)
            try:
                return call(*args, **kwargs)
            except EndpointClosedError:
                self._slot.note_closed(call, self._name)
            except ServiceCrashedError as error:
                is_own = error.service == self._slot.name and error.phase == "call"
                if not (is_own and may_repeat and self._slot.spec.policy.retry_calls):
                    raise
                may_repeat = False
                self._slot.note_closed(call, self._name)

    def map(self, values: Iterable[Any], /) -> list[Any]:
        """Call the method with each of `values` in one round trip and return the results in order."""
        return [self(value) for value in values]

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call in the background and return a future of its value."""
        return run_in_background(lambda: self(*args, **kwargs), name=f"call {self._slot.name}.{self._name}")

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """Await the call's value; the event loop goes on meanwhile."""

        def call() -> Any:
            try:
                return self(*args, **kwargs)
            except StopIteration as error:  # an awaited call cannot raise it (PEP 479)
                raise RuntimeError(f"{self!r} raised StopIteration") from error

        future = run_in_background(call, name=f"call {self._slot.name}.{self._name}")
        return await asyncio.wrap_future(future)

    @property
    def __name__(self) -> str:
        """Name of the method."""
        return self._name

    @property
    def handle(self) -> ServiceHandle:
        """The handle of the service."""
        return ServiceHandle(self._slot)

    def __repr__(self) -> str:
        """Return what it is a method of."""
        return f"<method {self._name!r} of service {self._slot.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a reference."""
        return (getattr, (self.handle, self._name))


def run_in_background(function: Callable[[], Any], *, name: str) -> Future[Any]:
    """Call `function` in a daemon thread, within the service calls of this thread; return a future of its value."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # a call that has begun cannot be cancelled

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=copy_context().run, args=(run,), name=thread_name(name), daemon=True).start()
    return future


class ServiceHandle:
    """What a user holds of a service, in the cell, in an operator or in another service.

    A handle has exactly ``name state host port ports start stop restart kill health logs call`` and the public
    methods that the service's class defines. It stays the same when the service is restarted or the job is
    submitted again, and it pickles to a reference, never to the object.
    """

    def __init__(self, slot: ServiceSlot) -> None:
        self.__slot = slot

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.__slot.name

    @property
    def state(self) -> ServiceState:
        """Where the service is in its life."""
        return self.__slot.state

    @property
    def host(self) -> str | None:
        """Address on which it listens; None if it has no port."""
        return self.__slot.endpoint.host if self.__slot.endpoint else None

    @property
    def port(self) -> int | None:
        """Its main port while it runs; None if it has none."""
        return self.__slot.endpoint.port if self.__slot.endpoint else None

    @property
    def ports(self) -> dict[str, int]:
        """Its named ports while it runs."""
        return dict(self.__slot.endpoint.ports) if self.__slot.endpoint else {}

    def start(self) -> None:
        """Start the service, what it depends on first, and return when it is ready.

        Raises
        ------
        ServiceStartError
            It did not become ready.
        """
        self.__slot.orders.start_service(self.name)

    def stop(self) -> None:
        """Stop and clean the service, what depends on it first; a service at rest stays so.

        Raises
        ------
        ServiceStopError
            Its ``stop()`` or ``cleanup()`` failed, or it is still there.
        """
        self.__slot.orders.stop_service(self.name)

    def restart(self) -> None:
        """Stop the service and start it anew: a new object, with the same arguments."""
        self.__slot.orders.restart_service(self.name)

    def kill(self) -> None:
        """End the service without a grace period, and clean it."""
        self.__slot.orders.kill_service(self.name)

    def health(self) -> HealthResult:
        """Look at the service now."""
        return self.__slot.orders.check_service(self.name)

    def logs(self, count: int | None = None) -> tuple[LogLine, ...]:
        """Return its last `count` log lines (all that are kept if None), oldest first."""
        return self.__slot.ring.lines(count)

    def call(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a method by name, also one that is called like something of the handle.

        Parameters
        ----------
        method : str
            Name of the method.
        *args, **kwargs
            Go to the method.
        timeout : float or None
            Longest duration of the whole call in seconds; None for no limit.

        Returns
        -------
        object
            What the method returned.

        Raises
        ------
        ServiceUnavailableError
            The service cannot take a call now.
        ServiceCallTimeoutError
            The call took longer than `timeout`. What it has begun goes on in the service; if it still waited for
            its turn, it is not begun any more.
        """
        if timeout is None:
            return ServiceMethod(self.__slot, method)(*args, **kwargs)
        with Waiting(timeout) as waiting:
            future = self._submit_call(method, args, kwargs)
        future.add_done_callback(lambda _: waiting.end())
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.done():
                raise ServiceCallTimeoutError(
                    f"service {self.name!r}: {method}() took longer than {timeout:g} s; what it has begun goes on "
                    "there. Raise the timeout, or look at the service with handle.logs().",
                    service=self.name,
                    phase="call",
                ) from None
        return future.result()  # its value came at the last moment, or it raised a TimeoutError of its own

    def _submit_call(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, timeout_s: float | None = None
    ) -> Future[Any]:
        """Begin a call by name in the background and return a future of its value; `timeout_s` as in `call`."""
        if timeout_s is None:
            return ServiceMethod(self.__slot, method).submit(*args, **kwargs)
        return run_in_background(
            lambda: self.call(method, *args, timeout=timeout_s, **kwargs), name=f"call {self.name}.{method}"
        )

    def __getattr__(self, name: str) -> ServiceMethod:
        """Return a public method of the service."""
        if name.startswith("_"):
            raise AttributeError(name)
        slot = self.__slot
        # What comes from a factory is taken at its word until it lives, so that pipelines can be declared before.
        may_have_it = slot.spec.methods_are_open and slot.endpoint is None and name not in HOOKS
        if not may_have_it and name not in slot.methods():
            raise slot.no_method(name)
        method = ServiceMethod(slot, name)
        self.__dict__[name] = method
        return method

    def __dir__(self) -> list[str]:
        """List what the handle has and what the service offers."""
        return sorted({*HANDLE_NAMES, *self.__slot.methods()})

    def __repr__(self) -> str:
        """Return name, kind and state."""
        return f"<service {self.name!r} ({self.__slot.spec.kind}): {self.state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a reference."""
        return (_slot_elsewhere, (self.__slot.key, self.name))
