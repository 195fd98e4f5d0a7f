"""What its reaper does when an owner is gone, however it went: with real processes and real signals."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.reaper.owners import Owner, eventually, is_running

Own = Callable[..., Owner]

COMMANDS = """
env = LocalEnvironment("owner")
for number in range({count}):
    env.register_service(f"s{{number}}", Command, ["sleep", "1000"])
env.start()
say(pids=[int(p) for p in subprocess.run(["pgrep", "-P", str(os.getpid()), "sleep"], capture_output=True, text=True)
          .stdout.split()])
"""


def test_commands_of_a_killed_owner_end(own: Own) -> None:
    owner = own(COMMANDS.format(count=3))
    pids, reaper = owner.said["pids"], owner.reaper
    assert len(pids) == 3
    owner.kill()

    eventually(lambda: not any(map(is_running, pids)))
    eventually(lambda: not is_running(reaper), "the reaper goes on")
    death = owner.cleaned()
    assert {(end.name, end.outcome) for end in death.services} == {(f"s{n}", "stopped") for n in range(3)}
    assert death.owner_pid == owner.pid
    assert "without closing" in death.why
    assert [path.name for path in owner.root.iterdir()] == ["deaths"]


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV])
def test_it_does_not_matter_which_signal_ends_the_owner(own: Own, number: int) -> None:
    owner = own('child, _ = own(["sleep", "1000"])\nsay(pid=child.pid)')
    owner.signal(number)

    eventually(lambda: not is_running(owner.said["pid"]))


def test_an_owner_that_leaves_without_a_word_is_cleaned_up_after(own: Own) -> None:
    owner = own('child, _ = own(["sleep", "1000"])\nsay(pid=child.pid)')
    with pytest.raises(AssertionError, match="ended with 5"):
        owner.do("os._exit(5)")

    eventually(lambda: not is_running(owner.said["pid"]))
