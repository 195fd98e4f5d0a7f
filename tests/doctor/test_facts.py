from __future__ import annotations

import importlib.metadata
import os
import resource
import select
import socket
import sys
import tempfile
import types
from pathlib import Path

import pytest

from autostop_lab.doctor import facts as module
from autostop_lab.doctor import look
from autostop_lab.services.containment import problem_with
from tests.services.lives import eventually, is_running


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_look_sees_this_machine() -> None:
    found = look()

    assert found.python == sys.version.split()[0]
    assert found.executable == sys.executable
    assert found.can_promise
    assert found.free_bytes is not None
    assert found.problems_of_containment == {kind: problem_with(kind) for kind in ("signs", "subreaper", "cgroup")}
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found.open_files == (None if soft == resource.RLIM_INFINITY else soft)
    assert found.versions["ipykernel"] == importlib.metadata.version("ipykernel")
    assert (found.free_memory_bytes is None) is not os.path.isdir("/dev/shm")


def test_a_look_imports_nothing_that_it_looks_for() -> None:
    before = set(sys.modules)
    look()

    assert not {"ray", "ipykernel", "ipywidgets", "jupyterlab", "nest_asyncio"} & (set(sys.modules) - before)


def test_a_look_leaves_no_folder(temp: Path) -> None:
    found = look()

    assert found.folder == str(temp / f"autostop_lab-{os.getuid()}")
    assert list(temp.iterdir()) == []


def test_a_folder_that_others_can_enter_is_told(temp: Path) -> None:
    (temp / f"autostop_lab-{os.getuid()}").mkdir(mode=0o755)
    found = look()

    assert not found.can_promise
    assert "is not a folder that belongs to you alone (0700)" in found.folder_problem


def test_a_place_that_is_no_folder_is_told(temp: Path) -> None:
    (temp / f"autostop_lab-{os.getuid()}").touch()

    assert "is not a folder" in look().folder_problem


def test_a_machine_without_a_folder_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    found = look()

    assert "No usable temporary directory" in found.folder_problem
    assert (found.live_sessions, found.dead_sessions, found.free_bytes) == (0, 0, None)


@pytest.mark.parametrize(("has_kqueue", "how"), [(True, "kqueue"), (False, "poll")])
def test_how_a_death_is_seen_without_a_pidfd(
    monkeypatch: pytest.MonkeyPatch, has_kqueue: bool, how: str
) -> None:
    monkeypatch.setattr(module, "open_pidfd", lambda pid: None)
    monkeypatch.delattr(select, "kqueue", raising=False)
    if has_kqueue:
        monkeypatch.setattr(select, "kqueue", object, raising=False)

    assert look().death_is_seen_by == how


def test_a_limit_that_is_none_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = look()

    assert (found.open_files, found.processes) == (None, None)


def test_nest_asyncio_is_seen_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio", types.ModuleType("nest_asyncio"))

    assert look().loaded_nest_asyncio


def test_who_has_the_port_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(module, "JOBMANAGER_PORT", taken.getsockname()[1])
        who = look().port_taken_by
    free = look().port_taken_by

    assert who is not None
    assert who.startswith(f"pid {os.getpid()} (")
    assert free is None


def test_a_process_that_ends_meanwhile_has_no_name() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    eventually(lambda: not is_running(child))

    assert module._named(child) == ""
