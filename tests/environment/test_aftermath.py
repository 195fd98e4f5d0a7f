"""What is said of sessions that did not end by themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from autostop_lab.environment.aftermath import describe_death, describe_guard, describe_session, news
from autostop_lab.reaper.deaths import Death, ServiceEnd, record
from autostop_lab.reaper.folders import root_in
from autostop_lab.reaper.guard import GuardState, GuardStatus
from autostop_lab.reaper.place import current_place
from autostop_lab.reaper.sweep import SessionSeen


def death(**changes: object) -> Death:
    usual: dict[str, object] = {
        "session_id": "session-1",
        "owner_pid": 4312,
        "place": "a/b.ipynb",
        "why": "ended without closing",
        "died_at": time.time() - 1.0,
        "cleaned_at": time.time(),
        "services": (
            ServiceEnd(name="store", pid=1001, outcome="stopped", seconds=0.2),
            ServiceEnd(name="feed", pid=1002, outcome="killed", seconds=0.9),
        ),
    }
    return Death(**{**usual, **changes})  # type: ignore[arg-type]


def test_a_death_is_told_with_place_reason_and_each_service() -> None:
    text = describe_death(death())

    assert "process 4312 of a/b.ipynb ended without closing." in text
    assert text.endswith("Cleaned within 1.0 s: store stopped, feed killed.")


def test_strays_are_counted_by_what_became_of_them() -> None:
    strays = tuple(ServiceEnd(name="sleep", pid=pid, outcome="killed", seconds=0.1) for pid in (5, 6))
    text = describe_death(death(services=(), strays=strays))

    assert text.endswith("2 stray processes killed.")


def test_problems_have_a_line_each() -> None:
    text = describe_death(death(services=(), problems=("this went wrong", "and that")))

    assert text.splitlines()[1:] == ["    this went wrong", "    and that"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (SessionSeen(session_id="s", owner_pid=7, is_alive=True), "process 7 lives; services: none"),
        (SessionSeen(session_id="s", owner_pid=7, is_being_cleaned=True), "its reaper is cleaning"),
        (SessionSeen(session_id="s", owner_pid=7), "`autostop-lab sweep` or the next session cleans it"),
        (SessionSeen(session_id="s"), "it has no journal"),
        (SessionSeen(session_id="s", problem="it is a symlink"), "nothing is done about it: it is a symlink"),
    ],
)
def test_a_session_is_told_by_who_owns_it_and_how_that_is(seen: SessionSeen, words: str) -> None:
    assert words in describe_session(seen)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (GuardStatus(GuardState.OFF), "reaper: none, since nothing here needs one"),
        (GuardStatus(GuardState.GUARDING, pid=7), "reaper: process 7 guards this one"),
        (GuardStatus(GuardState.DEGRADED, "it died 5 times"), "reaper: DEGRADED, it died 5 times. If this process"),
    ],
)
def test_the_guard_is_told_by_whether_it_guards(status: GuardStatus, words: str) -> None:
    assert describe_guard(status).startswith(words)


def test_news_are_told_once_and_only_where_they_belong(tmp_path: Path) -> None:
    root = root_in(str(tmp_path))
    root.mkdir(mode=0o700)
    record(root, death(place=current_place()))
    record(root, death(session_id="session-2", owner_pid=99, place=f"elsewhere-{os.getpid()}"))

    assert "process 4312" in news(root=root)
    assert news(root=root) == ""
