"""Notebooks run in a real kernel of this interpreter, whatever kernels are installed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import default

#: nbformat's functions have no types.
nbformat: Any = import_module("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
TIMEOUT_S = 60


class ThisInterpreter(KernelSpecManager):
    """Knows one kernel: the interpreter that runs this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        launcher = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(
            argv=[*launcher, "--log-level=ERROR"],
            display_name="Python 3 (ipykernel)",
            language="python",
            env={"PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        )


class ThisKernelManager(AsyncKernelManager):
    """Starts kernels of this interpreter."""

    @default("kernel_spec_manager")
    def _this_interpreter(self) -> KernelSpecManager:
        return ThisInterpreter()


def notebook_of(sources: Sequence[str]) -> Any:
    """Return a notebook with these code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def read(path: Path) -> Any:
    """Return the notebook in a file."""
    return nbformat.read(path, as_version=4)


def write(notebook: Any, path: Path) -> None:
    """Store a notebook."""
    nbformat.write(notebook, path)


def execute(notebook: Any, *, folder: Path) -> Any:
    """Run all cells of a notebook in `folder` and return it, with the outputs of this run and no times.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell failed that is not tagged ``raises-exception``.
    """
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisKernelManager,
        timeout=TIMEOUT_S,
        record_timing=False,
        resources={"metadata": {"path": os.fspath(folder)}},
    )
    done = asyncio.run(client.async_execute())  # in a loop of its own, which does not outlive it
    done.metadata.pop("widgets", None)
    done.metadata["language_info"] = {"name": "python"}
    return done
