"""Outputs under cells: live while there is something to see, and a still picture with the receipt at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from IPython.display import DisplayHandle, display

from autostop_lab.diagrams.text import clean
from autostop_lab.environment.base import Environment
from autostop_lab.job.job import Job
from autostop_lab.jupyter.panel.kernel import KernelPanel
from autostop_lab.jupyter.panel.panel import Panel
from autostop_lab.jupyter.panel.publisher import publisher
from autostop_lab.jupyter.panel.sources import EnvironmentSource, JobSource, Source
from autostop_lab.origin import Origin

logger = logging.getLogger("autostop_lab.jupyter")

#: A job that is over sooner gets no panel: nobody could press anything. In seconds.
SHORTEST_S = 0.15


def has_pictures(shell: Any) -> bool:
    """Return whether the shell is a kernel's, with a front end that can change an output; a terminal cannot."""
    return getattr(shell, "kernel", None) is not None


class LiveOutput:
    """One output that shows a source: a panel while it lives, and at its end a still picture without any widget.

    Parameters
    ----------
    shell : InteractiveShell
        The shell of a kernel.
    handle : DisplayHandle
        The output.
    source : Source
        What it shows.
    with_panel : bool
        Whether there is a panel before the end.
    blocks : bool
        Whether the cell runs as long as the source lives.
    """

    def __init__(
        self, shell: Any, handle: DisplayHandle, source: Source, *, with_panel: bool = True, blocks: bool = False
    ) -> None:
        self._shell = shell
        self._handle = handle
        self._source = source
        self._with_panel = with_panel
        self._blocks = blocks
        self._began_s = time.monotonic()
        self._panel: Panel | None = None
        self._is_final = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Show it from now on."""
        if self._with_panel:
            publisher.add(self)

    def tick(self) -> bool:
        """Show its latest state; return whether there is more to come."""
        with self._lock:
            if self._is_final:
                return False
            if self._source.is_over:
                self._finish()
                return False
            if self._panel is not None:
                self._panel.draw()
            elif time.monotonic() - self._began_s >= SHORTEST_S:
                self._panel = Panel(self._shell, self._source, blocks=self._blocks)
                self._handle.update({**self._panel.view, **_in_words(self._source)}, raw=True)
            return True

    def end(self) -> None:
        """Show the end now, and nothing more after."""
        with self._lock:
            if not self._is_final:
                self._finish()
        publisher.remove(self)

    def _finish(self) -> None:
        self._is_final = True
        self._handle.update(self._source.bundle(), raw=True)
        if self._panel is not None:
            self._panel.close()


def _in_words(source: Source) -> dict[str, Any]:
    """Return what front ends without widgets show until the end."""
    text = f"{clean(source.name)}: its panel needs a front end with widgets; its end will be shown here."
    return {"text/plain": text}


class JobView:
    """Shows one job under the cell that begins it.

    It only reads the job, so a front end that is slow or gone never delays it.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    name : str
        Name of the job. Its place is taken at once, above what it will print.
    with_panel : bool
        Whether it is shown live; else only its end is.
    blocks : bool
        Whether the cell runs as long as the job.
    handle : DisplayHandle or None
        An output to be used again.
    """

    def __init__(
        self,
        shell: Any,
        name: str,
        *,
        with_panel: bool = True,
        blocks: bool = True,
        handle: DisplayHandle | None = None,
    ) -> None:
        self._shell = shell
        self._name = name
        self._with_panel = with_panel
        self._blocks = blocks
        self._job: Job | None = None
        self._output: LiveOutput | None = None
        self.handle = handle
        if handle is None and has_pictures(shell):
            self.handle = display({"text/plain": f"job {name!r}"}, raw=True, display_id=True)

    def begin(self, job: Job, on_end: Callable[[], None] | None = None) -> None:
        """Show a job from now on; `on_end` is called in a thread when its end was shown."""
        self._job = job
        if self.handle is not None:
            self._output = LiveOutput(
                self._shell, self.handle, JobSource(job), with_panel=self._with_panel, blocks=self._blocks
            )
            self._output.begin()
        if on_end is not None:
            origin = Origin()

            def work() -> None:
                self.end()
                on_end()

            job.when_done(lambda: origin.start_thread(work, name=f"end of job {self._name}"))

    def end(self) -> None:
        """Show the end of a job that is over, or that there was none."""
        if self._output is not None:
            self._output.end()
        elif self._job is not None:
            print(self._job.summary())
        elif self.handle is not None:
            self.handle.update({"text/plain": f"job {self._name!r} was not begun"}, raw=True)


class Displays:
    """Shows jobs, environments and the kernel live where a cell ends with them or asks for them.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._kernel: KernelOutput | None = None

    def load(self) -> None:
        """Let IPython show them so."""
        if has_pictures(self._shell):
            formatter = self._shell.display_formatter.ipython_display_formatter
            formatter.for_type(Job, self._show_job)
            formatter.for_type(Environment, self._show_environment)

    def unload(self) -> None:
        """Let IPython show them as still pictures again."""
        if has_pictures(self._shell):
            formatter = self._shell.display_formatter.ipython_display_formatter
            for kind in (Job, Environment):
                formatter.pop(kind, None)
        if self._kernel is not None:
            self._kernel.end()

    def _show_job(self, job: Job) -> None:
        if job.is_over:
            raise NotImplementedError  # the word of IPython's protocol for "take the next formatter": the still picture
        self._show(JobSource(job))

    def _show_environment(self, environment: Environment) -> None:
        source = EnvironmentSource(environment)
        if source.is_over:
            raise NotImplementedError  # as above
        self._show(source)

    def _show(self, source: Source) -> None:
        handle = display(_in_words(source), raw=True, display_id=True)
        assert handle is not None
        LiveOutput(self._shell, handle, source).begin()

    def show_kernel(self) -> None:
        """Show the control panel of the kernel here; where it was shown before, it is no longer."""
        if self._kernel is not None:
            self._kernel.end()
        self._kernel = KernelOutput(self._shell)
        publisher.add(self._kernel)


class KernelOutput:
    """The output with the control panel of the kernel.

    Parameters
    ----------
    shell : InteractiveShell
        The shell of the kernel.
    """

    def __init__(self, shell: Any) -> None:
        self._panel = KernelPanel(shell)
        self._is_over = False
        self._lock = threading.Lock()
        words = {"text/plain": "the control panel of this kernel needs a front end with widgets; %autostop status"}
        self._handle = display({**self._panel.view, **words}, raw=True, display_id=True)

    def tick(self) -> bool:
        """Show what is new; return whether there is more to come."""
        with self._lock:
            if not self._is_over:
                self._panel.draw()
            return not self._is_over

    def end(self) -> None:
        """Show no more here."""
        with self._lock:
            self._is_over = True
            if self._handle is not None:
                self._handle.update({"text/plain": "the control panel is shown further below"}, raw=True)
            self._panel.close()
