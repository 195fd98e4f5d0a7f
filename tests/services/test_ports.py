from __future__ import annotations

import os
import socket

from autostop_lab.services.ports import FreePorts, takers_of


def test_a_chosen_port_is_free_and_given_out_once() -> None:
    ports = FreePorts()
    chosen = [ports.choose("127.0.0.1") for _ in range(200)]

    assert len(set(chosen)) == 200
    assert takers_of("127.0.0.1", chosen[0]) is None


def test_a_port_that_was_given_back_may_be_chosen_again() -> None:
    ports = FreePorts()
    chosen = ports.choose("127.0.0.1")
    ports.give_back([chosen])
    ports.give_back([chosen])

    assert not ports._given


def test_a_port_that_is_served_is_taken_by_who_serves_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert takers_of(*server.getsockname()) == frozenset({os.getpid()})


def test_a_port_that_is_only_bound_is_not_taken() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert takers_of(*bound.getsockname()) is None
