"""What becomes of contained programs when their owner is killed: nothing gets away then either."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from autostop_lab.reaper.groups import RECORD_NAME, Group
from autostop_lab.reaper.processes import SESSION_VARIABLE
from autostop_lab.reaper.sweep import sweep
from autostop_lab.services.containment import problem_with
from tests.reaper.owners import Owner, eventually, is_running
from tests.services.lives import pid_in
from tests.services.test_containment import escape

Own = Callable[..., Owner]

CODE = """
env = LocalEnvironment("owner")
handle = env.register_service("it", Command, {argv!r}, ready=LogReady("up"), contain={kind!r},
                              policy=ServicePolicy(stop_timeout_s={grace_s}))
env.start()
say(pid=handle.health().details["pid"])
"""


PROCESS = """
class Leaver(Service):
    def leave(self, argv):
        subprocess.check_call(argv)

env = LocalEnvironment("owner")
handle = env.register_service("it", Leaver, runtime="process", policy=ServicePolicy(stop_timeout_s=0.5))
env.start()
handle.leave({argv!r})
say(pid=handle.health().details["pid"])
"""


@pytest.fixture(params=["subreaper", "cgroup"])
def kind(request: pytest.FixtureRequest) -> str:
    if problem := problem_with(request.param):
        pytest.skip(problem)
    return str(request.param)


@pytest.fixture
def daemon_file(tmp_path: Path) -> Iterator[Path]:
    """Where the daemon writes its pid; what a failed test leaves is killed."""
    path = tmp_path / "daemon"
    yield path
    if path.exists():
        with suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def family(owner: Owner) -> set[int]:
    """Return the pids of what an owner has launched and is still its descendant."""
    return {child.pid for child in psutil.Process(owner.pid).children(recursive=True)}


@pytest.mark.parametrize("deaf", [False, True])
def test_nothing_gets_away_when_the_owner_is_killed(own: Own, daemon_file: Path, kind: str, deaf: bool) -> None:
    argv = escape(daemon_file, deaf=deaf)
    owner = own(CODE.format(argv=argv, kind=kind, grace_s=0.5 if deaf else 20))
    pids = {pid_in(daemon_file), owner.said["pid"], *family(owner)} - {owner.reaper}
    assert all(map(is_running, pids))
    owner.kill()

    eventually(lambda: not any(map(is_running, pids)))
    (end,) = owner.cleaned().services
    assert end.outcome == ("killed" if deaf else "stopped")
    assert owner.cleaned().problems == ()


def test_a_daemon_of_a_process_does_not_get_away(own: Own, daemon_file: Path) -> None:
    if problem := problem_with("cgroup"):
        pytest.skip(problem)
    owner = own(PROCESS.format(argv=escape(daemon_file, deaf=True, then="pass")))
    pids = {pid_in(daemon_file), owner.said["pid"]}
    assert all(map(is_running, pids))
    owner.kill()

    eventually(lambda: not any(map(is_running, pids)))
    assert owner.cleaned().problems == ()


def test_a_daemon_of_a_program_that_has_ended_does_not_get_away(own: Own, daemon_file: Path, kind: str) -> None:
    """The owner is killed before it can settle what a crashed program has left."""
    owner = own(CODE.format(argv=escape(daemon_file, deaf=True), kind=kind, grace_s=0.5))
    daemon, program = pid_in(daemon_file), owner.said["pid"]
    owner.signal(signal.SIGSTOP)
    os.kill(program, signal.SIGKILL)
    eventually(lambda: not is_running(program))
    assert is_running(daemon)
    owner.kill()

    eventually(lambda: not is_running(daemon))


def test_nothing_gets_away_when_the_reaper_is_killed_too(own: Own, daemon_file: Path, kind: str) -> None:
    owner = own(CODE.format(argv=escape(daemon_file), kind=kind, grace_s=20))
    reaper = owner.reaper
    pids = {pid_in(daemon_file), owner.said["pid"], *family(owner)} - {reaper}
    owner.signal(signal.SIGSTOP)  # else it starts another one
    os.kill(reaper, signal.SIGKILL)
    owner.kill()
    eventually(lambda: not is_running(reaper))
    assert all(map(is_running, pids))
    (death,) = sweep(root=owner.root)

    assert not any(map(is_running, pids))
    assert [(end.name, end.outcome) for end in death.services] == [("it", "stopped")]
    assert death.problems == ()


def test_the_group_of_a_session_without_a_journal_goes_with_its_folder(daemon_file: Path) -> None:
    if problem := problem_with("cgroup"):
        pytest.skip(problem)
    folder = daemon_file.parent / f"autostop_lab-{os.getuid()}" / "session-0123456789"
    instance = folder / "it-0123456789"
    instance.mkdir(parents=True, mode=0o700)
    for each in (folder, folder.parent):
        each.chmod(0o700)
    group = Group.below_own(f"{os.environ[SESSION_VARIABLE]}/{folder.name}/{instance.name}")
    group.make()
    (instance / RECORD_NAME).write_text(str(group.path))
    os.utime(folder, (0, 0))
    sweep(root=folder.parent)

    assert not folder.exists()
    assert not group.path.exists()
