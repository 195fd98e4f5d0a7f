"""Programs that services of the chaos tests are."""

from __future__ import annotations

import sys
from pathlib import Path

SLEEP = ["sleep", "1000"]


def python(code: str) -> list[str]:
    """Return the argv of a small Python program."""
    return [sys.executable, "-S", "-E", "-u", "-c", code]


def sh(code: str) -> list[str]:
    """Return the argv of a small shell program."""
    return ["sh", "-c", code]


def deaf(pid_file: Path | None = None) -> list[str]:
    """Return a program that ignores the polite signal and says "up"; its pid is written into a file."""
    note = f"echo $$ >> '{pid_file}'; " if pid_file is not None else ""
    return sh(f"trap '' TERM; {note}echo up; exec sleep 1000")


def polite(pid_file: Path | None = None) -> list[str]:
    """Return a program that obeys the polite signal and says "up"; its pid is written into a file."""
    note = f"echo $$ >> '{pid_file}'; " if pid_file is not None else ""
    return sh(f"{note}echo up; exec sleep 1000")
