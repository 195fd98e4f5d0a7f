from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autostop_lab import LocalEnvironment
from autostop_lab.exceptions import ArgumentError, ConfigurationError
from autostop_lab.services.command import Command
from autostop_lab.services.handle import HANDLE_NAMES, ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.probes import TcpReady
from autostop_lab.services.service import Service
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.spec import (
    LONGEST_LIST_OF_HANDLES,
    ServiceSpec,
    check_name,
    spec_of_class,
    spec_of_factory,
)
from tests.services.lives import NoOrders, spec_of


class Plain:
    def work(self) -> None: ...


class Embedder(Service):
    def __init__(self, dim: int = 64, *rest: Any, mode: str = "fast", **more: Any) -> None:
        self.dim = dim

    def embed(self, text: str) -> str:
        return text


class Strict:
    def __init__(self, user: str, password: str = "changeme") -> None: ...


def registered(
    service_class: Any,
    *args: Any,
    runtime: Any = None,
    options: Any = None,
    policy: ServicePolicy | None = None,
    **kwargs: Any,
) -> ServiceSpec:
    return spec_of_class(
        "it",
        service_class,
        args,
        kwargs,
        runtime=runtime,
        default_runtime="thread",
        options=options,
        policy=policy or ServicePolicy(),
    )


def from_factory(factory: Any, runtime: Any = None, options: Mapping[str, Any] | None = None) -> ServiceSpec:
    return spec_of_factory(
        "it", factory, runtime=runtime, default_runtime="thread", options=options, policy=ServicePolicy()
    )


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", None, 3, "a\nb", "x" * 201])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        check_name("service", name)


@pytest.mark.parametrize("name", ["store", "my store", "größe", "a/b", "x" * 200])
def test_any_printable_text_is_a_name(name: str) -> None:
    assert check_name("service", name) == name


# -- arguments ---------------------------------------------------------------------------------------------


def test_arguments_that_fit_are_kept() -> None:
    spec = registered(Embedder, 3, "x", mode="slow", other=1)

    assert (spec.args, spec.kwargs) == ((3, "x"), {"mode": "slow", "other": 1})


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'user'"),
        (("a", "b", "c"), {}, "too many positional arguments"),
        (("a",), {"pasword": "x"}, "unexpected keyword argument 'pasword'"),
        (("a",), {"user": "b"}, "multiple values for argument 'user'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_signature(
    args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(ArgumentError, match=text) as caught:
        registered(Strict, *args, **kwargs)

    assert "service 'it': Strict(user, password='changeme') does not take these arguments" in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("service_class", [Plain, type("Bare", (Service,), {})])
@pytest.mark.parametrize("given", [((1,), {}), ((), {"dim": 1})])
def test_a_class_without_init_takes_no_arguments(service_class: type, given: tuple[Any, Any]) -> None:
    with pytest.raises(ArgumentError, match="takes no arguments, since it has no __init__"):
        registered(service_class, *given[0], **given[1])


def test_a_class_with_new_is_checked_by_that() -> None:
    class Made:
        def __new__(cls, size: int) -> Made:
            return super().__new__(cls)

    assert registered(Made, 3).args == (3,)
    with pytest.raises(ArgumentError, match="size"):
        registered(Made)


def test_a_class_written_in_c_without_a_signature_is_taken_at_its_word() -> None:
    assert registered(dict, a=1).kwargs == {"a": 1}


def test_what_is_no_class_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"is not a class.*register_service_factory\(\)"):
        registered(Plain())


def test_user_code_does_not_run_at_registration() -> None:
    class Eager(Command):
        def __init__(self) -> None:
            raise AssertionError("constructed too early")

    assert registered(Eager).is_command


# -- runtime and options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["Thread", "threads", "", "command", 3, ["thread"]])
def test_a_runtime_that_does_not_exist_is_refused_with_those_that_do(runtime: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no runtime .*; choose from 'thread'"):
        registered(Plain, runtime=runtime)
    with pytest.raises(ConfigurationError, match="there is no runtime"):
        from_factory(Plain, runtime=runtime)


def test_an_unknown_option_of_the_runtime_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="runtime 'thread' has no option 'num_cpus' in runtime_options"):
        registered(Plain, options={"num_cpus": 1})
    with pytest.raises(ConfigurationError, match="has no option 'num_cpus'"):
        from_factory(Plain, options={"num_cpus": 1})


def test_options_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a dict"):
        registered(Plain, options=["num_cpus"])


@pytest.mark.parametrize("runtime", ["thread", "process"])
def test_a_command_takes_no_runtime(runtime: str) -> None:
    with pytest.raises(ConfigurationError, match="is a Command and takes no runtime"):
        registered(Command, ["sleep", "1"], runtime=runtime)


def test_a_command_takes_no_options() -> None:
    with pytest.raises(ConfigurationError, match="it takes none"):
        registered(Command, ["sleep", "1"], options={"env": {}})


def test_a_command_knows_that_it_is_one() -> None:
    assert registered(Command, ["sleep", "1"]).is_command
    assert not registered(Plain).is_command


# -- methods -----------------------------------------------------------------------------------------------


def test_the_public_methods_of_a_class_are_found_without_hooks_attributes_and_what_service_has() -> None:
    class Base(Service):
        def inherited(self) -> None: ...

    class Mine(Base):
        size = 3
        Config = type("Config", (), {})

        def start(self) -> None: ...
        def stop(self) -> None: ...
        def is_idle(self) -> bool:
            return True

        def _private(self) -> None: ...
        async def later(self) -> None: ...
        def now(self) -> None: ...

        @property
        def shape(self) -> int:
            raise AssertionError("a property is not for handles")

        @staticmethod
        def free() -> None: ...

        @classmethod
        def of_class(cls) -> None: ...

        half = functools.partialmethod(now)

    assert set(registered(Mine).methods) == {"inherited", "later", "now", "free", "of_class", "half"}


def test_a_plain_class_may_use_the_names_that_service_has() -> None:
    class Mine:
        def logger(self) -> None: ...
        def service(self) -> None: ...

    assert set(registered(Mine).methods) == {"logger", "service"}


@pytest.mark.parametrize("name", [name for name in HANDLE_NAMES if name not in ("start", "stop")])
def test_a_method_with_a_name_of_the_handle_is_refused_with_the_way_out(name: str) -> None:
    taken = type("Mine", (Service,), {name: lambda self: None})

    with pytest.raises(ConfigurationError, match=rf"Mine\.{name}\(\).*handle\.call\('{name}', \.\.\.\)"):
        registered(taken)


@pytest.mark.parametrize("name", ["state", "restart", "kill", "health", "logs", "call", "name"])
def test_a_method_of_a_command_with_a_name_of_the_handle_is_refused(name: str) -> None:
    taken = type("Mine", (Command,), {"argv": ["true"], name: lambda self: None})

    with pytest.raises(ConfigurationError, match=rf"handle\.{name} could not reach it"):
        registered(taken)


@pytest.mark.parametrize("hook", ["start", "run", "stop"])
def test_a_command_that_defines_a_hook_that_nobody_would_call_is_refused(hook: str) -> None:
    taken = type("Mine", (Command,), {"argv": ["true"], hook: lambda self: None})

    with pytest.raises(ConfigurationError, match=rf"Mine is a Command and defines {hook}\(\)"):
        registered(taken)


def test_a_command_may_define_cleanup_and_health_check() -> None:
    mine = type("Mine", (Command,), {"argv": ["true"], "cleanup": print, "health_check": print, "client": print})

    assert set(registered(mine).methods) == {"client"}


@pytest.mark.parametrize("name", ["port", "ports"])
def test_a_command_cannot_set_what_is_chosen_for_each_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"sets '{name}', which is chosen anew for each start"):
        registered(type("Mine", (Command,), {"argv": ["true"], name: 6379}))


def test_a_command_may_say_which_of_its_named_ports_is_the_main_one() -> None:
    main = property(lambda self: self.ports["http"])

    assert registered(type("Mine", (Command,), {"argv": ["true"], "port": main})).is_command


# -- commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "argv is empty; name the program to run"),
        ({"argv": "redis-server --port 1"}, r"must be a list of words, as shlex.split\(\) gives them"),
        ({"argv": b"redis"}, "must be a list of words"),
        ({"argv": iter(["a"])}, "must be a list of words"),
        ({"argv": ["redis-server", "--port", 6379]}, "argv holds 6379, which is not a string"),
        ({"argv": ["true"], "stop_argv": "kill 1"}, "stop_argv='kill 1' must be a list of words"),
        ({"argv": ["true"], "stop_argv": ()}, "stop_argv is empty"),
        ({"argv": ["true"], "env": {"A": 1}}, "env must map strings to strings"),
        ({"argv": ["true"], "env": ["A=1"]}, "env must map strings to strings"),
        ({"argv": ["true"], "env": {"A=B": "1"}}, "a name that is empty or holds a '='"),
        ({"argv": ["true"], "env": {"": "1"}}, "a name that is empty or holds a '='"),
        ({"argv": ["true"], "cwd": 3}, "cwd=3 is not a path"),
        ({"argv": ["true"], "stdin": 3}, "stdin must be text, bytes, subprocess.PIPE or None"),
        ({"argv": ["true"], "stop_signal": 999}, "stop_signal=999 is not a signal"),
        ({"argv": ["true"], "stop_signal": "TERM"}, "stop_signal='TERM' is not a signal"),
        ({"argv": ["true"], "ready": 6379}, "ready=6379 is not a probe"),
        ({"argv": ["true"], "ready": "{port}"}, "is not a probe"),
    ],
)
def test_a_command_that_can_never_be_launched_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        registered(Command, **fields)
    with pytest.raises(ConfigurationError, match=text):
        registered(type("Mine", (Command,), fields))


def test_refusals_of_a_command_do_not_show_its_environment() -> None:
    with pytest.raises(ConfigurationError) as caught:
        registered(Command, ["true"], env={"TOKEN": "hunter2", "N": 1})

    assert "hunter2" not in str(caught.value)


# -- factories ---------------------------------------------------------------------------------------------


def test_a_factory_is_called_without_arguments_and_shows_its_methods_later() -> None:
    spec = from_factory(Plain)

    assert spec.methods_are_open
    assert spec.methods == {}
    assert not spec.is_command


@pytest.mark.parametrize("factory", [3, None, "make", Plain()])
def test_what_cannot_be_called_is_no_factory(factory: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be called"):
        from_factory(factory)


def test_a_factory_that_needs_arguments_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"missing a required argument: 'dim'"):
        from_factory(lambda dim: Plain())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (registered(Embedder), "Embedder"),
        (from_factory(Plain), "Plain"),
        (from_factory(functools.partial(Embedder, 3)), "partial"),
    ],
)
def test_a_service_is_called_after_its_class_or_factory(target: ServiceSpec, kind: str) -> None:
    assert target.kind == kind


# -- handles as arguments ----------------------------------------------------------------------------------


def handle(name: str) -> ServiceHandle:
    return ServiceHandle(ServiceSlot(spec_of(name, Embedder), NoOrders()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda h: h,
        lambda h: h.embed,
        lambda h: [h],
        lambda h: (1, h.embed),
        lambda h: {"store": h},
    ],
)
def test_a_handle_among_the_arguments_is_a_dependency(wrap: Callable[[ServiceHandle], object]) -> None:
    assert registered(Embedder, wrap(handle("store"))).policy.depends_on == ("store",)
    assert registered(Embedder, other=wrap(handle("store"))).policy.depends_on == ("store",)


def test_dependencies_that_were_declared_stay() -> None:
    spec = registered(Embedder, handle("a"), handle("b"), policy=ServicePolicy(depends_on=("c", "a")))

    assert spec.policy.depends_on == ("c", "a", "b")


def test_a_long_list_is_data_and_not_searched() -> None:
    assert registered(Embedder, [handle("a")] * (LONGEST_LIST_OF_HANDLES + 1)).policy.depends_on == ()


def test_a_list_that_holds_itself_is_no_trouble() -> None:
    endless: list[Any] = []
    endless.append(endless)

    assert registered(Embedder, endless).policy.depends_on == ()


# -- what is shown -----------------------------------------------------------------------------------------


def test_arguments_are_shown_by_name() -> None:
    assert registered(Embedder, 3, "x", mode="slow", other=1).shown_arguments() == (
        "dim=3, rest=('x',), mode='slow', other=1"
    )


def test_arguments_of_a_class_without_a_signature_are_shown_by_number() -> None:
    assert registered(dict, [("a", 1)], b=2).shown_arguments() == "#0=[('a', 1)], b=2"


def test_long_arguments_are_shown_short_and_on_one_line() -> None:
    class Chatty:
        def __repr__(self) -> str:
            return "first\nsecond " * 100

    shown = registered(Embedder, "x" * 10_000, Chatty(), list(range(10_000))).shown_arguments()

    assert len(shown) < 300
    assert "\n" not in shown


def test_an_argument_that_cannot_be_shown_is_shown_by_its_type() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert registered(Embedder, Broken()).shown_arguments() == "dim=<Broken>"


SECRET = "p'w\\x-hunter2"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (registered(Strict, "u", SECRET, policy=ServicePolicy(secret=("password",))), "user='u', password=***"),
        (registered(Strict, SECRET, SECRET, policy=ServicePolicy(secret=("password",))), "user='***', password=***"),
        (registered(Embedder, password=SECRET, policy=ServicePolicy(secret=("password",))), "password=***"),
        (
            registered(Command, ["sh"], env={"PW": SECRET, "A": "b"}, policy=ServicePolicy(secret=("PW",))),
            "argv=['sh'], env={'A': 'b', 'PW': '***'}",
        ),
        (
            registered(Command, ["x", f"--auth={SECRET}"], env={"PW": SECRET}, policy=ServicePolicy(secret=("PW",))),
            "argv=['x', '--auth=***'], env={'PW': '***'}",
        ),
        (
            registered(Embedder, {"url": f"redis://:{SECRET}@host"}, pw=SECRET, policy=ServicePolicy(secret=("pw",))),
            "dim={'url': 'redis://:***@host'}, pw=***",
        ),
        (
            registered(Embedder, ["x" * 50 + SECRET], pw=[SECRET], policy=ServicePolicy(secret=("pw",))),
            f"dim=['{'x' * 50}***'], pw=***",
        ),
    ],
)
def test_secrets_are_not_shown_among_the_arguments(spec: ServiceSpec, shown: str) -> None:
    assert spec.shown_arguments() == shown
    assert "hunter2" not in repr(spec)


def test_numbers_and_bytes_can_be_secret() -> None:
    spec = registered(Embedder, 4711, key=b"hunter2", policy=ServicePolicy(secret=("dim", "key")))

    assert spec.secret_texts({}) == ["4711", "hunter2"]


def test_secret_environment_variables_are_found_where_the_program_will_see_them() -> None:
    spec = registered(Command, ["x"], policy=ServicePolicy(secret=("PW",)))

    assert spec.secret_texts({"PW": "hunter2", "A": "b"}) == ["hunter2"]


def test_refusals_of_arguments_do_not_show_secret_defaults() -> None:
    with pytest.raises(ArgumentError) as caught:
        registered(Strict, policy=ServicePolicy(secret=("password",)))

    assert "changeme" not in str(caught.value)


def test_probes_are_part_of_a_command() -> None:
    assert "TcpReady" in registered(Command, ["x"], ready=TcpReady("{port}")).shown_arguments()


# -- a process of its own ----------------------------------------------------------------------------------


class Holder(Service):
    def __init__(self, value: Any = None) -> None:
        self.value = value


def capturing(value: Any) -> type:
    class Captures(Service):
        def work(self) -> Any:
            return value

    return Captures


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"num_cpus": 1}, "has no option 'num_cpus' in runtime_options; it takes cwd, env, memory_limit_mb"),
        ({"memory_limit_mb": 0}, "memory_limit_mb=0 in runtime_options must be a number of MiB from 16"),
        ({"memory_limit_mb": -1}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": True}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": float("nan")}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": float("inf")}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": 1}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": 1e30}, "must be a number of MiB from 16"),
        ({"memory_limit_mb": "1G"}, "memory_limit_mb='1G'"),
        ({"env": ["A=1"]}, "must map strings to strings"),
        ({"env": {"A": 1}}, "must map strings to strings"),
        ({"env": {"A=B": "1"}}, "a name that is empty or holds a '='"),
        ({"env": {"": "1"}}, "a name that is empty"),
        ({"cwd": 3}, "cwd=3 in runtime_options is not a path"),
    ],
)
def test_options_of_a_process_that_make_no_sense_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registered(Holder, runtime="process", options=options)

    assert problem in str(caught.value)
    assert str(caught.value).startswith("service 'it': ")


def test_a_memory_limit_needs_a_system_that_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")

    with pytest.raises(ConfigurationError, match="needs Linux"):
        registered(Holder, runtime="process", options={"memory_limit_mb": 64})


@pytest.mark.parametrize(
    ("target", "args", "problem"),
    [
        (Holder, (threading.Lock(),), "argument 1 (_thread.lock) cannot travel to another process"),
        (Holder, ([1, {"a": threading.Lock()}],), "argument 1[1]['a'] (_thread.lock) cannot travel"),
        (capturing(threading.Lock()), (), "variable 'value' of capturing.<locals>.Captures.work() (_thread.lock)"),
        (Holder, (LocalEnvironment("captured"),), "argument 1 (autostop_lab.environment.local.LocalEnvironment)"),
        (
            capturing(LocalEnvironment("captured")),
            (),
            "variable 'value' of capturing.<locals>.Captures.work() (autostop_lab.environment.local.LocalEnvironment)",
        ),
        (Holder, ((each for each in ()),), "argument 1 (generator) cannot travel"),
    ],
)
def test_what_cannot_travel_to_a_process_is_refused_by_name(target: type, args: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registered(target, *args, runtime="process")

    assert problem in str(caught.value)
    assert "Make it in the service itself" in str(caught.value)
    registered(target, *args, runtime="thread")


def test_a_factory_that_cannot_travel_is_refused_by_name() -> None:
    lock = threading.Lock()

    with pytest.raises(ConfigurationError, match=r"variable 'lock' of .*<lambda> \(_thread\.lock\)"):
        spec_of("it", lambda: lock, runtime="process")


def test_what_travels_is_taken() -> None:
    registered(Holder, {"a": [1, 2]}, runtime="process", options={"env": {"A": "1"}, "cwd": "/", "memory_limit_mb": 64})
    registered(capturing(7), runtime="process")
