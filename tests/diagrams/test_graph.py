"""The arrows of a picture say what the rows of its table say, no more and no less."""

from __future__ import annotations

import itertools
from enum import StrEnum

import pytest

from autostop_lab.diagrams.graph import arrows, plan_of
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, ServiceState, ServiceTrigger, Table
from tests.diagrams.tables import TABLES, AnyTable

S, T = ServiceState, ServiceTrigger


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("framed", [True, False])
def test_arrows_stand_for_every_row_exactly_once(table: AnyTable, framed: bool) -> None:
    drawn = [
        (source, trigger, arrow.target)
        for arrow in arrows(table, plan_of(table).frames if framed else ())
        for source in arrow.sources
        for trigger in arrow.triggers
    ]

    assert sorted(drawn) == sorted((row.source, row.trigger, row.target) for row in table)


@pytest.mark.parametrize("table", TABLES)
def test_an_arrow_gives_every_reason_of_its_rows(table: AnyTable) -> None:
    for arrow in arrows(table, plan_of(table).frames):
        rows = [row for row in table if row.source in arrow.sources and row.target == arrow.target]
        assert {row.why for row in rows if row.trigger in arrow.triggers} == set(arrow.whys)


def test_without_frames_there_is_one_arrow_between_two_states() -> None:
    drawn = arrows(SERVICE_TABLE)

    assert len(drawn) == len({(row.source, row.target) for row in SERVICE_TABLE})
    (both,) = [one for one in drawn if (one.source, one.target) == (S.STOPPING, S.KILLING)]
    assert both.triggers == (T.GRACE_OVER, T.KILL)


def test_a_move_that_all_states_of_a_frame_share_leaves_from_the_frame() -> None:
    drawn = arrows(SERVICE_TABLE, plan_of(SERVICE_TABLE).frames)
    (stop,) = [one for one in drawn if one.target == S.STOPPING]

    assert stop.source == "up"
    assert set(stop.sources) == {S.STARTING, S.RUNNING, S.UNHEALTHY, S.WAITING}


def test_a_move_that_one_state_of_a_frame_lacks_does_not_leave_from_the_frame() -> None:
    rows = [row for row in SERVICE_TABLE if (row.source, row.trigger) != (S.WAITING, T.STOP)]
    drawn = [one for one in arrows(rows, plan_of(SERVICE_TABLE).frames) if one.target == S.STOPPING]

    assert "up" not in {one.source for one in drawn}
    assert {source for one in drawn for source in one.sources} == {S.STARTING, S.RUNNING, S.UNHEALTHY}


@pytest.mark.parametrize("table", TABLES)
def test_every_state_has_a_place_of_its_own(table: AnyTable) -> None:
    plan = plan_of(table)

    assert set(plan.places) == set(table.states)
    assert len(set(plan.places.values())) == len(plan.places)


@pytest.mark.parametrize("table", TABLES)
def test_frames_are_one_within_the_other_or_apart(table: AnyTable) -> None:
    for a, b in itertools.combinations(plan_of(table).frames, 2):
        assert b.members < a.members or not a.members & b.members


def test_a_table_of_other_states_is_refused() -> None:
    class Light(StrEnum):
        RED = "red"

    table: AnyTable = Table([], initial=Light.RED, start=T.START, stop=T.STOP)

    with pytest.raises(ValueError, match="Light"):
        plan_of(table)


def test_both_tables_are_tested() -> None:
    assert {param.values[0] for param in TABLES} == {SERVICE_TABLE, JOB_TABLE}
