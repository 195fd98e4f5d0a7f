"""Make the outputs of the notebooks and README's picture anew: ``python -m tests.notebooks.refresh``.

The picture is of the job in README's section "The receipt", which needs redis-server and the package redis.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

from autostop_lab import CleanupWarning
from autostop_lab.diagrams import lifecycle_svg
from tests.notebooks.execution import NOTEBOOKS, execute, read, write
from tests.test_readme_code import SCRIPTS

PICTURE = NOTEBOOKS / "images" / "job.svg"


def refresh_notebooks() -> None:
    """Run each notebook and store it with the outputs of this run."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(read(path), folder=Path(folder))
        write(notebook, path)
        print(path.name)


def refresh_picture() -> None:
    """Run README's job and draw it."""
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", CleanupWarning)  # one of its services is there to be killed
        for block in SCRIPTS["The receipt"]:
            exec(compile(block.code, "README.md", "exec"), namespace)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(lifecycle_svg(namespace["job"].snapshot()) + "\n", encoding="utf-8")
    print(PICTURE.name)


if __name__ == "__main__":
    refresh_notebooks()
    refresh_picture()
