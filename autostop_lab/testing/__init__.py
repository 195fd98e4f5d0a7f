"""For tests of services and of code that uses them: fakes that follow a script, and checks that say what is wrong.

No test framework is needed. `FakeClock` is an event loop on which time stands still until nothing is ready, and then
jumps to the next timer: the real supervisor with `FakeService` goes through hours of backoff, schedules and health
checks in milliseconds, and each time in the same way. `FakeEngine` stands for the engine of an environment.
`leak_check` and `check_service` work with real services, in real time.

Examples
--------
>>> import asyncio
>>> from autostop_lab.testing import FakeClock, FakeService, Script, fake_supervisor
>>> store = FakeService("store", Script(ends_after_s=5.0), restart="on-failure")
>>> async def an_hour():
...     supervisor = fake_supervisor(clock, store)
...     await supervisor.start(["store"])
...     await asyncio.sleep(3600)
...     return supervisor.unit("store").state
>>> with FakeClock() as clock:
...     print(clock.run(an_hour()), "after starts at", store.times("launch"))
crashed after starts at [0.0, 6.0, 13.0, 22.0]
"""

from __future__ import annotations

from autostop_lab.testing.checks import ServiceCheck, ServiceCheckError, check_service, leak_check
from autostop_lab.testing.clock import FakeClock, StandstillError
from autostop_lab.testing.fakes import FakeEngine, FakeRuntime, FakeService, Script, fake_supervisor

__all__ = [
    "FakeClock",
    "FakeEngine",
    "FakeRuntime",
    "FakeService",
    "Script",
    "ServiceCheck",
    "ServiceCheckError",
    "StandstillError",
    "check_service",
    "fake_supervisor",
    "leak_check",
]
