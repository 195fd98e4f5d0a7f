"""`Command`: any program as a service."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.services.containment import CHOICES, problem_with
from autostop_lab.services.coroutines import ServiceLoop

if TYPE_CHECKING:
    from autostop_lab.services.probes import Probe
    from autostop_lab.services.service import ServiceContext

_PLACEHOLDER = re.compile(r"\{(host|workdir|port|port:[A-Za-z_]\w*)\}")
MAIN_PORT = "port"


def placeholders(texts: Sequence[str]) -> set[str]:
    """Return the names of the placeholders in `texts`, without braces."""
    return {name for text in texts for name in _PLACEHOLDER.findall(text)}


def fill(text: str, values: Mapping[str, Callable[[], object]]) -> str:
    """Replace our placeholders in `text`, literally; other braces stay."""
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]()), text)


class Command:
    """A program that a job needs, in a session of its own.

    What is not given to the constructor is taken from the class, so a subclass may simply set ``argv``. In `argv`,
    `env`, `cwd`, `stop_argv` and the probe, ``{port}``, ``{port:NAME}``, ``{host}`` and ``{workdir}`` are replaced;
    a port is chosen free for each start. The program inherits environment and working directory.

    A subclass may define ``cleanup()`` (after the program has ended), ``health_check()`` and public methods; the
    methods run in the caller and find `host`, `port`, `ports` and `workdir` on ``self``.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments.
    env : mapping of str to str
        Added to the inherited environment.
    cwd : str or path or None
        Working directory; None inherits ours.
    ready : probe or None
        `TcpReady`, `HttpReady`, `LogReady` or `CallReady`; None is ready once launched.
    stop_signal : signal
        The polite signal, to the whole process group.
    stop_argv : sequence of str or None
        A program that asks it to end, in place of the signal.
    stdin : str, bytes, ``subprocess.PIPE`` or None
        What it reads; PIPE stays open until the service stops, None is empty.
    contain : str
        How to keep a program from getting away that daemonises and clears its environment. ``"cgroup"`` puts it into
        a control group of its own (Linux, where this user may make one). ``"subreaper"`` launches it below a small
        process that adopts its orphans (Linux). ``"signs"`` contains nothing: what sheds every sign of ours is not
        found. ``"auto"`` is ``"cgroup"`` where that works, else ``"signs"``.
    """

    argv: Sequence[str | PathLike[str]] = ()
    env: Mapping[str, str] = {}  # a default for subclasses to replace, never changed
    cwd: str | PathLike[str] | None = None
    ready: Probe | None = None
    stop_signal: int = signal.SIGTERM
    stop_argv: Sequence[str | PathLike[str]] | None = None
    stdin: str | bytes | int | None = None
    contain: str = "auto"

    # Of this life, for what is offered to methods.
    __autostop: ServiceContext | None = None
    __autostop_port: int | None = None
    __autostop_ports: Mapping[str, int] = {}  # replaced as a whole for each start

    def __init__(
        self,
        argv: Sequence[str | PathLike[str]] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | PathLike[str] | None = None,
        ready: Probe | None = None,
        stop_signal: int | None = None,
        stop_argv: Sequence[str | PathLike[str]] | None = None,
        stdin: str | bytes | int | None = None,
        contain: str | None = None,
    ) -> None:
        given = {
            "argv": argv,
            "env": env,
            "cwd": cwd,
            "ready": ready,
            "stop_signal": stop_signal,
            "stop_argv": stop_argv,
            "stdin": stdin,
            "contain": contain,
        }
        self.__dict__.update({name: value for name, value in given.items() if value is not None})

    def _autostop_attach(self, context: ServiceContext, *, port: int | None, ports: Mapping[str, int]) -> None:
        self.__autostop = context
        self.__autostop_port = port
        self.__autostop_ports = ports

    @property
    def host(self) -> str:
        """The loopback address on which it is to listen."""
        return "127.0.0.1"

    @property
    def port(self) -> int | None:
        """What ``{port}`` stands for in this life; where there is no such placeholder, the port that `ready` names."""
        return self.__autostop_port

    @property
    def ports(self) -> dict[str, int]:
        """The named ports of this life."""
        return dict(self.__autostop_ports)

    @property
    def workdir(self) -> Path:
        """A private folder (0700), made on first use and removed with the service."""
        return self.__started("workdir").instance.workdir

    @property
    def logger(self) -> logging.Logger:
        """A logger whose lines are shown as this service's."""
        return self.__started("logger").logger

    def __started(self, wanted: str) -> ServiceContext:
        if self.__autostop is None:
            raise ConfigurationError(f"{type(self).__name__} has a {wanted} only once it is started as a service.")
        return self.__autostop

    def _autostop_check(self, service: str) -> None:
        """Refuse what can never be launched.

        Raises
        ------
        ConfigurationError
            A field makes no sense.
        """
        for name in ("argv", "stop_argv"):
            value = getattr(self, name)
            if name == "stop_argv" and value is None:
                continue
            if isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise ConfigurationError(
                    f"service {service!r}: {name}={value!r} must be a list of words, as shlex.split() gives them."
                )
            if not value:
                raise ConfigurationError(f"service {service!r}: {name} is empty; name the program to run.")
            for word in value:
                if not isinstance(word, str | PathLike):
                    raise ConfigurationError(f"service {service!r}: {name} holds {word!r}, which is not a string.")
        if not (self.cwd is None or isinstance(self.cwd, str | PathLike)):
            raise ConfigurationError(f"service {service!r}: cwd={self.cwd!r} is not a path.")
        env = self.env.items() if isinstance(self.env, Mapping) else [(None, None)]
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in env):
            raise ConfigurationError(f"service {service!r}: env must map strings to strings.")
        if not all(name and "=" not in name for name in self.env):
            raise ConfigurationError(f"service {service!r}: env has a name that is empty or holds a '='.")
        if not (self.stdin is None or isinstance(self.stdin, str | bytes) or self.stdin == subprocess.PIPE):
            raise ConfigurationError(f"service {service!r}: stdin must be text, bytes, subprocess.PIPE or None.")
        self.__check_containment(service)
        try:
            signal.Signals(self.stop_signal)
        except ValueError:
            raise ConfigurationError(
                f"service {service!r}: stop_signal={self.stop_signal!r} is not a signal of this machine."
            ) from None
        if self.ready is not None and (isinstance(self.ready, type) or not hasattr(self.ready, "describe")):
            raise ConfigurationError(
                f"service {service!r}: ready={self.ready!r} is not a probe; "
                "use TcpReady, HttpReady, LogReady or CallReady."
            )

    def __check_containment(self, service: str) -> None:
        if self.contain not in CHOICES:
            raise ConfigurationError(
                f"service {service!r}: there is no contain={self.contain!r}; choose from "
                f"{', '.join(map(repr, CHOICES))}."
            )
        if self.contain != "auto" and (problem := problem_with(self.contain)):
            others = [other for other in CHOICES[1:] if other != self.contain and not problem_with(other)]
            raise ConfigurationError(
                f"service {service!r}: contain={self.contain!r} does not work on this machine: {problem}. "
                f"Use contain={others[-1]!r}, or leave it out for what works."
            )

    def _autostop_texts(self) -> list[str]:
        """Return every text in which placeholders are replaced."""
        return [
            *(fspath(word) for word in self.argv),
            *(fspath(word) for word in self.stop_argv or ()),
            *self.env.values(),
            *([fspath(self.cwd)] if self.cwd is not None else []),
            *(self.ready.texts() if self.ready is not None else []),
        ]


class CommandEndpoint:
    """Calls the methods of a `Command` subclass in the caller."""

    def __init__(self, command: Command, methods: Iterable[str], coroutines: ServiceLoop) -> None:
        self.host: str | None = command.host
        self.port: int | None = command.port
        self.ports: dict[str, int] = command.ports
        self.command = command
        self._methods = methods
        self._coroutines = coroutines

    def methods(self) -> Iterable[str]:
        """Return the names of its public methods."""
        return self._methods

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the method; one that is a coroutine function runs in the event loop of the service."""
        function, finish = getattr(self.command, method), self._coroutines.finish

        def call(*args: Any, **kwargs: Any) -> Any:
            value = function(*args, **kwargs)
            return finish(value) if value.__class__ is CoroutineType else value

        return call
