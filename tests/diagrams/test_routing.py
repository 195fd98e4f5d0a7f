"""Lines and words of a picture keep out of each other's way."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest

from autostop_lab.diagrams.graph import plan_of
from autostop_lab.diagrams.routing import Box, Way, drawing_of, wrap
from tests.diagrams.tables import TABLES, AnyTable

pytestmark = pytest.mark.parametrize("table", TABLES)


def runs(way: Way) -> Iterator[Box]:
    """Yield the straight pieces of a line, as thin boxes."""
    for (x0, y0), (x1, y1) in pairwise(way.corners):
        yield Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)).grown(0.5)


def on_border(point: tuple[float, float], box: Box) -> bool:
    x, y = point
    return box.grown(0.1).meets(Box(x, y, x, y).grown(0.05)) and not box.grown(-0.1).meets(
        Box(x, y, x, y).grown(0.05)
    )


def test_states_are_apart(table: AnyTable) -> None:
    for a, b in combinations(drawing_of(table).states.values(), 2):
        assert not a.grown(10).meets(b.grown(10))


def test_a_frame_holds_its_states_and_no_other(table: AnyTable) -> None:
    drawing = drawing_of(table)
    for frame, box in zip(plan_of(table).frames, drawing.frames, strict=True):
        inside = {state for state, place in drawing.states.items() if box.meets(place)}
        assert inside == frame.members


def test_everything_is_on_the_page(table: AnyTable) -> None:
    drawing = drawing_of(table)
    for box in (
        *drawing.states.values(),
        *drawing.frames,
        *(way.label_box for way in drawing.ways),
        *(run for way in drawing.ways for run in runs(way)),
    ):
        assert box.left > 0
        assert box.top > 0
        assert box.right < drawing.width
        assert box.bottom < drawing.height


def test_a_line_goes_from_border_to_border(table: AnyTable) -> None:
    drawing = drawing_of(table)
    frames = dict(zip((frame.name for frame in plan_of(table).frames), drawing.frames, strict=True))
    for way in drawing.ways:
        assert on_border(way.corners[0], {**drawing.states, **frames}[way.arrow.source])
        assert on_border(way.corners[-1], drawing.states[way.arrow.target])


def test_a_line_is_straight_between_corners(table: AnyTable) -> None:
    for way in drawing_of(table).ways:
        assert all((x0 == x1) != (y0 == y1) for (x0, y0), (x1, y1) in pairwise(way.corners))


def test_no_line_runs_through_a_state(table: AnyTable) -> None:
    drawing = drawing_of(table)
    for way in drawing.ways:
        for state, box in drawing.states.items():
            crossed = [run for run in runs(way) if run.meets(box.grown(-1))]
            assert not crossed, f"{way.arrow.source} to {way.arrow.target} runs through {state}"


def test_no_two_lines_lie_on_each_other(table: AnyTable) -> None:
    for a, b in combinations(drawing_of(table).ways, 2):
        for one in runs(a):
            for other in runs(b):
                shared = min(one.right, other.right) - max(one.left, other.left)
                beside = min(one.bottom, other.bottom) - max(one.top, other.top)
                assert min(shared, beside) <= 0 or max(shared, beside) <= 1, "they may only cross"


def test_words_stand_on_their_own_line(table: AnyTable) -> None:
    for way in drawing_of(table).ways:
        run = list(runs(way))[way.label_run]
        box = way.label_box
        assert run.meets(box)
        # It is written in a gap of the line, of which something is left on both sides.
        assert run.left < box.left or run.top < box.top
        assert run.right > box.right or run.bottom > box.bottom


def test_words_are_clear_of_other_words_states_and_lines(table: AnyTable) -> None:
    drawing = drawing_of(table)
    for way in drawing.ways:
        hidden: list[object] = [state for state, box in drawing.states.items() if box.meets(way.label_box)]
        for other in drawing.ways:
            if other is not way:
                hidden += [other.label] * other.label_box.meets(way.label_box)
                hidden += [other.arrow for run in runs(other) if run.meets(way.label_box)]
        assert hidden == [], f"{way.label} lies on {hidden}"
        assert not drawing.initial.meets(way.label_box)


def test_the_same_table_gives_the_same_picture(table: AnyTable) -> None:
    assert drawing_of.__wrapped__(table) == drawing_of(table)


def test_all_triggers_are_in_the_words(table: AnyTable) -> None:
    for way in drawing_of(table).ways:
        assert " / ".join(way.label) == " / ".join(way.arrow.triggers)


def test_short_words_share_a_line_and_long_ones_do_not(table: AnyTable) -> None:
    assert wrap(["stop", "kill"]) == ("stop / kill",)
    assert wrap(["services ready", "start failed"]) == ("services ready", "start failed")
