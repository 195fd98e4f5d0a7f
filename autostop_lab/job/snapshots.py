"""What pictures show of jobs and services, read from them at one moment: nothing here waits or changes anything."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

from autostop_lab.dataflow.progress import Progress
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


def flow_snapshot(progress: Progress) -> FlowSnapshot | None:
    """Return the dataflow of a job as it is now, with its average rates; None if it has none."""
    counts = progress.snapshot()
    if not counts.operators:
        return None
    inputs: list[tuple[int, ...]] = []
    for one in progress.pipelines:
        first = len(inputs)
        inputs += [tuple(first + at for at in before) for before in one.pipeline.inputs]
    nodes = []
    for number, (row, before) in enumerate(zip(counts.operators, inputs, strict=True)):
        records = row.records_in if row.records_out is None else row.records_out
        nodes.append(
            FlowNode(
                name=row.name if row.kind == "source" or not row.function else row.function,
                kind=row.kind,
                inputs=tuple(at for at in before if at < number),  # not those of a feedback
                records=records,
                per_s=(records or 0) / counts.elapsed_s if counts.elapsed_s > 0 else 0.0,
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
