"""Programs in the shapes of the ancestor's documentation and tests; only their import lines are ours.

Each test names the feature of the ancestor that it shows. What they hold is what those programs expect, where the
ancestor gives it or not: no record lost, no error swallowed, services cleaned when ``submit`` returns.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from autostop_lab import (
    BatchFunction,
    CoMapFunction,
    FilterFunction,
    FlatMapFunction,
    JoinFunction,
    KeyByFunction,
    LocalEnvironment,
    MapFunction,
    Service,
    SinkFunction,
    SourceFunction,
)


class NumberSource(BatchFunction):
    """Counts up; None is the end."""

    def __init__(self, max_count: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counter = 0
        self.max_count = max_count

    def execute(self) -> Any:
        if self.counter >= self.max_count:
            return None
        self.counter += 1
        self.logger.debug("number %s", self.counter)
        return self.counter


class RowSource(BatchFunction):
    def __init__(self, rows: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = list(rows)

    def execute(self) -> Any:
        return self.rows.pop(0) if self.rows else None


class ResultSink(SinkFunction):
    """Keeps results where a test can read them when the job is over."""

    results: list[Any] = []  # noqa: RUF012  # shared on purpose, as in the programs that this is taken from
    closed: list[str] = []  # noqa: RUF012

    def __init__(self, output: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.output = output

    def execute(self, data: Any) -> None:
        self.results.append(data if not self.output else (self.output, data))

    def close(self) -> None:
        self.closed.append(self.output)


@pytest.fixture(autouse=True)
def fresh_results() -> None:
    ResultSink.results.clear()
    ResultSink.closed.clear()


def test_batch_of_a_class_through_map_and_filter() -> None:
    """Feature: ``from_batch(BatchFunction class, arguments)``, operators as classes, ``submit(autostop=True)``."""

    class Square(MapFunction):
        def execute(self, data: int) -> int:
            return data * data

    class Even(FilterFunction):
        def execute(self, data: int) -> bool:
            return data % 2 == 0

    env = LocalEnvironment("squares")
    env.from_batch(NumberSource, max_count=10).map(Square).filter(Even).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == [4, 16, 36, 64, 100]


def test_end_of_batch_needs_no_quiet_period() -> None:
    """Feature: draining. The end is counted: a pause longer than any quiet period loses nothing."""

    class Pausing(NumberSource):
        def execute(self) -> Any:
            if self.counter == 2:
                time.sleep(1.0)
            return super().execute()

    env = LocalEnvironment("pause")
    env.from_batch(Pausing, 4).map(lambda x: x, parallelism=2).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == [1, 2, 3, 4]


def test_sources_of_lists_and_iterables() -> None:
    """Feature: ``from_batch(list)``, ``from_batch(iterable)``, ``from_collection``."""
    env = LocalEnvironment("lists")
    env.from_batch([1, 2]).sink(ResultSink, "list")
    env.from_batch(iter("ab")).sink(ResultSink, "iterable")
    env.from_collection(range(2)).sink(ResultSink, "collection")
    env.submit(autostop=True)

    assert ResultSink.results == [
        ("list", 1),
        ("list", 2),
        ("iterable", "a"),
        ("iterable", "b"),
        ("collection", 0),
        ("collection", 1),
    ]


def test_flatmap_returns_and_collects() -> None:
    """Feature: ``flatmap``, by return value and by ``self.collect``."""

    class Words(FlatMapFunction):
        def execute(self, data: str) -> Any:
            if data.startswith("!"):
                for word in data[1:].split():
                    self.collect(word)
                return None
            return data.split()

    env = LocalEnvironment("words")
    env.from_batch(RowSource, ["a b", "!c d", ""]).flatmap(Words).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == ["a", "b", "c", "d"]


def test_sink_is_closed_at_the_end() -> None:
    """Feature: sink ``close()``."""
    env = LocalEnvironment("close")
    stream = env.from_batch(NumberSource, 3)
    stream.sink(ResultSink, "one")
    stream.sink(ResultSink, "two")
    env.submit(autostop=True)

    assert sorted(ResultSink.closed) == ["one", "two"]
    assert sorted(ResultSink.results) == [(name, n) for name in ("one", "two") for n in (1, 2, 3)]


class UserKey(KeyByFunction):
    def execute(self, data: dict[str, Any]) -> str:
        return str(data["user"])


def test_keyby_keeps_the_records_of_a_key_together() -> None:
    """Feature: ``keyby(fn, strategy="hash")`` in front of a stateful operator with ``parallelism=``."""

    class Running(MapFunction):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.totals: dict[str, int] = {}

        def execute(self, data: dict[str, Any]) -> tuple[str, int]:
            user = data["user"]
            self.totals[user] = self.totals.get(user, 0) + data["amount"]
            return user, self.totals[user]

    rows = [{"user": f"u{n % 7}", "amount": n} for n in range(70)]
    env = LocalEnvironment("totals")
    env.from_batch(RowSource, rows).keyby(UserKey, strategy="hash").map(Running, parallelism=3).sink(ResultSink)
    env.submit(autostop=True)

    for user in range(7):
        totals = [total for name, total in ResultSink.results if name == f"u{user}"]
        amounts = [n for n in range(70) if n % 7 == user]
        assert totals == [sum(amounts[: place + 1]) for place in range(10)]


def test_comap_of_two_streams() -> None:
    """Feature: ``connect(other).comap(CoMap)`` with ``map0`` and ``map1``."""

    class Sensors(CoMapFunction):
        def map0(self, data: float) -> str:
            return f"temperature {data}"

        def map1(self, data: float) -> str:
            return f"pressure {data}"

    env = LocalEnvironment("sensors")
    temperatures = env.from_batch(RowSource, [20.5, 21.0])
    pressures = env.from_batch(RowSource, [1.0])
    temperatures.connect(pressures).comap(Sensors).sink(ResultSink)
    env.submit(autostop=True)

    assert sorted(ResultSink.results) == ["pressure 1.0", "temperature 20.5", "temperature 21.0"]


def test_join_by_key_with_payload_key_and_tag() -> None:
    """Feature: ``connect(other).keyby(...).join(JoinFunction)``, ``execute(payload, key, tag) -> list``."""

    class OrderOfUser(JoinFunction):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.users: dict[Any, Any] = {}
            self.orders: dict[Any, list[Any]] = {}

        def execute(self, payload: Any, key: Any, tag: int) -> list[Any]:
            if tag == 0:
                self.users[key] = payload["name"]
                return [(payload["name"], item) for item in self.orders.pop(key, [])]
            if key in self.users:
                return [(self.users[key], payload["item"])]
            self.orders.setdefault(key, []).append(payload["item"])
            return []

    env = LocalEnvironment("orders")
    users = env.from_batch(RowSource, [{"user": 1, "name": "Ann"}, {"user": 2, "name": "Bob"}])
    orders = env.from_batch(
        RowSource, [{"user": 2, "item": "tea"}, {"user": 1, "item": "rum"}, {"user": 3, "item": "ale"}]
    )
    users.connect(orders).keyby(UserKey).join(OrderOfUser, parallelism=2).sink(ResultSink, parallelism=1)
    env.submit(autostop=True)

    assert sorted(ResultSink.results) == [("Ann", "rum"), ("Bob", "tea")]


def test_feedback_through_a_future() -> None:
    """Feature: ``from_future(name)`` and ``fill_future``: a loop that counts down, and ends."""
    env = LocalEnvironment("countdown")
    again = env.from_future("again")
    steps = env.from_batch(RowSource, [3, 5]).connect(again).map(lambda n: n - 1)
    steps.filter(lambda n: n > 0).fill_future(again)
    steps.sink(ResultSink)
    env.submit(autostop=True)

    assert sorted(ResultSink.results) == [0, 0, 1, 1, 2, 2, 3, 4]


class Store(Service):
    """Lives with the job; its calls are written down outside, where they outlast it."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, prefix: str = "value") -> None:
        self.prefix = prefix

    def start(self) -> None:
        self.calls.append("start")

    def process(self, key: str) -> str:
        return f"{self.prefix} of {key}"

    def get(self, key: str, default: str = "") -> str:
        return f"{self.prefix}[{key}{default}]"

    def stop(self) -> None:
        self.calls.append("stop")

    def cleanup(self) -> None:
        self.calls.append("cleanup")


def test_services_are_called_by_name_and_cleaned_before_submit_returns() -> None:
    """Feature: ``register_service``, ``call_service(name, ..., method=)``, ``call_service_async(...) -> Future``."""

    class Ask(MapFunction):
        def execute(self, data: str) -> tuple[str, str, str]:
            later = self.call_service_async("store", data, method="get", default="!")
            return (
                self.call_service("store", data),
                self.call_service("store", data, method="get", timeout=20.0),
                later.result(20),
            )

    Store.calls.clear()
    env = LocalEnvironment("lookups")
    env.register_service("store", Store, prefix="entry")
    env.from_batch(["a", "b"]).map(Ask).sink(ResultSink)
    env.submit(autostop=True)

    assert Store.calls == ["start", "stop", "cleanup"]
    assert ResultSink.results == [("entry of a", "entry[a]", "entry[a!]"), ("entry of b", "entry[b]", "entry[b!]")]


def test_a_service_comes_from_a_factory() -> None:
    """Feature: ``register_service_factory(name, factory)``."""

    class Ask(MapFunction):
        def execute(self, data: str) -> Any:
            return self.call_service("store", data)

    env = LocalEnvironment("factory")
    env.register_service_factory("store", lambda: Store("made"))
    env.from_batch(["x"]).map(Ask).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == ["made of x"]


def test_parallelism_with_a_slow_replica_loses_nothing() -> None:
    """Feature: ``parallelism=n``; the ancestor's end came with the first replica's (4 of 8 records were lost)."""

    class Slow(MapFunction):
        slow: list[str] = []  # noqa: RUF012

        def execute(self, data: int) -> int:
            if not self.slow:
                self.slow.append(threading.current_thread().name)
            if threading.current_thread().name == self.slow[0]:
                time.sleep(0.05)
            return data

    env = LocalEnvironment("slow replica")
    env.from_batch(NumberSource, 8).map(Slow, parallelism=2).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == list(range(1, 9))


def test_an_error_in_a_function_is_raised_and_services_are_cleaned() -> None:
    """Feature: errors in functions; in the ancestor they were logged, and the job counted as done."""

    class Fails(MapFunction):
        def execute(self, data: int) -> int:
            if data == 50:
                raise ValueError("bad record")
            return data

    Store.calls.clear()
    env = LocalEnvironment("errors")
    env.register_service("store", Store)
    env.from_batch(NumberSource, 100).map(Fails).sink(ResultSink)
    with pytest.raises(ValueError, match="bad record") as caught:
        env.submit(autostop=True)

    assert caught.value.__notes__[0] == "operator 'map' (Fails), record 49"
    assert ResultSink.results == list(range(1, 50))
    assert Store.calls == ["start", "stop", "cleanup"]


def test_a_failing_source_ends_the_job() -> None:
    """Feature: a source that raises; in the ancestor it was asked again for ever."""

    class Broken(NumberSource):
        def execute(self) -> Any:
            if self.counter == 3:
                raise OSError("disk")
            return super().execute()

    env = LocalEnvironment("broken source")
    env.from_batch(Broken).sink(ResultSink)
    with pytest.raises(OSError, match="disk"):
        env.submit(autostop=True)

    assert ResultSink.results == [1, 2, 3]


def test_a_stream_can_be_stopped() -> None:
    """Feature: ``from_source(SourceFunction)``, a job that runs until it is stopped."""

    class Ticks(SourceFunction):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.count = 0

        def execute(self) -> int:
            self.count += 1
            return self.count

    seen = threading.Event()
    env = LocalEnvironment("ticks")
    env.from_source(Ticks).map(lambda n: n if n < 100 else (seen.set(), n)[1]).sink(ResultSink)
    job = env.submit()
    assert seen.wait(20)
    job.stop()
    assert job.wait(20)

    assert job.state == "succeeded"
    assert ResultSink.results == list(range(1, len(ResultSink.results) + 1))
    env.close()


def test_print_shows_records_with_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    """Feature: ``print(prefix, separator)``."""
    env = LocalEnvironment("print")
    env.from_batch(NumberSource, 2).print("number", separator=": ")
    env.submit(autostop=True)

    assert capsys.readouterr().out == "number: 1\nnumber: 2\n"


def test_a_pipeline_is_called_like_a_service() -> None:
    """Feature: a pipeline as a service that the job itself calls."""

    class Ask(MapFunction):
        def execute(self, data: int) -> Any:
            return self.call_service("double", data)

    env = LocalEnvironment("pipeline service")
    env.register_pipeline_service("double", lambda stream: stream.map(lambda n: n * 2).map(str))
    env.from_batch(NumberSource, 3).map(Ask).sink(ResultSink)
    env.submit(autostop=True)

    assert ResultSink.results == ["2", "4", "6"]
