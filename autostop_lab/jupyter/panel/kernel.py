"""The control panel of a kernel: every job and environment of it, one of them in full."""

from __future__ import annotations

import time
from typing import Any

from autostop_lab.diagrams import STATE_STYLES
from autostop_lab.diagrams.page import chip_html, table_html
from autostop_lab.diagrams.text import clean, escape, seconds
from autostop_lab.environment.base import Environment
from autostop_lab.environment.registry import registry
from autostop_lab.job.job import Job
from autostop_lab.jupyter.panel.again import again_of
from autostop_lab.jupyter.panel.clicks import family, repair
from autostop_lab.jupyter.panel.panel import Panel, close_all
from autostop_lab.jupyter.panel.regions import Region
from autostop_lab.jupyter.panel.sources import EnvironmentSource, JobSource, Source

#: Jobs in the table, and jobs and environments to choose from.
LISTED, OFFERED = 8, 30
_NOTHING = "no job was submitted in this kernel yet"

Subject = Environment | Job


def subjects() -> list[Subject]:
    """Return what there is to look at: environments that are open, then jobs of others, the newest first."""
    environments = [env for env in registry.environments() if isinstance(env, Environment)][::-1]
    theirs = {id(env.last_job) for env in environments}
    jobs = [job for job in registry.jobs()[::-1] if id(job) not in theirs]
    offered: list[Subject] = [*environments, *jobs]
    return offered[:OFFERED]


def label_of(subject: Subject) -> str:
    """Return what a subject is called in the list."""
    if isinstance(subject, Job):
        return clean(f"job {subject.name} [{subject.id}], {subject.state}")
    job = subject.last_job
    return clean(f"environment {subject.name}" + (f", job [{job.id}] {job.state}" if job is not None else ""))


def overview_html() -> str:
    """Return the table of the last jobs, and how many there were."""
    jobs = registry.jobs()[::-1]
    if not jobs:
        return f"<div>{escape(_NOTHING)}</div>"
    rows = [
        (
            escape(job.name),
            escape(job.id),
            chip_html(str(job.state), STATE_STYLES[job.state]),
            seconds(job.elapsed_s),
            escape(", ".join(job.services)[:80]) or "none",
            escape(job.reason if job.reason != job.state else ""),
        )
        for job in jobs[:LISTED]
    ]
    now = sum(1 for job in jobs if not job.is_over)
    more = f"; %autostop jobs shows all {len(jobs)}" if len(jobs) > LISTED else ""
    head = f"<b>{now} of {len(jobs)} job{'s' if len(jobs) != 1 else ''} run now</b>{more}"
    return f"<div>{head}{table_html(('job', 'id', 'state', 'took', 'services', 'reason'), rows)}</div>"


class KernelPanel:
    """Shows all of a kernel.

    Parameters
    ----------
    shell : InteractiveShell
        The shell of the kernel.
    """

    def __init__(self, shell: Any) -> None:
        import ipywidgets  # not with this module: %load_ext alone does not need it

        self._shell = shell
        overview = ipywidgets.HTML()
        self._overview = Region(overview, bytes_per_s=1e4)
        self._chooser = ipywidgets.Dropdown(layout={"width": "420px"}, description="Look at")
        self._chooser.observe(self._note_choice, "value")
        self._place = ipywidgets.VBox()
        self._root = ipywidgets.VBox([overview, self._chooser, self._place])
        self._root.add_class("autostop-panel")
        self._offered: list[Subject] = []
        self._shown: Subject | None = None
        self._panel: Panel | None = None
        self._is_setting = False
        repair(family(self._root))
        self.draw()

    @property
    def view(self) -> dict[str, Any]:
        """What shows it in a front end that has widgets."""
        return dict(self._root._repr_mimebundle_())

    def _note_choice(self, change: Any) -> None:
        if not self._is_setting and change["new"] is not None:
            self._show(self._offered[change["new"]])

    def _show(self, subject: Subject) -> None:
        self._shown = subject
        source: Source = JobSource(subject) if isinstance(subject, Job) else EnvironmentSource(subject)
        if self._panel is None:
            self._panel = Panel(self._shell, source)
            self._place.children = [self._panel.root]
        else:
            self._panel.show_other(source)

    def draw(self) -> None:
        """Show what has changed."""
        now_s = time.monotonic()
        if self._overview.is_due(now_s):
            self._overview.show(overview_html(), now_s)
        self._offer()
        if self._panel is not None:
            self._panel.draw()

    def _offer(self) -> None:
        """Offer what there is now, and go on with what took the place of what was shown."""
        offered = subjects()
        shown = self._successor(offered)
        options = [(label_of(subject), at) for at, subject in enumerate(offered)]
        if [label for label, _ in options] != [label for label, *_ in self._chooser.options]:
            self._offered = offered
            self._is_setting = True
            try:
                self._chooser.options = options
            finally:
                self._is_setting = False
        if shown is not self._shown and shown is not None:
            self._show(shown)
        at = next((at for at, one in enumerate(self._offered) if one is self._shown), None)
        if self._chooser.value != at:
            self._is_setting = True
            try:
                self._chooser.value = at
            finally:
                self._is_setting = False

    def _successor(self, offered: list[Subject]) -> Subject | None:
        """Return what is to be shown: what was, its next run, or the job of an environment that was closed."""
        shown = self._shown
        newest = None
        if isinstance(shown, Job) and (again := again_of(shown)) is not None:
            newest = again.job
        elif isinstance(shown, Environment):
            newest = shown.last_job
        if shown is None or (newest is not None and newest is not shown):
            running = [one for one in offered if newest is not None and _job_of(one) is newest]
            return running[0] if running else offered[0] if shown is None and offered else shown
        return shown

    def close(self) -> None:
        """Take it away from every front end."""
        if self._panel is not None:
            self._panel.close()
        close_all(self._root)


def _job_of(subject: Subject) -> Job | None:
    return subject if isinstance(subject, Job) else subject.last_job
