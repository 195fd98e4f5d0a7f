"""How a state looks, in every picture: one colour and one sign for each, declared once; and the themes.

The colours have one lightness each: on white they are read, carry white words (contrast at least 4.5, tested) and
stand out from a dark page (at least 3); `on_dark` is read on a dark page. No state is told by its colour alone: the
sign and the word are always there too.
"""

from __future__ import annotations

from typing import NamedTuple

from autostop_lab.lifecycle import JobState, ServiceState


class Style(NamedTuple):
    """The colour of a state, as ``#rrggbb``, its sign, a single character, and its colour as words on a dark page."""

    colour: str
    sign: str
    on_dark: str


class Theme(NamedTuple):
    """The colours of everything that is no state.

    Attributes
    ----------
    panel : str
        Behind everything.
    raised : str
        Of a box that stands out from the panel.
    frame : str
        Around several boxes, and behind a row that is chosen.
    edge, line : str
        What separates, and arrows that were not taken.
    text, muted : str
        Words, and words of the second rank.
    ink : str
        Words on the colour of a state.
    is_dark : bool
        Whether states take their colours for a dark page.
    """

    panel: str
    raised: str
    frame: str
    edge: str
    line: str
    text: str
    muted: str
    ink: str
    is_dark: bool = False

    def colour(self, style: Style) -> str:
        """Return the colour that a state has as words and lines."""
        return style.on_dark if self.is_dark else style.colour


LIGHT = Theme(
    panel="#fcfcfd",
    raised="#ffffff",
    frame="#eef1f5",
    edge="#d0d5dc",
    line="#818b98",
    text="#1c2128",
    muted="#59636e",
    ink="#ffffff",
)
DARK = Theme(
    panel="#1b1f24",
    raised="#22272e",
    frame="#262c34",
    edge="#3d444d",
    line="#768390",
    text="#e6edf3",
    muted="#a4afba",
    ink="#0d1117",
    is_dark=True,
)
#: The colours of the page that a picture stands on, as front ends of Jupyter name them; elsewhere those of `LIGHT`.
PAGE = Theme(
    panel="none",
    raised=f"var(--jp-layout-color1,{LIGHT.raised})",
    frame=f"var(--jp-layout-color2,{LIGHT.frame})",
    edge=f"var(--jp-border-color2,{LIGHT.edge})",
    line=f"var(--jp-border-color1,{LIGHT.line})",
    text=f"var(--jp-ui-font-color1,{LIGHT.text})",
    muted=f"var(--jp-ui-font-color2,{LIGHT.muted})",
    ink="#ffffff",
)

_SLATE, _BLUE, _GREEN = ("#636e79", "#a0abb7"), ("#166dc9", "#72aeed"), ("#0e7d54", "#19c183")
_TEAL, _OCHRE, _ORANGE = ("#14778b", "#22b9d8"), ("#8d6604", "#da9f0b"), ("#b94a05", "#f69050")
_PURPLE, _MAGENTA, _RED = ("#8553c6", "#ba9edf"), ("#c32e80", "#e490be"), ("#cf2d22", "#eb928c")
_PLUM = ("#b74562", "#d998a8")


def _style(colours: tuple[str, str], sign: str) -> Style:
    return Style(colours[0], sign, colours[1])


STATE_STYLES: dict[str, Style] = {
    ServiceState.STOPPED: _style(_SLATE, "■"),
    ServiceState.STARTING: _style(_BLUE, "◔"),
    ServiceState.RUNNING: _style(_GREEN, "●"),
    ServiceState.UNHEALTHY: _style(_ORANGE, "◐"),
    ServiceState.WAITING: _style(_TEAL, "◷"),
    ServiceState.BACKOFF: _style(_OCHRE, "↻"),
    ServiceState.STOPPING: _style(_PURPLE, "◕"),
    ServiceState.KILLING: _style(_MAGENTA, "✕"),
    ServiceState.CRASHED: _style(_RED, "▲"),
    ServiceState.ABANDONED: _style(_PLUM, "◆"),
    # The job's; `starting` and `running` are the same words, and look the same.
    JobState.PENDING: _style(_SLATE, "○"),
    JobState.DRAINING: _style(_TEAL, "◒"),
    JobState.CANCELLING: _style(_MAGENTA, "⊗"),
    JobState.CLEANING_UP: _style(_PURPLE, "◕"),
    JobState.SUCCEEDED: _style(_GREEN, "✓"),
    JobState.FAILED: _style(_RED, "✗"),
    JobState.CANCELLED: _style(_SLATE, "⊘"),
}

OUTCOME_STYLES: dict[str, Style] = {
    "stopped": _style(_GREEN, "✓"),
    "exited": _style(_OCHRE, "▲"),
    "failed": _style(_RED, "✗"),
    "killed": _style(_MAGENTA, "✕"),
    "abandoned": _style(_PLUM, "◆"),
    "kept": _style(_BLUE, "●"),
}

#: How the health of a service looks.
HEALTH_STYLES: dict[str, Style] = {
    "healthy": _style(_GREEN, "✓"),
    "failing": _style(_ORANGE, "!"),
}

#: States of services in which something is wrong, or was.
TROUBLE = frozenset(
    {
        ServiceState.UNHEALTHY,
        ServiceState.BACKOFF,
        ServiceState.KILLING,
        ServiceState.CRASHED,
        ServiceState.ABANDONED,
    }
)
