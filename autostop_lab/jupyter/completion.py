"""Completion of our magics' lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from autostop_lab.environment.base import Environment
from autostop_lab.environment.registry import jobs
from autostop_lab.job.job import Job
from autostop_lab.jupyter.commands import COMMANDS, LINE_MAGIC, environments, parser_of, running
from autostop_lab.jupyter.options import MAGIC, PARSER
from autostop_lab.services.spec import RUNTIME_OPTIONS

Matcher = Callable[[CompletionContext], SimpleMatcherResult]


def make_matcher(shell: Any) -> Matcher:
    """Return a matcher for the completer of a shell."""

    @context_matcher()
    def autostop_matcher(context: CompletionContext) -> SimpleMatcherResult:
        written = context.text_until_cursor.lstrip()
        before = written[: len(written) - len(context.token)]
        if context.cursor_line == 0 and before.startswith(f"{MAGIC} "):
            offered = _for_cell(before[len(MAGIC) :], shell.user_ns)
        elif before.startswith(f"{LINE_MAGIC} "):
            offered = _for_line(before[len(LINE_MAGIC) :].split())
        else:
            return SimpleMatcherResult(completions=[])
        fitting = [text for text in dict.fromkeys(offered) if text.startswith(context.token)]
        found = [SimpleCompletion(text=text, type="param") for text in fitting]
        return SimpleMatcherResult(completions=found, suppress=bool(found))

    matcher: Matcher = autostop_matcher
    return matcher


def _for_cell(before: str, namespace: dict[str, Any]) -> Iterable[str]:
    """Yield what may come next on the line of the cell's magic."""
    if before.endswith("="):
        return [name for name, value in namespace.items() if isinstance(value, type) and not name.startswith("_")]
    if before.endswith(":"):
        return list(RUNTIME_OPTIONS)
    return [option for action in PARSER._actions for option in action.option_strings]


def _for_line(words: list[str]) -> Iterable[str]:
    """Yield what may come next behind ``%autostop`` and these words."""
    if not words:
        return [*COMMANDS, "-h"]
    command = COMMANDS.get(words[0])
    if command is None:
        return []
    names: list[str] = []
    if command.argument == "JOB":
        candidates = jobs()[::-1] if words[0] == "report" else running()[::-1]
        names = [text for job in candidates for text in (job.name, job.id) if " " not in text]
    elif command.argument == "SETTING":
        names = ["nested_loop=True"]
    elif command.argument == "SERVICE":
        owners: list[Job | Environment] = [*environments(), *jobs()]
        names = [name for owner in owners for name in owner.services]
    return [*names, *(option for action in parser_of(words[0])._actions for option in action.option_strings)]
