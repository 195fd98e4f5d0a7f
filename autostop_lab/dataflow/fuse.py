"""One generated Python loop for the operators of a pipeline.

Per record the loop does what a plain loop of the user's would do, and nothing else: each operator's call is a
line of its own, so the traceback's line tells which operator failed, and the gate's item tells which record.
Only behind a filter and a flatmap, where numbers change, a local variable counts.

The gate is a list of the numbers 0, 1, 2 ... : as many records are taken as it has items, and who empties it
ends the loop before it takes another one (`control`).
"""

from __future__ import annotations

import linecache
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, TracebackType
from typing import Any, TypeAlias

from autostop_lab.dataflow.describe import repr_short
from autostop_lab.dataflow.functions import is_iterable
from autostop_lab.dataflow.graph import Kind

#: ``(gate, records) -> counts``: records taken, then the records behind each filter and flatmap.
RunBatch: TypeAlias = Callable[[list[int], Iterator[Any]], tuple[int, ...]]
#: Gets the counts when the gate is empty within a flatmap's records; returns whether to discard the rest.
Pause: TypeAlias = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a batch failed.

    Attributes
    ----------
    position : int or None
        Position of the operator; None where it was none of them, as for an interrupt between two lines.
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
    """The generated loop of one pipeline.

    Attributes
    ----------
    text : str
        The program.
    calls : tuple of str
        Names in it of the functions of the operators behind the source, in order.
    counters : tuple of str
        Names in it of the numbers of records behind each filter and flatmap.
    positions : mapping
        ``line -> position of the operator`` to which the line belongs.
    loops : mapping
        ``line -> name`` of what is iterated there, for lines that iterate what a flatmap's function returned.
    """

    text: str
    calls: tuple[str, ...]
    counters: tuple[str, ...]
    positions: Mapping[int, int]
    loops: Mapping[int, str]

    def bind(self, functions: Sequence[Callable[[Any], Any]], pause: Pause) -> RunBatch:
        """Return the loop that calls `functions`.

        Parameters
        ----------
        functions : sequence of callable
            One for each operator behind the source.
        pause : callable
            Gets the counts when the gate is found empty within the records of a flatmap; returns whether to
            discard the rest of them.

        Returns
        -------
        callable
            ``(gate, records) -> counts``.
        """
        namespace: dict[str, Any] = {}
        exec(compiled(self.text), namespace)
        run_batch: RunBatch = namespace["bind"](*functions, pause)
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
        hint = ""
        returned = values.get(self.loops.get(line, ""), ())
        if not is_iterable(returned):
            hint = f"it returned {repr_short(returned)}, which is not iterable; return a list, or use yield"
        return Failure(position, counts, index + 1 if position == 0 else index, hint)


def fuse(kinds: Sequence[Kind], labels: Iterable[str]) -> FusedLoop:
    """Generate the loop of a pipeline.

    Parameters
    ----------
    kinds : sequence of Kind
        Of its operators, the source first.
    labels : iterable of str
        What the operators are called, for who reads the line in a traceback.

    Returns
    -------
    FusedLoop
        The loop, to be bound to functions.
    """
    calls = tuple(f"{kind}_{position}" for position, kind in enumerate(kinds) if position)
    counters = tuple(f"count_{position}" for position, kind in enumerate(kinds) if kind.changes_count)
    counts = ", ".join(["index + 1", *counters])
    lines = [
        f"def bind({', '.join([*calls, 'pause'])}):",
        "    def run_batch(gate, records):",
        "        __tracebackhide__ = True",
        "        index = -1",
        *(f"        {counter} = 0" for counter in counters),
    ]
    positions: dict[int, int] = {}
    loops: dict[int, str] = {}
    indent = " " * 8

    def add(position: int, line: str, note: str = "") -> None:
        lines.append(f"{indent}{line}{note}")
        positions[len(lines)] = position

    for position, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
        note = f"  # {label if label.isprintable() else ascii(label)}"
        match kind:
            case Kind.SOURCE:
                add(position, "for index, record in zip(gate, records):", note)
                indent += "    "
            case Kind.MAP:
                add(position, f"record = map_{position}(record)", note)
            case Kind.FILTER:
                add(position, f"if not filter_{position}(record):", note)
                add(position, "    continue")
                add(position, f"count_{position} += 1")
            case Kind.FLATMAP:
                add(position, f"many_{position} = flatmap_{position}(record)", note)
                add(position, f"for record in many_{position}:", note)
                loops[len(lines)] = f"many_{position}"
                indent += "    "
                add(position, f"if not gate and pause({counts}):")
                add(position, "    break")
                add(position, f"count_{position} += 1")
            case _:
                add(position, f"{kind}_{position}(record)", note)
    lines += [f"        return ({counts},)", "    return run_batch"]
    return FusedLoop("\n".join(lines) + "\n", calls, counters, positions, loops)


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
