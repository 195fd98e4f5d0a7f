from __future__ import annotations

from typing import Any

import pytest

from autostop_lab.services.runtime import Exit, UnhealthyError, describe_error, details_of


@pytest.mark.parametrize(
    ("end", "text", "is_clean"),
    [
        (Exit(), "done", True),
        (Exit(code=0), "exit code 0", True),
        (Exit(code=3), "exit code 3", False),
        (Exit(code=-9), "signal 9", False),
        (Exit(error=ValueError("broken")), "ValueError: broken", False),
        (Exit(code=0, error=ValueError("broken")), "ValueError: broken", False),
    ],
)
def test_an_exit_says_how_it_was(end: Exit, text: str, is_clean: bool) -> None:
    assert str(end) == text
    assert end.is_clean is is_clean


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken"), "ValueError: broken"),
        (ValueError(), "ValueError"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("\n  first\n"), "ValueError: first"),
    ],
)
def test_an_error_is_told_on_one_line(error: Exception, text: str) -> None:
    assert describe_error(error) == text


@pytest.mark.parametrize(
    ("answer", "details"),
    [(None, {}), (True, {}), ("fine", {}), (1, {}), ({"rows": 3}, {"rows": 3}), ({}, {})],
)
def test_a_healthy_answer_gives_its_details(answer: Any, details: dict[str, Any]) -> None:
    assert details_of(answer) == details


@pytest.mark.parametrize("answer", [False, 0, ""])
def test_an_unhealthy_answer_is_shown(answer: Any) -> None:
    with pytest.raises(UnhealthyError, match=rf"health_check\(\) returned {answer!r}"):
        details_of(answer)
