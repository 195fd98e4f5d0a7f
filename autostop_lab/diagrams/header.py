"""The top of a picture: what a job is called, where it is, how far it is, and its way so far."""

from __future__ import annotations

from collections.abc import Iterator

from autostop_lab.diagrams.shapes import MARGIN, WIDTH, Column, Drawing, cell, chip, chip_width, line
from autostop_lab.diagrams.snapshot import FlowSnapshot, Snapshot, story
from autostop_lab.diagrams.styles import STATE_STYLES, Theme
from autostop_lab.diagrams.text import seconds, short_number, width
from autostop_lab.lifecycle import JOB_TABLE, JobState

_STATION_Y, _BAR_Y = 116, 160


def header(snapshot: Snapshot, theme: Theme) -> Drawing:
    """Draw the head of a job's picture; that of an environment without a job is two lines."""
    room = WIDTH - 2 * MARGIN
    below = " · ".join(filter(None, [snapshot.id, snapshot.error or snapshot.reason]))
    lines = [one for one in (below, story(snapshot)) if one]
    told = "".join(
        cell(words, Column(MARGIN, room), 51 + 17 * number, fill=theme.muted) for number, words in enumerate(lines)
    )
    if snapshot.state is None:
        named = cell(snapshot.name, Column(MARGIN, room), 30, size=17, bold=True)
        return Drawing(46 + 17 * len(lines), named + told)
    style, word = STATE_STYLES[snapshot.state], str(snapshot.state)
    left = WIDTH - MARGIN - chip_width(word, style)
    elapsed = seconds(snapshot.elapsed_s)
    name_room = left - 24 - width(elapsed, 14, bold=True) - MARGIN - 20
    body = [
        cell(snapshot.name, Column(MARGIN, name_room), 32, size=17, bold=True),
        told,
        line(elapsed, left - 12, 31, size=14, anchor="end", bold=True),
        chip(word, style, left, 26, theme=theme, filled=True),
        *_stations(snapshot, theme),
        *_time_bar(snapshot, theme),
    ]
    height = _BAR_Y + 20
    if snapshot.flow is not None and snapshot.flow.nodes:
        body += _progress(snapshot.flow, height, theme, is_over=snapshot.is_over)
        height += 26
    return Drawing(height, "".join(body))


def _way_on(state: JobState) -> Iterator[JobState]:
    """Yield the live states that usually come after `state`: of each state, where its first row leads."""
    while True:
        row = next((row for row in JOB_TABLE if row.source == state), None)
        if row is None or row.target not in JOB_TABLE.live:
            return
        state = row.target
        yield state


def _stations(snapshot: Snapshot, theme: Theme) -> Iterator[str]:
    """Draw the states that the job has been in as stops on a line, and faintly those that usually follow."""
    assert snapshot.state is not None
    been = snapshot.visited or ((snapshot.state, 0.0),)
    over = snapshot.is_over
    stops: list[str] = [*(state for state, _ in been), *([] if over else [*_way_on(snapshot.state), "end"])]
    slot = (WIDTH - 2 * MARGIN) / max(len(stops), 5)
    xs = [MARGIN + slot * (i + 0.5) for i in range(len(stops))]
    y, ring = _STATION_Y, theme.panel if theme.panel != "none" else theme.raised
    yield f'<path d="M{xs[0]:g} {y}H{xs[len(been) - 1]:g}" stroke="{theme.text}" stroke-width="2.5"/>'
    yield (
        f'<path d="M{xs[len(been) - 1]:g} {y}H{xs[-1]:g}" stroke="{theme.line}" stroke-width="1.5" '
        f'stroke-dasharray="2 5"/>'
    )
    ends = [*(at for _, at in been[1:]), snapshot.elapsed_s]
    for i, (word, x) in enumerate(zip(stops, xs, strict=True)):
        if i >= len(been):
            yield f'<circle cx="{x:g}" cy="{y}" r="7" fill="{ring}" stroke="{theme.line}" stroke-width="1.5"/>'
            yield line(word, x, y + 29, fill=theme.muted, anchor="middle")
            continue
        style, now = STATE_STYLES[word], i == len(been) - 1
        colour = theme.colour(style)
        if now:
            yield (
                f'<circle cx="{x:g}" cy="{y}" r="15" fill="none" stroke="{colour}" stroke-width="3" '
                f'stroke-opacity="0.4"/>'
            )
        yield f'<circle cx="{x:g}" cy="{y}" r="11" fill="{colour}" stroke="{ring}" stroke-width="1.5"/>'
        yield line(style.sign, x, y + 4.2, fill=theme.ink, anchor="middle", bold=True)
        yield line(word, x, y + 29, anchor="middle", bold=True)
        if not (now and over):
            yield line(seconds(ends[i] - been[i][1]), x, y - 19, size=11, fill=theme.muted, anchor="middle")


def _time_bar(snapshot: Snapshot, theme: Theme) -> Iterator[str]:
    """Draw where the job's time went: one piece for each state that it has been in."""
    whole, room = snapshot.elapsed_s, WIDTH - 2 * MARGIN
    yield f'<rect x="{MARGIN}" y="{_BAR_Y}" width="{room}" height="6" rx="3" fill="{theme.edge}"/>'
    ends = [*(at for _, at in snapshot.visited[1:]), whole]
    for (state, at), end in zip(snapshot.visited, ends, strict=False):
        share = room * (end - at) / whole if whole > 0 else 0
        if share >= 1:
            yield (
                f'<rect x="{MARGIN + room * at / whole:.1f}" y="{_BAR_Y}" width="{share:.1f}" height="6" '
                f'rx="{min(3, share / 2):g}" fill="{theme.colour(STATE_STYLES[state])}">'
                f"<title>{state}: {seconds(end - at)}</title></rect>"
            )


def _progress(flow: FlowSnapshot, top: float, theme: Theme, *, is_over: bool) -> Iterator[str]:
    """Draw how many records are done, at which rate, and when the rest will be."""
    y, done = top + 14, short_number(flow.records)
    of = f" of {short_number(flow.length)}" if flow.length is not None else ""
    words = f"{done}{of} records, {short_number(flow.per_s)}/s"
    if flow.remaining_s is not None and not is_over:
        words += f", {seconds(flow.remaining_s)} to go"
    room = WIDTH - 2 * MARGIN - 330
    share = min(1.0, flow.records / flow.length) if flow.length else (1.0 if is_over else 0.0)
    blue = theme.colour(STATE_STYLES[JobState.STARTING])
    yield line(words, MARGIN, y)
    yield f'<rect x="{MARGIN + 330}" y="{y - 9:g}" width="{room}" height="10" rx="5" fill="{theme.edge}"/>'
    if share * room >= 1:
        yield (
            f'<rect x="{MARGIN + 330}" y="{y - 9:g}" width="{share * room:.1f}" height="10" '
            f'rx="{min(5, share * room / 2):g}" fill="{blue}"><title>{share:.0%}</title></rect>'
        )
