"""A table of states as a graph: rows merged into arrows, and arrows that several states share into one.

Where a state stands is chosen by hand, as its colour is; what is drawn between them comes from the rows
alone. A frame stands around states that share moves: an arrow that leaves the frame leaves from every state
inside. It is drawn only for moves that all of them have, so it can never say what the table does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from autostop_lab.lifecycle import JobState, Row, ServiceState, Table


@dataclass(frozen=True)
class Frame:
    """States that are drawn within one frame, and how far it stands off them, in grid units."""

    name: str
    members: frozenset[str]
    margin: int


@dataclass(frozen=True)
class Plan:
    """Where the states of one kind stand.

    Parameters
    ----------
    places : dict of str to (int, int)
        Column and row of each state.
    columns, rows : tuple of int
        Centre of each column and row, in grid units.
    size : (int, int)
        Width and height of the whole picture, in grid units.
    frames : tuple of Frame
        The outer ones first.
    """

    places: dict[str, tuple[int, int]]
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    size: tuple[int, int]
    frames: tuple[Frame, ...]

    def centre(self, state: str) -> tuple[int, int]:
        """Return where the middle of a state is, in grid units."""
        column, row = self.places[state]
        return self.columns[column], self.rows[row]


@dataclass(frozen=True)
class Arrow:
    """One arrow: every row from `source` to `target`, or the same rows from all states of a frame.

    `source` is the name of a state or of a frame; `sources` are the states that it stands for.
    """

    source: str
    target: str
    sources: tuple[str, ...]
    triggers: tuple[str, ...]
    whys: tuple[str, ...]


_S, _J = ServiceState, JobState

_PLANS: dict[type[StrEnum], Plan] = {
    ServiceState: Plan(
        places={
            _S.CRASHED: (0, 0),
            _S.BACKOFF: (2, 0),
            _S.ABANDONED: (4, 0),
            _S.STOPPED: (0, 1),
            _S.STARTING: (1, 1),
            _S.RUNNING: (2, 1),
            _S.UNHEALTHY: (3, 1),
            _S.STOPPING: (4, 1),
            _S.WAITING: (2, 2),
            _S.KILLING: (4, 2),
        },
        columns=(13, 34, 53, 74, 97),
        rows=(6, 20, 33),
        size=(110, 45),
        frames=(
            Frame("up", frozenset({_S.STARTING, _S.RUNNING, _S.UNHEALTHY, _S.WAITING}), 4),
            Frame("serving", frozenset({_S.RUNNING, _S.UNHEALTHY}), 2),
        ),
    ),
    JobState: Plan(
        places={
            _J.PENDING: (0, 1),
            _J.STARTING: (1, 1),
            _J.RUNNING: (2, 1),
            _J.DRAINING: (2, 2),
            _J.CANCELLING: (3, 2),
            _J.CLEANING_UP: (3, 1),
            _J.SUCCEEDED: (4, 0),
            _J.FAILED: (4, 1),
            _J.CANCELLED: (4, 2),
        },
        columns=(12, 31, 56, 82, 104),
        rows=(4, 14, 25),
        size=(113, 31),
        frames=(Frame("working", frozenset({_J.RUNNING, _J.DRAINING}), 2),),
    ),
}


def plan_of(table: Table[Any, Any]) -> Plan:
    """Return where the states of a table stand.

    Raises
    ------
    ValueError
        It is a table of other states than services and jobs have.
    """
    plan = _PLANS.get(type(table.initial))
    if plan is None:
        raise ValueError(f"no places are known for the states of {type(table.initial).__name__}")
    return plan


def arrows(table: Iterable[Row[Any, Any]], frames: Iterable[Frame] = ()) -> tuple[Arrow, ...]:
    """Merge the rows of a table into arrows.

    Parameters
    ----------
    table : iterable of Row
        The moves.
    frames : iterable of Frame
        Frames whose shared moves are merged, the outer ones first.

    Returns
    -------
    tuple of Arrow
        In the order in which the rows first need them; together they stand for every row exactly once.
    """
    rows = list(dict.fromkeys(table))
    origin = {(row.source, row.trigger, row.target): str(row.source) for row in rows}
    members: dict[str, frozenset[str]] = {}
    for frame in frames:
        members[frame.name] = frame.members
        for row in rows:
            shared = [(state, row.trigger, row.target) for state in frame.members]
            if row.target not in frame.members and all(origin.get(key) == key[0] for key in shared):
                origin.update(dict.fromkeys(shared, frame.name))
    merged: dict[tuple[str, str], list[Row[Any, Any]]] = {}
    for row in rows:
        source = origin[row.source, row.trigger, row.target]
        merged.setdefault((source, str(row.target)), []).append(row)
    return tuple(
        Arrow(
            source=source,
            target=target,
            sources=tuple(dict.fromkeys(str(row.source) for row in same)),
            triggers=tuple(dict.fromkeys(str(row.trigger) for row in same)),
            whys=tuple(dict.fromkeys(row.why for row in same)),
        )
        for (source, target), same in merged.items()
    )
