"""The thin loop that carries out a `Plan`: looks at processes, sends signals, waits. Reaper and sweep share it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autostop_lab.reaper.folders import is_id, private_problem, remove_all, short_folder
from autostop_lab.reaper.groups import recorded_group
from autostop_lab.reaper.journal import Journal
from autostop_lab.reaper.lease import MAX_PID, Estate, lease_problem
from autostop_lab.reaper.policy import End, Plan, Seen, Send, leader_of
from autostop_lab.reaper.processes import Process, find_owned, is_alive, process, send_signal
from autostop_lab.reaper.timings import Timings


@dataclass(frozen=True)
class Cleaned:
    """What a cleaning has done.

    Attributes
    ----------
    ends : list of End
        How each service has ended.
    strays : list of End
        What else of the session had to be ended.
    problems : list of str
        What could not be removed, in words.
    """

    ends: list[End]
    strays: list[End]
    problems: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was abandoned."""
        return not any(end.is_abandoned for end in (*self.ends, *self.strays))


def clean(
    estate: Estate, timings: Timings, wait: Callable[[float], None] = time.sleep, *, book: Journal | None = None
) -> Cleaned:
    """End every process of a session, in order, and remove the folders of its instances.

    Parameters
    ----------
    estate : Estate
        What is to be ended; its session and leases have been checked.
    timings : Timings
        How long what may take.
    wait : callable
        Waits so many seconds; the reaper drains the output of programs meanwhile.
    book : Journal or None
        Where it is noted who was asked to end. Should this process be killed on the way, whoever goes on must not
        ask again.

    Returns
    -------
    Cleaned
        How everything has ended.
    """
    plan = Plan(estate.leases.values(), asked_at=estate.asked_at, began=time.monotonic(), timings=timings)
    # In a control group those are killed too that were born since the look.
    groups = {i: recorded_group(Path(lease.folder)) for i, lease in estate.leases.items() if lease.folder is not None}
    pause_s = timings.wait_pause_s
    undelivered: list[Send] = []
    while True:
        began = time.monotonic()
        try:
            seen = look(estate, plan)
        except OSError:  # no descriptor left, say: what cannot be seen is not gone
            seen = None
        if seen is not None:
            orders = [*undelivered, *plan.step(seen, time.monotonic())]
            undelivered = [left for order in orders if (left := deliver(order)) is not None]
            for lease in plan.killing():
                if (group := groups.get(lease.instance_id)) is not None:
                    group.kill()
            if book is not None:
                _note_asked(estate, plan, book)
            if plan.is_done:
                break
        elif began >= plan.give_up_at:
            plan.give_up(began)
            break
        now = time.monotonic()
        if seen is not None and (plan.is_empty or plan.is_killing):
            wait(timings.confirm_pause_s)
        else:
            wait(max(min(pause_s, plan.next_change_at() - now), (now - began) * timings.pause_per_look))
            pause_s = min(pause_s * 1.5, timings.longest_wait_pause_s)
    ends = plan.ends()
    kept = {lease.instance_id for lease, end in zip(estate.leases.values(), ends, strict=True) if end.is_abandoned}
    return Cleaned(ends, plan.strays(), remove_instances(estate.folder, kept))


def _note_asked(estate: Estate, plan: Plan, book: Journal) -> None:
    fresh = plan.asked_at().keys() - estate.asked_at.keys()
    if fresh:
        estate.asked_at.update(plan.asked_at())
        for instance_id in fresh:
            book.note(instance_id)
        with suppress(OSError):  # it is a note for a case that hardly ever comes
            book.write()


def remove_instances(session_folder: Path, kept: Collection[str] = ()) -> list[str]:
    """Remove the folders of a session's instances, and the control groups that are recorded there.

    Parameters
    ----------
    session_folder : Path
        The session's folder.
    kept : collection of str
        Ids of instances whose folders stay.

    Returns
    -------
    list of str
        What could not be removed, in words.
    """
    problems = []
    for folder in session_folder.iterdir() if session_folder.is_dir() else ():
        if is_id(folder.name) and folder.name not in kept and not folder.is_symlink():
            if (group := recorded_group(folder)) is not None and not group.remove():
                problems.append(f"control group {group.path} could not be removed")
            try:
                _remove_short_folder(folder.name)
                remove_all(folder)
            except OSError as error:
                problems.append(f"folder {folder} could not be removed: {error}")
    return problems


def _remove_short_folder(instance_id: str) -> None:
    folder = short_folder(instance_id)
    if os.path.lexists(folder) and private_problem(folder) is None:
        remove_all(folder)


def look(estate: Estate, plan: Plan) -> Seen:
    """Look once at who belongs to the session, by any sign."""
    leases, left = estate.leases.values(), plan.left()
    found = find_owned(
        frozenset({estate.session_id, *estate.leases}),
        since=estate.owner.started,
        sessions=frozenset(number for lease in leases for number in (lease.pid, lease.program_pid) if number),
    )
    everyone = set(found.get(estate.session_id, ()))
    members: dict[str, set[Process]] = {}
    for lease in leases:
        leader, known = leader_of(lease), left[lease.instance_id]
        mine = set(found.get(lease.instance_id, ()))
        mine.update(each for each in found.get(str(lease.pid), ()) if each == leader)  # as it is now, with its group
        for number in (lease.pid, lease.program_pid):
            in_session = found.get(str(number), [])
            # The session's number is its own only while somebody is in it who is known by another sign.
            if any(each in mine or each in known for each in in_session if each.session == number):
                mine.update(in_session)
        for each in {*known, *([leader] if leader is not None else [])} - mine:
            now = process(each.pid)
            if now is not None and now == each and not now.is_zombie:
                mine.add(now)
        mine.discard(estate.owner)
        members[lease.instance_id] = mine
        everyone |= mine
    everyone.discard(estate.owner)
    return Seen(members, everyone)


def drop_refused(estate: Estate) -> list[str]:
    """Take back what a lease may not have: a pid that is somebody else's by now, a folder that is not its own."""
    me = process(os.getpid())
    assert me is not None
    problems = []
    for instance_id, lease in list(estate.leases.items()):
        seen = process(lease.pid) if lease.pid is not None and 1 < lease.pid < MAX_PID else None
        if seen is not None and seen.started != lease.started:
            seen = None  # it has ended, and another has its pid: what it left is found by its id
        if (problem := lease_problem(lease, estate, me=me, owner=estate.owner, seen=seen)) is not None:
            del estate.leases[instance_id]
            problems.append(f"the lease of service {lease.name!r} was refused: {problem}")
    return problems


def deliver(order: Send) -> Send | None:
    """Send the signals of an order, to this very process or the group that it leads.

    Returns
    -------
    Send or None
        What of it could not be sent just now, since no descriptor is left, say; None if nothing.
    """
    for done, number in enumerate(order.signals):
        try:
            _deliver_one(order, number)
        except OSError:
            return replace(order, signals=order.signals[done:])
    return None


def _deliver_one(order: Send, number: int) -> None:
    if not order.to_group:
        send_signal(order.process, number)
    elif order.process.pid > 1 and is_alive(order.process):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(order.process.pid, number)
