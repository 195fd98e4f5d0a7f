"""Whole notebooks, as nbclient and the tools on top of it run them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.jupyter.conftest import ROOT, SERVICES

pytestmark = pytest.mark.kernel


@pytest.fixture
def client() -> Iterator[NotebookClient]:
    """A client of a notebook whose kernel is started by its first cell."""
    client = NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3", timeout=60)
    with client.setup_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)}):
        yield client


def run(client: NotebookClient, *sources: str) -> list[nbformat.NotebookNode]:
    """Run cells, and return the last one's outputs."""
    for source in sources:
        cell = nbformat.v4.new_code_cell(source)
        client.nb.cells.append(cell)
        client.execute_cell(cell, len(client.nb.cells) - 1)
    return list(client.nb.cells[-1].outputs)


def test_a_failed_body_fails_the_notebook_with_its_own_error(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError) as caught:
        run(client, "%load_ext autostop_lab", SERVICES, "%%autostop_job bad --service store=Store\nraise KeyError('x')")

    assert caught.value.ename == "KeyError"
    assert caught.value.evalue == "'x'"


def test_a_time_out_fails_the_notebook(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError) as caught:
        run(client, "%load_ext autostop_lab\nimport time", "%%autostop_job slow --timeout 0.2\ntime.sleep(600)")

    assert caught.value.ename == "JobTimeoutError"


def test_a_line_that_is_refused_fails_the_notebook(client: NotebookClient) -> None:
    with pytest.raises(CellExecutionError) as caught:
        run(client, "%load_ext autostop_lab", "%%autostop_job --nonsense\n5")

    assert caught.value.ename == "UsageError"


def test_the_saved_notebook_shows_the_end_of_the_job_without_a_widget(client: NotebookClient) -> None:
    cell = "%%autostop_job good --service store=Store\nstore.echo(5)"
    outputs = run(client, "%load_ext autostop_lab", SERVICES, cell)
    picture, value = (output for output in outputs if output.output_type in ("display_data", "execute_result"))

    assert value.data["text/plain"] == "5"
    assert "succeeded" in picture.data["text/plain"]
    assert "data:image/svg+xml" in picture.data["text/html"]
    assert "1 service: 1 stopped" in picture.data["text/html"]
    assert not [mime for mime in picture.data if "widget" in mime]
