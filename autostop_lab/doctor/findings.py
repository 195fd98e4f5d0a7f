"""PURE. What the facts of a machine come to, line by line and in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from autostop_lab.doctor.facts import JOBMANAGER_PORT, Facts

#: The first versions that do what we need.
RAY_NEEDED, SUBSHELLS_NEEDED, LAB_NEEDED, NEST_NEEDED = (2, 60), (7,), (4, 4), (1, 7, 3)
#: ipykernel that sends clicks to the wrong place, which our views repair.
MISROUTING = (7, 4, 0)
#: Descriptors that a running program takes (output, news of its end, input), and that a kernel needs for itself.
FILES_PER_PROGRAM, FILES_OF_A_KERNEL = 3, 100
#: Below these a thing is limited: open files, processes, free bytes for sessions and in shared memory.
FEW_FILES, FEW_PROCESSES, LITTLE_SPACE, LITTLE_MEMORY = 1024, 1000, 100 << 20, 256 << 20


class Mark(StrEnum):
    """How good a thing is."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes
    ----------
    mark : Mark
        How good it is.
    subject : str
        What it is about.
    fact : str
        What was found.
    advice : str
        What to do, where it is not ok.
    """

    mark: Mark
    subject: str
    fact: str
    advice: str = ""


# -- the judgement (pure) ----------------------------------------------------------------------------------


def examine(facts: Facts) -> list[Finding]:
    """Judge a machine.

    Parameters
    ----------
    facts : Facts
        What was seen of it.

    Returns
    -------
    list of Finding
        The lines, in the order in which they are shown.
    """
    return [
        *_about_python(facts),
        *_about_containment(facts),
        *_about_limits(facts),
        *_about_folders(facts),
        *_about_notebooks(facts),
        *_about_ray(facts),
        *_about_port(facts),
    ]


def _about_python(facts: Facts) -> Iterator[Finding]:
    if facts.executable:
        yield Finding(Mark.OK, "Python", f"{facts.python} ({facts.executable})")
    else:
        yield Finding(
            Mark.MISSING,
            "Python",
            f"{facts.python}, but it does not know where its interpreter is, so no reaper can be started",
            "start it as python, not within another program",
        )
    yield Finding(Mark.OK, "autostop_lab", facts.package)
    yield Finding(Mark.OK, "system", facts.system)


def _about_containment(facts: Facts) -> Iterator[Finding]:
    problems = facts.problems_of_containment
    fact, advice = "find what programs leave, but for daemons that clear their environment and close all files", ""
    if not problems["cgroup"]:
        fact += '; contain="auto" holds these'
    elif not problems["subreaper"]:
        advice = 'give a program that leaves such daemons contain="subreaper"'
    else:
        advice = "keep such a program in the foreground; most have an option for that"
    yield Finding(Mark.LIMITED if advice else Mark.OK, "signs", fact, advice)
    yield _about_kind("subreaper", problems["subreaper"], 'nothing gets away, with contain="subreaper"', "")
    advice = "run Jupyter in a scope of its own: systemd-run --user --scope -p Delegate=yes jupyter lab"
    on_linux = advice if facts.system.startswith("Linux") else ""
    yield _about_kind("cgroup", problems["cgroup"], 'nothing gets away, with contain="auto" or "cgroup"', on_linux)
    match facts.death_is_seen_by:
        case "poll":
            advice = "a newer system sees it at once (Linux 5.3, macOS)"
            yield Finding(Mark.LIMITED, "death of the owner", "is looked for twice a second", advice)
        case how:
            yield Finding(Mark.OK, "death of the owner", f"is seen at once ({how}, and the end of a pipe)")


def _about_kind(kind: str, problem: str, fact: str, advice: str) -> Finding:
    return Finding(Mark.MISSING, kind, problem, advice) if problem else Finding(Mark.OK, kind, fact)


def _about_limits(facts: Facts) -> Iterator[Finding]:
    if facts.open_files is None:
        yield Finding(Mark.OK, "open files", "without limit")
    else:
        room = max(0, facts.open_files - FILES_OF_A_KERNEL) // FILES_PER_PROGRAM
        fact = f"{facts.open_files}, room for about {room} programs at once"
        is_few = facts.open_files < FEW_FILES
        advice = "raise it in the shell that starts Jupyter: ulimit -n 4096" if is_few else ""
        yield Finding(Mark.LIMITED if is_few else Mark.OK, "open files", fact, advice)
    is_few = facts.processes is not None and facts.processes < FEW_PROCESSES
    yield Finding(
        Mark.LIMITED if is_few else Mark.OK,
        "processes",
        "without limit" if facts.processes is None else f"{facts.processes} for this user, threads among them",
        "raise it in the shell that starts Jupyter: ulimit -u 4096" if is_few else "",
    )


def _about_folders(facts: Facts) -> Iterator[Finding]:
    if facts.folder_problem:
        yield Finding(
            Mark.MISSING,
            "sessions",
            f"no private folder can be had, and without one no service can be started: {facts.folder_problem}",
            "set TMPDIR to a folder of your own on this machine",
        )
    else:
        is_little = facts.free_bytes is not None and facts.free_bytes < LITTLE_SPACE
        room = "" if facts.free_bytes is None else f", {_size(facts.free_bytes)} free"
        advice = "make room there, or set TMPDIR to another place" if is_little else ""
        mark = Mark.LIMITED if is_little else Mark.OK
        yield Finding(mark, "sessions", f"in {facts.folder}, open to you alone{room}", advice)
        sessions = f"{facts.live_sessions} alive, {facts.dead_sessions} dead and not cleaned yet"
        is_dead = facts.dead_sessions > 0
        advice = "autostop-lab sweep cleans them; so does the next session" if is_dead else ""
        yield Finding(Mark.LIMITED if is_dead else Mark.OK, "leftovers", sessions, advice)
    if facts.free_memory_bytes is not None:
        is_little = facts.free_memory_bytes < LITTLE_MEMORY
        yield Finding(
            Mark.LIMITED if is_little else Mark.OK,
            "shared memory",
            f"{_size(facts.free_memory_bytes)} free in /dev/shm",
            "Ray keeps its objects there; a container gets more with --shm-size=2g" if is_little else "",
        )


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _about_notebooks(facts: Facts) -> Iterator[Finding]:
    kernel, lab = facts.versions.get("ipykernel"), facts.versions.get("jupyterlab")
    for name, what in (("ipykernel", "notebooks"), ("ipywidgets", "the live view")):
        found = facts.versions.get(name)
        advice = "" if found else f"{what} cannot do without it: python -m pip install {name}"
        yield Finding(Mark.OK if found else Mark.MISSING, name, found or "is not installed", advice)
    yield Finding(Mark.OK, "jupyterlab", lab or "is not installed here; the server may run in another Python")
    if kernel is not None:
        yield _about_clicks(kernel, lab)
    yield _about_nested_loops(facts)


def _about_clicks(kernel: str, lab: str | None) -> Finding:
    subject = "clicks"
    if _numbers(kernel) < SUBSHELLS_NEEDED:
        fact = f"wait until the cell is over: ipykernel {kernel} has no subshells"
        return Finding(Mark.LIMITED, subject, fact, "python -m pip install -U ipykernel")
    if lab is not None and _numbers(lab) < LAB_NEEDED:
        fact = f"wait until the cell is over: JupyterLab {lab} does not use the kernel's subshells"
        return Finding(Mark.LIMITED, subject, fact, "python -m pip install -U jupyterlab")
    repaired = f"; our views repair what ipykernel {kernel} breaks"
    fact = "are handled while a cell runs, from JupyterLab 4.4 and Notebook 7.4 on"
    return Finding(Mark.OK, subject, fact + (repaired if _numbers(kernel)[:3] == MISROUTING else ""))


def _about_nested_loops(facts: Facts) -> Finding:
    subject, old, new = "nested loops", facts.versions.get("nest-asyncio"), facts.versions.get("nest-asyncio2")
    advice = "python -m pip install -U nest-asyncio2"
    if facts.loaded_nest_asyncio:
        fact = f"nest_asyncio {old or ''} is loaded: what a front end sends while a nested loop runs gets lost"
        advice = "use nest_asyncio2 in its place, and restart the kernel"
        return Finding(Mark.LIMITED, subject, " ".join(fact.split()), advice)
    if new is None:
        return Finding(Mark.MISSING, subject, "nest-asyncio2 is not installed", advice)
    if _numbers(new) < NEST_NEEDED:
        fact = f"nest-asyncio2 {new} loses what a front end sends while a nested loop runs"
        return Finding(Mark.LIMITED, subject, fact, advice)
    beside = f"; nest-asyncio {old} is there, too, and loses messages where it is used" if old else ""
    return Finding(Mark.OK, subject, f"nest-asyncio2 {new}{beside}")


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _about_ray(facts: Facts) -> Iterator[Finding]:
    found = facts.versions.get("ray")
    needed = ".".join(map(str, RAY_NEEDED))
    advice = f"python -m pip install -U 'ray>={needed}'"
    if found is None and _numbers(facts.python) >= (3, 14):
        advice = "everything else works; Ray has no packages for this Python"
    if found is None:
        yield Finding(Mark.MISSING, "Ray", 'is not installed: no runtime="ray"', advice)
    elif _numbers(found) < RAY_NEEDED:
        yield Finding(Mark.LIMITED, "Ray", f"{found} is older than what we are tested with ({needed})", advice)
    else:
        yield Finding(Mark.OK, "Ray", found)


def _about_port(facts: Facts) -> Iterator[Finding]:
    subject = f"port {JOBMANAGER_PORT}"
    if facts.port_taken_by is None:
        yield Finding(Mark.OK, subject, "is free for a JobManager")
    else:
        who = facts.port_taken_by or "a process that cannot be seen from here"
        advice = "if that is not your JobManager, start yours on another: autostop-lab jobmanager start --port 19002"
        yield Finding(Mark.LIMITED, subject, f"is taken by {who}", advice)


# -- the words ---------------------------------------------------------------------------------------------


def lines_of(finding: Finding, width: int) -> list[str]:
    """Return a finding as lines; subjects are `width` wide."""
    lines = [f"{finding.mark:<7}  {finding.subject:<{width}}  {finding.fact}"]
    return [*lines, f"{'':7}  {'':{width}}  -> {finding.advice}"] if finding.advice else lines


def verdict(facts: Facts) -> str:
    """Return the last line: what all of it comes to."""
    marks = [finding.mark for finding in examine(facts)]
    counts = ", ".join(f"{marks.count(mark)} {mark}" for mark in Mark if mark in marks)
    if not facts.can_promise:
        return f"{counts}: nothing can be promised here until the sessions have a private folder."
    if marks.count(Mark.OK) == len(marks):
        return f"{counts}: nothing outlives its job here."
    return f"{counts}: nothing outlives its job here, but for what is said above."


def as_text(facts: Facts) -> str:
    """Return all of it as text."""
    findings = examine(facts)
    width = max(len(finding.subject) for finding in findings)
    return "\n".join([line for finding in findings for line in lines_of(finding, width)] + ["", verdict(facts)])


def as_json(facts: Facts) -> str:
    """Return all of it as JSON: the facts, the findings and whether anything can be promised."""
    value = {
        "can_promise": facts.can_promise,
        "findings": [asdict(finding) for finding in examine(facts)],
        "facts": asdict(facts),
    }
    return json.dumps(value, indent=2)
