"""The code of README runs, section by section, and prints what README says that it prints (figures aside)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BREAK = "--- the next block ---"


@dataclass(frozen=True)
class Block:
    """Code, and what README says that it prints (None where it says nothing)."""

    code: str
    shown: str | None

    @property
    def is_cell(self) -> bool:
        """Whether it is for a notebook."""
        return self.code.startswith("%")


def sections() -> dict[str, list[Block]]:
    """Return the Python code of each section; a ``text`` block right after code is its output."""
    found: dict[str, list[Block]] = {}
    for section in re.split(r"^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        fences = FENCE.findall(section)
        blocks = [
            Block(code, following[1] if following[0] == "text" else None)
            for (language, code), following in pairwise([*fences, ("", "")])
            if language == "python"
        ]
        if blocks:
            found[section.splitlines()[0]] = blocks
    return found


SECTIONS = sections()
CELLS = {title: blocks for title, blocks in SECTIONS.items() if any(block.is_cell for block in blocks)}
SCRIPTS = {title: blocks for title, blocks in SECTIONS.items() if title not in CELLS}


def needs(blocks: list[Block]) -> str:
    """Return what is missing here to run blocks, or ""."""
    if any('"redis-server"' in block.code for block in blocks):
        if shutil.which("redis-server") is None:
            return "redis-server is not installed"
        if find_spec("redis") is None:
            return "the package redis is not installed"
    return ""


def without_figures(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "0", text.strip())


def test_there_is_code_for_scripts_and_for_notebooks() -> None:
    assert len(SCRIPTS) >= 4
    assert len(CELLS) == 1


@pytest.mark.parametrize("title", SCRIPTS)
def test_the_code_of_a_section_prints_what_the_section_says(title: str, tmp_path: Path) -> None:
    blocks = SCRIPTS[title]
    if missing := needs(blocks):
        pytest.skip(missing)
    script = tmp_path / "section.py"
    script.write_text(f"\nprint({BREAK!r})\n".join(block.code for block in blocks), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    for block, printed in zip(blocks, done.stdout.split(BREAK + "\n"), strict=True):
        if block.shown is not None:
            assert without_figures(printed) == without_figures(block.shown)


@pytest.mark.kernel
@pytest.mark.parametrize("title", CELLS)
def test_the_cells_of_a_section_run_in_a_kernel(title: str, tmp_path: Path) -> None:
    from tests.notebooks.execution import execute, notebook_of

    notebook = execute(notebook_of([block.code for block in CELLS[title]]), folder=tmp_path)

    assert all(cell.execution_count for cell in notebook.cells)
