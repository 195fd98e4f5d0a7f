"""What the buttons of a panel say and do. An order is carried out in a thread, so that no click waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from autostop_lab.diagrams.text import clean
from autostop_lab.lifecycle import SERVICE_TABLE, JobState, ServiceState
from autostop_lab.origin import Origin
from autostop_lab.services.runtime import describe_error


class Action(NamedTuple):
    """One button.

    Attributes
    ----------
    label, icon, style, tip : str
        What is written on it, its picture, its colour in the front end's words, and its tooltip.
    doing, done : str
        How it is told while it is carried out, and after.
    """

    label: str
    icon: str
    style: str
    tip: str
    doing: str
    done: str


ACTIONS = {
    "stop_job": Action("Stop", "stop", "warning", "Finish what is inside, then clean up", "stopping", "asked to stop"),
    "cancel_job": Action("Cancel", "times", "", "Discard what is inside and clean up", "cancelling", "cancelled"),
    "again": Action("Run again", "repeat", "success", "Run it once more, in the background", "beginning", "begun"),
    "submit": Action("Submit", "play", "success", "Run what is declared, in the background", "submitting", "submitted"),
    "start_all": Action("Start all", "play", "", "Start all services, without a job", "starting", "started"),
    "stop_all": Action("Stop all", "stop", "warning", "Stop and clean all services", "stopping", "stopped"),
    "start": Action("Start", "play", "success", "Start the service", "starting", "started"),
    "restart": Action("Restart", "refresh", "", "Stop the service and start it anew", "restarting", "restarted"),
    "stop": Action("Stop", "stop", "warning", "Stop and clean the service", "stopping", "stopped"),
    "kill": Action("Kill …", "bolt", "", "End the service without a grace period", "", ""),
    "kill_now": Action("Kill it now", "bolt", "danger", "No grace period, no way back", "killing", "killed"),
    "keep": Action("Keep it", "undo", "", "Do not kill it", "", ""),
}


def job_actions(state: JobState | None) -> tuple[str, ...]:
    """PURE. Return the orders that make sense for a job that lives."""
    if state in (JobState.PENDING, JobState.STARTING, JobState.RUNNING):
        return ("stop_job", "cancel_job")
    return ("cancel_job",) if state is JobState.DRAINING else ()


def service_actions(state: ServiceState, *, may_start: bool, is_asked: bool = False) -> tuple[str, ...]:
    """PURE. Return the orders that make sense for a service.

    Parameters
    ----------
    state : ServiceState
        Where it is.
    may_start : bool
        Whether anything of its environment starts any more.
    is_asked : bool
        Whether the user is asked if it shall be killed.
    """
    if state is ServiceState.ABANDONED or state is ServiceState.KILLING:
        return ()
    if state in SERVICE_TABLE.at_rest:
        return ("start",) if may_start else ()
    if is_asked:
        return ("kill_now", "keep")
    if state is ServiceState.STOPPING:
        return ("kill",)
    return ("restart", "stop", "kill") if may_start else ("stop", "kill")


class Orders:
    """Carries out orders, each in a thread of its own; the same one twice at a time is one.

    Parameters
    ----------
    origin : Origin
        The cell under which their output appears.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._under_way: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self.message = ""
        self.is_failure = False

    def give(self, action: str, whom: str, carry_out: Callable[[], object]) -> bool:
        """Begin to carry out an order.

        Parameters
        ----------
        action : str
            Its key in `ACTIONS`.
        whom : str
            The service or job that it is for.
        carry_out : callable
            Does it; returns when it is done, or raises what went wrong.

        Returns
        -------
        bool
            Whether it was begun; not if the same order is under way.
        """
        key = (action, whom)
        with self._lock:
            if key in self._under_way:
                return False
            self._under_way.add(key)
        said = ACTIONS[action]
        self._say(f"{whom}: {said.doing} …")

        def work() -> None:
            try:
                carry_out()
            except BaseException as error:
                self._say(f"{whom}: {said.label} failed: {describe_error(error)}", is_failure=True)
            else:
                self._say(f"{whom}: {said.done}")
            finally:
                with self._lock:
                    self._under_way.discard(key)

        self._origin.start_thread(work, name=f"order of the panel: {action}")
        return True

    def _say(self, text: str, *, is_failure: bool = False) -> None:
        self.message, self.is_failure = clean(text), is_failure
