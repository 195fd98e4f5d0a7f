"""The timeline: a bar for each state of the job and of each service, on one axis of time.

A frame behind a bar is a grace period: how long the stop may take. The bar that leaves it was late.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import floor, log10

from autostop_lab.diagrams.shapes import MARGIN, WIDTH, Column, Drawing, cell, line
from autostop_lab.diagrams.snapshot import Snapshot
from autostop_lab.diagrams.styles import STATE_STYLES, Theme
from autostop_lab.diagrams.text import seconds, width
from autostop_lab.lifecycle import SERVICE_TABLE, JobState, ServiceState

ROW = 22
_HEAD, _LEFT = 26, 350
_ROOM = WIDTH - MARGIN - _LEFT
_NAME = Column(MARGIN + 8, 308)
_AT_REST = SERVICE_TABLE.at_rest
# Of a row with more steps than so many, those that would be shorter than so many pixels are left out.
_MANY, _SHORTEST = 30, 12

Steps = tuple[tuple[str, float], ...]


def timeline(snapshot: Snapshot, theme: Theme) -> Drawing:
    """Draw the timeline of a job and its services, or of the services of an environment."""
    now_s = max(snapshot.elapsed_s, *(one.moves[-1].at_s for one in snapshot.services if one.moves), 0.1)
    whole = max(now_s, _latest_grace(snapshot))
    rows: list[tuple[str, Steps, float | None, bool]] = []
    if snapshot.visited:
        rows.append(("job", tuple(snapshot.visited), snapshot.grace_s, True))
    rows += [(one.name, one.moves, one.grace_s, False) for one in snapshot.services]
    height = _HEAD + ROW * len(rows) + 8
    out = [*_axis(whole, height - 8, theme)]
    for number, (name, steps, grace_s, is_job) in enumerate(rows):
        top = _HEAD + ROW * number
        if len(steps) > _MANY:
            steps = merged(steps, whole * _SHORTEST / _ROOM)
        out.append(cell(name, _NAME, top + 15, bold=is_job))
        out += _bars(steps, now_s, whole, top, grace_s, theme)
    return Drawing(height, "".join(out))


def _latest_grace(snapshot: Snapshot) -> float:
    """Return when the last grace period that runs now will be over."""
    ends = [
        one.moves[-1].at_s + one.grace_s
        for one in snapshot.services
        if one.moves and one.grace_s is not None and one.state is ServiceState.STOPPING
    ]
    return min(max(ends, default=0.0), 2 * snapshot.elapsed_s)


def _step(whole: float) -> float:
    """Return the distance of the marks on the axis: 1, 2 or 5 times a power of ten, or whole minutes."""
    rough = whole / 6
    if rough > 30:
        return next((step for step in (60, 120, 300, 600, 1800, 3600, 7200, 21600) if step >= rough), 86400)
    power: float = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _axis(whole: float, bottom: float, theme: Theme) -> Iterator[str]:
    step = _step(whole)
    digits = max(0, -floor(log10(step)))
    for number in range(int(whole / step) + 1):
        at = number * step
        x = _LEFT + _ROOM * at / whole
        label = f"{at:.{digits}f} s" if step < 60 else f"{at / 60:g} min"
        yield f'<path d="M{x:.1f} {_HEAD - 4}V{bottom:g}" stroke="{theme.edge}" stroke-width="0.7"/>'
        if x + width(label, 10) / 2 < WIDTH - 4:
            yield line(label, round(x, 1), 16, size=10, fill=theme.muted, anchor="middle")


def _bars(
    steps: Steps, now_s: float, whole: float, top: float, grace_s: float | None, theme: Theme
) -> Iterator[str]:
    """Draw the states of one row; what is narrower than a pixel is not drawn, nor what is at rest."""
    scale = _ROOM / whole
    ends = [*(at for _, at in steps[1:]), now_s][: len(steps)]
    for (state, at), end in zip(steps, ends, strict=True):
        left, wide = max(0.0, at) * scale, (end - max(0.0, at)) * scale
        if state in (ServiceState.STOPPING, JobState.CANCELLING) and grace_s is not None and at >= 0 and wide >= 1:
            room = min(grace_s, whole - at) * scale
            if room >= 1:
                yield (
                    f'<rect x="{_LEFT + left:.1f}" y="{top + 1.5:g}" width="{room:.1f}" height="{ROW - 4}" rx="3" '
                    f'fill="none" stroke="{theme.colour(STATE_STYLES[state])}" stroke-dasharray="3 2">'
                    f"<title>grace period: {seconds(grace_s)}</title></rect>"
                )
        if state in _AT_REST and state not in (ServiceState.CRASHED, ServiceState.ABANDONED):
            continue
        if wide < 1:
            continue
        yield from _bar(state, _LEFT + left, wide, top, end - at, theme)


def _bar(state: str, x: float, wide: float, top: float, took_s: float, theme: Theme) -> Iterator[str]:
    style = STATE_STYLES[state]
    rx = min(3.0, wide / 2)
    yield (
        f'<rect x="{x:.1f}" y="{top + 4:g}" width="{max(wide - 0.6, 0.8):.1f}" height="{ROW - 9}" rx="{rx:g}" '
        f'fill="{theme.colour(style)}"><title>{state}: {seconds(took_s)}</title></rect>'
    )
    words = f"{style.sign} {state}"
    if wide < width(words, 10) + 8:
        words = style.sign
    if wide >= width(words, 10) + 4:
        yield line(words, round(x + wide / 2, 1), top + 14.5, size=10, fill=theme.ink, anchor="middle")


def merged(steps: Steps, shortest_s: float) -> Steps:
    """Leave out states that did not last `shortest_s`, but never the last one.

    Parameters
    ----------
    steps : tuple of (state, seconds)
        The way, the oldest first.
    shortest_s : float
        What is too short to be seen.
    """
    kept = [step for step, after in pairwise(steps) if after[1] - step[1] >= shortest_s]
    return (*kept, *steps[-1:])
