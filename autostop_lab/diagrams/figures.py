"""Figures for print and papers, by matplotlib: a timeline, and a job's record rates, calls and states over time.

Made with `matplotlib.figure.Figure` and never with pyplot, whose figures belong to the thread and cell that happen to
run. A notebook shows what is returned; ``figure.savefig("job.pdf")`` stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from autostop_lab.diagrams.snapshot import Snapshot
from autostop_lab.diagrams.styles import STATE_STYLES
from autostop_lab.diagrams.text import fit, short_number
from autostop_lab.lifecycle import SERVICE_TABLE, ServiceState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_INCHES, _WIDTH_INCHES = 0.32, 9.0
_HIDDEN = SERVICE_TABLE.at_rest - {ServiceState.CRASHED}


def timeline_figure(snapshot: Snapshot) -> Figure:
    """Draw when job and services were in which state.

    Parameters
    ----------
    snapshot : Snapshot
        The job.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    rows = len(snapshot.services) + 1
    figure = _figure(_ROW_INCHES * rows + 1.3)
    _draw_states(figure.subplots(), snapshot)
    return figure


class CallTimes(NamedTuple):
    """How long the calls of one method took, in seconds: half of them, all but a twentieth, and all of them."""

    name: str
    median_s: float
    p95_s: float
    longest_s: float


def job_figure(snapshot: Snapshot, rates: Sequence[tuple[str, float]], calls: Sequence[CallTimes]) -> Figure:
    """Draw how fast records passed the operators, how long calls took, and the states of services over time.

    Parameters
    ----------
    snapshot : Snapshot
        The job.
    rates : sequence of (str, float)
        Operators, and the records that each took in a second.
    calls : sequence of CallTimes
        Methods of services.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; a part of which nothing is known says so.
    """
    parts = [_ROW_INCHES * max(2, count) + 0.9 for count in (len(rates), len(calls), len(snapshot.services) + 1)]
    figure = _figure(sum(parts))
    above, middle, below = figure.subplots(3, 1, height_ratios=parts)
    _draw_rates(above, rates)
    _draw_calls(middle, calls)
    _draw_states(below, snapshot)
    below.set_title(_plain(f"states of {snapshot.name}", 60), loc="left", fontsize=10)
    return figure


def _figure(height_inches: float) -> Figure:
    from matplotlib.figure import Figure  # not with this module: it takes a second, and few want a figure

    return Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")


def _say(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="#59636e")
    axes.set_yticks([])


def _draw_rates(axes: Any, rates: Sequence[tuple[str, float]]) -> None:
    axes.set_title("records a second, on average", loc="left", fontsize=10)
    if not rates:
        _say(axes, "no records were counted")
        return
    bars = axes.barh(range(len(rates)), [rate for _, rate in rates], height=0.6, color="#166dc9")
    axes.bar_label(bars, labels=[f"{short_number(rate)}/s" for _, rate in rates], padding=3, fontsize=8)
    axes.set_yticks(range(len(rates)), [_plain(name) for name, _ in rates])
    axes.margins(x=0.12)
    axes.invert_yaxis()


def _draw_calls(axes: Any, calls: Sequence[CallTimes]) -> None:
    axes.set_title("calls of services, in ms: half are faster than ●, 95 % than |, all than ▸", loc="left", fontsize=10)
    if not calls:
        _say(axes, "no calls were measured")
        return
    rows = range(len(calls))
    longest = [max(1e-3, 1000 * call.longest_s) for call in calls]
    median = [max(1e-3, 1000 * call.median_s) for call in calls]
    axes.hlines(rows, median, longest, color="#818b98", linewidth=1.2)
    axes.plot(median, rows, "o", color="#0e7d54")
    axes.plot([max(1e-3, 1000 * call.p95_s) for call in calls], rows, "|", color="#b94a05", markersize=12)
    axes.plot(longest, rows, ">", color="#cf2d22", markersize=5)
    axes.set_xscale("log")
    axes.set_yticks(rows, [_plain(call.name) for call in calls])
    axes.margins(y=0.25)
    axes.invert_yaxis()


def _draw_states(axes: Any, snapshot: Snapshot) -> None:
    rows = [("job", tuple(snapshot.visited)), *((one.name, one.moves) for one in snapshot.services)]
    whole = max(snapshot.elapsed_s, 0.1)
    used: dict[str, str] = {}
    for number, (_, steps) in enumerate(rows):
        ends = [*(at for _, at in steps[1:]), whole][: len(steps)]
        for (state, at), end in zip(steps, ends, strict=True):
            if state not in _HIDDEN and end > at:
                colour = STATE_STYLES[state].colour
                used.setdefault(str(state), colour)
                axes.barh(number, end - max(0.0, at), left=max(0.0, at), height=0.6, color=colour, edgecolor="white")
                if (end - at) / whole > 0.09:
                    axes.text((at + end) / 2, number, str(state), ha="center", va="center", color="white", fontsize=7)
    axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, whole)
    axes.set_xlabel("seconds")
    if used:
        from matplotlib.patches import Patch  # as above

        handles = [Patch(color=colour, label=f"{STATE_STYLES[state].sign} {state}") for state, colour in used.items()]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _plain(name: str, room: int = 30) -> str:
    """Return a name that fits, and that matplotlib does not take for mathematics."""
    return fit(name, 10, 8 * room).replace("$", r"\$")
