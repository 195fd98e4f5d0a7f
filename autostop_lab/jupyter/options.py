"""The line of ``%%autostop_job``: its words, its options, its services."""

from __future__ import annotations

import argparse
import ast
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from IPython.core.error import UsageError

from autostop_lab.services.policies import check_seconds

MAGIC = "%%autostop_job"
ENVIRONMENT = "env"

_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def split_words(line: str) -> list[str]:
    """Split a line at its spaces, but not within quotes and brackets, which stay as they are.

    Raises
    ------
    UsageError
        A quote or bracket is not closed.
    """
    words, word, expected, at = [], "", "", 0
    while at < len(line):
        char = line[at]
        if char in "'\"":
            end = _end_of_string(line, at)
            word += line[at:end]
            at = end
            continue
        if char in _BRACKETS:
            expected = _BRACKETS[char] + expected
        elif expected and char == expected[0]:
            expected = expected[1:]
        elif char in ")]}":
            raise UsageError(f"{char!r} closes nothing in: {line}")
        if char.isspace() and not expected:
            words.append(word)
            word = ""
        else:
            word += char
        at += 1
    if expected:
        raise UsageError(f"{expected[0]!r} is missing in: {line}")
    return [one for one in (*words, word) if one]


def _end_of_string(line: str, start: int) -> int:
    quote = line[start] * 3 if line.startswith(line[start] * 3, start) else line[start]
    at = start + len(quote)
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line.startswith(quote, at):
            return at + len(quote)
        else:
            at += 1
    raise UsageError(f"the quote {quote} is not closed in: {line}")


def unquoted(word: str) -> str:
    """Return what a word says that is one string in quotes; others as they are."""
    if word[:1] in ("'", '"'):
        try:
            value = ast.literal_eval(word)
        except (SyntaxError, ValueError):
            return word
        if isinstance(value, str):
            return value
    return word


class UsageParser(argparse.ArgumentParser):
    """A parser whose errors are the shell's, and which never exits."""

    def error(self, message: str) -> NoReturn:
        """Refuse the line."""
        raise UsageError(f"{self.prog}: {message}. {self.prog} -h shows how it is used.")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words; an unknown option is refused, with the nearest that there is."""
        given, unknown = self.parse_known_args(list(words))
        for word in unknown:
            option = word.partition("=")[0]
            if not option.startswith("-"):
                self.error(f"{word!r} is one word too many")
            known = [text for action in self._actions for text in action.option_strings]
            near = get_close_matches(option, known, 1, cutoff=0.5)
            hint = f"the nearest is {near[0]}" if near else f"it has {', '.join(known)}"
            self.error(f"there is no option {option}; {hint}")
        return given


def _seconds_above_zero(text: str) -> float:
    return _seconds(text, exclusive=True)


def _seconds_from_zero(text: str) -> float:
    return _seconds(text, exclusive=False)


def _seconds(text: str, *, exclusive: bool) -> float:
    try:
        value = float(unquoted(text))
        check_seconds("it", "seconds", value, exclusive=exclusive)
    except ValueError:  # ConfigurationError is one, too
        bound = "above 0" if exclusive else "of 0 or more"
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds {bound}") from None
    return value


PARSER = UsageParser(
    prog=MAGIC,
    add_help=False,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    description=(
        "Run the cell as a job: start its services, run its body, then stop and clean every service,\n"
        "however the body ends. In the body, `env` is the job's environment and each service's name its\n"
        "handle. A pipeline that the body builds on `env` runs when the body has ended, in the same job."
    ),
    epilog=(
        "examples:\n"
        "  %%autostop_job wordcount --service store=Redis --timeout 60\n"
        '  %%autostop_job --service emb=Embedder(dim=128, name="a b"):process --stop-timeout 2'
    ),
)
PARSER.add_argument(
    "name", nargs="?", default="cell", type=unquoted, metavar="NAME", help="name of the job; 'cell' if not given"
)
PARSER.add_argument(
    "--service",
    action="append",
    default=[],
    type=unquoted,
    metavar="N=CLASS(args)[:runtime]",
    help="a service that the body needs, called N there: a class, or a class with arguments, evaluated in "
    "the notebook's namespace. May be given several times; later ones may take earlier ones as arguments",
)
PARSER.add_argument(
    "--timeout",
    type=_seconds_above_zero,
    default=None,
    metavar="S",
    help="the job fails when it is not done after S seconds; no limit if not given",
)
PARSER.add_argument(
    "--stop-timeout",
    type=_seconds_from_zero,
    default=None,
    metavar="S",
    help="how long a service has to stop politely, in seconds, where its own policy does not say",
)
PARSER.add_argument(
    "--background",
    action="store_true",
    help="return at once and run the body in a thread; its output appears under this cell",
)
PARSER.add_argument(
    "--no-panel", action="store_true", help="show no live panel: only the end of the job, with its receipt"
)
PARSER.add_argument("-h", "--help", action="store_true", help="show this")


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """What the line of the magic asks for; times in seconds."""

    name: str
    services: tuple[ServiceOption, ...]
    timeout_s: float | None
    stop_timeout_s: float | None
    in_background: bool
    with_panel: bool
    wants_help: bool


def parse_line(line: str) -> CellOptions:
    """Read the line of the magic.

    Raises
    ------
    UsageError
        Something in it makes no sense.
    """
    given = PARSER.parse(split_words(line))
    services = tuple(ServiceOption.parse(text) for text in given.service)
    names = [service.name for service in services]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--service {name}=...: the name is given twice.")
    return CellOptions(
        name=given.name,
        services=services,
        timeout_s=given.timeout,
        stop_timeout_s=given.stop_timeout,
        in_background=given.background,
        with_panel=not given.no_panel,
        wants_help=given.help,
    )


@dataclass(frozen=True, kw_only=True)
class ServiceOption:
    """One ``--service N=CLASS(args)[:runtime]``, not yet evaluated.

    Attributes
    ----------
    name : str
        What it is called.
    text : str
        What was written behind the name.
    target : ast.expr
        The class.
    call : ast.Call or None
        The whole call, if there are arguments.
    runtime : str or None
        What was written behind the last colon.
    """

    name: str
    text: str
    target: ast.expr
    call: ast.Call | None
    runtime: str | None

    @classmethod
    def parse(cls, text: str) -> ServiceOption:
        """Read it.

        Raises
        ------
        UsageError
            It is not of this form.
        """
        name, equals, written = text.partition("=")
        name, written = name.strip(), written.strip()
        if not equals or not written:
            raise UsageError(f"--service {text}: write it as NAME=CLASS or NAME=CLASS(arguments).")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(f"--service {text}: {name!r} cannot be a variable, and the body finds the service so.")
        if name == ENVIRONMENT:
            raise UsageError(f"--service {text}: {name!r} is the job's environment in the body; choose another name.")
        expression, runtime = _split_runtime(written)
        try:
            body = ast.parse(expression, mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"--service {text}: {expression!r} is not an expression ({error}).") from None
        call = body if isinstance(body, ast.Call) else None
        return cls(name=name, text=written, target=call.func if call else body, call=call, runtime=runtime)

    def find_class(self, namespace: dict[str, Any]) -> type:
        """Return the class.

        Parameters
        ----------
        namespace : dict
            The user's.

        Raises
        ------
        UsageError
            It cannot be evaluated, or is not a class.
        """
        found = self._evaluate(ast.Expression(self.target), namespace, {})
        if not isinstance(found, type):
            shown = ast.unparse(self.target)
            raise UsageError(f"--service {self.name}={self.text}: {shown} is not a class but {type(found).__name__}.")
        return found

    def find_arguments(
        self, namespace: dict[str, Any], handles: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments for the class, without calling it.

        Parameters
        ----------
        namespace : dict
            The user's.
        handles : mapping
            Services given before, which may be among the arguments.

        Raises
        ------
        UsageError
            They cannot be evaluated.
        """
        if self.call is None:
            return (), {}
        taker = "__autostop_take__"
        call = ast.Call(ast.copy_location(ast.Name(taker, ast.Load()), self.call), self.call.args, self.call.keywords)
        expression = ast.Expression(ast.copy_location(call, self.call))
        args, kwargs = self._evaluate(expression, namespace, {**handles, taker: _take})
        return args, kwargs

    def _evaluate(self, expression: ast.Expression, namespace: dict[str, Any], more: Mapping[str, Any]) -> Any:
        try:
            code = compile(expression, f"<--service {self.name}>", "eval")
            return eval(code, namespace, more)
        except Exception as error:
            hint = ""
            if isinstance(error, NameError) and error.name:
                near = get_close_matches(error.name, _class_names(namespace), 1)
                hint = f" Did you mean {near[0]}?" if near else " Define or import it in a cell before."
            raise UsageError(
                f"--service {self.name}={self.text}: {type(error).__name__}: {str(error).rstrip('.')}.{hint}"
            ) from None


def _take(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def _class_names(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name, value in namespace.items() if isinstance(value, type)]


def _split_runtime(written: str) -> tuple[str, str | None]:
    """Split ``CLASS(args):runtime``; behind a colon within brackets or quotes there is more than a word."""
    expression, colon, runtime = written.rpartition(":")
    if colon and runtime.strip().isidentifier():
        return expression.strip(), runtime.strip()
    return written, None
