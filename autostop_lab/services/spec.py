"""What was registered: a service's class or factory, its arguments, runtime and policy, checked at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autostop_lab.exceptions import ArgumentError, ConfigurationError
from autostop_lab.services.command import Command
from autostop_lab.services.handle import HANDLE_NAMES, ServiceHandle, ServiceMethod
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import HOOKS, Service, ServiceCalls, public_methods

#: Runtimes of Python services, and the options that each takes.
RUNTIME_OPTIONS: Mapping[str, frozenset[str]] = {"thread": frozenset()}

SECRET_TEXT = "***"


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """One registered service.

    Attributes
    ----------
    name : str
        Its name.
    target : type or callable
        Its class, or a factory called once per start.
    args, kwargs : tuple, dict
        For `target`.
    runtime : str
        ``"command"``, or one of the runtimes of Python services.
    options : dict
        For the runtime.
    policy : ServicePolicy
        With everything inherited.
    methods : dict
        What its handle offers, by name.
    methods_are_open : bool
        Whether the methods are known only once it lives (it comes from a factory).
    """

    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    runtime: str = "thread"
    options: dict[str, Any] = field(default_factory=dict)
    policy: ServicePolicy = field(default_factory=ServicePolicy)
    methods: dict[str, Callable[..., Any]] = field(default_factory=dict)
    methods_are_open: bool = False

    @property
    def kind(self) -> str:
        """What it is, for people: the name of its class or factory."""
        return getattr(self.target, "__name__", type(self.target).__name__)

    @property
    def is_command(self) -> bool:
        """Whether it is a program."""
        return self.runtime == "command"

    def shown_arguments(self) -> str:
        """Return its arguments as a person may see them, without secrets."""
        secret = self.policy.secret
        named: dict[str, Any] = self.kwargs
        try:
            bound = inspect.signature(self.target).bind(*self.args, **self.kwargs)
            named = dict(bound.arguments)
        except (TypeError, ValueError):
            named = {**{f"#{i}": value for i, value in enumerate(self.args)}, **self.kwargs}
        return ", ".join(f"{key}={SECRET_TEXT if key in secret else repr(value)}" for key, value in named.items())


def check_name(kind: str, name: object) -> str:
    """Return a name of a service, environment or job, or refuse it."""
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"a {kind} needs a name, not {name!r}.")
    if len(name) > 200 or not name.isprintable():
        raise ConfigurationError(f"{kind} name {name[:40]!r}... must be at most 200 printable characters.")
    return name


def spec_of_class(
    name: str,
    service_class: type,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    runtime: str | None,
    default_runtime: str,
    options: Mapping[str, Any] | None,
    policy: ServicePolicy,
) -> ServiceSpec:
    """Check and describe a service given by its class.

    Raises
    ------
    ConfigurationError
        Something in it makes no sense; the text says what.
    ArgumentError
        The arguments do not fit the class's constructor.
    """
    check_name("service", name)
    if not isinstance(service_class, type):
        raise ConfigurationError(
            f"service {name!r}: {service_class!r} is not a class. Give the class and its arguments, or use "
            "register_service_factory() for a function that makes the object."
        )
    is_command = issubclass(service_class, Command)
    if is_command and runtime is not None:
        raise ConfigurationError(
            f"service {name!r} is a Command and takes no runtime: its program runs beside the supervisor."
        )
    _check_arguments(name, service_class, args, kwargs)
    methods = public_methods(service_class, (Command,) if is_command else (Service, ServiceCalls))
    _check_method_names(name, service_class, methods, is_command=is_command)
    spec = ServiceSpec(
        name=name,
        target=service_class,
        args=args,
        kwargs=kwargs,
        runtime="command" if is_command else runtime or default_runtime,
        options=dict(options or {}),
        policy=policy.with_dependencies(_handles_in(args, kwargs)),
        methods=methods,
    )
    _check_options(spec)
    _check_policy(spec, service_class)
    if is_command:
        service_class(*args, **kwargs)._autostop_check(name)
    return spec


def spec_of_factory(
    name: str,
    factory: Callable[[], Any],
    *,
    runtime: str | None,
    default_runtime: str,
    options: Mapping[str, Any] | None,
    policy: ServicePolicy,
) -> ServiceSpec:
    """Check and describe a service given by a function that makes it; errors as in `spec_of_class`."""
    check_name("service", name)
    if not callable(factory):
        raise ConfigurationError(f"service {name!r}: the factory {factory!r} cannot be called.")
    _check_arguments(name, factory, (), {})
    spec = ServiceSpec(
        name=name,
        target=factory,
        runtime=runtime or default_runtime,
        options=dict(options or {}),
        policy=policy,
        methods_are_open=True,
    )
    _check_options(spec)
    return spec


def _check_policy(spec: ServiceSpec, service_class: type) -> None:
    """Refuse a policy that asks for a hook which the class does not define."""
    kind, policy = service_class.__name__, spec.policy
    if spec.is_command and policy.idle_timeout_s is not None and not hasattr(service_class, "is_idle"):
        raise ConfigurationError(
            f"service {spec.name!r}: idle_timeout_s={policy.idle_timeout_s:g}, but {kind} is a Command and its clients "
            "need not come through the handle. Define is_idle() in it, or give it "
            "policy=ServicePolicy(idle_timeout_s=None)."
        )
    if policy.cron is not None and not spec.is_command and not callable(getattr(service_class, "run", None)):
        raise ConfigurationError(
            f"service {spec.name!r}: it has a schedule (cron), but {kind} has no run() to call by it. Define run()."
        )


def _check_options(spec: ServiceSpec) -> None:
    if spec.is_command:
        known: frozenset[str] = frozenset()
    elif spec.runtime in RUNTIME_OPTIONS:
        known = RUNTIME_OPTIONS[spec.runtime]
    else:
        choices = ", ".join(map(repr, RUNTIME_OPTIONS))
        raise ConfigurationError(f"service {spec.name!r}: there is no runtime {spec.runtime!r}; choose from {choices}.")
    for key in spec.options:
        if key not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise ConfigurationError(
                f"service {spec.name!r}: runtime {spec.runtime!r} has no option {key!r} in runtime_options; {takes}."
            )


def _check_arguments(name: str, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if isinstance(target, type) and not any({"__init__", "__new__"} & vars(cls).keys() for cls in target.__mro__[:-1]):
        if args or kwargs:
            raise ArgumentError(f"service {name!r}: {target.__name__} takes no arguments, since it has no __init__.")
        return
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # a class written in C need not have one
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        wanted = f"{getattr(target, '__name__', target)}{signature}"
        raise ArgumentError(f"service {name!r}: {wanted} does not take these arguments: {error}.") from None


def _check_method_names(name: str, service_class: type, methods: Mapping[str, object], *, is_command: bool) -> None:
    for method in methods:
        if method in HANDLE_NAMES:
            raise ConfigurationError(
                f"service {name!r}: {service_class.__name__}.{method}() has the name of something that every handle "
                f"has, so handle.{method} could not reach it. Rename it, or register the class with "
                f"register_service_factory() and reach it by handle.call({method!r}, ...)."
            )
    if is_command:
        for taken in ("start", "run", "stop"):
            if taken in HOOKS and hasattr(service_class, taken):
                raise ConfigurationError(
                    f"service {name!r}: {service_class.__name__} is a Command and defines {taken}(), which nobody "
                    "would call: argv starts the program; use ready=CallReady(...) for work once it is up, and "
                    "stop_argv or stop_signal to end it."
                )


def _handles_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    names = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, ServiceHandle):
            names.append(value.name)
        elif isinstance(value, ServiceMethod):
            names.append(value.handle.name)
    return names
