"""Every test of engines runs on each engine."""

from __future__ import annotations

import pytest

from autostop_lab.engines import Engine, LocalEngine

ENGINES = {"local": LocalEngine}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()
