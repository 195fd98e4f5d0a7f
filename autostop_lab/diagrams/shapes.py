"""The pieces that pictures are made of: lines of words, lozenges, and the sheet that they stand on."""

from __future__ import annotations

from html import escape as html_escape
from typing import NamedTuple

from autostop_lab.diagrams.styles import Style, Theme
from autostop_lab.diagrams.text import FONT, escape, fit, width

#: Width of every picture but that of a state machine, and its margin, in pixels.
WIDTH, MARGIN = 1100, 22


class Column(NamedTuple):
    """Where a column begins, and the room for its words, in pixels."""

    left: float
    room: float


class Drawing(NamedTuple):
    """A part of a picture: how high it is, in pixels, and its elements."""

    height: float
    body: str


def sheet(
    *parts: Drawing, theme: Theme, title: str, desc: str, width_px: float = WIDTH, label: str = ""
) -> str:
    """Put parts below one another on one sheet.

    Parameters
    ----------
    *parts : Drawing
        From the top.
    theme : Theme
        Its colours.
    title, desc : str
        What a screen reader says; not yet escaped.
    width_px : float
        How wide it is.
    label : str
        What a screen reader says first, if not the title.

    Returns
    -------
    str
        An SVG element of presentation attributes only: no style sheet, no script, no ids.
    """
    height = sum(part.height for part in parts)
    said, told, called = escape(title), escape(desc), escape(label or title)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width_px:g}" height="{height:g}" '
        f'viewBox="0 0 {width_px:g} {height:g}" role="img" aria-label="{called}" '
        f'font-family="{FONT}" font-size="12" fill="{theme.text}"><title>{said}</title><desc>{told}</desc>'
    ]
    if theme.panel != "none":
        out.append(
            f'<rect x="0.5" y="0.5" width="{width_px - 1:g}" height="{height - 1:g}" rx="10" fill="{theme.panel}" '
            f'stroke="{theme.edge}"/>'
        )
    top = 0.0
    for part in parts:
        out.append(f'<g transform="translate(0 {top:g})">{part.body}</g>' if top else part.body)
        top += part.height
    out.append("</svg>")
    return "".join(out)


def line(
    words: str, x: float, y: float, *, size: float = 12, fill: str = "", anchor: str = "start", bold: bool = False
) -> str:
    """Write words that fit where they are written; without `fill` in the colour of the sheet's words."""
    look = f' font-size="{size:g}"' if size != 12 else ""
    if fill:
        look += f' fill="{fill}"'
    if anchor != "start":
        look += f' text-anchor="{anchor}"'
    if bold:
        look += ' font-weight="700"'
    return f'<text x="{x:g}" y="{y:g}"{look}>{html_escape(words)}</text>'


def cell(words: str, column: Column, y: float, *, size: float = 12, fill: str = "", bold: bool = False) -> str:
    """Write words from outside into a column, shortened if they are too long and then whole as a tooltip."""
    shown = fit(words, size, column.room, bold=bold)
    written = line(shown, column.left, y, size=size, fill=fill, bold=bold)
    return f"<g><title>{escape(words)}</title>{written}</g>" if shown.endswith("…") else written


def chip_width(word: str, style: Style) -> float:
    """Return how wide the lozenge of a state is."""
    return round(width(f"{style.sign} {word}", 12, bold=True) + 16)


def chip(word: str, style: Style, x: float, y: float, *, theme: Theme, filled: bool) -> str:
    """Draw a state as a lozenge with its sign and word, its middle line at `y`."""
    wide, colour = chip_width(word, style), theme.colour(style)
    if filled:
        look, ink, sign = f'fill="{colour}"', theme.ink, style.sign
    else:
        look, ink = f'fill="{colour}" fill-opacity="0.13"', theme.text
        sign = f'<tspan fill="{colour}">{style.sign}</tspan>'
    return (
        f'<rect x="{x:g}" y="{y - 10:g}" width="{wide:g}" height="20" rx="10" {look}/>'
        f'<text x="{x + wide / 2:g}" y="{y + 4:g}" text-anchor="middle" font-weight="700" fill="{ink}">'
        f"{sign} {html_escape(word)}</text>"
    )


def signed(word: str, style: Style, column: Column, y: float, *, theme: Theme, size: float = 12) -> str:
    """Write a word behind its coloured sign, shortened if it is too long."""
    shown = fit(word, size, column.room - width(f"{style.sign} ", size, bold=True), bold=True)
    look = f' font-size="{size:g}"' if size != 12 else ""
    return (
        f'<text x="{column.left:g}" y="{y:g}"{look} font-weight="700"><tspan fill="{theme.colour(style)}">'
        f"{style.sign}</tspan> {html_escape(shown)}</text>"
    )


def rule(y: float, theme: Theme) -> str:
    """Draw a line across the sheet."""
    return f'<path d="M{MARGIN} {y:g}H{WIDTH - MARGIN}" stroke="{theme.edge}"/>'
