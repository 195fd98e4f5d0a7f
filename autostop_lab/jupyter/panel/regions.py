"""A region of the panel: one trait of one widget, sent only when it has changed, and never too much of it."""

from __future__ import annotations

from typing import Any, Protocol

#: Shortest time between two updates of a region, in seconds.
UPDATE_S = 0.1
#: For how long what is not sent is saved up, in seconds.
SAVED_S = 1.0


class Shown(Protocol):
    """A widget that shows a text."""

    value: Any


class Region:
    """One part of the panel.

    The latest content wins: what was not sent because it was too early is not sent later, but what is current then.

    Parameters
    ----------
    widget : ipywidgets.HTML
        What shows it.
    bytes_per_s : float
        How much of it is sent in a second, on average.
    """

    def __init__(self, widget: Shown, *, bytes_per_s: float) -> None:
        self.widget = widget
        self._bytes_per_s = bytes_per_s
        self._shown = ""
        self._due_s = 0.0
        self._spent_until_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Return whether it may be sent now."""
        return now_s >= self._due_s

    def show(self, content: str, now_s: float) -> bool:
        """Send `content` if it has changed; return whether it was sent."""
        if content == self._shown:
            return False
        self._shown = content
        # What was saved while nothing changed makes the next changes quick.
        self._spent_until_s = max(self._spent_until_s, now_s - SAVED_S) + len(content) / self._bytes_per_s
        self._due_s = max(now_s + UPDATE_S, self._spent_until_s)
        self.widget.value = content
        return True
