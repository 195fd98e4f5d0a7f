"""What was registered: a service's class or factory, its arguments, runtime and policy, checked at once."""

from __future__ import annotations

import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autostop_lab.exceptions import ArgumentError, ConfigurationError
from autostop_lab.services.command import Command
from autostop_lab.services.handle import HANDLE_NAMES, ServiceHandle, ServiceMethod
from autostop_lab.services.logs import SECRET_TEXT, mask
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import Service, public_methods
from autostop_lab.services.travel import obstacle

#: Bounds of ``memory_limit_mb``, in MiB: a process does not come up with less, and no system counts more.
LEAST_MEMORY_MB, MOST_MEMORY_MB = 16, 2**40
#: Runtimes of Python services, and the options that each takes.
RUNTIME_OPTIONS: Mapping[str, frozenset[str]] = {
    "thread": frozenset(),
    "process": frozenset({"env", "cwd", "memory_limit_mb"}),
}
#: A longer list among the arguments of a service is data, and is not searched for handles.
LONGEST_LIST_OF_HANDLES = 100


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
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    runtime: str = "thread"
    options: dict[str, Any] = field(default_factory=dict, repr=False)
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

    @property
    def has_process(self) -> bool:
        """Whether it lives in a process of its own on this machine."""
        return self.runtime in ("command", "process")

    def shown_arguments(self) -> str:
        """Return its arguments as a person may see them, on one line, without secrets."""
        show, secret = _ShortRepr(self.secret_texts()).repr, self.policy.secret
        named = self._named_arguments().items()
        return ", ".join(f"{name}={SECRET_TEXT if name in secret else show(value)}" for name, value in named)

    def _named_arguments(self) -> dict[str, Any]:
        try:
            signature = inspect.signature(self.target)
            bound = signature.bind(*self.args, **self.kwargs).arguments
        except (TypeError, ValueError):  # a class written in C need not have a signature
            return {**{f"#{i}": value for i, value in enumerate(self.args)}, **self.kwargs}
        named: dict[str, Any] = {}
        for name, value in bound.items():
            is_rest = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            named.update(value if is_rest else {name: value})
        return named

    def secret_texts(self, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Return what must not be shown, as texts: the secret arguments, and the secret part of an environment."""
        named = self._named_arguments()
        env = named.get("env") if self.is_command else self.options.get("env")
        sources = [named, environment, env if isinstance(env, Mapping) else {}]
        return [text for name in self.policy.secret for source in sources for text in _texts_of(source.get(name))]


class _ShortRepr(reprlib.Repr):
    """Shows values within a line, without secrets, which are masked before anything is cut or quoted."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self._secrets = secrets

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(mask(x, self._secrets), level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            text = " ".join(mask(repr(x), self._secrets).split())
        except Exception:
            return f"<{type(x).__name__}>"
        return text if len(text) <= self.maxother else text[: self.maxother] + "..."


def _texts_of(value: object) -> Iterator[str]:
    """Return the texts in a value that is secret."""
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_of(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts_of(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


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
    _check_arguments(name, service_class, args, kwargs, secret=policy.secret)
    methods = public_methods(service_class, _our_base(service_class))
    _check_method_names(name, service_class, methods)
    _check_hooks(name, service_class, policy)
    if issubclass(service_class, Command):
        _check_command(name, service_class, args, kwargs)
    chosen = "command" if is_command else _checked_runtime(name, default_runtime if runtime is None else runtime)
    if chosen == "process":
        _check_travels(name, service_class, args, kwargs)
    return ServiceSpec(
        name=name,
        target=service_class,
        args=args,
        kwargs=kwargs,
        runtime=chosen,
        options=_checked_options(name, chosen, options),
        policy=policy.with_dependencies(_handles_in((*args, *kwargs.values()))),
        methods=methods,
    )


def _check_hooks(name: str, service_class: type, policy: ServicePolicy) -> None:
    """Refuse a policy that asks for a hook which the class does not define."""
    kind, is_command = service_class.__name__, issubclass(service_class, Command)
    if is_command and policy.idle_timeout_s is not None and not hasattr(service_class, "is_idle"):
        raise ConfigurationError(
            f"service {name!r}: idle_timeout_s={policy.idle_timeout_s:g}, but {kind} is a Command and its clients "
            "need not come through the handle. Define is_idle() in it, or give it "
            "policy=ServicePolicy(idle_timeout_s=None)."
        )
    if policy.cron is not None and not is_command and not callable(getattr(service_class, "run", None)):
        raise ConfigurationError(
            f"service {name!r}: it has a schedule (cron), but {kind} has no run() to call by it. Define run()."
        )


def _our_base(cls: type) -> type | None:
    return next((base for base in (Command, Service) if issubclass(cls, base)), None)


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
    _check_arguments(name, factory, (), {}, secret=policy.secret)
    chosen = _checked_runtime(name, default_runtime if runtime is None else runtime)
    if chosen == "process":
        _check_travels(name, factory, (), {})
    return ServiceSpec(
        name=name,
        target=factory,
        runtime=chosen,
        options=_checked_options(name, chosen, options),
        policy=policy,
        methods_are_open=True,
    )


def _checked_runtime(name: str, runtime: object) -> str:
    if not isinstance(runtime, str) or runtime not in RUNTIME_OPTIONS:
        choices = ", ".join(map(repr, RUNTIME_OPTIONS))
        raise ConfigurationError(f"service {name!r}: there is no runtime {runtime!r}; choose from {choices}.")
    return runtime


def _checked_options(name: str, runtime: str, options: object) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(f"service {name!r}: runtime_options={options!r} must be a dict.")
    known = RUNTIME_OPTIONS.get(runtime, frozenset())
    for key in options or ():
        if key not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise ConfigurationError(
                f"service {name!r}: runtime {runtime!r} has no option {key!r} in runtime_options; {takes}."
            )
    chosen = dict(options or {})
    _check_env(name, chosen.get("env", {}))
    _check_cwd(name, chosen.get("cwd"))
    if "memory_limit_mb" in chosen:
        _check_memory_limit(name, chosen["memory_limit_mb"])
    return chosen


def _check_env(name: str, env: object) -> None:
    items = env.items() if isinstance(env, Mapping) else [(None, None)]
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in items):
        raise ConfigurationError(f"service {name!r}: env in runtime_options must map strings to strings.")
    if not all(key and "=" not in key and "\0" not in key + value for key, value in items):
        raise ConfigurationError(
            f"service {name!r}: env in runtime_options has a name that is empty or holds a '=', or a null character."
        )


def _check_cwd(name: str, cwd: object) -> None:
    if not (cwd is None or isinstance(cwd, str | os.PathLike)):
        raise ConfigurationError(f"service {name!r}: cwd={cwd!r} in runtime_options is not a path.")


def _check_memory_limit(name: str, limit_mb: object) -> None:
    is_number = isinstance(limit_mb, int | float) and not isinstance(limit_mb, bool)
    if not is_number or not LEAST_MEMORY_MB <= limit_mb <= MOST_MEMORY_MB:  # type: ignore[operator]
        raise ConfigurationError(
            f"service {name!r}: memory_limit_mb={limit_mb!r} in runtime_options must be a number of MiB from "
            f"{LEAST_MEMORY_MB} (a thread takes 8) to 2**40."
        )
    if sys.platform != "linux":
        raise ConfigurationError(
            f"service {name!r}: memory_limit_mb in runtime_options needs Linux, since {sys.platform} does not hold a "
            "process to such a limit. Leave it out here."
        )


def _check_travels(name: str, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what cannot be sent to a process of its own."""
    parts: list[tuple[str, object]] = [(getattr(target, "__qualname__", type(target).__name__), target)]
    parts += [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    parts += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    if found := obstacle(parts):
        raise ConfigurationError(
            f"service {name!r}: {found}. Make it in the service itself, in __init__() or start(), or use "
            "runtime='thread'."
        )


def _check_arguments(
    name: str,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    secret: Collection[str],
) -> None:
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
        wanted = f"{getattr(target, '__name__', target)}{_plain(signature, secret)}"
        raise ArgumentError(f"service {name!r}: {wanted} does not take these arguments: {error}.") from None


def _plain(signature: inspect.Signature, secret: Collection[str]) -> inspect.Signature:
    """Return a signature as a person needs it to call: without annotations and secret defaults."""
    parameters = []
    for parameter in signature.parameters.values():
        is_secret = parameter.name in secret and parameter.default is not parameter.empty
        default = SECRET_TEXT if is_secret else parameter.default
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    return inspect.Signature(parameters)


def _check_method_names(name: str, service_class: type, methods: Mapping[str, object]) -> None:
    for method in methods:
        if method in HANDLE_NAMES:
            raise ConfigurationError(
                f"service {name!r}: {service_class.__name__}.{method}() has the name of something that every handle "
                f"has, so handle.{method} could not reach it. Rename it, or register the class with "
                f"register_service_factory() and reach it by handle.call({method!r}, ...)."
            )


def _check_command(name: str, command: type[Command], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for hook in ("start", "run", "stop"):
        if hasattr(command, hook):
            raise ConfigurationError(
                f"service {name!r}: {command.__name__} is a Command and defines {hook}(), which nobody would call: "
                "argv starts the program; use ready=CallReady(...) for work once it is up, and stop_argv or "
                "stop_signal to end it."
            )
    for chosen in ("port", "ports"):
        if not isinstance(inspect.getattr_static(command, chosen), property):
            raise ConfigurationError(
                f"service {name!r}: {command.__name__} sets {chosen!r}, which is chosen anew for each start. Write "
                "{port} or {port:NAME} in argv; a fixed number is written in argv and in ready=TcpReady(number)."
            )
    if command.__init__ is Command.__init__:  # one of the user's runs only when the service is started
        command(*args, **kwargs)._autostop_check(name)


def _handles_in(arguments: Iterable[object]) -> Iterator[str]:
    """Return the names of the services whose handles are arguments, or in a list or dict that is one."""
    for argument in arguments:
        values: Iterable[object] = (argument,)
        if isinstance(argument, list | tuple | set | frozenset | dict) and len(argument) <= LONGEST_LIST_OF_HANDLES:
            values = argument.values() if isinstance(argument, dict) else argument
        for value in values:
            if isinstance(value, ServiceHandle):
                yield value.name
            elif isinstance(value, ServiceMethod):
                yield value.handle.name
