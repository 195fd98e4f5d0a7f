"""The panel in a real JupyterLab in a real browser: what a person sees, clicks, saves and finds again."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.jupyter.lab import Notebook, browser_page, end_kernels, find_browser, lab_server, notebook_of

pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab")

BROWSER = find_browser()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.kernel,
    pytest.mark.timeout(400),
    pytest.mark.leaves_thread("asyncio_"),  # of Playwright's event loop
    pytest.mark.skipif(BROWSER is None, reason="no chromium here; Debian: apt-get install chromium"),
]

SETUP = """%load_ext autostop_lab
import time
from autostop_lab import Command, Service

class Store(Service):
    def start(self):
        time.sleep(0.3)
        self.logger.warning("the store is ready")

class Feed(Service):
    def run(self):
        self.stopping.wait()
"""
BLOCKS = """%%autostop_job words --service store=Store --service embedder=Store --service feed=Feed
deadline = time.monotonic() + 300
while time.monotonic() < deadline:
    time.sleep(0.05)
"""
SHORT = """%%autostop_job short --service store=Store
time.sleep(1.5)
"""

Open = Callable[..., Notebook]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """One server and one browser for all tests here."""
    assert BROWSER is not None
    with lab_server(tmp_path_factory.mktemp("lab")) as (url, work), browser_page(BROWSER) as page:
        yield page, url, work


@pytest.fixture
def open_notebook(lab: tuple[Any, str, Path], tmp_path: Path) -> Iterator[Open]:
    """Opens a notebook with these cells; screenshots go to the test's folder, and its kernel ends with the test."""
    page, url, work = lab

    def open_it(name: str, *sources: str) -> Notebook:
        (work / name).write_text(notebook_of(*sources))
        print(f"screenshots: {tmp_path}")
        return Notebook(page, url, name, tmp_path)

    yield open_it
    page.screenshot(path=str(tmp_path / "end.png"))
    page.goto("about:blank")
    end_kernels(url)


def button_of(output: Any, label: str) -> Any:
    """The first button of an output with this label; before it may stand its sign."""
    return output.get_by_role("button", name=re.compile(rf"(^|\W){re.escape(label)}$")).first


def press(output: Any, label: str) -> None:
    """Press the first button of an output with this label."""
    button_of(output, label).click()


def picture(output: Any) -> Any:
    """The final still picture of an output."""
    return output.locator("img.autostop-light")


def test_states_are_seen_live_and_clicks_work_while_the_cell_blocks(open_notebook: Open) -> None:
    notebook = open_notebook("clicks.ipynb", SETUP, BLOCKS)
    notebook.run_to_end(0)
    notebook.run(1)
    output = notebook.output(1)
    fleet = output.get_by_role("img", name="3 services")
    head = output.get_by_role("img", name=re.compile("^Job words: running"))
    head.wait_for()
    notebook.shoot("1 running")
    assert fleet.locator("text", has_text="● running").count() == 3

    press(output, "embedder")
    output.get_by_role("img", name=re.compile("^Lifecycle of embedder")).wait_for()
    pressed_s = time.monotonic()
    press(output, "Restart")
    fleet.locator("text", has_text=re.compile("stopping|starting")).first.wait_for()
    seen_s = time.monotonic() - pressed_s
    output.get_by_role("status").get_by_text("service embedder: restarted").wait_for()
    notebook.shoot("2 restarted")
    assert fleet.locator("text", has_text="● running").count() == 3
    assert seen_s < 10  # the benchmarks say how long it takes; a cell that has to end first lasts 300 s

    output.get_by_role("tab", name="Log").click()
    output.get_by_role("log").get_by_text("the store is ready").first.wait_for()
    notebook.theme("JupyterLab Dark")
    notebook.shoot("3 log in the dark theme")
    output.get_by_role("tab", name="Lifecycle").click()

    press(output, "Kill …")
    button_of(output, "Kill it now").wait_for()
    notebook.shoot("4 asked whether to kill, dark")
    press(output, "Keep it")
    button_of(output, "Restart").wait_for()

    press(output, "Stop")  # the job's, which stands above that of the service
    picture(output).wait_for(state="attached")
    notebook.wait_until_idle()
    notebook.shoot("5 over, dark")
    notebook.theme("JupyterLab Light")
    assert "job 'words' succeeded (stopped)" in output.inner_text()
    assert "3 services: 3 stopped" in output.inner_text()
    assert output.locator(".widget-button").count() == 0


def test_a_finished_job_runs_again_once_however_often_the_button_is_pressed(open_notebook: Open) -> None:
    notebook = open_notebook("again.ipynb", SETUP, SHORT, "%autostop panel", "len(__import__('autostop_lab').jobs())")
    notebook.run_to_end(0)
    notebook.run_to_end(1)
    notebook.run_to_end(2)
    panel = notebook.output(2)
    button_of(panel, "Run again").dblclick()
    panel.get_by_role("img", name=re.compile("^Job short: running")).wait_for()
    notebook.shoot("1 again")
    notebook.output(1).get_by_role("img", name=re.compile("^Job short: running")).wait_for()
    panel.get_by_text("2 jobs run now").wait_for()
    button_of(panel, "Run again").wait_for()
    picture(notebook.output(1)).wait_for(state="attached")
    notebook.shoot("2 over again")
    notebook.run_to_end(3)

    assert notebook.output(3).inner_text().strip().endswith("2")


def test_what_was_saved_is_the_end_as_a_still_picture(open_notebook: Open, lab: tuple[Any, str, Path]) -> None:
    notebook = open_notebook("saved.ipynb", SETUP, SHORT)
    notebook.run_to_end(0)
    notebook.run_to_end(1)
    picture(notebook.output(1)).wait_for(state="attached")
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Control+s")
    path = lab[2] / "saved.ipynb"
    deadline = time.monotonic() + 60
    while not (outputs := json.loads(path.read_text())["cells"][1]["outputs"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert [sorted(output["data"]) for output in outputs] == [["image/svg+xml", "text/html", "text/plain"]]
    notebook.open()
    shown = picture(notebook.output(1))
    shown.wait_for(state="attached")
    notebook.shoot("reloaded")
    assert shown.evaluate("image => image.naturalWidth") == 1100
    assert "1 service: 1 stopped" in notebook.output(1).inner_text()


def test_a_kernel_that_is_shut_down_from_the_menu_or_killed_leaves_nothing_and_the_next_one_says_so(
    open_notebook: Open,
) -> None:
    word = f"endless-{os.getpid()}"
    script = f"while sleep 0.2; do :; done; echo {word}"
    cell = BLOCKS.replace("feed=Feed", f'feed=Command(["sh", "-c", "{script}"])')
    notebook = open_notebook("killed.ipynb", f"{SETUP}\nimport os\nprint('pid', os.getpid())", cell)
    notebook.run_to_end(0)
    notebook.run(1)
    notebook.output(1).get_by_role("img", name=re.compile("^Job words: running")).wait_for()
    assert runs(word)
    notebook.menu("Kernel", "Shut Down Kernel")
    notebook.page.locator("#jp-main-statusbar").get_by_text("No Kernel").wait_for()
    wait_until(lambda: not runs(word))
    notebook.shoot("1 shut down")

    notebook.open()
    notebook.run_to_end(0)
    pid = int(notebook.output(0).inner_text().rpartition("pid")[2])
    notebook.run(1)
    notebook.output(1).get_by_role("img", name=re.compile("^Job words: running")).wait_for()
    os.kill(pid, signal.SIGKILL)
    notebook.page.get_by_text("Kernel Restarting").wait_for()
    notebook.shoot("2 killed")
    notebook.page.get_by_role("button", name="Ok").click()
    wait_until(lambda: not runs(word))
    notebook.wait_until_idle()
    notebook.run_to_end(0)
    notebook.shoot("3 next session")

    told = notebook.output(0).inner_text()
    assert f"process {pid} of " in told
    assert "killed.ipynb ended without closing" in told
    assert "feed stopped" in told


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(word: str) -> bool:
    """Whether a program with this word in its arguments runs."""
    found = psutil.process_iter(["cmdline", "status"])
    return any(word in str(one.info["cmdline"]) and one.info["status"] != psutil.STATUS_ZOMBIE for one in found)
