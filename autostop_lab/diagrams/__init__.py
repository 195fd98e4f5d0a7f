"""States and times as pictures and pages, made from the tables; no Jupyter in here."""

from __future__ import annotations

from autostop_lab.diagrams.markup import markdown_table, mermaid
from autostop_lab.diagrams.snapshot import ServiceSnapshot, Snapshot, lifecycle_svg
from autostop_lab.diagrams.state_machine import state_machine_svg
from autostop_lab.diagrams.styles import OUTCOME_STYLES, STATE_STYLES, Style

__all__ = [
    "OUTCOME_STYLES",
    "STATE_STYLES",
    "ServiceSnapshot",
    "Snapshot",
    "Style",
    "lifecycle_svg",
    "markdown_table",
    "mermaid",
    "state_machine_svg",
]
