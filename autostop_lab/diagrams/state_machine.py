"""The picture of a table of states: the current state lit, the way that was taken drawn bold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from autostop_lab.diagrams.routing import LABEL_LINE, LABEL_SIZE, Box, Way, drawing_of
from autostop_lab.diagrams.routing import Drawing as Plan
from autostop_lab.diagrams.shapes import Drawing, line, sheet
from autostop_lab.diagrams.styles import LIGHT, STATE_STYLES, Theme
from autostop_lab.diagrams.text import escape, fit
from autostop_lab.lifecycle import Table
from autostop_lab.lifecycle.tables import State, Trigger

_TITLE_HEIGHT, _LEGEND_HEIGHT = 42, 30
_RADIUS = 7  # of the corners of lines

Corner = tuple[float, float]


def state_machine_svg(
    table: Table[State, Trigger],
    *,
    current: State | None = None,
    visited: Iterable[State] = (),
    title: str = "Lifecycle",
    theme: Theme = LIGHT,
    is_bare: bool = False,
) -> str:
    """Draw the states and moves of a service or a job.

    Parameters
    ----------
    table : Table
        The table of services or of jobs.
    current : State, optional
        The state that it is in, drawn filled.
    visited : iterable of State
        States that it has been in, in their order; they are marked, and the moves between them bold.
    title : str
        What stands above the picture, for instance the service's name.
    theme : Theme
        Colours of the page that it stands on.
    is_bare : bool
        Whether title and legend are left out, since they stand beside it.

    Returns
    -------
    str
        An SVG element of presentation attributes only: no style sheet, no script, no ids.

    Raises
    ------
    ValueError
        It is a table of other states than services and jobs have.
    """
    drawing = drawing_of(table)
    past = [str(state) for state in visited]
    now = None if current is None else str(current)
    walk = past if now is None or past[-1:] == [now] else [*past, now]
    moves = frozenset(pairwise(walk))
    shown = fit(title, 15, drawing.width - 40, bold=True)
    words = f"{len(table.states)} states." + (f" It is {now} now." if now else "")
    if past:
        words += f" It has been: {', '.join(past)}."
    body = _body(table, now, frozenset(walk), moves, theme)
    name = f"{shown}: {words}"
    if is_bare:
        return sheet(
            Drawing(drawing.height, body), theme=theme, title=title, desc=words, width_px=drawing.width, label=name
        )
    head = line(shown, 20, 28, size=15, bold=True)
    return sheet(
        Drawing(_TITLE_HEIGHT, head),
        Drawing(drawing.height, body),
        Drawing(_LEGEND_HEIGHT, _legend(drawing, _LEGEND_HEIGHT - 12, theme)),
        theme=theme,
        title=title,
        desc=words,
        width_px=drawing.width,
        label=name,
    )


@lru_cache(maxsize=64)
def _body(
    table: Table[State, Trigger],
    now: str | None,
    walk: frozenset[str],
    moves: frozenset[tuple[str, str]],
    theme: Theme,
) -> str:
    """Draw everything but title and legend."""
    drawing = drawing_of(table)
    parts = [_frame(box, theme) for box in drawing.frames]
    taken = [any((source, way.arrow.target) in moves for source in way.arrow.sources) for way in drawing.ways]
    order = sorted(range(len(taken)), key=taken.__getitem__)  # what was taken lies above the rest
    parts += [_line(drawing.ways[i], taken[i], theme) for i in order]
    parts += [_words(drawing.ways[i], taken[i], theme) for i in order]
    parts.append(_initial(drawing.initial, theme))
    live = table.live
    for state in table.states:
        final = state in table.final
        look = "now" if state == now else "past" if state in walk else "other"
        box = drawing.states[state]
        parts.append(_state(str(state), box, look=look, live=state in live, final=final, theme=theme))
    return "".join(parts)


def _frame(box: Box, theme: Theme) -> str:
    """Draw the frame around states that share moves."""
    return (
        f'<rect x="{box.left:g}" y="{box.top:g}" width="{box.right - box.left:g}" '
        f'height="{box.bottom - box.top:g}" rx="14" fill="{theme.frame}" fill-opacity="0.6" stroke="{theme.edge}"/>'
    )


def _line(way: Way, taken: bool, theme: Theme) -> str:
    """Draw the line of an arrow, its corners rounded, and its head."""
    colour, stroke = (theme.text, 2.2) if taken else (theme.line, 1.2)
    (x0, y0), (x, y) = way.corners[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    side = 4.5 if taken else 3.8
    head = f"M{x:g} {y:g}L{x - 9 * dx + side * dy:g} {y - 9 * dy + side * dx:g}"
    head += f"L{x - 9 * dx - side * dy:g} {y - 9 * dy - side * dx:g}Z"
    end = (x - 6 * dx, y - 6 * dy)  # the line ends within the head, so that its tip stays sharp
    before, after = _around_label(way, end)
    return (
        f'<path d="{_rounded(before)}{_rounded(after)}" fill="none" stroke="{colour}" '
        f'stroke-width="{stroke}"/><path d="{head}" fill="{colour}"/>'
    )


def _around_label(way: Way, end: Corner) -> tuple[list[Corner], list[Corner]]:
    """Return the corners of a line in two parts: up to its words, and on from there to `end`."""
    corners = [*way.corners[:-1], end]
    (x0, y0), (x1, y1) = corners[way.label_run : way.label_run + 2]
    left, top, right, bottom = way.label_box
    if y0 == y1:
        near, far = ((left, y0), (right, y0)) if x1 > x0 else ((right, y0), (left, y0))
    else:
        near, far = ((x0, top), (x0, bottom)) if y1 > y0 else ((x0, bottom), (x0, top))
    return [*corners[: way.label_run + 1], near], [far, *corners[way.label_run + 1 :]]


def _rounded(corners: list[Corner]) -> str:
    """Return the path through corners, each rounded."""
    path = "M{:g} {:g}".format(*corners[0])
    for (ax, ay), (bx, by), (cx, cy) in zip(corners, corners[1:], corners[2:], strict=False):
        before, after = abs(bx - ax) + abs(by - ay), abs(cx - bx) + abs(cy - by)
        radius = min(_RADIUS, before / 2, after / 2)
        path += f"L{bx - (bx - ax) / before * radius:g} {by - (by - ay) / before * radius:g}"
        path += f"Q{bx:g} {by:g} {bx + (cx - bx) / after * radius:g} {by + (cy - by) / after * radius:g}"
    return path + "L{:g} {:g}".format(*corners[-1])


def _words(way: Way, taken: bool, theme: Theme) -> str:
    """Write the triggers of an arrow on its line; the tooltip says whence, whither and why."""
    box = way.label_box
    middle = (box.left + box.right) / 2
    weight, colour = ("700", theme.text) if taken else ("400", theme.muted)
    tip = f"{', '.join(way.arrow.sources)} → {way.arrow.target}: {'; '.join(way.arrow.whys)}"
    lines = "".join(
        f'<text x="{middle:g}" y="{box.top + 11.5 + LABEL_LINE * i:g}" text-anchor="middle" '
        f'font-size="{LABEL_SIZE}" font-weight="{weight}" fill="{colour}">{escape(line)}</text>'
        for i, line in enumerate(way.label)
    )
    return f"<g><title>{escape(tip)}</title>{lines}</g>"


def _initial(box: Box, theme: Theme) -> str:
    """Draw the dot and the short arrow that say where a new one begins."""
    y = (box.top + box.bottom) / 2
    return (
        f'<circle cx="{box.left + 5:g}" cy="{y:g}" r="5" fill="{theme.text}"/>'
        f'<path d="M{box.left + 10:g} {y:g}H{box.right - 6:g}" stroke="{theme.text}" stroke-width="1.2"/>'
        f'<path d="M{box.right:g} {y:g}l-9 -3.8v7.6Z" fill="{theme.text}"/>'
    )


def _state(state: str, box: Box, *, look: str, live: bool, final: bool, theme: Theme) -> str:
    """Draw one state: round at rest, with a second line around it if no move leaves it."""
    style = STATE_STYLES[state]
    colour, sign = theme.colour(style), style.sign
    x, y, w, h = box.left, box.top, box.right - box.left, box.bottom - box.top
    rx = 9 if live else h / 2
    fill, edge, stroke, text, weight = {
        "now": (colour, colour, 2, theme.ink, "700"),
        "past": (theme.raised, colour, 2, theme.text, "700"),
        "other": (theme.raised, theme.line, 1, theme.muted, "400"),
    }[look]
    out = f"<g><title>{state}</title>"
    if look == "now":
        out += (
            f'<rect x="{x - 4:g}" y="{y - 4:g}" width="{w + 8:g}" height="{h + 8:g}" rx="{rx + 4:g}" '
            f'fill="none" stroke="{colour}" stroke-width="3" stroke-opacity="0.35"/>'
        )
    out += (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{rx:g}" fill="{fill}" '
        f'stroke="{edge}" stroke-width="{stroke}"/>'
    )
    if final:
        inner = theme.ink if look == "now" else edge
        out += (
            f'<rect x="{x + 4:g}" y="{y + 4:g}" width="{w - 8:g}" height="{h - 8:g}" rx="{rx - 4:g}" '
            f'fill="none" stroke="{inner}" stroke-width="1"/>'
        )
    signed = f'<tspan fill="{text if look == "now" else colour}">{sign}</tspan>'
    out += (
        f'<text x="{x + w / 2:g}" y="{y + h / 2 + 4.5:g}" text-anchor="middle" font-size="13" '
        f'font-weight="{weight}" fill="{text}">{signed} {state}</text>'
    )
    if look == "past":
        out += (
            f'<circle cx="{x + w - 6:g}" cy="{y + 2:g}" r="7.5" fill="{colour}" stroke="{theme.raised}" '
            f'stroke-width="1.5"/><path d="M{x + w - 9.5:g} {y + 2:g}l2.6 2.8l4.4 -5.4" fill="none" '
            f'stroke="{theme.ink}" stroke-width="1.8"/>'
        )
    return out + "</g>"


def _legend(drawing: Plan, y: float, theme: Theme) -> str:
    """Explain the signs that a reader may not know."""
    words = ["filled: now", "ticked: has been there", "round: at rest", "double line: final"]
    if drawing.frames:
        words.append("an arrow from a frame leaves from every state inside")
    return line(" · ".join(words), 20, y, size=11, fill=theme.muted)
