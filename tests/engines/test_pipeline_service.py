"""Pipelines as services: what a call gives, what it raises, and how the service starts and ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from autostop_lab import (
    LocalEnvironment,
    MapFunction,
    Restart,
    Retry,
    Service,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    ServiceUnavailableError,
)
from autostop_lab.exceptions import PipelineError
from tests.engines.runs import DEADLINE_S


def odd_fails(record: int) -> int:
    if record % 2:
        raise ValueError(f"{record} is odd")
    return record


def test_a_call_sends_one_record_through() -> None:
    with LocalEnvironment("text") as env:
        parse = env.register_pipeline_service("parse", lambda s: s.map(str.strip).filter(bool).map(int))
        env.start()

        assert [parse.process(text) for text in ("1", " 2 ", " ", "3")] == [1, 2, None, 3]
        assert parse.health().details == {"records": 4, "inside": 0}


def test_a_pipeline_that_can_make_several_of_one_gives_lists() -> None:
    with LocalEnvironment("words") as env:
        words = env.register_pipeline_service("words", lambda s: s.flatmap(str.split).map(str.upper))
        env.start()

        assert [words.process(text) for text in ("a b", "", "c")] == [["A", "B"], [], ["C"]]


def branched(stream: Any) -> Any:
    return stream.map(lambda x: x + 1, parallelism=2).connect(stream.map(lambda x: -x)).map(lambda x: x)


def test_a_pipeline_of_branches_and_replicas_gives_all_that_becomes_of_a_record() -> None:
    with LocalEnvironment("branches") as env:
        both = env.register_pipeline_service("both", branched, ServicePolicy(max_concurrent_calls=8))
        env.start()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(both.process, range(300)))

        assert [sorted(one) for one in results] == [sorted((x + 1, -x)) for x in range(300)]


def test_records_of_several_callers_are_inside_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet(record: int) -> int:
        meeting.wait(DEADLINE_S)
        return record

    with LocalEnvironment("meeting") as env:
        service = env.register_pipeline_service(
            "meet", lambda s: s.map(meet, parallelism=3), ServicePolicy(max_concurrent_calls=3)
        )
        env.start()
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(service.process, range(3))) == [0, 1, 2]


@pytest.mark.parametrize("parallelism", [1, 2])
def test_an_error_is_raised_by_its_call_alone(parallelism: int) -> None:
    with LocalEnvironment("errors") as env:
        service = env.register_pipeline_service("odd", lambda s: s.map(odd_fails, parallelism=parallelism).map(str))
        env.start()
        with pytest.raises(ValueError, match="3 is odd") as caught:
            service.process(3)

        assert caught.value.__notes__ == ["operator 'map' (odd_fails), record 0"]
        assert service.process(4) == "4"


def test_attempts_come_before_the_error() -> None:
    calls: list[int] = []

    def flaky(record: int) -> int:
        calls.append(record)
        if record or len(calls) < 2:
            raise OSError(f"attempt {len(calls)}")
        return record

    with LocalEnvironment("retry") as env:
        service = env.register_pipeline_service(
            "flaky", lambda s: s.map(flaky, on_error=Retry(attempts=2, backoff_s=0))
        )
        env.start()

        assert service.process(0) == 0
        with pytest.raises(OSError, match="attempt 4"):
            service.process(1)


class Store(Service):
    def get(self, key: str) -> str:
        return f"value of {key}"


class Look(MapFunction):
    def execute(self, record: str) -> Any:
        return self.call_service("store", record, method="get")


def test_jobs_call_it_and_it_calls_services_that_start_before_it() -> None:
    class Ask(MapFunction):
        def execute(self, record: str) -> Any:
            return self.call_service("look", record)

    env = LocalEnvironment("lookups")
    env.register_service("store", Store)
    env.register_pipeline_service("look", lambda s: s.map(Look), ServicePolicy(depends_on=("store",)))
    env.from_batch(["a", "b"]).map(Ask).collect()
    job = env.submit(autostop=True)

    assert job.result() == ["value of a", "value of b"]
    assert [(entry.name, str(entry.outcome)) for entry in job.report.services] == [
        ("store", "stopped"),
        ("look", "stopped"),
    ]
    env.close()


def test_a_handle_among_its_functions_makes_it_depend_on_that_service() -> None:
    with LocalEnvironment("handles") as env:
        store = env.register_service("store", Store)
        look = env.register_pipeline_service("look", lambda s: s.map(store.get))
        look.start()

        assert look.process("k") == "value of k"
        assert store.state is ServiceState.RUNNING


def test_a_failing_open_is_a_failed_start() -> None:
    class Broken(MapFunction):
        def open(self) -> None:
            raise OSError("no model")

        def execute(self, record: int) -> int:
            return record

    with LocalEnvironment("broken") as env:
        env.register_pipeline_service("broken", lambda s: s.map(Broken))
        with pytest.raises(ServiceStartError, match="no model"):
            env.start()


def test_what_ends_the_pipeline_is_a_crash_and_it_is_restarted() -> None:
    def fatal(record: int) -> int:
        if record < 0:
            raise SystemExit(3)
        return record

    with LocalEnvironment("fatal") as env:
        policy = ServicePolicy(restart=Restart("on-failure", backoff_s=0.01), critical=False)
        service = env.register_pipeline_service("fatal", lambda s: s.map(fatal), policy)
        env.start()
        with pytest.raises(ServiceUnavailableError, match="its pipeline has ended"):
            service.process(-1)

        deadline = threading.Event()
        for _ in range(int(DEADLINE_S / 0.05)):
            try:
                assert service.process(5) == 5
                break
            except ServiceUnavailableError:
                deadline.wait(0.05)
        else:
            pytest.fail("it did not come back")


def test_it_can_be_stopped_and_started_again() -> None:
    with LocalEnvironment("again") as env:
        service = env.register_pipeline_service("again", lambda s: s.map(lambda x: x * 2, parallelism=2))
        env.start()
        assert service.process(1) == 2
        service.stop()
        assert not [thread.name for thread in threading.enumerate() if "operator" in thread.name]
        service.start()

        assert service.process(2) == 4


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (5, r"service 'bad': build=int is an int, and has to be a function"),
        (lambda s: None, "returned None, and has to return the stream of the results"),
        (lambda s: s.sink(print), "returned None, and has to return"),
        (lambda s: (s.map(str), s)[1], r"operator 'map' \(str\): its stream has no sink"),
        (lambda s: LocalEnvironment("other").from_batch([1]), "belongs to environment 'other'"),
    ],
)
def test_what_is_no_pipeline_is_refused_at_registration(build: Any, text: str) -> None:
    with LocalEnvironment("bad") as env:
        with pytest.raises(PipelineError, match=text):
            env.register_pipeline_service("bad", build)
        assert env.services == {}
