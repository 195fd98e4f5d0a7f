"""Programs that daemonise and clear their environment, under each kind of containment."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab import LocalEnvironment
from autostop_lab.exceptions import ConfigurationError, ServiceStartError
from autostop_lab.reaper.groups import Group, NoGroupError
from autostop_lab.services import command as command_module
from autostop_lab.services import containment
from autostop_lab.services.command import Command
from autostop_lab.services.containment import best_containment, problem_with
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.probes import LogReady, TcpReady
from tests.services.hosted_services import Worker
from tests.services.lives import LONG_S, Life, eventually, is_running, pid_in, python

MakeLife = Callable[..., Life]

SLEEP = python("import time; time.sleep(1000)")
SHORT = ServicePolicy(stop_timeout_s=0.3)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="is about Linux's own means")


@pytest.fixture(autouse=True)
def no_core() -> Iterator[None]:
    """Programs that crash here leave no core."""
    usual = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, usual)


def needed(kind: str) -> str:
    """Return a kind of containment, or skip the test with the reason why there is none."""
    if problem := problem_with(kind):
        pytest.skip(problem)
    return kind


@pytest.fixture(params=["subreaper", "cgroup"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind that lets nothing get away."""
    return needed(request.param)


@pytest.fixture(params=["signs", "subreaper", "cgroup"])
def any_kind(request: pytest.FixtureRequest) -> str:
    return needed(request.param)


@pytest.fixture
def subreaper() -> str:
    return needed("subreaper")


@pytest.fixture
def cgroup() -> str:
    return needed("cgroup")


def escape(pid_file: Path, *, deaf: bool = False, then: str = "time.sleep(1000)") -> list[str]:
    """Return a program that leaves a daemon without any sign of ours, says "up", and goes on with `then`."""
    ignore = "import signal; signal.signal(15, signal.SIG_IGN); " if deaf else ""
    life = f"{ignore}import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    return python(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.chdir('/')\n"
        "        os.closerange(0, 256)\n"
        f"        os.execve({sys.executable!r}, ['x', '-S', '-c', {life!r}], {{}})\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(pid_file)!r}): time.sleep(0.01)\n"
        "print('up')\n"
        f"{then}"
    )


def end_politely(life: Life) -> None:
    if not life.stop(life.slot.spec.policy.stop_timeout_s):
        assert life.kill()


# -- what gets away, and what does not ---------------------------------------------------------------------


def test_with_signs_alone_it_gets_away(make: MakeLife, tmp_path: Path) -> None:
    """What cannot be promised; autostop-lab doctor says so."""
    life = make(Command, escape(tmp_path / "pid"), ready=LogReady("up"), contain="signs").start()
    pid = pid_in(tmp_path / "pid")
    try:
        assert life.stop()
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))


@pytest.mark.parametrize("end", [Life.stop, Life.kill])
def test_it_is_dead_after_the_end(make: MakeLife, tmp_path: Path, kind: str, end: Callable[[Life], bool]) -> None:
    life = make(Command, escape(tmp_path / "pid"), ready=LogReady("up"), contain=kind).start()
    pid = pid_in(tmp_path / "pid")
    assert not psutil.Process(pid).environ()

    assert end(life)
    assert not is_running(pid)
    assert life.runtime.was_forced is (end is Life.kill)
    assert life.runtime.contain == kind


def test_it_is_dead_when_it_is_deaf(make: MakeLife, tmp_path: Path, kind: str) -> None:
    argv = escape(tmp_path / "pid", deaf=True)
    life = make(Command, argv, ready=LogReady("up"), contain=kind, policy=SHORT).start()
    pid = pid_in(tmp_path / "pid")
    end_politely(life)

    assert not is_running(pid)
    assert life.runtime.was_forced


@pytest.mark.parametrize(
    ("then", "code"),
    [("os._exit(3)", 3), ("os.kill(os.getpid(), 11)", -11), ("os.kill(os.getpid(), 9)", -9), ("pass", 0)],
)
def test_it_is_dead_after_the_program_has_crashed(
    make: MakeLife, tmp_path: Path, kind: str, then: str, code: int
) -> None:
    life = make(Command, escape(tmp_path / "pid", then=then), contain=kind).start()
    end = life.exit()
    pid = pid_in(tmp_path / "pid")
    assert is_running(pid)  # the end of the program is told before that of what it leaves

    assert end.code == code
    assert life.texts() == ("up",)
    assert life.settle()
    assert not is_running(pid)


def test_it_is_dead_after_a_start_that_failed(make: MakeLife, tmp_path: Path, kind: str) -> None:
    life = make(Command, escape(tmp_path / "pid"), ready=LogReady("never"), contain=kind)
    with pytest.raises(TimeoutError):
        life.start(0.3)
    eventually((tmp_path / "pid").exists)
    pid = pid_in(tmp_path / "pid")
    assert life.kill()

    assert not is_running(pid)


def test_a_storm_of_them_is_ended(make: MakeLife, tmp_path: Path, kind: str) -> None:
    """Three daemons, deaf and without any sign, each of which forks a child into a session of its own every 10 ms."""
    title = f"storm {tmp_path}"
    storm = (
        "import os, signal, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "signal.signal(17, signal.SIG_IGN)\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(1000)\n"
        f"    open({str(tmp_path / 'forks')!r}, 'a').write('x')\n"
        "    time.sleep(0.01)\n"
    )
    code = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            os.closerange(0, 256)\n"
        f"            os.execve({sys.executable!r}, [{title!r}, '-S', '-c', {storm!r}], {{}})\n"
        "        os._exit(0)\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    life = make(Command, python(code), ready=LogReady("up"), contain=kind, policy=SHORT).start()
    eventually(lambda: (tmp_path / "forks").exists() and (tmp_path / "forks").stat().st_size > 60)

    def members() -> list[int]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.cmdline()[:1] == [title]:
                    found.append(process.pid)
        return found

    assert len(members()) > 60
    end_politely(life)
    assert members() == []


# -- the program does not notice ---------------------------------------------------------------------------


@needs_linux
def test_its_environment_and_signals_are_what_they_would_be(
    make: MakeLife, any_kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("a.name-that no shell keeps", "x=y\n")
    monkeypatch.setenv("BYTES", os.fsdecode(b"\xff"))
    code = (
        "import os, _signal as s\n"
        "print({n for n in range(1, 32) if n not in (9, 19) and s.getsignal(n) == s.SIG_IGN} - {13, 25})\n"
        "print(s.pthread_sigmask(s.SIG_BLOCK, []))\n"
        "print(os.getcwd(), os.getsid(0) == os.getpgrp() == os.getpid())\n"
        "print(open('/proc/self/environ', 'rb').read().replace(b'\\0', b'|'))\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')))\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
    )
    life = make(Command, python(code), contain=any_kind, cwd=tmp_path).start()
    life.exit()
    ignored, mask, place, environment, files = life.texts()

    assert ignored == mask == "set()"
    assert place == f"{tmp_path} True"
    assert environment == repr(b"".join(os.fsencode(f"{k}={v}|") for k, v in expected_environment(life).items()))
    assert len(eval(files)) == 4  # the three streams and the marker


def expected_environment(life: Life) -> dict[str, str]:
    return {**os.environ, **life.runtime.instance.environment}


def test_a_broken_pipe_ends_it(make: MakeLife, any_kind: str) -> None:
    """Python ignores SIGPIPE, and so would what it launches; a shell tells of it."""
    life = make(Command, ["bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"], contain=any_kind).start()
    life.exit()

    assert life.texts() == ("y", str(128 + signal.SIGPIPE))


def test_a_large_environment_arrives(make: MakeLife, any_kind: str) -> None:
    large = {f"X{number}": "x" * 100_000 for number in range(10)}
    life = make(Command, python("import os; print(len(os.environ['X9']))"), env=large, contain=any_kind).start()
    life.exit()

    assert life.texts() == ("100000",)


def test_the_program_is_looked_for_on_its_own_path(make: MakeLife, any_kind: str, tmp_path: Path) -> None:
    script = tmp_path / "mine"
    script.write_text("#!/bin/sh\necho found $1\n")
    script.chmod(0o700)
    life = make(Command, ["mine", "it"], env={"PATH": f"{tmp_path}:/bin"}, contain=any_kind).start()
    life.exit()

    assert life.texts() == ("found it",)


@needs_linux
def test_a_library_path_of_the_program_does_not_reach_what_launches_it(
    make: MakeLife, any_kind: str, tmp_path: Path
) -> None:
    (tmp_path / "libc.so.6").write_text("no library")
    life = make(Command, ["true"], env={"LD_LIBRARY_PATH": str(tmp_path)}, contain=any_kind).start()

    assert life.exit().code == 127  # of the dynamic linker, for the program itself


def test_what_cannot_be_launched_is_told_in_the_same_words(make: MakeLife, any_kind: str, tmp_path: Path) -> None:
    def failure(argv: list[str], **fields: Any) -> str:
        with pytest.raises(ServiceStartError) as caught:
            make(Command, argv, contain=any_kind, **fields).start()
        return str(caught.value)

    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    assert "may not be executed. Check its permissions" in failure([str(script)])
    script.chmod(0o700)
    assert "but not the interpreter that its first line names" in failure([str(script)])
    script.write_bytes(b"\0\1\2")
    assert "could not be launched ([Errno 8] Exec format error" in failure([str(script)])
    assert "program 'no-such' was not found" in failure(["no-such"])
    assert "/missing' does not exist" in failure(SLEEP, cwd=tmp_path / "missing")
    assert "embedded null byte" in failure(["true"], env={"A": "a\0b"})
    assert "embedded null byte" in failure(["a\0b"])
    assert "Argument list too long" in failure(["true", "x" * 3_000_000])


def test_a_program_that_cannot_be_looked_at_is_not_left_running(
    make: MakeLife, any_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def fail(pid: int) -> None:
        pids.append(pid)
        pids.extend(child.pid for child in psutil.Process(pid).children())
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("autostop_lab.services.child.process", fail)
        with pytest.raises(ServiceStartError, match="Too many open files"):
            make(Command, SLEEP, contain=any_kind).start()

    assert pids
    eventually(lambda: not any(map(is_running, pids)))


# -- it is a service like the others -----------------------------------------------------------------------


def test_its_pid_is_the_program_s(make: MakeLife, any_kind: str) -> None:
    code = "import os, time; print('pid', os.getpid()); time.sleep(1000)"
    life = make(Command, python(code), ready=LogReady("pid"), contain=any_kind).start()

    assert life.texts() == (f"pid {life.pid}",)
    assert life.health().details == {"pid": life.pid}


def test_it_is_told_once_to_end(make: MakeLife, any_kind: str) -> None:
    worker = (
        "import os, signal, time\n"
        "told = []\n"
        "signal.signal(15, lambda *a: told.append(1))\n"
        "os.write(1, b'worker up\\n')\n"
        "while not told: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "os.write(1, b'told %d\\n' % len(told))\n"
    )
    master = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-S', '-c', {worker!r}])\n{worker}"
    life = make(Command, python(master), ready=LogReady("worker up"), contain=any_kind).start()
    eventually(lambda: life.texts().count("worker up") == 2)
    assert life.stop()
    life.clean()

    assert life.texts()[-2:] == ("told 1", "told 1")


def test_another_polite_signal_can_be_chosen(make: MakeLife, any_kind: str) -> None:
    code = "import time\ntry:\n    print('up')\n    time.sleep(1000)\nexcept KeyboardInterrupt: print('interrupted')"
    life = make(Command, python(code), ready=LogReady("up"), stop_signal=signal.SIGINT, contain=any_kind).start()

    assert life.stop()
    assert life.texts()[-1] == "interrupted"


def test_one_that_is_stopped_by_a_signal_obeys_all_the_same(make: MakeLife, any_kind: str) -> None:
    life = make(Command, SLEEP, contain=any_kind).start()
    os.kill(life.pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(life.pid).status() == psutil.STATUS_STOPPED)

    assert life.stop()
    assert life.runtime.exit_code == -signal.SIGTERM
    assert not life.runtime.was_forced


def test_it_reads_its_input_to_the_end(make: MakeLife, any_kind: str) -> None:
    code = "import sys; print('read', len(sys.stdin.read()))"
    life = make(Command, python(code), stdin="x" * 200_000, contain=any_kind).start()
    life.exit()

    assert life.texts() == ("read 200000",)


def test_an_input_that_it_closes_is_closed(make: MakeLife, any_kind: str) -> None:
    life = make(Command, ["sh", "-c", "exec <&-; exec sleep 1000"], stdin=b"x" * 200_000, contain=any_kind).start()
    eventually(lambda: life.runtime._child._popen.stdin.closed)

    assert life.stop()


def test_its_port_is_answered_by_itself(make: MakeLife, any_kind: str) -> None:
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
    life = make(Command, argv, ready=TcpReady(), contain=any_kind).start()

    assert life.stop()


def test_lives_leave_no_descriptor_or_zombie(make: MakeLife, any_kind: str) -> None:
    life = make(Command, SLEEP, contain=any_kind)

    def once() -> list[int]:
        life.start()
        launched = [life.pid, life.runtime._child.leader.pid]
        assert life.stop()
        life.clean()
        return launched

    once()
    before, pids = len(os.listdir("/proc/self/fd")), []
    for _ in range(10):
        pids += once()

    # Others of this process, the guard for one, may open some meanwhile, but not one for each life.
    eventually(lambda: len(os.listdir("/proc/self/fd")) < before + 5)
    assert not any(map(psutil.pid_exists, pids))


# -- the shim that stays -----------------------------------------------------------------------------------


def test_orphans_do_not_stay_as_zombies(make: MakeLife, subreaper: str) -> None:
    code = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        os.fork()\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    life = make(Command, python(code), ready=LogReady("up"), contain=subreaper).start()
    (shim,) = (child for child in psutil.Process().children() if child.pid == life.runtime._child.leader.pid)

    eventually(lambda: [child.pid for child in shim.children()] == [life.pid])


def test_the_shim_holds_nothing_of_the_program_s(make: MakeLife, subreaper: str, tmp_path: Path) -> None:
    life = make(Command, SLEEP, contain=subreaper, cwd=tmp_path, env={"SECRET": "x"}, stdin=subprocess.PIPE).start()
    shim = psutil.Process(life.runtime._child.leader.pid)

    assert shim.cwd() == "/"
    assert set(shim.environ()) == {"AUTOSTOP_LAB_SESSION"}
    assert {os.readlink(f"/proc/{shim.pid}/fd/{number}") for number in (0, 1, 2)} == {os.devnull}


def test_a_shim_that_is_killed_is_told_and_the_program_ended(make: MakeLife, subreaper: str) -> None:
    life = make(Command, SLEEP, contain=subreaper).start()
    pid = life.pid
    os.kill(life.runtime._child.leader.pid, signal.SIGKILL)
    end = life.exit()

    assert str(end) == "the process that contained it has ended (signal 9)"
    assert not end.is_clean
    assert life.settle()
    assert not is_running(pid)


def test_a_shim_that_is_stopped_by_a_signal_is_woken_up(make: MakeLife, subreaper: str) -> None:
    life = make(Command, SLEEP, contain=subreaper).start()
    os.kill(life.runtime._child.leader.pid, signal.SIGSTOP)

    assert life.stop()
    assert life.runtime.exit_code == -signal.SIGTERM


@pytest.mark.parametrize(("code", "status"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 11)", -11)])
def test_the_shim_ends_like_the_program(make: MakeLife, subreaper: str, code: str, status: int) -> None:
    life = make(Command, python(f"import os; {code}"), contain=subreaper).start()
    assert life.exit().code == status

    assert life.runtime._child._popen.wait(LONG_S) == status


def test_a_late_program_of_a_shim_is_ended_when_it_comes(
    make: MakeLife, subreaper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, shims, door = [], [], threading.Event()
    launch = containment._by_shim

    def slowly(*args: Any, **kwargs: Any) -> containment.Contained:
        contained = launch(*args, **kwargs)
        launched.append(contained.pid)
        shims.append(contained.popen.pid)
        door.wait(LONG_S)
        return contained

    life = make(Command, SLEEP, contain=subreaper)
    with monkeypatch.context() as patch:
        patch.setattr(containment, "_by_shim", slowly)
        with pytest.raises(TimeoutError):
            life.start(0.1)
        assert not life.kill(0.05)
        life.clean()
        door.set()
        eventually(lambda: launched and not any(map(psutil.pid_exists, [*launched, *shims])))


# -- the control group -------------------------------------------------------------------------------------


def group_of(pid: int) -> str:
    (line,) = (line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return line.removeprefix("0::")


def test_it_is_in_a_group_of_its_own_that_goes_with_it(make: MakeLife, cgroup: str) -> None:
    life = make(Command, SLEEP, contain=cgroup).start()
    folder = life.runtime._child.control_group.path

    assert group_of(life.pid).endswith(folder.name)
    assert folder.name.endswith(f".{life.runtime.instance.id}")
    assert life.stop()
    life.clean()
    assert not folder.exists()


def test_groups_that_it_makes_go_with_it(make: MakeLife, cgroup: str) -> None:
    life = make(Command, SLEEP, contain=cgroup).start()
    folder = life.runtime._child.control_group.path
    (folder / "inner" / "most").mkdir(parents=True)

    assert life.stop()
    life.clean()
    assert not folder.exists()


def test_each_start_of_a_life_uses_the_same_group(make: MakeLife, cgroup: str) -> None:
    life = make(Command, SLEEP, contain=cgroup)
    instances = []
    for _ in range(2):
        life.start()
        instances.append(life.runtime.instance)
        assert instances[-1].make_group().path == life.runtime._child.control_group.path
        assert life.stop()
        life.clean()

    assert instances[0].id != instances[1].id


# -- services in processes of their own --------------------------------------------------------------------


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
def test_a_daemon_that_a_process_has_left_ends_with_it(
    make: MakeLife, cgroup: str, tmp_path: Path, end: str, deaf: bool
) -> None:
    life = make(Worker, runtime="process", policy=SHORT).start()
    group = life.runtime.host._child.control_group.path
    life.handle.apply(subprocess.check_call, escape(tmp_path / "pid", deaf=deaf, then="pass"))
    pid = pid_in(tmp_path / "pid")
    assert not psutil.Process(pid).environ()
    assert life.runtime.contain == cgroup
    if end == "crash":
        os.kill(life.pid, signal.SIGKILL)
        life.exit()
        assert life.settle()
    else:
        assert (life.stop if end == "stop" else life.kill)()
    life.clean()

    assert not is_running(pid)
    assert not group.exists()


@pytest.mark.parametrize("step", ["make", "take_in"])
def test_a_process_that_can_have_no_group_does_without(
    make: MakeLife, cgroup: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Group, step, fail)
    life = make(Worker, runtime="process").start()

    assert life.runtime.contain == "signs"
    assert life.handle.pid() == life.pid
    assert life.stop()


def test_a_process_whose_group_cannot_be_made_just_now_is_not_launched(
    make: MakeLife, cgroup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Group, "make", fail)

    with pytest.raises(ServiceStartError, match=r"could not be launched \(.*Too many open files\).*ulimit -n"):
        make(Worker, runtime="process").start()


# -- what is chosen ----------------------------------------------------------------------------------------


def test_by_itself_the_best_is_chosen(make: MakeLife) -> None:
    life = make(Command, SLEEP, contain="auto").start()

    assert life.runtime.contain == best_containment() == ("signs" if problem_with("cgroup") else "cgroup")


def test_by_itself_a_group_that_cannot_be_made_is_done_without(
    make: MakeLife, cgroup: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Group, "make", fail)
    life = make(Command, SLEEP, contain="auto").start()

    assert life.runtime.contain == "signs"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{sys.executable!r} is not contained: it can have no control group ([Errno 28] No space left on device)"
    )
    assert life.stop()
    with pytest.raises(ServiceStartError, match=r"could not be contained: it can have no control group .* No space"):
        make(Command, SLEEP, contain=cgroup, name="other").start()


def test_a_group_that_is_gone_is_told(make: MakeLife, cgroup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "make", lambda group: None)

    with pytest.raises(ServiceStartError, match=r"could not be put into the control group .* \(No such file"):
        make(Command, SLEEP, contain=cgroup).start()


# -- what launches it goes wrong ---------------------------------------------------------------------------


def test_an_interpreter_that_ends_early_is_told(make: MakeLife, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    life = make(Command, SLEEP, contain=kind)
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(ServiceStartError, match="could not be contained: what launches it ended before it could"):
        life.start()


def test_an_interpreter_that_hangs_is_told(make: MakeLife, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    life = make(Command, SLEEP, contain=kind)
    monkeypatch.setattr(containment, "LAUNCH_TIMEOUT_S", 0.3)
    monkeypatch.setattr(containment, "_hear_of_launch", _with_hanging_shim(containment._hear_of_launch))

    with pytest.raises(ServiceStartError, match=r"could not be contained: what launches it gave no answer within 0\.3"):
        life.start()


def _with_hanging_shim(hear: Callable[..., Any]) -> Callable[..., Any]:
    def hear_of_nothing(news: socket.socket, block: bytes) -> Any:
        ours, other = socket.socketpair()
        with ours, other:
            return hear(ours, block)

    return hear_of_nothing


# -- asking for it -----------------------------------------------------------------------------------------


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("it") as env:
        yield env


def without(monkeypatch: pytest.MonkeyPatch, **problems: str) -> None:
    monkeypatch.setattr(command_module, "problem_with", lambda kind: problems.get(kind, ""))


@pytest.mark.parametrize("contain", ["docker", "", None, 3, ["cgroup"]])
def test_an_unknown_kind_is_refused_at_registration(env: LocalEnvironment, contain: Any) -> None:
    class Mine(Command):
        argv = ("true",)

    Mine.contain = contain
    with pytest.raises(ConfigurationError, match="choose from 'auto', 'signs', 'subreaper', 'cgroup'"):
        env.register_service("mine", Mine)


def test_what_the_machine_lacks_is_refused_with_the_way_out(
    env: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, cgroup="no control group can be made below /x (Permission denied)")
    with pytest.raises(ConfigurationError) as caught:
        env.register_service("mine", Command, ["true"], contain="cgroup")

    assert str(caught.value) == (
        "service 'mine': contain='cgroup' does not work on this machine: no control group can be made below /x "
        "(Permission denied). Use contain='subreaper', or leave it out for what works."
    )


def test_where_only_signs_work_these_are_named(env: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, cgroup="it is a matter of Linux", subreaper="it is a matter of Linux")
    for contain in ("cgroup", "subreaper"):
        with pytest.raises(ConfigurationError, match=r"matter of Linux\. Use contain='signs', or leave it out"):
            env.register_service("mine", Command, ["true"], contain=contain)
    env.register_service("mine", Command, ["true"], contain="auto")


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), BlockingIOError(11, "Try again")])
def test_a_want_of_descriptors_or_processes_says_nothing_about_the_machine(
    make: MakeLife, cgroup: str, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Where nothing is to be had at the moment, a launch fails, and is not done without containment from then on."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(containment, "_problems", {})
    for what in ("autostop_lab.reaper.groups.own_group", "subprocess.Popen"):
        with monkeypatch.context() as patch:
            patch.setattr(what, fail)
            assert problem_with(cgroup) == f"it could not be tried ({error})"
            with pytest.raises(ServiceStartError, match="could not be launched"):
                make(Command, SLEEP, contain="auto", name=what[-9:]).start()

    assert problem_with(cgroup) == ""


def test_other_platforms_have_signs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = {kind: containment._try(kind) for kind in ("signs", "subreaper", "cgroup")}

    assert found == {"signs": "", "subreaper": "it is a matter of Linux", "cgroup": "it is a matter of Linux"}


def test_a_machine_whose_groups_cannot_be_written_is_told(cgroup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", fail)

    assert containment._try(cgroup).startswith("no control group can be made below /")


def test_a_machine_without_groups_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise NoGroupError("there are none")

    monkeypatch.setattr("autostop_lab.reaper.groups.own_group", fail)

    monkeypatch.setattr(sys, "platform", "linux")

    assert containment._try("cgroup") == "there are none"


def test_a_shim_of_a_service_that_lives_on_is_nothing_that_the_job_left(env: LocalEnvironment, subreaper: str) -> None:
    env.register_service("kept", Command, SLEEP, contain=subreaper)
    env.run(lambda: None)
    job = env.submit()
    job.wait(LONG_S)

    assert job.report is not None
    assert job.report.leaks == ()
    assert job.report["kept"].outcome == "kept"


def test_the_receipt_knows_what_contained_it(env: LocalEnvironment, kind: str) -> None:
    env.register_service("mine", Command, SLEEP, contain=kind)
    env.register_service("other", Command, SLEEP, contain="signs")
    env.run(lambda: None)
    report = env.submit(autostop=True).report

    assert report is not None
    assert (report["mine"].contain, report["other"].contain) == (kind, "signs")
