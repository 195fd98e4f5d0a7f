"""The law of layers, read from the imports of every module: lower parts do not know upper ones."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "autostop_lab"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the lowest to the highest. Parts of one rank do not know each other.
LAYERS = (
    {"exceptions", "origin"},
    {"lifecycle", "reaper"},
    {"events", "services"},
    {"diagrams", "supervisor", "dataflow"},
    {"engines", "job"},
    {"dispatcher"},
    {"environment"},
    {"jobmanager", "doctor"},
    {"jupyter", "cli", "testing"},
    {"__init__", "__main__"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

# The reaper runs beside a kernel that may be dead, started from a bare interpreter.
STDLIB_ONLY = {"reaper"}

# What the package's own door has for everyone.
DOOR = {"__version__"}

# The door is above all parts and brings each in only when it is asked for, so it may import in functions.
LAZY = {"__init__"}


@dataclass(frozen=True)
class Import:
    """One import of a module: `target` is dotted, `names` are what it takes from there."""

    target: str
    names: tuple[str, ...]
    line: int
    in_function: bool


def imports(path: Path, package: str) -> Iterator[Import]:
    """Find every import of a file, relative ones resolved against `package`, the package it is in."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Import():
                    for alias in child.names:
                        yield Import(alias.name, (), child.lineno, in_function)
                case ast.ImportFrom():
                    base = package.split(".")[: len(package.split(".")) - child.level + 1]
                    target = ".".join([*(base if child.level else []), *filter(None, [child.module])])
                    yield Import(target, tuple(a.name for a in child.names), child.lineno, in_function)
                case ast.Call(
                    func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                    args=[ast.Constant(value=str() as target), *_],
                ):
                    yield Import(target, (), child.lineno, in_function)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, in_function or inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False)


def parts_of(found: Import) -> Iterator[str]:
    """Name the parts of our package that an import reaches; ``__init__`` is the package's own door."""
    first, _, rest = found.target.partition(".")
    if first != PACKAGE:
        return
    if rest:
        yield rest.partition(".")[0]
    elif not found.names:
        yield "__init__"
    else:
        for name in found.names:
            if name not in DOOR:
                yield name if name in RANK else "__init__"


def complaints(root: Path) -> list[str]:
    """Return every breach of the law under `root`, a folder with the package's modules."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        part = place.parts[0].removesuffix(".py")
        if part not in RANK:
            found.append(f"{place}: part {part!r} has no rank")
            continue
        package = ".".join([PACKAGE, *place.parts[:-1]])
        for one in imports(path, package):
            where = f"{place}:{one.line}"
            ours = list(parts_of(one))
            for other in ours:
                if other not in RANK:
                    found.append(f"{where}: part {other!r} has no rank")
                elif other != part and RANK[other] >= RANK[part]:
                    found.append(f"{where}: {part} must not know {other}")
            if ours and one.in_function and part not in LAZY:
                found.append(f"{where}: {one.target} is imported in a function")
            top = one.target.partition(".")[0]
            if part in STDLIB_ONLY and ours != [part] and top not in sys.stdlib_module_names:
                found.append(f"{where}: {part} takes only the standard library, not {one.target}")
    return found


def test_lower_parts_do_not_know_upper_ones() -> None:
    assert complaints(ROOT) == []


@pytest.mark.parametrize(
    ("place", "text", "complaint"),
    [
        ("services/specs.py", "import autostop_lab.job", "services must not know job"),
        ("services/specs.py", "from autostop_lab import job", "services must not know job"),
        ("services/specs.py", "from ..job import report", "services must not know job"),
        ("services/specs.py", "from .. import job", "services must not know job"),
        ("services/specs.py", "import autostop_lab.events", "services must not know events"),
        ("services/specs.py", "from autostop_lab import Service", "services must not know __init__"),
        ("services/specs.py", "import autostop_lab", "services must not know __init__"),
        ("services/specs.py", "if TYPE_CHECKING:\n    import autostop_lab.job", "services must not know job"),
        ("events.py", "import_module('autostop_lab.job')", "events must not know job"),
        ("job/handle.py", "def f():\n    import autostop_lab.events", "is imported in a function"),
        ("job/handle.py", "async def f():\n    from .. import events", "is imported in a function"),
        ("reaper/loop.py", "import psutil", "takes only the standard library"),
        ("reaper/loop.py", "import autostop_lab.exceptions", "takes only the standard library"),
        ("utils.py", "", "has no rank"),
        ("job/handle.py", "import autostop_lab.helpers", "has no rank"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, place: str, text: str, complaint: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(text)

    (found,) = complaints(tmp_path)

    assert found.startswith(place)
    assert complaint in found


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("services/specs.py", "import os, ray\nfrom autostop_lab.lifecycle import Table"),
        ("services/specs.py", "from . import probes\nfrom .probes import TcpReady"),
        ("services/specs.py", "from autostop_lab import __version__, exceptions"),
        ("services/specs.py", "def f():\n    import ray"),
        ("__init__.py", "def load_ipython_extension(shell):\n    from autostop_lab import jupyter"),
        ("reaper/loop.py", "import select\nfrom autostop_lab.reaper import policy\nfrom .lease import Lease"),
        ("cli.py", "from autostop_lab.environment import local\nfrom autostop_lab.jobmanager import server"),
    ],
)
def test_what_the_law_allows_passes(tmp_path: Path, place: str, text: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(text)

    assert complaints(tmp_path) == []
