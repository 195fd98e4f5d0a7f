"""What lives in this process: environments, and the jobs that they ran.

Live environments are held here, so that one whose last variable is gone is still stopped: by ``close()``, by its
cell being run again, or at the end of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from autostop_lab.environment.ends import Closable, Ends
from autostop_lab.exceptions import UnknownJobError
from autostop_lab.job.job import Job

#: Jobs that are remembered.
KEPT_JOBS = 1000


class Opened(Closable, Protocol):
    """An environment, as the registry sees it."""

    name: str
    cell: str | None


class Registry:
    """Environments that are open and jobs that were submitted, oldest first.

    Attributes
    ----------
    ends : Ends
        Closes what is open when the process ends.
    """

    def __init__(self) -> None:
        self._environments: list[Opened] = []
        self._jobs: deque[Job] = deque(maxlen=KEPT_JOBS)
        self._running: set[Job] = set()
        self._lock = threading.Lock()
        self.ends = Ends(self.environments)

    def add(self, environment: Opened) -> None:
        """Hold an environment that is open."""
        with self._lock:
            self._environments.append(environment)
        self.ends.watch()

    def remove(self, environment: Opened) -> None:
        """Forget an environment; one that is not there is ignored."""
        with self._lock:
            self._environments = [kept for kept in self._environments if kept is not environment]

    def environments(self) -> list[Opened]:
        """Return those that are open."""
        return list(self._environments)  # no lock: a signal may come while the main thread holds it

    def made_by(self, name: str, cell: str | None) -> Opened | None:
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
