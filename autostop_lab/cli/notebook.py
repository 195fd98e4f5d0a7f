"""The code cells of a notebook file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUICKSTART = "01_quickstart.ipynb"


class DemoError(Exception):
    """The demo cannot go on; the text says why, and what to do."""


@dataclass(frozen=True)
class Cell:
    """A code cell of a notebook.

    Attributes
    ----------
    title : str
        The last heading above it.
    source : str
        Its code.
    may_fail : bool
        Whether it is there to show an exception.
    """

    title: str
    source: str
    may_fail: bool = False


def find_quickstart() -> Path:
    """Return the quickstart notebook: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        if (path := folder / "notebooks" / QUICKSTART).is_file():
            return path
    raise DemoError(f"{QUICKSTART} is not there, neither in {package} nor beside it. Install the package again.")


def read_cells(path: Path, parameters: dict[str, Any]) -> list[Cell]:
    """Read the code cells of a notebook, with `parameters` set after its cell tagged ``parameters``.

    Raises
    ------
    DemoError
        It cannot be read, is no notebook, or has no such cell although there are parameters.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        raw_cells = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"]) for cell in notebook["cells"]]
    except OSError as error:
        raise DemoError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DemoError(f"{path} is not a Jupyter notebook (nbformat 4).") from error
    cells: list[Cell] = []
    title = path.name
    is_set = not parameters
    for kind, source, metadata in raw_cells:
        tags = metadata.get("tags", [])
        if kind == "markdown":
            title = next(iter(re.findall(r"^#+ +(.+)$", source, re.MULTILINE)[-1:]), title)
        elif kind == "code" and source.strip():
            if "parameters" in tags and parameters:
                source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
                is_set = True
            cells.append(Cell(title, source, "raises-exception" in tags))
    if not is_set:
        raise DemoError(f"{path.name} has no cell tagged 'parameters', so {', '.join(parameters)} cannot be set.")
    return cells
