"""How a program ends, with its whole tree; how it is launched is in test_program.py."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from autostop_lab.exceptions import ServiceStartError, ServiceStopError
from autostop_lab.services import program
from autostop_lab.services.command import Command
from autostop_lab.services.handle import run_in_background
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.probes import LogReady, TcpReady
from tests.services.lives import LONG_S, Life, eventually, is_running, pid_in, python

MakeLife = Callable[..., Life]

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
needs_memcached = pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is not installed")

SLEEP = python("import time; time.sleep(1000)")
DEAF = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf')\nwhile True: time.sleep(1000)"
SHORT = ServicePolicy(stop_timeout_s=0.3)


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def stop_as_supervised(life: Life) -> bool:
    """Stop it within its grace period, else kill it; return whether the first was enough."""
    is_in_time = life.stop(life.slot.spec.policy.stop_timeout_s)
    if not is_in_time:
        assert life.kill()
    return is_in_time


# -- politely ----------------------------------------------------------------------------------------------


def test_a_program_that_obeys_is_not_killed(make: MakeLife) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(15, lambda *a: (print('bye'), sys.exit(0)))\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    life = make(Command, python(code), ready=LogReady("up")).start()
    pid = life.pid

    assert life.stop()
    assert not life.runtime.was_forced
    assert life.runtime.exit_code == 0
    assert life.runtime.survivor() == ""
    assert life.texts()[-1] == "bye"
    life.clean()
    assert not psutil.pid_exists(pid)


def test_another_polite_signal_can_be_chosen(make: MakeLife) -> None:
    code = "import time\ntry:\n    print('up')\n    time.sleep(1000)\nexcept KeyboardInterrupt: print('interrupted')"
    life = make(Command, python(code), ready=LogReady("up"), stop_signal=signal.SIGINT).start()

    assert life.stop()
    assert life.texts()[-1] == "interrupted"


def test_a_program_that_is_told_once_is_not_told_twice(make: MakeLife) -> None:
    """A worker of the group goes on for a while after its master; a second signal would cut it off."""
    worker = (
        "import signal, time\n"
        "told = []\n"
        "signal.signal(15, lambda *a: told.append(1))\n"
        "print('worker up', flush=True)\n"
        "while not told: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "print('told', len(told), flush=True)\n"
    )
    master = (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-S', '-c', {worker!r}])\ntime.sleep(1000)"
    )
    life = make(Command, python(master), ready=LogReady("worker up")).start()
    assert life.stop()
    life.clean()

    assert life.texts()[-1] == "told 1"


def test_a_program_that_was_stopped_by_a_signal_obeys_all_the_same(make: MakeLife) -> None:
    life = make(Command, SLEEP).start()
    os.kill(life.pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(life.pid).status() == psutil.STATUS_STOPPED)

    assert life.stop()
    assert not life.runtime.was_forced
    assert life.runtime.exit_code == -signal.SIGTERM


# -- by another program ------------------------------------------------------------------------------------


def test_a_program_can_be_asked_to_end_by_another_one(make: MakeLife, tmp_path: Path) -> None:
    wait = f"while [ ! -e {tmp_path}/$1 ]; do sleep 0.02; done; echo ended by $1"
    life = make(
        Command,
        ["sh", "-c", wait, "sh", "{port}"],
        stop_argv=shell('echo "asked in $PWD with $X"; touch {port}'),
        env={"X": "{port}"},
        cwd=tmp_path,
    ).start()
    port = life.handle.port

    assert life.stop()
    assert not life.runtime.was_forced
    life.clean()
    assert life.texts() == (f"asked in {tmp_path} with {port}", f"ended by {port}")


@pytest.mark.parametrize(
    ("stop_argv", "text"),
    [
        (["no-such-program"], "program 'no-such-program' was not found"),
        (shell("echo cannot; exit 3"), "'sh' ended with exit code 3"),
        (shell("kill -KILL $$"), "'sh' ended with signal 9"),
    ],
)
def test_when_that_fails_it_is_told_and_the_signal_is_sent(make: MakeLife, stop_argv: list[str], text: str) -> None:
    life = make(Command, SLEEP, stop_argv=stop_argv).start()
    with pytest.raises(ServiceStopError, match=f"service 'it': its stop_argv failed: {text}") as caught:
        life.stop()

    assert caught.value.phase == "stop"
    assert life.runtime.exit_code == -signal.SIGTERM
    assert not life.runtime.was_forced


def test_a_helper_that_hangs_ends_with_the_service(make: MakeLife) -> None:
    life = make(Command, SLEEP, stop_argv=SLEEP, policy=SHORT).start()
    assert not stop_as_supervised(life)

    assert life.runtime.was_forced
    eventually(lambda: not is_running(life.runtime._helper.pid))


def test_a_helper_that_goes_on_after_the_program_has_ended_keeps_nobody_waiting(make: MakeLife) -> None:
    life = make(Command, SLEEP, stop_argv=shell("kill {workdir}/x 2>/dev/null; kill $(cat {workdir}/pid); sleep 1000"))
    life.start()
    (life.runtime.instance.workdir / "pid").write_text(str(life.pid))

    assert life.stop()
    eventually(lambda: not is_running(life.runtime._helper.pid))


def test_a_child_of_the_helper_that_holds_its_output_keeps_nobody_waiting(make: MakeLife, tmp_path: Path) -> None:
    text = f"sleep 1000 & echo $! > {tmp_path}/child; kill $(cat {tmp_path}/pid)"
    life = make(Command, SLEEP, stop_argv=shell(text)).start()
    (tmp_path / "pid").write_text(str(life.pid))

    assert life.stop()
    eventually(lambda: not is_running(pid_in(tmp_path / "child")))


def test_what_the_helper_says_shows_no_secret(make: MakeLife) -> None:
    life = make(
        Command,
        SLEEP,
        env={"PW": "hunter2"},
        stop_argv=shell('echo "my $PW"; exit 1'),
        policy=ServicePolicy(secret=("PW",)),
    ).start()
    with pytest.raises(ServiceStopError):
        life.stop()

    assert life.texts() == ("my ***",)


# -- by force ----------------------------------------------------------------------------------------------


def test_a_program_that_ignores_the_signal_is_killed_after_its_grace_period(make: MakeLife) -> None:
    life = make(Command, python(DEAF), ready=LogReady("deaf"), policy=SHORT).start()
    pid = life.pid
    began = time.monotonic()

    assert not stop_as_supervised(life)
    assert time.monotonic() - began >= 0.3
    assert life.runtime.was_forced
    assert life.runtime.exit_code == -signal.SIGKILL
    assert life.runtime.survivor() == ""
    life.clean()
    assert not psutil.pid_exists(pid)


def test_killing_needs_no_stop_before(make: MakeLife) -> None:
    life = make(Command, SLEEP).start()

    assert life.kill()
    assert life.runtime.was_forced
    assert life.runtime.exit_code == -signal.SIGKILL


def test_killing_what_has_ended_by_itself_is_no_force(make: MakeLife) -> None:
    life = make(Command, shell("exit 3")).start()
    life.exit()

    assert life.kill()
    assert not life.runtime.was_forced
    assert life.runtime.exit_code == 3


def test_a_program_that_was_stopped_by_a_signal_and_is_deaf_is_killed(make: MakeLife) -> None:
    life = make(Command, python(DEAF), ready=LogReady("deaf"), policy=SHORT).start()
    os.kill(life.pid, signal.SIGSTOP)

    assert not stop_as_supervised(life)
    assert life.runtime.exit_code == -signal.SIGKILL


def test_a_group_of_five_that_ignore_the_signal_is_killed(make: MakeLife, tmp_path: Path) -> None:
    text = f"trap '' TERM; for i in 1 2 3 4; do (echo > {tmp_path}/$i; sleep 1000) & done; echo up; sleep 1000"
    life = make(Command, shell(text), ready=LogReady("up"), policy=SHORT).start()
    eventually(lambda: len(list(tmp_path.iterdir())) == 4)
    members = [life.pid, *(child.pid for child in psutil.Process(life.pid).children(recursive=True))]
    assert len(members) >= 5
    assert not stop_as_supervised(life)
    life.clean()

    assert not [pid for pid in members if is_running(pid)]


def test_who_is_left_after_the_kill_is_named(make: MakeLife, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be killed (it hangs in the kernel, or is somebody else's) is played by one we spare."""
    life = make(Command, SLEEP, policy=SHORT).start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda group, number: None)
        assert not life.stop(0.1)
        assert not life.kill(0.1)
        assert life.runtime.survivor() == f"still there: pid {life.pid}"


# -- whatever it has left ----------------------------------------------------------------------------------


def daemon(pid_file: Path, *, deaf: bool = False, extra: str = "") -> str:
    """Return the code of a program that leaves a daemon: forked twice, in a session of its own."""
    return (
        "import os, signal, time\n"
        f"{'signal.signal(15, signal.SIG_IGN)' if deaf else ''}\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        {extra or 'pass'}\n"
        f"        open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "        while True: time.sleep(1000)\n"
        "    os._exit(0)\n"
        "signal.signal(15, signal.SIG_DFL)\n"
        f"while not os.path.exists({str(pid_file)!r}): time.sleep(0.01)\n"
        "print('up')\n"
        "time.sleep(1000)"
    )


def test_a_child_in_a_session_of_its_own_ends_too(make: MakeLife, tmp_path: Path) -> None:
    child = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
    code = (
        "import subprocess, time\n"
        f"child = subprocess.Popen({child!r}, start_new_session=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    life = make(Command, python(code), ready=LogReady("up")).start()
    pid = pid_in(tmp_path / "pid")

    assert life.stop()
    assert not is_running(pid)
    assert not life.runtime.was_forced


def test_a_child_without_any_sign_of_ours_ends_too(make: MakeLife, tmp_path: Path) -> None:
    """Own session, empty environment, no descriptor: while its parent lives, descent tells."""
    child = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
    code = (
        "import subprocess, time\n"
        f"child = subprocess.Popen({child!r}, start_new_session=True, env={{}}, close_fds=True)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    for number, end in enumerate((Life.stop, Life.kill)):
        life = make(Command, python(code), ready=LogReady("up"), name=f"s{number}").start()
        pid = pid_in(tmp_path / "pid")
        assert end(life)
        assert not is_running(pid)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_daemon_ends_too(make: MakeLife, tmp_path: Path, deaf: bool) -> None:
    code = daemon(tmp_path / "pid", deaf=deaf)
    life = make(Command, python(code), ready=LogReady("up"), policy=ServicePolicy(stop_timeout_s=0.5)).start()
    pid = pid_in(tmp_path / "pid")
    assert stop_as_supervised(life) or deaf
    life_was_forced = life.runtime.was_forced
    life.clean()

    assert not is_running(pid)
    assert life_was_forced is deaf


def test_a_daemon_with_an_overwritten_environment_ends_too(make: MakeLife, tmp_path: Path) -> None:
    """The marker tells; as with redis and all that set their title."""
    fresh = f"os.execve({sys.executable!r}, ['x', '-S', '-c', 'import time; time.sleep(1000)'], {{}})"
    extra = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {fresh}"
    life = make(Command, python(daemon(tmp_path / "pid", extra=extra)), ready=LogReady("up")).start()
    pid = pid_in(tmp_path / "pid")
    eventually(lambda: not psutil.Process(pid).environ())

    assert life.stop()
    assert not is_running(pid)


def test_a_daemon_of_a_program_that_has_ended_by_itself_ends_too(make: MakeLife, tmp_path: Path) -> None:
    code = (
        daemon(tmp_path / "pid")
        .replace("time.sleep(1000)", "pass", 2)
        .replace("while True: pass", "while True: time.sleep(9)")
    )
    life = make(Command, python(code)).start()
    assert life.exit().is_clean
    pid = pid_in(tmp_path / "pid")
    assert is_running(pid)

    assert life.settle()
    assert not is_running(pid)


@needs_redis
def test_a_redis_that_daemonises_is_found_by_its_own_pid_and_ended(make: MakeLife, tmp_path: Path) -> None:
    """It has left group and session, and overwrites its environment."""
    start = "redis-server --port {port} --bind {host} --save '' --daemonize yes --pidfile $0/pid --dir $0; sleep 1000"
    life = make(Command, [*shell(start), str(tmp_path)], ready=TcpReady()).start()
    pid = pid_in(tmp_path / "pid")
    assert is_running(pid)
    assert os.getsid(pid) != life.pid

    assert life.stop()
    assert not is_running(pid)
    assert not life.runtime.was_forced


@needs_redis
def test_a_redis_that_leaves_its_launcher_behind_is_ended_with_the_failed_start(make: MakeLife, tmp_path: Path) -> None:
    argv = ["redis-server", "--port", "{port}", "--bind", "{host}", "--save", "", "--daemonize", "yes"]
    life = make(Command, [*argv, "--pidfile", f"{tmp_path}/pid", "--dir", str(tmp_path)], ready=LogReady("never"))
    with pytest.raises(Exception, match="ended with exit code 0 before it was ready"):
        life.start()
    pid = pid_in(tmp_path / "pid")
    assert life.kill()

    assert not is_running(pid)


@needs_memcached
def test_a_memcached_that_daemonises_is_found_by_its_own_pid_and_ended(make: MakeLife, tmp_path: Path) -> None:
    user = "-u root" if os.getuid() == 0 else ""
    start = f"memcached -d {user} -l {{host}} -p {{port}} -P $0/pid; sleep 1000"
    life = make(Command, [*shell(start), str(tmp_path)], ready=TcpReady()).start()
    pid = pid_in(tmp_path / "pid")
    assert is_running(pid)
    assert os.getsid(pid) != life.pid

    assert life.stop()
    assert not is_running(pid)


def test_a_fork_storm_is_ended(make: MakeLife, tmp_path: Path) -> None:
    """Three escapees, deaf, each of which forks a child into a session of its own every 10 ms."""
    storm = (
        "import os, signal, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "signal.signal(17, signal.SIG_IGN)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            while True:\n"
        "                if os.fork() == 0:\n"
        "                    os.setsid()\n"
        "                    time.sleep(1000)\n"
        f"                open({str(tmp_path / 'forks')!r}, 'a').write('x')\n"
        "                time.sleep(0.01)\n"
        "        os._exit(0)\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    life = make(Command, python(storm), ready=LogReady("up"), policy=SHORT).start()
    eventually(lambda: (tmp_path / "forks").exists() and (tmp_path / "forks").stat().st_size > 60)
    mine = life.runtime.instance.id

    def members() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if mine in process.environ().get("AUTOSTOP_LAB_SESSION", ""):
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    assert len(members()) > 60
    assert not stop_as_supervised(life)
    assert life.runtime.was_forced
    assert members() == []


def test_nothing_of_anybody_else_is_touched(make: MakeLife, tmp_path: Path) -> None:
    bystander = make(Command, SLEEP, name="bystander").start()
    stranger = psutil.Popen(SLEEP, env={})
    cousin = psutil.Popen(SLEEP, env={**os.environ, "AUTOSTOP_LAB_SESSION": "x/" + bystander.runtime.instance.id + "0"})
    try:
        life = make(Command, python(DEAF), ready=LogReady("deaf"), policy=SHORT).start()
        assert not stop_as_supervised(life)
        life.clean()
        assert all(map(is_running, (bystander.pid, stranger.pid, cousin.pid, os.getpid())))
    finally:
        for other in (stranger, cousin):
            other.kill()
            other.wait()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Let this process open nothing more."""
    taken = [os.open(os.devnull, os.O_RDONLY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_launch_without_descriptors_is_told_and_leaves_nothing(make: MakeLife) -> None:
    life = make(Command, SLEEP)
    with no_descriptors_left(), pytest.raises(ServiceStartError, match=r"could not be launched .*Too many open files"):
        life.start()
    assert life.kill()
    life.clean()


def test_what_cannot_be_seen_for_want_of_descriptors_is_not_taken_for_gone(make: MakeLife, tmp_path: Path) -> None:
    life = make(Command, python(daemon(tmp_path / "pid")), ready=LogReady("up")).start()
    pid, leader = pid_in(tmp_path / "pid"), psutil.Process(life.pid)
    with no_descriptors_left():
        stopping = run_in_background(life.stop, name="stop")
        eventually(lambda: life.runtime.exited.done())
        assert not stopping.done()

    assert stopping.result(LONG_S) is True
    assert not is_running(pid)
    assert not is_running(leader.pid)


# -- at odd moments ----------------------------------------------------------------------------------------


def test_a_stop_before_the_launch_has_nothing_to_do(make: MakeLife) -> None:
    door = threading.Event()

    class Slow(Command):
        argv = SLEEP

        def __init__(self) -> None:
            door.wait(LONG_S)

    life = make(Slow)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    stopping = run_in_background(life.stop, name="stop")
    door.set()

    assert stopping.result(LONG_S) is True
    assert life.runtime.pid is None


@pytest.mark.parametrize("end", [Life.stop, Life.kill])
def test_a_launch_that_goes_on_in_its_thread_is_waited_for_and_ended(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch, end: Callable[[Life], bool]
) -> None:
    entered, door = threading.Event(), threading.Event()
    popen = program.ProgramRuntime._popen

    def slowly(runtime: program.ProgramRuntime) -> None:
        entered.set()
        door.wait(LONG_S)
        popen(runtime)

    monkeypatch.setattr(program.ProgramRuntime, "_popen", slowly)
    life = make(Command, SLEEP)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    assert entered.is_set()
    ending = run_in_background(lambda: end(life), name="end")
    door.set()

    assert ending.result(LONG_S) is True
    assert not is_running(life.pid)


def test_a_launch_that_nobody_has_waited_for_is_ended_when_it_comes(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, children = threading.Event(), []

    class SlowPopen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            children.append(self.pid)
            door.wait(LONG_S)

    life = make(Command, SLEEP, stdin=subprocess.PIPE)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", SlowPopen)
        with pytest.raises(TimeoutError):
            life.start(0.1)
        assert not life.kill(0.05)
        survivor = life.runtime.survivor()
        life.clean()
        assert is_running(children[0])
        door.set()

    assert "autostop-lab: launch of service it" in survivor
    eventually(lambda: not psutil.pid_exists(children[0]))


def test_a_launch_that_comes_too_late_is_not_begun(make: MakeLife, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, door = threading.Event(), threading.Event()
    environment = program.ProgramRuntime._environment

    def slowly(runtime: program.ProgramRuntime) -> dict[str, str]:
        entered.set()
        door.wait(LONG_S)
        return environment(runtime)

    monkeypatch.setattr(program.ProgramRuntime, "_environment", slowly)
    life = make(Command, SLEEP)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    runtime = life.runtime
    assert entered.wait(LONG_S)
    assert not life.kill(0.05)
    life.clean()
    door.set()
    eventually(lambda: not runtime.survivor())

    assert runtime.pid is None


def test_stopping_is_seen_by_nobody_twice(make: MakeLife) -> None:
    life = make(Command, SLEEP).start()
    assert life.stop()

    assert life.stop()
    assert life.kill()
    assert not life.runtime.was_forced


def test_cleanup_and_folder_come_after_the_end(make: MakeLife) -> None:
    seen: list[object] = []

    class Store(Command):
        argv = (*SLEEP, "{workdir}")

        def cleanup(self) -> None:
            seen.append((self.workdir.is_dir(), is_running(pid)))

    life = make(Store).start()
    folder, pid = life.folder, life.pid
    life.stop()
    life.clean()

    assert seen == [(True, False)]
    assert not folder.exists()


def test_an_async_cleanup_runs_on_the_event_loop_of_the_service(make: MakeLife) -> None:
    seen: list[str] = []

    class Store(Command):
        argv = SLEEP

        async def cleanup(self) -> None:
            seen.append(threading.current_thread().name)

    life = make(Store).start()
    life.stop()
    life.clean()

    assert seen == ["autostop-lab: event loop of service it"]


def test_a_cleanup_that_hangs_is_named_and_the_folder_goes(make: MakeLife) -> None:
    door = threading.Event()

    class Store(Command):
        argv = (*SLEEP, "{workdir}")

        def cleanup(self) -> None:
            door.wait(LONG_S)

    life = make(Store).start()
    folder, runtime = life.folder, life.runtime
    life.stop()
    with pytest.raises(TimeoutError):
        life.clean(0.05)

    assert "in cleanup" in runtime.survivor()
    eventually(lambda: not folder.exists())
    door.set()
    eventually(lambda: not runtime.survivor())


def test_a_cleanup_that_ended_in_time_leaves_no_survivor(make: MakeLife) -> None:
    class Store(Command):
        argv = SLEEP

        def cleanup(self) -> None: ...

    life = make(Store).start()
    runtime = life.runtime
    life.stop()
    life.clean()

    assert runtime.survivor() == ""


def test_twenty_programs_are_stopped_at_once(make: MakeLife) -> None:
    lives = [make(Command, python(DEAF), ready=LogReady("deaf"), name=f"s{n}", policy=SHORT).start() for n in range(20)]
    pids = [life.pid for life in lives]
    stops = [run_in_background(partial(stop_as_supervised, life), name="stop") for life in lives]

    assert [stop.result(LONG_S) for stop in stops] == [False] * 20
    assert not [pid for pid in pids if is_running(pid)]


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of descriptors is Linux's")
def test_fifty_lives_leave_no_descriptor_thread_or_zombie(make: MakeLife) -> None:
    life = make(Command, shell("echo up {workdir}; cat; sleep 1000"), stdin="x", ready=LogReady("up"))

    def one_life() -> None:
        life.start()
        life.stop()
        life.clean()

    def belongings() -> tuple[int, int, int]:
        children = psutil.Process().children()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)

    before = belongings()
    for _ in range(50):
        one_life()

    eventually(lambda: all(now <= then for now, then in zip(belongings(), before, strict=True)))
