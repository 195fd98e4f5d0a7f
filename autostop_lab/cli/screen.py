"""What is written to the terminal, or without colours and moving lines to a file."""

from __future__ import annotations

import os
import re
from typing import TextIO

_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Screen:
    """Writes what happens to a terminal or, without colours and moving lines, to a file.

    Parameters
    ----------
    out : TextIO
        Where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self._has_progress = False
        self._is_at_line_start = True

    def write(self, text: str) -> None:
        """Write text as the notebook's code has made it."""
        if not text:
            return
        self._clear_progress()
        self._out.write(text if self._has_colour else _ESCAPE.sub("", text))
        self._out.flush()
        self._is_at_line_start = text.endswith("\n")

    def line(self, text: str = "", style: str = "") -> None:
        """Write a line of ours; `style` is ``"bold"``, ``"dim"``, ``"good"`` or ``"bad"``."""
        if not self._is_at_line_start:
            self.write("\n")
        code = {"bold": "1", "dim": "2", "good": "1;32", "bad": "1;31"}.get(style)
        self.write(f"\x1b[{code}m{text}\x1b[0m\n" if code and text else f"{text}\n")

    def progress(self, text: str) -> None:
        """Show a line that the next one replaces; only on a terminal, and not within a line."""
        if self._is_terminal and self._is_at_line_start:
            self._out.write(f"\r\x1b[K{text}")
            self._out.flush()
            self._has_progress = True

    def _clear_progress(self) -> None:
        if self._has_progress:
            self._out.write("\r\x1b[K")
            self._has_progress = False
