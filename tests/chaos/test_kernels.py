"""Real kernels, and all that a front end or the machine does to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_core.utils import run_sync

from tests.chaos.owners import OWNER_VARIABLE, Owner, reapers_of
from tests.chaos.world import carriers, eventually, hold_gone, numbers_in, running, runs, see
from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

SERVICES = """
import os, sys, time
from pathlib import Path
from autostop_lab import *

PIDS = FOLDER + "/pids"

def note(word):
    with open(FOLDER + "/notes", "a") as file:
        file.write(word + "\\n")

class Store(Service):
    def start(self):
        (self.workdir / "page").touch()
        note(f"store {self.workdir}")
    def stop(self): note("stopped")
    def cleanup(self): note("cleaned")

class Polite(Command):
    argv = ["sh", "-c", f"echo $$ >> {PIDS}; echo up; exec sleep 1000"]
    ready = LogReady("up")

class Deaf(Command):
    argv = ["sh", "-c", f"trap '' TERM; echo $$ >> {PIDS}; echo up; exec sleep 1000"]
    ready = LogReady("up")

def start_idle(**policy):
    env = LocalEnvironment("idle", policy=ServicePolicy(**policy))
    for name, kind in (("store", Store), ("polite", Polite), ("deaf", Deaf)):
        env.register_service(name, kind)
    env.start()
    return env
"""


ALL = "--service store=Store --service polite=Polite --service deaf=Deaf"


@pytest.fixture(scope="module", autouse=True)
def loop_of_clients() -> None:
    """Start what jupyter_client keeps for the life of this process, so that it is no leak of the first test."""

    async def nothing() -> None:
        pass

    run_sync(nothing)()


class Notebook(Kernel):
    """A kernel with ids of its own, a folder for its notes, and one for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.session = f"kernel-{os.getpid()}-{time.monotonic_ns()}"
        self.temp = folder / "t"
        self.temp.mkdir()
        outer = os.environ["AUTOSTOP_LAB_SESSION"]
        mine = {
            "AUTOSTOP_LAB_SESSION": f"{outer}/{self.session}",
            OWNER_VARIABLE: self.session,
            "TMPDIR": str(self.temp),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in mine.items():
                patch.setenv(name, value)
            super().__init__()
        self.prepare()

    def prepare(self) -> str:
        """Load the extension, and return what that says."""
        said = self.run(f"%load_ext autostop_lab\nFOLDER = {str(self.folder)!r}")
        assert said.status == "ok", said.reply
        assert self.run(SERVICES).status == "ok"
        return said.printed()

    @property
    def pid(self) -> int:
        provisioner = self.manager.provisioner
        assert provisioner is not None
        pid: int = provisioner.pid  # type: ignore[attr-defined]
        return pid

    def wait_for_restart(self) -> None:
        self.client.wait_for_ready(timeout=60)
        self._heard.clear()

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def workdirs(self) -> list[Path]:
        return [Path(line.partition(" ")[2]) for line in self.notes() if line.startswith("store ")]

    def pids(self, count: int) -> list[int]:
        return numbers_in(self.folder / "pids", count)

    def hold_nothing_left(self, pids: list[int]) -> None:
        """Wait until no service is left; the kernel itself may be there, and a reaper of it."""
        hold_gone(pids)
        allowed = {self.pid} if self.manager.is_alive() else set()
        eventually(lambda: set(carriers(self.session)) <= allowed, lambda: carriers(self.session))
        eventually(lambda: not any(path.exists() for path in self.workdirs()))

    def close(self) -> None:
        super().close()
        eventually(lambda: not reapers_of(self.session))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Notebook]:
    """A kernel of its own for each test: they end it."""
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.close()


@pytest.fixture(scope="module")
def lasting_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("kernel"))
    yield notebook
    notebook.close()


@pytest.mark.parametrize("is_now", [False, True], ids=["polite", "now"])
@pytest.mark.parametrize("is_restart", [False, True], ids=["shutdown", "restart"])
def test_nothing_is_left_of_a_kernel_that_was_shut_down_or_restarted(
    kernel: Notebook, is_restart: bool, is_now: bool
) -> None:
    assert kernel.run("env = start_idle(stop_timeout_s=0.5)").status == "ok"
    pids = kernel.pids(2)
    if is_restart:
        kernel.manager.restart_kernel(now=is_now)
        kernel.wait_for_restart()
    else:
        kernel.manager.shutdown_kernel(now=is_now)
    kernel.hold_nothing_left(pids)

    assert kernel.notes()[1:] == ([] if is_now else ["stopped", "cleaned"])
    if is_restart:
        said = kernel.prepare()
        assert ("polite stopped, " in said or "deaf killed" in said) == is_now, said
        assert kernel.value("jobs()") == "[]"
        assert kernel.run("env = start_idle(stop_timeout_s=0.5)\nenv.close()").status == "ok"


def test_a_kernel_that_was_killed_leaves_nothing_and_the_next_one_says_so(kernel: Notebook) -> None:
    number = kernel.send(
        f"%%autostop_job wordcount {ALL} --stop-timeout 0.5\nprint('begun', flush=True)\ntime.sleep(1000)"
    )
    kernel.wait_for_text(number, "begun")
    pids = kernel.pids(2)
    os.kill(kernel.pid, signal.SIGKILL)
    eventually(lambda: not kernel.manager.is_alive())
    kernel.hold_nothing_left(pids)
    eventually(lambda: not reapers_of(kernel.session))
    kernel.manager.restart_kernel(now=True)
    kernel.wait_for_restart()
    said = kernel.prepare()

    assert "ended without closing. Cleaned within" in said
    assert "polite stopped" in said
    assert "deaf killed" in said


def test_an_interrupt_ends_the_job_once_and_cleans_it(lasting_kernel: Notebook) -> None:
    kernel = lasting_kernel
    (kernel.folder / "notes").unlink(missing_ok=True)
    (kernel.folder / "pids").unlink(missing_ok=True)
    number = kernel.send(
        f"%%autostop_job wordcount {ALL} --stop-timeout 0.5\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)"
    )
    kernel.wait_for_text(number, "begun")
    pids = kernel.pids(2)
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert len(run.contents("error")) == 1
    outcomes = "{e.name: str(e.outcome) for e in last_job().report.services}"
    assert kernel.value(outcomes) == "{'store': 'stopped', 'polite': 'stopped', 'deaf': 'killed'}"
    assert kernel.notes()[1:] == ["stopped", "cleaned"]
    kernel.hold_nothing_left(pids)


def test_an_interrupt_of_an_idle_kernel_reaches_no_service(lasting_kernel: Notebook) -> None:
    kernel = lasting_kernel
    (kernel.folder / "notes").unlink(missing_ok=True)
    (kernel.folder / "pids").unlink(missing_ok=True)
    assert kernel.run("env = start_idle(stop_timeout_s=0.5)").status == "ok"
    kernel.run(
        "env.run(lambda: current_job().stopping.wait() and 'asked')\njob = env.submit(autostop=True, wait=False)"
    )
    pids = kernel.pids(2)
    for _ in range(3):
        kernel.interrupt()
        time.sleep(0.1)

    assert kernel.value("str(job.state), {str(s.state) for s in job.services.values()}") == "('running', {'running'})"
    assert running(pids) == pids
    assert kernel.notes()[1:] == []
    assert kernel.value("(job.stop(), job.result())[1]") == "'asked'"
    assert kernel.run("report = env.close()").status == "ok"
    kernel.hold_nothing_left(pids)


def test_services_that_outlast_the_shutdown_get_their_grace_and_their_order(kernel: Notebook) -> None:
    code = """
env = LocalEnvironment("slow")
before = ()
for name in ("db", "api", "web"):
    stamp = f"echo {name}-%s >> {FOLDER}/stamps"
    trap = f"trap '{stamp % 'asked'}; sleep 1.2; {stamp % 'ended'}; exit 0' TERM"
    argv = ["sh", "-c", f"{trap}; echo $$ >> {PIDS}; echo up; while :; do sleep 0.02; done"]
    policy = ServicePolicy(depends_on=before, stop_timeout_s=10)
    env.register_service(name, Command, argv, ready=LogReady("up"), policy=policy)
    before = (name,)
env.start()
"""
    assert kernel.run(code).status == "ok"
    pids = kernel.pids(3)
    kernel.manager.shutdown_kernel()
    assert not kernel.manager.is_alive()
    kernel.hold_nothing_left(pids)

    stamps = (kernel.folder / "stamps").read_text().split()
    assert stamps == [f"{name}-{what}" for name in ("web", "api", "db") for what in ("asked", "ended")]


def test_nothing_is_left_when_the_server_of_the_kernel_was_killed(owner_of_strangers: Callable[..., Owner]) -> None:
    server = owner_of_strangers("jupyter_server", setup=SERVICES, cells=["env = start_idle(stop_timeout_s=0.5)"])
    kernel = see(server.said("kernel")["pid"])
    pids = numbers_in(server.folder / "pids", 2)
    server.kill()
    server.wait()
    eventually(lambda: not runs(kernel))
    hold_gone(pids)
    server.hold_nothing_left()


def test_a_cell_that_runs_again_ends_its_earlier_run_first(lasting_kernel: Notebook) -> None:
    kernel = lasting_kernel
    (kernel.folder / "notes").unlink(missing_ok=True)
    (kernel.folder / "pids").unlink(missing_ok=True)
    cell = "env = start_idle(stop_timeout_s=0.5)\nprint(sorted(str(s.state) for s in env.services.values()))"
    assert kernel.run(cell, cell_id="same").status == "ok"
    first = kernel.pids(2)
    again = kernel.run(cell, cell_id="same")
    pids = kernel.pids(4)

    assert again.status == "ok"
    assert "closed" in again.printed()
    assert not running(first)
    assert sorted(running(pids)) == sorted(pids[2:])
    stopped = [word for word in kernel.notes() if not word.startswith("store")]
    assert stopped == ["stopped", "cleaned"]
    assert kernel.notes()[0].startswith("store")
    assert kernel.notes()[3].startswith("store")  # it starts when the first is clean
    kernel.run("env.close()")
    kernel.hold_nothing_left(pids)
