"""What lives in the process of a replica: its functions, and the loop that calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from autostop_lab.dataflow.fuse import Exit, Failure, FusedLoop, RunBatch, Step, fuse
from autostop_lab.dataflow.graph import Kind, Operator, Pipeline
from autostop_lab.dataflow.keys import router
from autostop_lab.dataflow.stages import Routing
from autostop_lab.engines.objects import Objects
from autostop_lab.exceptions import UnknownServiceError
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.service import Service
from autostop_lab.services.travel import pack_error


@dataclass(frozen=True)
class Part:
    """What a replica in another process does.

    Attributes
    ----------
    number : int
        Number of the pipeline.
    operators : tuple of Operator
        In the order in which a record passes them.
    exits : tuple of (Exit, int)
        The hops that leave it, each with the number of lists that its records go to.
    has_keys : bool
        Whether records come with keys.
    handles : dict of str to ServiceHandle
        The job's services, which are not this one's to depend on: they live longer anyway.
    """

    number: int
    operators: tuple[Operator, ...]
    exits: tuple[tuple[Exit, int], ...]
    has_keys: bool
    handles: dict[str, ServiceHandle]


@dataclass
class Answer:
    """What has become of a batch.

    Attributes
    ----------
    counts : tuple of int
        What the loop has returned.
    records, marks : list of list
        For each list that leaves: the records, and of each the index in the batch of what it came of.
    dropped : list of (int, Any, int, bytes)
        Place of the operator, record, index, and packed error of each record that was dropped.
    failure : Failure or None
        Where the batch has failed.
    error : bytes
        With what, packed.
    printed : str
        What was printed.
    """

    counts: tuple[int, ...] = ()
    records: list[list[Any]] = field(default_factory=list)
    marks: list[list[int]] = field(default_factory=list)
    dropped: list[tuple[int, Any, int, bytes]] = field(default_factory=list)
    failure: Failure | None = None
    error: bytes = b""
    printed: str = ""


class StageHost(Service):
    """Lives in the other process: makes, opens and closes the functions of a part, and sends batches through it.

    Parameters
    ----------
    part : Part
        What it does.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._loops: dict[int, tuple[FusedLoop, RunBatch]] = {}
        self._lists = sum(lists for _, lists in part.exits)
        self._records: list[list[Any]] = [[] for _ in range(self._lists)]
        self._marks: list[list[int]] = [[] for _ in range(self._lists)]
        self._dropped: list[tuple[int, Any, int, bytes]] = []
        self._objects = Objects(
            Pipeline(part.number, part.operators), part.operators, self._find, given={}, rest=self._rest
        )
        self._is_closed = False

    def _find(self, name: str) -> ServiceHandle:
        handles = self._part.handles
        if name not in handles:
            known = ", ".join(map(repr, handles)) or "none"
            raise UnknownServiceError(f"there is no service {name!r}; the job has {known}.", service=name)
        return handles[name]

    def _rest(self, duration_s: float) -> None:
        self.stopping.wait(duration_s)

    def start(self) -> None:
        """Make and open the functions."""
        self._objects.make()
        self._objects.open()
        self._objects.begin()

    def work(self, tag: int, batch: list[Any]) -> Answer:
        """Send a batch of the stream `tag` through, and return what has become of it."""
        loop, run_batch = self._loops.get(tag) or self._bind(tag)
        answer = Answer(counts=(), records=self._records, marks=self._marks, dropped=self._dropped)
        with redirect_stdout(StringIO()) as out:
            try:
                answer.counts = run_batch(list(range(len(batch))), iter(batch))
            except BaseException as error:
                answer.failure = loop.locate(error.__traceback__)
                if answer.failure is None:
                    raise
                inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
                answer.error = pack_error(error.with_traceback(inner), f"in the process of {self._label()}")
        answer.printed = out.getvalue()
        self._loops.clear()  # they are bound to the lists that leave now
        self._records = [[] for _ in range(self._lists)]
        self._marks = [[] for _ in range(self._lists)]
        self._dropped = []
        return answer

    def _label(self) -> str:
        return " -> ".join(repr(operator.name) for operator in self._part.operators)

    def _bind(self, tag: int) -> tuple[FusedLoop, RunBatch]:
        part = self._part
        loop = fuse(steps_of(part.number, part.operators), [one for one, _ in part.exits], has_keys=part.has_keys)
        bindings: dict[str, Any] = {}
        place = 0
        for number, (one, lists) in enumerate(part.exits):
            puts = [records.append for records in self._records[place : place + lists]]
            marks = [marks.append for marks in self._marks[place : place + lists]]
            place += lists
            is_dealt = one.routing is Routing.HASH
            bindings[f"put_{number}"] = puts if is_dealt else puts[0]
            bindings[f"mark_{number}"] = marks if is_dealt else marks[0]
            if is_dealt:
                bindings[f"route_{number}"] = router(lists)
        for position, step in enumerate(loop.steps):
            if step.is_guarded:
                bindings[f"failed_{position}"] = self._dropper(position)
        functions = [
            self._objects.function(operator, tag)
            for operator in part.operators
            if operator.kind not in (Kind.SOURCE, Kind.FUTURE, Kind.FEEDBACK)
        ]
        bound = self._loops[tag] = loop, loop.bind(functions, lambda *counts: False, **bindings)
        return bound

    def _dropper(self, position: int) -> Callable[[Exception, Any, int], None]:
        dropped = self._dropped

        def failed(error: Exception, record: Any, index: int) -> None:
            inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
            packed = pack_error(error.with_traceback(inner), f"in the process of {self._label()}")
            dropped.append((position, record, index, packed))

        return failed

    def finish(self) -> bytes:
        """Close the functions; return what that failed with, packed, or b""."""
        self._is_closed = True
        failure = self._objects.close(None)
        return pack_error(failure, f"in the process of {self._label()}") if failure is not None else b""

    def stop(self) -> None:
        """Close the functions, if that was not done."""
        if not self._is_closed:
            self.finish()


def steps_of(number: int, operators: Sequence[Operator]) -> list[Step]:
    """Return the operators of a part as its loop takes them."""
    label = Pipeline(number, tuple(operators)).label
    return [Step(one.kind, label(one), one.settings.last_resort != "fail") for one in operators]
