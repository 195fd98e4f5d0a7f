from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.services.policies import ServicePolicy


def test_the_defaults_are_those_of_the_contract() -> None:
    policy = ServicePolicy()

    assert policy.depends_on == ()
    assert policy.critical is True
    assert policy.secret == ()
    assert policy.start_timeout_s == 30
    assert policy.stop_timeout_s == 10
    assert policy.kill_timeout_s == 2
    assert policy.cleanup_timeout_s == 5
    assert policy.call_timeout_s == 30
    assert policy.max_concurrent_calls == 1


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"start_timeout_s": 0}, "start_timeout_s=0 must be greater than 0 s"),
        ({"start_timeout_s": -1}, "greater than"),
        ({"kill_timeout_s": 0}, "kill_timeout_s=0 must be greater than 0 s"),
        ({"stop_timeout_s": -0.1}, "stop_timeout_s=-0.1 must be at least 0 s"),
        ({"cleanup_timeout_s": -1}, "at least"),
        ({"call_timeout_s": -1}, "at least"),
        ({"stop_timeout_s": "5"}, "stop_timeout_s='5' is not a number of seconds"),
        ({"stop_timeout_s": None}, "not a number"),
        ({"stop_timeout_s": True}, "not a number"),
        ({"stop_timeout_s": float("nan")}, "not a number"),
        ({"stop_timeout_s": float("inf")}, "not a number"),
        ({"stop_timeout_s": 1e300}, "not a number"),
        ({"stop_timeout_s": 10**400}, "not a number"),
        ({"max_concurrent_calls": 0}, "max_concurrent_calls=0 must be a whole number of at least 1"),
        ({"max_concurrent_calls": 1.0}, "whole number"),
        ({"max_concurrent_calls": True}, "whole number"),
        ({"critical": 1}, "critical=1 must be True or False"),
        ({"critical": None}, "True or False"),
        ({"depends_on": "store"}, r"depends_on=\('store',\)"),
        ({"depends_on": 3}, "must be a tuple of names"),
        ({"depends_on": (3,)}, "depends_on holds 3, which is not a name"),
        ({"depends_on": ("",)}, "not a name"),
        ({"secret": "password"}, r"secret=\('password',\)"),
        ({"secret": (None,)}, "secret holds None"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ServicePolicy(**given)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="positional"):
        ServicePolicy(("store",))  # type: ignore[call-arg]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="stop_timeout"):
        ServicePolicy(stop_timeout=5)  # type: ignore[call-arg]


def test_a_policy_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ServicePolicy().critical = False  # type: ignore[misc]


def test_names_may_come_as_any_collection_and_are_kept_as_a_tuple() -> None:
    assert ServicePolicy(depends_on=["a", "b"]).depends_on == ("a", "b")  # type: ignore[arg-type]


def test_a_handle_in_depends_on_stands_for_its_service() -> None:
    class Handle:
        name = "store"

    assert ServicePolicy(depends_on=(Handle(),)).depends_on == ("store",)  # type: ignore[arg-type]


def test_fields_not_given_are_inherited_from_environment_and_then_library() -> None:
    environment = ServicePolicy(stop_timeout_s=3, start_timeout_s=4)

    policy = ServicePolicy(stop_timeout_s=7).inherit(environment)

    assert (policy.stop_timeout_s, policy.start_timeout_s, policy.kill_timeout_s) == (7, 4, 2)


def test_a_default_that_was_given_on_purpose_is_not_overridden() -> None:
    policy = ServicePolicy(stop_timeout_s=10).inherit(ServicePolicy(stop_timeout_s=3))

    assert policy.stop_timeout_s == 10


def test_inheriting_from_nothing_changes_nothing() -> None:
    policy = ServicePolicy(critical=False)

    assert policy.inherit(None) == policy


def test_what_was_inherited_is_passed_on() -> None:
    grandchild = ServicePolicy().inherit(ServicePolicy().inherit(ServicePolicy(stop_timeout_s=3)))

    assert grandchild.stop_timeout_s == 3


def test_dependencies_are_added_once_and_keep_what_was_given() -> None:
    policy = ServicePolicy(depends_on=("a",), stop_timeout_s=3).with_dependencies(["b", "a"])

    assert policy.depends_on == ("a", "b")
    assert policy.inherit(ServicePolicy(stop_timeout_s=9, critical=False)).stop_timeout_s == 3
    assert policy.inherit(ServicePolicy(stop_timeout_s=9, critical=False)).critical is False


@pytest.mark.parametrize("through", [lambda p: pickle.loads(pickle.dumps(p)), copy.copy, copy.deepcopy])
def test_a_policy_that_was_pickled_or_copied_still_knows_what_was_given(through: Any) -> None:
    policy = through(ServicePolicy(stop_timeout_s=10))

    assert policy == ServicePolicy(stop_timeout_s=10)
    assert policy.inherit(ServicePolicy(stop_timeout_s=3, kill_timeout_s=1)).stop_timeout_s == 10
    assert policy.inherit(ServicePolicy(stop_timeout_s=3, kill_timeout_s=1)).kill_timeout_s == 1
