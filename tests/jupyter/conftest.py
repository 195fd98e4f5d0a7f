"""Real kernels: one per module, driven as a front end drives them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from time import monotonic, sleep
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from jupyter_core.utils import run_sync

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

Message = dict[str, Any]
COMMS = ("comm_open", "comm_msg")

SERVICES = '''
import asyncio, threading, time
from autostop_lab import *

diary = []

class Store(Service):
    """Writes down what is done with it."""

    def __init__(self, word="store"):
        self.word = word
    def start(self):
        diary.append(f"{self.word} started")
    def stop(self):
        diary.append(f"{self.word} stopped")
    def cleanup(self):
        diary.append(f"{self.word} cleaned")
    def echo(self, value):
        return value

class SlowToStop(Store):
    def stop(self):
        print("stopping", flush=True)
        self.stopping_slowly = threading.Event().wait(30)

class SlowToStart(Store):
    def start(self):
        print("starting", flush=True)
        self.stopping.wait(30)

class NeverStarts(Service):
    def start(self):
        raise OSError("no luck")
'''


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = monotonic() + PATIENCE_S
    while not is_so():
        assert monotonic() < deadline
        sleep(0.05)


@dataclass
class Run:
    """What one cell brought to the front end."""

    number: str
    reply: dict[str, Any]
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> str:
        return str(self.reply["status"])

    @property
    def error(self) -> tuple[str, str]:
        return str(self.reply.get("ename")), str(self.reply.get("evalue"))

    def contents(self, *kinds: str) -> list[dict[str, Any]]:
        return [message["content"] for message in self.messages if message["msg_type"] in kinds]

    def printed(self, name: str = "stdout") -> str:
        return "".join(content["text"] for content in self.contents("stream") if content["name"] == name)

    @property
    def value(self) -> str | None:
        """The value that the cell shows, as text."""
        values = [content["data"]["text/plain"] for content in self.contents("execute_result")]
        assert len(values) <= 1
        return values[0] if values else None

    @property
    def traceback(self) -> str:
        """The one traceback that was shown, without colours."""
        (error,) = self.contents("error")
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """What the output of the job showed, one after another."""
        return [content["data"] for content in self.contents("display_data", "update_display_data")]


class Kernel:
    """A kernel and what it has said, by the cell that it belongs to."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        self._heard: list[Message] = []

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def send(self, code: str, *, cell_id: str | None = None) -> str:
        """Send a cell, and return its number without waiting for it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        metadata = {"cellId": cell_id} if cell_id is not None else {}
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def _listen(self) -> None:
        try:
            self._heard.append(self.client.get_iopub_msg(timeout=0.2))
        except Empty:
            assert self.manager.is_alive()

    def of(self, number: str) -> list[Message]:
        """Return what was said under one cell."""
        return [message for message in self._heard if message["parent_header"].get("msg_id") == number]

    def wait_until(self, number: str, is_there: Callable[[list[Message]], object]) -> None:
        """Listen until what was said under a cell fulfils a condition."""
        deadline = monotonic() + PATIENCE_S
        while not is_there(self.of(number)):
            assert monotonic() < deadline, [m["content"] for m in self.of(number)]
            self._listen()

    def wait_for_text(self, number: str, text: str) -> None:
        """Listen until a cell has printed a text."""
        self.wait_until(number, lambda messages: text in Run(number, {}, messages).printed())

    def wait_for_end_of_job(self, number: str) -> None:
        """Listen until the output of a cell's job shows its receipt."""
        self.wait_until(
            number, lambda messages: "receipt:" in str([m["content"].get("data", {}) for m in messages])
        )

    def widgets(self) -> dict[str, dict[str, Any]]:
        """Return the widgets that front ends have now, by their comm."""
        found: dict[str, dict[str, Any]] = {}
        for message in self._heard:
            content = message["content"]
            if message["msg_type"] == "comm_open":
                found[content["comm_id"]] = dict(content["data"]["state"])
            elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "update":
                found.setdefault(content["comm_id"], {}).update(content["data"]["state"])
            elif message["msg_type"] == "comm_close":
                found.pop(content["comm_id"], None)
        return found

    def widget_texts(self) -> list[str]:
        """Return the texts that widgets have shown since the last `forget`, one after another."""
        states = [m["content"]["data"].get("state", {}) for m in self._heard if m["msg_type"] in COMMS]
        return [state["value"] for state in states if isinstance(state.get("value"), str)]

    def buttons(self, label: str) -> list[str]:
        """Return the comms of the buttons with this label that are shown now."""
        widgets = self.widgets()
        rows = [state.get("children", ()) for state in widgets.values() if state.get("_model_name") == "HBoxModel"]
        shown = [child.removeprefix("IPY_MODEL_") for row in rows for child in row]
        return [comm for comm in shown if widgets.get(comm, {}).get("description") == label]

    def button(self, label: str) -> str:
        """Return the comm of the first button with this label, once it is shown."""
        self.listen_until(lambda: self.buttons(label))
        return self.buttons(label)[0]

    def run_info(self) -> dict[str, Any]:
        """Return what the kernel says of itself."""
        number = self.client.kernel_info()
        while (reply := self.client.get_shell_msg(timeout=PATIENCE_S))["parent_header"]["msg_id"] != number:
            pass
        return dict(reply["content"])

    def open_subshell(self) -> str:
        """Let the kernel open a subshell, as JupyterLab does."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request", {}))
        return str(self.client.get_control_msg(timeout=PATIENCE_S)["content"]["subshell_id"])

    def click(self, comm: str, *, subshell: str | None = None) -> None:
        """Click a button, as a front end tells it."""
        data = {"method": "custom", "content": {"event": "click"}}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

    def listen_until(self, is_so: Callable[[], object]) -> None:
        """Listen until a condition holds."""
        deadline = monotonic() + PATIENCE_S
        while not is_so():
            assert monotonic() < deadline, self.widget_texts()[-3:]
            self._listen()

    def forget(self) -> None:
        """Forget what was heard."""
        self._heard.clear()

    def finish(self, number: str) -> Run:
        """Wait for the end of a cell, and return what it brought."""
        while (reply := self.client.get_shell_msg(timeout=PATIENCE_S))["parent_header"]["msg_id"] != number:
            pass
        idle = {"execution_state": "idle"}
        self.wait_until(number, lambda messages: any(m["content"] == idle for m in messages))
        return Run(number, reply["content"], self.of(number))

    def run(self, code: str, *, cell_id: str | None = None) -> Run:
        """Run a cell to its end."""
        return self.finish(self.send(code, cell_id=cell_id))

    def value(self, expression: str) -> str:
        """Return the text of an expression's value."""
        shown = self.run(expression).value
        assert shown is not None
        return shown

    def interrupt(self) -> None:
        """Press the front end's button."""
        self.manager.interrupt_kernel()

    def complete(self, code: str) -> list[str]:
        """Return what may come at the end of a text."""
        number = self.client.complete(code, len(code))
        while (reply := self.client.get_shell_msg(timeout=PATIENCE_S))["parent_header"]["msg_id"] != number:
            pass
        return list(reply["content"]["matches"])


@pytest.fixture(scope="session", autouse=True)
def loop_of_clients() -> None:
    """Start what jupyter_client keeps for the life of this process, so that it is no leak of the first test."""

    async def nothing() -> None:
        pass

    run_sync(nothing)()


@pytest.fixture(scope="module")
def shared_kernel() -> Iterator[Kernel]:
    """A kernel with our extension and some services."""
    kernel = Kernel()
    assert kernel.run("%load_ext autostop_lab").status == "ok"
    assert kernel.run(SERVICES).status == "ok"
    yield kernel
    kernel.close()


@pytest.fixture
def kernel(shared_kernel: Kernel) -> Kernel:
    """The module's kernel, with an empty diary and no job that runs."""
    shared_kernel.run("for job in jobs():\n    job.cancel()\n    job.wait()\ndiary.clear()")
    return shared_kernel
