"""Operators with ``runtime="process"``: the same as in threads, in processes that end with the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab import LocalEnvironment, Service, ServiceCrashedError
from autostop_lab.dataflow import (
    Control,
    DeadLetter,
    DeadRecord,
    FlatMapFunction,
    Graph,
    JoinFunction,
    MapFunction,
    Retry,
    from_batch,
)
from autostop_lab.engines import Engine
from autostop_lab.exceptions import ConfigurationError
from tests.engines.runs import DEADLINE_S, Run, ended, notes


def with_pid(record: int) -> tuple[int, int]:
    return record, os.getpid()


def odd_fails(record: int) -> int:
    if record % 2:
        raise ValueError(f"{record} is odd")
    return record


class Tag(MapFunction):
    """Writes its life into a file, which all processes can see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, word: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{word} {os.getpid()}\n")

    def open(self) -> None:
        self._write("open")

    def execute(self, record: int) -> int:
        return record

    def close(self) -> None:
        self._write("close")


def test_replicas_live_in_processes_of_their_own_and_order_is_kept(engine: Engine, tmp_path: Path) -> None:
    graph = Graph()
    stream = from_batch(graph, range(500)).map(Tag, tmp_path / "log", runtime="process", parallelism=2)
    stream.map(with_pid, runtime="process", parallelism=2).collect()
    results = Run(engine, graph)()

    assert [record for record, _ in results] == list(range(500))
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids
    words = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(word for word, _ in words) == ["close", "close", "open", "open"]
    assert pids <= {int(pid) for _, pid in words}
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_all_operators_work_there(engine: Engine) -> None:
    class Own(JoinFunction):
        def __init__(self) -> None:
            self.kept: dict[Any, list[Any]] = {}

        def execute(self, payload: int, key: int, tag: int) -> list[Any]:
            others = self.kept.get((1 - tag, key), [])
            self.kept.setdefault((tag, key), []).append(payload)
            return [tuple(sorted((payload, other))) for other in others]

    class Twice(FlatMapFunction):
        def execute(self, record: Any) -> Any:
            self.collect(record)
            return [record]

    graph = Graph()
    left = from_batch(graph, range(40)).filter(lambda x: x % 2 == 0, runtime="process")
    right = from_batch(graph, range(100, 140))
    pairs = left.connect(right).keyby(lambda x: x % 10).join(Own, parallelism=2, runtime="process")
    pairs.flatmap(Twice, runtime="process").keyby(lambda pair: pair[0]).map(
        lambda pair: pair, parallelism=2, runtime="process"
    ).collect()
    expected = [(a, b) for a in range(0, 40, 2) for b in range(100, 140) if a % 10 == b % 10] * 2

    assert sorted(Run(engine, graph)()) == sorted(expected)


def test_the_users_exception_comes_home_with_operator_and_record(engine: Engine) -> None:
    graph = Graph()
    stream = from_batch(graph, range(0, 2000, 2)).filter(lambda x: x % 4 == 0)
    stream.map(lambda x: odd_fails(x + (x == 1000)), runtime="process", name="odd").collect()
    error = Run(engine, graph).fail()

    assert type(error) is ValueError
    assert str(error) == "1001 is odd"
    assert "operator 'odd' (<lambda>), record 500" in notes(error)
    assert any("in odd_fails" in note for note in notes(error))


def test_failing_records_are_skipped_tried_again_or_sent_to_letters_here(engine: Engine) -> None:
    letters: list[DeadRecord] = []
    lock = threading.Lock()  # what takes the letters does not travel

    def take(record: int, error: Exception) -> None:
        with lock:
            letters.append(DeadRecord(record, error))

    graph = Graph()
    stream = from_batch(graph, range(20)).map(odd_fails, runtime="process", on_error=DeadLetter(take), name="letters")
    stream.map(odd_fails, runtime="process", on_error=Retry(attempts=2, backoff_s=0, then="skip")).collect()
    run = Run(engine, graph)

    assert run() == list(range(0, 20, 2))
    assert [letter.record for letter in letters] == list(range(1, 20, 2))
    assert str(letters[0].error) == "1 is odd"
    assert "operator 'letters' (odd_fails), record 1" in notes(letters[0].error)
    assert run.counts[1:3] == [("letters", 20, 10, 10), ("map#2", 10, 10, 0)]


def test_what_it_prints_is_printed_here(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph()
    from_batch(graph, [1, 2]).map(print, runtime="process").sink(lambda x: None)
    Run(engine, graph)()

    assert capsys.readouterr().out == "1\n2\n"


@pytest.mark.parametrize("order", [Control.cancel, Control.drain])
def test_an_order_ends_the_processes(engine: Engine, order: Callable[[Control], None], tmp_path: Path) -> None:
    path = tmp_path / "pids"

    def note(record: int) -> int:
        if record == 100:
            path.write_text(str(os.getpid()))
        return record

    graph = Graph()
    from_batch(graph, range(10**9)).map(note, runtime="process").sink(lambda x: None)
    run = Run(engine, graph)
    thread = run.start()
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    order(run.control)

    assert ended(thread)
    assert run.error is None
    assert not psutil.pid_exists(int(path.read_text()))


def test_a_cancel_does_not_wait_for_a_record_that_hangs(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "pid"

    def hang(record: int) -> None:
        path.write_text(str(os.getpid()))
        time.sleep(600)

    graph = Graph()
    from_batch(graph, [1]).map(hang, runtime="process").sink(lambda x: None)
    run = Run(engine, graph)
    thread = run.start()
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    run.control.cancel()

    assert ended(thread)
    assert not psutil.pid_exists(int(path.read_text()))


def test_a_process_that_dies_fails_the_run(engine: Engine) -> None:
    graph = Graph()
    from_batch(graph, [1]).map(lambda x: os.kill(os.getpid(), signal.SIGKILL), runtime="process").collect()
    error = Run(engine, graph).fail()

    assert isinstance(error, ServiceCrashedError)
    assert notes(error) == ["operator map, in its process"]


def test_a_failing_open_there_is_the_users_own_exception(engine: Engine) -> None:
    class Broken(MapFunction):
        def open(self) -> None:
            raise OSError("no model")

        def execute(self, record: int) -> int:
            return record

    graph = Graph()
    from_batch(graph, [1]).map(Broken, runtime="process").collect()
    error = Run(engine, graph).fail()

    assert isinstance(error, OSError)
    assert "operator 'map' (Broken), in open()" in notes(error)


def test_what_cannot_travel_is_refused_by_name(engine: Engine) -> None:
    lock = threading.Lock()
    graph = Graph()
    from_batch(graph, [1]).map(lambda x: lock, runtime="process").collect()
    with pytest.raises(ConfigurationError, match=r"variable 'lock' of operator 'map' .* cannot travel") as caught:
        Run(engine, graph)()

    assert "leave runtime='process' out" in str(caught.value)


def test_a_source_stays_here(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"operator 'source' \(list\): runtime='process': a source is read"):
        from_batch(Graph(), [1], runtime="process")


def test_its_processes_are_measured_while_it_runs() -> None:
    env = LocalEnvironment("measured")
    env.from_batch(range(10**9)).map(lambda x: x, runtime="process", parallelism=2, name="far").sink(lambda x: None)
    job = env.submit(autostop=True, wait=False)
    deadline = time.monotonic() + DEADLINE_S
    names: list[str] = []
    while len(names) < 3 and time.monotonic() < deadline:
        names = [row.name for row in job.metrics().processes]
        time.sleep(0.1)
    job.stop()
    job.result()
    env.close()

    assert names == ["kernel", "operator far, replica 1", "operator far, replica 2"]


OWNER = """
import os, sys, time
from autostop_lab import LocalEnvironment

def slowly(record):
    with open(PATH, "a") as file:
        file.write(f"{os.getpid()} ")
    time.sleep(0.05)
    return record

PATH = sys.argv[1]
env = LocalEnvironment("killed")
env.from_batch(range(10**6)).map(slowly, runtime="process", parallelism=2).sink(lambda x: None)
env.submit(autostop=True)
"""


def test_its_processes_end_with_a_killed_owner(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(path)])
    deadline = time.monotonic() + DEADLINE_S
    pids: set[int] = set()
    while len(pids) < 2 and time.monotonic() < deadline:
        pids = set(map(int, path.read_text().split())) if path.exists() else set()
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


class Store(Service):
    def get(self, key: int) -> int:
        return key * 10


class Look(MapFunction):
    def execute(self, record: int) -> Any:
        return self.call_service("store", record, method="get")


def test_functions_there_call_the_services_of_the_job() -> None:
    env = LocalEnvironment("lookups")
    store = env.register_service("store", Store)
    stream = env.from_batch([1, 2])
    stream.map(Look, runtime="process").collect()
    stream.map(store.get, runtime="process", parallelism=2).collect()
    job = env.submit(autostop=True)

    assert job.result() == [[10, 20], [10, 20]]
    assert job.report.leaks == ()
    env.close()
