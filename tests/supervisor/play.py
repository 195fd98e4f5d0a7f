"""Tests that are stories: coroutines which a fake clock plays."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from autostop_lab.exceptions import ServiceStartError
from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.supervisor import Supervisor
from autostop_lab.testing import FakeClock, FakeService, fake_supervisor

Story = Callable[..., Coroutine[Any, Any, None]]


def played(story: Story) -> Callable[..., None]:
    """Make a test of a coroutine function that takes the fixture ``clock``, and perhaps more."""

    @functools.wraps(story)
    def test(clock: FakeClock, **others: Any) -> None:
        clock.run(story(clock, **others))

    return test


class Ends(list[tuple[str, Exit]]):
    """What a supervisor told of services that ended by themselves."""

    def names(self) -> list[str]:
        return [name for name, _ in self]


def supervise(clock: FakeClock, *services: FakeService) -> tuple[Supervisor, Ends]:
    """Return a supervisor of fake services, and what it tells of their ends."""
    supervisor, ends = fake_supervisor(clock, *services), Ends()
    supervisor.exit_listeners.append(lambda unit, end: ends.append((unit.name, end)))
    return supervisor, ends


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Begin an order that the story does not wait for."""
    return asyncio.ensure_future(work)


async def refused(task: asyncio.Future[None], match: str) -> None:
    """Expect that an order to start ends in the error that tells of a stop, or of a failure."""
    with pytest.raises(ServiceStartError, match=match):
        await task
