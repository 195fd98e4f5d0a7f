"""States and times as pictures and pages, made from the tables; no Jupyter in here."""

from __future__ import annotations

from autostop_lab.diagrams.lifecycle import fleet_svg, flow_svg, header_svg, lifecycle_svg, timeline_svg
from autostop_lab.diagrams.markup import markdown_table, mermaid
from autostop_lab.diagrams.snapshot import FlowNode, FlowSnapshot, Move, ServiceSnapshot, Snapshot, story
from autostop_lab.diagrams.state_machine import state_machine_svg
from autostop_lab.diagrams.styles import DARK, LIGHT, OUTCOME_STYLES, PAGE, STATE_STYLES, Style, Theme

__all__ = [
    "DARK",
    "LIGHT",
    "OUTCOME_STYLES",
    "PAGE",
    "STATE_STYLES",
    "FlowNode",
    "FlowSnapshot",
    "Move",
    "ServiceSnapshot",
    "Snapshot",
    "Style",
    "Theme",
    "fleet_svg",
    "flow_svg",
    "header_svg",
    "lifecycle_svg",
    "markdown_table",
    "mermaid",
    "state_machine_svg",
    "story",
    "timeline_svg",
]
