"""How a program is launched; how it ends is in test_program_end.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab.exceptions import ServiceStartError
from autostop_lab.reaper.processes import MARKER_NAME, SESSION_VARIABLE
from autostop_lab.reaper.session import current_session
from autostop_lab.services import child, program
from autostop_lab.services.command import Command
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.ports import free_ports
from autostop_lab.services.probes import CallReady, LogReady, TcpReady
from tests.services.lives import LONG_S, Life, is_running, python

MakeLife = Callable[..., Life]

SLEEP = python("import time; time.sleep(1000)")
SERVE = (
    "import socket, sys, time\n"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "while True: server.accept()\n"
)


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def failure(life: Life) -> ServiceStartError:
    with pytest.raises(ServiceStartError) as caught:
        life.start()
    return caught.value


# -- what it is given --------------------------------------------------------------------------------------


def test_a_program_without_a_probe_is_ready_once_launched(make: MakeLife) -> None:
    life = make(Command, SLEEP).start()

    assert is_running(life.pid)
    assert life.health().details == {"pid": life.pid}


def test_its_output_and_its_complaints_are_its_log(make: MakeLife) -> None:
    life = make(Command, shell("echo out; echo err >&2; printf 'no end'")).start()
    life.exit()
    life.run(_settle_and_release(life))

    assert life.texts() == ("out", "err", "no end")


async def _settle_and_release(life: Life) -> None:
    await life.runtime.settle()
    life.runtime.release()


def test_placeholders_are_filled_in_everywhere_and_other_braces_stay(make: MakeLife, tmp_path: Path) -> None:
    life = make(
        Command,
        [*shell('echo "$0 $HERE $PWD {} {0} {other}"'), '{"port": {port}, "http": {port:http}, "at": "{host}"}'],
        env={"HERE": "{workdir}/x"},
        cwd="{workdir}",
    ).start()
    life.exit()
    port, http = life.handle.port, life.handle.ports["http"]
    workdir = life.folder / "work"

    assert life.texts()[0] == (
        f'{{"port": {port}, "http": {http}, "at": "127.0.0.1"}} {workdir}/x {workdir} {{}} {{0}} {{other}}'
    )
    assert port != http


def test_words_may_be_paths(make: MakeLife, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho here: $1\n")
    script.chmod(0o700)
    life = make(Command, [script, tmp_path], cwd=tmp_path).start()
    life.exit()

    assert life.texts() == (f"here: {tmp_path}",)


def test_environment_and_folder_are_inherited_and_added_to(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINE", "inherited")
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.chdir(tmp_path)
    life = make(Command, shell('echo "$MINE $CHANGED $ADDED $PWD"'), env={"ADDED": "yes", "CHANGED": "after"}).start()
    life.exit()

    assert life.texts() == (f"inherited after yes {tmp_path}",)


def test_our_key_does_not_reach_a_program(make: MakeLife, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSTOP_LAB_API_KEY", "hunter2")
    life = make(Command, shell('echo "key: $AUTOSTOP_LAB_API_KEY"')).start()
    life.exit()

    assert life.texts() == ("key: ",)
    assert os.environ["AUTOSTOP_LAB_API_KEY"] == "hunter2"


def test_it_lives_in_a_session_of_its_own(make: MakeLife) -> None:
    life = make(Command, SLEEP).start()

    assert os.getsid(life.pid) == os.getpgid(life.pid) == life.pid
    assert os.getpgid(life.pid) != os.getpgid(0)


def test_it_carries_the_path_of_its_session_and_instance(make: MakeLife) -> None:
    life = make(Command, shell(f'echo "${SESSION_VARIABLE}"')).start()
    life.exit()

    assert life.texts() == (f"{current_session().path}/{life.runtime.instance.id}",)


def test_a_session_within_a_service_carries_both(make: MakeLife) -> None:
    code = "from autostop_lab.reaper.session import Session; print(Session().path)"
    life = make(Command, [sys.executable, "-c", code], cwd=str(Path(__file__).parents[2])).start()
    life.exit()
    outer, _, inner = life.texts()[0].rpartition("/")

    assert outer == f"{current_session().path}/{life.runtime.instance.id}"
    assert inner.startswith("session-")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_inherits_the_open_marker_and_nothing_else_of_ours(make: MakeLife) -> None:
    life = make(Command, python("import time; print('up'); time.sleep(1000)"), ready=LogReady("up")).start()
    folder = Path(f"/proc/{life.pid}/fd")
    files = {int(entry.name): os.readlink(entry) for entry in folder.iterdir()}
    others = {path for number, path in files.items() if number > 2}

    assert others == {str(life.folder / MARKER_NAME)}
    assert files[0] == os.devnull
    assert files[1] == files[2]


def test_a_command_sees_its_address_and_workdir(make: MakeLife) -> None:
    class Store(Command):
        argv = (*python(SERVE), "{port}", "{port:http}")
        ready = TcpReady()

        def address(self) -> tuple[Any, ...]:
            self.logger.info("asked")
            return (self.host, self.port, self.ports, self.workdir)

        async def later(self) -> str:
            return threading.current_thread().name

    life = make(Store).start()
    handle = life.handle

    assert handle.address() == (handle.host, handle.port, handle.ports, life.folder / "work")
    assert handle.host == "127.0.0.1"
    assert list(handle.ports) == ["http"]
    assert life.texts()[-1] == "INFO asked"
    assert handle.later() == handle.later() == "autostop-lab: event loop of service it"


def test_arguments_of_a_subclass_are_known_to_its_methods(make: MakeLife) -> None:
    class Store(Command):
        def __init__(self, name: str) -> None:
            self.name = name
            self.argv = SLEEP

        def greet(self) -> str:
            return f"I am {self.name}"

    handle = make(Store, "x").start().handle

    assert handle.greet() == "I am x"
    assert (handle.host, handle.port, handle.ports) == ("127.0.0.1", None, {})


def test_user_code_does_not_run_on_the_event_loop(make: MakeLife) -> None:
    threads: list[str] = []

    class Store(Command):
        argv = SLEEP
        ready = CallReady(lambda command: threads.append(threading.current_thread().name) or True)  # type: ignore[func-returns-value]

        def __init__(self) -> None:
            threads.append(threading.current_thread().name)

        def health_check(self) -> None:
            threads.append(threading.current_thread().name)

        def cleanup(self) -> None:
            threads.append(threading.current_thread().name)

    life = make(Store).start()
    life.health()
    life.stop()
    life.clean()

    assert threads == [f"autostop-lab: {what} of service it" for what in ("launch", "probe", "health check", "cleanup")]


# -- what can go wrong -------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_named_with_the_way_out(make: MakeLife) -> None:
    error = failure(make(Command, ["no-such-program", "--port", "1"]))

    assert str(error) == (
        "service 'it' did not start: program 'no-such-program' was not found. Install it, or give its full path."
    )
    assert (error.service, error.phase, error.exit_code, error.log_lines) == ("it", "launch", None, ())
    assert isinstance(error.__cause__, FileNotFoundError)


def test_a_program_that_may_not_be_executed_is_named(make: MakeLife, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")

    assert "may not be executed. Check its permissions" in str(failure(make(Command, [str(script)])))


def test_a_script_whose_interpreter_is_missing_is_told_apart(make: MakeLife, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)

    assert "is there, but not the interpreter that its first line names" in str(failure(make(Command, [str(script)])))


def test_a_file_that_is_no_program_is_named(make: MakeLife, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"\x00\x01\x02")
    script.chmod(0o700)

    assert "could not be launched ([Errno 8] Exec format error" in str(failure(make(Command, [str(script)])))


def test_a_working_directory_that_is_not_there_is_named(make: MakeLife, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    assert f"its working directory '{tmp_path}/missing' does not exist" in str(
        failure(make(Command, SLEEP, cwd=tmp_path / "missing"))
    )
    assert "is not a folder" in str(failure(make(Command, SLEEP, cwd=tmp_path / "file")))


@pytest.mark.parametrize("fields", [{"argv": ["a\0b"]}, {"argv": ["true"], "env": {"A": "a\0b"}}])
def test_what_the_system_refuses_is_told(make: MakeLife, fields: dict[str, Any]) -> None:
    assert "could not be launched (embedded null byte)" in str(failure(make(Command, **fields)))


def test_a_temporary_folder_that_is_not_safe_is_told(make: MakeLife, monkeypatch: pytest.MonkeyPatch) -> None:
    life = make(Command, SLEEP)

    def fail(*args: Any) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/autostop_lab-0")

    monkeypatch.setattr("autostop_lab.reaper.session.Session.make_folder_for", fail)
    assert "could not be launched ([Errno 13] Permission denied: '/tmp/autostop_lab-0')" in str(failure(life))


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), OSError(12, "No memory")])
def test_a_fork_that_fails_is_told_and_leaves_nothing(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    life = make(Command, SLEEP)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", fail)
        assert f"could not be launched ({error})" in str(failure(life))
    life.clean()


def test_a_program_that_cannot_be_looked_at_is_not_left_running(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def fail(pid: int) -> None:
        pids.append(pid)
        raise OSError(24, "Too many open files")

    life = make(Command, SLEEP)
    with monkeypatch.context() as patch:
        patch.setattr(child, "process", fail)
        assert "Too many open files" in str(failure(life))

    assert not psutil.pid_exists(pids[0])


def test_a_constructor_that_raises_is_known_by_its_phase(make: MakeLife) -> None:
    class Store(Command):
        def __init__(self) -> None:
            raise ValueError("mine")

    life = make(Store)
    with pytest.raises(ValueError, match="mine"):
        life.start()
    assert life.runtime.phase == "construct"
    assert life.kill()
    life.clean()


def test_what_a_constructor_of_the_user_has_set_is_checked_at_the_start(make: MakeLife) -> None:
    class Store(Command):
        def __init__(self) -> None:
            self.argv = "one string"

    with pytest.raises(ValueError, match="must be a list of words"):
        make(Store).start()


def test_a_program_that_daemonises_is_told_to_stay_in_the_foreground(make: MakeLife) -> None:
    error = failure(make(Command, shell("sleep 1000 & exit 0"), ready=TcpReady("{port}")))

    assert "with exit code 0 before it was ready, and left processes running: it is a daemon. Run it" in str(error)


def test_an_exit_before_ready_fails_at_once_with_exit_code_and_last_lines(make: MakeLife) -> None:
    text = "for i in $(seq 30); do echo line $i; done; exit 3"
    began = time.monotonic()
    error = failure(make(Command, shell(text), ready=TcpReady("{port}")))

    assert time.monotonic() - began < 20
    assert "did not start: it ended with exit code 3 before it was ready.\nIts last lines:\n    line 11" in str(error)
    assert str(error).endswith("    line 30")
    assert (error.phase, error.exit_code) == ("ready", 3)
    assert error.log_lines[0] == "line 11"
    assert error.log_lines[-1] == "line 30"


def test_a_signal_before_ready_is_told_as_one(make: MakeLife) -> None:
    error = failure(make(Command, shell("kill -SEGV $$"), ready=LogReady("never")))

    assert "it ended with signal 11" in str(error)
    assert error.exit_code == -11


def test_an_error_of_a_second_life_shows_no_lines_of_the_first(make: MakeLife, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = f"if [ -e {flag} ]; then echo second; exit 1; fi; touch {flag}; echo first; sleep 1000"
    life = make(Command, shell(text), ready=LogReady("first")).start()
    life.stop()
    life.clean()
    error = failure(life)

    assert error.log_lines == ("second",)
    assert life.texts() == ("first", "second")


def test_a_program_that_is_never_ready_says_what_its_probe_found(make: MakeLife) -> None:
    life = make(Command, SLEEP, ready=TcpReady("{port}"))
    with pytest.raises(TimeoutError):
        life.start(0.3)
    port = life.runtime.command.port

    assert life.runtime.phase == "ready"
    assert life.runtime.waiting_for().startswith(f"127.0.0.1:{port} refused the connection (")
    assert life.runtime.waiting_for().endswith("looks)")


def test_what_is_waited_for_before_the_launch_is_told(make: MakeLife) -> None:
    door = threading.Event()

    class Slow(Command):
        argv = ("true",)

        def __init__(self) -> None:
            door.wait(LONG_S)

    life = make(Slow)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    assert life.runtime.waiting_for() == "its constructor did not return"
    assert "in __init__" in life.runtime.survivor()
    door.set()
    life.kill()
    life.clean()


# -- secrets -----------------------------------------------------------------------------------------------


class Leaky(Command):
    """Prints its password, and fails."""

    def __init__(self, password: str) -> None:
        self.env = {"PW": password}
        self.argv = shell('echo "connecting with $PW"; exit 1')


@pytest.mark.parametrize("secret", ["password", "PW"])
def test_what_a_program_prints_shows_no_secret(make: MakeLife, secret: str) -> None:
    life = make(Leaky, "hunter2", policy=ServicePolicy(secret=(secret,)))
    life.start().exit()

    assert life.texts() == ("connecting with ***",)


def test_errors_and_their_lines_show_no_secret_of_the_environment(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hunter3")
    life = make(
        Command,
        shell('echo "using $PW and $TOKEN"; exit 1'),
        env={"PW": "hunter2"},
        ready=LogReady("never"),
        policy=ServicePolicy(secret=("PW", "TOKEN")),
    )
    error = failure(life)

    assert error.log_lines == ("using *** and ***",)
    assert "hunter" not in str(error)
    assert "hunter" not in repr(error)
    assert "hunter" not in repr(life.handle)
    assert "hunter" not in repr(life.slot.spec)


def test_a_secret_that_is_part_of_the_program_s_name_is_not_shown(make: MakeLife) -> None:
    error = failure(make(Command, ["./run-hunter2"], env={"PW": "hunter2"}, policy=ServicePolicy(secret=("PW",))))

    assert "program './run-***' was not found" in str(error)


# -- ports -------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    """A server of somebody else: this process is not part of any service."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_fixed_port_that_is_taken_is_refused_with_its_owner(make: MakeLife, foreign: socket.socket) -> None:
    port = foreign.getsockname()[1]
    life = make(Command, [*python(SERVE), str(port)], ready=TcpReady(port))
    error = failure(life)

    assert f"port {port} is taken by pid {os.getpid()} already. End that program, or write {{port}}" in str(error)
    assert life.runtime.pid is None


def test_a_fixed_port_is_the_port_of_the_handle(make: MakeLife) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    life = make(Command, [*python(SERVE), str(port)], ready=TcpReady(port)).start()

    assert life.handle.port == port


def test_a_fixed_port_that_somebody_else_answers_in_the_meantime_is_not_accepted(
    make: MakeLife, foreign: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "takers_of", lambda host, port: None)
    error = failure(make(Command, SLEEP, ready=TcpReady(foreign.getsockname()[1])))

    assert f"is answered by pid {os.getpid()}, which is not part of the service" in str(error)
    assert "use LogReady or CallReady" in str(error)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ports that are chosen next; when there are none left, free ones are."""
    ports: list[int] = []
    choose = free_ports.choose
    monkeypatch.setattr(free_ports, "choose", lambda host: ports.pop(0) if ports else choose(host))
    return ports


def test_a_chosen_port_that_is_lost_before_the_program_listens_is_chosen_anew(
    make: MakeLife, foreign: socket.socket, chosen: list[int]
) -> None:
    taken = foreign.getsockname()[1]
    chosen[:] = [taken, taken]
    serve = SERVE.replace("while", "print('serving')\nwhile")
    life = make(Command, [*python(serve), "{port}"], ready=LogReady("serving")).start()

    assert life.handle.port != taken
    assert not chosen
    assert any("Address already in use" in line for line in life.texts())


def test_a_foreign_answer_on_a_chosen_port_is_not_accepted(
    make: MakeLife, foreign: socket.socket, chosen: list[int]
) -> None:
    """The program does not even fail: it is slow, and somebody else answers in its place."""
    taken = foreign.getsockname()[1]
    chosen.append(taken)
    slow = f"import sys, time\nif sys.argv[1] == '{taken}': time.sleep(1000)\n" + SERVE
    life = make(Command, [*python(slow), "{port}"], ready=TcpReady()).start()

    assert life.handle.port != taken


def test_ports_that_are_lost_again_and_again_are_told(
    make: MakeLife, foreign: socket.socket, chosen: list[int]
) -> None:
    chosen[:] = [foreign.getsockname()[1]] * 10
    error = failure(make(Command, [*python(SERVE), "{port}"], ready=TcpReady()))

    assert "each of 4 chosen ports was taken by others first" in str(error)
    assert len(chosen) == 10 - program.PORT_TRIES


def test_an_exit_for_another_reason_is_not_tried_again(make: MakeLife, chosen: list[int]) -> None:
    error = failure(make(Command, shell("echo once; exit 7 # {port}"), ready=TcpReady()))

    assert error.exit_code == 7
    assert error.log_lines == ("once",)


def test_ports_of_one_service_and_of_several_are_all_different(make: MakeLife) -> None:
    argv = [*SLEEP, "{port}", "{port:a}", "{port:b}"]
    handles = [make(Command, argv, name=f"s{number}").start().handle for number in range(5)]
    ports = [port for handle in handles for port in (handle.port, *handle.ports.values())]

    assert len(set(ports)) == 15


def test_ports_are_given_back(make: MakeLife) -> None:
    before = set(free_ports._given)
    life = make(Command, [*SLEEP, "{port}"]).start()
    assert free_ports._given - before == {life.handle.port}
    life.stop()
    life.clean()

    assert free_ports._given == before
