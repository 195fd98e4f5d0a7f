from __future__ import annotations

import itertools

import pytest

from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.outcome import Life, Outcome

RANKED = [
    (Outcome.ABANDONED, {"survivor": "thread 'x'"}),
    (Outcome.KILLED, {"was_forced": True}),
    (Outcome.FAILED, {"errors": [("stop", OSError())]}),
    (Outcome.EXITED, {"exit": Exit(code=3)}),
]


@pytest.mark.parametrize(("outcome", "what"), RANKED)
def test_each_thing_that_can_happen_has_its_word(outcome: Outcome, what: dict[str, object]) -> None:
    assert Life(started_s=1.0, ended_s=2.0, **what).outcome is outcome  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(RANKED, 2)))
def test_where_several_fit_the_first_counts(
    first: tuple[Outcome, dict[str, object]], second: tuple[Outcome, dict[str, object]]
) -> None:
    assert Life(started_s=1.0, ended_s=2.0, **first[1], **second[1]).outcome is first[0]  # type: ignore[arg-type]


def test_a_life_without_anything_of_note_was_stopped() -> None:
    assert Life(started_s=1.0, ended_s=2.0).outcome is Outcome.STOPPED


def test_a_life_that_goes_on_is_kept() -> None:
    assert Life(started_s=1.0).outcome is Outcome.KEPT


def test_a_service_that_was_never_started_counts_as_stopped() -> None:
    assert Life().outcome is Outcome.STOPPED
