"""`ServiceSlot`: the name of a service in one environment, and what lives behind it at the moment."""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

from autostop_lab.exceptions import ServiceCallTimeoutError, ServiceCrashedError, ServiceError, ServiceUnavailableError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.context import seconds_waited_for
from autostop_lab.services.logs import LogLine, LogRing
from autostop_lab.services.meters import CallMeter, Metered
from autostop_lab.services.service import HOOKS
from autostop_lab.services.switchboard import switchboard

if TYPE_CHECKING:
    from autostop_lab.services.spec import ServiceSpec


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


class Address(NamedTuple):
    """Where a service listens."""

    host: str | None = None
    port: int | None = None
    ports: Mapping[str, int] = MappingProxyType({})


class Vitals(NamedTuple):
    """What its supervisor knows of a service beside its state.

    Attributes
    ----------
    restarts : int
        How often it was started anew.
    pid : int or None
        Pid of its process.
    health : HealthResult or None
        What the last look at its health found.
    """

    restarts: int = 0
    pid: int | None = None
    health: HealthResult | None = None


class Endpoint(Protocol):
    """What answers calls while a service runs."""

    host: str | None
    port: int | None
    ports: dict[str, int]

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the function that calls `method`, waiting for its turn."""

    def methods(self) -> Iterable[str]:
        """Return the names of the methods that can be called."""


#: States in which nothing of a service is there.
AT_REST = frozenset({ServiceState.STOPPED, ServiceState.CRASHED, ServiceState.ABANDONED})
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


class Slot(Protocol):
    """What a handle refers to: a slot of this process, or one elsewhere."""

    @property
    def name(self) -> str:
        """Name of the service."""

    @property
    def kind(self) -> str:
        """What it is, for people: the name of its class or factory."""

    @property
    def key(self) -> str:
        """What pickled handles refer to."""

    @property
    def state(self) -> ServiceState:
        """Where the service is in its life."""

    @property
    def address(self) -> Address:
        """Where it listens."""

    @property
    def orders(self) -> Orders:
        """Who starts and stops it."""

    @property
    def calls(self) -> dict[str, Callable[..., Any]]:
        """Methods of what lives now, as they are called; those that were called so far."""

    @property
    def retries_calls(self) -> bool:
        """Whether a call that died with the service is repeated."""

    def meter(self, method: str) -> CallMeter:
        """Return what counts the calls of a method."""

    def bind(self, method: str) -> Callable[..., Any]:
        """Return what calls a method of what lives now, waiting for a service that is on its way up."""

    def note_closed(self, endpoint_call: Callable[..., Any], method: str) -> None:
        """Forget a life that takes no further calls."""

    def methods(self) -> set[str]:
        """Return the names of its methods, as far as they are known now."""

    def offers(self, method: str) -> bool:
        """Return whether it has a method, as far as that is known now."""

    def no_method(self, method: str) -> AttributeError:
        """Return the error that says which methods there are."""

    def lines(self, count: int | None) -> tuple[LogLine, ...]:
        """Return its last log lines."""


_slots: WeakValueDictionary[str, ServiceSlot] = WeakValueDictionary()


def _forget_lives() -> None:
    # In a forked child: the lives are the parent's.
    for slot in tuple(_slots.values()):
        slot.calls, slot.endpoint = {}, None


os.register_at_fork(after_in_child=_forget_lives)


def slot_of(key: str) -> ServiceSlot | None:
    """Return the slot of this process that a key refers to, if it is there."""
    slot = _slots.get(key)
    return slot if slot is not None and slot.pid == os.getpid() else None


class ServiceSlot(Metered):
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
    vitals : callable
        Returns what its supervisor knows of it.
    moved_s : float
        When it came to its state, on the monotonic clock.
    """

    def __init__(self, spec: ServiceSpec, orders: Orders) -> None:
        super().__init__()
        self.spec = spec
        self.orders = orders
        self.ring = LogRing()
        self.state = ServiceState.STOPPED
        self.reason = ""
        self.next_at: float | None = None
        self.endpoint: Endpoint | None = None
        self.calls: dict[str, Callable[..., Any]] = {}
        self.is_returning = False
        self.vitals: Callable[[], Vitals] = Vitals
        self.moved_s = time.monotonic()
        self._changed = threading.Condition()
        self.pid = os.getpid()
        self._is_referred = False
        self._hold: weakref.finalize[..., Any] | None = None
        self.key = secrets.token_hex(16)
        _slots[self.key] = self

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.spec.name

    @property
    def kind(self) -> str:
        """What it is, for people: the name of its class or factory."""
        return self.spec.kind

    @property
    def address(self) -> Address:
        """Where it listens, while it runs."""
        endpoint = self.endpoint
        return Address(endpoint.host, endpoint.port, endpoint.ports) if endpoint is not None else Address()

    @property
    def retries_calls(self) -> bool:
        """Whether a call that died with the service is repeated."""
        return self.spec.policy.retry_calls

    def lines(self, count: int | None) -> tuple[LogLine, ...]:
        """Return its last `count` log lines (all that are kept if None), oldest first."""
        return self.ring.lines(count)

    def publish(
        self, state: ServiceState, reason: str, endpoint: Endpoint | None, *, next_at: float | None = None
    ) -> None:
        """Show where the service is, what answers its calls, and when its next try or run comes."""
        with self._changed:
            if endpoint is not self.endpoint:
                self.calls = {}  # they hold the object that answered them
            if state is not self.state:
                self.moved_s = time.monotonic()
            self.state, self.reason, self.endpoint, self.next_at = state, reason, endpoint, next_at
            self._hold_switchboard()
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
            self._hold_switchboard()
            self._changed.notify_all()

    def refer(self) -> str:
        """Return the address where other processes ask for it: from now on it is answered there whenever it is up."""
        with self._changed:
            self._is_referred = True
            self._hold_switchboard()
        return switchboard().address

    def _hold_switchboard(self) -> None:
        is_wanted = self._is_referred and (self.state not in AT_REST or self.is_resting or self.is_returning)
        if is_wanted and self._hold is None:
            board = switchboard()
            with suppress(OSError):  # others then hear that it cannot be reached
                board.acquire()
                self._hold = weakref.finalize(self, board.release)
        elif not is_wanted and self._hold is not None:
            self._hold()
            self._hold = None

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

    def died_with_call(self, how: str = "", exit_code: int | None = None) -> ServiceError:
        """Return the error of a call that was inside when the service ended; `how` is known before its reason."""
        if self.state in (ServiceState.STOPPING, ServiceState.KILLING, ServiceState.STOPPED):
            return self.unavailable()
        lines = self.ring.last_words()
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return ServiceCrashedError(
            f"service {self.name!r} died while a call was inside: {how or self.reason}.{said}",
            service=self.name,
            phase="call",
            exit_code=exit_code,
            log_lines=lines,
        )

    def methods(self) -> set[str]:
        """Return the names of its methods, as far as they are known now."""
        endpoint = self.endpoint
        live = set(endpoint.methods()) if self.spec.methods_are_open and endpoint is not None else set()
        return set(self.spec.methods) | live

    def offers(self, method: str) -> bool:
        """Return whether it has a method; what comes from a factory is taken at its word until it lives."""
        if self.spec.methods_are_open and self.endpoint is None and method not in HOOKS:
            return True  # so that pipelines can be declared before
        return method in self.methods()

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

    def no_turn(self) -> ServiceUnavailableError:
        """Return the error of a call that had no turn in time."""
        return ServiceUnavailableError(
            f"service {self.name!r}: the call had no turn within {self.spec.policy.call_timeout_s:g} s, since other "
            "calls take theirs. Raise call_timeout_s, or max_concurrent_calls if the service is thread-safe.",
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
