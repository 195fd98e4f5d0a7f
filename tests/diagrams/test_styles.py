"""Each state has its look, and each look can be read and told from the others."""

from __future__ import annotations

import pytest

from autostop_lab.diagrams import OUTCOME_STYLES, STATE_STYLES
from autostop_lab.diagrams.styles import FRAME, MUTED, PANEL, TEXT
from autostop_lab.lifecycle import JobState, ServiceState

COLOURS = sorted({style.colour for style in (*STATE_STYLES.values(), *OUTCOME_STYLES.values())})


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def contrast(a: list[float], b: list[float]) -> float:
    """Contrast of two colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_every_state_has_a_style_and_nothing_else_has() -> None:
    assert set(STATE_STYLES) == {*ServiceState, *JobState}


@pytest.mark.parametrize("states", [ServiceState, JobState])
def test_signs_tell_states_apart_without_colour(states: type[ServiceState] | type[JobState]) -> None:
    signs = [STATE_STYLES[state].sign for state in states]

    assert len(set(signs)) == len(signs)
    assert all(len(sign) == 1 for sign in signs)


def test_signs_tell_outcomes_apart_without_colour() -> None:
    assert len({style.sign for style in OUTCOME_STYLES.values()}) == len(OUTCOME_STYLES)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_read_on_the_panel_and_under_white_words(colour: str) -> None:
    assert contrast(channels(colour), channels(PANEL)) >= 4.5
    assert contrast(channels(colour), channels("#ffffff")) >= 4.5


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_read_on_its_own_tint(colour: str) -> None:
    tint = [0.1 * c + 0.9 * p for c, p in zip(channels(colour), channels(PANEL), strict=True)]

    assert contrast(channels(colour), tint) >= 4.5


@pytest.mark.parametrize("colour", [TEXT, MUTED])
def test_words_are_read_on_panel_and_frame(colour: str) -> None:
    assert contrast(channels(colour), channels(PANEL)) >= 4.5
    assert contrast(channels(colour), channels(FRAME)) >= 4.5
