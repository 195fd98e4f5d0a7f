"""Handles in processes where the service does not live: in hosts, in children, and where they cannot work."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from autostop_lab.exceptions import ServiceError, ServiceUnavailableError, UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.handle import HANDLE_NAMES, ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.probes import TcpReady
from autostop_lab.services.service import Service
from autostop_lab.services.slot import HealthResult
from tests.services.hosted_services import Asker, Counter, Site, Worker
from tests.services.lives import LONG_S, Life, NoOrders, eventually

MakeLife = Callable[..., Life]
NO_WAIT = ServicePolicy(call_timeout_s=0)


@pytest.fixture(params=["thread", "process"])
def counter(request: pytest.FixtureRequest, make: MakeLife) -> Life:
    """A service that counts, in this process or in one of its own."""
    return make(Counter, name="counter", runtime=request.param, policy=NO_WAIT).start()


@pytest.fixture
def asker(make: MakeLife, counter: Life) -> Life:
    """A service in a process of its own that got the handle of the counter."""
    return make(Asker, counter.handle, name="asker", runtime="process", policy=NO_WAIT).start()


# -- calls -------------------------------------------------------------------------------------------------


def test_a_handle_works_in_the_process_of_another_service(asker: Life, counter: Life) -> None:
    where = counter.handle.pid()

    assert asker.handle.ask("add", 5) == 5
    assert asker.handle.ask("pid") == where
    assert counter.handle.add(1) == 6


def test_a_handle_works_as_an_argument_of_a_call_and_as_its_result(asker: Life, counter: Life) -> None:
    assert asker.handle.ask_that(counter.handle, "add", 2) == 2
    returned = asker.handle.other_handle()

    assert isinstance(returned, ServiceHandle)
    assert returned.add(1) == 3


def test_a_batch_goes_through(asker: Life) -> None:
    assert asker.handle.ask_all("add", [1, 2, 3]) == [1, 3, 6]
    assert asker.handle.ask_all("add", []) == []


def test_what_a_method_raises_goes_all_the_way(asker: Life) -> None:
    with pytest.raises(KeyError, match="mine"):
        asker.handle.ask("fail", KeyError("mine"))


def test_large_buffers_go_through(asker: Life) -> None:
    data = numpy.zeros(3 << 20, dtype=numpy.uint8)
    data[-1] = 7

    assert asker.handle.ask("last_byte", data) == 7


def test_a_call_back_to_where_it_came_from_does_not_wait_for_itself(make: MakeLife) -> None:
    first = make(Asker, None, name="first", runtime="process", policy=NO_WAIT).start()
    second = make(Asker, first.handle, name="second", runtime="process", policy=NO_WAIT).start()

    assert first.handle.ask_that(second.handle, "ask", "leaf") == "leaf"


def test_a_call_back_through_this_process_does_not_wait_for_itself(make: MakeLife) -> None:
    class Between(Service):
        def back(self, handle: Any) -> Any:
            return handle.leaf()

    between = make(Between, name="between", policy=NO_WAIT).start()
    first = make(Asker, between.handle, name="first", runtime="process", policy=NO_WAIT).start()

    assert first.handle.ask("back", first.handle) == "leaf"


def test_a_call_that_has_ended_holds_no_turn_elsewhere(make: MakeLife, tmp_path: Path) -> None:
    """What a call has left running in another process has to wait for its turn, as everybody has."""
    go, door, inside = tmp_path / "go", tmp_path / "door", tmp_path / "inside"
    policy = ServicePolicy(call_timeout_s=0.1, max_concurrent_calls=1)
    first = make(Asker, None, name="first", runtime="process", policy=policy).start()
    second = make(Asker, None, name="second", runtime="process").start()
    first.handle.ask_that(second.handle, "leave_asking", first.handle, go)
    occupying = first.handle.wait_for.submit(door, inside)
    eventually(inside.exists)
    go.touch()
    eventually(second.handle.left)

    assert "had no turn" in second.handle.left()
    door.touch()
    occupying.result(LONG_S)


# -- what else a handle has --------------------------------------------------------------------------------


def test_all_of_a_handle_works_elsewhere(make: MakeLife) -> None:
    class Orders(NoOrders):
        given: list[tuple[str, str]] = []  # noqa: RUF012

        def restart_service(self, name: str) -> None:
            self.given.append(("restart", name))

        def check_service(self, name: str) -> HealthResult:
            return HealthResult(state=ServiceState.RUNNING, is_healthy=True, details={"of": name})

    counter = make(Counter, name="counter").start()
    counter.slot.orders = Orders()
    counter.slot.ring.write("a line")
    seen = make(Asker, counter.handle, runtime="process").start().handle.look()

    assert seen["state"] is ServiceState.RUNNING
    assert (seen["host"], seen["port"], seen["ports"]) == (None, None, {})
    assert seen["dir"] == sorted({*HANDLE_NAMES, "add", "fail", "last_byte", "pid"})
    assert seen["repr"] == "<service 'counter' (Counter): running>"
    assert seen["logs"] == ["a line"]
    assert seen["health"].details == {"of": "counter"}
    assert "has no public method 'missing'" in seen["missing"]
    assert Orders.given == [("restart", "counter")]


def test_the_handle_of_a_factory_s_service_works_elsewhere(make: MakeLife) -> None:
    counter = make(lambda: Counter(), name="counter").start()
    asker = make(Asker, counter.handle, runtime="process").start()

    assert asker.handle.ask("add", 1) == 1
    with pytest.raises(AttributeError, match="has no public method 'missing'"):
        asker.handle.ask("missing")


def test_a_service_asks_for_another_by_its_name(make: MakeLife, counter: Life) -> None:
    asker = make(Asker, None, runtime="process")
    asker.needed["counter"] = counter.handle
    asker.start()

    assert asker.handle.ask_by_name("counter", "add", 4) == 4
    with pytest.raises(UnknownServiceError, match="'other' is not known"):
        asker.handle.ask_by_name("other", "add", 4)


# -- commands ----------------------------------------------------------------------------------------------


def test_methods_of_a_command_run_in_the_caller_with_the_port_of_this_life(make: MakeLife) -> None:
    site = make(Site, [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"], ready=TcpReady()).start()
    asker = make(Asker, site.handle, runtime="process").start()
    pid = asker.pid
    assert asker.handle.ask("where", 1) == (pid, "127.0.0.1", site.handle.port, 1)
    assert asker.handle.ask("where_later") == pid
    assert asker.handle.ask("folder") == site.folder / "work"
    asker.handle.ask("say", "hello")
    assert "WARNING hello" in site.texts()
    site.stop()
    site.clean()
    site.start()

    assert asker.handle.ask("where", 1)[2] == site.handle.port


def test_a_command_that_does_not_run_is_said_to(make: MakeLife) -> None:
    site = make(Site, ["sleep", "60"])
    asker = make(Asker, site.handle, runtime="process").start()

    with pytest.raises(ServiceUnavailableError, match="it is stopped"):
        asker.handle.ask("where", 1)


# -- other processes ---------------------------------------------------------------------------------------


def in_another_process(data: bytes, code: str) -> str:
    program = f"import pickle, sys\nhandle = pickle.loads(sys.stdin.buffer.read())\n{code}"
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False, timeout=60)
    return (done.stdout + done.stderr).decode()


def test_a_handle_works_in_a_child_that_was_started_by_hand(counter: Life) -> None:
    said = in_another_process(pickle.dumps(counter.handle), "print(handle.add(3), handle.add.map([1, 1]))")

    assert said == "3 [4, 5]\n"
    assert counter.handle.add(0) == 5


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_pickled", [True, False])
def test_a_handle_in_a_forked_child_reaches_the_parent_s_service(counter: Life, is_pickled: bool) -> None:
    counter.handle.add(1)
    data = pickle.dumps(counter.handle)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        handle = pickle.loads(data) if is_pickled else counter.handle
        os.write(writes, repr((handle.add(1), handle.state)).encode())
        os._exit(0)
    os.close(writes)
    said = os.read(reads, 1000).decode()
    os.close(reads)
    os.waitpid(child, 0)

    assert said == "(2, <ServiceState.RUNNING: 'running'>)"
    assert counter.handle.add(1) == 3


def test_where_it_cannot_work_a_handle_says_so(make: MakeLife) -> None:
    counter = make(Counter, name="counter").start()
    data = pickle.dumps(counter.handle)
    counter.stop()
    counter.clean()

    said = in_another_process(data, "")

    assert "the handle of service 'counter' came to a process where the service does not live" in said


def test_the_owner_s_death_is_told_to_who_asks(tmp_path: Path) -> None:
    program = f"""
import os, pickle, subprocess, sys
from autostop_lab import LocalEnvironment
from autostop_lab.reaper.guard import current_guard
from tests.services.hosted_services import Counter
env = LocalEnvironment("owner")
handle = env.register_service("counter", Counter)
env.start()
with open({str(tmp_path / "handle")!r}, "wb") as file:
    pickle.dump(handle, file)
current_guard().ensure()  # it is started beside all this, and an end at once would be too early for it
print("ready", flush=True)
sys.stdin.read(1)
os._exit(1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        handle = pickle.loads((tmp_path / "handle").read_bytes())
        assert handle.add(1) == 1
        owner.communicate(b"x", timeout=LONG_S)
    for _ in range(2):
        with pytest.raises(ServiceError, match=r"has ended|cannot be reached"):
            handle.add(1)


def test_nobody_needs_the_switchboard_no_socket_is_there(make: MakeLife) -> None:
    from autostop_lab.services.switchboard import switchboard

    counter = make(Counter, name="counter").start()
    address = Path(switchboard().address)
    assert not address.exists()
    pickle.dumps(counter.handle)
    assert address.is_socket()
    assert address.stat().st_mode & 0o777 == 0o600
    assert address.parent.stat().st_mode & 0o777 == 0o700
    counter.stop()
    counter.clean()

    assert not address.exists()


def test_a_handle_of_a_worker_is_shared_by_many_callers(make: MakeLife) -> None:
    worker = make(Worker, name="worker", runtime="process", policy=ServicePolicy(max_concurrent_calls=4)).start()
    asker = make(Asker, worker.handle, runtime="process", policy=ServicePolicy(max_concurrent_calls=20)).start()
    futures = [asker.handle.ask.submit("echo", number) for number in range(40)]

    assert [future.result(LONG_S) for future in futures] == list(range(40))


@pytest.mark.slow
def test_who_knocks_while_there_is_no_descriptor_is_let_in_later_and_takes_no_processor(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autostop_lab.services.switchboard import switchboard

    counter = make(Counter, name="counter").start()
    pickle.dumps(counter.handle)
    tries: list[float] = []
    accept, has_descriptors = socket.socket.accept, threading.Event()

    def accept_if_possible(listener: socket.socket) -> Any:
        if listener.family != socket.AF_UNIX or has_descriptors.is_set():
            return accept(listener)
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept_if_possible)
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(LONG_S)
        end.connect(switchboard().address)
        eventually(lambda: tries)
        eventually(lambda: time.monotonic() - tries[0] > 1)
        assert len(tries) < 50
        has_descriptors.set()
        end.shutdown(socket.SHUT_WR)
        assert end.recv(1) == b""
