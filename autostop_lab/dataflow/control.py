"""How a running engine is told to end, and how it hears that between two records at no cost per record.

The engine takes records as long as a list, its gate, has an item for each. It publishes the gate and then
looks at the flags; an order sets its flag and then empties the gate. So whichever of the two comes first, the
loop ends before it takes a further record.
"""

from __future__ import annotations

import threading


class Control:
    """Orders to one run of an engine; any thread may give them, any number of times.

    Attributes
    ----------
    stopping : threading.Event
        Set by `drain` and by `cancel`.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._is_cancelled = False
        self._gate: list[int] = []

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called, and `cancel` was not."""
        return self.stopping.is_set() and not self._is_cancelled

    def drain(self) -> None:
        """Take nothing new and finish what is inside."""
        self.stopping.set()
        self.recall()

    def cancel(self) -> None:
        """Take nothing new and discard what is inside, once the record at hand is through."""
        self._is_cancelled = True
        self.stopping.set()
        self.recall()

    def recall(self) -> None:
        """Make the engine look up at its next record: at the flags, and to bring its counts up to date."""
        self._gate.clear()

    def publish(self, gate: list[int]) -> None:
        """Tell which gate the engine is about to take records through; it looks at the flags after this."""
        self._gate = gate
