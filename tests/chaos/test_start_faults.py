"""Everything that can go wrong while services start."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autostop_lab import (
    Command,
    DependencyError,
    DuplicateServiceError,
    HttpReady,
    LocalEnvironment,
    LogReady,
    ReadinessTimeoutError,
    ServicePolicy,
    ServiceStartError,
    TcpReady,
)
from tests.chaos import programs
from tests.chaos.holds import submit
from tests.chaos.owner import SYSTEM_PYTHON
from tests.chaos.owners import Owner
from tests.chaos.world import accepts, hold_gone, numbers_in
from tests.services_for_tests import ONE_LIFE, Diary, Recorder

MakeOwner = Callable[..., Owner]

is_linux_root = sys.platform == "linux" and os.getuid() == 0
needs_root = pytest.mark.skipif(not is_linux_root, reason="needs root on Linux")


def needs(*names: str, **fields: Any) -> ServicePolicy:
    return ServicePolicy(depends_on=names, **fields)


# -- the program -------------------------------------------------------------------------------------------


def _plain_file(folder: Path) -> str:
    (folder / "program").write_text("data")
    return str(folder / "program")


def _no_interpreter(folder: Path) -> str:
    (folder / "program").write_text("#!/no/such/interpreter\n")
    (folder / "program").chmod(0o700)
    return str(folder / "program")


def _folder(folder: Path) -> str:
    return str(folder)


def _missing(folder: Path) -> str:
    return str(folder / "nowhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_missing, "was not found"),
        (lambda _: "no-such-program-anywhere", "was not found"),
        (_plain_file, "may not be executed"),
        (_folder, "may not be executed"),
        (_no_interpreter, "not the interpreter"),
    ],
    ids=["missing", "not on the path", "not executable", "a folder", "no interpreter"],
)
def test_a_program_that_cannot_be_launched_is_named_and_what_had_started_is_rolled_back(
    env: LocalEnvironment, diary: Diary, tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    program = make(tmp_path)
    env.register_service("one", Recorder, diary, "one")
    env.register_service("two", Recorder, diary, "two", policy=needs("one"))
    env.register_service("bad", Command, [program, "--flag"], policy=needs("two"))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"one": "stopped", "two": "stopped", "bad": "failed"})

    assert isinstance(ended.error, ServiceStartError)
    assert (ended.error.service, ended.error.phase) == ("bad", "launch")
    assert program in str(ended.error)
    assert words in str(ended.error)
    assert diary.names("stop") == ["two", "one"]


def test_a_program_that_dies_during_its_readiness_fails_at_once_with_code_and_last_lines(
    env: LocalEnvironment, diary: Diary
) -> None:
    code = "i=1; while [ $i -le 30 ]; do echo line $i; i=$((i+1)); done; exit 9"
    env.register_service("one", Recorder, diary, "one")
    env.register_service(
        "short", Command, programs.sh(code), ready=TcpReady("{port}"), policy=needs("one", start_timeout_s=600)
    )
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"one": "stopped", "short": "failed"})

    assert isinstance(ended.error, ServiceStartError)
    assert not isinstance(ended.error, ReadinessTimeoutError)
    assert (ended.error.exit_code, ended.error.phase) == (9, "ready")
    assert ended.error.log_lines == tuple(f"line {number}" for number in range(11, 31))
    assert "exit code 9" in str(ended.error)
    assert "line 30" in str(ended.error)
    assert "line 10\n" not in str(ended.error)


def test_a_program_that_is_never_ready_is_ended_and_its_probe_named(env: LocalEnvironment, tmp_path: Path) -> None:
    policy = ServicePolicy(start_timeout_s=1, stop_timeout_s=0.2)
    env.register_service("mute", Command, programs.deaf(tmp_path / "pid"), ready=TcpReady("{port}"), policy=policy)
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"mute": "killed"})

    assert isinstance(ended.error, ReadinessTimeoutError)
    assert ended.error.phase == "ready"
    assert "was not ready after 1 s" in str(ended.error)
    assert "127.0.0.1:" in str(ended.error)
    hold_gone(numbers_in(tmp_path / "pid"))


# -- ports and probes --------------------------------------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[int]:
    """A port on which a program that is not ours listens."""
    code = (
        "import socket, sys\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\nsys.stdin.read()"
    )
    foreign = subprocess.Popen(programs.python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert foreign.stdout is not None
    with foreign:
        yield int(foreign.stdout.readline())
        assert foreign.poll() is None, "a stranger was harmed"
        assert foreign.stdin is not None
        foreign.stdin.close()


def test_a_port_that_is_in_use_is_named_with_its_owner(
    env: LocalEnvironment, diary: Diary, stranger: int, tmp_path: Path
) -> None:
    env.register_service("one", Recorder, diary, "one")
    argv = programs.polite(tmp_path / "pid")
    env.register_service("web", Command, argv, ready=TcpReady(stranger), policy=needs("one"))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"one": "stopped", "web": "failed"})

    assert f"port {stranger} is taken by pid " in str(ended.error)
    assert not (tmp_path / "pid").exists()
    assert accepts(stranger)


SQUATTER = """
import socket, sys, time
path, tries, listeners = sys.argv[1], int(sys.argv[2]), []
while True:
    try: ports = open(path).read().split()
    except OSError: ports = []
    if len(listeners) < min(len(ports), tries):
        listeners.append(socket.create_server(("127.0.0.1", int(ports[len(listeners)]))))
    time.sleep(0.001)
"""


@pytest.fixture
def squat(tmp_path: Path) -> Iterator[Callable[[int], tuple[int, Path]]]:
    """Starts a stranger that listens on ports before who was given them: ``squat(tries)``.

    Returns its pid, and the file in which it finds the ports, one per line.
    """
    strangers: list[subprocess.Popen[bytes]] = []

    def start(tries: int) -> tuple[int, Path]:
        argv = [*programs.python(SQUATTER), str(tmp_path / "ports"), str(tries)]
        strangers.append(subprocess.Popen(argv))
        return strangers[-1].pid, tmp_path / "ports"

    yield start
    for foreign in strangers:
        assert foreign.poll() is None, "a stranger was harmed"
        foreign.kill()
        foreign.wait()


Squat = Callable[[int], tuple[int, Path]]


def test_a_probe_that_a_stranger_answers_is_not_accepted(env: LocalEnvironment, squat: Squat, tmp_path: Path) -> None:
    _, ports = squat(100)
    pids = tmp_path / "pids"
    argv = programs.sh(f"echo $$ >> '{pids}'; echo {{port}} >> '{ports}'; exec sleep 1000")
    env.register_service("web", Command, argv, ready=TcpReady("{port}"))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"web": "killed"})

    assert "each of 4 chosen ports was taken by others first" in str(ended.error)
    assert len(set(numbers_in(ports, 4))) == 4
    hold_gone(numbers_in(pids, 4))


def test_a_port_that_is_lost_once_is_chosen_anew(env: LocalEnvironment, squat: Squat) -> None:
    _, ports = squat(1)
    listen = "import socket, time; listener = socket.create_server(('127.0.0.1', {port})); time.sleep(1000)"
    # The first one leaves its port to the stranger.
    code = (
        f"echo {{port}} >> '{ports}'; if [ $(wc -l < '{ports}') = 1 ]; then exec sleep 1000; fi; "
        f'exec {sys.executable} -S -c "{listen}"'
    )
    web = env.register_service("web", Command, programs.sh(code), ready=TcpReady("{port}"))
    env.run(lambda: web.port)
    ended = submit(env, {"web": "stopped"})

    assert [ended.job.result()] == numbers_in(ports, 2)[1:]
    assert not accepts(ended.job.result())


def test_a_fixed_port_that_a_stranger_answers_is_told_with_its_pid(env: LocalEnvironment, squat: Squat) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pid, ports = squat(1)
    argv = programs.sh(f"echo {port} >> '{ports}'; exec sleep 1000")
    env.register_service("web", Command, argv, ready=TcpReady(port))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"web": "killed"})

    assert f"port {port} is answered by pid {pid}, which is not part of the service" in str(ended.error)


def test_a_probe_that_hangs_has_a_time_out_of_its_own(env: LocalEnvironment, tmp_path: Path) -> None:
    code = (
        "import os, socket, time\nlistener = socket.create_server(('127.0.0.1', {port}))\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n')\n"
        "while True: time.sleep(60)"
    )
    ready = HttpReady("http://{host}:{port}/", attempt_timeout_s=0.2)
    env.register_service("web", Command, programs.python(code), ready=ready, policy=ServicePolicy(start_timeout_s=3))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"web": "failed"})

    assert isinstance(ended.error, ReadinessTimeoutError)
    assert "http://127.0.0.1:" in str(ended.error)
    assert "(0 looks)" not in str(ended.error)
    hold_gone(numbers_in(tmp_path / "pid"))


# -- declarations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"a": ("b",), "b": ("c",), "c": ("a",)}, "circle: a -> b -> c -> a"),
        ({"a": ("a",)}, "'a' depends on itself"),
        ({"a": (), "b": ("q",)}, "'b' depends on 'q', which is not registered"),
    ],
    ids=["circle", "self", "unknown"],
)
def test_dependencies_that_cannot_be_are_refused_before_anything_starts(
    env: LocalEnvironment, diary: Diary, policies: dict[str, tuple[str, ...]], words: str
) -> None:
    for name, depends_on in policies.items():
        env.register_service(name, Recorder, diary, name, policy=needs(*depends_on))
    env.run(lambda: pytest.fail("ran"))
    for start in (env.start, lambda: env.submit(autostop=True)):
        with pytest.raises(DependencyError, match=words):
            start()

    assert diary == []
    assert env.last_job is None


def test_a_name_that_is_taken_is_refused_before_anything_starts(env: LocalEnvironment, diary: Diary) -> None:
    env.register_service("a", Recorder, diary, "a")
    with pytest.raises(DuplicateServiceError, match="service 'a' is registered already"):
        env.register_service("a", Command, programs.SLEEP)
    env.run(lambda: None)
    submit(env, {"a": "stopped"})

    assert diary.of("a") == ONE_LIFE


# -- several, and exceptions that are none -----------------------------------------------------------------


def test_three_of_ten_that_fail_to_start_come_together_and_the_others_stop(env: LocalEnvironment, diary: Diary) -> None:
    barrier = threading.Barrier(7)

    class Together(Recorder):
        def start(self) -> None:
            super().start()
            barrier.wait(20)
            if self.name.startswith("bad"):
                raise OSError(f"{self.name} has no luck")

    good = [f"good{number}" for number in range(5)]
    programs_too = ["program0", "program1"]
    bad = ["bad0", "bad1"]
    for name in good + bad:
        env.register_service(name, Together, diary, name)
    for name in programs_too:
        env.register_service(name, Command, programs.SLEEP)
    env.register_service("bad2", Command, programs.sh("exit 5"), ready=LogReady("never"))
    env.run(lambda: pytest.fail("ran"))
    expected = dict.fromkeys(good + programs_too, "stopped") | dict.fromkeys([*bad, "bad2"], "failed")
    ended = submit(env, expected)

    assert isinstance(ended.error, ExceptionGroup)
    errors = ended.error.exceptions
    assert sorted(error.service for error in errors if isinstance(error, ServiceStartError)) == [*bad, "bad2"]
    for name in good:
        assert diary.of(name) == ONE_LIFE
    for name in bad:
        assert diary.of(name) == ["construct", "start", "cleanup"]


class OwnExceptionError(BaseException):
    """Derives from what `except Exception` does not catch."""


@pytest.mark.parametrize("where", ["construct", "start"])
@pytest.mark.parametrize(
    "problem",
    [SystemExit(4), KeyboardInterrupt(), GeneratorExit(), OwnExceptionError("own"), StopIteration(1)],
    ids=lambda problem: type(problem).__name__,
)
def test_a_service_that_raises_what_is_no_exception_has_just_failed(
    env: LocalEnvironment, diary: Diary, where: str, problem: BaseException
) -> None:
    env.register_service("one", Recorder, diary, "one")
    env.register_service("bad", Recorder, diary, "bad", **{where: problem}, policy=needs("one"))
    env.run(lambda: pytest.fail("ran"))
    ended = submit(env, {"one": "stopped", "bad": "failed"})

    assert isinstance(ended.error, ServiceStartError)
    assert (ended.error.service, ended.error.phase) == ("bad", where)
    assert ended.error.__cause__ is problem
    assert diary.of("one") == ONE_LIFE
    env.run(lambda: "still alive")
    env.register_service("bad", Recorder, diary, "good")
    assert submit(env, {"one": "stopped", "bad": "stopped"}).job.result() == "still alive"


# -- a machine without means -------------------------------------------------------------------------------


def test_a_failed_fork_is_a_failed_start(env: LocalEnvironment, diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    env.register_service("one", Recorder, diary, "one")
    env.register_service("program", Command, programs.SLEEP, policy=needs("one"))
    env.run(lambda: pytest.fail("ran"))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess.Popen, "_execute_child", refuse)
    ended = submit(env, {"one": "stopped", "program": "failed"})

    assert isinstance(ended.error, ServiceStartError)
    assert (ended.error.service, ended.error.phase) == ("program", "launch")
    assert "Resource temporarily unavailable" in str(ended.error)
    assert diary.of("one") == ONE_LIFE


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may use, too."""
    with tempfile.TemporaryDirectory(prefix="autostop_lab_chaos-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@needs_root
@pytest.mark.skipif(not os.path.exists(SYSTEM_PYTHON), reason="the system has no Python that other users may run")
def test_a_machine_without_room_for_another_process_or_thread_fails_the_start_alone(
    owner: MakeOwner, open_folder: Path
) -> None:
    script = owner("no_room_for_processes", place=str(open_folder))
    for _ in range(script.said("begins")["rounds"]):
        told = script.said("round")
        assert told["problems"] == [], told["error"]
    script.said("done")
    assert script.wait() == 0, script.errors


def test_a_process_without_free_descriptors_fails_the_start_alone(owner: MakeOwner) -> None:
    script = owner("no_descriptors")
    failures = 0
    for _ in range(script.said("begins")["rounds"]):
        told = script.said("round")
        assert told["problems"] == [], told["error"]
        failures += bool(told["error"])
    script.said("done")

    assert failures > 2
    assert script.wait() == 0, script.errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "autostop-lab-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@needs_root
def test_a_full_disk_hinders_no_stop(owner: MakeOwner, small_disk: Path) -> None:
    script = owner("disk", temp=small_disk)
    script.tell("go")
    script.said("working")
    fill(small_disk)
    script.tell("write")
    ended = script.said("ended")

    assert ended["outcomes"] == {"writer": "stopped", "program": "stopped"}, ended["receipt"]
    assert "No space left on device" in ended["error"]  # the job's own: it went on writing
    script.tell("end")
    assert script.wait() == 0, script.errors
    script.hold_nothing_left()


@needs_root
def test_a_disk_that_is_full_from_the_start_is_a_failed_start(owner: MakeOwner, small_disk: Path) -> None:
    script = owner("disk", temp=small_disk)
    assert script.said("begins")["temp"] == str(small_disk)
    fill(small_disk)
    script.tell("go")
    ended = script.said("ended")

    assert set(ended["outcomes"].values()) <= {"stopped", "failed"}, ended["receipt"]
    assert "No space left on device" in ended["error"]
    assert "'writer'" in ended["error"] or "'program'" in ended["error"]
    script.tell("end")
    assert script.wait() == 0, script.errors
    script.hold_nothing_left()


@needs_root
def test_a_folder_that_cannot_be_removed_hinders_no_stop_and_is_told(owner: MakeOwner, tmp_path: Path) -> None:
    script = owner("disk")
    script.tell("go")
    folder = script.said("working")["workdir"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "autostop-lab-chaos", folder], check=True)
    try:
        script.tell("write")
        ended = script.said("ended")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)

    assert ended["states"] == {"writer": "stopped", "program": "stopped"}, ended["receipt"]
    assert ended["outcomes"] == {"writer": "failed", "program": "stopped"}, ended["receipt"]
    assert "Read-only file system" in ended["error"]  # the job's own
    assert "writer, cleanup:" in ended["receipt"]
    script.tell("end")
    assert script.wait() == 0, script.errors
    script.hold_nothing_left()  # what was busy then is removed in the end
