from __future__ import annotations

from collections.abc import Iterator

import pytest

from autostop_lab.testing import FakeClock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as fake_clock:
        yield fake_clock
