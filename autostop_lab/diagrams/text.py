"""Words on a picture: made harmless, measured and made to fit."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import escape as html_escape

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

# Longest text that is looked at; what does not fit into a picture is not worth its time.
_LONGEST = 500

# Widths in units of the font size, those of the widest usual font (DejaVu Sans), so that others have room.
_UNITS = {
    **dict.fromkeys(map(chr, range(32, 127)), 0.64),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&", 0.79),
    **dict.fromkeys("+<=>^~#", 0.84),
    **dict.fromkeys("mwMW@%", 1.0),
    **dict.fromkeys("fijlrtI.,:;!'|()[]-/ ", 0.42),
}
_WIDE, _OTHER, _ELLIPSIS = 1.0, 0.9, 1.0
_BOLD = 1.12
# What tells a terminal to change colours or to move.
_TERMINAL = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")


def clean(text: str) -> str:
    """Strip what cannot be shown: a terminal's sequences, and control, format and surrogate characters.

    Any space is one blank.

    Parameters
    ----------
    text : str
        Words from outside: a service's name, an error's text.

    Returns
    -------
    str
        One line that is well-formed in XML once it is escaped.
    """
    text = text[:_LONGEST]
    if not text.isprintable():
        text = _TERMINAL.sub("", text)
        text = "".join(
            " " if char.isspace() else char
            for char in text
            if char.isspace() or not unicodedata.category(char).startswith("C")
        )
    return " ".join(text.split())


def escape(text: str) -> str:
    """Return `text` cleaned, and with the characters that mean something in XML escaped."""
    return html_escape(clean(text))


@lru_cache(maxsize=4096)
def width(text: str, size: float, *, bold: bool = False) -> float:
    """Estimate how wide a text is drawn, on the safe side.

    Parameters
    ----------
    text : str
        One line.
    size : float
        Size of the font, in pixels.
    bold : bool
        Whether it is drawn bold.

    Returns
    -------
    float
        Pixels.
    """
    return sum(map(_units, text)) * size * (_BOLD if bold else 1)


def _units(char: str) -> float:
    """Return how wide a character is, in units of the font size."""
    known = _UNITS.get(char)
    if known is not None:
        return known
    return _WIDE if unicodedata.east_asian_width(char) in "WF" else _OTHER


@lru_cache(maxsize=4096)
def fit(text: str, size: float, room: float, *, bold: bool = False) -> str:
    """Clean a text and shorten it, with an ellipsis, to the room that it has.

    Parameters
    ----------
    text : str
        Words from outside.
    size : float
        Size of the font, in pixels.
    room : float
        Pixels that it may take.
    bold : bool
        Whether it is drawn bold.

    Returns
    -------
    str
        Cleaned, not yet escaped.
    """
    text = clean(text)
    if width(text, size, bold=bold) <= room:
        return text
    left = room / (size * (_BOLD if bold else 1)) - _ELLIPSIS
    kept = 0
    for char in text:
        left -= _units(char)
        if left < 0:
            break
        kept += 1
    return text[:kept].rstrip() + "…"


def seconds(value: float) -> str:
    """Return a duration as a person says it: ``0.4 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if value < 59.95:
        return f"{max(value, 0):.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_number(value: float) -> str:
    """Return a count or a rate in few characters: ``7``, ``0.4``, ``12,345``, ``1.2 M``."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    for unit, scale in (("G", 1e9), ("M", 1e6)):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:,.0f}"


def memory(value_bytes: int) -> str:
    """Return an amount of memory as a person says it: ``812 KB``, ``34 MB``, ``1.2 GB``."""
    if value_bytes < 1e6:
        return f"{value_bytes / 1e3:.0f} KB"
    return f"{value_bytes / 1e6:.0f} MB" if value_bytes < 1e9 else f"{value_bytes / 1e9:.1f} GB"
