"""Generated from the tables: each row moves where it says, every other pair is refused with a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab.exceptions import TransitionError
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, Machine
from tests.lifecycle.properties import AnyTable, triggers_of

TABLES: dict[str, AnyTable] = {"service": SERVICE_TABLE, "job": JOB_TABLE}

ROWS = [
    pytest.param(table, row, id=f"{kind}: {row.source} - {row.trigger}")
    for kind, table in TABLES.items()
    for row in table
]
REFUSED = [
    pytest.param(table, state, trigger, id=f"{kind}: {state} - {trigger}")
    for kind, table in TABLES.items()
    for state in table.states
    for trigger in triggers_of(table)
    if not any((row.source, row.trigger) == (state, trigger) for row in table)
]


def machine_in(table: AnyTable, state: Any) -> Machine[Any, Any]:
    """Return a machine named ``store`` that is in `state`."""
    machine = Machine(table, "store")
    machine.state = state
    return machine


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_a_row_moves_where_it_says(table: AnyTable, row: Any) -> None:
    machine = machine_in(table, row.source)

    assert machine.accepts(row.trigger)
    assert machine.step(row.trigger) is row
    assert machine.state is row.target


@pytest.mark.parametrize(("table", "state", "trigger"), REFUSED)
def test_every_other_pair_is_refused(table: AnyTable, state: Any, trigger: Any) -> None:
    machine = machine_in(table, state)

    assert not machine.accepts(trigger)
    with pytest.raises(TransitionError) as refused:
        machine.step(trigger)

    assert machine.state is state
    assert (refused.value.state, refused.value.trigger) == (state, trigger)
    for part in ("'store'", str(state), repr(str(trigger))):
        assert part in str(refused.value)


@pytest.mark.parametrize(("table", "state"), [(t, s) for t in TABLES.values() for s in t.states])
def test_a_refusal_says_what_would_be_accepted(table: AnyTable, state: Any) -> None:
    machine = machine_in(table, state)
    refused = next(trigger for trigger in triggers_of(table) if not machine.accepts(trigger))

    with pytest.raises(TransitionError) as error:
        machine.step(refused)

    accepted = str(error.value).partition("it takes ")[2]
    assert {t for t in triggers_of(table) if repr(str(t)) in accepted} == table.triggers_from(state)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_machine_begins_in_the_initial_state(table: AnyTable) -> None:
    assert Machine(table, "store").state is table.initial


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@given(data=st.data())
def test_no_walk_leaves_the_table_and_a_stop_always_leads_to_rest(table: AnyTable, data: Any) -> None:
    """Whatever came before: after a stop, observations alone bring it to rest, and it never starts again."""
    triggers = st.sampled_from(triggers_of(table))
    machine: Machine[Any, Any] = Machine(table, "store")
    for trigger in data.draw(st.lists(triggers, max_size=30)):
        if machine.accepts(trigger):
            machine.step(trigger)
    assert machine.state in table.states

    if machine.accepts(table.stop):
        machine.step(table.stop)
    for _ in table.states:
        onward = sorted(table.triggers_from(machine.state) - {table.start})
        if not onward:
            break
        machine.step(data.draw(st.sampled_from(onward)))
    assert machine.state in table.at_rest
