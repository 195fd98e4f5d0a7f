"""The receipt: what was stopped, how long it took, what had to be killed, what was left."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autostop_lab.diagrams.page import chip_html, table_html
from autostop_lab.diagrams.styles import OUTCOME_STYLES
from autostop_lab.diagrams.text import clean, escape
from autostop_lab.exceptions import ServiceStopError
from autostop_lab.job.audit import Leak
from autostop_lab.services.runtime import Exit, describe_error
from autostop_lab.supervisor.outcome import Life, Outcome

#: Lines that are shown where a cell ends with a receipt.
SHOWN_LINES = 5


@dataclass(frozen=True, kw_only=True)
class ServiceEntry:
    """How one service ended.

    Attributes
    ----------
    name, kind : str
        Its name, and the name of its class.
    outcome : Outcome
        Exactly one word.
    state : str
        Where it is now.
    start_s, up_s, stop_s, cleanup_s : float or None
        Seconds from launch to ready, from ready to the stop, for the stop, and for the cleanup; None for what did
        not happen.
    exit_code : int or None
        Exit status of its process, negative for a signal.
    restarts : int
        How often it was started anew within the job.
    errors : tuple of (str, BaseException)
        What failed, with its phase.
    exit : Exit or None
        How it ended by itself.
    survivor : str
        What is left of it, stacks in traceback form.
    failed_runs : tuple of BaseException
        What its scheduled runs failed with.
    contain : str
        How its process was contained (``signs``, ``subreaper`` or ``cgroup``), "" if it had none.
    """

    name: str
    kind: str = ""
    outcome: Outcome
    state: str = ""
    start_s: float | None = None
    up_s: float | None = None
    stop_s: float | None = None
    cleanup_s: float | None = None
    exit_code: int | None = None
    restarts: int = 0
    errors: tuple[tuple[str, BaseException], ...] = ()
    exit: Exit | None = None
    survivor: str = ""
    failed_runs: tuple[BaseException, ...] = ()
    contain: str = ""

    @classmethod
    def of(cls, name: str, kind: str, state: str, life: Life, *, restarts: int = 0) -> ServiceEntry:
        """Return the entry of one life, which came after so many restarts."""
        return cls(
            name=name,
            kind=kind,
            outcome=life.outcome,
            state=state,
            start_s=_between(life.started_s, life.ready_s),
            up_s=_between(life.ready_s, life.stop_began_s),
            stop_s=_between(life.stop_began_s, life.cleanup_began_s),
            cleanup_s=_between(life.cleanup_began_s, life.ended_s),
            exit_code=life.exit_code,
            restarts=restarts,
            failed_runs=tuple(life.failed_runs),
            errors=tuple(life.errors),
            exit=life.exit,
            survivor=life.survivor,
            contain=life.contain,
        )

    @property
    def error(self) -> BaseException | None:
        """The first thing that failed, or None."""
        return self.errors[0][1] if self.errors else None

    @property
    def is_trouble(self) -> bool:
        """Whether its start, stop or cleanup failed, or something of it is left."""
        return bool(self.errors) or self.outcome is Outcome.ABANDONED

    @property
    def note(self) -> str:
        """What is worth saying beside the outcome, on one line."""
        notes = [f"{phase}: {describe_error(error)}" for phase, error in self.errors]
        if self.exit is not None:
            notes.append("ended by itself" + ("" if self.exit.is_clean else f" with {self.exit}"))
        elif self.exit_code is not None and self.outcome is not Outcome.STOPPED:
            notes.append(str(Exit(code=self.exit_code)))
        if self.failed_runs:
            notes.append(f"{len(self.failed_runs)} runs failed, the last with {describe_error(self.failed_runs[-1])}")
        if self.survivor:
            notes.append(self.survivor.partition("\n")[0])
        return "; ".join(notes)


def indented(line: str) -> str:
    """Return a line without what cannot be shown, as far to the right as it was."""
    return " " * (len(line) - len(line.lstrip())) + clean(line)


def _between(start: float | None, end: float | None) -> float | None:
    return end - start if start is not None and end is not None else None


def seconds(duration_s: float | None) -> str:
    """Return a duration for people, e.g. ``"0.02 s"``; "-" for None."""
    return "-" if duration_s is None else f"{duration_s:.2f} s"


@dataclass(frozen=True, kw_only=True)
class CleanupReport:
    """The receipt of a job, or of an environment that was stopped.

    Attributes
    ----------
    title : str
        Whose receipt it is, e.g. ``"job 'wordcount'"``.
    state, reason : str
        How the job ended, and why.
    elapsed_s : float
        From submit to the end of the cleanup, in seconds.
    services : tuple of ServiceEntry
        One entry per service, in the order of their start.
    leaks : tuple of Leak
        What the job left that is not a service's.
    """

    title: str
    state: str = ""
    reason: str = ""
    elapsed_s: float = 0.0
    services: tuple[ServiceEntry, ...] = ()
    leaks: tuple[Leak, ...] = ()

    def __getitem__(self, name: str) -> ServiceEntry:
        """Return the entry of a service."""
        for entry in self.services:
            if entry.name == name:
                return entry
        raise KeyError(name)

    @property
    def is_clean(self) -> bool:
        """Whether every service ended as it should and nothing was left."""
        return not self.leaks and not any(entry.is_trouble for entry in self.services)

    @property
    def headline(self) -> str:
        """The first line."""
        return self._line(f" ({self.reason})" if self.reason not in ("", self.state) else "")

    @property
    def note(self) -> str:
        """The first line without the reason, as a note on the exception that is the reason."""
        return self._line("")

    def _line(self, why: str) -> str:
        how = f" {self.state}" if self.state else ""
        parts = [_counted(self.services)]
        restarted = [entry.name for entry in self.services if entry.restarts]
        if restarted:
            parts.insert(0, f"RESTARTED: {', '.join(restarted)}")
        if self.leaks:
            parts.append(f"LEFT BEHIND: {', '.join(map(str, self.leaks))}")
        return f"{self.title}{how}{why} in {seconds(self.elapsed_s)}; {'; '.join(parts)}"

    def __str__(self) -> str:
        """Return the whole receipt as text, stacks included."""
        lines = [self.headline]
        width = max((len(entry.name) for entry in self.services), default=0)
        for entry in self.services:
            lines.append(f"  {entry.name:<{width}}  {_words(entry)}")
        for entry in self.services:
            for phase, error in entry.errors:
                lines.append(f"\n{entry.name}, {phase}:")
                lines.append("".join(traceback.format_exception(error)).rstrip())
            if entry.exit is not None and entry.exit.error is not None:
                lines.append(f"\n{entry.name}, run:")
                lines.append("".join(traceback.format_exception(entry.exit.error)).rstrip())
            if "\n" in entry.survivor:
                lines.append(f"\n{entry.name}: {entry.survivor.rstrip()}")
        for leak in self.leaks:
            if leak.stack:
                lines.append(f"\nleft behind: {leak} is at\n{leak.stack.rstrip()}")
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the receipt in five lines."""
        lines = str(self).splitlines()
        shown = lines if len(lines) <= SHOWN_LINES else [*lines[: SHOWN_LINES - 1], "  ... print() shows all of it"]
        printer.text("\n".join(indented(line) for line in shown))

    def _repr_html_(self) -> str:
        """Return the receipt as a small table."""
        head = ("service", "outcome", "start", "up", "stop", "cleanup", "exit", "note")
        rows = []
        for entry in self.services:
            code = "" if entry.exit_code is None else str(entry.exit_code)
            times = map(seconds, (entry.start_s, entry.up_s, entry.stop_s, entry.cleanup_s))
            outcome = chip_html(str(entry.outcome), OUTCOME_STYLES[entry.outcome])
            rows.append((escape(entry.name), outcome, *times, code, escape(entry.note)))
        mark = "&#10003;" if self.is_clean else "&#9888;"
        table = table_html(head, rows) if rows else ""
        return f"<div><b>{mark} {escape(self.headline)}</b>{table}</div>"

    def check(self) -> None:
        """Raise what went wrong in the cleanup.

        Raises
        ------
        ExceptionGroup
            With a `ServiceStopError` for each service whose start, stop or cleanup failed or was late, or of
            which something is left; its cause is the service's own error.
        """
        problems = [problem for entry in self.services if (problem := _problem(entry)) is not None]
        if problems:
            raise ExceptionGroup(f"{self.title}: the cleanup of {len(problems)} services failed", problems)


def _problem(entry: ServiceEntry) -> ServiceStopError | None:
    if not entry.is_trouble:
        return None
    note = f": {entry.note}" if entry.note else ""
    problem = ServiceStopError(
        f"service {entry.name!r} was {entry.outcome}{note}"
        if entry.outcome is not Outcome.FAILED
        else f"service {entry.name!r} failed{note}",
        service=entry.name,
        phase=entry.errors[0][0] if entry.errors else "stop",
        exit_code=entry.exit_code,
    )
    problem.__cause__ = entry.error
    return problem


def _counted(entries: Iterable[ServiceEntry]) -> str:
    outcomes = [entry.outcome for entry in entries]
    if not outcomes:
        return "no services"
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes]
    total = f"{len(outcomes)} service{'s' if len(outcomes) > 1 else ''}"
    return f"{total}: {', '.join(counts)}"


def _words(entry: ServiceEntry) -> str:
    if entry.start_s is None and entry.stop_s is None and not entry.errors and entry.outcome is Outcome.STOPPED:
        return "stopped    never started"
    times = [
        f"{word} {seconds(duration)}"
        for word, duration in (
            ("start", entry.start_s),
            ("up", entry.up_s),
            ("stop", entry.stop_s),
            ("cleanup", entry.cleanup_s),
        )
        if duration is not None
    ]
    note = f"  [{entry.note}]" if entry.note else ""
    return f"{entry.outcome:<9}  {', '.join(times)}{note}"
