"""Readiness probes of commands say when dependants may start.

A probe must be answered by the service itself, and fails at once when the service has exited. A probe that hangs
is given up after `attempt_timeout_s` and tried again, until the service's ``start_timeout_s`` is over.
"""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from autostop_lab.exceptions import ConfigurationError

if TYPE_CHECKING:
    from autostop_lab.services.program import Launched


class NotReadyError(Exception):
    """One look at the service did not find it ready; the text says what it found."""


class Probe(Protocol):
    """Looks once whether a program is ready."""

    @property
    def attempt_timeout_s(self) -> float:
        """Longest single try, in seconds."""

    def texts(self) -> list[str]:
        """Return the texts in which placeholders are replaced."""

    def describe(self, fill: Callable[[str], str]) -> str:
        """Return what is looked at, for error texts."""

    async def look(self, launched: Launched) -> None:
        """Return if it is ready, raise `NotReadyError` if not."""


def _port_text(port: int | str) -> str:
    text = str(port)
    if not (text.isdigit() and 0 < int(text) < 65536) and not text.startswith("{port"):
        raise ConfigurationError(f"port={port!r} is neither a port number nor a placeholder such as '{{port}}'.")
    return text


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

    def __post_init__(self) -> None:
        """Refuse what is no port."""
        _port_text(self.port)

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
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise NotReadyError(f"{host}:{port} refused the connection ({error.strerror or error})") from error
        writer.close()
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

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if not self.url.startswith(("/", "http://", "https://")):
            raise ConfigurationError(f"url={self.url!r} must begin with '/', 'http://' or 'https://'.")

    @property
    def fixed_port(self) -> int | None:
        """The port, where it is a number."""
        found = re.match(r"https?://[^/]*:(\d+)(/|$)", self.url)
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
    attempt_timeout_s : float
        Longest single wait, in seconds; the next one looks at all lines again.
    """

    pattern: str
    attempt_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is no regular expression."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigurationError(f"pattern={self.pattern!r} is not a regular expression: {error}.") from error

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

        def see(text: str) -> None:
            if pattern.search(text):
                loop.call_soon_threadsafe(found.set)

        forget = launched.ring.listen(lambda line: see(line.text))
        try:
            for text in launched.texts_of_this_life():
                see(text)
            async with asyncio.timeout(self.attempt_timeout_s * 0.9):
                await found.wait()
        except TimeoutError:
            raise NotReadyError(f"no log line matches {self.pattern!r} yet") from None
        finally:
            forget()


@dataclass(frozen=True)
class CallReady:
    """Ready when a function of yours says so.

    Parameters
    ----------
    function : callable
        Called with the `Command`; true is ready, false or an exception is not yet.
    attempt_timeout_s : float
        Longest single call, in seconds; one that hangs is left alone and counts as not ready.
    """

    function: Callable[[Any], object]
    attempt_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        if not callable(self.function):
            raise ConfigurationError(f"CallReady: {self.function!r} cannot be called.")

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
            answer = await launched.in_thread(lambda: self.function(launched.command))
        except Exception as error:
            raise NotReadyError(f"{name} raised {type(error).__name__}: {error}") from error
        if not answer:
            raise NotReadyError(f"{name} returned {answer!r}")
