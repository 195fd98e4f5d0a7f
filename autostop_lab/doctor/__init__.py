"""What this machine can promise: small looks collect `Facts`, and pure functions judge them and say it in words."""

from __future__ import annotations

from autostop_lab.doctor.facts import Facts, look
from autostop_lab.doctor.findings import Finding, Mark, as_json, as_text, examine, verdict

__all__ = ["Facts", "Finding", "Mark", "as_json", "as_text", "examine", "look", "verdict"]
