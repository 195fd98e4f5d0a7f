"""What is said of sessions that did not end by themselves: who died, when, and what was cleaned for it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path

from autostop_lab.reaper.deaths import Death, mark_told, untold
from autostop_lab.reaper.guard import GuardState, GuardStatus
from autostop_lab.reaper.place import current_place
from autostop_lab.reaper.sweep import SessionSeen, sessions, sweep

logger = logging.getLogger("autostop_lab.environment")


def describe_death(death: Death) -> str:
    """Return in words how a session ended and what was cleaned: one line, and one more for each problem.

    Parameters
    ----------
    death : Death
        The record that its cleaner has left.
    """
    when = time.strftime("%d %b %H:%M:%S", time.localtime(death.died_at))
    took = max(0.0, death.cleaned_at - death.died_at)
    who = f"process {death.owner_pid}" if death.owner_pid else f"session {death.session_id}"
    where = f" of {death.place}" if death.place else ""
    text = f"{when}: {who}{where} {death.why}. {_cleaned(death, took)}"
    return "\n".join([text, *(f"    {problem}" for problem in death.problems)])


def _cleaned(death: Death, took_s: float) -> str:
    parts = [f"{end.name} {end.outcome}" for end in death.services if end.pid is not None]
    outcomes = Counter(stray.outcome for stray in death.strays)
    parts += [f"{count} stray process{'es' if count > 1 else ''} {how}" for how, count in sorted(outcomes.items())]
    if not parts:
        return "Nothing of it was left but its folder." if not death.problems else "Nothing was done."
    return f"Cleaned within {took_s:.1f} s: {', '.join(parts)}."


def describe_session(seen: SessionSeen) -> str:
    """Return in words who owns a session and what it holds, on one line."""
    where = f" of {seen.place}" if seen.place else ""
    if seen.problem:
        return f"session {seen.session_id}: its journal is not believed, so nothing is done about it: {seen.problem}"
    if seen.owner_pid is None:
        return f"session {seen.session_id}: it has no journal (yet); its folder is removed when it is old"
    if seen.is_alive:
        state = "lives"
    elif seen.is_being_cleaned:
        state = "has ended; its reaper is cleaning"
    else:
        state = "has ended, and so has its reaper; `autostop-lab sweep` or the next session cleans it"
    held = ", ".join(f"{lease.name} (pid {lease.pid})" for lease in seen.services if lease.pid is not None)
    return f"process {seen.owner_pid}{where} {state}; services: {held or 'none'}"


def describe_guard(status: GuardStatus) -> str:
    """Return in words whether a reaper guards this process, on one line."""
    match status.state:
        case GuardState.GUARDING:
            return f"reaper: process {status.pid} guards this one"
        case GuardState.DEGRADED:
            return (
                f"reaper: DEGRADED, {status.reason}. If this process is killed now, its services may live until "
                "`autostop-lab sweep` or the next session."
            )
        case _:
            return "reaper: none, since nothing here needs one (it comes with the first program, process or workdir)"


def has_unclean_sessions() -> bool:
    """Return whether there are sessions that ended and that nobody is cleaning."""
    return any(seen.owner_pid is not None and not seen.is_alive and not seen.is_being_cleaned for seen in sessions())


def sweep_and_tell() -> None:
    """Clean such sessions, and print what became of those of this notebook or script."""
    try:
        sweep()
    except OSError as error:
        logger.warning("dead sessions could not be cleaned: %s", error)
    if text := news():
        print(text)


def news(*, root: Path | None = None) -> str:
    """Return what happened to earlier sessions of this notebook or script that nobody was told yet; "" if nothing.

    What it returns counts as told.
    """
    place = current_place()
    deaths = untold(place, root=root)
    mark_told(deaths, root=root)
    cleaning = [seen for seen in sessions(root=root) if seen.is_being_cleaned and seen.place == place]
    return "\n".join([*map(describe_death, deaths), *map(describe_session, cleaning)])
