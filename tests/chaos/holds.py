"""What must hold after every fault, whichever it was.

The job's own outcome is preserved; every service is in the receipt with the outcome that it had; no service is left
between two states; each error says which service, in which phase. That nothing is left is held by the leak check.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autostop_lab import CleanupReport, Job, LocalEnvironment, ServiceError

AT_REST = {"stopped", "crashed", "abandoned"}
#: What an error calls the phase that a receipt calls so.
PHASES_OF = {"start": {"construct", "launch", "start", "ready"}, "stop": {"stop"}, "cleanup": {"cleanup"}}
PHASES = {"run", "call"}.union(*PHASES_OF.values())


@dataclass(frozen=True)
class Ended:
    """A job that is over: what `submit` raised, and the words of its warnings."""

    job: Job
    error: BaseException | None
    warnings: tuple[str, ...] = ()

    @property
    def report(self) -> CleanupReport:
        assert self.job.report is not None
        return self.job.report

    @property
    def notes(self) -> str:
        return "\n".join(getattr(self.error, "__notes__", ()))


def submit(env: LocalEnvironment, outcomes: Mapping[str, str], **options: Any) -> Ended:
    """Run a job to its end, whatever that is, and hold what must hold.

    Parameters
    ----------
    env : LocalEnvironment
        With a job declared.
    outcomes : mapping of str to str
        The outcome of each service.
    **options
        For `submit`.
    """
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            env.submit(autostop=True, **options)
        except BaseException as raised:  # SystemExit and KeyboardInterrupt are outcomes of jobs, too
            error = raised
    assert env.last_job is not None, error
    ended = Ended(env.last_job, error, tuple(str(warning.message) for warning in caught))
    hold(ended, outcomes)
    return ended


def hold(ended: Ended, outcomes: Mapping[str, str]) -> None:
    """Hold what must hold for a job that is over."""
    job, error = ended.job, ended.error
    assert job.is_over
    hold_report(ended.report, outcomes)
    assert ended.report.leaks == (), str(ended.report)
    if not isinstance(error, KeyboardInterrupt):
        assert job.exception is error
    assert (error is None) == (job.state == "succeeded") or isinstance(error, KeyboardInterrupt)
    if error is not None:
        hold_names(error)
        assert ended.report.note in ended.notes or isinstance(error, KeyboardInterrupt)
    troubled = [entry.name for entry in ended.report.services if entry.is_trouble]
    if error is None:
        assert bool(troubled) == any("not its cleanup" in text for text in ended.warnings), ended.warnings


def hold_report(report: CleanupReport, outcomes: Mapping[str, str]) -> None:
    """Hold what must hold for every receipt."""
    text = str(report)
    assert {entry.name: str(entry.outcome) for entry in report.services} == dict(outcomes), text
    for entry in report.services:
        assert entry.state in AT_REST or entry.outcome == "kept", text
        assert entry.name in text
        for phase, error in entry.errors:
            assert f"{entry.name}, {phase}:" in text
            if isinstance(error, ServiceError):
                assert error.service == entry.name
                assert error.phase in PHASES_OF[phase]


def hold_names(error: BaseException) -> None:
    """Hold that every error about a service says which one, and what it was doing."""
    for leaf in _leaves(error):
        if isinstance(leaf, ServiceError):
            assert leaf.service
            assert repr(leaf.service) in str(leaf)
            assert leaf.phase in PHASES


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
