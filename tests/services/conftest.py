from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.lives import Life


@pytest.fixture
def make() -> Iterator[Callable[..., Life]]:
    """Makes lives of services: ``make(target, *args, name=..., policy=..., **kwargs)``; all are ended afterwards."""
    lives: list[Life] = []

    def make_life(target: Any, *args: Any, name: str = "it", **kwargs: Any) -> Life:
        lives.append(Life(name, target, *args, **kwargs))
        return lives[-1]

    yield make_life
    for life in reversed(lives):
        life.end()
