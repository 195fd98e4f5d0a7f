"""PURE. How one life of a service went, and the one word for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from autostop_lab.services.runtime import Exit


class Outcome(StrEnum):
    """How a service ended; where several fit, the first of abandoned, killed, failed, exited."""

    ABANDONED = "abandoned"
    KILLED = "killed"
    FAILED = "failed"
    EXITED = "exited"
    STOPPED = "stopped"
    KEPT = "kept"


@dataclass
class Life:
    """What happened in one life of a service; times are monotonic, in seconds, None for what did not happen.

    Attributes
    ----------
    started_s, ready_s, stop_began_s, cleanup_began_s, ended_s : float or None
        When it was launched, ready, asked to stop, cleaned, and when all was over.
    exit : Exit or None
        How it ended by itself.
    exit_code : int or None
        Exit status of its process, however it ended.
    errors : list of (str, BaseException)
        What failed, with its phase.
    was_forced : bool
        Whether anything of it had to be killed.
    survivor : str
        What is left of it, "" if nothing is.
    pid : int or None
        Pid of its process.
    child_pid : int or None
        Pid of the child process of ours that its process is, or lives below.
    contain : str
        How its process was contained, "" if it had none.
    restarts : int
        How often it was restarted by its policy since somebody started it.
    failed_runs : list of BaseException
        What its failed runs raised, for a service with a schedule.
    """

    started_s: float | None = None
    ready_s: float | None = None
    stop_began_s: float | None = None
    cleanup_began_s: float | None = None
    ended_s: float | None = None
    exit: Exit | None = None
    exit_code: int | None = None
    errors: list[tuple[str, BaseException]] = field(default_factory=list)
    was_forced: bool = False
    survivor: str = ""
    pid: int | None = None
    child_pid: int | None = None
    contain: str = ""
    restarts: int = 0
    failed_runs: list[BaseException] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether it was launched and all is over."""
        return self.ended_s is not None

    @property
    def outcome(self) -> Outcome:
        """The one word for how it ended; `KEPT` while it lives."""
        if self.started_s is not None and not self.is_over:
            return Outcome.KEPT
        if self.survivor:
            return Outcome.ABANDONED
        if self.was_forced:
            return Outcome.KILLED
        if self.errors:
            return Outcome.FAILED
        if self.exit is not None:
            return Outcome.EXITED
        return Outcome.STOPPED
