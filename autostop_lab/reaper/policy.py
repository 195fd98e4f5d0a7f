"""Which signal goes to whom, and when is it over? Pure: what was seen and the time come in, signals come out.

The law: a service is asked to end when nothing that needs it is left; its whole group gets the polite signal, once
(programs take a second one for "at once"); what is left of it when its program has ended is asked one by one;
after its grace period everything of it is killed, again and again, until three looks in a row were empty; a shim
that adopts the program's orphans goes last, since without it they would be lost from sight. The whole has a cap,
which is never shorter than the grace periods in their order:
then whoever was not asked yet is asked, and soon all is killed. What carries the session's id and belongs to no
lease (a program that was launched but not yet registered) is asked at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGCONT, SIGKILL, SIGTERM

from autostop_lab.reaper.lease import Lease, identity
from autostop_lab.reaper.processes import Process
from autostop_lab.reaper.timings import Timings

#: Looks at a shim that is the last one left, and should have ended by itself, before it is killed.
LONE_LOOKS = 50


class Phase(StrEnum):
    """Where the end of one lease is."""

    WAITING = "waiting"  # for what needs it to be gone
    ASKED = "asked"
    KILLING = "killing"
    GONE = "gone"
    ABANDONED = "abandoned"


class Outcome(StrEnum):
    """How a service ended."""

    GONE_ALREADY = "gone already"
    STOPPED = "stopped"
    KILLED = "killed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Send:
    """An order to send signals, one after the other.

    Attributes
    ----------
    process : Process
        To whom.
    signals : tuple of int
        Which.
    to_group : bool
        Whether the whole process group that it leads gets them.
    """

    process: Process
    signals: tuple[int, ...]
    to_group: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look has found, living processes only.

    Attributes
    ----------
    members : mapping of str to collection of Process
        Who belongs to an instance, by its id.
    all : collection of Process
        Who belongs to the session.
    """

    members: Mapping[str, Collection[Process]]
    all: Collection[Process]


@dataclass(frozen=True, slots=True)
class End:
    """How one service, or what belonged to none, has ended.

    Attributes
    ----------
    name : str
        Name of the service.
    pid : int or None
        Its program.
    outcome : Outcome
        How.
    seconds : float
        From the beginning of the cleaning until it was gone.
    """

    name: str
    pid: int | None
    outcome: Outcome
    seconds: float

    @property
    def is_abandoned(self) -> bool:
        """Whether it is still there."""
        return self.outcome is Outcome.ABANDONED


@dataclass(eq=False)
class _Ending:
    """The end of one lease, or of what belongs to none."""

    lease: Lease
    phase: Phase = Phase.WAITING
    asked_at: float = 0.0
    ended_at: float = 0.0
    left: list[Process] = field(default_factory=list)
    asked: set[Process] = field(default_factory=set)
    killed: dict[Process, float] = field(default_factory=dict)
    everyone: set[Process] = field(default_factory=set)
    empty_looks: int = 0
    lone_looks: int = 0
    is_group_asked: bool = False
    was_asked_by_owner: bool = False

    @property
    def is_over(self) -> bool:
        return self.phase in (Phase.GONE, Phase.ABANDONED)

    @property
    def shim(self) -> Process | None:
        """The shim that stays as the program's parent, while that lives."""
        if self.lease.program_pid is None:
            return None
        return next((process for process in self.left if process.pid == self.lease.pid), None)

    @property
    def program(self) -> Process | None:
        """Its program, while that lives."""
        return next((process for process in self.left if process.pid == self.lease.group), None)

    def see(self, found: Collection[Process]) -> None:
        self.left = sorted(found, key=lambda process: process.pid)
        self.everyone.update(found)
        self.empty_looks = 0 if self.left else self.empty_looks + 1
        self.lone_looks = self.lone_looks + 1 if self.left == [self.shim] else 0
        if self.was_asked_by_owner and not self.is_group_asked:
            self._note_group_asked()

    def _note_group_asked(self) -> None:
        self.is_group_asked = True
        self.asked.update(process for process in self.left if process.group == self.lease.group)

    def ask(self) -> Iterable[Send]:
        """Ask its group, and when its program is gone those that are left; each once."""
        program = self.program
        if program is not None:
            if not self.is_group_asked:
                self._note_group_asked()
                yield Send(program, (self.lease.stop_signal, SIGCONT), to_group=program.group == program.pid)
            return
        for process in self.left:
            if process not in self.asked and process != self.shim:
                self.asked.add(process)
                yield Send(process, (SIGTERM, SIGCONT))

    def kill(self, now: float) -> Iterable[Send]:
        program, shim = self.program, self.shim
        group = program.pid if program is not None and program.group == program.pid else None
        if program is not None and group is not None:
            yield Send(program, (SIGKILL,), to_group=True)
        for process in self.left:
            if process == shim and self.lone_looks < LONE_LOOKS:
                continue  # it ends by itself when nobody is left that it could adopt
            self.killed.setdefault(process, now)
            if group is None or process.group != group:
                yield Send(process, (SIGKILL,))

    def is_stuck(self, now: float) -> bool:
        """Whether all that is left was killed long ago, and is there nevertheless."""
        never = now
        return all(now - self.killed.get(each, never) >= self.lease.kill_timeout_s for each in self.left)

    @property
    def outcome(self) -> Outcome:
        if self.phase is Phase.ABANDONED:
            return Outcome.ABANDONED
        if self.killed:
            return Outcome.KILLED
        return Outcome.STOPPED if self.everyone else Outcome.GONE_ALREADY


def _needed(leases: Iterable[Lease]) -> Callable[[Lease], bool]:
    """Return what tells whether any other of the leases needs a given one; counted once, for there may be many."""
    by_id: Counter[str] = Counter()
    by_name: Counter[tuple[str, str]] = Counter()
    for lease in leases:
        by_id.update(lease.depends_on)
        by_name.update((lease.scope, name) for name in lease.depends_on)

    def is_needed(lease: Lease) -> bool:
        own = lease.depends_on.count(lease.instance_id) + lease.depends_on.count(lease.name)
        return by_id[lease.instance_id] + by_name[lease.scope, lease.name] > own

    return is_needed


def longest_grace_s(leases: Collection[Lease]) -> float:
    """Return how long the grace periods last, in seconds, if all are used up: level by level, each its longest."""
    total_s, rest = 0.0, list(leases)
    while rest:
        needed = _needed(rest)
        # Those that wait for each other are asked together.
        level = [lease for lease in rest if not needed(lease)] or rest
        total_s += max(lease.stop_grace_s for lease in level)
        ids = {lease.instance_id for lease in level}
        rest = [lease for lease in rest if lease.instance_id not in ids]
    return total_s


class Plan:
    """The cleaning of one session.

    Parameters
    ----------
    leases : iterable of Lease
        What was registered.
    asked_at : mapping of str to float
        When the owner has asked a service to end, by instance id, on the same clock as `began`.
    began : float
        When the cleaning began, in seconds.
    timings : Timings
        How long what may take.
    """

    def __init__(
        self, leases: Iterable[Lease], *, asked_at: Mapping[str, float], began: float, timings: Timings
    ) -> None:
        self._began = began
        self._timings = timings
        self._endings = [_Ending(lease) for lease in leases]
        # What users gave their services to end is theirs, one after the other if it has to be.
        longer_s = max(longest_grace_s([ending.lease for ending in self._endings]) - timings.total_cap_s, 0.0)
        self._cap_at = began + timings.total_cap_s + longer_s
        self._give_up_at = began + timings.give_up_s + longer_s
        for ending in self._endings:
            if (at := asked_at.get(ending.lease.instance_id)) is not None:
                # A time that is to come would be a grace period without end.
                ending.phase, ending.asked_at, ending.was_asked_by_owner = Phase.ASKED, min(at, began), True
        grace_s = timings.stray_grace_s
        self._strays = _Ending(Lease(instance_id="", name="", kind="strays", stop_grace_s=grace_s))

    @property
    def give_up_at(self) -> float:
        """When what is still there is abandoned."""
        return self._give_up_at

    @property
    def is_done(self) -> bool:
        """Whether everything is gone or abandoned."""
        needed = self._timings.looks_needed
        are_strays_over = self._strays.is_over or self._strays.empty_looks >= needed
        return are_strays_over and all(ending.is_over for ending in self._endings)

    @property
    def is_empty(self) -> bool:
        """Whether the last look found nothing, and only has to be confirmed."""
        return not self._strays.left and not any(ending.left for ending in self._endings if not ending.is_over)

    @property
    def is_killing(self) -> bool:
        """Whether somebody has been killed and is still there."""
        return any(e.phase is Phase.KILLING and e.left for e in (*self._endings, self._strays))

    def killing(self) -> list[Lease]:
        """Return the leases of which everything that is left is being killed."""
        return [ending.lease for ending in self._endings if ending.phase is Phase.KILLING and ending.left]

    def asked_at(self) -> dict[str, float]:
        """Return when each service was asked to end that has been asked so far, by instance id."""
        return {e.lease.instance_id: e.asked_at for e in self._endings if e.is_group_asked or e.asked}

    def left(self) -> dict[str, set[Process]]:
        """Return who was part of each instance at the last look, by instance id: they stay part of it."""
        return {ending.lease.instance_id: set(ending.left) for ending in self._endings}

    def give_up(self, now: float) -> None:
        """Abandon all that is not known to be gone."""
        for ending in self._endings:
            if not ending.is_over:
                ending.phase, ending.ended_at = Phase.ABANDONED, now

    def step(self, seen: Seen, now: float) -> list[Send]:
        """Take in one look and return whom to signal.

        Parameters
        ----------
        seen : Seen
            What it found.
        now : float
            The time of the look, in seconds.

        Returns
        -------
        list of Send
            In the order in which they are to go out.
        """
        self._take_in(seen, now)
        sends: list[Send] = []
        self._begin_those_whose_turn_it_is(now)
        for ending in (*self._endings, self._strays):
            sends += self._work_on(ending, now)
        return sends

    def _take_in(self, seen: Seen, now: float) -> None:
        accounted: set[Process] = set()
        for ending in self._endings:
            found = seen.members.get(ending.lease.instance_id, ())
            if not ending.is_over:
                ending.see(found)
                if ending.empty_looks >= self._timings.looks_needed:
                    ending.phase, ending.ended_at = Phase.GONE, now
            if ending.phase is not Phase.GONE:
                accounted.update(found)
        if not self._strays.is_over:
            self._strays.see(set(seen.all) - accounted)

    def _begin_those_whose_turn_it_is(self, now: float) -> None:
        waiting = [ending for ending in self._endings if ending.phase is Phase.WAITING]
        rest = [ending for ending in self._endings if not ending.is_over]
        needed = _needed(ending.lease for ending in rest)
        ready = [ending for ending in waiting if not needed(ending.lease)]
        if now >= self._cap_at or (not ready and len(waiting) == len(rest)):
            ready = waiting  # the time is over, or each waits for another
        for ending in ready:
            ending.phase, ending.asked_at = Phase.ASKED, now
        if self._strays.phase is Phase.WAITING and self._strays.left:
            self._strays.phase, self._strays.asked_at = Phase.ASKED, now

    def _work_on(self, ending: _Ending, now: float) -> Iterable[Send]:
        if ending.phase is Phase.ASKED:
            if now < self._kill_at(ending):
                return list(ending.ask())
            if ending.left:
                ending.phase = Phase.KILLING
        if ending.phase is Phase.KILLING:
            if ending.left and (ending.is_stuck(now) or now >= self.give_up_at):
                ending.phase, ending.ended_at = Phase.ABANDONED, now
                return ()
            return list(ending.kill(now))
        return ()

    def _kill_at(self, ending: _Ending) -> float:
        return min(ending.asked_at + ending.lease.stop_grace_s, self._cap_at + self._timings.last_grace_s)

    def next_change_at(self) -> float:
        """Return when a grace period ends next, without anything being seen; infinity if none runs."""
        running = [self._kill_at(e) for e in (*self._endings, self._strays) if e.phase is Phase.ASKED and e.left]
        waits = any(ending.phase is Phase.WAITING for ending in self._endings)
        return min([*running, *([self._cap_at] if waits else [])], default=float("inf"))

    def ends(self) -> list[End]:
        """Return how each service has ended."""
        return [
            End(ending.lease.name, ending.lease.pid, ending.outcome, round(ending.ended_at - self._began, 3))
            for ending in self._endings
        ]

    def strays(self) -> list[End]:
        """Return what had to be ended and belonged to no service."""
        strays = self._strays
        return [
            End(
                "",
                process.pid,
                Outcome.ABANDONED
                if strays.phase is Phase.ABANDONED and process in strays.left
                else (Outcome.KILLED if process in strays.killed else Outcome.STOPPED),
                0.0,
            )
            for process in sorted(strays.everyone, key=lambda each: each.pid)
        ]


def leader_of(lease: Lease) -> Process | None:
    """Return the identity of a lease's program; None if it has none."""
    return identity(lease.pid, lease.started) if lease.pid is not None else None
