"""Cleans sessions whose owner and reaper are both dead, by their journals; and says which sessions there are.

A session with a living owner is never touched. The lock keeps two sweepers from cleaning one session twice.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autostop_lab.reaper import journal
from autostop_lab.reaper.cleaning import Cleaned, clean, drop_refused, remove_instances
from autostop_lab.reaper.deaths import BOTH_DIED, REBOOTED, Death, death_of, default_root, record
from autostop_lab.reaper.folders import is_id, private_problem, remove_all
from autostop_lab.reaper.journal import JournalError, SessionLock, is_of_this_boot
from autostop_lab.reaper.lease import Estate, Lease
from autostop_lab.reaper.policy import End, Outcome
from autostop_lab.reaper.processes import find_owned, is_alive, process, send_signal
from autostop_lab.reaper.timings import DEFAULT, Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSeen:
    """A session that is on disk.

    Attributes
    ----------
    session_id : str
        Its id.
    owner_pid : int or None
        Pid of its owner; None where there is no journal to say it.
    is_alive : bool
        Whether that owner lives.
    is_being_cleaned : bool
        Whether somebody is cleaning it.
    place : str
        Notebook or script that the owner came from.
    services : tuple of Lease
        What is registered.
    problem : str
        Why its journal is not believed; "" if it is.
    """

    session_id: str
    owner_pid: int | None = None
    is_alive: bool = False
    is_being_cleaned: bool = False
    place: str = ""
    services: tuple[Lease, ...] = ()
    problem: str = ""


# Within one process the lock of a session keeps nobody out, and whoever closes its file lets go of it for all.
_one_at_a_time = threading.Lock()


def _session_folders(root: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        if private_problem(root) is None:
            return [path for path in sorted(root.iterdir()) if is_id(path.name)]
    return []


def sessions(*, root: Path | None = None) -> list[SessionSeen]:
    """Return the sessions of this user that are on disk, whoever runs them."""
    return [_seen(folder) for folder in _session_folders(root or default_root())]


def _seen(folder: Path) -> SessionSeen:
    try:
        estate = journal.read(folder)
    except FileNotFoundError:
        return SessionSeen(session_id=folder.name)
    except JournalError as error:
        return SessionSeen(session_id=folder.name, problem=str(error))
    owner_lives = _owner_lives(estate)
    return SessionSeen(
        session_id=folder.name,
        owner_pid=estate.owner.pid,
        is_alive=owner_lives,
        is_being_cleaned=not owner_lives and _is_locked(folder),
        place=estate.place,
        services=tuple(estate.leases.values()),
    )


def _owner_lives(estate: Estate) -> bool:
    return is_of_this_boot(estate) and is_alive(estate.owner)


def _is_locked(folder: Path) -> bool:
    if not _one_at_a_time.acquire(blocking=False):
        return True  # this very process sweeps
    lock = SessionLock(folder)
    try:
        if lock.take(create=False):
            return False
        holder = lock.holder()
        return holder is None or not holder.is_stopped
    except OSError:
        return False
    finally:
        lock.release()
        _one_at_a_time.release()


def sweep(*, root: Path | None = None, spare: frozenset[str] = frozenset(), timings: Timings = DEFAULT) -> list[Death]:
    """Clean the sessions that nobody else can clean any more.

    Parameters
    ----------
    root : Path or None
        The folder for all sessions; None is this user's.
    spare : frozenset of str
        Ids of sessions to leave alone: a reaper must not look at its own lock.
    timings : Timings
        How long what may take.

    Returns
    -------
    list of Death
        What was cleaned, and what could not be, in words. They are recorded as well.
    """
    base = root or default_root()
    done = []
    with _one_at_a_time:
        for folder in _session_folders(base):
            if folder.name in spare:
                continue
            with suppress(OSError):  # its own reaper, or another sweeper, was faster
                if (death := _sweep_one(folder, timings)) is not None:
                    done.append(death)
                    record(base, death, timings)
    return done


def _sweep_one(folder: Path, timings: Timings) -> Death | None:
    if private_problem(folder) is not None:
        return None
    if not os.path.lexists(folder / journal.JOURNAL_NAME):
        _remove_unmarked(folder, timings)
        return None
    lock = SessionLock(folder)
    try:
        if not lock.take() and not _take_from_suspended(lock, folder, timings):
            return None  # its reaper lives, or another sweeper cleans it
        estate = journal.read(folder)
        return None if _owner_lives(estate) else _clean(estate, timings)
    except JournalError as error:
        journal.set_aside(folder)
        return _distrusted(folder, str(error))
    finally:
        lock.release()


def _take_from_suspended(lock: SessionLock, folder: Path, timings: Timings) -> bool:
    """Wake up whoever holds a lock and is suspended, though the owner is dead; return whether the lock is ours now.

    One that stays suspended would hold it for ever, and is killed.
    """
    holder = None if _owner_lives(journal.read(folder)) else lock.holder()
    if holder is None or not holder.is_stopped or not send_signal(holder, signal.SIGCONT):
        return False
    until = time.monotonic() + timings.lock_timeout_s
    while (now := process(holder.pid)) is not None and now == holder and now.is_stopped:
        if time.monotonic() > until:
            send_signal(holder, signal.SIGKILL)
            return lock.take(timeout_s=timings.lock_timeout_s)
        time.sleep(timings.wait_pause_s)
    return False  # it goes on by itself


def _clean(estate: Estate, timings: Timings) -> Death:
    died_at = time.time()
    why = BOTH_DIED
    refused = []
    if is_of_this_boot(estate):
        refused = drop_refused(estate)
        cleaned = clean(estate, timings, book=journal.Journal(estate))
    else:
        why = REBOOTED
        ends = [End(each.name, each.pid, Outcome.GONE_ALREADY, 0.0) for each in estate.leases.values()]
        cleaned = Cleaned(ends, [], remove_instances(estate.folder))
    cleaned.problems.extend(refused)
    if cleaned.is_complete:
        try:
            remove_all(estate.folder)
        except OSError as error:
            cleaned.problems.append(f"folder {estate.folder} could not be removed: {error}")
    return death_of(estate, cleaned, why=why, died_at=died_at)


def _distrusted(folder: Path, problem: str) -> Death:
    now = time.time()
    return Death(
        session_id=folder.name,
        owner_pid=0,
        place="",
        why="left a journal that cannot be believed, so nothing was ended or removed",
        died_at=now,
        cleaned_at=now,
        problems=(f"{problem}. It was renamed {journal.SET_ASIDE_NAME}",),
    )


def _remove_unmarked(folder: Path, timings: Timings) -> None:
    """Remove the folder of a session that has no journal, if it is old and nothing of the session lives."""
    is_set_aside = os.path.lexists(folder / journal.SET_ASIDE_NAME)
    age_s = time.time() - folder.lstat().st_mtime
    if age_s <= (timings.set_aside_age_s if is_set_aside else timings.unmarked_age_s):
        return
    lock = SessionLock(folder)
    try:
        # A reaper that lives will write its journal anew.
        if lock.take() and not find_owned(frozenset({folder.name}), since=""):
            with suppress(OSError):
                remove_instances(folder)
                remove_all(folder)
    finally:
        lock.release()
