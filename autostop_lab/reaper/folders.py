"""The folders of sessions: ``<temp>/autostop_lab-<uid>/<session>/<instance>``, each open to this user alone."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

#: Where records of cleanings lie, beside the folders of sessions.
DEATHS_NAME = "deaths"

# The ten random digits make it certain that an id is ours: it never is an ordinary word of a path.
_ID = re.compile(r"[A-Za-z0-9_-]{0,32}-[0-9a-f]{10}")


class UnsafeFolderError(OSError):
    """The folder for sessions belongs to somebody else or is open to others."""


def is_id(text: object) -> bool:
    """Return whether `text` has the form of an id of a session or an instance."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def root_in(temp: str | os.PathLike[str]) -> Path:
    """Return the folder for all sessions of this user in a folder for temporary files."""
    return Path(temp) / f"autostop_lab-{os.getuid()}"


def short_folder(instance_id: str) -> Path:
    """Return where an instance keeps what needs a short path; it goes with the instance's folder."""
    return Path("/tmp", f"autostop_lab-{os.getuid()}-{instance_id}")


def private_problem(folder: Path) -> str | None:
    """Return in words why a folder is not one that only this user can enter; None if it is."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder"
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        return f"{folder} is not a folder that belongs to you alone (0700)"
    return None


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or check that it is one."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if (problem := private_problem(folder)) is not None:
        raise UnsafeFolderError(f"{problem}. Remove it, or set TMPDIR to another place.")


def make_private_under(root: Path, *folders: Path) -> None:
    """Make `root` and then `folders`, each within the one before it."""
    for attempt in range(10):
        try:
            for folder in (root, *folders):
                make_private(folder)
        except FileNotFoundError:  # another session of this user removed the empty root in between
            if attempt == 9:
                raise
        else:
            return


def remove_all(folder: Path) -> None:
    """Remove a folder with all in it, also what was made read-only; links in it are not followed."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        for parent, names, _ in os.walk(folder):
            for inner in (Path(parent, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder)
