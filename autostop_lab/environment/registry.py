"""What lives in this process: environments, and the jobs that they ran.

Live environments are held here, so that one whose last variable is gone is still stopped: by ``close()``, by its
cell being run again, or at the end of the process.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from autostop_lab.exceptions import UnknownJobError
from autostop_lab.job.job import Job
from autostop_lab.supervisor.loop import close_supervisor_loop

#: All services together have this long at the end of the process, in seconds: Jupyter kills a kernel 2.5 s after
#: it was asked to shut down.
EXIT_BUDGET_S = 1.5
#: Jobs that are remembered.
KEPT_JOBS = 1000


class Closable(Protocol):
    """An environment, as the registry sees it."""

    name: str
    cell: str | None

    def close_at_exit(self, budget_s: float) -> Callable[[], None]:
        """Begin to close, within `budget_s`; the returned function waits for the end."""


class Registry:
    """Environments that are open and jobs that were submitted, oldest first."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._environments: list[Closable] = []
        self._jobs: deque[Job] = deque(maxlen=KEPT_JOBS)
        self._running: set[Job] = set()
        self._lock = threading.Lock()
        self._is_registered = False

    def add(self, environment: Closable) -> None:
        """Hold an environment that is open."""
        with self._lock:
            self._environments.append(environment)
            if not self._is_registered:
                self._is_registered = True
                atexit.register(self._close_all)

    def remove(self, environment: Closable) -> None:
        """Forget an environment; one that is not there is ignored."""
        with self._lock:
            self._environments = [kept for kept in self._environments if kept is not environment]

    def environments(self) -> list[Closable]:
        """Return those that are open."""
        with self._lock:
            return list(self._environments)

    def made_by(self, name: str, cell: str | None) -> Closable | None:
        """Return the open environment of this name that the same cell has made, if there is one."""
        if cell is None:
            return None
        found = (env for env in self.environments() if env.name == name and env.cell == cell)
        return next(found, None)

    def add_job(self, job: Job) -> None:
        """Remember a job."""
        self._jobs.append(job)
        self._running.add(job)
        job.when_done(lambda: self._running.discard(job))

    def jobs(self) -> list[Job]:
        """Return the jobs, oldest first."""
        return list(self._jobs)

    def running_jobs(self) -> frozenset[Job]:
        """Return the jobs that are not over."""
        return frozenset(self._running)

    def _close_all(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: the services are its parent's
        waits = [environment.close_at_exit(EXIT_BUDGET_S) for environment in reversed(self.environments())]
        for wait in waits:
            with suppress(TimeoutError):  # what is late ends with the process
                wait()
        close_supervisor_loop()


registry = Registry()


def jobs() -> list[Job]:
    """Return the jobs of this process, oldest first."""
    return registry.jobs()


def last_job() -> Job:
    """Return the job that was submitted last in this process.

    Raises
    ------
    UnknownJobError
        There was none yet.
    """
    all_jobs = registry.jobs()
    if not all_jobs:
        raise UnknownJobError("no job was submitted in this process yet; env.submit() or %%autostop_job makes one.")
    return all_jobs[-1]
