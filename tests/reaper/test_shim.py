"""The shim by itself; what a program that is launched through it is like is in test_containment.py."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from autostop_lab.reaper import shim

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are contained on Linux only")


def run(argv: list[str], block: bytes, *, group: str = "", keeps: str = "") -> tuple[int, str, str]:
    """Run the shim; return its exit status, its news and what it and the program have printed."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__, str(theirs.fileno()), group, keeps, *argv],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ours.sendall(block)
        ours.shutdown(socket.SHUT_WR)
        said, _ = process.communicate(timeout=30)
        news = b"".join(iter(lambda: ours.recv(1024), b""))
    return process.returncode, news.decode(), said.decode()


@pytest.mark.parametrize("block", [b"", b"A=1", b"A=1\0", b"A=1\0B", b"A=1\0B="])
@pytest.mark.parametrize("keeps", ["", "keeps"])
def test_an_environment_that_is_cut_off_launches_nothing(block: bytes, keeps: str) -> None:
    """Its owner was killed in the middle of a launch."""
    assert run(["/bin/sh", "-c", "echo launched"], block, keeps=keeps) == (127, "", "")


@pytest.mark.parametrize(
    ("block", "said"), [(b"\0", "\n"), (b"A=\0\0", "\n"), (b"A=1\0B=x=y\n\0\0", "1 x=y\n\n")]
)
def test_an_environment_arrives_as_it_is(block: bytes, said: str) -> None:
    status, news, printed = run(["/bin/sh", "-c", 'echo "${A:+$A }$B"'], block)

    assert (status, news, printed) == (0, "go 0\n", said)


@needs_linux
def test_one_that_stays_tells_of_the_program_s_life() -> None:
    status, news, printed = run(["/bin/sh", "-c", "echo $$; exit 3"], b"\0", keeps="keeps")

    assert (status, news) == (3, f"pid {printed.strip()}\nend 3\n")


@needs_linux
def test_one_that_stays_ends_after_all_that_it_adopts() -> None:
    code = "(sleep 0.3; echo orphan) & echo program"

    assert run(["/bin/sh", "-c", code], b"\0", keeps="keeps")[2] == "program\norphan\n"


def test_a_group_that_is_not_there_is_told() -> None:
    assert run(["/bin/true"], b"\0", group="/no/such/group")[:2] == (127, "group 2\n")


@pytest.mark.parametrize(("keeps", "news"), [("", "go 0\nexec 2\n"), ("keeps", "exec 2\n")])
def test_a_program_that_is_not_there_is_told(keeps: str, news: str) -> None:
    if keeps and sys.platform != "linux":
        pytest.skip("no process adopts orphans here")

    assert run(["no-such-program"], b"PATH=/bin\0\0", keeps=keeps)[:2] == (127, news)
