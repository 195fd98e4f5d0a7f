"""Fleet, timeline, dataflow and head: each part of a picture for itself, on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab.diagrams import (
    DARK,
    LIGHT,
    PAGE,
    STATE_STYLES,
    FlowNode,
    FlowSnapshot,
    Move,
    ServiceSnapshot,
    Snapshot,
    Theme,
    fleet_svg,
    flow_svg,
    header_svg,
    lifecycle_svg,
    story,
    timeline_svg,
)
from autostop_lab.diagrams.flow import places
from autostop_lab.lifecycle import JobState, ServiceState
from tests.diagrams import golden, svg
from tests.diagrams.pictures import FLOW, FULL, KEPT, LIVE, MOMENTS, OVER, service

S, J = ServiceState, JobState
Draw = Callable[..., str]

PARTS: dict[str, Draw] = {
    "lifecycle": lifecycle_svg,
    "header": header_svg,
    "fleet": lambda snapshot, theme: fleet_svg(snapshot.services, theme=theme, selected=snapshot.services[0].name),
    "timeline": timeline_svg,
    "flow": lambda snapshot, theme: flow_svg(snapshot.flow or FLOW, theme=theme),
}
each_part = pytest.mark.parametrize("part", PARTS)


def words(picture: str) -> list[str]:
    return [text.words for text in svg.texts(svg.parse(picture))]


@pytest.mark.parametrize("theme", [LIGHT, DARK, PAGE], ids=["light", "dark", "page"])
@pytest.mark.parametrize("moment", MOMENTS)
@each_part
def test_it_is_what_every_picture_has_to_be(part: str, moment: str, theme: Theme) -> None:
    """Nothing overlaps or leaves the page, also with 30 services whose names have 40 characters."""
    assert svg.complaints(PARTS[part](MOMENTS[moment], theme=theme)) == []


@pytest.mark.parametrize("part", ["fleet", "timeline"])
def test_thirty_names_of_forty_characters_are_whole(part: str) -> None:
    assert {one.name for one in FULL.services} <= set(words(PARTS[part](FULL, theme=LIGHT)))


@each_part
@pytest.mark.parametrize("moment", ["live", "over"])
def test_golden(part: str, moment: str) -> None:
    golden.check(f"{part}_{moment}.svg", PARTS[part](MOMENTS[moment], theme=LIGHT))


@pytest.mark.parametrize("theme", [DARK, PAGE], ids=["dark", "page"])
def test_golden_of_the_other_themes(theme: Theme) -> None:
    golden.check(f"lifecycle_live_{'dark' if theme.is_dark else 'page'}.svg", lifecycle_svg(LIVE, theme=theme))


# -- the story ---------------------------------------------------------------------------------------------


def test_the_story_of_a_job_that_runs_says_what_is_wrong_and_what_comes() -> None:
    assert story(LIVE) == (
        "2 of 3 services up; embedder unhealthy (no answer within 5 s); feed backoff, next try in 1.6 s (exit code 1)"
    )


def test_the_story_of_an_end_says_what_did_not_end_well() -> None:
    assert story(OVER) == (
        "1 of 3 services stopped and clean; embedder killed (signal 9); feed exited (ended by itself with exit code 1)"
    )


def test_the_story_of_a_stop_says_who_is_being_stopped() -> None:
    going = Snapshot(
        name="a",
        id="b",
        state=J.CLEANING_UP,
        services=tuple(
            service(name, (state, 1.0))
            for name, state in (("one", S.STOPPING), ("two", S.KILLING), ("three", S.RUNNING))
        ),
    )

    assert story(going) == "1 of 3 services up; stopping: one, two"


# -- the fleet ---------------------------------------------------------------------------------------------


def test_a_row_has_everything_that_is_known_of_a_service() -> None:
    written = words(fleet_svg(LIVE.services))

    for expected in ("↻ backoff", "0.4 s", "1", "in 1.6 s", "! failing", "1.2 GB", "98 %", "exit code 1"):
        assert expected in written


def test_what_is_not_known_is_left_out() -> None:
    written = words(fleet_svg((ServiceSnapshot(name="store", kind="Store", state=S.RUNNING, since_s=1.0),)))

    assert written[written.index("store") :] == ["store", "● running", "1.0 s"]


def test_the_chosen_row_stands_out_and_only_that() -> None:
    for theme in (LIGHT, DARK, PAGE):
        plain, chosen = (fleet_svg(LIVE.services, theme=theme, selected=name) for name in ("", "store"))
        assert (plain.count(theme.frame), chosen.count(theme.frame)) == (0, 1)


def test_a_bar_marks_what_is_in_trouble() -> None:
    def bars(one: ServiceSnapshot) -> int:
        root = svg.parse(fleet_svg((one,)))
        return sum(1 for rect in root.iter(f"{svg.NAMESPACE}rect") if rect.get("width") == "4")

    well, ill = service("one", (S.RUNNING, 0.0)), service("one", (S.UNHEALTHY, 0.0))
    killed = service("one", (S.STOPPED, 0.0), outcome="killed")

    assert [bars(one) for one in (well, ill, killed)] == [0, 1, 1]


# -- the timeline ------------------------------------------------------------------------------------------


def tooltips(picture: str) -> list[str]:
    return [title.text or "" for title in svg.parse(picture).iter(f"{svg.NAMESPACE}title")][1:]


def test_each_state_has_a_bar_and_each_stop_its_grace_period() -> None:
    said = tooltips(timeline_svg(OVER))

    for expected in ("running: 57.8 s", "cancelling: 2.0 s", "stopping: 3.0 s", "killing: 1.0 s"):
        assert expected in said
    assert [one for one in said if one.startswith("grace")] == [
        "grace period: 5.0 s",  # of the job's code
        "grace period: 10.0 s",
        "grace period: 3.0 s",
    ]


def test_bars_are_as_long_as_their_states_lasted() -> None:
    root = svg.parse(timeline_svg(OVER))
    wide = {
        rect[0].text: float(rect.attrib["width"]) + 0.6 for rect in root.iter(f"{svg.NAMESPACE}rect") if len(rect) == 1
    }

    assert wide["running: 57.8 s"] == pytest.approx(wide["cancelling: 2.0 s"] * 57.8 / 2, rel=0.05)


def test_while_a_grace_period_runs_the_axis_reaches_to_its_end() -> None:
    going = Snapshot(
        name="a",
        id="b",
        state=J.CLEANING_UP,
        elapsed_s=6.0,
        visited=((J.RUNNING, 0.0), (J.CLEANING_UP, 5.0)),
        services=(service("one", (S.RUNNING, 0.0), (S.STOPPING, 5.0), grace_s=5.0),),
    )

    assert "10 s" in words(timeline_svg(going))


@pytest.mark.parametrize(("whole", "last"), [(0.05, "0.10 s"), (1.0, "1.0 s"), (59.0, "50 s"), (4000.0, "60 min")])
def test_the_axis_has_round_marks(whole: float, last: str) -> None:
    drawn = timeline_svg(Snapshot(name="a", id="b", state=J.RUNNING, elapsed_s=whole, visited=((J.RUNNING, 0.0),)))
    marks = [word for word in words(drawn) if word[0].isdigit()]

    assert marks[-1] == last
    assert 3 <= len(marks) <= 10


def test_a_hundred_thousand_moves_make_no_larger_picture_than_can_be_seen() -> None:
    moves = tuple(Move((S.STARTING, S.RUNNING)[i % 2], i / 1000) for i in range(100_000))
    busy = ServiceSnapshot(name="busy", kind="Store", state=S.RUNNING, moves=moves)
    drawn = timeline_svg(Snapshot(name="a", id="b", state=J.RUNNING, elapsed_s=100.0, services=(busy,)))

    assert len(drawn) < 20_000


# -- the dataflow ------------------------------------------------------------------------------------------


def test_operators_stand_behind_their_inputs_and_none_on_another() -> None:
    found = places(FLOW.nodes)

    assert len(set(found)) == len(FLOW.nodes)
    for node, (column, _) in zip(FLOW.nodes, found, strict=True):
        assert all(found[source][0] < column for source in node.inputs)


def test_edges_have_records_and_rate() -> None:
    written = words(flow_svg(FLOW))

    for expected in ("402,331", "40,100/s", "sink, 401,002", "✗ 2 failed"):
        assert expected in written


def test_the_head_says_how_far_it_is() -> None:
    assert "12,345 of 50,000 records, 1,240/s, 30.4 s to go" in words(header_svg(LIVE))


# -- words from outside ------------------------------------------------------------------------------------

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\x00b\x1b[31mred\x1b[0m\x07",
    "x" * 10_000,
    "שלום עולם \u202egnp.exe\u202c",
    "مرحبا",
    "]]><!-- & %s {0} ${HOME}",
    "\ud800 lonely",
]
ANYTHING = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=60))


@given(name=ANYTHING, detail=ANYTHING, health=ANYTHING)
def test_words_from_outside_do_no_harm_anywhere(name: str, detail: str, health: str) -> None:
    one = service(name, (S.STARTING, 0.0), (S.CRASHED, 1.0), detail=detail, health=health)
    flow = FlowSnapshot(nodes=(FlowNode(name=name, kind=detail), FlowNode(name=detail, kind=name, inputs=(0,))))
    snapshot = Snapshot(name=name, id=detail, state=J.FAILED, reason=detail, error=name, services=(one, one), flow=flow)

    for draw in PARTS.values():
        picture = draw(snapshot, theme=LIGHT)
        assert svg.complaints(picture) == []
        assert "<script" not in picture
        assert "onerror=alert" not in picture.replace("onerror=alert(1)&gt;", "")
        assert len(picture) < 60_000


def test_every_state_has_its_sign_on_the_timeline_where_there_is_room() -> None:
    moves = [(state, 10.0 * at) for at, state in enumerate(S) if state is not S.STOPPED]
    drawn = timeline_svg(Snapshot(name="a", id="b", state=J.RUNNING, elapsed_s=100.0, services=(service("a", *moves),)))

    for state, _ in moves:
        assert any(word.startswith(STATE_STYLES[state].sign) for word in words(drawn)), state


def test_an_environment_without_a_job_has_no_stations() -> None:
    written = words(lifecycle_svg(KEPT))

    assert "1 of 1 service up" in written
    assert not set(J) - set(S) & set(written)
