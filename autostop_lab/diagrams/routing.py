"""The arrows of a graph led around its states, on a grid, each with a place for its words.

A search for the cheapest way (A*) over points of a grid: bends and crossings cost, two arrows never
share a line, no arrow runs through a state or through another's words. The same plan always gives the same
picture. One picture takes about a tenth of a second, so the ways of a table are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

from autostop_lab.diagrams.graph import Arrow, Plan, arrows, plan_of
from autostop_lab.diagrams.text import width
from autostop_lab.lifecycle import Table

UNIT = 10  # pixels between two points of the grid
HALF_WIDTH, HALF_HEIGHT = 6, 2  # of a state, in grid units
LABEL_SIZE = 11  # pixels
LABEL_LINE = 13  # pixels from one line of words to the next

_BEND, _CROSSING, _CLOSE = 7, 12, 1.5
_BORDER, _THROUGH = 30, 1  # to run along the border of a frame; through one that it has no business in
_OFF_CENTRE = 1.5  # for a port beside the middle of a side, per grid unit
_CROWDED = 20  # for a port beside one that is taken
_SHARED = 1000  # never worth it while there is another way
_HEAD = 12  # pixels at the end of an arrow that its head needs
_LABEL_WIDTH = 96  # pixels; longer words are broken at their commas

Point = tuple[int, int]
_SIDES: tuple[Point, ...] = ((1, 0), (-1, 0), (0, -1), (0, 1))


class Box(NamedTuple):
    """A rectangle, in pixels or grid units."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def grown(self, by: float) -> Box:
        """Return it larger on all sides."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by)


@dataclass(frozen=True)
class Way:
    """An arrow with the corners of its line, in pixels, and its words.

    The words stand in `label_box`, on the straight run of the line that begins at corner `label_run`.
    """

    arrow: Arrow
    corners: tuple[tuple[float, float], ...]
    label: tuple[str, ...]
    label_box: Box
    label_run: int


@dataclass(frozen=True)
class Drawing:
    """Everything that the picture of a table needs, in pixels."""

    width: int
    height: int
    states: dict[str, Box]
    frames: tuple[Box, ...]
    initial: Box
    ways: tuple[Way, ...]


def wrap(triggers: Iterable[str]) -> tuple[str, ...]:
    """Break a list of triggers into lines of words."""
    lines: list[str] = []
    for trigger in triggers:
        joined = f"{lines[-1]} / {trigger}" if lines else trigger
        if lines and width(joined, LABEL_SIZE) <= _LABEL_WIDTH:
            lines[-1] = joined
        else:
            lines.append(trigger)
    return tuple(lines)


@lru_cache(maxsize=16)
def drawing_of(table: Table[Any, Any]) -> Drawing:
    """Return the places and ways for a table.

    Raises
    ------
    ValueError
        It is a table of other states than services and jobs have.
    """
    return _Router(plan_of(table), str(table.initial)).draw(arrows(table, plan_of(table).frames))


class _Router:
    """The grid, and what is on it already."""

    def __init__(self, plan: Plan, initial: str) -> None:
        self.plan = plan
        self.boxes: dict[str, Box] = {}
        for state in plan.places:
            x, y = plan.centre(state)
            self.boxes[state] = Box(x - HALF_WIDTH, y - HALF_HEIGHT, x + HALF_WIDTH, y + HALF_HEIGHT)
        self.states = dict(self.boxes)
        for frame in plan.frames:
            inside = [self.boxes[state] for state in frame.members]
            self.boxes[frame.name] = Box(
                min(box.left for box in inside),
                min(box.top for box in inside),
                max(box.right for box in inside),
                max(box.bottom for box in inside),
            ).grown(frame.margin)
        first = self.boxes[initial]
        middle = (first.top + first.bottom) / 2
        self.initial = Box(first.left - 3, middle - 0.5, first.left, middle + 0.5)
        # What no line runs through, and the lines that there are: points with the lines through them.
        self.closed = set(_points(self.initial))
        for box in self.states.values():
            self.closed |= set(_points(box))
        self.near = {p for box in self.states.values() for p in _points(box.grown(1))} - self.closed
        self.borders = {p for frame in plan.frames for p in _outline(self.boxes[frame.name])}
        # Where both ways between two states are drawn, they stand on both sides of the middle.
        self.both: set[frozenset[str]] = set()
        self.ports: set[Point] = set()
        self.across: set[Point] = set()
        self.down: set[Point] = set()
        self.labels: list[Box] = []

    def draw(self, graph: tuple[Arrow, ...]) -> Drawing:
        """Lead every arrow, the short ones first, and put the words on them."""
        ways: dict[Arrow, Way] = {}
        ends = {(arrow.source, arrow.target) for arrow in graph}
        self.both = {frozenset(pair) for pair in ends if pair[::-1] in ends}
        for arrow in sorted(graph, key=lambda one: (self._distance(one), one.source, one.target)):
            path = self._search(arrow)
            self._occupy(path)
            self.ports |= {path[0], path[-1]}
            ways[arrow] = self._label(arrow, path)
        columns, rows = self.plan.size
        return Drawing(
            width=columns * UNIT,
            height=rows * UNIT,
            states={state: _pixels(box) for state, box in self.states.items()},
            frames=tuple(_pixels(self.boxes[frame.name]) for frame in self.plan.frames),
            initial=_pixels(self.initial),
            ways=tuple(ways[arrow] for arrow in graph),
        )

    def _distance(self, arrow: Arrow) -> float:
        """Return how far apart the two ends of an arrow are."""
        a, b = self.boxes[arrow.source], self.boxes[arrow.target]
        return max(a.left - b.right, b.left - a.right, 0) + max(a.top - b.bottom, b.top - a.bottom, 0)

    def _ports(self, name: str, other: str) -> Iterator[tuple[Point, Point, float]]:
        """Yield the points where a line to `other` may leave a box, with direction and price."""
        box = self.boxes[name]
        left, top, right, bottom = map(int, box)
        for x in range(left + 1, right):
            price = self._off_centre(x - (left + right) / 2, name, other)
            yield (x, top), (0, -1), price + self._crowd((x - 1, top), (x + 1, top))
            yield (x, bottom), (0, 1), price + self._crowd((x - 1, bottom), (x + 1, bottom))
        for y in range(top + 1, bottom):
            price = self._off_centre(y - (top + bottom) / 2, name, other)
            yield (left, y), (-1, 0), price + self._crowd((left, y - 1), (left, y + 1))
            yield (right, y), (1, 0), price + self._crowd((right, y - 1), (right, y + 1))

    def _off_centre(self, offset: float, name: str, other: str) -> float:
        """Return the price of a port that is `offset` away from the middle of its side."""
        if name not in self.states:
            return 0
        wanted = 1 if frozenset({name, other}) in self.both else 0
        return _OFF_CENTRE * abs(abs(offset) - wanted)

    def _crowd(self, *beside: Point) -> float:
        """Return the price of a port for what is taken on both sides of it."""
        return _CROWDED * len(self.ports.intersection(beside))

    def _search(self, arrow: Arrow) -> list[Point]:
        """Find the cheapest way for an arrow: the points of the grid that it goes through."""
        goals = {
            point: ((-side[0], -side[1]), price)
            for point, side, price in self._ports(arrow.target, arrow.source)
            if point not in self.ports
        }
        strange = self._strange(arrow)
        goal_box = self.boxes[arrow.target]
        frontier: list[tuple[float, float, Point, Point]] = []
        best: dict[tuple[Point, Point], float] = {}
        came: dict[tuple[Point, Point], tuple[Point, Point] | None] = {}
        for point, side, price in self._ports(arrow.source, arrow.target):
            if point in self.ports:
                continue
            best[point, side] = price
            came[point, side] = None
            heapq.heappush(frontier, (price + _gap(point, goal_box), price, point, side))
        while frontier:
            _, cost, point, heading = heapq.heappop(frontier)
            if cost > best[point, heading]:
                continue
            if point in goals and goals[point][0] == heading and came[point, heading] is not None:
                return _trace(came, (point, heading))
            for side in _SIDES:
                if side == (-heading[0], -heading[1]) or (side != heading and came[point, heading] is None):
                    continue
                onward = (point[0] + side[0], point[1] + side[1])
                step = self._price(onward, side, goals)
                if step is None:
                    continue
                step += _THROUGH if onward in strange else 0
                if side != heading:
                    step += _BEND + (_SHARED if point in self.across or point in self.down else 0)
                total = cost + step
                if total < best.get((onward, side), float("inf")):
                    best[onward, side] = total
                    came[onward, side] = (point, heading)
                    heapq.heappush(frontier, (total + _gap(onward, goal_box), total, onward, side))
        raise ValueError(f"no way from {arrow.source!r} to {arrow.target!r}")

    def _strange(self, arrow: Arrow) -> set[Point]:
        """Return the points in frames in which an arrow neither begins nor ends."""
        return {
            point
            for frame in self.plan.frames
            if not frame.members & {*arrow.sources, arrow.target}
            for point in _points(self.boxes[frame.name])
        }

    def _price(
        self, point: Point, side: Point, goals: dict[Point, tuple[Point, float]]
    ) -> float | None:
        """Return what one step to `point` costs, or None where there is no going."""
        columns, rows = self.plan.size
        if not (0 < point[0] < columns and 0 < point[1] < rows):
            return None
        if point in goals:
            heading, price = goals[point]
            return 1 + price if heading == side else None
        if point in self.closed:
            return None
        along, over = (self.across, self.down) if side[1] == 0 else (self.down, self.across)
        price = 1.0
        if point in along:
            price += _SHARED
        if point in over:
            price += _CROSSING
        if point in self.near:
            price += _CLOSE
        if point in self.borders:
            price += _BORDER if self._runs_along_border(point, side) else 0
        if (point[0] + side[1], point[1] + side[0]) in along:
            price += _CLOSE
        if (point[0] - side[1], point[1] - side[0]) in along:
            price += _CLOSE
        return price

    def _runs_along_border(self, point: Point, side: Point) -> bool:
        """Return whether a step to `point` runs on the border of a frame instead of across it."""
        return (point[0] + side[0], point[1] + side[1]) in self.borders

    def _occupy(self, path: list[Point]) -> None:
        """Note that a line runs here."""
        for (x0, y0), (x1, y1) in pairwise(path):
            line = self.across if y0 == y1 else self.down
            line |= {(x0, y0), (x1, y1)}

    def _label(self, arrow: Arrow, path: list[Point]) -> Way:
        """Choose where on its line the words of an arrow stand, and keep other lines away from there."""
        lines = wrap(arrow.triggers)
        wide = max(width(line, LABEL_SIZE, bold=True) for line in lines) + 4
        high = LABEL_LINE * len(lines) + 3
        corners = _corners(path)
        own = set(path)
        choices = []
        for run, ((x0, y0), (x1, y1)) in enumerate(pairwise(corners)):
            last = (x1, y1) == corners[-1]
            length = (abs(x1 - x0) + abs(y1 - y0)) * UNIT - (_HEAD if last else 0)
            room = length - (wide if y0 == y1 else high)
            dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
            for along in range(0, length + 1, UNIT // 2):
                x, y = x0 * UNIT + dx * along, y0 * UNIT + dy * along
                box = Box(x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
                bad = self._in_the_way(box, own)
                choices.append((bad, room < 0, abs(along - length / 2) - min(room, 60), box, run))
        *_, box, run = min(choices)
        self.labels.append(box)
        self.closed |= set(_points(_units(box.grown(1))))
        return Way(arrow, tuple((x * UNIT, y * UNIT) for x, y in corners), lines, box, run)

    def _in_the_way(self, box: Box, own: set[Point]) -> int:
        """Count what words in `box` would hide, or be hidden by."""
        columns, rows = self.plan.size
        page = Box(0, 0, columns * UNIT, rows * UNIT)
        bad = 20 * (box.left < page.left or box.right > page.right)
        bad += 20 * sum(box.meets(_pixels(state).grown(2)) for state in self.states.values())
        bad += 20 * sum(box.grown(2).meets(label) for label in self.labels)
        bad += 20 * box.meets(_pixels(self.initial))
        inside = set(_points(_units(box)))
        bad += len(inside & ((self.across | self.down) - own))
        return bad + len(inside & self.borders)


def _points(box: Box) -> Iterator[Point]:
    """Yield every point of the grid within a box, its border included."""
    for x in range(ceil(box.left), int(box.right) + 1):
        for y in range(ceil(box.top), int(box.bottom) + 1):
            yield x, y


def _outline(box: Box) -> Iterator[Point]:
    """Yield the points of the grid on the border of a box."""
    for x, y in _points(box):
        if x in (box.left, box.right) or y in (box.top, box.bottom):
            yield x, y


def _gap(point: Point, box: Box) -> float:
    """Return how many steps a box is away at least."""
    x, y = point
    return max(box.left - x, 0, x - box.right) + max(box.top - y, 0, y - box.bottom)


def _trace(
    came: dict[tuple[Point, Point], tuple[Point, Point] | None], end: tuple[Point, Point]
) -> list[Point]:
    """Return the points that led to `end`, in their order."""
    points = []
    at: tuple[Point, Point] | None = end
    while at is not None:
        points.append(at[0])
        at = came[at]
    return points[::-1]


def _corners(path: list[Point]) -> list[Point]:
    """Leave out the points of a path at which it goes straight on."""
    middle = [
        b
        for a, b, c in zip(path, path[1:], path[2:], strict=False)
        if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1])
    ]
    return [path[0], *middle, path[-1]]


def _pixels(box: Box) -> Box:
    """Return a box of the grid in pixels."""
    return Box(*(edge * UNIT for edge in box))


def _units(box: Box) -> Box:
    """Return a box of pixels on the grid."""
    return Box(*(edge / UNIT for edge in box))
