"""How an operator runs: how many of it, in which order, where, and what becomes of a record that fails in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, TypeAlias

from autostop_lab.exceptions import ConfigurationError, PipelineError

#: Where operators can run.
RUNTIMES = ("thread", "process")
#: The keywords of every operator that are ours; all others go to the constructor of the user's class.
OURS = ("name", "parallelism", "ordered", "on_error", "runtime")
#: Those of some operators.
OURS_OF_SOME = ("strategy", "how", "window_records", "window_s", "prefix", "separator")
#: More replicas than this are hardly meant.
MOST_REPLICAS = 1024


class DeadRecord(NamedTuple):
    """A record that failed, and why: what a dead letter's function gets that takes one argument."""

    record: Any
    error: Exception


class DeadLetter:
    """Gives records that fail to a function of their own, with the exception, and goes on.

    Parameters
    ----------
    sink : callable, or class or object with ``execute``
        Called with record and exception; one that takes a single argument, as ``letters.append`` does, gets both
        as a `DeadRecord`. It is called by one thread at a time.
    *args, **kwargs
        Arguments of the class's constructor.

    Examples
    --------
    >>> letters = []
    >>> env.from_batch(["1", "x"]).map(int, on_error=DeadLetter(letters.append)).collect()
    """

    def __init__(self, sink: Any, /, *args: Any, **kwargs: Any) -> None:
        has_execute = inspect.getattr_static(sink, "execute", None) is not None
        if not has_execute and not callable(sink):
            raise ConfigurationError(
                f"DeadLetter takes a function, or a class or object with execute(), not {sink!r}. "
                "For a list: DeadLetter(letters.append)."
            )
        self.sink = sink
        self.args = args
        self.kwargs = kwargs
        self.has_execute = has_execute

    def __repr__(self) -> str:
        """Return whom the letters go to."""
        return f"DeadLetter({getattr(self.sink, '__qualname__', self.sink)})"


class Returned(DeadLetter):
    """Gives the index and the error of a record that fails back to who sent it; for pipelines that are services.

    Parameters
    ----------
    give_back : callable
        ``(index, error)``.
    """

    def __init__(self, give_back: Callable[[int, Exception], None]) -> None:
        super().__init__(give_back)
        self.give_back = give_back


@dataclass(frozen=True)
class Retry:
    """Tries a record that failed again.

    Parameters
    ----------
    attempts : int
        How often a record is tried in all, >= 1.
    backoff_s : float
        Pause before the second attempt in seconds; each further one is twice as long.
    then : "fail", "skip" or DeadLetter
        What becomes of a record whose last attempt has failed.
    """

    attempts: int = 3
    backoff_s: float = 0.1
    then: Literal["fail", "skip"] | DeadLetter = "fail"

    def __post_init__(self) -> None:
        if not _is_whole(self.attempts) or self.attempts < 1:
            raise ConfigurationError(f"Retry: attempts={self.attempts!r} must be a whole number of at least 1.")
        is_number = isinstance(self.backoff_s, int | float) and not isinstance(self.backoff_s, bool)
        if not is_number or not 0 <= self.backoff_s < float("inf"):
            raise ConfigurationError(f"Retry: backoff_s={self.backoff_s!r} must be a number of seconds, 0 or more.")
        if self.then not in ("fail", "skip") and not isinstance(self.then, DeadLetter):
            raise ConfigurationError(f"Retry: then={self.then!r} must be 'fail', 'skip' or DeadLetter(sink).")


OnError: TypeAlias = Literal["fail", "skip"] | Retry | DeadLetter


@dataclass(frozen=True, slots=True)
class Settings:
    """How one operator runs.

    Attributes
    ----------
    parallelism : int or None
        How many replicas of it work side by side; None where it goes with what is in front of it.
    ordered : bool
        Whether its records leave in the order in which they came.
    on_error : "fail", "skip", Retry or DeadLetter
        What becomes of a record that fails in it.
    runtime : str
        Where its replicas run.
    """

    parallelism: int | None = 1
    ordered: bool = True
    on_error: OnError = "fail"
    runtime: str = "thread"

    @property
    def retry(self) -> Retry | None:
        """How often a record is tried, if more than once."""
        return self.on_error if isinstance(self.on_error, Retry) else None

    @property
    def last_resort(self) -> Literal["fail", "skip"] | DeadLetter:
        """What becomes of a record that has failed for good."""
        return self.on_error.then if isinstance(self.on_error, Retry) else self.on_error


DEFAULT_SETTINGS = Settings()


def settings_of(
    what: str,
    *,
    parallelism: int | None = 1,
    ordered: bool = True,
    on_error: Any = "fail",
    runtime: str = "thread",
) -> Settings:
    """Return checked settings.

    Parameters
    ----------
    what : str
        What the operator is called in errors.
    parallelism, ordered, on_error, runtime
        As in `Settings`; ``on_error`` may be the class `Retry`.

    Raises
    ------
    PipelineError
        One of them makes no sense.
    """
    if parallelism is not None and (not _is_whole(parallelism) or not 1 <= parallelism <= MOST_REPLICAS):
        raise PipelineError(
            f"{what}: parallelism={parallelism!r} must be a whole number from 1 to {MOST_REPLICAS}: how many of it "
            "work side by side."
        )
    if not isinstance(ordered, bool):
        raise PipelineError(f"{what}: ordered={ordered!r} must be True or False.")
    if on_error is Retry:
        on_error = Retry()
    if not isinstance(on_error, Retry | DeadLetter) and on_error not in ("fail", "skip"):
        raise PipelineError(
            f"{what}: on_error={on_error!r} must be 'fail', 'skip', Retry(attempts=3, backoff_s=0.1) or "
            "DeadLetter(sink)."
        )
    if runtime not in RUNTIMES:
        raise PipelineError(f"{what}: there is no runtime {runtime!r}; choose from {', '.join(map(repr, RUNTIMES))}.")
    return Settings(parallelism, ordered, on_error, runtime)


def near_ours(keywords: Mapping[str, Any]) -> str:
    """Return a question for keywords that look like one of ours, or ""."""
    for key in keywords:
        near = get_close_matches(key, (*OURS, *OURS_OF_SOME), 1)
        if near:
            return f" Did you mean {near[0]}= in place of {key}=?"
    return ""


def takes_two(function: Callable[..., Any]) -> bool:
    """Return whether a dead letter's function takes record and exception as two arguments."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # functions written in C need not have a signature
        return True
    return True


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
