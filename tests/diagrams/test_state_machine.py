"""The picture of a state machine: whole, readable, harmless, and the same as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autostop_lab.diagrams import STATE_STYLES, state_machine_svg
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, JobState, ServiceState
from tests.diagrams import golden, svg
from tests.diagrams.tables import TABLES, AnyTable

S, J = ServiceState, JobState


def words(picture: str) -> list[str]:
    return [text.words for text in svg.texts(svg.parse(picture))]


def bold(picture: str) -> Iterator[str]:
    return (text.words for text in svg.texts(svg.parse(picture)) if text.bold)


@pytest.mark.parametrize("table", TABLES)
def test_it_is_what_every_picture_has_to_be(table: AnyTable) -> None:
    assert svg.complaints(state_machine_svg(table)) == []
    for state in table.states:
        assert svg.complaints(state_machine_svg(table, current=state, visited=table.states)) == []


@pytest.mark.parametrize("table", TABLES)
def test_all_states_and_triggers_are_written_on_it(table: AnyTable) -> None:
    picture = state_machine_svg(table)

    assert {f"{STATE_STYLES[state].sign} {state}" for state in table.states} <= set(words(picture))
    written = {word for line in words(picture) for word in line.split(" / ")}
    assert {str(row.trigger) for row in table} <= written


@pytest.mark.parametrize("table", TABLES)
def test_the_tooltips_say_every_why(table: AnyTable) -> None:
    root = svg.parse(state_machine_svg(table))
    titles = " ".join(title.text or "" for title in root.iter(f"{svg.NAMESPACE}title"))

    assert [row.why for row in table if row.why not in titles] == []


def test_the_current_state_is_filled_and_white() -> None:
    root = svg.parse(state_machine_svg(SERVICE_TABLE, current=S.UNHEALTHY))

    white = [text.words for text in svg.texts(root) if text.fill == "#ffffff"]
    assert white == ["◐ unhealthy"]
    fills = [rect.get("fill") for rect in root.iter(f"{svg.NAMESPACE}rect")]
    assert fills.count(STATE_STYLES[S.UNHEALTHY].colour) == 1


def test_without_a_current_state_nothing_is_lit() -> None:
    picture = state_machine_svg(SERVICE_TABLE, title="Services")

    assert list(bold(picture)) == ["Services"]
    assert "#ffffff" not in {text.fill for text in svg.texts(svg.parse(picture))}


def test_visited_states_and_the_moves_between_them_are_bold() -> None:
    picture = state_machine_svg(
        SERVICE_TABLE, current=S.RUNNING, visited=[S.STOPPED, S.STARTING, S.BACKOFF, S.STARTING]
    )

    states = {"■ stopped", "◔ starting", "↻ backoff", "● running"}
    assert set(bold(picture)) == {"Lifecycle", *states, "start", "died, retry", "retry", "ready"}


def test_the_current_state_may_be_the_last_visited_one() -> None:
    before = [S.STOPPED, S.STARTING]

    with_it = state_machine_svg(SERVICE_TABLE, current=S.RUNNING, visited=[*before, S.RUNNING])
    without_it = state_machine_svg(SERVICE_TABLE, current=S.RUNNING, visited=before)

    assert list(bold(with_it)) == list(bold(without_it))


def test_a_move_out_of_a_frame_is_bold_for_any_state_inside() -> None:
    for state in (S.STARTING, S.RUNNING, S.UNHEALTHY, S.WAITING):
        assert "stop" in bold(state_machine_svg(SERVICE_TABLE, current=S.STOPPING, visited=[state]))


@pytest.mark.parametrize(
    "title", ["<script>alert(1)</script>", "a\x1b[31m\x00&\"'", "x" * 500, "世" * 90, ""]
)
def test_a_title_from_outside_does_no_harm(title: str) -> None:
    picture = state_machine_svg(JOB_TABLE, title=title)

    assert svg.complaints(picture) == []
    assert "<script" not in picture


def test_a_screen_reader_is_told_where_it_is_and_has_been() -> None:
    visited = [J.PENDING, J.STARTING]
    root = svg.parse(state_machine_svg(JOB_TABLE, current=J.RUNNING, visited=visited, title="Job a"))

    assert root.attrib["aria-label"] == "Job a: 9 states. It is running now. It has been: pending, starting."


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("service_states.svg", state_machine_svg(SERVICE_TABLE, title="The life of a service")),
        ("job_states.svg", state_machine_svg(JOB_TABLE, title="The life of a job")),
        (
            "service_running.svg",
            state_machine_svg(
                SERVICE_TABLE,
                current=S.RUNNING,
                visited=[S.STOPPED, S.STARTING, S.BACKOFF, S.STARTING],
                title="store",
            ),
        ),
        (
            "job_cancelled.svg",
            state_machine_svg(
                JOB_TABLE,
                current=J.CANCELLED,
                visited=[J.PENDING, J.STARTING, J.RUNNING, J.CANCELLING, J.CLEANING_UP],
                title="wordcount",
            ),
        ),
    ],
)
def test_golden(name: str, picture: str) -> None:
    golden.check(name, picture)
