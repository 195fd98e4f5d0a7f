from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autostop_lab.reaper import session as module
from autostop_lab.reaper.processes import MARKER_NAME, SESSION_VARIABLE
from autostop_lab.reaper.session import Session, UnsafeFolderError, current_session
from tests.reaper.forking import in_fork

# Since Python 3.12 it warns of a fork beside threads; here it is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def session(temp: Path) -> Session:
    return Session()


def root(temp: Path) -> Path:
    return temp / f"autostop_lab-{os.getuid()}"


# -- ids ---------------------------------------------------------------------------------------------------


def test_ids_are_readable_and_never_twice_the_same(session: Session) -> None:
    ids = {session.new_instance("my store/ü").id for _ in range(100)}

    assert len(ids) == 100
    assert all(name.startswith("my_store_-") and "/" not in name and name.isascii() for name in ids)
    assert len(session.new_instance("x" * 1000).id) < 60


def test_a_process_carries_the_path_of_all_that_it_lives_in(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SESSION_VARIABLE, raising=False)
    outer = Session()
    instance = outer.new_instance("kernel")
    assert instance.environment == {SESSION_VARIABLE: f"{outer.id}/{instance.id}"}
    monkeypatch.setenv(SESSION_VARIABLE, instance.environment[SESSION_VARIABLE])
    inner = Session()

    assert inner.path == f"{outer.id}/{instance.id}/{inner.id}"


def test_a_process_has_one_session() -> None:
    assert current_session() is current_session()


def test_a_forked_child_gets_a_session_of_its_own() -> None:
    mine = current_session().id

    assert in_fork(lambda: current_session().id != mine) == "True"
    assert in_fork(lambda: current_session() is current_session()) == "True"


def test_a_fork_while_a_session_is_being_made_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    making, door = threading.Event(), threading.Event()

    class Slow(Session):
        def __init__(self) -> None:
            making.set()
            door.wait(0.05)
            super().__init__()

    monkeypatch.setattr(module, "_current", None)
    monkeypatch.setattr(module, "Session", Slow)
    thread = threading.Thread(target=current_session)
    thread.start()
    making.wait()
    said = in_fork(lambda: bool(current_session().id))
    thread.join()

    assert said == "True"


# -- folders -----------------------------------------------------------------------------------------------


def test_nothing_is_made_before_it_is_needed(session: Session, temp: Path) -> None:
    instance = session.new_instance("store")
    instance.remove()

    assert list(temp.iterdir()) == []


def test_all_folders_are_private(session: Session, temp: Path) -> None:
    former = os.umask(0)
    try:
        workdir = session.new_instance("store").workdir
    finally:
        os.umask(former)

    for folder in (workdir, *workdir.parents):
        if folder == temp:
            break
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.getuid()
    assert workdir.is_relative_to(root(temp) / session.id)


def test_the_workdir_is_the_same_each_time(session: Session) -> None:
    instance = session.new_instance("store")

    assert instance.workdir == instance.workdir


def test_folders_go_with_the_last_that_needs_them(session: Session, temp: Path) -> None:
    first, second = session.new_instance("a"), session.new_instance("b")
    (first.workdir / "file").write_text("x")
    assert second.workdir.is_dir()
    first.remove()
    assert not first.folder.exists()
    assert second.workdir.is_dir()
    second.remove()
    second.remove()

    assert list(temp.iterdir()) == []


def test_the_root_stays_while_another_session_uses_it(session: Session, temp: Path) -> None:
    other = Session().new_instance("b")
    mine = session.new_instance("a")
    assert other.workdir.is_dir()
    assert mine.workdir.is_dir()
    mine.remove()

    assert other.workdir.is_dir()
    other.remove()


def test_an_instance_that_is_over_makes_no_new_folder(session: Session, temp: Path) -> None:
    instance = session.new_instance("a")
    assert instance.workdir.is_dir()
    instance.remove()

    with pytest.raises(FileNotFoundError, match="over"):
        _ = instance.workdir
    assert list(temp.iterdir()) == []


def test_what_is_in_the_folder_goes_but_not_what_links_point_to(session: Session, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    kept.chmod(0o500)
    instance = session.new_instance("a")
    (instance.workdir / "link").symlink_to(kept)
    (instance.workdir / "deep" / "er").mkdir(parents=True)
    instance.remove()

    assert (kept / "file").read_text() == "x"
    assert kept.stat().st_mode & 0o777 == 0o500
    kept.chmod(0o700)


def test_a_folder_that_was_made_read_only_goes_too(session: Session) -> None:
    instance = session.new_instance("a")
    inner = instance.workdir / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0o000)
    inner.parent.chmod(0o500)

    def without_privileges() -> bool:
        if os.getuid() == 0 and sys.platform == "linux":  # root may write anywhere, unless it gives that up
            version_3, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert ctypes.CDLL(None).capset(version_3, none) == 0
        session.pid = os.getpid()
        instance.remove()
        return instance.folder.exists()

    assert in_fork(without_privileges) == "False"


def test_a_folder_that_cannot_be_removed_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = session.new_instance("a")
    (instance.workdir / "file").write_text("x")

    def fail(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "it is pinned")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises(PermissionError, match="it is pinned"):
            instance.remove()


def test_a_forked_child_removes_nothing_of_its_parent(session: Session) -> None:
    instance = session.new_instance("a")
    workdir = instance.workdir
    in_fork(instance.remove)

    assert workdir.is_dir()
    instance.remove()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_root_that_is_open_to_others_is_refused(session: Session, temp: Path, mode: int) -> None:
    root(temp).mkdir()
    root(temp).chmod(mode)

    with pytest.raises(UnsafeFolderError, match=r"does not belong|belongs to you alone \(0700\).*set TMPDIR"):
        _ = session.new_instance("a").workdir


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_root_of_somebody_else_is_refused(session: Session, temp: Path) -> None:
    root(temp).mkdir(mode=0o700)
    os.chown(root(temp), 65534, 65534)

    with pytest.raises(UnsafeFolderError, match=str(root(temp))):
        session.new_instance("a").open_marker()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_root_that_is_no_folder_is_refused(session: Session, temp: Path, kind: str) -> None:
    elsewhere = temp / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if kind == "link":
        root(temp).symlink_to(elsewhere)
    else:
        root(temp).write_text("x")

    with pytest.raises(UnsafeFolderError):
        _ = session.new_instance("a").workdir
    assert list(elsewhere.iterdir()) == []


def test_folders_are_made_while_other_sessions_remove_the_empty_root(temp: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                instance = Session().new_instance("a")
                assert instance.workdir.is_dir()
                instance.remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    stop.wait(0.3)
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert list(temp.iterdir()) == []


# -- the marker --------------------------------------------------------------------------------------------


@pytest.fixture
def marker(session: Session) -> Iterator[int]:
    instance = session.new_instance("store")
    descriptor = instance.open_marker()
    yield descriptor
    instance.close_marker(descriptor)
    instance.remove()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_marker_is_a_private_file_that_no_program_inherits_by_accident(session: Session, marker: int) -> None:
    path = Path(os.readlink(f"/proc/self/fd/{marker}")) if os.path.isdir("/proc/self/fd") else None

    assert not os.get_inheritable(marker)
    assert os.fstat(marker).st_mode & 0o777 == 0o600
    if path is not None:
        assert path.name == MARKER_NAME
        assert path.parent.name.startswith("store-")


def test_a_session_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/job.py", raising=False)
    session = Session()
    monkeypatch.delattr(sys.modules["__main__"], "__file__")  # as the interpreter does before it calls what is left

    assert session.place == "/x/job.py"


def test_a_fork_in_the_moment_of_an_open_marker_does_not_carry_it_on(marker: int) -> None:
    assert is_open(marker)
    assert in_fork(lambda: is_open(marker)) == "False"
    assert is_open(marker)


def test_a_fork_closes_nothing_else(session: Session) -> None:
    instance = session.new_instance("store")
    descriptor = instance.open_marker()
    instance.close_marker(descriptor)
    instance.remove()
    with open(os.devnull) as other:  # most probably it has got the marker's number
        assert in_fork(lambda: is_open(other.fileno())) == "True"


def test_forks_while_markers_come_and_go_carry_none(session: Session) -> None:
    stop = threading.Event()
    instance = session.new_instance("store")

    def open_and_close() -> None:
        while not stop.is_set():
            instance.close_marker(instance.open_marker())

    def markers() -> list[str]:
        names = [os.path.realpath(f"/dev/fd/{number}") for number in range(3, 64) if is_open(number)]
        return [name for name in names if name.endswith("/" + MARKER_NAME)]

    threads = [threading.Thread(target=open_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = {in_fork(markers) for _ in range(50)}
    stop.set()
    for thread in threads:
        thread.join()
    instance.remove()

    assert found == {"[]"}
