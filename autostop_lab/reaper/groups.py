"""Control groups (cgroup v2): where one can be made, a process in it can neither leave it nor hide what it is.

Each contained program gets a group below our own. The name of the group holds the ids that its processes carry
otherwise in their environment, so that whoever sweeps finds its members by ``/proc/PID/cgroup`` alone, in this life
or the next. A group outlives its members: its path is written into the instance's folder before it is made, so
that whoever removes the folder can remove the group.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: How names of our groups begin, and what stands between the ids in them.
PREFIX, SEPARATOR = "autostop_lab.", "."
#: Name of the file in an instance's folder that holds the path of its group.
RECORD_NAME = "group"
#: Longest wait for a group whose last member has just ended to let itself be removed, in seconds.
REMOVE_TIMEOUT_S = 1.0

_LONGEST_NAME = 200
_ID = re.compile(r"[A-Za-z0-9_-]+")


class NoGroupError(Exception):
    """No group can be made below that of this process; the text says why."""


def group_name(path_of_ids: str) -> str:
    """Return the name of the group of those that carry ``outer/inner``; the outermost ids go where it gets too long."""
    ids = [found for found in path_of_ids.split("/") if _ID.fullmatch(found)]
    while len(name := PREFIX + SEPARATOR.join(ids)) > _LONGEST_NAME:
        del ids[0]
    return name


def ids_in_group_of(pid: int) -> Iterator[str]:
    """Yield the ids in the names of the groups that a process is in."""
    try:
        path = path_in(Path(f"/proc/{pid}/cgroup").read_bytes())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for name in (path or "").split("/"):
        if name.startswith(PREFIX):
            yield from name.removeprefix(PREFIX).removesuffix(" (deleted)").split(SEPARATOR)


def path_in(groups: bytes) -> str | None:
    """Return the path of a process's group from its ``/proc/PID/cgroup``; None if it names those of v1 only."""
    paths = [line[3:] for line in groups.split(b"\n") if line.startswith(b"0::")]
    return os.fsdecode(paths[0]) if paths else None


def own_group() -> Path:
    """Return the folder of the group that this process is in; raises `NoGroupError`."""
    try:
        mounts, groups = (Path("/proc/self", name).read_bytes() for name in ("mountinfo", "cgroup"))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise NoGroupError(f"control groups are a matter of Linux with /proc ({error.strerror})") from error
    return folder_of_group(os.fsdecode(mounts), path_in(groups))


def folder_of_group(mounts: str, path: str | None) -> Path:
    """Return where a group is found on disk.

    Parameters
    ----------
    mounts : str
        What ``/proc/self/mountinfo`` says.
    path : str or None
        Of the group, from the root of all groups that this process knows of.

    Raises
    ------
    NoGroupError
        It cannot be seen.
    """
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and path is not None:
            root, place = (Path(_unescaped(text)) for text in before.split(" ")[3:5])
            # Else this mount, or all that this process may see, is another part of the tree.
            if Path(path).is_relative_to(root) and ".." not in Path(path).parts:
                return place / Path(path).relative_to(root)
    raise NoGroupError("no cgroup v2 file system is mounted that shows the group of this process")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def leave_groups_of_ours() -> None:
    """Move this process to where the outermost of our groups that it is in was made, if it may.

    A reaper whose owner is a contained program of another session does so: it has to outlive its owner.
    """
    with suppress(NoGroupError, OSError):
        own = own_group()
        ours = [folder for folder in (own, *own.parents) if folder.name.startswith(PREFIX)]
        if ours:
            (ours[-1].parent / "cgroup.procs").write_text(str(os.getpid()))


class Group:
    """A group of ours.

    Parameters
    ----------
    path : Path
        Its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def below_own(cls, path_of_ids: str) -> Group:
        """Return the group, not made yet, of those that carry ``outer/inner``; raises `NoGroupError`."""
        return cls(own_group() / group_name(path_of_ids))

    def make(self) -> None:
        """Make it, unless it is there; raises `NoGroupError` where no more may be made, `OSError` where none."""
        try:
            self.path.mkdir(mode=0o755)
        except FileExistsError:
            pass
        except BlockingIOError:
            limits = "cgroup.max.descendants and cgroup.max.depth, here or further up, say how many"
            raise NoGroupError(f"no more control groups may be made below {self.path.parent}: {limits}") from None

    def take_in(self, pid: int) -> None:
        """Move a process into it, with what it starts from then on; raises `OSError`."""
        descriptor = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        try:
            os.write(descriptor, str(pid).encode())
        finally:
            os.close(descriptor)

    def pids(self) -> frozenset[int]:
        """Return the pids of its members, those of groups within it aside."""
        return frozenset(map(int, (self.path / "cgroup.procs").read_text().split()))

    def kill(self) -> bool:
        """Kill all that is in it and in groups within it, at once; return whether this machine can (Linux 5.14)."""
        try:
            # Never made anew: in a place that is no group, a file of this name would mean nothing.
            descriptor = os.open(self.path / "cgroup.kill", os.O_WRONLY)
        except OSError:
            return False
        try:
            os.write(descriptor, b"1")
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def remove(self) -> bool:
        """Remove it and the groups within it; return whether it is gone. What has a living member stays."""
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while True:
            for folder, _, _ in os.walk(self.path, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
            if not self.path.exists():
                return True
            if self._has_members() or time.monotonic() > deadline:
                return False
            time.sleep(0.005)

    def _has_members(self) -> bool:
        with suppress(OSError):
            return "populated 1" in (self.path / "cgroup.events").read_text()
        return False


def recorded_group(folder: Path) -> Group | None:
    """Return the group that was recorded in an instance's folder, None if there is none or it is not ours to touch."""
    try:
        path = Path((folder / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return None
    ids = path.name.removeprefix(PREFIX).split(SEPARATOR)
    is_ours = path.is_absolute() and path.name.startswith(PREFIX) and ids[-1] == folder.name
    return Group(path) if is_ours else None
