"""``import autostop_lab`` is light: it brings nothing that was not asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "IPython",
    "asyncio",
    "cloudpickle",
    "cronsim",
    "httpx",
    "ipywidgets",
    "matplotlib",
    "psutil",
    "ray",
)
# What the interpreter loads by itself, for instance through .pth files, is not our import's doing.
PROGRAM = """
import json, sys
before = set(sys.modules)
import autostop_lab
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """Names of the modules that a fresh process has because of ``import autostop_lab``."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    names: list[str] = json.loads(done.stdout)
    return names


def test_the_import_happened(imported: list[str]) -> None:
    assert "autostop_lab" in imported


@pytest.mark.parametrize("heavy", HEAVY)
def test_import_does_not_bring(imported: list[str], heavy: str) -> None:
    assert heavy not in imported


def test_import_brings_no_third_party_package(imported: list[str]) -> None:
    tops = {name.partition(".")[0] for name in imported}

    assert tops - sys.stdlib_module_names == {"autostop_lab"}
