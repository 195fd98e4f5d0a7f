"""``autostop-lab status`` and ``sweep``: sessions of this user on this machine, and the end of dead ones."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from autostop_lab.environment.aftermath import describe_death, describe_session
from autostop_lab.reaper.deaths import deaths
from autostop_lab.reaper.sweep import sessions, sweep

#: Deaths that ``status`` shows without ``--all``.
SHOWN_DEATHS = 10


def run_status(options: argparse.Namespace) -> int:
    """Print which sessions there are, and which had to be cleaned."""
    here, gone = sessions(), deaths()
    shown = gone if options.all else gone[-SHOWN_DEATHS:]
    if options.json:
        print(json.dumps({"sessions": [asdict(s) for s in here], "deaths": [asdict(d) for d in shown]}, default=str))
        return 0
    print("\n".join(map(describe_session, here)) or "no session of yours is here.")
    if shown:
        print("\nended without closing, and cleaned since:")
        print("\n".join(map(describe_death, shown)))
    if len(shown) < len(gone):
        print(f"({len(gone) - len(shown)} older ones: --all)")
    return 0


def run_sweep(options: argparse.Namespace) -> int:
    """Clean what dead sessions left, and print what was done; 1 if something could not be done."""
    done = sweep()
    if options.json:
        print(json.dumps([asdict(death) for death in done]))
    else:
        print("\n".join(map(describe_death, done)) or "nothing to clean: no session here is dead and left alone.")
    return 1 if any(death.problems for death in done) else 0
