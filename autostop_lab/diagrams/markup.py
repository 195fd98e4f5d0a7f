"""A table of states as text for pages: a Mermaid picture and a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autostop_lab.diagrams.graph import arrows
from autostop_lab.diagrams.styles import STATE_STYLES
from autostop_lab.lifecycle import Table


def mermaid(table: Table[Any, Any]) -> str:
    """Write a table as a Mermaid state diagram, one arrow for all moves between the same two states.

    Parameters
    ----------
    table : Table
        The table of services or of jobs.

    Returns
    -------
    str
        The text of the diagram, without a code fence, and without a line break at its end.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {table.initial}"]
    lines += [f"    {one.source} --> {one.target} : {' / '.join(one.triggers)}" for one in arrows(table)]
    lines += [f"    {state} --> [*]" for state in table.states if state in table.final]
    return "\n".join(lines)


def markdown_table(table: Table[Any, Any]) -> str:
    """Write a table as Markdown, one line for each move.

    Parameters
    ----------
    table : Table
        The table of services or of jobs.

    Returns
    -------
    str
        The text, without a line break at its end.
    """
    rows: list[Iterable[str]] = [("from", "on", "to", "why"), ("---",) * 4]
    rows += [
        (_state(row.source), str(row.trigger), _state(row.target), row.why.replace("|", r"\|"))
        for row in table
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _state(state: str) -> str:
    """Write a state with its sign."""
    return f"{STATE_STYLES[state].sign} `{state}`"
