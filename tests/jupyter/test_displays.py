"""Jobs, receipts, handles and environments show themselves, and what they show does nothing but to be read."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from autostop_lab import LocalEnvironment, Service, ServiceHandle
from autostop_lab.diagrams import DARK, LIGHT
from tests.diagrams import svg
from tests.diagrams.test_parts import NASTY

FORMATTER = DisplayFormatter()
FORMATTER.active_types = FORMATTER.format_types


class BadWordsError(Exception):
    pass


class Store(Service):
    """Keeps nothing."""

    def read(self) -> int:
        return 1


class Nasty(Service):
    """Fails with words from anywhere."""

    def __init__(self, words: str) -> None:
        self.words = words

    def stop(self) -> None:
        raise OSError(self.words)


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("shown") as environment:
        yield environment


def shown(thing: Any) -> dict[str, str]:
    """What IPython would show of it."""
    data, _ = FORMATTER.format(thing)
    return {str(kind): str(value) for kind, value in data.items()}


def pictures(html: str) -> list[str]:
    """The pictures that a page has as images."""
    return [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)]


def test_all_have_html_and_five_lines_of_text(env: LocalEnvironment) -> None:
    handle = env.register_service("store", Store)
    env.run(lambda: 1)
    job = env.submit(autostop=True)

    for thing in (handle, job, job.report, env):
        data = shown(thing)
        assert 1 <= len(data["text/plain"].splitlines()) <= 5, data["text/plain"]
        assert "store" in data["text/html"] or "store" in "".join(pictures(data["text/html"]))
    assert "service 'store' (Store)" in shown(handle)["text/plain"]
    assert "environment 'shown'\nservices: store stopped\njob 'shown' [" in shown(env)["text/plain"]


def test_the_picture_of_a_job_is_there_for_light_and_for_dark_pages(env: LocalEnvironment) -> None:
    env.register_service("store", Store)
    env.run(lambda: 1)
    data = shown(env.submit(autostop=True))
    light, dark = pictures(data["text/html"])

    assert [root.tag for root in map(svg.parse, (light, data["image/svg+xml"]))] == [f"{svg.NAMESPACE}svg"] * 2
    assert (LIGHT.panel in light, LIGHT.panel in dark, DARK.panel in dark) == (True, False, True)
    for picture in (light, dark):
        assert svg.complaints(picture) == []


@pytest.mark.parametrize("words", NASTY)
def test_words_from_anywhere_do_no_harm(words: str, env: LocalEnvironment) -> None:
    handle = env.register_service("store", Nasty, words)

    def fail() -> None:
        raise BadWordsError(words)

    env.run(fail)
    with pytest.raises(BadWordsError):
        env.submit(autostop=True)

    for thing in (handle, env.last_job, env.last_job.report if env.last_job else None, env):
        data = shown(thing)
        assert max(map(len, data["text/plain"].splitlines())) < 1200
        for harm in ("\x1b", "\x00", "\x07", "\u202e", "<script", "<img src=x"):
            assert harm not in data["text/html"]
            assert harm not in data["text/plain"] or harm.startswith("<")
        for picture in pictures(data["text/html"]):
            assert svg.complaints(picture) == []


def test_a_handle_that_travelled_shows_what_is_known() -> None:
    class Elsewhere:
        name, kind, key, state = "far", "Store", "k", "running"

        def methods(self) -> set[str]:
            return {"read"}

        class address:  # noqa: N801
            host, port, ports = None, None, {}

    assert shown(ServiceHandle(Elsewhere()))["text/plain"].splitlines() == [  # type: ignore[arg-type]
        "service 'far' (Store)",
        "state: running",
        "methods: read",
    ]
