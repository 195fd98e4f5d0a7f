"""What of a source's records is on its way, and how many of the first ones are through with all that came of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Completion:
    """How many of a source's first records are through, with all that became of them.

    Parameters
    ----------
    on_complete : callable
        Called with the index of the first record and of the one behind the last of each stretch that is through,
        in whatever order that happens.
    """

    def __init__(self, on_complete: Callable[[int, int], None] | None = None) -> None:
        self.completed = 0
        self.on_complete = on_complete
        self._spans: deque[Span] = deque()

    def begin(self, start: int) -> Span:
        """Return the stretch of records from index `start` on, which is on its way once."""
        span = Span(self, start)
        self._spans.append(span)
        return span

    def complete(self, start: int, stop: int) -> None:
        """Note that the next stretch is through, where nothing is on its way besides."""
        self.completed = stop
        if self.on_complete is not None and stop > start:
            self.on_complete(start, stop)

    def advance(self) -> None:
        """Note that a stretch is through."""
        while self._spans and not self._spans[0].open_count:
            self.completed = self._spans.popleft().stop


class Span:
    """A stretch of a source's records, and on how many ways they are.

    Attributes
    ----------
    completion : Completion
        Its source's.
    start, stop : int
        Index of the first record, and of the one behind the last.
    open_count : int
        How many batches there are that came of them.
    """

    __slots__ = ("completion", "open_count", "start", "stop")

    def __init__(self, completion: Completion, start: int) -> None:
        self.completion = completion
        self.start = self.stop = start
        self.open_count = 1


class Flight:
    """What is on its way in one pipeline, from source to sink.

    A span of a source's records is through when all batches that came of it are; the pipeline is quiet when no batch
    moves and no source gives further ones.

    Parameters
    ----------
    sources : int
        How many sources there are.
    on_quiet : callable
        Called once, when the pipeline is quiet.
    """

    def __init__(self, sources: int, on_quiet: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._sources = sources
        self._moving = 0
        self._was_quiet = False
        self._on_quiet = on_quiet

    def begin(self, completion: Completion, start: int) -> Span:
        """Return a new span, on its way once."""
        with self._lock:
            self._moving += 1
            return completion.begin(start)

    def fork(self, span: Span) -> None:
        """Note one more batch that came of a span."""
        with self._lock:
            self._moving += 1
            span.open_count += 1

    def release(self, span: Span, stop: int | None = None) -> None:
        """Note that a batch is through; of the source's own, with the index behind its last record."""
        with self._lock:
            if stop is not None:
                span.stop = stop
            self._moving -= 1
            is_quiet = self._is_quiet()
            is_through = self._close(span)
        self._tell(span if is_through else None, is_quiet=is_quiet)

    def hold(self, span: Span) -> None:
        """Note that a batch has come to rest, and is not through: a join keeps it for what is to come."""
        with self._lock:
            self._moving -= 1
            is_quiet = self._is_quiet()
        self._tell(None, is_quiet=is_quiet)

    def release_held(self, span: Span) -> None:
        """Note that a batch which came to rest is through."""
        with self._lock:
            is_through = self._close(span)
        self._tell(span if is_through else None, is_quiet=False)

    def end_source(self) -> None:
        """Note that a source gives nothing further."""
        with self._lock:
            self._sources -= 1
            is_quiet = self._is_quiet()
        self._tell(None, is_quiet=is_quiet)

    def _is_quiet(self) -> bool:
        return not self._moving and not self._sources

    @staticmethod
    def _close(span: Span) -> bool:
        span.open_count -= 1
        if not span.open_count:
            span.completion.advance()
        return not span.open_count

    def _tell(self, through: Span | None, *, is_quiet: bool) -> None:
        """Tell who waits, without the lock."""
        if through is not None and through.completion.on_complete is not None:
            through.completion.on_complete(through.start, through.stop)
        if is_quiet and not self._was_quiet:
            self._was_quiet = True
            self._on_quiet()
