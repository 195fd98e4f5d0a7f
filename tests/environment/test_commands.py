"""Programs as services of a job, end to end."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from autostop_lab import (
    Command,
    LocalEnvironment,
    LogReady,
    ServiceCrashedError,
    ServicePolicy,
    ServiceStartError,
    ServiceState,
    TcpReady,
    current_job,
)

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-u", "-c", code]


SLEEP = python("import time\nwhile True: time.sleep(60)")
DEAF = python("import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf')\nwhile True: time.sleep(60)")


class Redis(Command):
    argv = ("redis-server", "--port", "{port}", "--save", "", "--bind", "{host}")
    ready = TcpReady("{port}")

    def client(self) -> Any:
        import redis

        return redis.Redis(self.host, self.port)


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@needs_redis
def test_a_redis_serves_the_job_and_is_gone_with_its_port_afterwards(env: LocalEnvironment) -> None:
    store = env.register_service("store", Redis)
    seen: dict[str, Any] = {}

    def count(record: int) -> None:
        seen["port"] = store.port
        with store.client() as client:
            seen["pid"] = client.info()["process_id"]
            seen["count"] = client.incrby("sum", record)

    env.from_batch(range(5)).sink(count)
    job = env.submit(autostop=True)

    assert seen["count"] == 10
    assert not psutil.pid_exists(seen["pid"])
    assert not accepts_connections(seen["port"])
    assert job.report is not None
    assert str(job.report["store"].outcome) == "stopped"
    assert job.report["store"].exit_code == 0
    assert store.port is None


def test_a_program_that_ignores_the_polite_signal_is_killed_after_its_grace(env: LocalEnvironment) -> None:
    env.register_service("deaf", Command, DEAF, ready=LogReady("deaf"), policy=ServicePolicy(stop_timeout_s=0.3))
    env.run(lambda: None)
    with pytest.warns(UserWarning, match="deaf"):
        job = env.submit(autostop=True)

    assert job.report is not None
    entry = job.report["deaf"]
    assert (str(entry.outcome), entry.exit_code, entry.state) == ("killed", -9, "stopped")
    assert 0.3 <= (entry.stop_s or 0) < 5
    targets = [event.target for event in job.events() if getattr(event, "service", "") == "deaf"]
    assert targets[-3:] == [ServiceState.STOPPING, ServiceState.KILLING, ServiceState.STOPPED]


def test_a_program_that_ends_during_readiness_fails_at_once_with_code_and_last_lines(env: LocalEnvironment) -> None:
    env.register_service("short", Command, python("print('no licence'); raise SystemExit(3)"), ready=TcpReady("{port}"))
    env.run(lambda: None)
    began = time.monotonic()
    with pytest.raises(ServiceStartError, match=r"exit code 3(.|\n)*no licence") as caught:
        env.submit(autostop=True)

    assert time.monotonic() - began < 20
    assert caught.value.exit_code == 3
    assert caught.value.log_lines == ("no licence",)


def test_a_program_that_is_not_there_is_named_and_earlier_services_are_rolled_back(env: LocalEnvironment) -> None:
    first = env.register_service("first", Command, SLEEP)
    env.register_service("second", Command, ["no-such-program"], policy=ServicePolicy(depends_on=["first"]))
    with pytest.raises(ServiceStartError, match="program 'no-such-program' was not found"):
        env.start()

    assert first.state is ServiceState.STOPPED


def test_a_port_that_is_taken_is_refused_with_its_owner_before_the_launch(env: LocalEnvironment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env.register_service("web", Command, SLEEP, ready=TcpReady(port))
        with pytest.raises(ServiceStartError, match=rf"port {port} is taken by pid {psutil.Process().pid}"):
            env.start()


def test_a_critical_program_that_dies_fails_the_job_with_its_last_lines(env: LocalEnvironment) -> None:
    env.register_service(
        "short",
        Command,
        python("import time; print('up'); time.sleep(0.3); print('bye'); raise SystemExit(4)"),
        ready=LogReady("up"),
    )
    env.run(lambda: current_job().stopping.wait())
    with pytest.raises(ServiceCrashedError, match=r"exit code 4(.|\n)*bye") as caught:
        env.submit(autostop=True)

    assert (caught.value.service, caught.value.exit_code) == ("short", 4)


def test_a_killed_program_is_seen_at_once_and_named_with_its_signal(env: LocalEnvironment) -> None:
    env.register_service(
        "victim",
        Command,
        python("import os; print(os.getpid())\nimport time; time.sleep(60)"),
        ready=LogReady(r"^\d+$"),
    )
    pids = []

    def work() -> None:
        job = current_job()
        pids.append(int(job.logs("victim")[0].text))
        psutil.Process(pids[0]).kill()
        assert job.stopping.wait(20)

    env.run(work)
    with pytest.raises(ServiceCrashedError, match="signal 9"):
        env.submit(autostop=True)


def test_orders_while_the_program_is_still_launched_leave_nothing(env: LocalEnvironment) -> None:
    env.register_service("slow", Command, SLEEP, ready=LogReady("never"))
    for pause_s in (0, 0.001, 0.003, 0.01, 0.03):
        env.run(lambda: None)
        job = env.submit(autostop=True, wait=False)
        time.sleep(pause_s)
        job.cancel()
        assert job.wait(30)


def test_a_service_uses_a_program_that_it_got_as_argument(env: LocalEnvironment) -> None:
    class Reader(Command):
        argv = python("import time\nprint('ready')\nwhile True: time.sleep(60)")
        ready = LogReady("ready")

        def label(self) -> str:
            return f"pid in {self.workdir.name}"

    reader = env.register_service("reader", Reader)
    env.run(reader.label)

    assert env.submit(autostop=True).result() == "pid in work"


def test_a_hundred_programs_start_and_stop(env: LocalEnvironment) -> None:
    for number in range(100):
        env.register_service(f"p{number}", Command, ["sleep", "1000"])
    env.start()
    began = time.monotonic()
    report = env.stop()

    assert time.monotonic() - began < 20
    assert [str(entry.outcome) for entry in report.services] == ["stopped"] * 100


def test_an_interrupt_of_the_terminal_does_not_reach_programs(env: LocalEnvironment) -> None:
    handle = env.register_service(
        "own", Command, python("import os; print(os.getsid(0) == os.getpid())\ninput()"), stdin=-1, ready=LogReady(".")
    )
    env.start()

    assert handle.logs()[0].text == "True"
    assert threading.active_count() > 0
