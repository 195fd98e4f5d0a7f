"""One job and its services at one moment, and the picture of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape as html_escape
from typing import NamedTuple

from autostop_lab.diagrams.styles import EDGE, LINE, MUTED, OUTCOME_STYLES, PANEL, STATE_STYLES, TEXT, Style
from autostop_lab.diagrams.text import FONT, escape, fit, seconds, width
from autostop_lab.lifecycle import JOB_TABLE, JobState, ServiceState


class Column(NamedTuple):
    """Where a column of the table begins, and the room for its words, in pixels."""

    left: float
    room: float


_WIDTH, _MARGIN = 1060, 22
_STATION_Y, _BAR_Y, _TABLE_Y, _ROW = 100, 146, 180, 27
_NAME, _KIND, _STATE = Column(22, 308), Column(342, 122), Column(486, 110)
_SINCE_RIGHT, _OUTCOME, _DETAIL = 676, Column(696, 100), Column(804, 234)


@dataclass(frozen=True, kw_only=True)
class ServiceSnapshot:
    """One service at one moment.

    Parameters
    ----------
    name : str
        Its name in the job.
    kind : str
        What it is, for instance the name of its class: ``"Redis"``.
    state : ServiceState
        Where it is.
    since_s : float
        Seconds since it got there.
    outcome : str
        How it ended: ``"stopped"``, ``"killed"``, ``"failed"``, ``"abandoned"``, ``"exited"`` or ``"kept"``;
        empty while it lives.
    detail : str
        A few words more: an address, a reason, an error.
    """

    name: str
    kind: str
    state: ServiceState
    since_s: float = 0.0
    outcome: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One job at one moment.

    Parameters
    ----------
    name, id : str
        Of the job.
    state : JobState
        Where it is.
    reason : str
        Why it is there, in words; may be empty.
    elapsed_s : float
        Seconds from its start until now, or until its end.
    visited : tuple of (JobState, float)
        The states that it has been in, in their order, the present one last; each with the seconds from
        the job's start until it was reached.
    services : tuple of ServiceSnapshot
        What it needs, in the order in which they are shown.
    """

    name: str
    id: str
    state: JobState
    reason: str = ""
    elapsed_s: float = 0.0
    visited: tuple[tuple[JobState, float], ...] = ()
    services: tuple[ServiceSnapshot, ...] = ()


def lifecycle_svg(snapshot: Snapshot) -> str:
    """Draw a job with its way so far, and its services, as one still picture.

    Parameters
    ----------
    snapshot : Snapshot
        The job at one moment.

    Returns
    -------
    str
        An SVG element of presentation attributes only: no style sheet, no script, no ids.
    """
    w, h = _WIDTH, _TABLE_Y + 8 + _ROW * max(len(snapshot.services), 1) + 14
    head = f"Job {escape(snapshot.name)}: {snapshot.state}, {seconds(snapshot.elapsed_s)}"
    story = "; ".join(
        f"{escape(one.name)} {one.state}" + (f", {escape(one.outcome)}" if one.outcome else "")
        for one in snapshot.services
    )
    desc = f"{escape(snapshot.reason)}. " if snapshot.reason else ""
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
            f'role="img" aria-label="{head}" font-family="{FONT}">',
            f"<title>{head}</title><desc>{desc}Services: {story or 'none'}.</desc>",
            f'<rect x="0.5" y="0.5" width="{w - 1}" height="{h - 1}" rx="10" fill="{PANEL}" '
            f'stroke="{EDGE}"/>',
            _header(snapshot),
            *_stations(snapshot),
            *_time_bar(snapshot),
            _columns(),
            *(_service(one, _TABLE_Y + 8 + _ROW * i) for i, one in enumerate(snapshot.services)),
            "" if snapshot.services else _text("no services", _NAME.left, _TABLE_Y + 27, fill=MUTED),
            "</svg>",
        ]
    )


def _text(
    text: str,
    x: float,
    y: float,
    *,
    size: float = 12,
    fill: str = TEXT,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """Write a line that fits where it is written."""
    look = f'font-size="{size:g}" fill="{fill}"'
    if anchor != "start":
        look += f' text-anchor="{anchor}"'
    if bold:
        look += ' font-weight="700"'
    return f'<text x="{x:g}" y="{y:g}" {look}>{html_escape(text)}</text>'


def _cell(
    text: str, column: Column, y: float, *, size: float = 12, fill: str = TEXT, bold: bool = False
) -> str:
    """Write words from outside into a column, shortened if they are too long and then whole as a tooltip."""
    shown = fit(text, size, column.room, bold=bold)
    written = _text(shown, column.left, y, size=size, fill=fill, bold=bold)
    return f"<g><title>{escape(text)}</title>{written}</g>" if shown.endswith("…") else written


def _chip(word: str, style: Style, x: float, y: float, *, filled: bool) -> str:
    """Draw a state as a lozenge with its sign and word, its middle line at `y`."""
    wide = width(f"{style.sign} {word}", 12, bold=True) + 16
    look = f'fill="{style.colour}"' if filled else f'fill="{style.colour}" fill-opacity="0.1"'
    ink = "#ffffff" if filled else style.colour
    return (
        f'<rect x="{x:g}" y="{y - 10:g}" width="{wide:.0f}" height="20" rx="10" {look}/>'
        + _text(f"{style.sign} {word}", x + wide / 2, y + 4, fill=ink, anchor="middle", bold=True)
    )


def _header(snapshot: Snapshot) -> str:
    """Write the job's name, id and reason, and on the right how long it took and where it is."""
    style = STATE_STYLES[snapshot.state]
    word = str(snapshot.state)
    chip = _WIDTH - _MARGIN - width(f"{style.sign} {word}", 12, bold=True) - 16
    elapsed = seconds(snapshot.elapsed_s)
    room = chip - 24 - width(elapsed, 14, bold=True) - _MARGIN - 20
    below = " · ".join(filter(None, [snapshot.id, snapshot.reason]))
    return (
        _cell(snapshot.name, Column(_MARGIN, room), 32, size=17, bold=True)
        + _cell(below, Column(_MARGIN, _WIDTH - 2 * _MARGIN), 52, fill=MUTED)
        + _text(elapsed, chip - 12, 31, size=14, anchor="end", bold=True)
        + _chip(word, style, chip, 26, filled=True)
    )


def _way_on(state: JobState) -> Iterator[JobState]:
    """Yield the live states that usually come after `state`: of each state, where its first row leads."""
    while True:
        row = next((row for row in JOB_TABLE if row.source == state), None)
        if row is None or row.target not in JOB_TABLE.live:
            return
        state = row.target
        yield state


def _stations(snapshot: Snapshot) -> Iterator[str]:
    """Draw the states that the job has been in as stops on a line, and faintly those that usually follow."""
    been = snapshot.visited or ((snapshot.state, 0.0),)
    over = snapshot.state in JOB_TABLE.final
    stops: list[str] = [*(state for state, _ in been), *([] if over else [*_way_on(snapshot.state), "end"])]
    slot = (_WIDTH - 2 * _MARGIN) / max(len(stops), 5)
    xs = [_MARGIN + slot * (i + 0.5) for i in range(len(stops))]
    y = _STATION_Y
    yield f'<path d="M{xs[0]:g} {y}H{xs[len(been) - 1]:g}" stroke="{TEXT}" stroke-width="2.5"/>'
    yield (
        f'<path d="M{xs[len(been) - 1]:g} {y}H{xs[-1]:g}" stroke="{LINE}" stroke-width="1.5" '
        f'stroke-dasharray="2 5"/>'
    )
    ends = [*(at for _, at in been[1:]), snapshot.elapsed_s]
    for i, (word, x) in enumerate(zip(stops, xs, strict=True)):
        if i >= len(been):
            yield f'<circle cx="{x:g}" cy="{y}" r="7" fill="{PANEL}" stroke="{LINE}" stroke-width="1.5"/>'
            yield _text(word, x, y + 29, fill=MUTED, anchor="middle")
            continue
        style, now = STATE_STYLES[word], i == len(been) - 1
        if now:
            yield (
                f'<circle cx="{x:g}" cy="{y}" r="15" fill="none" stroke="{style.colour}" stroke-width="3" '
                f'stroke-opacity="0.35"/>'
            )
        yield (
            f'<circle cx="{x:g}" cy="{y}" r="11" fill="{style.colour}" stroke="{PANEL}" stroke-width="1.5"/>'
        )
        yield _text(style.sign, x, y + 4.2, fill="#ffffff", anchor="middle", bold=True)
        yield _text(word, x, y + 29, fill=style.colour, anchor="middle", bold=True)
        if not (now and over):
            yield _text(seconds(ends[i] - been[i][1]), x, y - 18, size=11, fill=MUTED, anchor="middle")


def _time_bar(snapshot: Snapshot) -> Iterator[str]:
    """Draw where the job's time went: one piece for each state that it has been in."""
    whole, room = snapshot.elapsed_s, _WIDTH - 2 * _MARGIN
    yield f'<rect x="{_MARGIN}" y="{_BAR_Y}" width="{room}" height="8" rx="4" fill="{EDGE}"/>'
    ends = [*(at for _, at in snapshot.visited[1:]), whole]
    for (state, at), end in zip(snapshot.visited, ends, strict=False):
        share = room * (end - at) / whole if whole > 0 else 0
        if share >= 1:
            yield (
                f'<rect x="{_MARGIN + room * at / whole:.1f}" y="{_BAR_Y}" width="{share:.1f}" height="8" '
                f'rx="{min(4, share / 2):g}" fill="{STATE_STYLES[state].colour}" stroke="{PANEL}">'
                f"<title>{state}: {seconds(end - at)}</title></rect>"
            )


def _columns() -> str:
    """Write what the columns of the table are."""
    line = f'<path d="M{_MARGIN} {_TABLE_Y + 7}H{_WIDTH - _MARGIN}" stroke="{EDGE}"/>'
    heads = {"SERVICE": _NAME, "KIND": _KIND, "STATE": _STATE, "OUTCOME": _OUTCOME, "DETAIL": _DETAIL}
    return (
        line
        + "".join(_text(word, at.left, _TABLE_Y, size=10, fill=MUTED) for word, at in heads.items())
        + _text("FOR", _SINCE_RIGHT, _TABLE_Y, size=10, fill=MUTED, anchor="end")
    )


def _service(one: ServiceSnapshot, top: float) -> str:
    """Write one service's row."""
    y = top + _ROW / 2 + 4
    outcome = ""
    if one.outcome:
        style = OUTCOME_STYLES.get(one.outcome, Style(MUTED, "·"))
        outcome = _cell(f"{style.sign} {one.outcome}", _OUTCOME, y, fill=style.colour, bold=True)
    return (
        _cell(one.name, _NAME, y)
        + _cell(one.kind, _KIND, y, fill=MUTED)
        + _chip(str(one.state), STATE_STYLES[one.state], _STATE.left - 8, y - 4, filled=False)
        + _text(seconds(one.since_s), _SINCE_RIGHT, y, anchor="end")
        + outcome
        + _cell(one.detail, _DETAIL, y, fill=MUTED)
        + f'<path d="M{_MARGIN} {top + _ROW - 0.5:g}H{_WIDTH - _MARGIN}" stroke="{EDGE}"/>'
    )
