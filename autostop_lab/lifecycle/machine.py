"""One look-up in a table, one error: the machine decides, others act."""

from __future__ import annotations

from typing import Generic

from autostop_lab.exceptions import TransitionError
from autostop_lab.lifecycle.tables import Row, State, Table, Trigger


class Machine(Generic[State, Trigger]):
    """The state of one service or job.

    Parameters
    ----------
    table : Table
        The moves that it may make.
    name : str
        Whose state it is, for the error's text.
    """

    __slots__ = ("name", "state", "table")

    def __init__(self, table: Table[State, Trigger], name: str) -> None:
        self.table = table
        self.name = name
        self.state = table.initial

    def accepts(self, trigger: Trigger) -> bool:
        """Return whether `trigger` moves it from where it is."""
        return (self.state, trigger) in self.table.next

    def step(self, trigger: Trigger) -> Row[State, Trigger]:
        """Make the move that `trigger` asks for, and start nothing.

        Parameters
        ----------
        trigger : Trigger
            An order or an observation.

        Returns
        -------
        Row
            The row of the table that was taken; `state` is its target now.

        Raises
        ------
        TransitionError
            The table has no such move; the state is as before.
        """
        row = self.table.next.get((self.state, trigger))
        if row is None:
            accepted = ", ".join(sorted(map(repr, map(str, self.table.triggers_from(self.state))))) or "nothing"
            raise TransitionError(
                f"{self.name!r} is {self.state} and does not take {str(trigger)!r}; it takes {accepted}.",
                state=self.state,
                trigger=trigger,
            )
        self.state = row.target
        return row
