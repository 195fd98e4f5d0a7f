"""The last log lines of one service, bounded in number and length, without its secrets."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import _base as futures
from itertools import pairwise
from typing import NamedTuple

from autostop_lab.services.travel import PACKAGE_FOLDER

#: What is shown for a secret.
SECRET_TEXT = "***"


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with `secrets` shown as ``***``, each line of a secret by itself, the longest first."""
    for line in sorted({line.strip() for secret in secrets for line in secret.splitlines()} - {""}, key=len)[::-1]:
        text = text.replace(line, SECRET_TEXT)
    return text


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
        self.max_lines = max_lines
        self.max_line_chars = max_line_chars
        self._lines: deque[LogLine] = deque(maxlen=max_lines)
        self._count = 0
        self._partial = b""
        self._lock = threading.Lock()
        self._listeners: tuple[Callable[[list[str]], None], ...] = ()
        self._hidden: tuple[str, ...] = ()

    # -- writing -------------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Add text, split into lines."""
        self._add(self.mask(text).splitlines() or [""])

    def feed(self, data: bytes) -> None:
        """Add raw output of a program; a line that is not complete waits for its end, within bounds."""
        data = self._partial + data
        head, end, self._partial = data.rpartition(b"\n")
        if len(self._partial) > 4 * self.max_line_chars:
            head, end, self._partial = data, b"\n", b""
        if not end:
            return
        if not self._listeners:  # lines that others would push out at once are not looked at
            head = b"\n".join(head.rsplit(b"\n", self.max_lines)[-self.max_lines :])
        text = head.decode(errors="replace").replace("\r\n", "\n").removesuffix("\r")
        self._add(self.mask(text).split("\n"))

    def finish(self) -> None:
        """Add what is left of an incomplete last line."""
        if self._partial:
            self.feed(b"\n")

    def _add(self, texts: list[str]) -> None:
        now = time.time()
        lines = [LogLine(now, self._cut(text)) for text in texts[-self.max_lines :]]
        with self._lock:
            self._lines.extend(lines)
            self._count += len(texts)
        for listener in self._listeners:
            listener(texts)

    def _cut(self, text: str) -> str:
        return text if len(text) <= self.max_line_chars else text[: self.max_line_chars] + " ... (cut)"

    # -- secrets -------------------------------------------------------------------------------------------

    def hide(self, secrets: Iterable[str]) -> None:
        """Show these texts as ``***`` from now on, in place of those that were given before."""
        self._hidden = tuple(secrets)

    def mask(self, text: str) -> str:
        """Return `text` without what is hidden."""
        return mask(text, self._hidden) if self._hidden else text

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def mark(self) -> int:
        """A place in the stream of lines: what is written from now on comes after it."""
        return self._count

    def lines(self, count: int | None = None, *, since: int = 0) -> tuple[LogLine, ...]:
        """Return the last `count` lines (all that are kept if None) after the mark `since`, oldest first."""
        with self._lock:
            kept = tuple(self._lines)
            wanted = min(len(kept), self._count - since)
        if count is not None:
            wanted = min(wanted, count)
        return kept[len(kept) - wanted :]

    def texts(self, count: int | None = None, *, since: int = 0) -> tuple[str, ...]:
        """Return the texts of what `lines` returns."""
        return tuple(line.text for line in self.lines(count, since=since))

    def last_words(self, *, since: int = 0) -> tuple[str, ...]:
        """Return the texts of the last lines after the mark `since`, as an error shows them."""
        return last_words(self.texts(since=since), SHOWN_LOG_LINES)

    @property
    def is_watched(self) -> bool:
        """Whether somebody listens, so that every line counts."""
        return bool(self._listeners)

    def listen(self, listener: Callable[[list[str]], None]) -> Callable[[], None]:
        """Call `listener` with the texts of all lines to come, some at a time; the returned function ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def forget() -> None:
            with self._lock:
                self._listeners = tuple(kept for kept in self._listeners if kept is not listener)

        return forget


#: With what an interpreter begins to say how it crashed.
DUMP = "Fatal Python error: "
#: With what the stack of a thread begins there, before its frames.
THREAD = "(most recent call first):"
#: What belongs to it: such stacks, and what says nothing to whoever reads it.
_dumped = re.compile(r"  .*|.*\(most recent call first\):|Python runtime state: .*|Extension modules: .*|").fullmatch
#: A frame there, with its file.
_dumped_frame = re.compile(r'  File "(.*)", line \S+ in .*').fullmatch
#: Where each thread begins, and where ours wait.
BEGINNINGS = (threading.__file__, futures.__file__, "<string>")
#: How many lines from before a crash are shown at least.
LEAST_BEFORE_DUMP = 5


def last_words(lines: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the last lines of a service, `count` at most.

    Of a crash of its interpreter that is the reason, the stacks of its own code, and what came before.
    """
    begin = next((number for number in reversed(range(len(lines))) if lines[number].startswith(DUMP)), None)
    if begin is None:
        return tuple(lines[-count:])
    end = next((number for number in range(begin + 1, len(lines)) if not _dumped(lines[number])), len(lines))
    dump = [lines[begin]]
    heads = [number for number in range(begin + 1, end) if lines[number].endswith(THREAD)]
    for head, next_head in pairwise([*heads, end]):
        frames = [frame for line in lines[head + 1 : next_head] if (frame := _dumped_frame(line)) is not None]
        frames = [frame for frame in frames if not frame[1].startswith(PACKAGE_FOLDER)]
        while frames and frames[-1][1] in BEGINNINGS:
            frames.pop()
        dump += [lines[head], *(frame[0] for frame in frames)] if frames else []
    return (*lines[:begin], *dump[: count - LEAST_BEFORE_DUMP], *lines[end:])[-count:]


#: Gets what services log, where the user has given it a handler or a level.
SERVICE_LOGGER = "autostop_lab.service"


class RingHandler(logging.Handler):
    """Writes log records of a service into its ring, and hands them on to the package's logger for services.

    Parameters
    ----------
    ring : LogRing
        Where to.
    upper : logging.Logger or None
        Gets the records that its own level lets through; None is the package's.
    """

    def __init__(self, ring: LogRing, upper: logging.Logger | None = None) -> None:
        super().__init__()
        self._ring = ring
        self._upper = upper or logging.getLogger(SERVICE_LOGGER)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record into the ring."""
        try:
            record.msg, record.args = self._ring.mask(record.getMessage()), None
            self._ring.write(self.format(record))
        except Exception:  # arguments that do not fit the message
            self.handleError(record)
        else:
            if self._upper.isEnabledFor(record.levelno) and self._upper.hasHandlers():
                self._upper.handle(record)
