"""Outputs whose reader may be gone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from autostop_lab.reaper.outputs import Outputs


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    found = Outputs()
    yield found
    for name in "ab":
        found.drop(name)


def pipe() -> tuple[int, int]:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    return reads, writes


def test_what_is_written_is_read_so_that_nobody_has_to_wait(outputs: Outputs) -> None:
    reads, writes = pipe()
    outputs.keep("a", reads)
    os.set_blocking(writes, False)
    for _ in range(50):
        while True:
            try:
                os.write(writes, b"x" * 4096)
            except BlockingIOError:
                break
        outputs.drain(0.0)
    assert os.write(writes, b"x" * 4096) == 4096
    os.close(writes)


def test_one_that_has_ended_is_let_go_of(outputs: Outputs) -> None:
    reads, writes = pipe()
    outputs.keep("a", reads)
    os.close(writes)
    outputs.drain(0.0)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reads)


def test_a_new_one_takes_the_place_of_the_one_before(outputs: Outputs) -> None:
    (old, old_end), (new, new_end) = pipe(), pipe()
    outputs.keep("a", old)
    outputs.keep("a", new)
    with pytest.raises(BrokenPipeError):
        os.write(old_end, b"x")
    assert os.write(new_end, b"x") == 1
    outputs.keep("a", None)
    with pytest.raises(BrokenPipeError):
        os.write(new_end, b"x")
    os.close(old_end)
    os.close(new_end)


def test_draining_lasts_as_long_as_it_should_and_a_flood_does_not_lengthen_it(outputs: Outputs) -> None:
    outputs.drain(0.0)
    flood = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    assert flood.stdout is not None
    os.set_blocking(flood.stdout.fileno(), False)
    outputs.keep("b", os.dup(flood.stdout.fileno()))
    began = time.monotonic()
    outputs.drain(0.2)

    assert 0.2 <= time.monotonic() - began < 20
    flood.kill()
    flood.wait()
    flood.stdout.close()
