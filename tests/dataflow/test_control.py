from __future__ import annotations

from autostop_lab.dataflow import Control


def test_at_first_nothing_is_ordered() -> None:
    control = Control()

    assert (control.stopping.is_set(), control.is_draining, control.is_cancelled) == (False, False, False)


def test_drain_is_not_cancel() -> None:
    control = Control()
    control.drain()
    control.drain()

    assert (control.stopping.is_set(), control.is_draining, control.is_cancelled) == (True, True, False)


def test_cancel_comes_over_a_drain_and_stays() -> None:
    control = Control()
    control.drain()
    control.cancel()
    control.drain()

    assert (control.stopping.is_set(), control.is_draining, control.is_cancelled) == (True, False, True)


def test_every_order_empties_the_gate_that_is_out() -> None:
    control = Control()
    for order in (control.recall, control.drain, control.cancel):
        gate = [0, 1, 2]
        control.publish(gate)
        order()
        assert gate == []


def test_a_look_orders_nothing() -> None:
    control = Control()
    control.recall()

    assert not control.stopping.is_set()
