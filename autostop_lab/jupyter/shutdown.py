"""The kernel's shutdown request: the earliest news of its end, heard while a cell still runs.

Jupyter gives a kernel 2.5 s from here. The exit code of the interpreter may come too late for that (a body that
swallows its interrupt, a child of the user's in the kernel's own process group), so closing begins here and does not
wait; the exit code then waits for what is left of the budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

logger = logging.getLogger("autostop_lab.jupyter")


def watch_shutdown(kernel: Any, begin: Callable[[str], object]) -> Callable[[], None]:
    """Have `begin` called when `kernel` is told to shut down or to restart.

    Parameters
    ----------
    kernel : ipykernel.kernelbase.Kernel
        The kernel; its own ``do_shutdown`` runs as before, after `begin`, and may be a coroutine function.
    begin : callable
        Given the reason; must not wait. Whatever it raises is dropped, since a kernel whose ``do_shutdown`` raises
        no longer hears that it shall shut down.

    Returns
    -------
    callable
        Gives the kernel its own method back.
    """
    own = kernel.do_shutdown

    @wraps(own)
    def do_shutdown(restart: bool) -> Any:
        try:
            begin("the kernel restarts" if restart else "the kernel shuts down")
        except Exception:
            logger.warning("closing at the shutdown of the kernel could not begin", exc_info=True)
        return own(restart)

    def give_back() -> None:
        if vars(kernel).get("do_shutdown") is do_shutdown:
            del kernel.do_shutdown

    kernel.do_shutdown = do_shutdown
    return give_back
