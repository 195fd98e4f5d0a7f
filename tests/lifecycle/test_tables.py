"""The properties of both tables, and that each kind of damage is caught by exactly one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from autostop_lab.lifecycle import (
    JOB_TABLE,
    SERVICE_TABLE,
    JobState,
    JobTrigger,
    Row,
    ServiceState,
    ServiceTrigger,
    Table,
)
from tests.lifecycle import properties
from tests.lifecycle.properties import PROPERTIES, AnyTable, Property, triggers_of

S, T = ServiceState, ServiceTrigger
TABLES = [pytest.param(SERVICE_TABLE, id="service"), pytest.param(JOB_TABLE, id="job")]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
def test_property_holds(table: AnyTable, holds: Property) -> None:
    assert holds(table) == []


# -- what a table computes about itself ---------------------------------------------------------------


def test_service_states_at_rest_and_final() -> None:
    assert SERVICE_TABLE.at_rest == {S.STOPPED, S.CRASHED, S.ABANDONED}
    assert SERVICE_TABLE.final == {S.ABANDONED}
    assert SERVICE_TABLE.ending == {S.STOPPING, S.KILLING}


def test_job_states_at_rest_and_final() -> None:
    ends = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

    assert JOB_TABLE.at_rest == {JobState.PENDING, *ends}
    assert JOB_TABLE.final == ends
    assert JOB_TABLE.ending == {JobState.DRAINING, JobState.CANCELLING, JobState.CLEANING_UP}


@pytest.mark.parametrize("table", TABLES)
def test_a_state_is_live_or_at_rest(table: AnyTable) -> None:
    assert table.live | table.at_rest == set(table.states)
    assert not table.live & table.at_rest
    assert table.final <= table.at_rest
    assert table.ending <= table.live


@pytest.mark.parametrize("table", TABLES)
def test_a_state_that_is_not_ending_takes_a_stop(table: AnyTable) -> None:
    for state in table.live:
        assert (table.stop in table.triggers_from(state)) == (state not in table.ending)


@pytest.mark.parametrize("table", TABLES)
def test_ending_states_lead_to_ending_states_and_to_rest_only(table: AnyTable) -> None:
    for state in table.ending:
        assert table.reachable_from(state) <= table.ending | table.at_rest


@pytest.mark.parametrize("table", TABLES)
def test_every_trigger_is_in_some_row(table: AnyTable) -> None:
    assert {row.trigger for row in table} == set(triggers_of(table))


@pytest.mark.parametrize("table", TABLES)
def test_a_table_iterates_over_its_rows_in_their_order(table: AnyTable) -> None:
    assert tuple(table) == table.rows


# -- the job's own law --------------------------------------------------------------------------------


def test_a_job_is_not_over_before_it_has_cleaned_up() -> None:
    ends = JOB_TABLE.final

    assert {row.source for row in JOB_TABLE if row.target in ends} == {JobState.CLEANING_UP}


def test_cleaning_up_ends_the_job_and_does_nothing_else() -> None:
    assert JOB_TABLE.reachable_from(JobState.CLEANING_UP) == JOB_TABLE.final


def test_a_job_that_has_started_can_be_cancelled_until_it_is_being_cancelled() -> None:
    taking = {row.source for row in JOB_TABLE if row.trigger == JobTrigger.CANCEL}

    assert taking == {JobState.STARTING, JobState.RUNNING, JobState.DRAINING}


def test_a_job_runs_once() -> None:
    assert JobState.PENDING not in {row.target for row in JOB_TABLE}


# -- the service's own law ----------------------------------------------------------------------------


def test_a_service_that_is_launched_can_be_killed_until_it_is_being_killed() -> None:
    taking = {row.source for row in SERVICE_TABLE if row.trigger == T.KILL}

    assert taking == SERVICE_TABLE.live - {S.KILLING}


def test_a_stop_voids_the_pending_restart() -> None:
    assert SERVICE_TABLE.next[S.BACKOFF, T.STOP].target == S.STOPPED


def test_nothing_is_launched_over_what_could_not_be_ended() -> None:
    assert SERVICE_TABLE.reachable_from(S.ABANDONED) == frozenset()
    assert T.START not in SERVICE_TABLE.triggers_from(S.ABANDONED)


# -- damaged tables -----------------------------------------------------------------------------------

ServiceRow = Row[ServiceState, ServiceTrigger]


def damaged(change: Callable[[list[ServiceRow]], Iterable[ServiceRow]]) -> AnyTable:
    """Return the table of services with its rows changed."""
    return Table(change(list(SERVICE_TABLE)), initial=S.STOPPED, start=T.START, stop=T.STOP)


def with_row(
    source: ServiceState, trigger: ServiceTrigger, target: ServiceState, why: str = "damage"
) -> AnyTable:
    return damaged(lambda rows: [*rows, Row(source, trigger, target, why)])


def without(unwanted: Callable[[ServiceRow], bool]) -> AnyTable:
    return damaged(lambda rows: [row for row in rows if not unwanted(row)])


DAMAGE = {
    "a pair twice": (
        with_row(S.RUNNING, T.STOP, S.KILLING),
        properties.pairs_are_unique,
        "running on stop has 2 rows",
    ),
    "the same row twice": (
        damaged(lambda rows: [*rows, rows[0]]),
        properties.pairs_are_unique,
        "stopped on start has 2 rows",
    ),
    "an unreachable state": (
        without(lambda row: row.target == S.UNHEALTHY),
        properties.every_state_is_reachable,
        "unhealthy is never reached",
    ),
    "no stop": (
        without(lambda row: row.source == S.WAITING and row.trigger == T.STOP),
        properties.stop_is_accepted_while_live,
        "waiting takes no stop",
    ),
    "a way back": (
        with_row(S.STOPPING, T.PROBE_OK, S.BACKOFF),
        properties.stopping_has_no_way_back,
        "backoff comes after a stop",
    ),
    "a way back from killing": (
        with_row(S.KILLING, T.DIED_RETRY, S.BACKOFF),
        properties.stopping_has_no_way_back,
        "backoff comes after a stop",
    ),
    "a circle without an end": (
        damaged(
            lambda rows: [
                *(row for row in rows if row.source not in (S.STOPPING, S.KILLING)),
                Row(S.STOPPING, T.GRACE_OVER, S.KILLING, "damage"),
                Row(S.KILLING, T.GRACE_OVER, S.STOPPING, "damage"),
            ]
        ),
        properties.every_live_state_leads_to_an_end,
        "killing never ends",
    ),
    "no words": (
        with_row(S.RUNNING, T.GRACE_OVER, S.STOPPING, ""),
        properties.every_row_says_why,
        "running on grace over says ''",
    ),
}


@pytest.mark.parametrize(("table", "catcher", "complaint"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_caught_by_exactly_one_property(
    table: AnyTable, catcher: Property, complaint: str
) -> None:
    assert [p for p in PROPERTIES if p(table)] == [catcher]
    assert complaint in catcher(table)
