"""Where a call comes from: the notebook cell that is running, and threads whose output appears under it.

IPython is read where it is loaded and never imported. All threads of the package are started here. They are
daemons, so that none can hold the interpreter's exit (there is no executor and no ``asyncio.to_thread``
either: both join their threads when the interpreter ends).
"""

from __future__ import annotations

import contextvars
import hashlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any


def _shell() -> Any:
    module = sys.modules.get("IPython")
    get_ipython = getattr(module, "get_ipython", None)
    return get_ipython() if get_ipython is not None else None


def _current_parent(shell: Any) -> Mapping[str, Any]:
    get_parent = getattr(shell, "get_parent", None)
    return (get_parent() or {}) if get_parent is not None else {}


def current_cell() -> str | None:
    """Return what identifies the notebook cell that is running.

    Returns
    -------
    str or None
        The frontend's id of the cell where it sends one, else a digest of the cell's text; None outside IPython.
    """
    shell = _shell()
    if shell is None:
        return None
    cell_id = _current_parent(shell).get("metadata", {}).get("cellId")
    if cell_id:
        return str(cell_id)
    history = getattr(shell, "history_manager", None)
    if history is None or not history.input_hist_raw:
        return None
    return hashlib.sha256(str(history.input_hist_raw[-1]).encode()).hexdigest()


class Origin:
    """The place that a job was submitted from: its context variables and, in a notebook, its cell.

    What runs in a thread of an origin sees the context variables of that moment, and what it prints appears
    under that cell, also while other cells run.
    """

    def __init__(self) -> None:
        self.cell = current_cell()
        self._context = contextvars.copy_context()
        shell = _shell()
        # ipykernel >= 7.4 routes output by a parent set for the thread; 7.0-7.3 by the context; 6 by the thread
        # that started it.
        self._set_parent: Callable[[Any], Any] | None = getattr(shell, "set_thread_parent", None)
        self._parent = _current_parent(shell) if self._set_parent is not None else None

    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` in this thread as if it were called from the origin; return its value."""
        return self._context.copy().run(self._run_as_cell, function)

    def _run_as_cell(self, function: Callable[[], Any]) -> Any:
        if self._set_parent is not None and self._parent:
            self._set_parent(self._parent)
        return function()

    def start_thread(self, function: Callable[[], Any], *, name: str) -> threading.Thread:
        """Start a daemon thread that calls `function` as if it were called from the origin.

        Parameters
        ----------
        function : callable
            Called without arguments; it must not raise.
        name : str
            What the thread is for, without our prefix.

        Returns
        -------
        threading.Thread
            The running thread, named ``autostop-lab: <name>``.
        """
        thread = threading.Thread(target=self.run, args=(function,), name=thread_name(name), daemon=True)
        thread.start()
        return thread


THREAD_PREFIX = "autostop-lab: "
#: What threads serve in which a call runs in the background: code of a service, begun by code of a job.
CALL_PURPOSE = "call "


def thread_name(purpose: str) -> str:
    """Return the name of a thread of this package that serves `purpose`."""
    return THREAD_PREFIX + purpose
