"""Where a process comes from, as a person would say it."""

from __future__ import annotations

import os
import sys


def current_place() -> str:
    """Return what tells this process from others for a person: its notebook, else its script, else its folder."""
    if notebook := os.environ.get("JPY_SESSION_NAME"):
        return notebook
    script: str | None = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        # A kernel's script is the same for all kernels.
        return os.getcwd() if script is None or "ipykernel" in script else os.path.abspath(script)
    except FileNotFoundError:  # its working directory was removed
        return script or ""
