"""What is left when a kernel ends, and for how long, for this package and its peers.

::

    python -m tests.benchmarks.kernel_ends [--peers] [--only NAME ...] [--save]

Real kernels are ended in every way in which kernels end. Measured from the order on: until the kernel's own process
is gone, and until everything that it had started is. ``--peers`` makes an environment of its own in ``.venv-peers``
with ipyparallel, dask and Ray, and runs them in the same go. ``--save`` writes the figures, from which the README's
table is made.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty

import psutil
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("kernel_ends.json")
PEERS_FOLDER = ROOT / ".venv-peers"
PEERS = ("ipyparallel", "distributed", "ray")
TOKEN_VARIABLE = "AUTOSTOP_LAB_BENCHMARK"
#: How long is waited for what stays, in seconds.
PATIENCE_S = 12.0
START_S = 180.0
LOOK_S = 0.005


@dataclass(frozen=True)
class Peer:
    """One system that starts helpers from a notebook.

    Attributes
    ----------
    name : str
        Its name.
    setup : str
        The cell that starts three helpers and returns when they are up.
    busy : str
        The cell that then works for a long time; with the helpers of `setup` if it does not start its own.
    """

    name: str
    setup: str
    busy: str = "print('busy', flush=True)\nimport time\ntime.sleep(600)"


OURS = """
%load_ext autostop_lab
import sys
from autostop_lab import Command, LocalEnvironment, LogReady
class Program(Command):
    argv = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
    ready = LogReady("up")
"""
BARE = Peer("no helpers", "pass")
AUTOSTOP = Peer(
    "autostop_lab",
    OURS
    + "env = LocalEnvironment('helpers')\nfor name in 'abc':\n    env.register_service(name, Program)\nenv.start()",
)
AUTOSTOP_BUSY = Peer(
    AUTOSTOP.name,
    OURS,
    "%%autostop_job busy --service a=Program --service b=Program --service c=Program\n" + BARE.busy,
)
OTHERS = (
    Peer(
        "ipyparallel",
        "import ipyparallel\nclients = ipyparallel.Cluster(n=3).start_and_connect_sync()\nclients[:].apply_sync(int)",
    ),
    Peer(
        "dask",
        "from distributed import LocalCluster, Client\n"
        "cluster = LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None)\nclient = Client(cluster)",
    ),
    Peer(
        "ray",
        "import ray\nray.init(address='local', num_cpus=3, include_dashboard=False, log_to_driver=False)\n"
        "@ray.remote\nclass Helper:\n    def ping(self): return 1\n"
        "helpers = [Helper.remote() for _ in range(3)]\nray.get([helper.ping.remote() for helper in helpers])",
    ),
)


# -- a kernel ----------------------------------------------------------------------------------------------


class Kernel:
    """A kernel, and every process that it has started."""

    def __init__(self, python: str, *, has_server: bool = False) -> None:
        self.token = secrets.token_hex(8)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), TOKEN_VARIABLE: self.token}
        self.server: subprocess.Popen[str] | None = None
        self.manager = KernelManager()
        if has_server:
            self._start_in_server(python)
        else:
            self.manager.kernel_spec.argv[0] = python
            self.manager.start_kernel(env=self.environment, stderr=subprocess.DEVNULL)
            self.pid = self.manager.provisioner.pid
        self.client = self.manager.blocking_client()
        if has_server:  # a client of this manager takes a kernel that it has not started for dead
            self.client = BlockingKernelClient()
            self.client.load_connection_info(self.manager.get_connection_info())
        self.client.start_channels()
        self._wait_for_kernel()
        self.process = psutil.Process(self.pid)
        self.helpers: set[psutil.Process] = set()

    def _wait_for_kernel(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.client.wait_for_ready(timeout=START_S)
            except RuntimeError:  # it takes a slow start for a death
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def _start_in_server(self, python: str) -> None:
        """Start it as the child of another process, as a Jupyter server does."""
        path = tempfile.mktemp(suffix=".json")
        code = (
            "import time\nfrom jupyter_client.manager import KernelManager\n"
            f"m = KernelManager(connection_file={path!r})\nm.kernel_spec.argv[0] = {python!r}\n"
            "m.start_kernel()\nprint(m.provisioner.pid, flush=True)\ntime.sleep(3600)"
        )
        self.server = subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.server.stdout is not None
        self.pid = int(self.server.stdout.readline())
        self.manager.load_connection_file(path)

    def run(self, code: str) -> None:
        """Run a cell to its end."""
        reply = self.client.execute_interactive(code, timeout=START_S, output_hook=lambda _: None)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"the cell failed: {reply['content']}")

    def begin(self, code: str) -> None:
        """Begin a cell, and return when it has printed ``busy``."""
        self.client.execute(code)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(Empty):
                message = self.client.get_iopub_msg(timeout=1)
                if "busy" in message["content"].get("text", ""):
                    return
        raise TimeoutError("the cell did not begin")

    def note_helpers(self) -> None:
        """Note who was started by it: by descent, and by the token in the environment."""
        found = set(self.process.children(recursive=True))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(TOKEN_VARIABLE) == self.token:
                    found.add(process)
        server = {psutil.Process(self.server.pid)} if self.server is not None else set()
        self.helpers |= found - {self.process} - server

    def guards(self) -> set[psutil.Process]:
        """Return what watches over it, and may live as long as it does."""
        return {process for process in self.helpers if "autostop_lab.reaper" in command_of(process)}

    def close(self) -> None:
        """End what is left, each by its identity."""
        self.note_helpers() if self.process.is_running() else None
        self.client.stop_channels()
        for process in {self.process, *(self.helpers - self.guards())}:
            with suppress(psutil.Error):
                process.kill()
        if self.server is not None:
            self.server.kill()
            self.server.communicate()
        else:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs: a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# -- the ends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """One way in which a kernel, or its cell, ends."""

    name: str
    order: Callable[[Kernel], None]
    is_busy: bool = False
    has_server: bool = False
    swallows: bool = False
    spares_kernel: bool = False


def _interrupt(kernel: Kernel) -> None:
    kernel.manager.interrupt_kernel()


def _kill_server(kernel: Kernel) -> None:
    assert kernel.server is not None
    kernel.server.kill()


ENDS = (
    End("shutdown", lambda kernel: kernel.manager.shutdown_kernel()),
    End("restart", lambda kernel: kernel.manager.restart_kernel()),
    End("shutdown at once", lambda kernel: kernel.manager.shutdown_kernel(now=True)),
    End("SIGTERM", lambda kernel: os.kill(kernel.pid, signal.SIGTERM)),
    End("SIGKILL", lambda kernel: os.kill(kernel.pid, signal.SIGKILL)),
    End("server killed", _kill_server, has_server=True),
    End("interrupt of a cell", _interrupt, is_busy=True, spares_kernel=True),
    End("shutdown, cell swallows it", lambda kernel: kernel.manager.shutdown_kernel(), is_busy=True, swallows=True),
)


@dataclass(frozen=True)
class Figure:
    """What one end of one system brought.

    Attributes
    ----------
    system, end : str
        Which.
    started : int
        Processes that the helpers consisted of.
    kernel_s : float or None
        Seconds from the order until the kernel's own process was gone; None where it lives on.
    all_s : float or None
        Seconds until all helpers were gone; None if some stayed.
    left : int
        How many stayed.
    """

    system: str
    end: str
    started: int
    kernel_s: float | None
    all_s: float | None
    left: int


def measure(peer: Peer, end: End, python: str) -> Figure:
    """End one kernel and watch."""
    kernel = Kernel(python, has_server=end.has_server)
    try:
        kernel.run(peer.setup)
        if end.is_busy:
            kernel.begin(peer.busy if not end.swallows else swallowing(peer.busy))
        kernel.note_helpers()
        guards = kernel.guards()
        helpers = kernel.helpers - guards
        began_s = time.monotonic()
        watch = Watch(kernel.process, helpers, began_s, spares_kernel=end.spares_kernel)
        ordering = Ordering(end, kernel)
        watch.wait()
        ordering.join()
        if not end.spares_kernel:
            psutil.wait_procs(guards, timeout=PATIENCE_S)
            helpers |= guards
        left = sum(map(lives, helpers))
        all_s = watch.all_s if not left else None
        return Figure(peer.name, end.name, len(helpers - guards), watch.kernel_s, all_s, left)
    finally:
        kernel.close()


class Ordering:
    """Gives an order in a thread: the order to shut down returns only when the kernel is gone."""

    def __init__(self, end: End, kernel: Kernel) -> None:


        self._thread = threading.Thread(target=end.order, args=(kernel,))
        self._thread.start()

    def join(self) -> None:
        """Wait until it was given."""
        self._thread.join()


class Watch:
    """Looks who is gone, and when."""

    def __init__(
        self, kernel: psutil.Process, helpers: set[psutil.Process], began_s: float, *, spares_kernel: bool
    ) -> None:
        self._kernel, self._helpers, self._began_s = kernel, helpers, began_s
        self._spares_kernel = spares_kernel
        self.kernel_s: float | None = None
        self.all_s: float | None = None

    def wait(self) -> None:
        """Wait until all is gone, or for `PATIENCE_S`."""
        while (now_s := time.monotonic() - self._began_s) < PATIENCE_S:
            if self.kernel_s is None and not lives(self._kernel):
                self.kernel_s = now_s
            if self.all_s is None and not any(map(lives, self._helpers)):
                self.all_s = now_s
            if self.all_s is not None and (self.kernel_s is not None or self._spares_kernel):
                return
            time.sleep(LOOK_S)


def swallowing(cell: str) -> str:
    """Return a cell whose work swallows every interrupt."""
    head, _, body = cell.rpartition("time.sleep(600)")
    return head + "while True:\n    try:\n        time.sleep(600)\n    except BaseException:\n        pass" + body


# -- the command -------------------------------------------------------------------------------------------


def peers_python() -> str:
    """Return the Python of the peers' environment, which is made at the first call."""
    python = PEERS_FOLDER / "bin" / "python"
    if not python.exists():
        print(f"making {PEERS_FOLDER.name} with {', '.join(PEERS)} ...", flush=True)
        venv.create(PEERS_FOLDER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS, str(ROOT)], check=True)
    return str(python)


def show(figure: Figure) -> str:
    """Return a figure as one line."""
    kernel = "lives on" if figure.kernel_s is None else f"{figure.kernel_s:.2f} s"
    gone = f"{figure.left} of {figure.started} stay" if figure.all_s is None else f"{figure.all_s:.2f} s"
    return f"{figure.system:<14} {figure.end:<28} kernel gone {kernel:>9}   helpers gone {gone:>14}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kernel_ends")
    parser.add_argument("--peers", action="store_true", help="run ipyparallel, dask and Ray, too")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these systems or ends")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    python = peers_python() if options.peers else sys.executable
    figures = []
    for peer in (BARE, AUTOSTOP, *(OTHERS if options.peers else ())):
        for end in ENDS:
            if options.only and not {peer.name, end.name} & set(options.only):
                continue
            chosen = AUTOSTOP_BUSY if end.is_busy and peer is AUTOSTOP else peer
            figures.append(measure(chosen, end, python))
            print(show(figures[-1]), flush=True)
    if options.save:
        RESULTS.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
