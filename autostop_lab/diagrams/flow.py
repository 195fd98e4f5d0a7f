"""The dataflow: its operators from left to right, with the records on its edges."""

from __future__ import annotations

from collections.abc import Iterator

from autostop_lab.diagrams.shapes import MARGIN, WIDTH, Column, Drawing, cell, line, signed
from autostop_lab.diagrams.snapshot import FlowNode, FlowSnapshot
from autostop_lab.diagrams.styles import STATE_STYLES, Theme
from autostop_lab.diagrams.text import short_number, width
from autostop_lab.lifecycle import JobState

_BOX_W, _BOX_H, _GAP_MIN = 128, 42, 84
_ROW = 64
_FAILED = STATE_STYLES[JobState.FAILED]


def places(nodes: tuple[FlowNode, ...]) -> list[tuple[int, int]]:
    """Return column and row of each operator: one column after the last of its inputs, in the row of the first.

    Parameters
    ----------
    nodes : tuple of FlowNode
        Each after those whose records it takes.
    """
    found: list[tuple[int, int]] = []
    taken: set[tuple[int, int]] = set()
    for node in nodes:
        inputs = [found[at] for at in node.inputs]
        column = max((column for column, _ in inputs), default=-1) + 1
        row = inputs[0][1] if inputs else len({row for _, row in taken})
        while (column, row) in taken:
            row += 1
        taken.add((column, row))
        found.append((column, row))
    return found


def flow_width(flow: FlowSnapshot) -> float:
    """Return how wide the picture of a dataflow has to be: a long one is wider than the others."""
    columns = max((column for column, _ in places(flow.nodes)), default=0) + 1
    return max(WIDTH, 2 * MARGIN + columns * _BOX_W + (columns - 1) * _GAP_MIN)


def flow_graph(flow: FlowSnapshot, theme: Theme) -> Drawing:
    """Draw the operators and, on the edges between them, how many records and how many a second."""
    at = places(flow.nodes)
    columns = max((column for column, _ in at), default=0) + 1
    rows = max((row for _, row in at), default=0) + 1
    room = flow_width(flow) - 2 * MARGIN - _BOX_W
    pitch = room / (columns - 1) if columns > 1 else 0.0
    pitch = min(pitch, _BOX_W + 170)
    spots = [(MARGIN + column * pitch, 14 + row * _ROW) for column, row in at]
    out: list[str] = []
    for spot, node in zip(spots, flow.nodes, strict=True):
        for source in node.inputs:
            out += _edge(spots[source], spot, flow.nodes[source], theme)
    for spot, node in zip(spots, flow.nodes, strict=True):
        out += _node(spot, node, theme)
    return Drawing(14 + rows * _ROW, "".join(out))


def _edge(start: tuple[float, float], end: tuple[float, float], source: FlowNode, theme: Theme) -> Iterator[str]:
    (x0, y0), (x1, y1) = (start[0] + _BOX_W, start[1] + _BOX_H / 2), (end[0], end[1] + _BOX_H / 2)
    middle = x0 + (x1 - x0) / 2 if y0 != y1 else x0
    bend = f"H{middle:g}V{y1:g}" if y0 != y1 else ""
    yield (
        f'<path d="M{x0:g} {y0:g}{bend}H{x1 - 6:g}" fill="none" stroke="{theme.line}" stroke-width="1.5"/>'
        f'<path d="M{x1:g} {y1:g}l-9 -3.8v7.6Z" fill="{theme.line}"/>'
    )
    if y0 != y1:
        return
    room = x1 - x0 - 12
    if source.records is not None:
        words = short_number(source.records)
        if width(words, 11) <= room:
            yield line(words, x0 + room / 2, y0 - 6, size=11, anchor="middle", bold=False)
    if source.per_s is not None:
        words = f"{short_number(source.per_s)}/s"
        if width(words, 10) <= room:
            yield line(words, x0 + room / 2, y0 + 15, size=10, fill=theme.muted, anchor="middle")


def _node(spot: tuple[float, float], node: FlowNode, theme: Theme) -> Iterator[str]:
    x, y = spot
    edge = theme.colour(_FAILED) if node.errors else theme.line
    column = Column(x + 10, _BOX_W - 20)
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="{_BOX_W}" height="{_BOX_H}" rx="8" fill="{theme.raised}" '
        f'stroke="{edge}" stroke-width="{2 if node.errors else 1}"/>'
    )
    yield cell(node.name, column, y + 18, bold=True)
    if node.errors:
        yield signed(f"{short_number(node.errors)} failed", _FAILED, column, y + 34, theme=theme, size=11)
    else:
        records = f", {short_number(node.records)}" if node.kind == "sink" and node.records is not None else ""
        yield cell(f"{node.kind}{records}", column, y + 34, size=11, fill=theme.muted)
