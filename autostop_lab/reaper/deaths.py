"""Records of cleanings, for whoever comes next: who died, where and why, and what was ended on its behalf.

They lie as small files in ``<temp>/autostop_lab-<uid>/deaths/``, the newest `KEPT` of them, for some days.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autostop_lab.reaper.cleaning import Cleaned
from autostop_lab.reaper.folders import DEATHS_NAME, make_private_under, private_problem, root_in
from autostop_lab.reaper.journal import JournalError, read_private, write_private
from autostop_lab.reaper.lease import Estate
from autostop_lab.reaper.timings import DEFAULT, Timings

#: So many records are kept.
KEPT = 50

#: What had happened to the owner of a session that was cleaned by somebody else; follows the words for the owner.
OWNER_DIED = "ended without closing"
BOTH_DIED = "ended without closing, and its reaper with it"
CLOSED = "closed and left the rest to its reaper"
REBOOTED = "was there before the machine was started anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceEnd:
    """How one service of a dead session has ended.

    Attributes
    ----------
    name : str
        Name of the service.
    pid : int or None
        Its program.
    outcome : str
        ``"stopped"``, ``"killed"``, ``"abandoned"`` or ``"gone already"``.
    seconds : float
        From the beginning of the cleaning until it was gone.
    """

    name: str
    pid: int | None
    outcome: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """The end of one session that its owner did not bring about, and what was done.

    Attributes
    ----------
    session_id : str
        The session.
    owner_pid : int
        Pid that its owner had.
    place : str
        Notebook or script that the owner came from.
    why : str
        What had happened, in words.
    died_at, cleaned_at : float
        When that was noticed, and when all was cleaned, in seconds since the epoch.
    services : tuple of ServiceEnd
        What was registered, and how it has ended.
    strays : tuple of ServiceEnd
        Processes that belonged to no service any more, or not yet.
    problems : tuple of str
        What could not be done, in words.
    is_told : bool
        Whether somebody has been told.
    """

    session_id: str
    owner_pid: int
    place: str
    why: str
    died_at: float
    cleaned_at: float
    services: tuple[ServiceEnd, ...] = ()
    strays: tuple[ServiceEnd, ...] = ()
    problems: tuple[str, ...] = ()
    is_told: bool = False


def default_root() -> Path:
    """Return the folder for all sessions of this user."""
    return root_in(tempfile.gettempdir())


def death_of(estate: Estate, cleaned: Cleaned, *, why: str, died_at: float) -> Death:
    """Return the record of a cleaning that has just ended."""
    services, strays = (
        tuple(ServiceEnd(name=e.name, pid=e.pid, outcome=str(e.outcome), seconds=e.seconds) for e in ends)
        for ends in (cleaned.ends, cleaned.strays)
    )
    return Death(
        session_id=estate.session_id,
        owner_pid=estate.owner.pid,
        place=estate.place,
        why=why,
        died_at=died_at,
        cleaned_at=time.time(),
        services=services,
        strays=strays,
        problems=tuple(cleaned.problems),
    )


def record(root: Path, death: Death, timings: Timings = DEFAULT) -> None:
    """Write a record, and drop those that are too old or too many."""
    folder = root / DEATHS_NAME
    make_private_under(root, folder)
    write_private(_path(root, death), json.dumps(asdict(death)))
    _prune(folder, timings)


def _path(root: Path, death: Death) -> Path:
    return root / DEATHS_NAME / f"{round(death.cleaned_at * 1000):015d}-{death.session_id}.json"


def _prune(folder: Path, timings: Timings) -> None:
    oldest = time.time() - timings.death_age_s
    for number, path in enumerate(sorted(folder.glob("*.json"), reverse=True)):
        with suppress(OSError):
            if number >= KEPT or path.lstat().st_mtime < oldest:
                path.unlink()


def deaths(since: float | None = None, *, root: Path | None = None) -> list[Death]:
    """Return the records that there are, oldest first.

    Parameters
    ----------
    since : float or None
        Only those that were cleaned later, in seconds since the epoch; None is all.
    root : Path or None
        The folder for all sessions; None is this user's.
    """
    found = list(_read_all(root or default_root()))
    return [death for death in found if since is None or death.cleaned_at > since]


def _read_all(root: Path) -> Iterator[Death]:
    folder = root / DEATHS_NAME
    with suppress(FileNotFoundError):
        if private_problem(root) is not None or private_problem(folder) is not None:
            return
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, JournalError, ValueError, TypeError, KeyError):  # another version's, say
                yield _death_of(json.loads(read_private(path)))


def _death_of(value: dict[str, Any]) -> Death:
    ends = {name: tuple(ServiceEnd(**each) for each in value[name]) for name in ("services", "strays")}
    return Death(**{**value, **ends, "problems": tuple(value["problems"])})


def untold(place: str, *, root: Path | None = None) -> list[Death]:
    """Return the records of a place that nobody has been told of, oldest first."""
    return [death for death in deaths(root=root) if death.place == place and not death.is_told]


def mark_told(told: Iterable[Death], *, root: Path | None = None) -> None:
    """Note that somebody has been told of these."""
    base = root or default_root()
    for death in told:
        path = _path(base, death)
        # On a full disk it is told twice.
        with suppress(OSError):
            if path.exists():  # else it was dropped in between
                write_private(path, json.dumps(asdict(replace(death, is_told=True))))
