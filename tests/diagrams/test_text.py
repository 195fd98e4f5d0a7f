"""Words from outside are made harmless, and fit where they are put."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab.diagrams.text import clean, escape, fit, seconds, width

# Every code point, those that XML and UTF-8 cannot have among them.
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("store", "store"),
        ("a\tb\r\nc  d", "a b c d"),
        ("\x1b[1;31mred\x1b[0m\x00\x7f\x1b[K\x1b", "red"),
        ("admin\u202etxt.exe", "admintxt.exe"),
        ("a\ud800b\ufffec", "abc"),
        ("naïve 世界 ✓", "naïve 世界 ✓"),
        (" \u2028 ", ""),
    ],
)
def test_clean_strips_what_cannot_be_shown(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_clean_looks_at_the_beginning_of_a_very_long_text_only() -> None:
    assert len(clean("x" * 1_000_000)) <= 500


def test_escape_leaves_no_markup() -> None:
    assert escape("""<a b="c" d='e'>&""") == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;"


@given(ANYTHING)
def test_anything_escaped_is_well_formed_xml_that_says_the_cleaned_text(text: str) -> None:
    root = ElementTree.fromstring(f'<a b="{escape(text)}">{escape(text)}</a>'.encode())

    assert (root.text or "") == root.attrib["b"] == clean(text)


@given(ANYTHING, st.integers(0, 300), st.booleans())
def test_what_was_fitted_fits(text: str, room: int, bold: bool) -> None:
    fitted = fit(text, 12, room, bold=bold)

    assert fitted == "…" or width(fitted, 12, bold=bold) <= room
    assert fitted == clean(text) or (fitted.endswith("…") and clean(text).startswith(fitted[:-1]))


def test_bold_and_wide_characters_take_more_room() -> None:
    assert width("store", 12) < width("store", 12, bold=True)
    assert width("ill", 12) < width("mmm", 12) <= width("世世世", 12)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0.0 s"),
        (-0.2, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(value: float, words: str) -> None:
    assert seconds(value) == words
