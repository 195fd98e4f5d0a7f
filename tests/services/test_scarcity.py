from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from autostop_lab.services.scarcity import is_scarcity, way_out


def test_too_many_open_files_say_how_many_and_what_to_do() -> None:
    many = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    assert way_out(OSError(errno.EMFILE, "Too many open files")) == (
        f"This process may have {many} files open: start it after `ulimit -n 4096`, or fewer services at a time"
    )


@pytest.mark.parametrize(("limit", "shown"), [(77, " (this user: 77)"), (resource.RLIM_INFINITY, "")])
def test_too_many_processes_say_what_to_do(monkeypatch: pytest.MonkeyPatch, limit: int, shown: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))

    assert way_out(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")) == (
        f"There may be no more processes{shown}: raise `ulimit -u`, or start fewer services at a time"
    )


@pytest.mark.parametrize("error", [OSError("plain"), FileNotFoundError(2, "No such file"), ValueError("24")])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert way_out(error) == ""
    assert not is_scarcity(error)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE])
def test_what_may_work_a_moment_later_is_known(number: int) -> None:
    assert is_scarcity(OSError(number, "x"))


# -- a hundred services and forty descriptors --------------------------------------------------------------

OWNER = """
import json, os, resource, sys
from autostop_lab import Command, LocalEnvironment, Service, ServiceStartError, TcpReady

class Busy(Service):
    async def start(self): pass

KINDS = {
    "program": lambda name: env.register_service(name, Command, ["sleep", "1000"]),
    "signs": lambda name: env.register_service(name, Command, ["sleep", "1000"], contain="signs"),
    "subreaper": lambda name: env.register_service(name, Command, ["sleep", "1000"], contain="subreaper"),
    "listener": lambda name: env.register_service(
        name, Command, [sys.executable, "-S", "-m", "http.server", "--bind", "127.0.0.1", "{port}"], ready=TcpReady()
    ),
    "thread": lambda name: env.register_service(name, Busy),
}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with LocalEnvironment("many") as env:
    names = [f"s{number:02}" for number in range(100)]
    for name in names:
        KINDS[sys.argv[1]](name)
    env.run(lambda: "all are up")
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        env.submit(autostop=True)
        errors = []
    except ExceptionGroup as group:
        errors = group.exceptions
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    report = env.last_job.report
    first = {
        "errors": [[isinstance(e, ServiceStartError), getattr(e, "service", ""), str(e)] for e in errors],
        "outcomes": {entry.name: str(entry.outcome) for entry in report.services},
        "leaks": [str(leak) for leak in report.leaks],
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    }
with LocalEnvironment("few") as env:
    for name in names[:5]:
        KINDS[sys.argv[1]](name)
    env.run(lambda: "all are up")
    print(json.dumps({**first, "then": env.submit(autostop=True).result()}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["program", "signs", "subreaper", "listener", "thread"])
def test_a_hundred_services_of_forty_descriptors_fail_by_their_names(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", OWNER, kind], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    failed = [service for _, service, _ in said["errors"]]
    assert len(failed) > 50
    for is_start_error, service, text in said["errors"]:
        assert is_start_error
        assert text.startswith(f"service '{service}'")
        assert "Too many open files" in text
        assert "ulimit -n 4096" in text
    assert len(said["outcomes"]) == 100
    assert {name for name, outcome in said["outcomes"].items() if outcome == "failed"} <= set(failed)
    assert set(said["outcomes"].values()) <= {"failed", "stopped", "killed"}
    assert said["leaks"] == []
    assert said["then"] == "all are up"
