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
    eventually(lambda: not list(tmp_path.glob("autostop_lab-*/session-*/lock")) or not owners, "a reaper goes on")
