from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from autostop_lab import ConfigurationError, Cron, ServicePolicy
from autostop_lab.supervisor.cron import Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def ticks(cron: Cron, after: datetime, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        after = cron.next_after(after)
        found.append(after.astimezone(UTC))
    return found


def test_a_schedule_in_hours_runs_once_an_hour_through_both_changes_of_clocks() -> None:
    hourly = Cron("30 * * * *", timezone="Europe/Berlin")
    for day in (datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        found = ticks(hourly, day, 8)
        assert {later - earlier for earlier, later in itertools.pairwise(found)} == {timedelta(hours=1)}


def test_a_time_that_the_clock_skips_is_not_lost() -> None:
    daily = Cron("30 2 * * *", timezone="Europe/Berlin")  # 02:30 does not exist on 29 March
    found = ticks(daily, datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2)

    assert found[0].astimezone(BERLIN).date().isoformat() == "2026-03-29"
    assert found[1].astimezone(BERLIN).date().isoformat() == "2026-03-30"


def test_a_time_that_comes_twice_is_not_run_twice() -> None:
    daily = Cron("30 2 * * *", timezone="Europe/Berlin")  # 02:30 comes twice on 25 October
    found = ticks(daily, datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2)

    assert [moment.astimezone(BERLIN).date().isoformat() for moment in found] == ["2026-10-25", "2026-10-26"]


def test_six_fields_have_the_seconds_first() -> None:
    (first,) = ticks(Cron("15 0 12 * * *", timezone="UTC"), datetime(2026, 1, 1, tzinfo=UTC), 1)

    assert first == datetime(2026, 1, 1, 12, 0, 15, tzinfo=UTC)


def test_a_clock_that_is_set_back_repeats_no_run() -> None:
    class Unit:
        stop_asked: Any = None

    async def main() -> tuple[float, float]:
        now = [datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC).timestamp()]
        schedule = Schedule(Unit(), Cron("* * * * *", timezone="UTC"), lambda: now[0])  # type: ignore[arg-type]
        first = schedule._next_tick()
        schedule._last_tick = first
        now[0] -= 3600
        return first, schedule._next_tick()

    first, second = asyncio.run(main())

    assert second - first == 60


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x",), "not a cron schedule"),
        (("0 0 31 2 *",), "not a cron schedule|never comes"),
        (("* * *",), "Wrong number of fields"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments: tuple[str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Cron(*arguments)


@pytest.mark.parametrize(
    "options",
    [{"overlap": "both"}, {"timezone": "Mars"}, {"run_timeout_s": 0}, {"run_on_start": 1}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Cron("* * * * *", **options)


def test_restart_beside_cron_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="beside cron"):
        ServicePolicy(cron="* * * * *", restart="always")
