"""A notebook that was run and saved shows its jobs anywhere: as HTML without network and without widgets."""

from __future__ import annotations

import base64
import re
import socket
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.diagrams import svg
from tests.notebooks.execution import execute, notebook_of

pytestmark = pytest.mark.kernel

SOURCES = (
    "%load_ext autostop_lab\nimport time\nfrom autostop_lab import Service\nclass Store(Service): pass",
    "%%autostop_job words --service store=Store\ntime.sleep(0.6)",
    "last = __import__('autostop_lab').last_job()\nlast",
)


def test_nbconvert_shows_the_pictures_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(notebook_of(SOURCES), folder=tmp_path)
    exporter: Any = import_module("nbconvert").HTMLExporter()

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("there is no network here")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    html, _ = exporter.from_notebook_node(notebook)
    found = [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)]
    pictures = [one for one in found if "Job words" in one]

    assert len(pictures) == 4  # for light and dark pages, twice
    for picture in pictures:
        assert svg.complaints(picture) == []
        assert "Job words: succeeded" in picture
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [sorted(output.data) for output in outputs] == [["image/svg+xml", "text/html", "text/plain"]] * 2
    assert "1 service: 1 stopped" in html
