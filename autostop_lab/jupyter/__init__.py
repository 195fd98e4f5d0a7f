"""The view in IPython and Jupyter: magics, display, completion. It sends orders and never reaches into the core."""

from __future__ import annotations

from typing import Any

from autostop_lab.jupyter.extension import Extension

_extensions: dict[int, Extension] = {}


def load(shell: Any) -> None:
    """Register magics, completion and top-level await with an IPython shell; twice changes nothing."""
    if id(shell) not in _extensions:
        _extensions[id(shell)] = Extension(shell)
        _extensions[id(shell)].load()


def unload(shell: Any) -> None:
    """Take everything away again; jobs that run go on."""
    extension = _extensions.pop(id(shell), None)
    if extension is not None:
        extension.unload()
