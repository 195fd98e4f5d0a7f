"""A service as handles in other processes see it: they ask the process of its environment, over its switchboard."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import CoroutineType
from typing import Any, NamedTuple

from autostop_lab.exceptions import ServiceError, ServiceUnavailableError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import thread_name
from autostop_lab.services.command import Command
from autostop_lab.services.context import Carried, carried
from autostop_lab.services.coroutines import ServiceLoop
from autostop_lab.services.logs import LogLine
from autostop_lab.services.meters import Metered
from autostop_lab.services.pool import Pool, cannot_travel
from autostop_lab.services.service import ServiceContext, construct
from autostop_lab.services.slot import Address, HealthResult
from autostop_lab.services.travel import pack, unpack, unpack_error
from autostop_lab.services.wire import Connection, LostError

#: What a connection of a handle begins with.
HANDLES = b"handles"
#: The longest wait for a connection, in seconds: there are as many as are needed.
CONNECTION_S = 30.0
#: How often a request is sent anew when a connection that had been idle turns out to be lost.
TRIES = 10


class Reference(NamedTuple):
    """What a pickled handle consists of.

    Attributes
    ----------
    key : str
        Which service.
    name : str
        Its name.
    address : str
        The switchboard of its environment's process.
    """

    key: str
    name: str
    address: str


class Request(NamedTuple):
    """What is asked of the process of an environment.

    Attributes
    ----------
    what : str
        ``describe look lines offers order call batch command workdir log find``.
    key : str
        Of which service; for ``find``, of which instance.
    word : str
        Name of a method, an order or a service.
    carried : Carried
        What the asking call carries along.
    """

    what: str
    key: str
    word: str = ""
    carried: Carried = Carried()


class Description(NamedTuple):
    """What does not change about a service."""

    kind: str
    methods: tuple[str, ...]
    is_open: bool
    is_command: bool


class CommandLife(NamedTuple):
    """What makes an object for the methods of a command, one for each of its lives."""

    number: int
    target: type[Command]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    port: int | None
    ports: dict[str, int]


class NotThereError(Exception):
    """Nobody answers at an address, or does not know the service."""


def _connect(address: str) -> Connection:
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(address)
    except OSError as error:
        end.close()
        raise LostError(was_sent=False) from error
    connection = Connection(end)
    try:
        connection.send(HANDLES)
    except OSError as error:
        raise LostError(was_sent=False) from error
    return connection


_lines: dict[str, Pool] = {}
_lock = threading.Lock()


def _line_to(address: str) -> Pool:
    with _lock:
        if address not in _lines:
            _lines[address] = Pool(lambda: _connect(address), limit=1 << 30)
        return _lines[address]


def _forget_lines() -> None:
    global _lock
    _lock = threading.Lock()
    _lines.clear()


os.register_at_fork(after_in_child=_forget_lines)


def ask(
    address: str, request: Request, value: Any = None, packed: tuple[bytes, list[memoryview]] | None = None
) -> tuple[bytes, bytes, list[Any]]:
    """Send a request and return the answer: its status, body and buffers.

    Parameters
    ----------
    address : str
        A switchboard.
    request : Request
        What is asked.
    value : object
        Goes with it.
    packed : tuple or None
        That value, if it is packed already.

    Raises
    ------
    NotThereError
        Nobody answers there, or does not know the service.
    LostError
        The connection was lost after the request was sent.
    """
    body, buffers = packed if packed is not None else pack(value)
    line = _line_to(address)
    head = pickle.dumps(tuple(request), 5)
    for _ in range(TRIES):
        connection = None
        is_whole = False
        try:
            connection = line.take(timeout_s=CONNECTION_S, is_nested=True)
            answer = connection.exchange(head, body, buffers)
            is_whole = True
        except LostError as lost:
            if lost.was_sent:
                raise
            if connection is None:
                raise NotThereError from lost
            continue
        finally:
            if connection is not None:
                (line.give if is_whole else line.drop)(connection)
        if answer[0] == b"unknown":
            raise NotThereError
        return answer
    raise NotThereError


class RemoteSlot(Metered):
    """A service of another process.

    Parameters
    ----------
    reference : Reference
        Which.

    Raises
    ------
    ServiceError
        It cannot be reached from here.
    """

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference
        self.name = reference.name
        self.key = reference.key
        self.calls: dict[str, Callable[..., Any]] = {}
        self.retries_calls = False  # there, not here
        self.orders = _Orders(self)
        self._description = Description(*self._ask("describe"))
        self.kind = self._description.kind
        self._commands: _Commands | None = None

    def _ask(self, what: str, word: str = "", value: Any = None) -> Any:
        """Ask for something that no user code has a part in."""
        return self.result(self.send(what, word, pack(value)), word)

    def send(self, what: str, word: str, packed: tuple[bytes, list[memoryview]]) -> tuple[bytes, bytes, list[Any]]:
        """Ask for something and return the answer as it came."""
        try:
            return ask(self.reference.address, Request(what, self.key, word, carried()), packed=packed)
        except NotThereError:
            raise ServiceError(
                f"the handle of service {self.name!r} came to a process where the service does not live, and from "
                "where its environment's process cannot be reached. Use it in that process and in those that it "
                "starts, and pass on the values that its methods return.",
                service=self.name,
            ) from None
        except LostError:
            raise ServiceUnavailableError(
                f"service {self.name!r}: the process of its environment has ended, maybe with the call inside.",
                service=self.name,
                phase="call",
            ) from None

    def result(self, answer: tuple[bytes, bytes, list[Any]], word: str) -> Any:
        """Return the value of an answer, or raise what it brings."""
        status, data, buffers = answer
        if status == b"error":
            raise unpack_error(data, self.name)
        return unpack(data, buffers)

    # -- what a handle asks --------------------------------------------------------------------------------

    @property
    def state(self) -> ServiceState:
        """Where the service is in its life."""
        return ServiceState(self._ask("look")[0])

    @property
    def address(self) -> Address:
        """Where it listens, while it runs."""
        return Address(*self._ask("look")[1])

    def lines(self, count: int | None) -> tuple[LogLine, ...]:
        """Return its last `count` log lines (all that are kept if None), oldest first."""
        return tuple(LogLine(*line) for line in self._ask("lines", value=count))

    def methods(self) -> set[str]:
        """Return the names of its methods, as far as they are known now."""
        return set(self._ask("look")[2]) if self._description.is_open else set(self._description.methods)

    def offers(self, method: str) -> bool:
        """Return whether it has a method, as far as that is known now."""
        return bool(self._ask("offers", method)) if self._description.is_open else method in self._description.methods

    def no_method(self, method: str) -> AttributeError:
        """Return the error that says which methods there are."""
        error: AttributeError = self._ask("no method", method)
        return error

    def bind(self, method: str) -> Callable[..., Any]:
        """Return what calls a method; the process of its environment waits for the service."""
        if self._description.is_command:
            if self._commands is None:
                self._commands = _Commands(self)
            return self._commands.bind(method)
        call = self.calls[method] = RemoteCall(self, method)
        return call

    def note_closed(self, endpoint_call: Callable[..., Any], method: str) -> None:
        """Do nothing: lives come and go there."""


class RemoteCall:
    """One method of a service of another process."""

    def __init__(self, slot: RemoteSlot, method: str) -> None:
        self._slot = slot
        self._method = method

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        try:
            packed = pack((args, kwargs))
        except Exception as error:
            raise cannot_travel(self._slot.name, self._method, args, kwargs, error) from error
        return self._slot.result(self._slot.send("call", self._method, packed), self._method)

    def map(self, values: list[Any]) -> list[Any]:
        """Call the method with each of the values."""
        try:
            packed = pack(values)
        except Exception as error:
            raise cannot_travel(self._slot.name, self._method, tuple(values), {}, error) from error
        results: list[Any] = self._slot.result(self._slot.send("batch", self._method, packed), self._method)
        return results


class _Orders:
    """Sends orders to the process of the environment."""

    def __init__(self, slot: RemoteSlot) -> None:
        self._slot = slot

    def start_service(self, name: str) -> None:
        self._slot._ask("order", "start_service")

    def wake_service(self, name: str) -> None:
        self._slot._ask("order", "wake_service")

    def stop_service(self, name: str) -> None:
        self._slot._ask("order", "stop_service")

    def restart_service(self, name: str) -> None:
        self._slot._ask("order", "restart_service")

    def kill_service(self, name: str) -> None:
        self._slot._ask("order", "kill_service")

    def check_service(self, name: str) -> HealthResult:
        result: HealthResult = self._slot._ask("order", "check_service")
        return result


# -- commands ----------------------------------------------------------------------------------------------


class _Threads:
    """Starts daemon threads."""

    def start_thread(self, function: Callable[[], Any], *, name: str) -> threading.Thread:
        thread = threading.Thread(target=function, name=thread_name(name), daemon=True)
        thread.start()
        return thread


class _Folder:
    """The folder of a life that is another process's."""

    def __init__(self, slot: RemoteSlot) -> None:
        self._slot = slot

    @property
    def workdir(self) -> Path:
        folder: Path = self._slot._ask("workdir")
        return folder


class _LogHandler(logging.Handler):
    """Sends log records to the service's own log."""

    def __init__(self, slot: RemoteSlot) -> None:
        super().__init__()
        self._slot = slot

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._slot._ask("log", value=(record.levelno, self.format(record)))
        except Exception:  # arguments that do not fit the message, or nobody there
            self.handleError(record)


class _Commands:
    """Calls the methods of a `Command` subclass here, on an object for each of its lives."""

    def __init__(self, slot: RemoteSlot) -> None:
        self._slot = slot
        self._coroutines = ServiceLoop(_Threads(), f"event loop of service {slot.name}")
        self._lock = threading.Lock()
        self._number = 0
        self._command: Command | None = None

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the method; each call asks which life it is now."""
        finish = self._coroutines.finish

        def call(*args: Any, **kwargs: Any) -> Any:
            value = getattr(self._current(method), method)(*args, **kwargs)
            return finish(value) if value.__class__ is CoroutineType else value

        return call

    def _current(self, method: str) -> Command:
        with self._lock:
            life = self._slot._ask("command", method, value=self._number)
            if life is not None:
                self._command = self._make(CommandLife(*life))
            assert self._command is not None
            return self._command

    def _make(self, life: CommandLife) -> Command:
        context = ServiceContext(self._slot.name, _Folder(self._slot), _LogHandler(self._slot), _no_services)
        command: Command = construct(life.target, life.args, life.kwargs, context)
        command._autostop_attach(context, port=life.port, ports=life.ports)
        self._number = life.number
        return command


def _no_services(name: str) -> Any:
    raise LookupError(name)


def find_from(address: str, instance_id: str, name: str) -> Any:
    """Return the handle of a service that another one, which lives in a process, depends on."""
    status, data, buffers = ask(address, Request("find", instance_id, name))
    if status == b"error":
        raise unpack_error(data, name)
    return unpack(data, buffers)
