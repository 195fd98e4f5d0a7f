"""How values, classes and exceptions travel between processes of one machine.

Plain pickle does it where that is safe, cloudpickle where it is needed: for what only this process can name, and for
modules that are registered to travel by value. Large buffers travel beside the pickle and are not copied.

A class that travels by value arrives once: what comes later finds the class that is there, as its first arrival, or
its own home, has it. So a class of the notebook comes home as itself, and its methods keep the notebook's variables.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import _base as futures
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakSet

from autostop_lab.exceptions import RemoteServiceError

#: A buffer of fewer bytes travels within the pickle.
SMALLEST_BUFFER_BYTES = 1 << 16
#: More buffers than this travel within the pickle, since one message cannot hold them.
MOST_BUFFERS = 500
#: What the home of a class of the notebook, or of a script, is called everywhere.
MAIN = b"__main__"
#: A pickle that was made by cloudpickle names it.
CLOUDPICKLE = b"cloudpickle"
#: Where frames of a traceback are ours, and say nothing to whoever reads it.
PACKAGE_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
#: What they wait with for a coroutine.
FUTURES = futures.__file__
#: What calls the code of others here: an exception that begins there is about wrong arguments.
CALLERS = ("call", "construct", "_call_hook")
#: How deep a search goes for what cannot travel.
SEARCH_DEPTH = 6
#: How many links of a chain of causes travel with an exception.
MOST_CAUSES = 8


def pack(value: object) -> tuple[bytes, list[memoryview]]:
    """Pickle a value.

    Parameters
    ----------
    value : object
        Anything that pickle or cloudpickle takes.

    Returns
    -------
    tuple of bytes and list of memoryview
        The pickle, and the buffers that belong to it.

    Raises
    ------
    Exception
        What pickling raised: the value cannot travel.
    """
    buffers: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALLEST_BUFFER_BYTES or len(buffers) >= MOST_BUFFERS:
            return True
        buffers.append(raw)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=take)
    except Exception:
        pass
    else:
        if MAIN not in data and not _names_module_by_value(data):
            return data, buffers
    import cloudpickle

    buffers.clear()
    return cloudpickle.dumps(value, 5, buffer_callback=take), buffers


def _names_module_by_value(data: bytes) -> bool:
    # Not by list_registry_pickle_by_value(), which makes a copy for each call of a service.
    details = sys.modules.get("cloudpickle.cloudpickle")
    names = details._PICKLE_BY_VALUE_MODULES if details is not None else ()
    return bool(names) and any(name.encode() in data for name in names)


def unpack(data: bytes, buffers: Sequence[Any] = ()) -> Any:
    """Return the value of a pickle that `pack` made."""
    if CLOUDPICKLE in data:
        return _Unpickler(io.BytesIO(data), buffers=buffers).load()
    return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)


def pack_result(service: str, value: object) -> tuple[bytes, list[memoryview]]:
    """Pickle what a method has returned; raises `RemoteServiceError` where that cannot be."""
    try:
        return pack(value)
    except Exception as error:
        raise RemoteServiceError(
            f"service {service!r}: {obstacle([('what the method returned', value)])}. Return plain data; the service "
            "itself lives on.",
            service=service,
            error_type=f"{type(value).__module__}.{type(value).__qualname__}",
            traceback_text=repr(error),
        ) from error


#: Classes that have begun to arrive and have not got all of their attributes yet.
_arriving: WeakSet[type] = WeakSet()


class _Unpickler(pickle.Unpickler):
    """Leaves classes as they are that are here already."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module == "cloudpickle.cloudpickle":
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return partial(_make_class, found)
            if name == "_class_setstate":
                return partial(_fill_class, found)
        return found


def _make_class(make: Callable[..., type], *args: Any) -> type:
    import cloudpickle.cloudpickle as details

    # The last argument but one is the id that a class keeps on all its travels.
    is_new = args[-2] is None or args[-2] not in details._DYNAMIC_CLASS_TRACKER_BY_ID
    made = make(*args)
    if is_new:
        _arriving.add(made)
    return made


def _fill_class(fill: Callable[[type, Any], type], made: type, state: Any) -> type:
    if made not in _arriving:
        return made
    filled = fill(made, state)
    _arriving.discard(made)
    return filled


# -- exceptions --------------------------------------------------------------------------------------------


def pack_error(error: BaseException, where: str) -> bytes:
    """Pickle an exception with its causes and its traceback as text; this never fails.

    Parameters
    ----------
    error : BaseException
        What was raised.
    where : str
        Where it was raised, for the reader of the traceback.
    """
    return pickle.dumps(_described(error, where, MOST_CAUSES), 5)


def _described(error: BaseException, where: str, depth: int) -> dict[str, Any]:
    kind = type(error)
    described: dict[str, Any] = {
        "where": where,
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "text": _text(error),
        "traceback": _traceback(error),
        "as_pickled": _try_pack(error),
        "as_parts": _try_pack((kind, error.args, error.__dict__)),
        "is_context_hidden": error.__suppress_context__,
    }
    for name in ("__cause__", "__context__"):
        linked = getattr(error, name)
        if linked is not None and depth > 0:
            described[name] = _described(linked, "", depth - 1)
    return described


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _traceback(error: BaseException) -> str:
    try:
        shown = traceback.TracebackException.from_exception(error)
        shown.__notes__ = None  # they travel with the exception itself
        _leave_us_out(shown)
        return "".join(shown.format())
    except Exception:
        return f"{type(error).__qualname__}\n"


def _leave_us_out(shown: traceback.TracebackException | None) -> None:
    """Take the frames of this package out of a traceback, with those of the futures that it waits for."""
    if shown is not None:
        theirs, is_ours = [], True
        for frame in shown.stack:
            is_ours = frame.filename.startswith(PACKAGE_FOLDER) or (is_ours and frame.filename == FUTURES)
            if not is_ours:
                theirs.append(frame)
        if theirs or (shown.stack and shown.stack[-1].name in CALLERS):
            shown.stack = traceback.StackSummary.from_list(theirs)
        _leave_us_out(shown.__cause__)
        _leave_us_out(shown.__context__)


def _try_pack(value: object) -> bytes | None:
    try:
        data, buffers = pack(value)
    except Exception:
        return None
    return data if not buffers else None


def unpack_error(data: bytes, service: str) -> BaseException:
    """Return the exception that `pack_error` pickled, as itself where that is possible.

    Parameters
    ----------
    data : bytes
        The pickle.
    service : str
        Whose it is, for the error that stands for one that cannot be rebuilt.

    Returns
    -------
    BaseException
        The exception, with the remote traceback as a note; else a `RemoteServiceError`.
    """
    return _rebuilt(pickle.loads(data), service)


def _rebuilt(described: dict[str, Any], service: str) -> BaseException:
    error = _as_itself(described)
    if error is None:
        error = RemoteServiceError(
            f"service {service!r} raised {described['type']}, which cannot travel: {described['text']}",
            service=service,
            error_type=described["type"],
            traceback_text=described["traceback"],
        )
    for name in ("__cause__", "__context__"):
        if name in described:
            setattr(error, name, _rebuilt(described[name], service))
    error.__suppress_context__ = described["is_context_hidden"]
    if described["where"]:
        error.add_note(f"Traceback {described['where']}:\n\n{described['traceback'].rstrip()}")
    return error


def _as_itself(described: dict[str, Any]) -> BaseException | None:
    """Rebuild an exception; one whose constructor would change its text is rebuilt without calling it."""
    candidates = []
    for build in (_from_pickle, _from_parts):
        try:
            error = build(described)
        except Exception:
            continue
        if _text(error) == described["text"]:
            return error
        candidates.append(error)
    return candidates[0] if candidates else None


def _from_pickle(described: dict[str, Any]) -> BaseException:
    error = unpack(described["as_pickled"])
    if not isinstance(error, BaseException):
        raise TypeError("what came was no exception")
    return error


def _from_parts(described: dict[str, Any]) -> BaseException:
    kind, args, attributes = unpack(described["as_parts"])
    error: BaseException = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


# -- what cannot travel ------------------------------------------------------------------------------------


def obstacle(parts: Iterator[tuple[str, object]] | Sequence[tuple[str, object]]) -> str:
    """Return in words what of these cannot travel, and why; "" if all can.

    Parameters
    ----------
    parts : iterable of (str, object)
        What is to travel, each with its name for people.
    """
    for name, value in parts:
        if error := _problem(value):
            return _smallest(name, value, error, SEARCH_DEPTH, set())
    return ""


def _problem(value: object) -> str:
    try:
        pack(value)
    except Exception as error:
        return _text(error).strip().split("\n")[0] or type(error).__name__
    return ""


def _smallest(name: str, value: object, error: str, depth: int, seen: set[int]) -> str:
    seen.add(id(value))
    if depth > 0 and not type(value).__module__.startswith("autostop_lab."):
        for part_name, part in _parts_of(name, value):
            if id(part) not in seen and (problem := _problem(part)):
                return _smallest(part_name, part, problem, depth - 1, seen)
    return f"{name} ({_kind(value)}) cannot travel to another process: {error}"


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _parts_of(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Return what a value consists of, each part with its name for people."""
    if isinstance(value, dict):
        yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{number}]", item) for number, item in enumerate(value))
    elif isinstance(value, partial):
        yield from ((f"an argument of {name}", item) for item in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield f"the object of {name}", value.__self__
    elif isinstance(value, FunctionType):
        yield from _variables_of(name, value)
    elif isinstance(value, type):
        for attribute, member in vars(value).items():
            function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            if isinstance(function, FunctionType):
                yield from _variables_of(f"{name}.{attribute}()", function)
            elif not attribute.startswith("__"):
                yield f"{name}.{attribute}", member
    else:
        yield from ((f"{name}.{attribute}", item) for attribute, item in getattr(value, "__dict__", {}).items())


def _variables_of(name: str, function: FunctionType) -> Iterator[tuple[str, object]]:
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"variable {variable!r} of {name}", cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    for variable in function.__code__.co_names:
        if variable in function.__globals__:
            yield f"variable {variable!r} of {name}", function.__globals__[variable]
    for default in function.__defaults__ or ():
        yield f"a default of {name}", default
