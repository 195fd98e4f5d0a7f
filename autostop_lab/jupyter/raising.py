"""Errors as the user's own code would have raised them: one traceback, without our frames."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

OURS = __name__.partition(".")[0]


def raise_as_users(shell: Any, error: BaseException) -> NoReturn:
    """Raise `error` so that the shell shows only what of its traceback lies below this call.

    Parameters
    ----------
    shell : InteractiveShell
        The shell that will show it.
    error : BaseException
        What to raise; the traceback that it has is kept.
    """

    def render() -> list[str]:
        error.__dict__.pop("_render_traceback_", None)
        error.__traceback__ = _below_here(error.__traceback__)
        return format_lines(shell, error)

    if not hasattr(type(error), "_render_traceback_"):
        with suppress(AttributeError, TypeError):  # an exception that cannot be written to is shown in full
            error._render_traceback_ = render  # type: ignore[attr-defined]  # IPython looks for it
    raise error


def format_lines(shell: Any, error: BaseException) -> list[str]:
    """Return an error with its traceback as the shell would show it."""
    lines: list[str] = shell.InteractiveTB.structured_traceback(
        type(error), error, error.__traceback__, tb_offset=0
    )
    return lines


def _below_here(traceback: TracebackType | None) -> TracebackType | None:
    found = traceback
    while found is not None and found.tb_frame.f_code is not raise_as_users.__code__:
        found = found.tb_next
    return found.tb_next if found is not None else traceback


def hide_our_frames(error: BaseException) -> None:
    """Cut the frames of this package off the tops of an error's tracebacks, and of what it comes from."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = _users_part(one.__traceback__)
            todo += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                todo += one.exceptions


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    found = traceback
    while found is not None and str(found.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == OURS:
        found = found.tb_next
    return found
