from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autostop_lab.exceptions import DependencyError
from autostop_lab.supervisor.plan import did_you_mean, start_levels, unknown_service, with_dependants, with_needed

CHAIN = {"web": ["api"], "api": ["db"], "db": [], "cache": []}


def test_levels_hold_what_depends_only_on_earlier_levels() -> None:
    assert start_levels(CHAIN) == [["db", "cache"], ["api"], ["web"]]


def test_a_level_keeps_the_order_of_registration() -> None:
    assert start_levels({"z": [], "a": [], "m": []}) == [["z", "a", "m"]]


@pytest.mark.parametrize(
    ("dependencies", "text"),
    [
        ({"a": ["a"]}, "'a' depends on itself"),
        ({"api": ["dbb"], "db": []}, "'api' depends on 'dbb', which is not registered. Did you mean 'db'?"),
        ({"a": ["b"], "b": ["a"]}, "in a circle: a -> b -> a"),
    ],
)
def test_dependencies_that_cannot_be_are_refused(dependencies: dict[str, list[str]], text: str) -> None:
    with pytest.raises(DependencyError) as caught:
        start_levels(dependencies)

    assert text.replace("a -> b -> a", "") in str(caught.value)


def test_a_circle_is_named_in_the_direction_of_the_dependencies() -> None:
    with pytest.raises(DependencyError, match="circle: ") as caught:
        start_levels({"a": ["b"], "b": ["c"], "c": ["a"], "d": []})
    circle = str(caught.value).split("circle: ")[1].split(".")[0].split(" -> ")

    assert circle[0] == circle[-1]
    edges = set(itertools.pairwise(circle))
    assert edges == {("a", "b"), ("b", "c"), ("c", "a")}


def test_what_a_service_needs_and_who_needs_it_are_found_through_all_levels() -> None:
    assert with_needed(["web"], CHAIN) == {"web", "api", "db"}
    assert with_dependants(["db"], CHAIN) == {"db", "api", "web"}


def test_a_wrong_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert did_you_mean("stroe", ["store", "x"]) == " Did you mean 'store'?"
    assert did_you_mean("q", ["store"]) == " There are: 'store'."
    assert did_you_mean("q", []) == " There are none."
    assert unknown_service("q", []).service == "q"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Dependencies without circles: each service depends on some before it."""
    names = [f"s{number}" for number in range(draw(st.integers(0, 12)))]
    needs = {name: draw(st.sets(st.sampled_from(names[:i]))) if i else set() for i, name in enumerate(names)}
    return {name: sorted(needs[name]) for name in draw(st.permutations(names))}


@given(graphs())
def test_every_service_is_in_one_level_and_behind_all_that_it_needs(dependencies: dict[str, list[str]]) -> None:
    level_of = {name: i for i, level in enumerate(start_levels(dependencies)) for name in level}

    assert level_of.keys() == dependencies.keys()
    assert all(level_of[other] < level_of[name] for name, needed in dependencies.items() for other in needed)
