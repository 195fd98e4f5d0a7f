"""What the line of the magic means, and what is said where it means nothing."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.error import UsageError

from autostop_lab.jupyter.options import PARSER, parse_line, split_words


class Embedder:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the line makes no object")


NAMESPACE: dict[str, Any] = {"Embedder": Embedder, "size": 128, "rows": [1, 2]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  name  ", ["name"]),
        ("a --service b=C(1, 2)", ["a", "--service", "b=C(1, 2)"]),
        ('b=C(name="a b", other=[1, 2])', ['b=C(name="a b", other=[1, 2])']),
        ("b=C(')') c", ["b=C(')')", "c"]),
        (r"b=C('it\'s') c", [r"b=C('it\'s')", "c"]),
        ("b=C('''a ' b''') c", ["b=C('''a ' b''')", "c"]),
        ("b=C('') c", ["b=C('')", "c"]),
        ("b={'x': (1, [2, 3])} c", ["b={'x': (1, [2, 3])}", "c"]),
    ],
)
def test_a_line_is_split_outside_of_quotes_and_brackets(line: str, words: list[str]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("b=C(1", "')' is missing"),
        ("b=C)", "')' closes nothing"),
        ("b=C(1]", "']' closes nothing"),
        ("'a", "not closed"),
    ],
)
def test_what_is_not_closed_is_refused(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_words(line)
    assert said in str(caught.value)


def test_a_line_without_a_word_has_all_defaults() -> None:
    options = parse_line("")

    assert (options.name, options.services, options.in_background, options.wants_help) == ("cell", (), False, False)
    assert options.timeout_s is options.stop_timeout_s is None


def test_all_options_are_read() -> None:
    options = parse_line(
        '"my job" --service a=Embedder --service=b=Embedder() --timeout 1.5 --stop-timeout=0 --background'
    )

    assert options.name == "my job"
    assert [service.name for service in options.services] == ["a", "b"]
    assert (options.timeout_s, options.stop_timeout_s, options.in_background) == (1.5, 0.0, True)


@pytest.mark.parametrize(
    ("written", "args", "kwargs", "runtime"),
    [
        ("Embedder", (), {}, None),
        ("Embedder()", (), {}, None),
        ("Embedder:thread", (), {}, "thread"),
        ("Embedder(dim=size):process", (), {"dim": 128}, "process"),
        ("Embedder(*rows, **{'a': 'b:c'})", (1, 2), {"a": "b:c"}, None),
        ("Embedder(x={'a': size}, f=len)", (), {"x": {"a": 128}, "f": len}, None),
        ("Embedder(other)", ("the handle",), {}, None),
        ('Embedder("a b:thread")', ("a b:thread",), {}, None),
    ],
)
def test_a_service_is_a_class_with_arguments_and_a_runtime(
    written: str, args: tuple[Any, ...], kwargs: dict[str, Any], runtime: str | None
) -> None:
    (service,) = parse_line(f"--service one={written}").services

    assert service.find_class(NAMESPACE) is Embedder
    assert service.find_arguments(NAMESPACE, {"other": "the handle"}) == (args, kwargs)
    assert service.runtime == runtime


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--servce a=Embedder", "the nearest is --service"),
        ("--serv a=Embedder", "the nearest is --service"),
        ("--xyz", "it has --service"),
        ("one two", "'two' is one word too many"),
        ("--timeout", "expected one argument"),
        ("--timeout soon", "soon is not a number of seconds above 0"),
        ("--timeout 0", "0 is not a number of seconds above 0"),
        ("--timeout nan", "nan is not a number"),
        ("--timeout inf", "inf is not a number"),
        ("--stop-timeout -1", "-1 is not a number of seconds of 0 or more"),
        ("--service Embedder", "write it as NAME=CLASS"),
        ("--service a=", "write it as NAME=CLASS"),
        ("--service 1a=Embedder", "'1a' cannot be a variable"),
        ("--service class=Embedder", "'class' cannot be a variable"),
        ("--service env=Embedder", "'env' is the job's environment"),
        ("--service a=Embedder --service a=Embedder", "the name is given twice"),
        ("--service a=Embedder+", "is not an expression"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_words(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_line(line)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Embeder", "Did you mean Embedder?"),
        ("Unheard", "Define or import it"),
        ("size", "size is not a class but int"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_class_that_is_none_is_refused_with_words(written: str, said: str) -> None:
    (service,) = parse_line(f"--service 'a={written}'").services

    with pytest.raises(UsageError) as caught:
        service.find_class(NAMESPACE)
    assert said in str(caught.value)


def test_arguments_that_cannot_be_evaluated_are_refused_with_words() -> None:
    (service,) = parse_line("--service a=Embedder(missing)").services

    with pytest.raises(UsageError) as caught:
        service.find_arguments(NAMESPACE, {})
    assert "NameError" in str(caught.value)


def test_the_help_names_every_option() -> None:
    text = PARSER.format_help()

    for option in ("%%autostop_job", "NAME", "--service", "--timeout", "--stop-timeout", "--background", "--help"):
        assert option in text
