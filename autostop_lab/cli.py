"""``autostop-lab``: what can be done from a terminal.

``autostop-lab demo`` runs the quickstart notebook, cell by cell, in a Jupyter kernel of this very interpreter,
and shows in the terminal what the notebook would show. Afterwards it looks, from outside, for processes that the
notebook left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from queue import Empty
from types import FrameType
from typing import Any, TextIO

from autostop_lab import __version__
from autostop_lab.reaper.processes import SESSION_VARIABLE, Process, find_owned
from autostop_lab.reaper.session import current_session

QUICKSTART = "01_quickstart.ipynb"
#: How often a running cell's time is shown anew and an interrupt is looked for, in seconds.
TICK_S = 0.1
#: How long a kernel may take to answer for the first time, in seconds.
KERNEL_START_TIMEOUT_S = 60.0
#: How long what is just ending may take before it counts as left, in seconds, from the end of the kernel.
SETTLING_S = 5.0
#: Interrupts of one cell that go to the kernel; the next one ends the kernel.
INTERRUPTS_PER_CELL = 2

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class DemoError(Exception):
    """The demo cannot go on; the text says why, and what to do."""


# -- the notebook ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A code cell of a notebook.

    Attributes
    ----------
    title : str
        The last heading above it.
    source : str
        Its code.
    may_fail : bool
        Whether it is there to show an exception.
    """

    title: str
    source: str
    may_fail: bool = False


def find_quickstart() -> Path:
    """Return the quickstart notebook: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package, package.parent):
        if (path := folder / "notebooks" / QUICKSTART).is_file():
            return path
    raise DemoError(f"{QUICKSTART} is not there, neither in {package} nor beside it. Install the package again.")


def read_cells(path: Path, parameters: dict[str, Any]) -> list[Cell]:
    """Read the code cells of a notebook, with `parameters` set after its cell tagged ``parameters``.

    Raises
    ------
    DemoError
        It cannot be read, is no notebook, or has no such cell although there are parameters.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        raw_cells = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"]) for cell in notebook["cells"]]
    except OSError as error:
        raise DemoError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DemoError(f"{path} is not a Jupyter notebook (nbformat 4).") from error
    cells: list[Cell] = []
    title = path.name
    is_set = not parameters
    for kind, source, metadata in raw_cells:
        tags = metadata.get("tags", [])
        if kind == "markdown":
            title = next(iter(re.findall(r"^#+ +(.+)$", source, re.MULTILINE)[-1:]), title)
        elif kind == "code" and source.strip():
            if "parameters" in tags and parameters:
                source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
                is_set = True
            cells.append(Cell(title, source, "raises-exception" in tags))
    if not is_set:
        raise DemoError(f"{path.name} has no cell tagged 'parameters', so {', '.join(parameters)} cannot be set.")
    return cells


# -- the terminal ------------------------------------------------------------------------------------------

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


# -- the kernel --------------------------------------------------------------------------------------------


@dataclass
class Ending:
    """How a cell ended.

    Attributes
    ----------
    elapsed_s : float
        How long it took, in seconds.
    error : str
        Type and text of what it raised, or "".
    was_interrupted : bool
        Whether the user interrupted it.
    """

    elapsed_s: float = 0.0
    error: str = ""
    was_interrupted: bool = False


@dataclass
class Kernel:
    """A running Jupyter kernel, made by `running_kernel`.

    Attributes
    ----------
    manager, client : KernelManager, BlockingKernelClient
        jupyter_client's.
    """

    manager: Any
    client: Any
    _interrupts: int = field(default=0, init=False)

    def run(self, source: str, screen: Screen, on_tick: Callable[[float], None]) -> Ending:
        """Run a cell, write its outputs, and return how it ended.

        Parameters
        ----------
        source : str
            Its code.
        screen : Screen
            Where the outputs go.
        on_tick : callable
            Called several times a second with the seconds so far.

        Raises
        ------
        DemoError
            The kernel died.
        KeyboardInterrupt
            The cell did not end although it was interrupted more than once.
        """
        ending = Ending()
        began_s = time.monotonic()
        request = self.client.execute(source, allow_stdin=False, stop_on_error=False)
        displays: dict[str, str] = {}  # those that may be updated: only the last form is written
        with self._interrupting():
            for message in self._messages(request, lambda: on_tick(time.monotonic() - began_s)):
                content = message["content"]
                match message["msg_type"]:
                    case "stream":
                        screen.write(content["text"])
                    case "display_data" | "execute_result" | "update_display_data":
                        text = content["data"].get("text/plain", "")
                        if display_id := content.get("transient", {}).get("display_id"):
                            displays[display_id] = text
                        else:
                            screen.line(text)
                    case "error":
                        ending.error = f"{content['ename']}: {content['evalue']}".rstrip(": ")
                        _show(displays, screen)
                        screen.line("\n".join(content["traceback"]))
            ending.was_interrupted = self._interrupts > 0
        _show(displays, screen)
        ending.elapsed_s = time.monotonic() - began_s
        return ending

    def _messages(self, request: str, on_tick: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """Yield what the kernel says up to the end of a request, also what threads of earlier cells say."""
        sent = 0
        while True:
            if self._interrupts > INTERRUPTS_PER_CELL:
                raise KeyboardInterrupt
            if self._interrupts > sent:
                sent = self._interrupts
                self.manager.interrupt_kernel()
            try:
                message = self.client.get_iopub_msg(timeout=TICK_S)
            except Empty:
                on_tick()
                if not self.manager.is_alive():
                    raise DemoError("the kernel died.") from None
                continue
            is_ours = message["parent_header"].get("msg_id") == request
            if is_ours and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message

    @contextmanager
    def _interrupting(self) -> Iterator[None]:
        """Count the user's interrupts in place of raising them: they are meant for the cell."""
        self._interrupts = 0

        def count(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        former = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)


def _show(displays: dict[str, str], screen: Screen) -> None:
    for text in filter(None, displays.values()):
        screen.line(text)
    displays.clear()


@contextmanager
def running_kernel(session: str) -> Iterator[Kernel]:
    """Start a kernel of this interpreter, whatever kernels are installed, and shut it down at the end.

    Parameters
    ----------
    session : str
        Its processes carry these ids, so that they can be found.
    """
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import KernelManager

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            launcher = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            # The cells of the demo do not belong into the user's history.
            quiet = ["--HistoryManager.hist_file=:memory:", "--log-level=CRITICAL"]
            return KernelSpec(argv=[*launcher, *quiet], language="python")

    manager = KernelManager(kernel_spec_manager=ThisInterpreter())
    environment = os.environ | {
        SESSION_VARIABLE: session,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger complains of frozen modules
    }
    client: Any = None
    try:
        manager.start_kernel(env=environment)
        client = BlockingKernelClient(**manager.get_connection_info(session=True))
        client.start_channels()
        try:
            client.wait_for_ready(timeout=KERNEL_START_TIMEOUT_S)
        except RuntimeError as error:
            raise DemoError(f"the Jupyter kernel did not start: {error}.") from error
        yield Kernel(manager, client)
    finally:
        # A further Ctrl-C must not leave the kernel; this takes five seconds at most.
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            if client is not None:
                client.stop_channels()
            if manager.has_kernel:
                manager.shutdown_kernel()
        finally:
            signal.signal(signal.SIGINT, former)


def left_processes(session_id: str) -> list[Process]:
    """Return the processes that carry `session_id`, once those that are just ending have had their time."""
    deadline = time.monotonic() + SETTLING_S
    while left := find_owned(frozenset({session_id}), since="").get(session_id, []):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


# -- autostop-lab demo -------------------------------------------------------------------------------------


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


def demo(options: argparse.Namespace) -> int:
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


# -- the command line --------------------------------------------------------------------------------------


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
    demo_parser.set_defaults(run=demo)
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
    refuse_unknown_command(parser, arguments, ["demo"])
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


if __name__ == "__main__":
    sys.exit(main())
