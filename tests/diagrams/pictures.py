"""Moments of jobs that the pictures are tested with."""

from __future__ import annotations

from typing import Any

from autostop_lab.diagrams import FlowNode, FlowSnapshot, Move, ServiceSnapshot, Snapshot
from autostop_lab.diagrams.styles import HEALTH_STYLES, OUTCOME_STYLES
from autostop_lab.lifecycle import JobState, ServiceState

S, J = ServiceState, JobState


def service(name: str, *moves: tuple[ServiceState, float], **more: Any) -> ServiceSnapshot:
    """A service that is in the last of its states."""
    return ServiceSnapshot(
        name=name, kind="Command", state=moves[-1][0], moves=tuple(Move(*move) for move in moves), **more
    )


FLOW = FlowSnapshot(
    nodes=(
        FlowNode(name="documents", kind="source", records=12_345, per_s=1_240.0),
        FlowNode(name="str.split", kind="flatmap", inputs=(0,), records=402_331, per_s=40_100.0),
        FlowNode(name="emb.embed", kind="map", inputs=(1,), records=401_002, per_s=39_900.4, errors=2),
        FlowNode(name="results", kind="sink", inputs=(2,), records=401_002),
        FlowNode(name="asked", kind="source", records=4, per_s=0.4),
        FlowNode(name="joined", kind="join", inputs=(2, 4), records=4, per_s=0.4),
    ),
    records=12_345,
    length=50_000,
    per_s=1_240.0,
    remaining_s=30.4,
)
#: One service is well, one is not, one is between two tries.
LIVE = Snapshot(
    name="wordcount",
    id="7f3a91c2",
    state=J.RUNNING,
    elapsed_s=12.4,
    visited=((J.PENDING, 0.0), (J.STARTING, 0.1), (J.RUNNING, 2.2)),
    grace_s=5.0,
    services=(
        service(
            *("store", (S.STARTING, 0.1), (S.RUNNING, 1.1)),
            since_s=11.3,
            detail="127.0.0.1:41873",
            memory_bytes=34_000_000,
            cpu_percent=7.0,
            health="healthy",
        ),
        service(
            *("embedder", (S.STARTING, 0.1), (S.RUNNING, 2.1), (S.UNHEALTHY, 10.1)),
            since_s=2.3,
            detail="no answer within 5 s",
            memory_bytes=1_240_000_000,
            cpu_percent=98.0,
            health="failing",
        ),
        service(
            *("feed", (S.STARTING, 0.1), (S.RUNNING, 2.1), (S.BACKOFF, 6.0), (S.STARTING, 7.0), (S.BACKOFF, 12.0)),
            since_s=0.4,
            detail="exit code 1",
            restarts=1,
            next_s=1.6,
        ),
    ),
    flow=FLOW,
)
#: Its time was over; one service had to be killed, one had crashed before.
OVER = Snapshot(
    name="wordcount",
    id="7f3a91c3",
    state=J.FAILED,
    reason="time-out after 60 s",
    elapsed_s=66.2,
    grace_s=5.0,
    visited=(
        *((J.PENDING, 0.0), (J.STARTING, 0.1), (J.RUNNING, 2.2)),
        *((J.CANCELLING, 60.0), (J.CLEANING_UP, 62.0), (J.FAILED, 66.2)),
    ),
    services=(
        service(
            *("store", (S.STARTING, 0.1), (S.RUNNING, 1.1), (S.STOPPING, 64.0), (S.STOPPED, 66.0)),
            outcome="stopped",
            grace_s=10.0,
        ),
        service(
            *("embedder", (S.STARTING, 0.1), (S.RUNNING, 2.1)),
            *((S.STOPPING, 62.0), (S.KILLING, 65.0), (S.STOPPED, 66.0)),
            outcome="killed",
            detail="signal 9",
            grace_s=3.0,
        ),
        service(
            *("feed", (S.STARTING, 0.1), (S.RUNNING, 2.1), (S.CRASHED, 52.0)),
            outcome="exited",
            detail="ended by itself with exit code 1",
            restarts=1,
        ),
    ),
)
#: Thirty services with names of forty characters, and every column full.
FULL = Snapshot(
    name="a-name-of-forty-characters-for-this-job-x",
    id="7f3a91c4",
    state=J.RUNNING,
    elapsed_s=7_000.0,
    visited=((J.PENDING, 0.0), (J.STARTING, 1.0), (J.RUNNING, 60.0)),
    services=tuple(
        ServiceSnapshot(
            name=f"service-number-{i:02d}-with-forty-characters-x",
            kind="EmbeddingServer",
            state=list(S)[i % len(S)],
            since_s=6_000.0 + i,
            outcome=list(OUTCOME_STYLES)[i % len(OUTCOME_STYLES)] if i % 2 else "",
            health=list(HEALTH_STYLES)[i % len(HEALTH_STYLES)],
            detail="the health check failed: it was answered by something else",
            restarts=9_999,
            next_s=59.9,
            memory_bytes=988_000_000_000,
            cpu_percent=6_400.0,
            moves=tuple(Move(state, 700.0 * at) for at, state in enumerate(S)),
            grace_s=300.0,
        )
        for i in range(30)
    ),
    flow=FlowSnapshot(
        nodes=tuple(
            FlowNode(
                name=f"operator-number-{i}-with-a-long-name",
                kind="flatmap",
                inputs=(i - 1,) if i else (),
                records=99_999_999,
                per_s=999_999.0,
                errors=i % 2 * 99_999_999,
            )
            for i in range(12)
        ),
        records=99_999_999,
        length=999_999_999,
        per_s=999_999.0,
        remaining_s=7_140.0,
    ),
)
#: An environment whose services run without a job.
KEPT = Snapshot(
    name="environment 'pool'",
    id="",
    state=None,
    elapsed_s=30.0,
    services=(service("store", (S.STARTING, 0.0), (S.RUNNING, 1.0), since_s=29.0),),
)
MOMENTS = {"live": LIVE, "over": OVER, "full": FULL, "kept": KEPT}
