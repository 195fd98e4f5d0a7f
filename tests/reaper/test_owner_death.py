"""What its reaper does when an owner is gone, however it went: with real processes and real signals."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from autostop_lab.services.containment import problem_with
from tests.reaper.owners import Owner, eventually, is_running

Own = Callable[..., Owner]

ONE = 'child, _ = own(["sleep", "1000"])\nsay(pids=[child.pid])'


def all_gone(owner: Owner) -> None:
    eventually(lambda: not any(map(is_running, owner.said["pids"])), "a service goes on")
    eventually(lambda: not owner.folders(), "the session's folder stays")


def outcomes(owner: Owner) -> dict[str, str]:
    return {end.name: end.outcome for end in owner.cleaned().services}


def test_a_reaper_without_a_free_descriptor_cleans_all_the_same(own: Own) -> None:
    daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid(); time.sleep(1000)"
    owner = own(f"{ONE}\nown(python({daemon!r}))")
    reaper = owner.reaper
    limit = max(map(int, os.listdir(f"/proc/{reaper}/fd"))) + 1
    resource.prlimit(reaper, resource.RLIMIT_NOFILE, (limit, limit))
    owner.kill()

    all_gone(owner)
    assert [(end.name, end.outcome) for end in owner.cleaned().services] == [("it", "stopped")] * 2


CONTAINED = """\
import os
from autostop_lab import Command, LocalEnvironment
env = LocalEnvironment("first")
program = env.register_service("program", Command, ["sleep", "1000"])
env.run(lambda: program.health().details["pid"])
job = env.submit(autostop=True)
leaks = [str(leak) for leak in job.report.leaks]
print(os.getpid(), job.result() > 1, job.report.services[0].outcome, leaks)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can be another's pid 1")
def test_an_owner_may_be_what_a_container_begins_with(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no namespace of processes can be made here")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", CONTAINED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "1 True stopped []\n", done.stderr


# -- how an owner may go -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV])
def test_it_does_not_matter_which_signal_ends_the_owner(own: Own, number: int) -> None:
    owner = own(ONE)
    reaper = owner.reaper
    owner.signal(number)

    all_gone(owner)
    eventually(lambda: not is_running(reaper), "the reaper goes on")
    death = owner.cleaned()
    assert death.owner_pid == owner.pid
    assert "without closing" in death.why
    assert outcomes(owner) == {"it": "stopped"}
    assert [path.name for path in owner.root.iterdir()] == ["deaths"]


@pytest.mark.parametrize("how", ["os._exit(5)", "os.abort()", "import ctypes; ctypes.string_at(0)"])
def test_an_owner_that_leaves_without_a_word_is_cleaned_up_after(own: Own, how: str) -> None:
    owner = own(ONE)
    with pytest.raises(AssertionError, match="it ended with"):
        owner.do(how)

    all_gone(owner)


def test_an_owner_that_becomes_another_program_is_no_owner_any_more(own: Own) -> None:
    owner = own(ONE)
    owner.do("say(is_next=True); threading.Timer(0.1, lambda: os.execvp('sleep', ['sleep', '1000'])).start()")

    all_gone(owner)
    assert psutil.Process(owner.pid).name() == "sleep"


def test_a_forked_child_that_lives_on_does_not_hide_the_owner_s_death(own: Own) -> None:
    """Forked in C, so that nothing closes the link in it: it stays open as long as the child lives."""
    owner = own(
        ONE + "\nimport ctypes\nchild = ctypes.CDLL(None).fork()\n"
        "if child == 0:\n    time.sleep(1000)\n    os._exit(0)\nsay(child=child)"
    )
    owner.kill()

    all_gone(owner)
    assert is_running(owner.said["child"])
    os.kill(owner.said["child"], signal.SIGKILL)


def test_a_forked_child_that_ends_is_not_the_owner_s_death(own: Own) -> None:
    owner = own(ONE)
    owner.do("pid = os.fork()\nif pid == 0: sys.exit()\nos.waitpid(pid, 0)")
    owner.do("pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)")

    assert owner.do("say(pid=current_guard().status.pid)")["pid"] == owner.reaper
    assert all(map(is_running, owner.said["pids"]))


@pytest.mark.slow
def test_an_owner_that_is_suspended_is_alive(own: Own) -> None:
    owner = own(ONE)
    reaper = owner.reaper
    owner.signal(signal.SIGSTOP)
    time.sleep(4.0)  # longer than any patience with an answer
    assert all(map(is_running, owner.said["pids"]))
    owner.signal(signal.SIGCONT)

    owner.do('child, _ = own(["sleep", "1000"]); say(pids=[child.pid])')
    assert owner.reaper == reaper
    owner.kill()
    all_gone(owner)


# -- in which phase ----------------------------------------------------------------------------------------


def test_a_service_that_is_just_starting_ends(own: Own) -> None:
    owner = own(
        "env = LocalEnvironment('owner')\n"
        "env.register_service('slow', Command, ['sleep', '1000'], ready=LogReady('never'))\n"
        "threading.Thread(target=env.start, daemon=True).start()\n"
        "while not current_guard().leases(): time.sleep(0.01)\n"
        "say(pids=[lease.pid for lease in current_guard().leases()])"
    )
    owner.kill()

    all_gone(owner)


COUNTS = """
import signal, sys, time
path = sys.argv[1]
def count(*_):
    with open(path, "a") as file: file.write("asked\\n")
signal.signal(signal.SIGTERM, count)
print("up", flush=True)
while True: time.sleep(0.05)
"""


def test_a_service_that_was_asked_to_end_is_not_asked_again(own: Own, tmp_path: Path) -> None:
    """Many programs take a second signal for "at once"."""
    owner = own(
        f"env = LocalEnvironment('owner')\n"
        f"argv = [sys.executable, '-S', '-c', {COUNTS!r}, {str(tmp_path / 'log')!r}]\n"
        "service = env.register_service('it', Command, argv, ready=LogReady('up'),\n"
        "                               policy=ServicePolicy(stop_timeout_s=2))\n"
        "env.start()\n"
        "say(pids=[lease.pid for lease in current_guard().leases()])\n"
        "threading.Thread(target=service.stop, daemon=True).start()"
    )
    eventually((tmp_path / "log").exists)
    owner.do("time.sleep(0.2)")  # the reaper has been told
    owner.kill()

    all_gone(owner)
    assert (tmp_path / "log").read_text() == "asked\n"
    assert outcomes(owner) == {"it": "killed"}


# -- what is left ------------------------------------------------------------------------------------------


def test_a_hundred_commands_end(own: Own) -> None:
    owner = own(
        "env = LocalEnvironment('owner')\n"
        "for number in range(100): env.register_service(f's{number}', Command, ['sleep', '1000'])\n"
        "env.start()\n"
        "say(pids=[lease.pid for lease in current_guard().leases()])"
    )
    assert len(set(owner.said["pids"])) == 100
    owner.kill()

    all_gone(owner)
    assert Counter(outcomes(owner).values()) == {"stopped": 100}


def test_those_that_do_not_obey_are_killed_after_their_grace_period(own: Own) -> None:
    owner = own(
        "deaf = ['sh', '-c', \"trap '' TERM; sleep 1000 & wait; sleep 1000\"]\n"
        "pids = [own(deaf, f's{number}', stop_grace_s=0.5)[0].pid for number in range(10)]\n"
        "time.sleep(0.5); say(pids=pids)"
    )
    owner.kill()

    all_gone(owner)
    assert Counter(outcomes(owner).values()) == {"killed": 10}


def test_the_polite_signal_is_the_service_s_own(own: Own, tmp_path: Path) -> None:
    code = f"""
import signal, sys, time
def end(*_):
    open({str(tmp_path / "log")!r}, "w").write("interrupted")
    sys.exit()
signal.signal(signal.SIGINT, end)
print("up", flush=True)
time.sleep(1000)
"""
    owner = own(
        "env = LocalEnvironment('owner')\n"
        f"env.register_service('it', Command, python({code!r}), ready=LogReady('up'), stop_signal=signal.SIGINT)\n"
        "env.start()\nsay(pids=[lease.pid for lease in current_guard().leases()])"
    )
    owner.kill()

    all_gone(owner)
    assert (tmp_path / "log").read_text() == "interrupted"


def test_services_end_in_order_also_by_way_of_one_that_is_no_program(own: Own, tmp_path: Path) -> None:
    code = f"""
import signal, sys, time
def end(*_):
    time.sleep(0.2)
    with open({str(tmp_path / "log")!r}, "a") as file: file.write(sys.argv[1] + " ")
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(1000)
"""
    owner = own(
        "class Between(Service): pass\n"
        "env = LocalEnvironment('owner')\n"
        f"def add(name, *needs): env.register_service(name, Command, [*python({code!r}), name], ready=LogReady('up'),\n"
        "                                               policy=ServicePolicy(depends_on=needs))\n"
        "add('db')\n"
        "env.register_service('between', Between, policy=ServicePolicy(depends_on=('db',)))\n"
        "add('web', 'between'); env.start()\n"
        "say(pids=[lease.pid for lease in current_guard().leases()])"
    )
    owner.kill()

    all_gone(owner)
    assert (tmp_path / "log").read_text() == "web db "


def test_the_workdir_of_a_service_in_a_thread_goes(own: Own) -> None:
    owner = own(
        "class Writes(Service):\n"
        "    def start(self): (self.workdir / 'data').write_text('x' * 1000)\n"
        "env = LocalEnvironment('owner'); env.register_service('it', Writes); env.start()\n"
        "say(pids=[])"
    )
    assert len(list(owner.root.glob("session-*/it-*/work/data"))) == 1
    owner.kill()

    all_gone(owner)


def test_a_job_of_services_in_threads_needs_no_reaper(own: Own) -> None:
    owner = own(
        "class Plain(Service):\n    def echo(self, x): return x\n"
        "env = LocalEnvironment('owner'); it = env.register_service('it', Plain)\n"
        "env.from_batch([1, 2]).map(it.echo).collect(); job = env.submit(autostop=True)\n"
        "say(state=current_guard().status.state, result=job.result())"
    )

    assert (owner.said["state"], owner.said["result"]) == ("off", [1, 2])
    assert not owner.root.exists()


def test_a_job_that_ends_clean_leaves_nothing_registered(own: Own) -> None:
    owner = own(
        "env = LocalEnvironment('owner'); it = env.register_service('it', Command, ['sleep', '1000'])\n"
        "env.start(); before = len(current_guard().leases()); env.close()\n"
        "say(before=before, leases=len(current_guard().leases()), pids=[])"
    )
    assert (owner.said["before"], owner.said["leases"]) == (1, 0)
    eventually(lambda: '"leases": []' in next(owner.root.glob("session-*/journal.json")).read_text())


def test_a_program_that_the_reaper_cannot_guard_is_not_kept(own: Own) -> None:
    owner = own(
        "env = LocalEnvironment('owner'); env.register_service('it', Command, ['sleep', '1000'])\n"
        "python, sys.executable = sys.executable, '/nowhere/python'\n"
        "try: env.start(); words = ''\n"
        "except Exception as error: words = str(error)\n"
        "sys.executable = python\n"
        "children = subprocess.run(['pgrep', '-P', str(os.getpid()), 'sleep'], capture_output=True, text=True).stdout\n"
        "say(words=words, children=children)"
    )

    assert "service 'it'" in owner.said["words"]
    assert "reaper could not be started" in owner.said["words"]
    assert owner.said["children"] == ""


# -- those that get away -----------------------------------------------------------------------------------

ESCAPE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    open(sys.argv[1], "w").write(str(os.getpid()))
    {then}
    time.sleep(1000)
os.wait()
print("up", flush=True)
time.sleep(1000)
"""
THEN = {
    "plain": "pass",
    "without environment": "os.execve('/bin/sleep', ['sleep', '1000'], {})",
    "without marker": "os.closerange(3, 1000)",
}


def escaping(then: str, path: Path, contain: str = "signs") -> str:
    code = ESCAPE.format(then=then)
    return (
        "env = LocalEnvironment('owner')\n"
        f"env.register_service('it', Command, [*python({code!r}), {str(path)!r}], ready=LogReady('up'),\n"
        f"                     contain={contain!r})\n"
        "env.start()\nsay(pids=[lease.pid for lease in current_guard().leases()])"
    )


def pid_in(path: Path) -> int:
    return int(eventually(lambda: path.exists() and path.read_text()))


@pytest.mark.parametrize("then", THEN)
def test_a_daemonised_child_ends(own: Own, tmp_path: Path, then: str) -> None:
    owner = own(escaping(THEN[then], tmp_path / "pid"))
    escaped = pid_in(tmp_path / "pid")
    assert is_running(escaped)
    owner.kill()

    eventually(lambda: not is_running(escaped))
    all_gone(owner)


@pytest.mark.parametrize("contain", ["subreaper", "cgroup"])
def test_a_contained_child_ends_though_it_carries_no_sign(own: Own, tmp_path: Path, contain: str) -> None:
    if problem := problem_with(contain):
        pytest.skip(f"{contain}: {problem}")
    then = "os.closerange(3, 1000); os.execve('/bin/sleep', ['sleep', '1000'], {})"
    owner = own(escaping(then, tmp_path / "pid", contain))
    escaped = pid_in(tmp_path / "pid")
    eventually(lambda: psutil.Process(escaped).name() == "sleep")
    owner.kill()

    eventually(lambda: not is_running(escaped))
    all_gone(owner)
    assert outcomes(owner) == {"it": "stopped"}
    assert not owner.cleaned().problems


def test_a_program_that_overwrites_its_environment_is_found_with_its_children(own: Own, tmp_path: Path) -> None:
    code = (
        "import ctypes, os\n"
        "values = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "begin, end = int(values[47]), int(values[48])\n"
        "ctypes.memset(begin, 0, end - begin)\n"
        "assert b'AUTOSTOP' not in open('/proc/self/environ', 'rb').read()\n"
    )
    owner = own(escaping(code.replace("\n", "\n    "), tmp_path / "pid"))
    escaped = pid_in(tmp_path / "pid")
    owner.kill()

    eventually(lambda: not is_running(escaped))
    all_gone(owner)


STORM = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 20
print("up", flush=True)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        while time.monotonic() < end:
            if os.fork() == 0:
                os.setsid()
                time.sleep(20)
                os._exit(0)
            time.sleep(0.01)
        os._exit(0)
time.sleep(20)
"""


@pytest.mark.slow
def test_a_storm_of_forks_is_brought_to_its_end(own: Own) -> None:
    owner = own(f"child, instance = own(python({STORM!r}), stop_grace_s=0.3)\nsay(pids=[child.pid], id=instance.id)")

    def carriers() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if owner.said["id"] in process.environ().get("AUTOSTOP_LAB_SESSION", ""):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    eventually(lambda: len(carriers()) > 20)
    owner.kill()

    all_gone(owner)
    assert carriers() == []


# -- programs as they are ----------------------------------------------------------------------------------



def find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.mark.parametrize("is_daemon", [False, True])
def test_redis_ends(own: Own, tmp_path: Path, is_daemon: bool) -> None:
    """Redis overwrites its environment, and as a daemon leaves group and session."""
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    argv = [find("redis-server"), "--port", "0", "--save", "", "--unixsocket", str(tmp_path / "s")]
    argv += ["--pidfile", str(pid_file), "--logfile", str(log), "--dir", str(tmp_path)]
    argv += ["--daemonize", "yes" if is_daemon else "no"]
    owner = own(f"child, _ = own({argv!r})\nsay(pids=[child.pid])")
    pid = pid_in(pid_file)
    eventually(lambda: "ready to accept" in log.read_text())
    owner.kill()

    eventually(lambda: not is_running(pid))
    all_gone(owner)
    assert "User requested shutdown" in log.read_text()


@pytest.mark.parametrize("is_daemon", [False, True])
def test_memcached_ends(own: Own, tmp_path: Path, is_daemon: bool) -> None:
    pid_file = tmp_path / "pid"
    argv = [find("memcached"), "-s", str(tmp_path / "s"), "-P", str(pid_file), *(["-d"] if is_daemon else [])]
    argv += ["-u", "root"] if os.getuid() == 0 else []
    owner = own(f"child, _ = own({argv!r})\nsay(pids=[child.pid])")
    eventually((tmp_path / "s").exists)
    pid = pid_in(pid_file) if is_daemon else owner.said["pids"][0]
    owner.kill()

    eventually(lambda: not is_running(pid))
    all_gone(owner)
