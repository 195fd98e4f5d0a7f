"""Services in processes of their own when their owner is killed: they stop and clean, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from autostop_lab.reaper.folders import root_in
from autostop_lab.reaper.sweep import sweep
from tests.reaper.owners import Owner, eventually, is_running

Own = Callable[..., Owner]

SERVICE = """
sys.path.insert(0, {root!r})
from tests.services.hosted_services import Diary, Worker
policy = ServicePolicy(stop_timeout_s=0.5, cleanup_timeout_s=1)
env = LocalEnvironment("owner")
handle = env.register_service("it", Diary, Path({diary!r}), runtime="process", policy=policy, **{acts!r})
worker = env.register_service("worker", Worker, runtime="process", policy=policy)
env.start()
pids = [handle.health().details["pid"], worker.health().details["pid"], worker.start_child("spawn"),
        worker.start_child("stubborn")]
say(pids=pids, workdir=str(handle.touch()))
"""
ROOT = str(Path(__file__).parents[2])


@pytest.mark.slow
@pytest.mark.parametrize("acts", [{}, {"stop": "hang"}], ids=["obeys", "hangs"])
def test_it_stops_and_cleans_when_its_owner_is_killed(own: Own, tmp_path: Path, acts: dict[str, str]) -> None:
    diary = tmp_path / "diary"
    owner = own(SERVICE.format(root=ROOT, diary=str(diary), acts=acts))
    pids, workdir = owner.said["pids"], Path(owner.said["workdir"])
    assert all(map(is_running, pids))
    assert workdir.exists()
    reaper = owner.reaper
    owner.kill()

    eventually(lambda: not any(map(is_running, pids)))
    eventually(lambda: not is_running(reaper), "the reaper goes on")
    assert diary.read_text().split() == ["init", "start", "stop", "cleanup"]
    assert [path.name for path in owner.root.iterdir()] == ["deaths"]


FAR = """
sys.path.insert(0, {root!r})
from tests.services.hosted_services import Worker
from autostop_lab.services.switchboard import switchboard
env = LocalEnvironment("owner")
worker = env.register_service("worker", Worker, runtime="process")
env.start()
say(pid=worker.pid(), address=switchboard().address)
"""


@pytest.mark.slow
@pytest.mark.parametrize("cleaner", ["reaper", "sweep", "owner"])
def test_a_socket_whose_own_place_has_too_long_a_path_goes_too(own: Own, tmp_path: Path, cleaner: str) -> None:
    temp = tmp_path / ("x" * 100)
    temp.mkdir()
    owner = own(FAR.format(root=ROOT), TMPDIR=str(temp))
    socket, pid = Path(owner.said["address"]), owner.said["pid"]
    assert socket.is_socket()
    assert temp not in socket.parents
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    if cleaner == "sweep":
        reaper = owner.reaper
        owner.signal(signal.SIGSTOP)  # else it starts another one
        os.kill(reaper, signal.SIGKILL)
        eventually(lambda: not is_running(reaper))
    if cleaner == "owner":
        assert owner.end() == 0
    else:
        owner.kill()
    if cleaner == "sweep":
        sweep(root=root_in(temp))

    eventually(lambda: not is_running(pid))
    eventually(lambda: not list(root_in(temp).glob("session-*")), "a reaper goes on")
    assert not socket.parent.exists()
