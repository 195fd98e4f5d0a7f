from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from autostop_lab.dataflow import BaseFunction, MapFunction
from autostop_lab.dataflow.functions import FlatMapFunction, FunctionContext, construct
from autostop_lab.exceptions import PipelineError, UnknownServiceError


class Handle:
    """Answers as a service's handle does, and says what came."""

    def call(self, method: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return method, args, kwargs, timeout

    def _submit_call(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, timeout_s: float | None
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result((method, args, kwargs, timeout_s))
        return future


def context() -> FunctionContext:
    services: dict[str, Any] = {"store": Handle()}
    return FunctionContext("parse", services.__getitem__)


class Parse(MapFunction):
    def execute(self, record: Any) -> Any:
        return record


def test_what_it_offers_is_there_before_init_runs() -> None:
    class Early(Parse):
        def __init__(self) -> None:
            self.seen = (self.name, self.logger.name, self.call_service("store", 1))

    assert construct(Early, (), {}, context()).seen == (
        "parse",
        "autostop_lab.operator.parse",
        ("process", (1,), {}, None),
    )


def test_what_it_offers_needs_no_init_of_the_base_class() -> None:
    class WithSuper(Parse):
        def __init__(self) -> None:
            super().__init__()

    class WithoutSuper(Parse):
        def __init__(self) -> None:
            pass

    for cls in (Parse, WithSuper, WithoutSuper):
        assert construct(cls, (), {}, context()).name == "parse"


def test_a_service_call_passes_on_method_arguments_and_timeout() -> None:
    parse = construct(Parse, (), {}, context())

    assert parse.call_service("store", 1, method="get", timeout=2.5, name="x") == ("get", (1,), {"name": "x"}, 2.5)
    assert parse.call_service_async("store", 1, timeout=2.5, x=3).result() == ("process", (1,), {"x": 3}, 2.5)
    assert isinstance(parse.service("store"), Handle)


def test_outside_a_job_services_are_refused_with_words() -> None:
    for call in (Parse().service, Parse().call_service, Parse().call_service_async):
        with pytest.raises(UnknownServiceError, match="Parse asked for service 'store' outside a job") as caught:
            call("store")
        assert caught.value.service == "store"


def test_outside_a_job_name_and_logger_are_those_of_the_class(caplog: pytest.LogCaptureFixture) -> None:
    parse = Parse()
    with caplog.at_level(logging.INFO, "autostop_lab"):
        parse.logger.info("hello")

    assert parse.name == "Parse"
    assert [(record.name, record.message) for record in caplog.records] == [("autostop_lab.operator.Parse", "hello")]


def test_collect_outside_a_job_is_refused() -> None:
    class Spread(FlatMapFunction):
        def execute(self, record: Any) -> None:
            self.collect(record)

    with pytest.raises(PipelineError, match="outside execute"):
        Spread().execute(1)


def test_name_and_logger_can_be_the_users_own() -> None:
    class Own(Parse):
        def __init__(self, name: str) -> None:
            self.name = name
            self.logger = None  # type: ignore[assignment]

    own = construct(Own, ("mine",), {}, context())

    assert (own.name, own.logger) == ("mine", None)


def test_a_function_may_be_a_dataclass_with_a_field_called_name() -> None:
    @dataclass(frozen=True)
    class Own(Parse):
        name: str

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        Own()  # type: ignore[call-arg]
    own = construct(Own, ("mine",), {}, context())
    assert (own.name, own.call_service("store")[0]) == ("mine", "process")


def test_a_setattr_of_the_users_does_not_see_the_context() -> None:
    class Strict(Parse):
        values: dict[str, Any]

        def __init__(self) -> None:
            self.__dict__["values"] = {}

        def __setattr__(self, name: str, value: Any) -> None:
            self.values[name] = value

    assert construct(Strict, (), {}, context()).name == "parse"


def test_new_gets_the_arguments_too() -> None:
    class New(Parse):
        def __new__(cls, value: int) -> New:
            made = super().__new__(cls)
            made.doubled = 2 * value
            return made

        doubled: int

        def __init__(self, value: int) -> None:
            self.value = value

    made = construct(New, (4,), {}, context())

    assert (made.value, made.doubled, made.name) == (4, 8, "parse")


def test_other_classes_are_made_as_usual() -> None:
    assert construct(complex, (1, 2), {}, context()) == 1 + 2j


def test_the_context_of_one_object_is_not_the_classs() -> None:
    construct(Parse, (), {}, context())

    assert Parse().name == "Parse"
    assert issubclass(Parse, BaseFunction)
