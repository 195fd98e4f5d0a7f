"""What waits to be told to the reaper."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from autostop_lab.reaper import forks
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.outbox import Entry, Outbox


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    found = Outbox()
    yield found
    found.close()


def lease(name: str, pid: int | None = 5) -> Lease:
    return Lease(instance_id=f"{name}-0123456789", name=name, kind="command", pid=pid)


def settled(entry: Entry) -> Entry:
    entry.settle()
    return entry


def test_requests_come_before_leases_since_one_may_come_back(outbox: Outbox) -> None:
    first = settled(outbox.add(lease("a"), None))
    assert outbox.take() == ([], [first])
    outbox.release("a-0123456789", only_folder=False)
    second = outbox.add(lease("a"), None)

    assert outbox.take() == ([{"op": "release", "instance_id": "a-0123456789"}], [second])
    assert outbox.take() == ([], [])


def test_a_new_reaper_is_told_of_every_lease(outbox: Outbox) -> None:
    entries = [settled(outbox.add(lease(name), None)) for name in "abc"]
    outbox.take()
    outbox.begin_anew()

    assert outbox.take() == ([], entries)


def test_whoever_waits_for_a_lease_that_is_taken_back_waits_no_more(outbox: Outbox) -> None:
    entry = outbox.add(lease("a"), None)
    outbox.release("a-0123456789", only_folder=False)

    assert entry.answered.is_set()
    assert "taken back" in entry.refusal
    assert outbox.leases() == []


def test_the_first_outcome_holds(outbox: Outbox) -> None:
    entry = outbox.add(lease("a"), None)
    entry.settle("no")
    entry.settle("")

    assert entry.refusal == "no"
    assert outbox.leases() == []


def test_only_those_that_wait_are_refused_when_there_is_no_reaper(outbox: Outbox) -> None:
    registered, waiting = settled(outbox.add(lease("a"), None)), outbox.add(lease("b"), None)
    outbox.refuse(outbox.waiting(), "none can be started")

    assert (registered.refusal, waiting.refusal) == ("", "none can be started")
    assert outbox.leases() == [registered.lease]


def test_taking_back_leaves_a_later_lease_of_the_same_name_alone(outbox: Outbox) -> None:
    old = outbox.add(lease("a"), None)
    new = outbox.add(lease("a"), None)
    outbox.take_back(old)

    assert outbox.take() == ([], [new])


def test_the_lease_of_a_folder_does_not_replace_that_of_its_program(outbox: Outbox) -> None:
    program = outbox.add(lease("a"), None)

    assert outbox.add(lease("a", pid=None), None) is program
    outbox.release("a-0123456789", only_folder=True)
    assert outbox.take() == ([], [program])


def test_a_sent_signal_is_noted_for_known_leases_only(outbox: Outbox) -> None:
    entry = outbox.add(lease("a"), None)
    outbox.note_asked("b-0123456789")
    outbox.note_asked("a-0123456789")
    (request,), _ = outbox.take()

    assert request == {"op": "asked", "instance_id": "a-0123456789", "at": entry.asked_at}


def test_outputs_stay_open_until_nothing_can_be_on_its_way(outbox: Outbox) -> None:
    reads, writes = os.pipe()
    copy = forks.duplicate(reads)
    outbox.add(lease("a"), copy)
    outbox.release("a-0123456789", only_folder=False)
    assert copy in forks.descriptors()
    outbox.close_unused()

    assert copy not in forks.descriptors()
    os.close(reads)
    os.close(writes)


def test_whatever_comes_wakes_the_one_that_sleeps(outbox: Outbox) -> None:
    for act in (
        lambda: outbox.add(lease("a"), None),
        lambda: outbox.note_asked("a-0123456789"),
        lambda: outbox.release("a-0123456789", only_folder=False),
        outbox.wake,
    ):
        sleeper = threading.Thread(target=outbox.sleep, args=(60.0,))
        sleeper.start()
        act()
        sleeper.join(20)
        assert not sleeper.is_alive()


def test_it_can_be_woken_more_often_than_a_pipe_holds(outbox: Outbox) -> None:
    for _ in range(100_000):
        outbox.wake()
    outbox.drain()


def test_after_its_end_nothing_is_taken_in() -> None:
    outbox = Outbox()
    outbox.close()
    reads, writes = os.pipe()
    copy = forks.duplicate(reads)
    entry = outbox.add(lease("a"), copy)
    outbox.wake()

    assert entry.refusal
    assert copy not in forks.descriptors()
    os.close(reads)
    os.close(writes)
    assert outbox.is_empty
