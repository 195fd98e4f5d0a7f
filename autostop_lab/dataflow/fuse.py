"""One generated Python loop for the operators of a stage.

Per record the loop does what a plain loop of the user's would do, and nothing else: each operator's call is a
line of its own, so the traceback's line tells which operator failed, and the gate's item tells which record.
Only where numbers change (behind a filter or a flatmap, and where failing records are dropped) a local variable
counts. Where the stage ends in a hop, the record is appended to a list that somebody else empties.

The gate is a list of the numbers 0, 1, 2 ... : as many records are taken as it has items, and who empties it
ends the loop before it takes another one (`control`).
"""

from __future__ import annotations

import linecache
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, TracebackType
from typing import Any, TypeAlias

from autostop_lab.dataflow.describe import repr_short
from autostop_lab.dataflow.functions import is_iterable
from autostop_lab.dataflow.graph import Kind
from autostop_lab.dataflow.stages import Routing

#: ``(gate, records) -> counts``: index of the last record taken plus one, then one count per counter.
RunBatch: TypeAlias = Callable[[list[int], Iterator[Any]], tuple[int, ...]]
#: Gets the counts now and then within a flatmap's records; returns whether to discard the rest.
Pause: TypeAlias = Callable[..., bool]
#: Within a flatmap's records that go over a hop, there is a pause each so many, so that they do not pile up.
RECORDS_PER_PAUSE = 1024
#: Kinds that call nothing.
WITHOUT_FUNCTION = (Kind.SOURCE, Kind.FUTURE, Kind.FEEDBACK)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator in a loop.

    Attributes
    ----------
    kind : Kind
        What it does.
    label : str
        What it is called, for who reads the line in a traceback.
    is_guarded : bool
        Whether records that fail in it are dropped.
    """

    kind: Kind
    label: str
    is_guarded: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """One hop that leaves a stage.

    Attributes
    ----------
    routing : Routing
        Which replicas get a record; there is one list per replica where keys decide.
    has_keys : bool
        Whether the record leaves with its key.
    """

    routing: Routing = Routing.SHARED
    has_keys: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a batch failed.

    Attributes
    ----------
    position : int or None
        Position in the loop of the operator; None where it was none of them, as for an interrupt between two lines.
    counts : tuple of int
        What the batch would have returned; the failing record counts as taken, unless its source failed.
    index : int
        Index within the batch of the record that failed, or that the source could not give.
    hint : str
        What else there is to say, or "".
    """

    position: int | None
    counts: tuple[int, ...]
    index: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class FusedLoop:
    """The generated loop of one stage, for one of the streams that it takes.

    Attributes
    ----------
    text : str
        The program.
    steps : tuple of Step
        Its operators.
    calls : tuple of str
        Names in it of the functions of its operators, in order.
    counters : tuple of str
        Names in it of what is counted.
    parameters : tuple of str
        Names in it of what else it is bound to, in order: what leaves, who takes failures, and the pause.
    positions : mapping
        ``line -> position of the operator`` to which the line belongs.
    loops : mapping
        ``line -> name`` of what is iterated there, for lines that iterate what a function returned.
    routes : tuple of int
        Lines in which a key is looked up.
    """

    text: str
    steps: tuple[Step, ...]
    calls: tuple[str, ...]
    counters: tuple[str, ...]
    parameters: tuple[str, ...]
    positions: Mapping[int, int]
    loops: Mapping[int, str]
    routes: tuple[int, ...] = ()

    @property
    def keeps_places(self) -> bool:
        """Whether the n-th record that leaves comes from the n-th that was taken."""
        return not self.counters

    def bind(self, functions: Sequence[Callable[..., Any]], pause: Pause, **further: Any) -> RunBatch:
        """Return the loop that calls `functions`.

        Parameters
        ----------
        functions : sequence of callable
            One for each operator but a source.
        pause : callable
            Gets the counts within the records of a flatmap, when the gate is found empty and now and then; returns
            whether to discard the rest of them.
        **further
            What the loop calls at its exits and for failing records, by the names in `parameters`.

        Returns
        -------
        callable
            ``(gate, records) -> counts``.
        """
        namespace: dict[str, Any] = {}
        exec(compiled(self.text), namespace)
        run_batch: RunBatch = namespace["bind"](*functions, pause=pause, **further)
        return run_batch

    def locate(self, traceback: TracebackType | None) -> Failure | None:
        """Find out where a batch failed.

        Parameters
        ----------
        traceback : traceback
            Of the exception, as caught by who called the loop.

        Returns
        -------
        Failure or None
            None if the loop is not the frame below the caller's.
        """
        inner = traceback.tb_next if traceback is not None else None
        if inner is None or inner.tb_frame.f_code.co_filename != filename_of(self.text):
            return None
        values = inner.tb_frame.f_locals
        index: int = values.get("index", -1)
        counts = (index + 1, *(values.get(name, 0) for name in self.counters))
        line = inner.tb_lineno
        position = self.positions.get(line)
        is_source = position is not None and self.steps[position].kind is Kind.SOURCE
        return Failure(position, counts, index + 1 if is_source else index, self._hint(line, values))

    def _hint(self, line: int, values: Mapping[str, Any]) -> str:
        if line in self.routes:
            return f"its key {repr_short(values.get('key'))} is not hashable; return a text, a number or a tuple"
        returned = values.get(self.loops.get(line, ""), ())
        if not is_iterable(returned):
            return f"it returned {repr_short(returned)}, which is not iterable; return a list, or use yield"
        return ""


def fuse(steps: Sequence[Step], exits: Sequence[Exit] = (), *, has_keys: bool = False) -> FusedLoop:
    """Generate the loop of a stage.

    Parameters
    ----------
    steps : sequence of Step
        Its operators; the first one is a source, or the records come over a hop.
    exits : sequence of Exit
        The hops that leave it.
    has_keys : bool
        Whether the records come with keys.

    Returns
    -------
    FusedLoop
        The loop, to be bound to functions.
    """
    return _Writer(tuple(steps), tuple(exits), has_keys).loop()


class _Writer:
    """Writes the program of one loop."""

    def __init__(self, steps: tuple[Step, ...], exits: tuple[Exit, ...], has_keys: bool) -> None:
        self.steps = steps
        self.exits = exits
        self.has_keys = has_keys
        self.calls = [f"{step.kind}_{n}" for n, step in enumerate(steps) if step.kind not in WITHOUT_FUNCTION]
        self.counters = [name for n, step in enumerate(steps) for name in counters_of(step, n)]
        self.parameters = [f"failed_{n}" for n, step in enumerate(steps) if step.is_guarded]
        for n, one in enumerate(exits):
            self.parameters += [f"put_{n}", f"mark_{n}"]
            if one.routing is Routing.HASH:
                self.parameters.append(f"route_{n}")
        self.lines: list[str] = []
        self.positions: dict[int, int] = {}
        self.loops: dict[int, str] = {}
        self.routes: list[int] = []
        self.indent = " " * 8

    def loop(self) -> FusedLoop:
        parameters = ", ".join([*self.calls, *self.parameters, "pause"])
        self.lines += [
            f"def bind({parameters}):",
            "    def run_batch(gate, records):",
            "        __tracebackhide__ = True",
            "        index = -1",
            *(f"        {counter} = 0" for counter in self.counters),
        ]
        if self.steps[0].kind is not Kind.SOURCE:
            self._head(None)
        for position, step in enumerate(self.steps):
            self._step(position, step)
        for number, one in enumerate(self.exits):
            self._exit(number, one)
        counts = ", ".join(["index + 1", *self.counters])
        self.lines += [f"        return ({counts},)", "    return run_batch"]
        return FusedLoop(
            "\n".join(self.lines) + "\n",
            self.steps,
            tuple(self.calls),
            tuple(self.counters),
            tuple(self.parameters),
            self.positions,
            self.loops,
            tuple(self.routes),
        )

    def _add(self, position: int | None, line: str, note: str = "") -> None:
        self.lines.append(f"{self.indent}{line}{note}")
        if position is not None:
            self.positions[len(self.lines)] = position

    def _head(self, position: int | None, note: str = "") -> None:
        record = "(key, record)" if self.has_keys else "record"
        self._add(position, f"for index, {record} in zip(gate, records):", note)
        self.indent += "    "

    def _step(self, position: int, step: Step) -> None:
        note = f"  # {step.label if step.label.isprintable() else ascii(step.label)}"
        call = f"{step.kind}_{position}"
        if step.kind is Kind.SOURCE:
            self._head(position, note)
            return
        if step.kind in WITHOUT_FUNCTION:  # its records come and go over a hop as they are
            return
        if step.is_guarded:
            self._add(position, "try:")
            self.indent += "    "
        match step.kind:
            case Kind.MAP | Kind.COMAP:
                self._add(position, f"record = {call}(record)", note)
            case Kind.KEYBY:
                self._add(position, f"key = {call}(record)", note)
            case Kind.FILTER:
                self._add(position, f"if not {call}(record):", note)
                self._add(position, "    continue")
            case Kind.FLATMAP:
                self._add(position, f"many_{position} = {call}(record)", note)
            case Kind.JOIN:
                self._add(position, f"many_{position} = {call}(record, key)", note)
            case Kind.RESULT:
                self._add(position, f"{call}(record, index)", note)
            case _:
                self._add(position, f"{call}(record)", note)
        if step.is_guarded:
            self.indent = self.indent[:-4]
            self._add(position, "except Exception as error:")
            self._add(position, f"    lost_{position} += 1")
            self._add(position, f"    failed_{position}(error, record, index)", note)
            self._add(position, "    continue")
        if step.kind is Kind.FILTER:
            self._add(position, f"count_{position} += 1")
        if step.kind.multiplies:
            self._many(position, note)

    def _many(self, position: int, note: str) -> None:
        self._add(position, f"for record in many_{position}:", note)
        self.loops[len(self.lines)] = f"many_{position}"
        self.indent += "    "
        counts = ", ".join(["index + 1", *self.counters])
        last = RECORDS_PER_PAUSE - 1
        condition = f"(not gate or count_{position} & {last} == {last})" if self.exits else "not gate"
        self._add(position, f"if {condition} and pause({counts}):")
        self._add(position, "    break")
        self._add(position, f"count_{position} += 1")

    def _exit(self, number: int, one: Exit) -> None:
        last = len(self.steps) - 1
        keyed = max((n for n, step in enumerate(self.steps) if step.kind is Kind.KEYBY), default=last)
        record = "(key, record)" if one.has_keys else "record"
        if one.routing is Routing.HASH:
            self._add(keyed, f"place = route_{number}(key)", "  # to the replica that has this key")
            self.routes.append(len(self.lines))
            self._add(last, f"put_{number}[place]({record})")
            self._add(last, f"mark_{number}[place](index)")
            return
        self._add(last, f"put_{number}({record})")
        if self.counters:
            self._add(last, f"mark_{number}(index)")


def counters_of(step: Step, position: int) -> list[str]:
    """Return the names of what is counted at an operator: what is behind it, and what was dropped in it."""
    names = [f"count_{position}"] if step.kind.changes_count else []
    return [*names, f"lost_{position}"] if step.is_guarded else names


def filename_of(text: str) -> str:
    """Return the name under which a generated program appears in tracebacks."""
    return f"<autostop_lab pipeline {zlib.crc32(text.encode()):08x}>"


@lru_cache(maxsize=256)
def compiled(text: str) -> CodeType:
    """Compile a generated program, and let tracebacks show its lines."""
    filename = filename_of(text)
    # No modification time: linecache then keeps the lines although there is no such file.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return compile(text, filename, "exec")
