"""Descriptors that the child of a plain fork does not keep."""

from __future__ import annotations

import os
import socket

import pytest

from autostop_lab.reaper import forks
from tests.reaper.forking import in_fork

# Since Python 3.12 it warns of a fork beside threads; here it is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_forked_child_has_none_of_them() -> None:
    before = forks.descriptors()
    null = forks.opened(lambda: os.open(os.devnull, os.O_RDONLY))
    copy = forks.duplicate(null)
    reads, writes = forks.pipe()
    ours, theirs = forks.socket_pair()
    mine = [null, copy, reads, writes, ours.fileno(), theirs.fileno()]
    assert forks.descriptors() - before == set(mine)

    assert in_fork(lambda: [is_open(each) for each in mine]) == str([False] * 6)
    assert all(map(is_open, mine))

    for descriptor in mine[:4]:
        forks.close(descriptor)
    for end in (ours, theirs):
        forks.close_socket(end)
    assert forks.descriptors() == before
    assert not any(map(is_open, mine))


def test_the_other_side_sees_the_end_although_a_forked_child_lives_on() -> None:
    ours, theirs = forks.socket_pair()
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    forks.close_socket(ours)
    theirs.settimeout(20)

    assert theirs.recv(1) == b""
    forks.close_socket(theirs)
    os.close(reads)
    os.close(writes)
    os.waitpid(child, 0)


def test_closing_in_a_forked_child_does_not_close_what_has_the_number_by_then() -> None:
    descriptor = forks.opened(lambda: os.open(os.devnull, os.O_RDONLY))

    def reuse() -> bool:
        taken = os.open(os.devnull, os.O_RDONLY)
        while taken < descriptor:
            taken = os.dup(taken)
        forks.close(descriptor)
        return is_open(descriptor)

    assert in_fork(reuse) == "True"
    forks.close(descriptor)


def test_a_socket_may_be_closed_twice() -> None:
    ours, theirs = forks.socket_pair()
    for _ in range(2):
        forks.close_socket(ours)
        forks.close_socket(theirs)

    assert isinstance(ours, socket.socket)


def test_what_could_not_be_opened_is_not_kept_in_mind() -> None:
    before = forks.descriptors()
    with pytest.raises(FileNotFoundError):
        forks.opened(lambda: os.open("/nowhere/at/all", os.O_RDONLY))

    assert forks.descriptors() == before
