"""How a state looks, in every picture: one colour and one sign for each, declared once.

The colours are dark enough to be read on white and to carry white text (contrast at least 4.5, tested),
and no state is told by its colour alone: the sign and the word are always there too.
"""

from __future__ import annotations

from typing import NamedTuple

from autostop_lab.lifecycle import JobState, ServiceState


class Style(NamedTuple):
    """The colour of a state, as ``#rrggbb``, and its sign, a single character."""

    colour: str
    sign: str


PANEL = "#fcfcfd"  # behind everything, so that a picture is the same on a light and on a dark page
EDGE = "#d0d5dc"  # the panel's border, and what separates
TEXT = "#1c2128"
MUTED = "#59636e"  # text of the second rank
LINE = "#818b98"  # arrows that were not taken
FRAME = "#eef1f5"  # a frame around several states

_SLATE, _BLUE, _GREEN, _TEAL = "#57606a", "#0b5cad", "#0a6b4f", "#0e6a7c"
_OCHRE, _ORANGE, _PURPLE, _MAGENTA = "#7d5a00", "#a34700", "#6f42a6", "#a3286b"
_RED, _MAROON = "#b3201a", "#6b1220"

STATE_STYLES: dict[str, Style] = {
    ServiceState.STOPPED: Style(_SLATE, "■"),
    ServiceState.STARTING: Style(_BLUE, "◔"),
    ServiceState.RUNNING: Style(_GREEN, "●"),
    ServiceState.UNHEALTHY: Style(_ORANGE, "◐"),
    ServiceState.WAITING: Style(_TEAL, "◷"),
    ServiceState.BACKOFF: Style(_OCHRE, "↻"),
    ServiceState.STOPPING: Style(_PURPLE, "◕"),
    ServiceState.KILLING: Style(_MAGENTA, "✕"),
    ServiceState.CRASHED: Style(_RED, "▲"),
    ServiceState.ABANDONED: Style(_MAROON, "◆"),
    # The job's; `starting` and `running` are the same words, and look the same.
    JobState.PENDING: Style(_SLATE, "○"),
    JobState.DRAINING: Style(_TEAL, "◒"),
    JobState.CANCELLING: Style(_MAGENTA, "⊗"),
    JobState.CLEANING_UP: Style(_PURPLE, "◕"),
    JobState.SUCCEEDED: Style(_GREEN, "✓"),
    JobState.FAILED: Style(_RED, "✗"),
    JobState.CANCELLED: Style(_SLATE, "⊘"),
}

OUTCOME_STYLES: dict[str, Style] = {
    "stopped": Style(_GREEN, "✓"),
    "exited": Style(_OCHRE, "▲"),
    "failed": Style(_RED, "✗"),
    "killed": Style(_MAGENTA, "✕"),
    "abandoned": Style(_MAROON, "◆"),
    "kept": Style(_BLUE, "●"),
}
