"""Calls of a service in another process, as its owner makes them.

A caller takes a connection that is free, sends its call and reads the answer itself; so callers at the same time
use several. A connection whose answer was not read to its end (an interrupt) is dropped.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from autostop_lab.exceptions import ArgumentError, RemoteServiceError, ServiceUnavailableError
from autostop_lab.services.context import NOTHING, carried, seconds_waited_for
from autostop_lab.services.slot import EndpointClosedError, ServiceSlot
from autostop_lab.services.travel import obstacle, pack, unpack, unpack_error
from autostop_lab.services.wire import Body, Connection, LostError

#: Connections that are kept open without a call, and those that there may be at once.
IDLE_CONNECTIONS, MOST_CONNECTIONS = 8, 100
#: How often who waits for an answer wakes up to see an interrupt, in seconds.
TICK_S = 0.1
#: How long the news may take that the process has ended, once a connection to it is lost, in seconds.
NEWS_S = 5.0


class HasCode(Protocol):
    """How a process ended; its text says it in words."""

    @property
    def code(self) -> int | None:
        """Its exit status, negative for a signal."""


class Pool:
    """Connections to one life of a service.

    Parameters
    ----------
    connect : callable
        Returns a new one, or raises `LostError`.
    limit : int
        How many there may be at once. A call that was made within others is not held up by it.

    Attributes
    ----------
    idle : list of Connection
        Those that are free; who is in a hurry takes the last one.
    """

    def __init__(self, connect: Callable[[], Connection], limit: int = MOST_CONNECTIONS) -> None:
        self._connect = connect
        self._limit = limit
        self.idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._changed = threading.Condition()
        self._is_closed = False
        self._waiting = 0

    def take(self, *, timeout_s: float, is_nested: bool) -> Connection:
        """Return a connection that is free; raises `LostError`, or `TimeoutError` when none was in time."""
        with suppress(IndexError):
            return self.idle.pop()
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._is_closed and not is_nested and len(self._all) >= self._limit:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError
                self._waiting += 1
                try:
                    self._changed.wait(left_s)
                finally:
                    self._waiting -= 1
                if self.idle:
                    return self.idle.pop()
            if self._is_closed:
                raise LostError(was_sent=False)
            connection = self._connect()
            connection.wake_up(TICK_S)
            self._all.add(connection)
            return connection

    def give(self, connection: Connection) -> None:
        """Take back a connection whose answer was read."""
        if self._is_closed or (len(self.idle) >= IDLE_CONNECTIONS and not self._waiting):
            self.drop(connection)
            return
        self.idle.append(connection)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def drop(self, connection: Connection) -> None:
        """Close a connection for good."""
        with self._changed:
            self._all.discard(connection)
            self._changed.notify()
        connection.close()

    def cut(self) -> None:
        """Let whoever waits for an answer see the end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            for connection in self._all:
                connection.cut()

    def close(self) -> None:
        """Cut all, and close those that nobody uses."""
        self.cut()
        with self._changed:
            while self.idle:
                connection = self.idle.pop()
                self._all.discard(connection)
                connection.close()


def cannot_travel(
    service: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> ArgumentError:
    """Return the error of a call whose arguments cannot be sent."""
    named = [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    found = obstacle(named) or f"its arguments cannot travel to another process: {error}"
    return ArgumentError(f"service {service!r}, {method}(): {found}.")


class HostedEndpoint:
    """Calls the methods of a service in a host.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    connect : callable
        Returns a new connection to it.
    methods : iterable of str
        Names of its public methods.
    is_over : threading.Event
        Set when its process has ended.
    exit_of : callable
        Returns how it ended.
    """

    def __init__(
        self,
        slot: ServiceSlot,
        connect: Callable[[], Connection],
        methods: Iterable[str],
        is_over: threading.Event,
        exit_of: Callable[[], HasCode],
    ) -> None:
        self.host: str | None = None
        self.port: int | None = None
        self.ports: dict[str, int] = {}
        self.slot = slot
        self.pool = Pool(connect, max(MOST_CONNECTIONS, 2 * slot.spec.policy.max_concurrent_calls))
        self.is_over = is_over
        self.exit_of = exit_of
        self._methods = tuple(methods)

    def methods(self) -> Iterable[str]:
        """Return the names of its public methods."""
        return self._methods

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the function that calls `method`, waiting for its turn."""
        return HostedCall(self, method)


class HostedCall:
    """One method of a service in a host."""

    def __init__(self, endpoint: HostedEndpoint, method: str) -> None:
        self._endpoint = endpoint
        self._pool = endpoint.pool
        self._method = method
        self._slot = endpoint.slot
        self._heads = {is_batch: pickle.dumps((method, is_batch, None), 5) for is_batch in (False, True)}

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        try:
            body, buffers = pack((args, kwargs))
        except Exception as error:
            raise cannot_travel(self._slot.name, self._method, args, kwargs, error) from error
        return self._result(*self.carry(body, buffers))

    def map(self, values: list[Any]) -> list[Any]:
        """Call the method with each of the values; fewer results come when the service went down on the way."""
        try:
            body, buffers = pack(values)
        except Exception as error:
            raise cannot_travel(self._slot.name, self._method, tuple(values), {}, error) from error
        results: list[Any] = self._result(*self.carry(body, buffers, is_batch=True))
        return results

    def relay(self, body: Body, buffers: list[memoryview]) -> tuple[bytes, bytes, list[memoryview]]:
        """Pass on a call that another process makes, and return the answer for it: a value, or what was raised."""
        status, data, got = self.carry(body, buffers)
        if status not in (b"value", b"error"):
            self._result(status, data, got)
        return status, data, [memoryview(buffer) for buffer in got]

    def carry(
        self, body: Body, buffers: list[memoryview], *, is_batch: bool = False
    ) -> tuple[bytes, bytes, list[Any]]:
        """Send one call and return the answer as it came: its status, body and buffers."""
        what = carried()
        head = self._heads[is_batch] if what is NOTHING else pickle.dumps((self._method, is_batch, what), 5)
        connection = None
        is_whole = False
        try:
            try:
                connection = self._pool.idle.pop()
            except IndexError:
                connection = self._take(is_nested=bool(what.calls))
            answer = connection.exchange(head, body, buffers)
            is_whole = True
        except LostError as lost:
            raise self._lost(lost) from None
        finally:
            if connection is not None:
                (self._pool.give if is_whole else self._pool.drop)(connection)
        return answer

    def _take(self, *, is_nested: bool) -> Connection:
        timeout_s = self._slot.spec.policy.call_timeout_s
        try:
            return self._pool.take(timeout_s=min(timeout_s, seconds_waited_for()), is_nested=is_nested)
        except TimeoutError:
            raise (self._slot.too_late() if seconds_waited_for() <= 0 else self._slot.no_turn()) from None

    def _lost(self, lost: LostError) -> Exception:
        """Return the error of a call whose connection was lost."""
        endpoint = self._endpoint
        if not endpoint.is_over.wait(NEWS_S):
            return ServiceUnavailableError(
                f"service {self._slot.name!r}: its process lives, but the connection to it was lost, maybe with the "
                "call inside. It may lack memory, threads or open files; look with handle.logs().",
                service=self._slot.name,
                phase="call",
            )
        if not lost.was_sent:
            return EndpointClosedError()
        end = endpoint.exit_of()
        return self._slot.died_with_call(str(end), end.code)

    def _result(self, status: bytes, data: bytes, buffers: list[Any]) -> Any:
        slot = self._slot
        if status == b"value":
            try:
                return unpack(data, buffers)
            except Exception as error:
                raise RemoteServiceError(
                    f"service {slot.name!r}: {self._method}() returned something that cannot be read here: "
                    f"{type(error).__name__}: {error}",
                    service=slot.name,
                ) from error
        if status == b"error":
            raise unpack_error(data, slot.name)
        refusals: dict[bytes, Callable[[], Exception]] = {
            b"closed": EndpointClosedError,
            b"late": slot.too_late,
            b"no turn": slot.no_turn,
            b"no method": lambda: slot.no_method(self._method),
        }
        raise refusals.get(status, slot.died_with_call)()
