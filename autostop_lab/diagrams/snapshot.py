"""What is drawn: a job, its services and its dataflow at one moment. Plain data, without any of the core in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from autostop_lab.diagrams.styles import TROUBLE
from autostop_lab.diagrams.text import seconds
from autostop_lab.lifecycle import JOB_TABLE, JobState, ServiceState


class Move(NamedTuple):
    """A state, and when it was reached, in seconds from the beginning of the picture's time."""

    state: ServiceState
    at_s: float


@dataclass(frozen=True, kw_only=True)
class ServiceSnapshot:
    """One service at one moment.

    Parameters
    ----------
    name : str
        Its name in the job.
    kind : str
        What it is, for instance the name of its class: ``"Redis"``.
    state : ServiceState
        Where it is.
    since_s : float
        Seconds since it got there.
    outcome : str
        How it ended: ``"stopped"``, ``"killed"``, ``"failed"``, ``"abandoned"``, ``"exited"`` or ``"kept"``;
        empty while it lives.
    detail : str
        A few words more: an address, a reason, an error.
    restarts : int
        How often it was started anew.
    next_s : float or None
        Seconds until its next try or run; None if none is planned.
    health : str
        ``"healthy"``, ``"failing"``, or "" where nobody looks.
    memory_bytes : int or None
        What its processes hold; None if it has none of its own.
    cpu_percent : float or None
        What they use of one core.
    moves : tuple of Move
        Its way so far, the oldest first.
    grace_s : float or None
        How long its stop may take.
    """

    name: str
    kind: str
    state: ServiceState
    since_s: float = 0.0
    outcome: str = ""
    detail: str = ""
    restarts: int = 0
    next_s: float | None = None
    health: str = ""
    memory_bytes: int | None = None
    cpu_percent: float | None = None
    moves: tuple[Move, ...] = ()
    grace_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FlowNode:
    """One operator of a dataflow.

    Parameters
    ----------
    name : str
        Its name.
    kind : str
        What it does: ``"map"``, ``"sink"``.
    inputs : tuple of int
        Positions of the operators whose records it takes.
    records : int or None
        How many records have left it, or, of a sink, have come in.
    per_s : float or None
        How many a second, of late.
    errors : int
        How many failed in it.
    """

    name: str
    kind: str
    inputs: tuple[int, ...] = ()
    records: int | None = None
    per_s: float | None = None
    errors: int = 0


@dataclass(frozen=True, kw_only=True)
class FlowSnapshot:
    """A dataflow at one moment.

    Parameters
    ----------
    nodes : tuple of FlowNode
        Its operators; each comes after those whose records it takes.
    records : int
        Taken from all sources.
    length : int or None
        How many the sources hold; None while that is not known.
    per_s : float
        Records taken in a second.
    remaining_s : float or None
        Seconds to go, where that can be told.
    """

    nodes: tuple[FlowNode, ...] = ()
    records: int = 0
    length: int | None = None
    per_s: float = 0.0
    remaining_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One job, or an environment without one, at one moment.

    Parameters
    ----------
    name, id : str
        Of the job; an environment has no id.
    state : JobState or None
        Where it is; None if there is no job.
    reason : str
        Why it is there, in words; may be empty.
    elapsed_s : float
        Seconds from its start until now, or until its end.
    visited : tuple of (JobState, float)
        The states that it has been in, in their order, the present one last; each with the seconds from
        the job's start until it was reached.
    services : tuple of ServiceSnapshot
        What it needs, in the order in which they are shown.
    flow : FlowSnapshot or None
        What it computes, if that is a dataflow.
    grace_s : float or None
        How long its code has to end when it was asked to.
    error : str
        What it failed with, in one line.
    """

    name: str
    id: str
    state: JobState | None
    reason: str = ""
    elapsed_s: float = 0.0
    visited: tuple[tuple[JobState, float], ...] = ()
    services: tuple[ServiceSnapshot, ...] = ()
    flow: FlowSnapshot | None = None
    grace_s: float | None = None
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether its job has ended, and all is clean."""
        return self.state in JOB_TABLE.final


_COMING = (ServiceState.STARTING,)
_UP = (ServiceState.RUNNING, ServiceState.WAITING)
_GOING = (ServiceState.STOPPING, ServiceState.KILLING)


def story(snapshot: Snapshot) -> str:
    """Say in one line what runs, what is being stopped, and what went wrong and why."""
    services = snapshot.services
    if not services:
        return "no services"
    if snapshot.is_over:
        told = [f"{one.name} {one.outcome}" + (f" ({one.detail})" if one.detail else "") for one in _troubles(services)]
        well = sum(1 for one in services if one.outcome in ("stopped", ""))
        parts = [f"{well} of {_counted(services)} stopped and clean"] if well or not told else []
        kept = [one.name for one in services if one.outcome == "kept"]
        return "; ".join([*parts, *told, *([f"kept: {', '.join(kept)}"] if kept else [])])
    up = [one for one in services if one.state in _UP or one.state is ServiceState.UNHEALTHY]
    parts = [f"{len(up)} of {_counted(services)} up"]
    for words, states in (("starting", _COMING), ("stopping", _GOING)):
        names = [one.name for one in services if one.state in states]
        if names:
            parts.append(f"{words}: {', '.join(names)}")
    for one in services:
        if one.state in TROUBLE and one.state not in _GOING:
            again = f", next try in {seconds(one.next_s)}" if one.next_s is not None else ""
            parts.append(f"{one.name} {one.state}{again}" + (f" ({one.detail})" if one.detail else ""))
    return "; ".join(parts)


def _troubles(services: tuple[ServiceSnapshot, ...]) -> Iterator[ServiceSnapshot]:
    return (one for one in services if one.outcome not in ("", "stopped", "kept"))


def _counted(services: tuple[ServiceSnapshot, ...]) -> str:
    return f"{len(services)} service{'s' if len(services) != 1 else ''}"
