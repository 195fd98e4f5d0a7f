"""Readiness probes of commands say when dependants may start.

A probe must be answered by the service itself, and fails at once when the service has exited. A look that hangs
is given up after `attempt_timeout_s` and tried again, until the service's ``start_timeout_s`` is over.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.services.command import MAIN_PORT, placeholders
from autostop_lab.services.policies import check_seconds
from autostop_lab.services.threads import cause_of

if TYPE_CHECKING:
    from autostop_lab.services.program import Launched


class NotReadyError(Exception):
    """One look at the service did not find it ready; the text says what it found."""


class Probe(Protocol):
    """Looks once whether a program is ready.

    Attributes
    ----------
    attempt_timeout_s : float or None
        Longest look, in seconds; None for one that waits as long as it has to.
    fixed_port : int or None
        The port that it looks at, where that is a number.
    is_lasting : bool
        Whether it says something later on as well, so that a look tells the service's health.
    """

    @property
    def attempt_timeout_s(self) -> float | None: ...  # noqa: D102

    @property
    def fixed_port(self) -> int | None: ...  # noqa: D102

    @property
    def is_lasting(self) -> bool: ...  # noqa: D102

    def texts(self) -> list[str]:
        """Return the texts in which placeholders are replaced."""

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return what is looked at, for error texts."""

    async def look(self, launched: Launched) -> None:
        """Return if it is ready, raise `NotReadyError` if not."""


@dataclass(frozen=True)
class TcpReady:
    """Ready when the service accepts TCP connections.

    Parameters
    ----------
    port : str or int
        ``"{port}"``, ``"{port:NAME}"`` or a fixed number.
    host : str
        Where to connect to.
    attempt_timeout_s : float
        Longest single try, in seconds.
    """

    port: str | int = "{port}"
    host: str = "{host}"
    attempt_timeout_s: float = 2.0

    is_lasting = True

    def __post_init__(self) -> None:
        """Refuse what is no port."""
        text = str(self.port)
        is_number = text.isascii() and text.isdigit() and 0 < int(text) < 65536
        is_placeholder = text[1:-1] in placeholders([text]) and text[1:].startswith(MAIN_PORT)
        if not (is_number or is_placeholder):
            raise ConfigurationError(
                f"TcpReady: port={self.port!r} is neither a port number nor a placeholder such as '{{port}}'."
            )
        if not isinstance(self.host, str):
            raise ConfigurationError(f"TcpReady: host={self.host!r} is not a string.")
        check_seconds("TcpReady", "attempt_timeout_s", self.attempt_timeout_s, exclusive=True)

    @property
    def fixed_port(self) -> int | None:
        """The port, where it is a number."""
        return int(self.port) if str(self.port).isdigit() else None

    def texts(self) -> list[str]:
        """Return the texts in which placeholders are replaced."""
        return [str(self.port), self.host]

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return the address."""
        return f"{fill(self.host)}:{fill(str(self.port))}"

    async def look(self, launched: Launched) -> None:
        """Connect once."""
        host, port = launched.fill(self.host), int(launched.fill(str(self.port)))
        try:
            # Not by asyncio, which looks names up in an executor.
            await launched.in_thread(lambda: socket.create_connection((host, port), self.attempt_timeout_s).close())
        except OSError as error:
            raise NotReadyError(f"{host}:{port} refused the connection ({error.strerror or error})") from error
        await launched.check_listener(port)


@dataclass(frozen=True)
class HttpReady:
    """Ready when the service answers an HTTP GET with a status below 400.

    Parameters
    ----------
    url : str
        With placeholders; a path alone is taken on ``http://{host}:{port}``.
    attempt_timeout_s : float
        Longest single try, in seconds.
    """

    url: str = "/"
    attempt_timeout_s: float = 2.0

    is_lasting = True

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if not isinstance(self.url, str) or not self.url.startswith(("/", "http://", "https://")):
            raise ConfigurationError(f"HttpReady: url={self.url!r} must begin with '/', 'http://' or 'https://'.")
        check_seconds("HttpReady", "attempt_timeout_s", self.attempt_timeout_s, exclusive=True)

    @property
    def fixed_port(self) -> int | None:
        """The port, where it is a number."""
        found = re.match(r"https?://[^/]*:(\d+)(/|\?|$)", self.url)
        return int(found[1]) if found else None

    @property
    def _full(self) -> str:
        return "http://{host}:{port}" + self.url if self.url.startswith("/") else self.url

    def texts(self) -> list[str]:
        """Return the texts in which placeholders are replaced."""
        return [self._full]

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return the address."""
        return fill(self._full)

    async def look(self, launched: Launched) -> None:
        """Ask once."""
        url = launched.fill(self._full)
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        port = parts.port or (443 if parts.scheme == "https" else 80)

        def ask() -> int:
            connection = kind(parts.hostname or "", port, timeout=self.attempt_timeout_s)
            try:
                connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
                return connection.getresponse().status
            finally:
                connection.close()

        try:
            status = await launched.in_thread(ask)
        except (OSError, http.client.HTTPException) as error:
            raise NotReadyError(f"{url} did not answer ({error})") from error
        if status >= 400:
            raise NotReadyError(f"{url} answered with status {status}")
        await launched.check_listener(port)


@dataclass(frozen=True)
class LogReady:
    """Ready when a line of the service's output matches.

    Parameters
    ----------
    pattern : str
        Regular expression, searched for in each line.
    """

    pattern: str

    attempt_timeout_s = None
    fixed_port = None
    is_lasting = False

    def __post_init__(self) -> None:
        """Refuse what is no regular expression."""
        try:
            re.compile(self.pattern).search("")
        except re.error as error:
            raise ConfigurationError(
                f"LogReady: pattern={self.pattern!r} is not a regular expression: {error}."
            ) from error
        except TypeError:
            raise ConfigurationError(f"LogReady: pattern={self.pattern!r} is not a string.") from None

    def texts(self) -> list[str]:
        """Return no texts: braces belong to the regular expression."""
        return []

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return the pattern."""
        return f"a log line that matches {self.pattern!r}"

    async def look(self, launched: Launched) -> None:
        """Search the lines so far, then each one to come."""
        pattern = re.compile(self.pattern)
        found = asyncio.Event()
        loop = asyncio.get_running_loop()

        def see(texts: Iterable[str]) -> None:
            if any(pattern.search(text) for text in texts):
                loop.call_soon_threadsafe(found.set)

        forget = launched.ring.listen(see)
        try:
            see(launched.texts_of_this_life())
            await found.wait()
        finally:
            forget()


@dataclass(frozen=True)
class CallReady:
    """Ready when a function of yours says so.

    Parameters
    ----------
    function : callable
        Called with the `Command`, in a thread; true is ready, false or an exception is not yet. It may be a
        coroutine function.
    attempt_timeout_s : float
        Longest single call, in seconds; one that hangs is left alone and counts as not ready.
    """

    function: Callable[[Any], object]
    attempt_timeout_s: float = 2.0

    fixed_port = None
    is_lasting = True

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        if not callable(self.function):
            raise ConfigurationError(f"CallReady: {self.function!r} cannot be called.")
        check_seconds("CallReady", "attempt_timeout_s", self.attempt_timeout_s, exclusive=True)

    def texts(self) -> list[str]:
        """Return no texts."""
        return []

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return the function's name."""
        return f"{getattr(self.function, '__name__', self.function)}()"

    async def look(self, launched: Launched) -> None:
        """Call the function once."""
        name = self.describe(launched.fill)
        try:
            answer = await launched.call(lambda: self.function(launched.command))
        except Exception as error:
            cause = cause_of(error)
            raise NotReadyError(f"{name} raised {type(cause).__name__}: {cause}") from error
        if not answer:
            raise NotReadyError(f"{name} returned {answer!r}")
