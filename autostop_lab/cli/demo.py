"""``autostop-lab demo``: the quickstart notebook in the terminal.

It runs cell by cell in a Jupyter kernel of this very interpreter, and the terminal shows what the notebook would
show. Afterwards the demo looks, from outside, for processes that the notebook left.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from importlib.util import find_spec

from autostop_lab.cli.kernel import Ending, Kernel, running_kernel
from autostop_lab.cli.notebook import Cell, DemoError, find_quickstart, read_cells
from autostop_lab.cli.screen import Screen
from autostop_lab.reaper.processes import Process, find_owned
from autostop_lab.reaper.session import current_session

#: How long what is just ending may take before it counts as left, in seconds, from the end of the kernel.
SETTLING_S = 5.0
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def left_processes(session_id: str) -> list[Process]:
    """Return the processes that carry `session_id`, once those that are just ending have had their time."""
    deadline = time.monotonic() + SETTLING_S
    while left := find_owned(frozenset({session_id}), since="").get(session_id, []):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def missing_for_redis() -> list[str]:
    """Return what the demo with redis needs and does not find, each with the way to get it."""
    missing = []
    if shutil.which("redis-server") is None:
        missing.append(
            "The program redis-server is not on the PATH. Install it with: sudo apt-get install redis-server "
            "(Debian, Ubuntu), or: brew install redis (macOS)."
        )
    if find_spec("redis") is None:
        missing.append(
            f"The Python package redis is not installed. Install it with: {sys.executable} -m pip install redis"
        )
    return missing


def run_demo(options: argparse.Namespace) -> int:
    """Run the quickstart in the terminal; return 0 if each cell ended as it should, else 1, or 130 if interrupted."""
    screen = Screen(sys.stdout)
    began_s = time.monotonic()
    missing = missing_for_redis() if options.redis else []
    if missing:
        raise DemoError("\n".join(["--redis cannot run here, and nothing was started.", *missing]))
    path = options.notebook or find_quickstart()
    cells = read_cells(path, {"STORE": "redis"} if options.redis else {})
    python = ".".join(map(str, sys.version_info[:3]))
    screen.line(f"{path.name}: {len(cells)} cells, in a Jupyter kernel of Python {python}", "bold")
    screen.progress("starting the kernel ...")
    session = current_session()
    verdict, status = "", 0
    try:
        with running_kernel(session.path) as kernel:
            for number, cell in enumerate(cells, 1):
                ending = run_cell(kernel, cell, f"[{number}/{len(cells)}] {cell.title}", screen)
                if ending.was_interrupted:
                    raise KeyboardInterrupt
                if ending.error and not cell.may_fail:
                    verdict, status = f"Cell {number} ({cell.title}) failed: {ending.error}.", 1
                    break
        took = f"{time.monotonic() - began_s:.1f} s"
        verdict = verdict or f"All {len(cells)} cells ended as they should, in {took}."
    except KeyboardInterrupt:
        verdict, status = "Interrupted.", INTERRUPTED
    except DemoError as error:
        verdict, status = f"It could not go on: {error}", 1
    left = left_processes(session.id)
    pids = ", ".join(str(process.pid) for process in left)
    after = f"Still there: pid {pids}." if left else "The kernel is shut down, and no process is left."
    screen.line()
    screen.line(f"{verdict} {after}", "bad" if status or left else "good")
    return status or bool(left)


def run_cell(kernel: Kernel, cell: Cell, headline: str, screen: Screen) -> Ending:
    """Show a cell's code, run it, and say how long it took."""
    screen.line()
    screen.line(headline, "bold")
    for line in cell.source.strip().splitlines():
        screen.line(f"  | {line}".rstrip(), "dim")
    ending = kernel.run(cell.source, screen, lambda elapsed_s: screen.progress(f"running, {elapsed_s:.1f} s"))
    how = "interrupted" if ending.was_interrupted else "failed" if ending.error else "done"
    as_meant = ", as it should" if ending.error and cell.may_fail and not ending.was_interrupted else ""
    screen.line(f"{how} after {ending.elapsed_s:.2f} s{as_meant}", "dim")
    return ending
