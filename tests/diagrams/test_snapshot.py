"""The picture of a job: its way, its services, whatever they are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab.diagrams import OUTCOME_STYLES, ServiceSnapshot, Snapshot, lifecycle_svg
from autostop_lab.lifecycle import JobState, ServiceState
from tests.diagrams import golden, svg

S, J = ServiceState, JobState

RUNNING = Snapshot(
    name="wordcount",
    id="j-7f3a91",
    state=J.RUNNING,
    elapsed_s=12.4,
    visited=((J.PENDING, 0), (J.STARTING, 0.1), (J.RUNNING, 2.2)),
    services=(
        ServiceSnapshot(name="store", kind="Redis", state=S.RUNNING, since_s=11.3, detail="127.0.0.1:41873"),
        ServiceSnapshot(name="embedder", kind="Embedder", state=S.UNHEALTHY, since_s=2.3, detail="no answer"),
        ServiceSnapshot(name="feed", kind="Command", state=S.BACKOFF, since_s=0.4, detail="restart 2 of 3"),
    ),
)
OVER = Snapshot(
    name="wordcount",
    id="j-7f3a92",
    state=J.FAILED,
    reason="it took longer than 60 s",
    elapsed_s=66.2,
    visited=(
        (J.PENDING, 0),
        (J.STARTING, 0.1),
        (J.RUNNING, 2.2),
        (J.CANCELLING, 60),
        (J.CLEANING_UP, 65),
        (J.FAILED, 66.2),
    ),
    services=tuple(
        ServiceSnapshot(name=f"service-{outcome}", kind="Service", state=state, since_s=1.2, outcome=outcome)
        for outcome, state in {
            "stopped": S.STOPPED,
            "exited": S.CRASHED,
            "failed": S.STOPPED,
            "killed": S.STOPPED,
            "abandoned": S.ABANDONED,
            "kept": S.RUNNING,
        }.items()
    ),
)
FULL = Snapshot(
    name="a-name-of-forty-characters-for-this-job-x",
    id="j-1",
    state=J.RUNNING,
    elapsed_s=7000,
    visited=((J.PENDING, 0), (J.STARTING, 1), (J.RUNNING, 60)),
    services=tuple(
        ServiceSnapshot(
            name=f"service-number-{i:02d}-with-forty-characters-x",
            kind="EmbeddingServer",
            state=list(S)[i % len(S)],
            since_s=6000 + i,
            outcome=list(OUTCOME_STYLES)[i % len(OUTCOME_STYLES)],
            detail="the health check failed: it was answered by something else",
        )
        for i in range(30)
    ),
)


def words(snapshot: Snapshot) -> list[str]:
    return [text.words for text in svg.texts(svg.parse(lifecycle_svg(snapshot)))]


@pytest.mark.parametrize("snapshot", [RUNNING, OVER, FULL], ids=["running", "over", "full"])
def test_it_is_what_every_picture_has_to_be(snapshot: Snapshot) -> None:
    assert svg.complaints(lifecycle_svg(snapshot)) == []


@pytest.mark.parametrize("state", JobState)
def test_every_state_of_a_job_can_be_drawn_without_a_history(state: JobState) -> None:
    picture = lifecycle_svg(Snapshot(name="new", id="j-1", state=state))

    assert svg.complaints(picture) == []
    assert "no services" in picture


def test_the_header_has_name_state_time_id_and_reason() -> None:
    written = words(OVER)

    assert written[0] == "wordcount"
    assert written[1] == "j-7f3a92 · it took longer than 60 s"
    assert written[2].startswith("1 of 6 services stopped and clean; service-exited exited")
    assert written[3:5] == ["1 min 06 s", "✗ failed"]


def test_every_service_has_a_row_with_all_its_words() -> None:
    written = words(RUNNING)

    for expected in ("store", "● running", "11.3 s", "127.0.0.1:41873", "◐ unhealthy", "↻ backoff"):
        assert expected in written


def test_names_of_forty_characters_are_whole() -> None:
    written = words(FULL)

    assert FULL.name in written
    assert {service.name for service in FULL.services} <= set(written)


def test_outcomes_are_shown_with_their_signs() -> None:
    written = words(OVER)

    assert [f"{style.sign} {outcome}" in written for outcome, style in OUTCOME_STYLES.items()] == [True] * 6


def test_the_strip_says_how_long_each_state_took() -> None:
    written = words(OVER)
    strip = written[5 : written.index("SERVICE")]

    assert [word for word in strip if word in set(J)] == [state for state, _ in OVER.visited]
    assert [word for word in strip if word.endswith(" s")] == ["0.1 s", "2.1 s", "57.8 s", "5.0 s", "1.2 s"]


def test_the_strip_shows_what_usually_follows_while_the_job_lives() -> None:
    written = words(RUNNING)

    assert written[4 : written.index("SERVICE")][-2:] == ["cleaning_up", "end"]
    assert "end" not in words(OVER)


def test_the_bar_shares_the_time_out() -> None:
    root = svg.parse(lifecycle_svg(OVER))
    pieces = {
        rect[0].text: float(rect.attrib["width"])
        for rect in root.iter(f"{svg.NAMESPACE}rect")
        if len(rect) == 1
    }

    assert " ".join(map(str, pieces)) == (
        "pending: 0.1 s starting: 2.1 s running: 57.8 s cancelling: 5.0 s cleaning_up: 1.2 s"
    )
    assert pieces["running: 57.8 s"] == pytest.approx(pieces["cancelling: 5.0 s"] * 57.8 / 5, rel=0.01)


def test_a_long_detail_is_shortened_and_whole_in_its_tooltip() -> None:
    picture = lifecycle_svg(FULL)

    assert "<title>the health check failed: it was answered by something else</title>" in picture
    assert not any(word.endswith("something else") for word in words(FULL))


def test_a_screen_reader_is_told_everything() -> None:
    root = svg.parse(lifecycle_svg(OVER))

    assert root.attrib["aria-label"] == "Job wordcount: failed, 1 min 06 s"
    said = root[1].text or ""
    assert said.startswith("it took longer than 60 s. Services: service-stopped stopped, stopped; ")
    assert "service-abandoned abandoned, abandoned" in said


def test_an_unknown_outcome_is_shown_as_it_is() -> None:
    service = ServiceSnapshot(name="store", kind="Redis", state=S.STOPPED, outcome="lost")

    assert "· lost" in words(Snapshot(name="a", id="b", state=J.FAILED, services=(service,)))


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=80)


@given(name=ANYTHING, kind=ANYTHING, reason=ANYTHING, outcome=ANYTHING, detail=ANYTHING)
def test_words_from_outside_do_no_harm(name: str, kind: str, reason: str, outcome: str, detail: str) -> None:
    service = ServiceSnapshot(name=name, kind=kind, state=S.RUNNING, outcome=outcome, detail=detail)
    snapshot = Snapshot(name=name, id=kind, state=J.RUNNING, reason=reason, services=(service, service))

    assert svg.complaints(lifecycle_svg(snapshot)) == []


def test_times_that_make_no_sense_are_no_error() -> None:
    back = Snapshot(name="a", id="b", state=J.RUNNING, elapsed_s=0, visited=((J.PENDING, 5), (J.RUNNING, 1)))

    assert svg.complaints(lifecycle_svg(back)) == []


@pytest.mark.parametrize(
    ("name", "snapshot"), [("lifecycle_running.svg", RUNNING), ("lifecycle_failed.svg", OVER)]
)
def test_golden(name: str, snapshot: Snapshot) -> None:
    golden.check(name, lifecycle_svg(snapshot))
