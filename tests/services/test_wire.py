from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from autostop_lab.services.handle import run_in_background
from autostop_lab.services.wire import Connection, LostError, connection_pair, receive_socket, send_socket
from tests.services.lives import LONG_S, eventually


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = connection_pair()
    other = Connection(theirs)
    yield ours, other
    ours.close()
    other.close()


Pair = tuple[Connection, Connection]


@pytest.mark.parametrize(
    ("body", "sizes"),
    [(b"", []), (b"x", []), (b"x" * 70_000, []), (b"x", [0, 1, 5]), (b"y" * 100_000, [70_000, 3 << 20, 0])],
    ids=["empty", "small", "large", "small buffers", "large buffers"],
)
def test_messages_arrive_whole_and_in_order(pair: Pair, body: bytes, sizes: list[int]) -> None:
    ours, other = pair
    buffers = [memoryview(os.urandom(size)) for size in sizes]
    sent = run_in_background(lambda: [ours.send(b"head", body, buffers) for _ in range(3)], name="send")

    for _ in range(3):
        head, came, others = other.receive()
        assert (head, came) == (b"head", body)
        assert [bytes(each) for each in others] == [bytes(each) for each in buffers]
    sent.result(LONG_S)
    assert not other.has_more


def test_received_buffers_can_be_written_to(pair: Pair) -> None:
    ours, other = pair
    for size in (10, 3 << 20):
        sent = run_in_background(lambda size=size: ours.send(b"", b"", [memoryview(bytes(size))]), name="send")  # type: ignore[misc]
        (buffer,) = other.receive()[2]
        sent.result(LONG_S)
        memoryview(buffer)[0] = 7

        assert buffer[0] == 7


def test_messages_that_come_together_are_taken_apart(pair: Pair) -> None:
    ours, other = pair
    for number in range(100):
        ours.send(str(number).encode(), b"body")

    assert [other.receive()[0] for _ in range(100)] == [str(number).encode() for number in range(100)]


def test_the_end_of_the_other_side_is_told(pair: Pair) -> None:
    ours, other = pair
    other.close()
    with pytest.raises(LostError) as caught:
        ours.exchange(b"head")

    assert not caught.value.was_sent


def test_an_end_before_the_answer_is_told(pair: Pair) -> None:
    ours, other = pair
    waiting = run_in_background(lambda: ours.exchange(b"head"), name="exchange")
    other.receive()
    other.close()
    error: Any = waiting.exception(LONG_S)

    assert isinstance(error, LostError)
    assert error.was_sent


def test_a_cut_wakes_who_waits(pair: Pair) -> None:
    ours, _ = pair
    inside = threading.Event()

    def receive() -> None:
        inside.set()
        with pytest.raises((EOFError, OSError)):
            ours.receive()

    waiting = run_in_background(receive, name="receive")
    assert inside.wait(LONG_S)
    ours.cut()

    assert waiting.result(LONG_S) is None


def test_a_socket_goes_through_a_socket() -> None:
    through, out = socket.socketpair()
    ours, theirs = connection_pair()
    with through, out:
        send_socket(through, theirs)
        came = receive_socket(out)
        assert came is not None
        assert not came.get_inheritable()
        other = Connection(came)
        ours.send(b"head")
        assert other.receive()[0] == b"head"
        through.close()
        assert receive_socket(out) is None
    for end in (ours, other):
        end.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_a_connection_open(pair: Pair) -> None:
    ours, other = pair
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reads, 1)
        os._exit(0)
    try:
        ours.close()
        waiting = run_in_background(other.receive, name="receive")
        eventually(waiting.done, "the child holds it open")
        assert isinstance(waiting.exception(LONG_S), EOFError)
    finally:
        os.write(writes, b"x")
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)
