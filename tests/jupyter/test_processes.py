"""Services of a notebook in processes of their own: their classes are defined in cells."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

CLASSES = """
import os
from autostop_lab import LocalEnvironment, Service

scale = 2

class TooLongError(Exception):
    def __init__(self, length):
        super().__init__(f"{length} is too long")
        self.length = length

class Vector:
    def __init__(self, values):
        self.values = values
    def scaled(self):
        return [scale * value for value in self.values]

class Embedder(Service):
    def __init__(self, dim=2):
        self.dim = dim
    def embed(self, text):
        if len(text) > 10:
            raise TooLongError(len(text))
        return Vector([float(len(text))] * self.dim)
    def pid(self):
        return os.getpid()
    def twice(self, vector):
        return vector.scaled()
"""


def test_classes_of_cells_go_and_come_home_as_themselves(kernel: Kernel) -> None:
    kernel.run(CLASSES)
    cell = """%%autostop_job embed --service emb=Embedder(dim=3):process
vector = emb.embed("four")
try:
    emb.embed("much too long")
except TooLongError as error:
    caught = error
[type(vector) is Vector, vector.values, vector.scaled(), emb.twice(vector), caught.length, emb.pid() != os.getpid()]
"""
    run = kernel.run(cell)

    assert run.value == "[True, [4.0, 4.0, 4.0], [8.0, 8.0, 8.0], [8.0, 8.0, 8.0], 13, True]"
    # A variable of the notebook that is changed later is the class's own again.
    assert kernel.run("scale = 5\nvector.scaled()").value == "[20.0, 20.0, 20.0]"
    # A class that is defined anew is another one.
    kernel.run(CLASSES.replace("len(text))] * self.dim", "-len(text))] * self.dim"))
    assert kernel.run(cell).value == "[True, [-4.0, -4.0, -4.0], [-8.0, -8.0, -8.0], [-8.0, -8.0, -8.0], 13, True]"


def test_the_receipt_tells_of_its_process(kernel: Kernel) -> None:
    kernel.run(CLASSES)
    kernel.run("%%autostop_job embed --service emb=Embedder:process\nemb.pid()")

    assert kernel.value("[(s.name, str(s.outcome)) for s in last_job().report.services]") == "[('emb', 'stopped')]"
