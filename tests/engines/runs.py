"""Runs of graphs, for the tests of engines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from autostop_lab.dataflow import Control, Graph, Progress, ProgressSnapshot
from autostop_lab.engines import Engine
from autostop_lab.exceptions import UnknownServiceError

#: Longer than anything takes here, also on a busy machine; only a hanging test waits for it.
DEADLINE_S = 30.0


def no_services(name: str) -> Any:
    raise UnknownServiceError(f"no service {name!r}", service=name)


class Run:
    """One run of a graph: call it, or start it in a thread."""

    def __init__(self, engine: Engine, graph: Graph, services: Callable[[str], Any] = no_services) -> None:
        self.engine = engine
        self.pipelines = graph.pipelines()
        self.control = Control()
        self.progress = Progress(self.pipelines)
        self.services = services
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        return self.engine.run(self.pipelines, control=self.control, progress=self.progress, services=self.services)

    def start(self) -> threading.Thread:
        """Start it in a thread; `result` or `error` is there when the thread has ended."""

        def target() -> None:
            try:
                self.result = self()
            except BaseException as error:
                self.error = error

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def fail(self) -> BaseException:
        """Run it and return the exception that it has to raise."""
        try:
            self()
        except BaseException as error:
            return error
        raise AssertionError("it did not fail")

    @property
    def snapshot(self) -> ProgressSnapshot:
        return self.progress.snapshot()

    @property
    def counts(self) -> list[tuple[str, int | None, int | None, int]]:
        """Name, records in, records out and errors of each operator."""
        return [(row.name, row.records_in, row.records_out, row.errors) for row in self.snapshot.operators]


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def ended(thread: threading.Thread) -> bool:
    """Wait for a thread; return whether it ended in time."""
    thread.join(DEADLINE_S)
    return not thread.is_alive()
