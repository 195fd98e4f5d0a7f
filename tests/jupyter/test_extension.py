"""Loading, unloading and completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.jupyter.conftest import ROOT, SERVICES, Kernel

pytestmark = pytest.mark.kernel

OURS = (
    "shell = get_ipython()\n"
    "print([type(one).__name__ for one in shell.input_transformers_cleanup if 'autostop' in type(one).__module__],"
    " [one.__name__ for one in shell.Completer.custom_matchers],"
    " sorted(name for kind in shell.magics_manager.magics.values() for name in kind if 'autostop' in name))"
)
LOADED = "['CellTransformer'] ['autostop_matcher'] ['autostop', 'autostop_job']\n"


@pytest.fixture
def loaded(kernel: Kernel) -> Iterator[Kernel]:
    yield kernel
    kernel.run("%load_ext autostop_lab")
    kernel.run("%reload_ext autostop_lab")


def test_unloading_takes_all_away(loaded: Kernel) -> None:
    assert loaded.run(OURS).printed() == LOADED
    loaded.run("%unload_ext autostop_lab")

    assert loaded.run(OURS).printed() == "[] [] []\n"
    assert loaded.run("%%autostop_job x\n1").error[0] == "UsageError"
    assert loaded.complete("%autostop st") != ["status", "stop"]


def test_loading_twice_changes_nothing(loaded: Kernel) -> None:
    loaded.run("import autostop_lab\nautostop_lab.load_ipython_extension(get_ipython())")
    assert loaded.run(OURS).printed() == LOADED
    loaded.run("%reload_ext autostop_lab")
    assert loaded.run(OURS).printed() == LOADED


def test_unloading_twice_changes_nothing(loaded: Kernel) -> None:
    loaded.run("autostop_lab.unload_ipython_extension(get_ipython())")
    run = loaded.run("autostop_lab.unload_ipython_extension(get_ipython())")

    assert run.status == "ok"


def test_a_job_in_the_background_goes_on_without_the_extension(loaded: Kernel) -> None:
    loaded.run("%%autostop_job feed --background --service store=Store\ncurrent_job().stopping.wait()")
    loaded.run("%unload_ext autostop_lab")

    assert loaded.value("last_job().state.value") == "'running'"
    loaded.run("last_job().stop()\nlast_job().wait()")
    loaded.run("while 'env' in globals():\n    time.sleep(0.01)")
    assert loaded.value("diary[-1]") == "'store cleaned'"


@pytest.mark.parametrize(
    ("written", "offered"),
    [
        ("%%autostop_job --se", ["--service"]),
        ("%%autostop_job name --st", ["--stop-timeout"]),
        ("%%autostop_job --service a=Never", ["NeverStarts"]),
        ("%%autostop_job --service a=Store:th", ["thread"]),
        ("%autostop st", ["status", "stop"]),
        ("%autostop logs -", ["--help", "-h", "-n"]),
        ("%autostop report findab", ["findable"]),
        ("%autostop stop findab", []),
        ("%autostop logs stor", ["store"]),
        ("x = 1\n%autostop ca", ["cancel"]),
        ("%%autostop_job x\nimport operato", ["operator"]),
    ],
)
def test_what_may_come_next_is_offered(kernel: Kernel, written: str, offered: list[str]) -> None:
    kernel.run("%%autostop_job findable --service store=Store\n5")

    assert sorted(kernel.complete(written)) == offered


def test_running_jobs_are_offered_to_be_ended(kernel: Kernel) -> None:
    kernel.run("%%autostop_job feed --background\ncurrent_job().stopping.wait()")

    assert kernel.complete("%autostop stop fee") == ["feed"]


# -- a plain terminal --------------------------------------------------------------------------------------


def in_terminal(code: str) -> subprocess.CompletedProcess[str]:
    """Run lines in IPython without a kernel."""
    return subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--simple-prompt", "--colors=NoColor", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def cells(*codes: str) -> str:
    return "\n".join(f"get_ipython().run_cell({code!r})" for code in ("%load_ext autostop_lab", SERVICES, *codes))


def test_a_terminal_shows_the_job_as_text() -> None:
    done = in_terminal(cells("%%autostop_job words --service store=Store\nstore.echo(6) * 7", "print(diary)"))

    assert "42" in done.stdout
    assert "job 'words'" in done.stdout
    assert "receipt: 1 service: 1 stopped" in done.stdout
    assert "['store started', 'store stopped', 'store cleaned']" in done.stdout
    assert "<svg" not in done.stdout


def test_a_terminal_awaits_a_body() -> None:
    done = in_terminal(
        cells("%%autostop_job words --service store=Store\nawait asyncio.sleep(0)\nstore.echo(6) * 7", "print(diary)")
    )

    assert "42" in done.stdout
    assert "['store started', 'store stopped', 'store cleaned']" in done.stdout


@pytest.mark.parametrize("body", ["while True:\n    time.sleep(0.1)", "await asyncio.sleep(600)"])
def test_an_interrupt_in_a_terminal_cleans_the_services(body: str) -> None:
    interrupt = "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()"
    done = in_terminal(
        cells(f"%%autostop_job words --service store=Store\nimport os, signal\n{interrupt}\n{body}", "print(diary)")
    )

    assert done.stdout.count("KeyboardInterrupt") >= 1
    assert "['store started', 'store stopped', 'store cleaned']" in done.stdout


def test_a_terminal_tells_of_a_job_in_the_background_at_its_end() -> None:
    done = in_terminal(cells("%%autostop_job feed --background\n6 * 7", "last_job().wait()\ntime.sleep(0.3)"))

    assert "runs in the background" in done.stdout
    assert "job 'feed'" in done.stdout
    assert "42" in done.stdout
