"""WHERE IT RUNS. Engines take pipelines, or one callable, to their end; all are an `Engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.graph import Pipeline
from autostop_lab.dataflow.progress import Progress
from autostop_lab.engines.local import LocalEngine
from autostop_lab.engines.sizes import BatchSizes

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle

__all__ = ["BatchSizes", "Engine", "LocalEngine"]


class Engine(Protocol):
    """What runs a job's pipelines, or its one callable."""

    @property
    def name(self) -> str:
        """What it is called."""

    def run(
        self,
        pipelines: Sequence[Pipeline],
        *,
        control: Control,
        progress: Progress,
        services: Callable[[str], ServiceHandle],
    ) -> Any:
        """Run pipelines, or one callable, and return when that is over.

        Pipelines run one after another, in order of declaration; those whose sources have no end run beside the
        others. Function objects are made, opened, used and closed once per run and replica: all objects of a pipeline
        are open before its first record, and those that share a loop are closed in reverse order, also after a
        failure.

        Parameters
        ----------
        pipelines : sequence of Pipeline
            As the graph gives them.
        control : Control
            Ends the run: after ``drain()`` it returns as if the sources had ended, after ``cancel()`` its
            value means nothing. A callable has to look for itself.
        progress : Progress
            Of the same pipelines.
        services : callable
            ``name -> ServiceHandle``, for functions that ask for services.

        Returns
        -------
        object
            The callable's value; else the list of ``collect()``, a list of their lists for several, None for
            none.

        Raises
        ------
        BaseException
            The first failure: the very exception that the user's function raised, with a note that names
            operator and record. A ``close()`` that failed after it is a further note.
        """
