"""Many threads give orders at random: whatever they do, every life is cleaned, and nothing grows."""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from autostop_lab import (
    AutostopError,
    Command,
    Health,
    LocalEnvironment,
    LogReady,
    Restart,
    ServiceHandle,
    ServicePolicy,
)
from tests.chaos import programs
from tests.chaos.holds import AT_REST
from tests.chaos.world import eventually
from tests.services_for_tests import Diary, Recorder

THREADS = 6


class Mortal(Recorder):
    """Dies by itself, sooner or later."""

    def run(self) -> None:
        if not self.stopping.wait(random.uniform(0, 0.1)):
            raise OSError("it happens")


def team(env: LocalEnvironment, diary: Diary) -> list[ServiceHandle]:
    """Register services of each kind that need each other, die, and come back by each strategy."""

    def policy(*needed: str, when: str = "no", strategy: str = "one_for_one", **fields: Any) -> ServicePolicy:
        rule = Restart(when, backoff_s=0.01, backoff_max_s=0.05, max_restarts=None, strategy=strategy)
        return ServicePolicy(depends_on=needed, restart=rule, stop_timeout_s=5, call_timeout_s=0.5, **fields)

    dies = programs.sh("echo up; sleep 0.1; exit 3")
    health = Health(interval_s=0.05)
    return [
        env.register_service("db", Recorder, diary, "db", start=0.005, stop=0.005, policy=policy()),
        env.register_service(
            "program", Command, programs.polite(), ready=LogReady("up"), policy=policy("db", when="always")
        ),
        env.register_service("mortal", Mortal, diary, "mortal", policy=policy("db", when="always", critical=False)),
        env.register_service(
            "top",
            Recorder,
            diary,
            "top",
            policy=policy("program", "mortal", when="on-failure", strategy="one_for_all", health=health),
        ),
        env.register_service(
            "weak",
            Command,
            dies,
            ready=LogReady("up"),
            policy=policy(when="on-failure", strategy="rest_for_one", critical=False),
        ),
    ]


def orders(env: LocalEnvironment, handles: list[ServiceHandle], chance: random.Random) -> Callable[[], object]:
    """Return an order at random."""
    handle = chance.choice(handles)
    job = env.last_job
    return chance.choice(
        [
            handle.start,
            handle.stop,
            handle.restart,
            handle.kill,
            handle.health,
            lambda: handle.call("echo", 1) if handle.name in ("db", "top", "mortal") else None,
            env.start,
            env.stop,
            lambda: env.submit(autostop=chance.choice([True, "on-success"]), wait=chance.random() < 0.5),
            job.cancel if job is not None else env.start,
            job.stop if job is not None else env.start,
        ]
    )


SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_orders_from_many_threads_leave_every_service_at_rest(
    env: LocalEnvironment, diary: Diary, seed: int
) -> None:
    handles = team(env, diary)
    env.run(lambda: time.sleep(0.02))
    until = time.monotonic() + 3
    surprises: list[BaseException] = []

    def give_orders(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() < until:
            try:
                with suppress(AutostopError, ExceptionGroup):  # refusals, and starts that others have undone
                    orders(env, handles, chance)()
            except BaseException as error:
                surprises.append(error)
            time.sleep(chance.choice([0, 0, 0.005, 0.02]))

    threads = [threading.Thread(target=give_orders, args=(number,)) for number in range(THREADS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "an order hangs"
    assert surprises == []
    report = env.close()

    assert {entry.name for entry in report.services} == {handle.name for handle in handles}
    assert all(entry.state in AT_REST - {"abandoned"} for entry in report.services), str(report)
    for name in ("db", "mortal", "top"):
        counts = Counter(diary.of(name))
        assert counts["construct"] == counts["cleanup"] > 0, counts
        assert counts["stop"] <= counts["start"]


def test_a_hundred_jobs_in_a_row_leave_no_thread_and_no_descriptor(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    env.register_service("program", Command, ["sleep", "1000"])
    env.run(lambda: None)
    me = psutil.Process()
    env.submit(autostop=True)
    threads, descriptors, memory = threading.active_count(), me.num_fds(), me.memory_info().rss
    for _ in range(100):
        env.submit(autostop=True)

    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: me.num_fds() <= descriptors)
    assert me.memory_info().rss - memory < 40 << 20
    assert Counter(diary.of("a")) == dict.fromkeys(("construct", "start", "stop", "cleanup"), 101)
