"""News of the end of a process."""

from __future__ import annotations

import os
import select
import subprocess

import pytest

from autostop_lab.reaper import watch as module
from autostop_lab.reaper.processes import Process, process
from autostop_lab.reaper.watch import Watch


def identity(pid: int) -> Process:
    found = process(pid)
    assert found is not None
    return found


@pytest.mark.parametrize("can_wait", [True, False])
def test_an_end_is_told(monkeypatch: pytest.MonkeyPatch, can_wait: bool) -> None:
    if not can_wait:
        monkeypatch.setattr(module, "open_pidfd", lambda pid: None)
        monkeypatch.setattr(module.sys, "platform", "another")
    program = subprocess.Popen(["sleep", "1000"])
    watch = Watch(identity(program.pid))
    assert not watch.has_ended()
    program.kill()
    if watch.descriptor is not None:
        assert select.select([watch.descriptor], [], [], 20)[0]
        os.close(watch.descriptor)
    else:
        assert not can_wait
        program.wait()

    assert watch.has_ended()  # also where nobody has waited for it yet
    program.wait()


def test_one_that_has_ended_before_is_told_too() -> None:
    program = subprocess.Popen(["sleep", "1000"])
    known = identity(program.pid)
    program.kill()
    program.wait()
    watch = Watch(known)

    assert watch.descriptor is None
    assert watch.has_ended()


def test_another_with_its_pid_is_not_it() -> None:
    watch = Watch(Process(os.getpid(), "1", parent_pid=1, group=1, session=1, is_zombie=False))

    assert watch.has_ended()
    assert watch.descriptor is not None
    os.close(watch.descriptor)
