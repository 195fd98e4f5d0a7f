from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading

import pytest

from autostop_lab import LocalEnvironment, Service, ServicePolicy
from autostop_lab.job.audit import Belongings, find_leaks


def test_nothing_new_is_no_leak() -> None:
    assert find_leaks(Belongings.now()) == []


def test_a_thread_that_goes_on_is_named_with_its_stack() -> None:
    before, go = Belongings.now(), threading.Event()
    thread = threading.Thread(target=go.wait, name="worker")
    thread.start()
    (leak,) = find_leaks(before)
    go.set()
    thread.join()

    assert (leak.kind, leak.what) == ("thread", "'worker'")
    assert "wait" in leak.stack


def test_a_thread_that_is_just_ending_is_no_leak() -> None:
    before = Belongings.now()
    threading.Timer(0.02, lambda: None).start()

    assert find_leaks(before) == []


def test_a_child_process_is_named_with_its_pid() -> None:
    before = Belongings.now()
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        leaks = find_leaks(before)
        child.communicate(b"\n")

    assert any(leak.kind == "process" and str(child.pid) in leak.what for leak in leaks)


def test_a_listening_port_and_an_open_file_are_named() -> None:
    before = Belongings.now()
    with socket.socket() as server, tempfile.NamedTemporaryFile() as file:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        leaks = {(leak.kind, leak.what) for leak in find_leaks(before, is_shared=True)}
        name = file.name

    assert leaks == {("port", str(port)), ("file", name)}


def test_a_leak_that_may_be_another_jobs_says_so() -> None:
    before = Belongings.now()
    with tempfile.NamedTemporaryFile():
        (leak,) = find_leaks(before, is_shared=True)

    assert "shared" in str(leak)


def test_the_receipt_lists_what_the_job_left(env: LocalEnvironment) -> None:
    go = threading.Event()
    env.run(lambda: threading.Thread(target=go.wait, name="left by the job").start())
    job = env.submit(autostop=True)
    go.set()

    assert job.report is not None
    assert [leak.what for leak in job.report.leaks] == ["'left by the job'"]
    assert "left by the job" in job.report.headline


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("audit")


def test_a_call_in_the_background_that_outlives_the_job_is_named_with_its_stack(env: LocalEnvironment) -> None:
    may_end = threading.Event()

    class Slow(Service):
        def wait(self) -> None:
            may_end.wait(60)

    slow = env.register_service("slow", Slow, policy=ServicePolicy(stop_timeout_s=0.2))
    env.run(lambda: slow.wait.submit() and None)
    job = env.submit(autostop=True)
    may_end.set()

    assert job.report is not None
    (leak,) = job.report.leaks
    assert str(leak) == "thread 'autostop-lab: call slow.wait'"
    assert "may_end.wait(60)" in leak.stack


def test_services_that_live_on_are_no_leaks(env: LocalEnvironment) -> None:
    from autostop_lab import Command

    env.register_service("sleeper", Command, [sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    env.run(lambda: None)
    job = env.submit(wait=True)
    report = job.report
    env.close()

    assert report is not None
    assert report.leaks == ()
