from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from autostop_lab.exceptions import UnknownServiceError
from autostop_lab.reaper.session import current_session
from autostop_lab.services.logs import LogRing, RingHandler
from autostop_lab.services.service import Service, ServiceCalls, ServiceContext, construct, hook, public_methods


@pytest.fixture
def context() -> ServiceContext:
    def find(name: str) -> Any:
        return SimpleNamespace(name=name, call=lambda *args, **kwargs: (name, args, kwargs))

    return ServiceContext("it", current_session().new_instance("it"), RingHandler(LogRing()), find)


# -- what is there before __init__ -------------------------------------------------------------------------


def test_service_has_no_init_and_no_hooks_of_its_own() -> None:
    assert "__init__" not in vars(Service)
    assert "__init__" not in vars(ServiceCalls)
    assert [name for name in dir(Service) if not name.startswith("_")] == [
        "call_service",
        "call_service_async",
        "logger",
        "service",
        "stopping",
        "workdir",
    ]


def test_everything_is_there_before_init_runs(context: ServiceContext) -> None:
    class Mine(Service):
        def __init__(self) -> None:  # and it does not call super().__init__()
            self.seen = (self.stopping, self.logger, self.service("store").name, self.workdir)
            self.answer = self.call_service("store", 1, method="get", timeout=3, key=2)

    service = construct(Mine, (), {}, context)

    assert service.seen == (context.stopping, context.logger, "store", context.instance.workdir)
    assert service.answer == ("store", ("get", 1), {"timeout": 3, "key": 2})
    assert service.workdir.stat().st_mode & 0o777 == 0o700
    context.instance.remove()


def test_the_default_method_of_call_service_is_process(context: ServiceContext) -> None:
    assert construct(Service, (), {}, context).call_service("store", 1)[1] == ("process", 1)


def test_a_class_with_slots_works(context: ServiceContext) -> None:
    class Mine(Service):
        __slots__ = ("dim",)

        def __init__(self, dim: int) -> None:
            self.dim = dim

    assert construct(Mine, (3,), {}, context).dim == 3
    assert construct(Mine, (3,), {}, context).stopping is context.stopping


def test_a_class_with_new_gets_its_arguments_there_and_in_init(context: ServiceContext) -> None:
    class Mine(Service):
        def __new__(cls, *args: Any, **kwargs: Any) -> Mine:
            made = super().__new__(cls)
            made.by_new = (args, kwargs)  # type: ignore[attr-defined]
            return made

        def __init__(self, dim: int, mode: str) -> None:
            self.by_init = (dim, mode, self.stopping)

    service = construct(Mine, (3,), {"mode": "x"}, context)

    assert service.by_new == ((3,), {"mode": "x"})
    assert service.by_init == (3, "x", context.stopping)


def test_a_class_with_new_only_works(context: ServiceContext) -> None:
    class Mine(Service):
        def __new__(cls, dim: int) -> Mine:
            made = super().__new__(cls)
            made.dim = dim  # type: ignore[attr-defined]
            return made

    assert construct(Mine, (3,), {}, context).dim == 3


def test_new_may_return_something_else(context: ServiceContext) -> None:
    class Mine(Service):
        def __new__(cls) -> Any:
            return [1, 2]

        def __init__(self) -> None:
            raise AssertionError("not for a list")

    assert construct(Mine, (), {}, context) == [1, 2]


def test_an_abstract_class_is_refused_by_python(context: ServiceContext) -> None:
    from abc import ABC, abstractmethod

    class Mine(Service, ABC):
        @abstractmethod
        def work(self) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        construct(Mine, (), {}, context)


def test_a_class_of_the_user_that_is_called_service_keeps_its_private_names(context: ServiceContext) -> None:
    base = Service

    def define() -> type:
        class Service(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                self.__context = "mine"

            def mine(self) -> str:
                return self.__context

        return Service

    service = construct(define(), (), {}, context)

    assert service.mine() == "mine"
    assert service.stopping is context.stopping


def test_what_a_factory_makes_is_attached_if_it_is_a_service(context: ServiceContext) -> None:
    assert construct(lambda: Service(), (), {}, context).stopping is context.stopping
    assert construct(dict, (), {"a": 1}, context) == {"a": 1}


def test_what_it_logs_is_shown_as_its_own(context: ServiceContext) -> None:
    ring = LogRing()
    context = ServiceContext("it", context.instance, RingHandler(ring), context.find_service)
    construct(Service, (), {}, context).logger.info("hello %d", 3)

    assert ring.texts() == ("INFO hello 3",)


def test_what_it_logs_reaches_the_users_handlers_from_their_level_on(
    context: ServiceContext, caplog: pytest.LogCaptureFixture
) -> None:
    service = construct(Service, (), {}, context)
    with caplog.at_level(logging.INFO):
        service.logger.debug("low")
        service.logger.info("high")

    assert [(record.name, record.getMessage()) for record in caplog.records] == [("autostop_lab.service.it", "high")]


# -- made by hand ------------------------------------------------------------------------------------------


class Counter(Service):
    def __init__(self) -> None:
        self.count = 0

    def work(self) -> Path:
        self.count += 1
        self.logger.info("worked")
        return self.workdir


def test_an_object_made_by_hand_works() -> None:
    service = Counter()

    assert not service.stopping.is_set()
    assert service.stopping is service.stopping
    folder = service.work()
    assert folder.is_dir()
    assert service.count == 1


def test_an_object_made_by_hand_leaves_no_folder() -> None:
    service = Counter()
    folder = service.work()
    del service
    gc.collect()

    assert not folder.exists()


def test_an_object_made_by_hand_knows_no_services() -> None:
    with pytest.raises(UnknownServiceError, match="'store' is not known here: this object was not started by us"):
        Counter().service("store")
    with pytest.raises(UnknownServiceError):
        Counter().call_service("store")


def test_whatever_runs_beside_services_knows_none_by_itself() -> None:
    with pytest.raises(UnknownServiceError):
        ServiceCalls().service("store")


# -- hooks and methods -------------------------------------------------------------------------------------


def test_a_hook_is_a_callable_attribute_of_that_name() -> None:
    class Mine:
        stop = 3

        def start(self) -> str:
            return "started"

    found = hook(Mine(), "start")

    assert found is not None
    assert found() == "started"
    assert hook(Mine(), "stop") is None
    assert hook(Mine(), "run") is None


def test_a_hook_may_be_set_on_the_object() -> None:
    assert hook(SimpleNamespace(start=threading.Event), "start") is threading.Event


@pytest.mark.parametrize("make", [MagicMock, lambda: type("Proxy", (), {"__getattr__": lambda self, name: print})()])
def test_a_proxy_that_answers_to_every_name_has_no_hooks(make: Callable[[], Any]) -> None:
    assert hook(make(), "start") is None


def test_public_methods_of_a_class_are_found_without_looking_at_properties() -> None:
    class Mine:
        def work(self) -> None: ...

        @property
        def broken(self) -> None:
            raise AssertionError

    assert set(public_methods(Mine)) == {"work"}
