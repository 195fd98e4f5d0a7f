"""Each state has its look, and each look can be read and told from the others."""

from __future__ import annotations

import pytest

from autostop_lab.diagrams import OUTCOME_STYLES, STATE_STYLES
from autostop_lab.diagrams.styles import DARK, HEALTH_STYLES, LIGHT, PAGE, Style, Theme
from autostop_lab.lifecycle import JobState, ServiceState

STYLES = sorted({(one.colour, one.on_dark) for one in (*STATE_STYLES.values(), *OUTCOME_STYLES.values())})
#: What JupyterLab's dark theme has behind an output.
DARK_PAGE = "#212121"
each_style = pytest.mark.parametrize(("colour", "on_dark"), STYLES)
each_theme = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


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


def test_every_style_knows_its_colour_on_a_dark_page() -> None:
    for style in (*STATE_STYLES.values(), *OUTCOME_STYLES.values(), *HEALTH_STYLES.values()):
        assert (style.colour, style.on_dark) in STYLES


@each_theme
@each_style
def test_a_colour_is_read_on_the_panel_and_under_the_words_on_it(colour: str, on_dark: str, theme: Theme) -> None:
    seen = theme.colour(Style(colour, "x", on_dark))

    for behind in (theme.panel, theme.raised, theme.frame, theme.ink):
        assert contrast(channels(seen), channels(behind)) >= 4.5


@each_style
def test_a_colour_stands_out_from_any_page(colour: str, on_dark: str) -> None:
    """A live view stands on the page itself, light or dark: shapes need 3, and white words on them 4.5."""
    assert PAGE.colour(Style(colour, "x", on_dark)) == colour
    assert contrast(channels(colour), channels(DARK_PAGE)) >= 3
    assert contrast(channels(colour), channels("#ffffff")) >= 4.5


@each_theme
def test_words_are_read_on_panel_and_frame(theme: Theme) -> None:
    for words in (theme.text, theme.muted):
        for behind in (theme.panel, theme.raised, theme.frame):
            assert contrast(channels(words), channels(behind)) >= 4.5


def test_the_colours_of_the_page_fall_back_to_those_of_the_light_theme() -> None:
    for name in ("raised", "frame", "edge", "line", "text", "muted"):
        assert getattr(PAGE, name).endswith(f",{getattr(LIGHT, name)})")
