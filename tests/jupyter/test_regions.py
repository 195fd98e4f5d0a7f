"""A region sends what has changed, the latest of it, and no more than its share. An order is given once at a time."""

from __future__ import annotations

import threading

import pytest

from autostop_lab.jupyter.panel.orders import Orders, job_actions, service_actions
from autostop_lab.jupyter.panel.regions import SAVED_S, UPDATE_S, Region
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE, JobState, ServiceState
from autostop_lab.origin import Origin

S, J = ServiceState, JobState


class Shown:
    value = ""


def test_what_has_not_changed_is_not_sent() -> None:
    region = Region(Shown(), bytes_per_s=1e6)

    assert [region.show(text, 0.0) for text in ("a", "a", "b")] == [True, False, True]


@pytest.mark.parametrize("bytes_per_s", [1e4, 1e9])
def test_it_sends_its_share_and_at_most_ten_times_a_second(bytes_per_s: float) -> None:
    shown = Shown()
    region, sent, now_s = Region(shown, bytes_per_s=bytes_per_s), 0, 100.0
    for number in range(10_000):  # for 100 s
        if region.is_due(now_s) and region.show(f"{number:1000}", now_s):
            sent += 1
        now_s += 0.01

    assert 0.9 <= sent / min(100 / UPDATE_S, (100 + SAVED_S) * bytes_per_s / 1000) <= 1.1
    assert int(shown.value) > 9_900


def test_after_a_rest_a_change_is_sent_at_once_and_so_is_the_next() -> None:
    region = Region(Shown(), bytes_per_s=1000)
    region.show("x" * 900, 0.0)
    region.show("y" * 900, 60.0)

    assert not region.is_due(60.0)
    assert region.is_due(60.0 + UPDATE_S)


def test_the_same_order_twice_at_a_time_is_one() -> None:
    orders, go, done = Orders(Origin()), threading.Event(), threading.Event()

    def carry_out() -> None:
        go.wait(20)
        done.set()

    assert orders.give("stop", "service a", carry_out)
    assert not orders.give("stop", "service a", carry_out)
    assert orders.give("kill_now", "service a", lambda: go.wait(20))
    go.set()
    assert done.wait(20)


@pytest.mark.parametrize("state", ServiceState)
def test_the_orders_offered_for_a_service_are_those_that_its_table_takes(state: ServiceState) -> None:
    offered = service_actions(state, may_start=True)

    assert ("start" in offered) == (state in SERVICE_TABLE.at_rest and state is not S.ABANDONED)
    assert ("stop" in offered) == (SERVICE_TABLE.stop in SERVICE_TABLE.triggers_from(state))
    if "kill" in offered:
        assert service_actions(state, may_start=True, is_asked=True) == ("kill_now", "keep")
    assert not {"start", "restart"} & set(service_actions(state, may_start=False))


@pytest.mark.parametrize("state", JobState)
def test_the_orders_offered_for_a_job_are_those_that_its_table_takes(state: JobState) -> None:
    offered = job_actions(state)

    assert ("stop_job" in offered) == (JOB_TABLE.stop in JOB_TABLE.triggers_from(state) or state is J.PENDING)
    assert not (offered and state in JOB_TABLE.final)
