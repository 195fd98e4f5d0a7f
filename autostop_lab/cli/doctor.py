"""``autostop-lab doctor``: what this machine can promise."""

from __future__ import annotations

import argparse

from autostop_lab.doctor import as_json, as_text, look


def run_doctor(options: argparse.Namespace) -> int:
    """Print what this machine can promise; 1 if that is nothing."""
    facts = look()
    print(as_json(facts) if options.json else as_text(facts))
    return 0 if facts.can_promise else 1
