"""When a click is seen: at once, in a subshell of the kernel, or only when the cell that runs has ended.

JupyterLab sends what its widgets say to a subshell of its own, where the kernel has subshells. ipykernel 7.4.0 sends
it on to the shell that the widget has last been changed from, so to the main shell, which waits for the cell. One
attribute of the widget's comm gives the front end its choice back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def repair(widgets: Iterable[Any]) -> None:
    """Let the front end choose which shell hears what these widgets say, where the kernel chooses by itself."""
    for widget in widgets:
        comm = getattr(widget, "comm", None)
        if comm is not None and hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = _as_sent


def family(*widgets: Any) -> Iterator[Any]:
    """Yield widgets with all that belongs to them: children, layouts and styles, each once."""
    todo, seen = list(widgets), set()
    while todo:
        widget = todo.pop()
        if id(widget) not in seen:
            seen.add(id(widget))
            more = (*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None))
            todo += [one for one in more if one is not None]
            yield widget


def _as_sent(data: Any, default: Any) -> Any:
    return default


def has_subshells(shell: Any) -> bool:
    """Return whether the front end has opened a subshell, so that clicks are seen while a cell runs.

    Parameters
    ----------
    shell : InteractiveShell
        The shell of a kernel.
    """
    thread = getattr(getattr(shell, "kernel", None), "shell_channel_thread", None)
    list_subshell = getattr(getattr(thread, "manager", None), "list_subshell", None)
    try:
        return bool(list_subshell()) if list_subshell is not None else False
    except Exception:  # a kernel that is about to end
        return False
