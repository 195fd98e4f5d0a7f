"""Leases and estates for tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from autostop_lab.reaper.folders import make_private_under, root_in
from autostop_lab.reaper.journal import Journal
from autostop_lab.reaper.lease import Estate, Lease
from autostop_lab.reaper.processes import Process, boot_id, process

SESSION_ID = "session-0123456789"


def owner_gone() -> Process:
    """Return the identity of a process that there never was."""
    return Process(os.getpid(), "1", parent_pid=1, group=1, session=1, is_zombie=False)


def estate_in(temp: Path, session_id: str = SESSION_ID, **values: Any) -> Estate:
    """Return the estate of a session whose owner is gone, with its folder."""
    folder = root_in(temp) / session_id
    make_private_under(folder.parent, folder)
    options: dict[str, Any] = {"owner": owner_gone(), "boot_id": boot_id(), "place": "a notebook", **values}
    return Estate(session_id=session_id, path=session_id, folder=folder, **options)


def lease_of(estate: Estate, name: str = "store", number: int = 1, **values: Any) -> Lease:
    """Return a lease that fits an estate; it has a folder only."""
    instance_id = f"{name}-{number:010x}"
    folder = str(estate.folder / instance_id)
    return Lease(**{"instance_id": instance_id, "name": name, "kind": "command", "folder": folder, **values})


def lease_of_program(estate: Estate, pid: int, name: str = "store", **values: Any) -> Lease:
    """Return the lease of a program that runs."""
    seen = process(pid)
    assert seen is not None
    return lease_of(estate, name, pid=pid, started=seen.started, **values)


def write(estate: Estate, *leases: Lease) -> Path:
    """Write the journal of an estate with these leases; return its folder."""
    journal = Journal(estate)
    for lease in leases:
        estate.leases[lease.instance_id] = lease
        journal.note(lease.instance_id)
        Path(lease.folder or estate.folder).mkdir(exist_ok=True, mode=0o700)
    journal.write()
    return estate.folder
