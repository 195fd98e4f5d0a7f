"""How a running engine is told to end, and how it hears that between two records at no cost per record.

Each loop of the engine takes records as long as a list, its gate, has an item for each. It publishes the gate and
then looks at the flags; an order sets its flag and then empties the gates. So whichever of the two comes first, the
loop ends before it takes a further record.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Control:
    """Orders to one run of an engine; any thread may give them, any number of times.

    Attributes
    ----------
    stopping : threading.Event
        Set by `drain` and by `cancel`.
    threads : list of threading.Thread
        Where the run's code runs, besides the thread that called the engine.
    pids : dict of str to int
        Processes in which it runs, by what runs there.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self.pids: dict[str, int] = {}
        self._is_cancelled = False
        self._gates: dict[object, list[int]] = {}
        self._listeners: list[Callable[[], None]] = []

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
        """Take nothing new and discard what is inside, once the records at hand are through."""
        self._is_cancelled = True
        self.stopping.set()
        self.recall()
        for listener in list(self._listeners):
            listener()

    def on_cancel(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` at every cancel, from whatever thread; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def recall(self) -> None:
        """Make the engine look up at its next records: at the flags, and to bring its counts up to date."""
        for gate in list(self._gates.values()):
            gate.clear()

    def publish(self, gate: list[int], loop: object = None) -> None:
        """Tell which gate a loop is about to take records through; it looks at the flags after this."""
        self._gates[loop] = gate

    def retire(self, loop: object = None) -> None:
        """Forget a loop that has ended."""
        self._gates.pop(loop, None)
