"""``autostop-lab doctor`` as a user meets it; what it says of which machine is in tests/doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autostop_lab import __version__

ROOT = Path(__file__).parents[2]


def doctor(*arguments: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autostop_lab.cli", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_says_in_words_what_this_machine_can_promise(tmp_path: Path) -> None:
    done = doctor(folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok  ", "limited  ", "missing  ", "    ")) for line in lines[:-2])
    assert f"ok       autostop_lab        {__version__}" in lines
    assert "nothing outlives its job here" in lines[-1]


def test_it_says_so_in_json(tmp_path: Path) -> None:
    value = json.loads(doctor("--json", folder=tmp_path).stdout)

    assert value["can_promise"] is True
    assert {found["mark"] for found in value["findings"]} <= {"ok", "limited", "missing"}


def test_where_nothing_can_be_promised_the_status_is_1(tmp_path: Path) -> None:
    (tmp_path / f"autostop_lab-{os.getuid()}").touch()
    done = doctor(folder=tmp_path, TMPDIR=str(tmp_path))

    assert done.returncode == 1
    assert "nothing can be promised here" in done.stdout


def test_few_open_files_are_told_and_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 64; exec {sys.executable} -m autostop_lab.cli doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert "limited  open files          64, room for about 0 programs at once" in done.stdout


@pytest.mark.parametrize("arguments", [["--jsn"], ["now"]])
def test_what_it_does_not_know_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    assert doctor(*arguments, folder=tmp_path).returncode == 2
