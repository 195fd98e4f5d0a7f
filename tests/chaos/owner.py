"""``python owner.py SCENARIO FACTS``: an owner of services that a test signals or kills.

It says what it has come to, one JSON object per line.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from autostop_lab import (
    Command,
    JobError,
    LocalEnvironment,
    LogReady,
    Restart,
    Service,
    ServicePolicy,
    ServiceStartError,
    current_job,
)
from tests.chaos import programs


def say(word: str, **facts: Any) -> None:
    print(json.dumps({"word": word, **facts}), flush=True)


class Speaker(Service):
    """Says what is done with it; each hook may take its time."""

    def __init__(self, name: str, start_s: float = 0, stop_s: float = 0) -> None:
        self.name, self.start_s, self.stop_s = name, start_s, stop_s

    def start(self) -> None:
        say(f"{self.name} start")
        time.sleep(self.start_s)

    def stop(self) -> None:
        say(f"{self.name} stop")
        time.sleep(self.stop_s)

    def cleanup(self) -> None:
        say(f"{self.name} cleanup")


def pid_of(handle: Any) -> int:
    pid: int = handle.health().details["pid"]
    return pid


def outcomes(report: Any) -> dict[str, str]:
    return {entry.name: str(entry.outcome) for entry in report.services}


def work_until_stopped() -> None:
    say("working")
    current_job().stopping.wait()


# -- how a job ends ----------------------------------------------------------------------------------------


def exit_from_job(folder: Path, code: int) -> None:
    """A job whose code calls ``sys.exit``."""
    env = LocalEnvironment("exits")
    env.register_service("speaker", Speaker, "speaker")
    program = env.register_service("program", Command, programs.SLEEP)

    def work() -> None:
        say("pids", pids=[pid_of(program)])
        sys.exit(code)

    env.run(work)
    env.submit(autostop=True)


def exit_from_with(folder: Path, code: int) -> None:
    """A script that calls ``sys.exit`` within the block of its environment."""
    with LocalEnvironment("exits") as env:
        env.register_service("speaker", Speaker, "speaker")
        program = env.register_service("program", Command, programs.SLEEP)
        env.start()
        say("pids", pids=[pid_of(program)])
        sys.exit(code)


def interrupted_job(folder: Path) -> None:
    """A job whose program notes each SIGINT that reaches it."""
    noter = "import signal, time\n" + (
        f"def note(number, frame): open({str(folder / 'interrupts')!r}, 'a').write('hit')\n"
        "signal.signal(signal.SIGINT, note)\nprint('up')\nwhile True: time.sleep(60)"
    )
    env = LocalEnvironment("interrupted")
    env.register_service("speaker", Speaker, "speaker")
    program = env.register_service("program", Command, programs.python(noter), ready=LogReady("up"))

    def work() -> None:
        say("pids", pids=[pid_of(program)])
        work_until_stopped()

    env.run(work)
    try:
        env.submit(autostop=True)
    except KeyboardInterrupt:
        assert env.last_job is not None
        say("interrupted", state=env.last_job.state, outcomes=outcomes(env.last_job.report))
        raise


def interrupted_start(folder: Path) -> None:
    """Three programs, the second of which never becomes ready."""
    env = LocalEnvironment("slow start", policy=ServicePolicy(start_timeout_s=100))
    pids = folder / "pids"
    env.register_service("one", Command, programs.polite(pids), ready=LogReady("up"))
    env.register_service(
        "two",
        Command,
        programs.polite(pids),
        ready=LogReady("never"),
        policy=ServicePolicy(depends_on=("one",)),
    )
    env.register_service("three", Command, programs.polite(pids), policy=ServicePolicy(depends_on=("two",)))
    env.run(lambda: say("ran"))
    try:
        env.submit(autostop=True)
    except KeyboardInterrupt:
        assert env.last_job is not None
        say("interrupted", outcomes=outcomes(env.last_job.report), receipt=str(env.last_job.report))
        raise


def interrupted_stop(folder: Path, stop_timeout_s: float) -> None:
    """A job whose three programs ignore the polite signal."""
    env = LocalEnvironment("slow stop", policy=ServicePolicy(stop_timeout_s=stop_timeout_s))
    pids = folder / "pids"
    for name in ("one", "two", "three"):
        env.register_service(name, Command, programs.deaf(pids), ready=LogReady("up"))
    env.register_service("speaker", Speaker, "speaker", policy=ServicePolicy(depends_on=("one", "two", "three")))
    env.run(lambda: "done")
    try:
        env.submit(autostop=True)
    except KeyboardInterrupt:
        assert env.last_job is not None
        say("interrupted", state=env.last_job.state, outcomes=outcomes(env.last_job.report))
        raise


class Stuck(Speaker):
    """Never ends its stop."""

    def stop(self) -> None:
        super().stop()
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


def hung_at_exit(folder: Path, how: str) -> None:
    """A script that ends while a service cannot be stopped."""
    env = LocalEnvironment("hung")
    env.register_service("stuck", Stuck, "stuck", policy=ServicePolicy(stop_timeout_s=600))
    env.register_service("speaker", Speaker, "speaker")
    env.register_service("program", Command, programs.polite(folder / "pids"), ready=LogReady("up"))
    env.start()
    say("exits")
    if how == "sys.exit(9)":
        sys.exit(9)
    if how == "raise ValueError":
        raise ValueError("the script's own")


# -- a machine without means -------------------------------------------------------------------------------


def try_rounds(limit: int, numbers: list[int]) -> None:
    """Start services and run jobs again and again, each time with another limit on what this process may have."""
    env = LocalEnvironment("poor")
    env.register_service("speaker", Service)
    env.register_service("program", Command, programs.polite(), ready=LogReady("up"))
    env.start()  # what lives as long as the process is there now
    env.stop()
    usual, hard = resource.getrlimit(limit)
    say("begins", rounds=2 * len(numbers))
    for number in numbers:
        for attempt in (start_and_stop, run_a_job):
            error, problems = None, []
            resource.setrlimit(limit, (number, hard))
            try:
                problems = attempt(env)
            except BaseException as raised:
                error = raised
            finally:
                resource.setrlimit(limit, (usual, hard))
            problems += [] if error is None else problems_of(error)
            env.stop()
            story = "".join(traceback.format_exception(error)) if error else ""
            say("round", number=number, error=story, problems=problems)
    env.close()
    say("done")


def start_and_stop(env: LocalEnvironment) -> list[str]:
    try:
        env.start()
        return [f"{handle} does not run" for handle in env.services.values() if handle.state != "running"]
    finally:
        env.stop()
        assert all(handle.state in ("stopped", "crashed") for handle in env.services.values()), env


def run_a_job(env: LocalEnvironment) -> list[str]:
    env.run(lambda: "done")
    job = env.submit(autostop=True, wait=False)
    result = job.result()
    report = job.report
    return [] if result == "done" and report is not None and len(report.services) == 2 else [f"{result}: {report}"]


def problems_of(error: BaseException) -> list[str]:
    """Return what is wrong with the error of a start."""
    errors = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    return [
        f"names no service: {one!r}"
        for one in errors
        if not (isinstance(one, ServiceStartError) and one.service and one.phase) and type(one) is not JobError
    ]


def no_room_for_processes(folder: Path, place: str) -> None:
    """An ordinary user whose processes and threads are counted."""
    os.environ["TMPDIR"] = tempfile.tempdir = place
    sys.executable = SYSTEM_PYTHON  # ours may lie where only root may look
    user = 50_000 + os.getpid() % 10_000  # whom nobody else is
    os.setgid(user)
    os.setuid(user)
    now = threading.active_count() + 1  # and the supervisor's thread
    try_rounds(resource.RLIMIT_NPROC, list(range(now, now + 10)))


def no_descriptors(folder: Path) -> None:
    """A process whose descriptors are counted."""
    now = max(int(name) for name in os.listdir("/proc/self/fd"))
    try_rounds(resource.RLIMIT_NOFILE, list(range(now, now + 22)))


#: Of the system, for everybody.
SYSTEM_PYTHON = "/usr/bin/python3"


class Writer(Service):
    """Writes into its folder."""

    def start(self) -> None:
        self.write(1)

    def write(self, count: int) -> str:
        for number in range(count):
            (self.workdir / f"page{number}").write_bytes(b"x" * 4096)
        return str(self.workdir)


def disk(folder: Path) -> None:
    """Services whose folders lie on a disk that a test fills, or takes away."""
    say("begins", temp=tempfile.gettempdir())
    input()
    env = LocalEnvironment("disk")
    writer = env.register_service("writer", Writer)
    env.register_service("program", Command, programs.polite(), ready=LogReady("up"))

    def work() -> None:
        say("working", workdir=writer.write(1))
        if sys.stdin.readline().strip() == "write":
            writer.write(100)

    env.run(work)
    error = None
    try:
        env.submit(autostop=True)
    except BaseException as raised:
        error = raised
    report = env.last_job.report if env.last_job is not None else None
    say(
        "ended",
        error=repr(error) + str(getattr(error, "exceptions", "")),
        outcomes=outcomes(report),
        states={entry.name: entry.state for entry in report.services} if report is not None else {},
        receipt=str(report),
    )
    input()


# -- kernels -----------------------------------------------------------------------------------------------


def jupyter_server(folder: Path, setup: str, cells: list[str]) -> None:
    """Who starts a kernel, and has it run some cells."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    for cell in (f"FOLDER = {str(folder)!r}", setup, *cells):
        reply = client.execute_interactive(cell, timeout=60, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply
    say("kernel", pid=manager.provisioner.pid)  # type: ignore[union-attr]
    sys.stdin.readline()


# -- the death of the owner --------------------------------------------------------------------------------


def first_program(folder: Path, contain: str) -> None:
    """A process whose first program is only just launched."""
    env = LocalEnvironment("first")
    argv = programs.polite(folder / "pids")
    env.register_service("program", Command, argv, ready=LogReady("never"), contain=contain)
    say("starts")
    env.start()


class Hosted(Service):
    """Lives in a process of its own, whose pid it notes."""

    def __init__(self, pids: Path) -> None:
        self.pids = pids

    def start(self) -> None:
        with self.pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (self.workdir / "page").touch()


def fleet(
    folder: Path,
    phase: str = "idle",
    count: int = 6,
    deaf: int = 1,
    grace_s: float = 0.5,
) -> None:
    """Many programs and some objects, brought into one phase of their lives.

    The first `deaf` of the programs ignore the polite signal. Then the owner does what it is told to.
    """
    env = LocalEnvironment("fleet", policy=ServicePolicy(stop_timeout_s=grace_s, start_timeout_s=100))
    pids = folder / "pids"
    if phase == "first launch":
        for number in range(count):
            env.register_service(f"program{number}", Command, programs.polite(pids))
        env.start()
        time.sleep(1000)
    writer = env.register_service("writer", Writer)
    env.register_service("speaker", Speaker, "speaker")
    env.register_service("hosted", Hosted, pids, runtime="process")
    names = [f"program{number}" for number in range(count)]
    for number, name in enumerate(names):
        argv = programs.deaf(pids) if number < deaf else programs.polite(pids)
        needs = (names[number - 1],) if number % 5 == 4 else ()
        env.register_service(
            name, Command, argv, ready=LogReady("up"), policy=ServicePolicy(depends_on=("speaker", *needs))
        )
    if phase == "start":
        policy = ServicePolicy(depends_on=("speaker",))
        env.register_service("never", Command, programs.polite(pids), ready=LogReady("never"), policy=policy)
        say("starts")
    elif phase == "restart":
        rule = Restart("always", max_restarts=None, backoff_s=0.02, backoff_max_s=0.02)
        for number in range(3):
            code = f"echo $$ >> {pids}; echo up; sleep 0.05; exit 1"
            policy = ServicePolicy(restart=rule)
            env.register_service(f"mortal{number}", Command, programs.sh(code), ready=LogReady("up"), policy=policy)
    if phase == "job":
        env.run(work_until_stopped)
        env.submit(autostop=True)
        say("over")
        return
    env.start()
    say("there", workdir=writer.write(1), pids=[pid_of(env.services[name]) for name in names])
    if phase == "stop":
        threading.Thread(target=env.stop, daemon=True).start()
    order = sys.stdin.readline().strip()
    ORDERS[order](env)


def slow_chain(folder: Path) -> None:
    """Three programs, each needing the one before, that take their time when they are asked to end."""
    env = LocalEnvironment("chain", policy=ServicePolicy(stop_timeout_s=20))
    before: tuple[str, ...] = ()
    for name in ("db", "api", "web"):
        stamp = f"echo {name}-{{what}} >> {folder / 'stamps'}"
        end = f"{stamp.format(what='asked')}; sleep 0.7; {stamp.format(what='ended')}; exit 0"
        code = f"trap '{end}' TERM; echo up; while :; do sleep 0.02; done"
        policy = ServicePolicy(depends_on=before)
        env.register_service(name, Command, programs.sh(code), ready=LogReady("up"), policy=policy)
        before = (name,)
    env.start()
    say("there")
    sys.stdin.readline()


def die_at_once(env: LocalEnvironment) -> None:
    os._exit(5)


def abort(env: LocalEnvironment) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def crash(env: LocalEnvironment) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def become_another(env: LocalEnvironment) -> None:
    os.execv("/bin/sleep", ["sleep", "1000"])


def fork_in_c(env: LocalEnvironment) -> None:
    """Fork behind Python's back: the child keeps every descriptor."""
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(1000)
        os._exit(0)
    children = psutil.Process().children()
    say("forked", pids=[child.pid for child in children if child.cmdline() == psutil.Process().cmdline()])
    time.sleep(1000)


def fork_in_python(env: LocalEnvironment) -> None:
    """Fork children that end in each of the ordinary ways."""
    for end in (sys.exit, env.close, env.stop, lambda: None):
        if (pid := os.fork()) == 0:
            end()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    child = multiprocessing.get_context("fork").Process(target=env.stop)
    child.start()
    child.join()
    assert child.exitcode == 0
    say("forked", states=[str(handle.state) for handle in env.services.values()])
    input()
    say("stopped", outcomes=outcomes(env.close()))


def go_on(env: LocalEnvironment) -> None:
    """Do what an owner does that was not harmed: one more service, a call, and a stop in order."""
    late = env.register_service("late", Command, programs.polite(), ready=LogReady("up"))
    try:
        env.start()
    except Exception as error:
        say("refused", error=str(error))
    else:
        say("went on", pids=[pid_of(late)], states={name: str(h.state) for name, h in env.services.items()})
    input()
    say("stopped", outcomes=outcomes(env.close()))


def start_many(env: LocalEnvironment) -> None:
    many = [env.register_service(f"late{number}", Command, programs.polite()) for number in range(20)]
    env.start()
    say("many", states=sorted({str(handle.state) for handle in many}), pids=[pid_of(handle) for handle in many])
    time.sleep(1000)


def no_reaper(folder: Path, how: str) -> None:
    """A machine on which no reaper can be started, until it can."""
    usual, pids = sys.executable, folder / "pids"
    program = folder / "program"
    if how != "missing":
        program.write_text("#!/bin/sh\n" + ("exec sleep 1000\n" if how == "hangs" else ""))
        program.chmod(0o600 if how == "not a program" else 0o700)
    sys.executable = str(program)
    env = LocalEnvironment("poor")
    env.register_service("speaker", Speaker, "speaker")
    env.run(lambda: "done")
    env.submit(autostop=True)
    env.register_service(
        "program",
        Command,
        programs.polite(pids),
        ready=LogReady("up"),
        policy=ServicePolicy(depends_on=("speaker",), start_timeout_s=60),
        contain="signs",
    )
    try:
        env.submit(autostop=True)
    except ServiceStartError as error:
        assert env.last_job is not None
        told = {"type": type(error).__name__, "service": error.service, "phase": error.phase, "error": str(error)}
        launched = pids.read_text() if pids.exists() else ""
        say("refused", **told, launched=launched, outcomes=outcomes(env.last_job.report))
    plain = LocalEnvironment("plain")
    plain.register_service("speaker", Service)
    plain.run(lambda: "done")
    say("ran", result=plain.submit(autostop=True).result())
    sys.executable = usual
    try:
        env.start()
    except ServiceStartError:  # it waited for one that was begun before
        env.start()
    say("recovered", states={name: str(handle.state) for name, handle in env.services.items()})
    env.close()


def end(env: LocalEnvironment) -> None:
    """Return from the script as any script does."""


ORDERS: dict[str, Callable[[LocalEnvironment], None]] = {
    order.__name__: order
    for order in (die_at_once, abort, crash, become_another, fork_in_c, fork_in_python, go_on, start_many, end)
}


# -- children ----------------------------------------------------------------------------------------------


def sleep_in_child() -> None:
    time.sleep(1000)


class Parent(Service):
    """Starts a process with `multiprocessing` and forgets about it."""

    def __init__(self, method: str) -> None:
        self.method = method

    def start(self) -> None:
        context = multiprocessing.get_context(self.method)
        self.child = context.Process(target=sleep_in_child, daemon=True)  # type: ignore[attr-defined]
        self.child.start()

    def pid(self) -> int | None:
        pid: int | None = self.child.pid
        return pid


def forgotten_child(folder: Path, method: str) -> None:
    """A job whose service, in this process, leaves a child of its own."""
    env = LocalEnvironment("parent")
    parent = env.register_service("parent", Parent, method)
    env.run(parent.pid)
    job = env.submit(autostop=True)
    pid = job.result()
    server = psutil.Process(pid).ppid()
    say("over", pid=pid, server=server, outcomes=outcomes(job.report), receipt=str(job.report))
    input()


SCENARIOS: dict[str, Callable[..., None]] = {
    scenario.__name__: scenario
    for scenario in (
        exit_from_job,
        exit_from_with,
        interrupted_job,
        interrupted_start,
        interrupted_stop,
        hung_at_exit,
        no_room_for_processes,
        no_descriptors,
        disk,
        forgotten_child,
        fleet,
        first_program,
        slow_chain,
        no_reaper,
        jupyter_server,
    )
}


def main() -> None:
    faulthandler.register(signal.SIGUSR1)  # with it a test that waits in vain asks where all threads are
    facts = json.loads(sys.argv[2])
    facts["folder"] = Path(facts["folder"])
    SCENARIOS[sys.argv[1]](**facts)


if __name__ == "__main__":
    main()
