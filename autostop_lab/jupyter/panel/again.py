"""Jobs that can be run once more, with their last arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from autostop_lab.exceptions import JobRunningError
from autostop_lab.job.job import Job


class Again:
    """Runs something once more; one at a time, however often it is asked to.

    Parameters
    ----------
    job : Job
        The job of the last time.
    launch : callable
        Begins it once more in the background and returns its job.
    """

    def __init__(self, job: Job, launch: Callable[[], Job]) -> None:
        self.job = job
        self._launch = launch
        self._lock = threading.Lock()
        _known[job] = self

    def run(self) -> Job:
        """Begin it once more, and return its job.

        Raises
        ------
        JobRunningError
            It runs already.
        """
        with self._lock:
            if not self.job.is_over:
                raise JobRunningError(
                    f"job {self.job.name!r} runs already [{self.job.id}].", job=self.job.name, job_id=self.job.id
                )
            self.job = self._launch()
            _known[self.job] = self
            return self.job


_known: WeakKeyDictionary[Job, Again] = WeakKeyDictionary()


def again_of(job: Job) -> Again | None:
    """Return what runs a job once more, if that is known."""
    return _known.get(job)
