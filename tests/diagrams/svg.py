"""What a picture contains, read back from its SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from autostop_lab.diagrams.routing import Box
from autostop_lab.diagrams.text import width

NAMESPACE = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "g", "title", "desc", "rect", "circle", "path", "text", "tspan"}
ATTRIBUTES = {
    *("width", "height", "viewBox", "role", "aria-label", "font-family", "font-size", "font-weight"),
    *("x", "y", "cx", "cy", "r", "rx", "d", "transform", "text-anchor"),
    *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray"),
}


class Text(NamedTuple):
    """A line of words, and the box that it takes at most."""

    words: str
    box: Box
    fill: str
    bold: bool


def parse(svg: str) -> ElementTree.Element:
    """Read a picture; it has to be well-formed."""
    return ElementTree.fromstring(svg)


def size(root: ElementTree.Element) -> Box:
    """Return the page."""
    return Box(0, 0, float(root.attrib["width"]), float(root.attrib["height"]))


def texts(root: ElementTree.Element, top: float = 0) -> Iterator[Text]:
    """Yield every line of words with its box; groups are moved downwards only."""
    for child in root:
        moved = child.get("transform", "translate(0 0)").removeprefix("translate(0 ").removesuffix(")")
        if child.tag == f"{NAMESPACE}text":
            words = "".join(child.itertext())
            font, x, y = (float(child.get(key, 12)) for key in ("font-size", "x", "y"))
            bold = child.get("font-weight") == "700"
            wide = width(words, font, bold=bold)
            left = x - wide * {"start": 0, "middle": 0.5, "end": 1}[child.get("text-anchor", "start")]
            box = Box(left, top + y - 0.8 * font, left + wide, top + y + 0.2 * font)
            yield Text(words, box, child.get("fill", ""), bold)
        else:
            yield from texts(child, top + float(moved))


def overlaps(root: ElementTree.Element) -> list[tuple[str, str]]:
    """Return the pairs of lines of words of which one hides a part of the other."""
    pairs = itertools.combinations(texts(root), 2)
    return [(a.words, b.words) for a, b in pairs if a.box.meets(b.box)]


def complaints(svg: str) -> list[str]:
    """Return what every picture has to be, and this one is not."""
    root = parse(svg)
    page = size(root)
    found = [f"{a!r} and {b!r} overlap" for a, b in overlaps(root)]
    for text in texts(root):
        if not (page.left < text.box.left and text.box.right < page.right and text.box.bottom < page.bottom):
            found.append(f"{text.words!r} leaves the page")
    for element in root.iter():
        if element.tag.removeprefix(NAMESPACE) not in ELEMENTS:
            found.append(f"element {element.tag}")
        found += [f"attribute {name}" for name in element.attrib if name not in ATTRIBUTES]
    if root.get("role") != "img" or not root.get("aria-label"):
        found.append("nothing for a screen reader")
    if [child.tag.removeprefix(NAMESPACE) for child in root[:2]] != ["title", "desc"]:
        found.append("title and description have to come first")
    return found
