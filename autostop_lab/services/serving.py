"""Answers what handles in other processes ask; one thread for each of their connections."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from autostop_lab.exceptions import ServiceError
from autostop_lab.services.command import CommandEndpoint
from autostop_lab.services.context import Carried, within
from autostop_lab.services.lives import map_over_lives, over_lives
from autostop_lab.services.pool import HostedCall
from autostop_lab.services.remote import HANDLES, CommandLife, Description, Reference, RemoteSlot, Request
from autostop_lab.services.slot import ServiceSlot, Slot, slot_of
from autostop_lab.services.switchboard import ANSWERS, finders, inherited_address
from autostop_lab.services.travel import pack, pack_error, pack_result, unpack
from autostop_lab.services.wire import Connection

Answer = tuple[bytes, bytes, list[memoryview]]

_numbers = itertools.count(1)
#: Numbers of the lives of commands.
_lives: WeakKeyDictionary[CommandEndpoint, int] = WeakKeyDictionary()


def reference_to(slot: Slot) -> Reference:
    """Return what a pickled handle of a service consists of."""
    if isinstance(slot, RemoteSlot):
        return slot.reference
    assert isinstance(slot, ServiceSlot)
    if slot.pid != os.getpid():  # a copy of it, in a forked child
        return Reference(slot.key, slot.name, inherited_address())
    return Reference(slot.key, slot.name, slot.refer())


def serve(connection: Connection) -> None:
    """Answer on a connection until it ends."""
    while True:
        try:
            head, body, buffers = connection.receive()
        except (EOFError, OSError):
            break
        what, key, word, carry = pickle.loads(head)
        request = Request(what, key, word, Carried(*carry))
        answer = _answer(request, body, buffers)
        del body, buffers
        try:
            connection.send(*answer)
        except OSError:
            break
        del answer
    connection.close()


ANSWERS[HANDLES] = serve


def _answer(request: Request, body: bytes, buffers: list[Any]) -> Answer:
    try:
        with within(request.carried):
            if request.what == "find":
                find = finders.get(request.key)
                return (b"value", *pack(find(request.word))) if find is not None else (b"unknown", b"", [])
            slot = slot_of(request.key)
            if slot is None:
                return b"unknown", b"", []
            if request.what == "call":
                return _call(slot, request.word, body, buffers)
            return (b"value", *pack(_WORKS[request.what](slot, request.word, unpack(body, buffers))))
    except BaseException as error:
        where = "" if isinstance(error, ServiceError) else "in the process of its environment"
        return b"error", pack_error(error, where), []


def _call(slot: ServiceSlot, method: str, body: bytes, buffers: list[Any]) -> Answer:
    def use(call: Callable[..., Any]) -> Answer:
        if isinstance(call, HostedCall):
            return call.relay(body, [memoryview(buffer) for buffer in buffers])
        args, kwargs = unpack(body, buffers)
        return (b"value", *pack_result(slot.name, call(*args, **kwargs)))

    answer: Answer = over_lives(slot, method, use)
    return answer


def _batch(slot: ServiceSlot, method: str, values: list[Any]) -> list[Any]:
    return map_over_lives(slot, method, values)


def _describe(slot: ServiceSlot, _word: str, _value: None) -> Description:
    spec = slot.spec
    return Description(spec.kind, tuple(spec.methods), spec.methods_are_open, spec.is_command)


def _look(slot: ServiceSlot, _word: str, _value: None) -> tuple[str, tuple[Any, ...], list[str]]:
    host, port, ports = slot.address
    return str(slot.state), (host, port, dict(ports)), sorted(slot.methods())


def _order(slot: ServiceSlot, word: str, _value: None) -> Any:
    return getattr(slot.orders, word)(slot.name)


def _command(slot: ServiceSlot, method: str, known: int) -> CommandLife | None:
    """Return what makes the object of the life that runs now, waiting for one; None if the caller has it."""
    slot.bind(method)
    endpoint = slot.endpoint
    if not isinstance(endpoint, CommandEndpoint):
        raise slot.unavailable()
    number = _lives.get(endpoint) or _lives.setdefault(endpoint, next(_numbers))
    if number == known:
        return None
    spec = slot.spec
    assert isinstance(spec.target, type)
    return CommandLife(number, spec.target, spec.args, spec.kwargs, endpoint.port, endpoint.ports)


def _workdir(slot: ServiceSlot, _word: str, _value: None) -> Path:
    endpoint = slot.endpoint
    if not isinstance(endpoint, CommandEndpoint):
        raise slot.unavailable()
    return endpoint.command.workdir


def _log(slot: ServiceSlot, _word: str, record: tuple[int, str]) -> None:
    level, text = record
    slot.ring.write(f"{logging.getLevelName(level)} {text}")


_WORKS: dict[str, Callable[[ServiceSlot, str, Any], Any]] = {
    "describe": _describe,
    "look": _look,
    "lines": lambda slot, _, count: [tuple(line) for line in slot.lines(count)],
    "offers": lambda slot, word, _: slot.offers(word),
    "no method": lambda slot, word, _: slot.no_method(word),
    "order": _order,
    "batch": _batch,
    "command": _command,
    "workdir": _workdir,
    "log": _log,
}
