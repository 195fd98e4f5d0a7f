"""What jobs put into the user's namespace goes again, whoever ends first."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from autostop_lab.jupyter.namespace import Namespace


def test_what_was_hidden_is_put_back_and_what_was_not_there_is_deleted() -> None:
    variables: dict[str, Any] = {"store": "mine"}
    take_away = Namespace(variables).put({"store": "service", "env": "environment"})
    assert variables == {"store": "service", "env": "environment"}

    take_away()
    assert variables == {"store": "mine"}


def test_taking_away_twice_changes_nothing() -> None:
    variables: dict[str, Any] = {}
    take_away = Namespace(variables).put({"env": 1})
    take_away()
    variables["env"] = "mine"
    take_away()

    assert variables == {"env": "mine"}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_several_jobs_may_end_in_any_order(order: tuple[int, ...]) -> None:
    variables: dict[str, Any] = {"env": "mine"}
    namespace = Namespace(variables)
    jobs = [namespace.put({"env": f"job {number}"}) for number in range(3)]
    running = [0, 1, 2]
    for number in order:
        jobs[number]()
        running.remove(number)
        assert variables["env"] == (f"job {running[-1]}" if running else "mine")


def test_what_the_user_assigns_stays() -> None:
    variables: dict[str, Any] = {"env": "mine"}
    take_away = Namespace(variables).put({"env": "service"})
    variables["env"] = "assigned"
    take_away()

    assert variables == {"env": "assigned"}


def test_what_the_user_assigns_between_two_jobs_is_put_back() -> None:
    variables: dict[str, Any] = {"env": "mine"}
    namespace = Namespace(variables)
    first = namespace.put({"env": "job 1"})
    variables["env"] = "assigned"
    second = namespace.put({"env": "job 2"})
    first()
    assert variables == {"env": "job 2"}
    second()
    assert variables == {"env": "assigned"}


def test_what_the_user_deletes_stays_deleted() -> None:
    variables: dict[str, Any] = {"env": "mine"}
    take_away = Namespace(variables).put({"env": "service"})
    del variables["env"]
    take_away()

    assert variables == {}
