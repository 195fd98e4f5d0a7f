"""Every notebook runs, and what is saved of its last run can be shown to anyone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks.execution import NOTEBOOKS, ROOT, execute, read

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
LARGEST_BYTES = 100_000
#: The beginning of a path on somebody's machine; "</svg>" and "/* ... */" are none.
ABSOLUTE_PATH = re.compile(r"(?<![\w<./:])/(?:home|root|tmp|usr|opt|var|private|Users|work|mnt)/")

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(notebook: Any, cell_id: str) -> str:
    """Return what a cell has printed or shown as text, its errors among it."""
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain") or "\n".join(output.get("traceback", []))
        for output in cell.outputs
    ]
    return "\n".join(texts)


def test_there_is_a_quickstart() -> None:
    assert "01_quickstart.ipynb" in [path.name for path in PATHS]


@each_notebook
def test_a_saved_notebook_has_been_run_from_its_first_cell_to_its_last(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]

    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@each_notebook
def test_saved_outputs_show_no_path_of_a_machine(path: Path) -> None:
    saved = json.dumps(outputs(read(path)))

    assert ABSOLUTE_PATH.findall(saved) == []
    assert str(ROOT) not in saved
    assert str(Path.home()) + os.sep not in saved


@each_notebook
def test_saved_outputs_need_no_widgets_and_no_scripts(path: Path) -> None:
    notebook = read(path)
    shown = {kind for output in outputs(notebook) for kind in output.get("data", {})}

    assert shown <= {"text/plain", "text/html", "image/svg+xml"}
    assert "widgets" not in notebook.metadata
    assert "<script" not in json.dumps(outputs(notebook))


@each_notebook
def test_a_notebook_is_small_and_has_no_times_of_its_run(path: Path) -> None:
    assert path.stat().st_size < LARGEST_BYTES
    assert not any("execution" in cell.metadata for cell in read(path).cells)


@each_notebook
def test_only_a_cell_that_may_fail_has_failed(path: Path) -> None:
    for cell in read(path).cells:
        failed = any(output.output_type == "error" for output in cell.get("outputs", []))

        assert failed == ("raises-exception" in cell.metadata.get("tags", []))


@pytest.mark.kernel
@each_notebook
def test_a_notebook_runs_and_shows_what_was_saved(path: Path, tmp_path: Path) -> None:
    saved = read(path)
    kinds = [[output.output_type for output in cell.get("outputs", [])] for cell in saved.cells]

    done = execute(read(path), folder=tmp_path)

    assert [[output.output_type for output in cell.get("outputs", [])] for cell in done.cells] == kinds
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kernel
def test_the_quickstart_ends_clean_whatever_its_jobs_do(tmp_path: Path) -> None:
    done = execute(read(NOTEBOOKS / "01_quickstart.ipynb"), folder=tmp_path)

    assert "job 'index' succeeded" in text_of(done, "print-receipt")
    assert "EmptyTopicError: topic 'silence' has no text" in text_of(done, "run-failure")
    for receipt in ("print-receipt", "print-second-receipt"):
        assert "1 service: 1 stopped" in text_of(done, receipt)
        assert "folders that are still there: []" in text_of(done, receipt)
    assert "LEFT BEHIND" not in json.dumps(outputs(done))
