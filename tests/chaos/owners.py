"""An owner of services in a process of its own, which a test may signal and kill. It runs `owner.py`."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.world import PATIENCE_S, carriers, describe, end_for_sure, eventually, reap, running

ROOT = Path(__file__).parents[2]
#: Tells a reaper's owner: a reaper does not carry the id of its session.
OWNER_VARIABLE = "CHAOS_OWNER"
SCENARIOS = Path(__file__).with_name("owner.py")


def reapers_of(session: str) -> list[int]:
    """Return the pids of living reapers whose owner carries an id, in both variables."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            variables = process.environ()
            is_its = variables.get(OWNER_VARIABLE) == session and "AUTOSTOP_LAB_SESSION" not in variables
            if is_its and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


class Owner:
    """A process that runs one scenario of `owner.py`, heard line by line.

    It leads a session of its own, as what a terminal or Jupyter starts does.

    Parameters
    ----------
    scenario : str
        Which.
    folder : Path
        A new folder for it.
    facts : dict
        Arguments of the scenario.
    temp : Path or None
        Its folder for temporary files; None is one of its own.

    Attributes
    ----------
    session : str
        An id that it and all its processes carry, its reaper aside.
    """

    def __init__(self, scenario: str, folder: Path, facts: dict[str, Any], temp: Path | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        # Short, since the paths of sockets may not be long.
        self._own_temp = None if temp is not None else tempfile.TemporaryDirectory(prefix="o")
        self.temp = temp or Path(self._own_temp.name if self._own_temp is not None else "")
        self.session = f"owner-{os.getpid()}-{time.monotonic_ns()}"
        outer = os.environ["AUTOSTOP_LAB_SESSION"]
        self._errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(SCENARIOS), scenario, json.dumps({"folder": str(folder), **facts})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(self.temp),
                OWNER_VARIABLE: self.session,
                "AUTOSTOP_LAB_SESSION": f"{outer}/{self.session}",
                "PYTHONWARNINGS": "ignore",
            },
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.heard: list[dict[str, Any]] = []
        self._rest = b""

    def said(self, word: str) -> dict[str, Any]:
        """Wait until it says a word (once for each call), and return the facts that it told with it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for fact in self.heard:
                if fact["word"] == word:
                    self.heard.remove(fact)
                    return fact
            if not self._listen(deadline):
                break
        raise AssertionError(f"{word!r} was not said; {self.heard}\n{self.stacks()}")

    def _listen(self, deadline: float) -> bool:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        data = os.read(self.process.stdout.fileno(), 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.heard += [json.loads(line) for line in lines]
        return bool(data)

    def words(self) -> list[str]:
        """Return what else it has said, when it is over."""
        while self._listen(time.monotonic() + PATIENCE_S):
            pass
        return [fact["word"] for fact in self.heard]

    def tell(self, text: str = "") -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """Interrupt it and its process group, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> float:
        """Kill it, and return when."""
        self.process.kill()
        return time.monotonic()

    def wait(self) -> int:
        """Wait for its end and return its exit status; what it left goes on."""
        return self.process.wait(PATIENCE_S)

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read()

    def stacks(self) -> str:
        """Return what it wrote to stderr, and where its threads are, if it lives."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
        return self.errors

    def left(self) -> list[int]:
        """Return the pids of living processes that carry its id, itself aside."""
        return [pid for pid in carriers(self.session) if pid != self.pid]

    def reapers(self) -> list[int]:
        """Return the pids of its living reapers."""
        return reapers_of(self.session)

    def reaper(self) -> int:
        """Wait until it has one reaper, and return its pid."""
        eventually(lambda: len(self.reapers()) == 1, lambda: f"one reaper: {describe(self.reapers())}")
        return self.reapers()[0]

    def hold_nothing_left(self, beside: Collection[int] = ()) -> None:
        """Wait until no process of its own is left, those `beside` it apart, no reaper, and no folder of a session."""
        eventually(lambda: set(self.left()) <= {*beside}, lambda: f"the end of {describe(self.left())}")
        eventually(lambda: not self.reapers(), lambda: f"the end of {describe(self.reapers())}")
        assert not self.folders()

    def folders(self) -> list[Path]:
        """Return the folders of sessions in its temporary folder."""
        with suppress(FileNotFoundError):  # the last one takes the folder above it along while this looks
            return list(self.temp.glob("autostop_lab-*/session-*"))
        return []

    def end(self) -> None:
        """Kill it if it lives, and let go of its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def remove_temp(self) -> None:
        """Remove its folder for temporary files."""
        if self._own_temp is not None:
            self._own_temp.cleanup()


def close(owners: Iterable[Owner], mine: set[int]) -> list[str]:
    """End owners and all that they have left; return what that was.

    Parameters
    ----------
    owners : iterable of Owner
        Them.
    mine : set of int
        Pids of other children of ours; any further child is an orphan.
    """
    for owner in owners:
        owner.end()

    def left() -> set[int]:
        reap(set(), mine)
        orphans = running(child.pid for child in psutil.Process().children() if child.pid not in mine)
        return {*orphans, *(pid for owner in owners for pid in (*owner.left(), *owner.reapers()))}

    deadline = time.monotonic() + PATIENCE_S / 3
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    told = describe(left())
    end_for_sure(left())
    eventually(lambda: not left())
    for owner in owners:
        owner.remove_temp()
    return told
