from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.dataflow import DeadLetter, Retry
from autostop_lab.dataflow.settings import Settings, near_ours, settings_of, takes_two
from autostop_lab.exceptions import ConfigurationError, PipelineError


@pytest.mark.parametrize("parallelism", [0, -1, 1.0, "2", True, 5000])
def test_a_parallelism_that_is_no_number_of_replicas_is_refused(parallelism: Any) -> None:
    with pytest.raises(PipelineError, match=r"operator 'map' \(f\): parallelism=.* must be a whole number from 1 to"):
        settings_of("operator 'map' (f)", parallelism=parallelism)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"ordered": 1}, "ordered=1 must be True or False"),
        ({"on_error": "ignore"}, "on_error='ignore' must be 'fail', 'skip', Retry"),
        ({"on_error": None}, "on_error=None must be"),
        ({"runtime": "gpu"}, "there is no runtime 'gpu'; choose from 'thread', 'process'"),
    ],
)
def test_other_settings_that_make_no_sense_are_refused(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        settings_of("operator 'map'", **keywords)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(attempts=0),
        lambda: Retry(attempts=1.5),  # type: ignore[arg-type]
        lambda: Retry(attempts=True),
        lambda: Retry(backoff_s=-1),
        lambda: Retry(backoff_s=float("inf")),
        lambda: Retry(backoff_s="1"),  # type: ignore[arg-type]
        lambda: Retry(then="again"),  # type: ignore[arg-type]
        lambda: DeadLetter([]),
        lambda: DeadLetter(None),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_the_class_retry_is_short_for_its_defaults() -> None:
    assert settings_of("x", on_error=Retry).on_error == Retry(attempts=3, backoff_s=0.1)


def test_the_last_resort_is_what_comes_after_the_attempts() -> None:
    letter = DeadLetter(print)

    assert Settings().last_resort == "fail"
    assert Settings(on_error="skip").last_resort == "skip"
    assert Settings(on_error=letter).last_resort is letter
    assert Settings(on_error=Retry(then=letter)).last_resort is letter
    assert Settings(on_error=Retry()).last_resort == "fail"
    assert (Settings(on_error=Retry(2)).retry, Settings(on_error="skip").retry) == (Retry(2), None)


def test_a_keyword_that_is_nearly_ours_is_asked_about() -> None:
    assert near_ours({"paralelism": 2}) == " Did you mean parallelism= in place of paralelism=?"
    assert near_ours({"windows_s": 2}) == " Did you mean window_s= in place of windows_s=?"
    assert near_ours({"dim": 2}) == ""


@pytest.mark.parametrize(
    ("function", "two"),
    [([].append, False), (lambda record: None, False), (lambda record, error: None, True), (print, True)],
)
def test_a_dead_letters_function_gets_what_it_can_take(function: Any, two: bool) -> None:
    assert takes_two(function) is two
