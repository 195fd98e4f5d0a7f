"""`ServiceHandle`: what a user holds of a service. It calls methods and gives orders; it never is the object.

A handle refers to a slot: the name of a service in one environment, whatever lives behind it at the moment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from html import escape
from time import perf_counter as clock
from typing import Any

from autostop_lab.exceptions import ServiceCallTimeoutError, ServiceCrashedError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import CALL_PURPOSE, thread_name
from autostop_lab.services.context import Waiting
from autostop_lab.services.lives import map_over_lives, over_lives
from autostop_lab.services.logs import LogLine
from autostop_lab.services.meters import TIMED_CALLS, UNTIMED
from autostop_lab.services.remote import Reference, RemoteSlot
from autostop_lab.services.serving import reference_to
from autostop_lab.services.slot import EndpointClosedError, HealthResult, ServiceSlot, Slot, slot_of

#: What a handle has by itself; a service's public methods may not have these names.
HANDLE_NAMES = ("name", "state", "host", "port", "ports", "start", "stop", "restart", "kill", "health", "logs", "call")
#: Longest line of what is shown of a handle.
LONGEST_SHOWN_LINE = 200


def _shown(text: str) -> str:
    """Return words from anywhere as one line of bounded length that does nothing but to be read."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text[: 2 * LONGEST_SHOWN_LINE]).split())
    return text if len(text) <= LONGEST_SHOWN_LINE else f"{text[:LONGEST_SHOWN_LINE]}…"


def handle_of(*reference: str) -> ServiceHandle:
    """Return the handle that was pickled to a reference.

    Raises
    ------
    ServiceError
        The service cannot be reached from here.
    """
    found = Reference(*reference)
    return ServiceHandle(slot_of(found.key) or RemoteSlot(found))


_elsewhere: dict[str, RemoteSlot] = {}


def _here(slot: Slot) -> Slot:
    """Return a slot as it is to be used in this process: a forked child has a copy of what lives in its parent."""
    if not isinstance(slot, ServiceSlot) or slot.pid == os.getpid():
        return slot
    if slot.key not in _elsewhere:
        _elsewhere[slot.key] = RemoteSlot(reference_to(slot))
    return _elsewhere[slot.key]


class ServiceMethod:
    """One method of a service: call it, `map` it over a batch, `submit` it, or await `aio`."""

    __slots__ = ("_begin", "_end", "_meter", "_name", "_slot")

    def __init__(self, slot: Slot, name: str) -> None:
        self._slot = slot
        self._name = name
        self._meter = slot.meter(name)
        self._begin, self._end = self._meter.begin, self._meter.end

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method and return its value.

        A call that came just as the service went down waits for its next life, if there is one.
        """
        number = self._begin()
        began_s = clock() if number < TIMED_CALLS or not number & UNTIMED else None
        try:
            try:
                call = self._slot.calls[self._name]
            except KeyError:
                call = _here(self._slot).bind(self._name)
            try:
                return call(*args, **kwargs)
            except (EndpointClosedError, ServiceCrashedError) as error:
                failed = (call, error)
            return over_lives(_here(self._slot), self._name, lambda call: call(*args, **kwargs), failed)
        except BaseException:
            self._meter.note_error()
            raise
        finally:
            self._end()
            if began_s is not None:
                self._meter.note(number, clock() - began_s)

    def map(self, values: Iterable[Any], /) -> list[Any]:
        """Call the method with each of `values` in one round trip and return the results in order."""
        number = self._begin()
        began_s = clock()
        try:
            return map_over_lives(_here(self._slot), self._name, list(values))
        except BaseException:
            self._meter.note_error()
            raise
        finally:
            self._end()
            if number < TIMED_CALLS or not number & UNTIMED:
                self._meter.note(number, clock() - began_s)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a call in the background and return a future of its value."""
        return run_in_background(lambda: self(*args, **kwargs), name=f"{CALL_PURPOSE}{self._slot.name}.{self._name}")

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """Await the call's value; the event loop goes on meanwhile."""

        def call() -> Any:
            try:
                return self(*args, **kwargs)
            except StopIteration as error:  # an awaited call cannot raise it (PEP 479)
                raise RuntimeError(f"{self!r} raised StopIteration") from error

        import asyncio  # not with this module: a process that only holds a handle can do without

        future = run_in_background(call, name=f"{CALL_PURPOSE}{self._slot.name}.{self._name}")
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

    def __init__(self, slot: Slot) -> None:
        self.__slot = slot

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.__slot.name

    @property
    def state(self) -> ServiceState:
        """Where the service is in its life."""
        return _here(self.__slot).state

    @property
    def host(self) -> str | None:
        """Address on which it listens; None if it has no port."""
        return _here(self.__slot).address.host

    @property
    def port(self) -> int | None:
        """Its main port while it runs; None if it has none."""
        return _here(self.__slot).address.port

    @property
    def ports(self) -> dict[str, int]:
        """Its named ports while it runs."""
        return dict(_here(self.__slot).address.ports)

    def start(self) -> None:
        """Start the service, what it depends on first, and return when it is ready.

        Raises
        ------
        ServiceStartError
            It did not become ready.
        """
        _here(self.__slot).orders.start_service(self.name)

    def stop(self) -> None:
        """Stop and clean the service, what depends on it first; a service at rest stays so.

        Raises
        ------
        ServiceStopError
            Its ``stop()`` or ``cleanup()`` failed, or it is still there.
        """
        _here(self.__slot).orders.stop_service(self.name)

    def restart(self) -> None:
        """Stop the service and start it anew: a new object, with the same arguments."""
        _here(self.__slot).orders.restart_service(self.name)

    def kill(self) -> None:
        """End the service without a grace period, and clean it."""
        _here(self.__slot).orders.kill_service(self.name)

    def health(self) -> HealthResult:
        """Look at the service now."""
        return _here(self.__slot).orders.check_service(self.name)

    def logs(self, count: int | None = None) -> tuple[LogLine, ...]:
        """Return its last `count` log lines (all that are kept if None), oldest first."""
        return _here(self.__slot).lines(count)

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
            lambda: self.call(method, *args, timeout=timeout_s, **kwargs), name=f"{CALL_PURPOSE}{self.name}.{method}"
        )

    def __getattr__(self, name: str) -> ServiceMethod:
        """Return a public method of the service."""
        if name.startswith("_"):
            raise AttributeError(name)
        slot = _here(self.__slot)
        if not slot.offers(name):
            raise slot.no_method(name)
        method = ServiceMethod(slot, name)
        self.__dict__[name] = method
        return method

    def __dir__(self) -> list[str]:
        """List what the handle has and what the service offers."""
        return sorted({*HANDLE_NAMES, *_here(self.__slot).methods()})

    def __repr__(self) -> str:
        """Return name, kind and state."""
        return f"<service {self.name!r} ({self.__slot.kind}): {self.state}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it in five lines."""
        printer.text("\n".join(f"{word}: {value}" if word else value for word, value in self.__story()))

    def _repr_html_(self) -> str:
        """Show it as a small table."""
        (_, first), *rest = self.__story()
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(word)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for word, value in rest
        )
        return f"<div><b>{escape(first)}</b><table>{rows}</table></div>"

    def __story(self) -> list[tuple[str, str]]:
        slot = _here(self.__slot)
        lines = [("", f"service {slot.name!r} ({slot.kind})"), ("state", str(slot.state))]
        if reason := getattr(slot, "reason", ""):  # one elsewhere knows none
            lines.append(("reason", str(reason)))
        if self.port:
            lines.append(("address", f"{self.host}:{self.port}"))
        offered = sorted(slot.methods())
        lines.append(("methods", ", ".join(offered) or "none"))
        return [(word, _shown(value)) for word, value in lines]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a reference."""
        return (handle_of, tuple(reference_to(self.__slot)))
