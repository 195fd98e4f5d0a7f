"""The last log lines of one service, bounded in number and length."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

#: Log lines shown in an error.
SHOWN_LOG_LINES = 20


class LogLine(NamedTuple):
    """One line that a service logged or printed.

    Attributes
    ----------
    at : float
        When, in seconds since the epoch.
    text : str
        The line without its end, shortened to `LogRing.max_line_chars`.
    """

    at: float
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text


class LogRing:
    """Keeps the last lines; nobody who writes ever waits.

    Parameters
    ----------
    max_lines : int
        How many lines are kept.
    max_line_chars : int
        Where a line is cut.
    """

    def __init__(self, *, max_lines: int = 1000, max_line_chars: int = 4000) -> None:
        self.max_line_chars = max_line_chars
        self._lines: deque[LogLine] = deque(maxlen=max_lines)
        self._partial = b""
        self._lock = threading.Lock()
        self._listeners: tuple[Callable[[LogLine], None], ...] = ()

    def write(self, text: str) -> None:
        """Add text, split into lines."""
        for line in text.splitlines() or [""]:
            self._add(line)

    def feed(self, data: bytes) -> None:
        """Add raw output of a program; a line that is not complete waits for its end, within bounds."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > 4 * self.max_line_chars:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._add(line.decode(errors="replace").rstrip("\r"))

    def finish(self) -> None:
        """Add what is left of an incomplete last line."""
        if self._partial:
            self.feed(b"\n")

    def _add(self, text: str) -> None:
        if len(text) > self.max_line_chars:
            text = text[: self.max_line_chars] + " ... (cut)"
        line = LogLine(time.time(), text)
        with self._lock:
            self._lines.append(line)
        for listener in self._listeners:
            listener(line)

    def lines(self, count: int | None = None) -> tuple[LogLine, ...]:
        """Return the last `count` lines (all that are kept if None), oldest first."""
        with self._lock:
            kept = tuple(self._lines)
        return kept if count is None else kept[len(kept) - min(count, len(kept)) :]

    def texts(self, count: int | None = None) -> tuple[str, ...]:
        """Return the texts of the last `count` lines, oldest first."""
        return tuple(line.text for line in self.lines(count))

    def listen(self, listener: Callable[[LogLine], None]) -> Callable[[], None]:
        """Call `listener` with each line to come; the returned function ends that."""
        self._listeners = (*self._listeners, listener)

        def forget() -> None:
            self._listeners = tuple(kept for kept in self._listeners if kept is not listener)

        return forget


class RingHandler(logging.Handler):
    """Writes log records into a ring."""

    def __init__(self, ring: LogRing) -> None:
        super().__init__()
        self.ring = ring
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record into the ring."""
        self.ring.write(self.format(record))
