from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reaper.owners import Owner, eventually


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Start owners of a folder of their own, and end them with the test."""
    owners: list[Owner] = []

    def start(code: str = "", **environment: str) -> Owner:
        owners.append(Owner(tmp_path, code, **environment))
        return owners[-1]

    yield start
    for owner in owners:
        owner.close()
    eventually(lambda: not any(owner.folders() for owner in owners), "a reaper goes on, or what it should have cleaned")
