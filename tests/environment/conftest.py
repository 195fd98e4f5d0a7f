from __future__ import annotations

from collections.abc import Iterator

import pytest

from autostop_lab import LocalEnvironment


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("test") as environment:
        yield environment
