from __future__ import annotations

import enum
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import numpy
import pytest

from autostop_lab.exceptions import RemoteServiceError, ServiceStartError
from autostop_lab.origin import Origin
from autostop_lab.services.coroutines import ServiceLoop
from autostop_lab.services.gate import CallGate
from autostop_lab.services.travel import obstacle, pack, pack_error, pack_result, unpack, unpack_error
from tests.services import hosted_services


def there_and_back(value: Any) -> Any:
    return unpack(*pack(value))


def elsewhere(value: Any) -> Any:
    """Send a value through another process and back."""
    code = (
        "import pickle, sys\nfrom autostop_lab.services.travel import pack, unpack\n"
        "data, buffers = pickle.loads(sys.stdin.buffer.read())\n"
        "data, more = pack(unpack(data, buffers))\n"
        "sys.stdout.buffer.write(pickle.dumps((data, [bytes(buffer) for buffer in more])))"
    )
    data, buffers = pack(value)
    sent = pickle.dumps((data, [bytes(buffer) for buffer in buffers]))
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    return unpack(*pickle.loads(done.stdout))


# -- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 3, "x", b"x", [1, {"a": (2.5, None)}], {1, 2}, range(3), len, ValueError])
def test_plain_values_travel_by_plain_pickle(value: Any) -> None:
    data, buffers = pack(value)

    assert (b"cloudpickle" in data, buffers) == (False, [])
    assert unpack(data) == value


def test_a_text_that_names_main_is_only_slower() -> None:
    assert there_and_back(["__main__", "cloudpickle"]) == ["__main__", "cloudpickle"]


def test_functions_without_a_name_travel() -> None:
    factor = 3

    assert elsewhere([lambda value: value * factor])[0](2) == 6


def test_a_module_that_is_registered_to_travel_by_value_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle.register_pickle_by_value(hosted_services)
    try:
        data, _ = pack(hosted_services.OddError)
    finally:
        cloudpickle.unregister_pickle_by_value(hosted_services)

    assert b"_make_skeleton_class" in data
    assert b"_make_skeleton_class" not in pack(hosted_services.OddError)[0]


def test_large_buffers_travel_beside_the_pickle_and_are_not_copied() -> None:
    array = numpy.arange(1 << 16)
    data, (buffer,) = pack([array, array[:3].copy()])

    assert len(data) < 1000
    assert buffer.nbytes == array.nbytes
    assert numpy.shares_memory(unpack(data, [buffer])[0], array)


def test_no_more_buffers_than_one_message_holds() -> None:
    data, buffers = pack([numpy.full(1 << 13, number) for number in range(1100)])

    assert len(buffers) <= 1000
    assert [int(array[5]) for array in unpack(data, buffers)] == list(range(1100))


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(pickle.PicklingError, match="excessively deep recursion"):
        pack(deep)


# -- classes -----------------------------------------------------------------------------------------------


def test_classes_come_home_as_themselves_and_unchanged() -> None:
    class Mine:
        count = 0

        def get(self) -> int:
            return self.count

    class Colour(enum.Enum):
        RED = 1

    get = Mine.get
    mine, colour = elsewhere((Mine(), Colour.RED))

    assert type(mine) is Mine
    assert colour is Colour.RED
    assert Mine.get is get


def test_a_class_that_arrived_half_is_filled_by_the_next_arrival() -> None:
    """Its first arrival may fail in the middle, for a module that is not there."""
    code = """
import sys, types
sys.modules["missing_for_a_test"] = module = types.ModuleType("missing_for_a_test")
exec("class Part: pass", module.__dict__)
module.Part.__module__ = "missing_for_a_test"
class Whole:
    part = module.Part
    def seven(self): return 7
import pickle
from autostop_lab.services.travel import pack
first = pack(Whole())[0]
del Whole.part
sys.stdout.buffer.write(pickle.dumps([first, pack(Whole())[0]]))
"""
    first, second = pickle.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    with pytest.raises(ModuleNotFoundError):
        unpack(first)

    assert unpack(second).seven() == 7


# -- exceptions --------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return unpack_error(pack_error(caught, "somewhere"), "it")


def test_an_exception_comes_with_its_attributes_notes_and_traceback() -> None:
    error = ServiceStartError("text", service="it", phase="start", exit_code=3, log_lines=["a"])
    error.add_note("mine")
    came = raised(error)

    assert type(came) is ServiceStartError
    assert (str(came), came.service, came.phase, came.exit_code, came.log_lines) == ("text", "it", "start", 3, ("a",))
    assert came.__notes__[0] == "mine"
    assert came.__notes__[1].startswith("Traceback somewhere:\n")
    assert "in raised\n" in came.__notes__[1]


def test_a_chain_of_causes_is_bounded() -> None:
    error: Exception = ValueError("0")
    for number in range(1, 50):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    came: BaseException | None = unpack_error(pack_error(error, ""), "it")
    length = 0
    while came is not None:
        came, length = came.__cause__, length + 1

    assert 2 < length < 20


def test_an_exception_whose_text_fails_travels() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert isinstance(raised(MuteError()), MuteError)


def test_an_exception_that_cannot_be_rebuilt_is_told() -> None:
    came = raised(ValueError("text", threading.Lock()))

    assert isinstance(came, RemoteServiceError)
    assert (came.service, came.error_type, came.phase) == ("it", "builtins.ValueError", "call")
    assert "text" in str(came)
    assert "in raised\n" in came.traceback_text


def note_of(function: Callable[[], Any]) -> str:
    """Return what is told elsewhere of an exception that begins in `function`."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    assert caught.tb is not None
    error = caught.value.with_traceback(caught.tb.tb_next)
    note: str = unpack_error(pack_error(error, "there"), "it").__notes__[0]
    return note


def test_the_traceback_of_an_async_method_begins_with_the_method() -> None:
    async def mine() -> None:
        raise KeyError("mine")

    loop = ServiceLoop(Origin(), "test")
    note = note_of(partial(loop.finish, mine()))
    loop.close()

    assert re.findall("line .* in (.*)\n", note) == ["mine"]


def test_wrong_arguments_are_no_place_in_our_code() -> None:
    call = CallGate(1, 1.0).guard(lambda: None, finish=lambda value: value, refuse=lambda reason: reason)

    note = note_of(partial(call, 1))

    assert "File" not in note
    assert "takes 0 positional arguments" in note


# -- what cannot travel ------------------------------------------------------------------------------------


class Deep:
    def __init__(self, value: Any) -> None:
        self.value = value


def uses(value: Any) -> Any:
    def function() -> Any:
        return value

    return function


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (threading.Lock(), "it"),
        ([threading.Lock()], "it[0]"),
        ({"a": [0, threading.Lock()]}, "it['a'][1]"),
        (Deep(threading.Lock()), "it.value"),
        (Deep([threading.Lock()]), "it.value[0]"),
        (uses(threading.Lock()), "variable 'value' of it"),
        (uses(Deep(threading.Lock())), "variable 'value' of it.value"),
    ],
    ids=str,
)
def test_what_cannot_travel_is_named(value: Any, name: str) -> None:
    found = obstacle([("fine", 1), ("it", value)])

    assert found.startswith(f"{name} (_thread.lock) cannot travel to another process: ")


def test_a_circle_is_searched_once() -> None:
    circle: list[Any] = [threading.Lock()]
    circle.insert(0, circle)

    assert "it[1] (_thread.lock)" in obstacle([("it", circle)])


def test_what_can_travel_is_no_obstacle() -> None:
    assert obstacle([("it", uses(7)), ("that", Deep([1]))]) == ""


def test_a_result_that_cannot_travel_is_an_error_of_its_own() -> None:
    with pytest.raises(RemoteServiceError, match=r"what the method returned\[1\] \(_thread\.lock\)") as caught:
        pack_result("it", [1, threading.Lock()])

    assert caught.value.error_type == "builtins.list"
