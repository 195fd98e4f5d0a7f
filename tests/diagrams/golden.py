"""Pictures and pages kept in the repository; ``UPDATE_GOLDEN=1 pytest tests/diagrams`` makes them anew."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """Assert that `text` is what is kept under `name`, or keep it if the update was asked for."""
    path = FOLDER / name
    lines = text.replace("><", ">\n<") + "\n"  # one element a line, so that a change can be read
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(lines, encoding="utf-8")
    assert path.exists(), f"{path} is missing; make it with: UPDATE_GOLDEN=1 pytest tests/diagrams"
    kept = path.read_text(encoding="utf-8")
    assert lines == kept, f"{name} has changed; look at it, then: UPDATE_GOLDEN=1 pytest tests/diagrams"
