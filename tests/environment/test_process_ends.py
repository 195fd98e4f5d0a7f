"""The end of the process that owns services, by signals and by its own exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

HEAD = """
import os, signal, sys, threading, time
from autostop_lab import Command, LocalEnvironment, LogReady, Service, ServicePolicy

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Store(Service):
    def stop(self): say("store stops")
    def cleanup(self): say("store cleaned")

class Front(Service):
    def stop(self): say("front stops")

env = LocalEnvironment("ends")
store = env.register_service("store", Store)
env.register_service("front", Front, policy=ServicePolicy(depends_on=("store",)))
"""
IN_ORDER = ["front stops", "store stops", "store cleaned"]


class Owner:
    """A script that owns services."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", HEAD + script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        line = ""
        while line.strip() != word:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]

    def end(self) -> tuple[int, list[str], str]:
        try:
            out, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, out.splitlines(), errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_stops_services_in_order_and_the_exit_status_stays_its_own(number: signal.Signals) -> None:
    owner = Owner("env.start()\nsay('up')\ntime.sleep(600)")
    owner.wait_for("up")
    owner.process.send_signal(number)

    assert owner.end() == (-number, IN_ORDER, "")


def test_a_signal_to_end_reaches_services_of_a_job_in_the_main_thread() -> None:
    owner = Owner("def work():\n    say('up')\n    time.sleep(600)\nenv.run(work)\nenv.submit(autostop=True)")
    owner.wait_for("up")
    owner.process.terminate()

    assert owner.end() == (-signal.SIGTERM, IN_ORDER, "")


def test_a_signal_that_comes_while_the_main_thread_holds_our_locks_still_ends_the_process() -> None:
    owner = Owner(
        """
from autostop_lab.environment.registry import registry
env.start()
with registry._lock, env._lock:
    say("up")
    time.sleep(600)
"""
    )
    owner.wait_for("up")
    owner.process.terminate()

    assert owner.end() == (-signal.SIGTERM, IN_ORDER, "")


def test_the_users_own_handler_of_a_signal_runs_after_services_are_clean() -> None:
    owner = Owner(
        """
env.close()
def mine(number, frame):
    say("mine", number)
    sys.exit(7)
signal.signal(signal.SIGTERM, mine)
env = LocalEnvironment("chained")
env.register_service("store", Store)
env.start()
say("up")
time.sleep(600)
"""
    )
    owner.wait_for("up")
    owner.process.terminate()

    assert owner.end() == (7, ["store stops", "store cleaned", f"mine {signal.SIGTERM}"], "")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    owner = Owner(
        """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
LocalEnvironment("other")
env.start()
os.kill(os.getpid(), signal.SIGHUP)
say(store.state)
"""
    )

    assert owner.end() == (0, ["running", *IN_ORDER], "")


def test_a_forked_child_that_is_told_to_end_leaves_its_parents_services_alone() -> None:
    owner = Owner(
        """
env.start()
pid = os.fork()
if pid == 0:
    time.sleep(600)
    os._exit(0)
os.kill(pid, signal.SIGTERM)
say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), store.state)
"""
    )

    assert owner.end() == (0, [f"{-signal.SIGTERM} running", *IN_ORDER], "")


def test_an_environment_made_in_another_thread_leaves_signals_alone() -> None:
    script = """
import signal, threading
from autostop_lab import LocalEnvironment
thread = threading.Thread(target=LocalEnvironment, args=("elsewhere",))
thread.start()
thread.join()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_an_exit_waits_no_longer_than_its_budget_for_a_stop_that_hangs() -> None:
    owner = Owner(
        """
class Hangs(Service):
    def stop(self): threading.Event().wait()
    def cleanup(self): say("cleaned all the same")
env.register_service("hangs", Hangs)
env.start()
say("up")
sys.exit(3)
"""
    )
    owner.wait_for("up")
    began_s = time.monotonic()
    status, lines, errors = owner.end()

    assert (status, errors) == (3, "")
    assert set(lines) <= {*IN_ORDER, "cleaned all the same"}  # a slow machine gets no further within the budget
    assert time.monotonic() - began_s < 20
