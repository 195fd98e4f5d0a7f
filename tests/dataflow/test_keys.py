from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from autostop_lab.dataflow import keys
from autostop_lab.dataflow.keys import router, stable_hash


class Color(Enum):
    RED = 1


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


@dataclass(frozen=True)
class Point:
    x: int
    name: str


@dataclass
class Mutable:
    x: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.5, Fraction(1, 2)),
        (Decimal("2.50"), 2.5),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        ((1, "a"), (1.0, "a")),
        (frozenset("abc"), frozenset("cba")),
        (Point(1, "a"), Point(1, "a")),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
        (timedelta(days=1), timedelta(hours=24)),
    ],
)
def test_equal_keys_have_equal_hashes(one: Any, other: Any) -> None:
    assert one == other
    assert stable_hash(one) == stable_hash(other)


def test_hashes_are_the_same_in_every_process() -> None:
    program = (
        "from datetime import date\n"
        "from autostop_lab.dataflow.keys import stable_hash\n"
        "print([stable_hash(x) for x in ['key', b'key', None, 7, 2.5, ('a', 1), frozenset('ab'), date(2026, 1, 2)]])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    assert len(printed) == 1
    assert (
        printed.pop()
        == f"{[stable_hash(x) for x in ['key', b'key', None, 7, 2.5, ('a', 1), frozenset('ab'), date(2026, 1, 2)]]}\n"
    )


@pytest.mark.parametrize("key", [[1], {"a": 1}, {1}, ([1],), Mutable(1)])
def test_what_is_not_hashable_is_no_key(key: Any) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        stable_hash(key)
    with pytest.raises(TypeError, match="unhashable"):
        router(2)(key)


def test_other_objects_keep_their_own_hash() -> None:
    key = UUID(int=5)

    assert stable_hash(key) == hash(key) & 0x7FFFFFFF
    assert stable_hash(Color.RED) == stable_hash(Color.RED)
    assert stable_hash(float("nan")) == 0


@pytest.mark.parametrize("make", [lambda n: n, str, lambda n: (n, "x"), lambda n: n * 1024])
@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
def test_keys_are_spread_over_all_replicas(make: Any, replicas: int) -> None:
    route = router(replicas)
    counts = [0] * replicas
    for number in range(4000):
        counts[route(make(number))] += 1

    assert min(counts) > 4000 / replicas / 2


def test_a_key_goes_to_the_same_replica_when_the_memory_began_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_KEYS", 10)
    route = router(5)
    before = [route(str(number)) for number in range(100)]

    assert [route(str(number)) for number in range(100)] == before
