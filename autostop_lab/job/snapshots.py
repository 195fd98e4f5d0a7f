"""What pictures show of jobs and services, read from them at one moment: nothing here waits or changes anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from autostop_lab.dataflow.progress import ProgressSnapshot
from autostop_lab.diagrams import FlowNode, FlowSnapshot, Move, ServiceSnapshot
from autostop_lab.events import Event, ServiceMoved
from autostop_lab.job.report import ServiceEntry
from autostop_lab.lifecycle import SERVICE_TABLE, ServiceState
from autostop_lab.services.slot import ServiceSlot

#: Most moves of one service that are kept for its timeline.
KEPT_MOVES = 200
#: What lasted a smaller share of the whole time than this cannot be seen on a timeline.
SMALLEST_SHARE = 1 / 700

_ANSWERING = frozenset({ServiceState.RUNNING, ServiceState.UNHEALTHY})
_PLANNED = frozenset({ServiceState.BACKOFF, ServiceState.WAITING})
#: States whose reason says more than the address.
_TELLING = frozenset(ServiceState) - {ServiceState.RUNNING, ServiceState.STARTING, ServiceState.WAITING}


class Ways:
    """The ways of services, short enough to be drawn however often they move.

    Parameters
    ----------
    began_s : float
        When the picture's time begins, on the monotonic clock.
    """

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self._ways: dict[str, list[Move]] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Take in what has happened, the oldest first."""
        for event in events:
            if isinstance(event, ServiceMoved):
                at_s = event.at_monotonic_s - self.began_s
                way = self._ways.setdefault(event.service, [Move(event.source, min(0.0, at_s))])
                way.append(Move(event.target, at_s))
                if len(way) > 2 * KEPT_MOVES:
                    way[:] = _shortened(way)

    def of(self, name: str) -> tuple[Move, ...]:
        """Return the way of a service; () if it has not moved."""
        return tuple(self._ways.get(name, ()))

    def names(self) -> tuple[str, ...]:
        """Return who has moved."""
        return tuple(self._ways)


def _shortened(way: list[Move]) -> list[Move]:
    """Leave out what is too short to be seen, then what is oldest; the last moves stay."""
    least_s = (way[-1].at_s - way[0].at_s) * SMALLEST_SHARE
    seen = [move for move, after in pairwise(way[:-3]) if after.at_s - move.at_s >= least_s]
    return [*seen[-KEPT_MOVES:], *way[-4:]]


def service_snapshot(
    slot: ServiceSlot, ways: Ways, *, now_s: float, entry: ServiceEntry | None = None
) -> ServiceSnapshot:
    """Return one service as it is now.

    Parameters
    ----------
    slot : ServiceSlot
        The service.
    ways : Ways
        Where it has been.
    now_s : float
        The present, on the monotonic clock.
    entry : ServiceEntry or None
        How it ended, once its job is over.
    """
    state, vitals = slot.state, slot.vitals()
    moves = ways.of(slot.name) or (() if state in SERVICE_TABLE.at_rest else (Move(state, 0.0),))
    health = vitals.health
    next_at = slot.next_at if state in _PLANNED else None
    address = slot.address
    listens = f"{address.host}:{address.port}" if address.port else ""
    told = slot.reason if state in _TELLING else ""
    if entry is not None:
        told = entry.note or (slot.reason if entry.is_trouble else "")
    return ServiceSnapshot(
        name=slot.name,
        kind=slot.kind,
        state=state,
        since_s=max(0.0, now_s - slot.moved_s),
        outcome=str(entry.outcome) if entry is not None else "",
        detail=told or listens,
        restarts=entry.restarts if entry is not None else vitals.restarts,
        next_s=max(0.0, next_at - time.time()) if next_at is not None else None,
        health=("healthy" if health.is_healthy else "failing") if health is not None and state in _ANSWERING else "",
        moves=moves,
        grace_s=slot.spec.policy.stop_timeout_s,
    )


def flow_snapshot(counts: ProgressSnapshot, per_s: Mapping[tuple[int, str], float] | None = None) -> FlowSnapshot:
    """Return a dataflow as it is now.

    Parameters
    ----------
    counts : ProgressSnapshot
        Its counts.
    per_s : mapping or None
        Records a second of late, by pipeline and name of the operator; None is the average.
    """
    rows: tuple[Any, ...] = counts.operators
    at = {(row.pipeline, row.name): number for number, row in enumerate(rows)}
    last: dict[int, int] = {}
    nodes = []
    for number, row in enumerate(rows):
        records = row.records_out if row.records_out is not None else row.records_in
        # An operator that does not say whose records it takes takes those of the one before it.
        named = getattr(row, "inputs", None)
        before = [last[row.pipeline]] if row.pipeline in last and row.records_in is not None else []
        inputs = before if named is None else [at[row.pipeline, name] for name in named if (row.pipeline, name) in at]
        last[row.pipeline] = number
        average = (records or 0) / counts.elapsed_s if counts.elapsed_s > 0 else 0.0
        nodes.append(
            FlowNode(
                name=row.function if row.function and row.kind != "source" else row.name,
                kind=str(row.kind),
                inputs=tuple(one for one in inputs if one < number),
                records=records,
                per_s=average if per_s is None else per_s.get((row.pipeline, row.name), 0.0),
                errors=row.errors,
            )
        )
    return FlowSnapshot(
        nodes=tuple(nodes),
        records=counts.records,
        length=counts.length,
        per_s=counts.records_per_s,
        remaining_s=counts.remaining_s,
    )
