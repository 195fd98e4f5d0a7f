"""A Jupyter kernel of this very interpreter, and the cells that it runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from types import FrameType
from typing import Any

from autostop_lab.cli.notebook import DemoError
from autostop_lab.cli.screen import Screen
from autostop_lab.reaper.processes import SESSION_VARIABLE

#: How often a running cell's time is shown anew and an interrupt is looked for, in seconds.
TICK_S = 0.1
#: How long a kernel may take to answer for the first time, in seconds.
KERNEL_START_TIMEOUT_S = 60.0
#: Interrupts of one cell that go to the kernel; the next one ends the kernel.
INTERRUPTS_PER_CELL = 2


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
