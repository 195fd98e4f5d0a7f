"""What has to be true of every table of states, each property as a function that returns its complaints.

They take any table, so that the tests can also show that a damaged table is caught, and by which one.
None of them uses what a table computes about itself (`at_rest`, `ending`): that is tested against them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from autostop_lab.lifecycle import Table

# The properties ask nothing of the kind of state, and the damaged tables mix what they like.
AnyTable = Table[Any, Any]
Property = Callable[[AnyTable], list[str]]


def triggers_of(table: AnyTable) -> list[Any]:
    """Return every trigger of the kind that a table uses."""
    return list(type(table.start).__members__.values())


def _closure(table: AnyTable, origins: Iterable[StrEnum], *, start: bool) -> set[StrEnum]:
    """Return `origins` and every state that moves lead to from them, with or without orders to start."""
    found = set(origins)
    grown = True
    while grown:
        onward = {
            row.target for row in table if row.source in found and (start or row.trigger != table.start)
        }
        grown = not onward <= found
        found |= onward
    return found


def _live(table: AnyTable) -> set[StrEnum]:
    """States that some other order or observation than the one to start moves out of."""
    return {row.source for row in table if row.trigger != table.start}


def _after_stop(table: AnyTable) -> set[StrEnum]:
    """Live states in which the order to stop has been given, and what they lead to."""
    told = {row.target for row in table if row.trigger == table.stop}
    return _closure(table, told, start=False) & _live(table)


def pairs_are_unique(table: AnyTable) -> list[str]:
    """Each pair of source and trigger is in one row only, so where a move lands is never a question."""
    counts = Counter((row.source, row.trigger) for row in table)
    return [f"{source} on {trigger!s} has {n} rows" for (source, trigger), n in counts.items() if n > 1]


def every_state_is_reachable(table: AnyTable) -> list[str]:
    """From the initial state moves lead to every other."""
    reached = _closure(table, {table.initial}, start=True)
    return [f"{state} is never reached" for state in table.states if state not in reached]


def stop_is_accepted_while_live(table: AnyTable) -> list[str]:
    """Each live state takes the order to stop, but for those in which it has been given already."""
    accepting = {row.source for row in table if row.trigger == table.stop}
    return [f"{state} takes no stop" for state in sorted(_live(table) - _after_stop(table) - accepting)]


def stopping_has_no_way_back(table: AnyTable) -> list[str]:
    """After the order to stop no move leads to a state that would take it once more."""
    accepting = {row.source for row in table if row.trigger == table.stop}
    return [f"{state} comes after a stop" for state in sorted(_after_stop(table) & accepting)]


def every_live_state_leads_to_an_end(table: AnyTable) -> list[str]:
    """From each live state moves lead to one at rest."""
    live = _live(table)
    return [f"{state} never ends" for state in sorted(live) if _closure(table, {state}, start=False) <= live]


def every_row_says_why(table: AnyTable) -> list[str]:
    """The fourth column is words, without a full stop; tooltips and pages show them."""
    return [
        f"{row.source} on {row.trigger!s} says {row.why!r}"
        for row in table
        if not row.why.strip() or row.why != row.why.strip() or row.why.endswith(".")
    ]


PROPERTIES: tuple[Property, ...] = (
    pairs_are_unique,
    every_state_is_reachable,
    stop_is_accepted_while_live,
    stopping_has_no_way_back,
    every_live_state_leads_to_an_end,
    every_row_says_why,
)
