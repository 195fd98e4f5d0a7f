"""``autostop-lab``: what can be done from a terminal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType

from autostop_lab import __version__
from autostop_lab.cli.demo import INTERRUPTED, run_demo
from autostop_lab.cli.doctor import run_doctor
from autostop_lab.cli.notebook import DemoError
from autostop_lab.cli.sessions import run_status, run_sweep

COMMANDS = ("demo", "doctor", "status", "sweep")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="autostop-lab",
        description="Services that live exactly as long as the job that needs them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"autostop-lab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    demo_parser = commands.add_parser(
        "demo",
        help="run the quickstart notebook here in the terminal",
        description="Run the quickstart notebook, cell by cell, in a Jupyter kernel of this Python.",
        epilog="Ctrl-C interrupts the cell that runs, cleans up and ends with status 130.",
        allow_abbrev=False,
    )
    demo_parser.add_argument("--redis", action="store_true", help="store in a real redis-server in place of SQLite")
    demo_parser.add_argument(
        "--notebook", type=Path, metavar="PATH", help="run this notebook in place of the quickstart"
    )
    demo_parser.set_defaults(run=run_demo)
    doctor_parser = commands.add_parser(
        "doctor",
        help="say what this machine can promise",
        description="Look at this machine and say in words what can be promised on it, and what to do where it cannot.",
        epilog="The status is 0, also where something is limited or missing; 1 if nothing can be promised.",
        allow_abbrev=False,
    )
    doctor_parser.set_defaults(run=run_doctor)
    status_parser = commands.add_parser(
        "status",
        help="which sessions are here, and which had to be cleaned",
        description="Show the sessions of this user on this machine, and those that ended without closing.",
        allow_abbrev=False,
    )
    status_parser.add_argument("--all", action="store_true", help="show all that ended, not only the last ones")
    status_parser.set_defaults(run=run_status)
    sweep_parser = commands.add_parser(
        "sweep",
        help="clean what dead sessions have left",
        description="End the processes and remove the folders of sessions whose owner and reaper are both dead.",
        epilog="A session whose owner lives is never touched. Every new session does the same in passing.",
        allow_abbrev=False,
    )
    sweep_parser.set_defaults(run=run_sweep)
    for parser_with_json in (doctor_parser, status_parser, sweep_parser):
        parser_with_json.add_argument("--json", action="store_true", help="print JSON")
    return parser


def refuse_unknown_command(parser: argparse.ArgumentParser, arguments: Sequence[str], commands: Sequence[str]) -> None:
    """End with a usage error that names the nearest command, if the first word is none of `commands`."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    if word is not None and word not in commands:
        near = get_close_matches(word, commands, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(commands)}."
        parser.error(f"there is no command {word!r}. {hint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Parameters
    ----------
    arguments : sequence of str or None
        Without the program's name; None for those of the process.

    Returns
    -------
    int
        0 if all went well, 1 if not, 2 for a usage error, 130 if it was interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    refuse_unknown_command(parser, arguments, COMMANDS)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)  # by way of every `finally`

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except DemoError as error:
        print(f"autostop-lab {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        with suppress(OSError):  # else Python complains once more when it flushes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
