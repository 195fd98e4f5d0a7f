"""A real JupyterLab in a real browser, driven as a person drives it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
IDLE = re.compile(r"\| Idle")


def find_browser() -> str | None:
    """Return the browser of this machine that Playwright can drive."""
    return next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def notebook_of(*sources: str) -> str:
    """Return the text of a notebook with these code cells."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells})


@contextmanager
def lab_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run JupyterLab with settings of its own; yields its address and the folder of its notebooks."""
    work, settings = folder / "notebooks", folder / "settings" / "@jupyterlab" / "apputils-extension"
    work.mkdir()
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    kernels = folder / "data" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "env": {"PYTHONPATH": str(ROOT)},
    }
    (kernels / "kernel.json").write_text(json.dumps(spec))
    port = _free_port()
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "XDG_CONFIG_HOME": str(folder / "xdg"),
        "PYTHONPATH": str(ROOT),
    }
    options = [
        *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--ServerApp.root_dir={work}", "--IdentityProvider.token=", "--ServerApp.password="),
        *("--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True"),
    ]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=1).close()
                break
            except OSError:
                said = (folder / "lab.log").read_text()
                assert server.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
        yield url, work
    finally:
        for _ in range(2):  # the second one answers its question
            server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def end_kernels(url: str) -> None:
    """Shut all kernels of a server down."""
    with urllib.request.urlopen(f"{url}/api/sessions", timeout=PATIENCE_S) as reply:
        sessions = [one["id"] for one in json.load(reply)]
    for session in sessions:
        request = urllib.request.Request(f"{url}/api/sessions/{session}", method="DELETE")
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()


class Notebook:
    """One notebook in the browser.

    Parameters
    ----------
    page : playwright.sync_api.Page
        The page.
    url : str
        Address of the server.
    name : str
        The notebook's file.
    shots : Path
        Where its screenshots go.
    """

    def __init__(self, page: Any, url: str, name: str, shots: Path) -> None:
        self.page = page
        self.url = url
        self._shots = shots
        self._address = f"{url}/lab/tree/{name}?reset"
        page.set_default_timeout(PATIENCE_S * 1000)
        self.open()

    def open(self) -> None:
        """Open it, and wait until its kernel is there."""
        self.page.goto(self._address, wait_until="domcontentloaded")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until no cell runs. What is sent before the status bar says so is lost."""
        self.page.locator("#jp-main-statusbar").get_by_text(IDLE).wait_for()

    def cell(self, number: int) -> Any:
        """Return a cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def output(self, number: int) -> Any:
        """Return what is below a cell."""
        return self.cell(number).locator(".jp-Cell-outputWrapper")

    def run(self, number: int) -> None:
        """Run a cell, without waiting for its end."""
        self.page.keyboard.press("Escape")
        self.cell(number).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def run_to_end(self, number: int) -> None:
        """Run a cell and wait for its end."""
        self.run(number)
        self.cell(number).locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for()
        self.wait_until_idle()

    def menu(self, *labels: str) -> None:
        """Choose from the menus."""
        for label in labels:
            self.page.get_by_role("menuitem", name=label, exact=True).first.click()

    def theme(self, name: str) -> None:
        """Change the theme of the page."""
        change = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
        self.page.evaluate(change, name)
        light = "false" if "Dark" in name else "true"
        self.page.locator(f'body[data-jp-theme-light="{light}"]').wait_for(state="attached")

    def shoot(self, name: str) -> None:
        """Keep a screenshot."""
        self.page.screenshot(path=str(self._shots / f"{name}.png"))


@contextmanager
def browser_page(executable: str) -> Iterator[Any]:
    """Yield a page of a browser of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield browser.new_page(viewport={"width": 1420, "height": 1500})
        finally:
            browser.close()
