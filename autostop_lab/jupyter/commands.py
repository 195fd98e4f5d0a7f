"""``%autostop``: look at the jobs and services of this kernel, and end them."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from IPython.core.error import UsageError

from autostop_lab import __version__
from autostop_lab.doctor import as_json, as_text, look
from autostop_lab.environment.aftermath import describe_guard
from autostop_lab.environment.base import Environment
from autostop_lab.environment.registry import jobs, last_job, registry
from autostop_lab.exceptions import AutostopError, UnknownJobError, UnknownServiceError
from autostop_lab.job.job import Job
from autostop_lab.job.report import seconds
from autostop_lab.jupyter.nested import is_nested, nest_loops, state_in_words
from autostop_lab.jupyter.options import UsageParser, split_words, unquoted
from autostop_lab.jupyter.raising import hide_our_frames, raise_as_users
from autostop_lab.jupyter.view import Displays, has_pictures
from autostop_lab.reaper.guard import GuardState, current_guard
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.spec import RUNTIME_OPTIONS

LINE_MAGIC = "%autostop"


@dataclass(frozen=True)
class Command:
    """One word behind ``%autostop``.

    Attributes
    ----------
    about : str
        What it does.
    argument : str
        What may follow: ``"JOB"``, ``"SERVICE"`` or nothing.
    """

    about: str
    argument: str = ""


COMMANDS = {
    "status": Command("what runs now; also without any word"),
    "jobs": Command("all jobs of this kernel"),
    "services": Command("all services of open environments"),
    "stop": Command("let a job finish what is inside, and wait until it is clean", "JOB"),
    "cancel": Command("end a job at once, and wait until it is clean", "JOB"),
    "report": Command("the receipt of a job", "JOB"),
    "logs": Command("the last log lines of a service, or of all services of the last job", "SERVICE"),
    "panel": Command("the live control panel of this kernel: all jobs and services, with buttons"),
    "doctor": Command("what this machine can promise, and what to do where it cannot"),
    "config": Command("versions, what is loaded, and settings", "SETTING"),
}
ARGUMENT_HELP = {
    "JOB": "name or id of a job, or how one of them begins; the last one if not given",
    "SERVICE": "name of a service",
    "SETTING": "nested_loop=True lets asyncio.run() work in cells, for the life of this kernel (nest-asyncio2)",
}


def _top_help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"usage: {LINE_MAGIC} [COMMAND] [-h]", "", "Look at jobs and services, and end them.", ""]
    lines += [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{LINE_MAGIC} COMMAND -h shows what a command takes."])


def parser_of(name: str) -> UsageParser:
    """Return the parser of one command."""
    command = COMMANDS[name]
    parser = UsageParser(
        prog=f"{LINE_MAGIC} {name}", add_help=False, allow_abbrev=False, description=f"{name}: {command.about}."
    )
    if command.argument:
        parser.add_argument(
            "name", nargs="?", type=unquoted, metavar=command.argument, help=ARGUMENT_HELP[command.argument]
        )
    if name == "logs":
        parser.add_argument("-n", type=_count, default=50, metavar="N", help="how many lines; 50 if not given")
    if name == "doctor":
        parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def run_command(shell: Any, line: str, displays: Displays | None = None) -> None:
    """Carry out one line of ``%autostop``.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    line : str
        What is behind ``%autostop``.
    displays : Displays or None
        Shows the panel; None where there is no front end for one.

    Raises
    ------
    UsageError
        The line makes no sense.
    UnknownJobError, UnknownServiceError
        There is no such job or service.
    """
    words = split_words(line) or ["status"]
    name, *rest = words
    if name in ("-h", "--help"):
        print(_top_help())
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1, cutoff=0.5)
        hint = f"the nearest is {near[0]}" if near else f"it has {', '.join(COMMANDS)}"
        raise UsageError(f"{LINE_MAGIC} has no command {name!r}; {hint}. {LINE_MAGIC} -h shows all.")
    parser = parser_of(name)
    given = parser.parse(rest)
    if given.help:
        print(parser.format_help())
        return
    try:
        _carry_out(shell, name, given, displays)
    except AutostopError as error:
        hide_our_frames(error)
        failed = error
    else:
        return
    raise_as_users(shell, failed)


def _carry_out(shell: Any, name: str, given: argparse.Namespace, displays: Displays | None) -> None:
    match name:
        case "status":
            print(_status())
        case "jobs":
            print(_table(("id", "name", "state", "took", "services", "reason"), map(_job_row, jobs())) or NO_JOBS)
        case "services":
            rows = [_service_row(env, handle) for env in environments() for handle in env.services.values()]
            print(_table(("service", "state", "address", "environment", "job"), rows) or "no environment is open.")
        case "stop" | "cancel":
            _end(given.name, how=name)
        case "report":
            _report(last_job() if given.name is None else find_job(given.name))
        case "logs":
            _logs(given.name, given.n)
        case "doctor":
            facts = look()
            print(as_json(facts) if given.json else as_text(facts))
        case "config":
            if given.name is not None:
                _set(given.name)
            print(_config(shell))
        case "panel":
            _show_panel(shell, displays)


NO_JOBS = "no job was submitted in this kernel yet."


def environments() -> list[Environment]:
    """Return the environments that are open, oldest first."""
    return [env for env in registry.environments() if isinstance(env, Environment)]


def running() -> list[Job]:
    """Return the jobs that are not over, oldest first."""
    return [job for job in jobs() if not job.is_over]


def find_job(text: str) -> Job:
    """Return a job by its id, its name (the newest of that name), or how one of both begins.

    Raises
    ------
    UnknownJobError
        There is none, or several begin so.
    """
    newest_first = jobs()[::-1]
    for is_it in (lambda job: job.id == text, lambda job: job.name == text):
        if found := [job for job in newest_first if is_it(job)]:
            return found[0]
    by_name = {job.name: job for job in reversed(newest_first) if job.name.startswith(text)}
    by_id = [job for job in newest_first if job.id.startswith(text) and job.name not in by_name]
    found = [*by_name.values(), *by_id]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownJobError(f"several jobs begin with {text!r}: {', '.join(map(_called, found))}. Write more of it.")
    known = ", ".join(map(_called, newest_first[:5])) or "none"
    raise UnknownJobError(f"there is no job {text!r}; the last ones are: {known}. {LINE_MAGIC} jobs shows all.")


def _called(job: Job) -> str:
    return f"{job.name!r} [{job.id}]"


def _status() -> str:
    now = running()
    lines = [job.summary() for job in now]
    if not now:
        over = jobs()
        lines.append(f"no job runs; the last one:\n{over[-1].summary()}" if over else NO_JOBS)
    ours = {id(job) for job in now}
    for env in environments():
        live = [f"{handle.name} {handle.state}" for handle in env.services.values() if handle.state != "stopped"]
        if live and (env.last_job is None or id(env.last_job) not in ours):
            lines.append(f"environment {env.name!r} keeps: {', '.join(live)}")
    if (guard := current_guard().status).state is GuardState.DEGRADED:
        lines.append(describe_guard(guard))
    return "\n\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as text, or "" without rows."""
    body = list(rows)
    if not body:
        return ""
    lines = [tuple(head), *body]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _job_row(job: Job) -> tuple[str, ...]:
    return (job.id, job.name, str(job.state), seconds(job.elapsed_s), ", ".join(job.services) or "-", job.reason)


def _service_row(env: Environment, handle: ServiceHandle) -> tuple[str, ...]:
    address = f"{handle.host}:{handle.port}" if handle.port else "-"
    job = env.last_job
    return (handle.name, str(handle.state), address, env.name, _called(job) if job is not None else "-")


def _end(text: str | None, *, how: str) -> None:
    """Stop or cancel a job, wait until it is clean, and say so."""
    if text is not None:
        job = find_job(text)
    elif now := running():
        job = now[-1]
    else:
        print("no job runs.")
        return
    if job.is_over:
        print(f"{_called(job)} is over already:")
    elif how == "stop":
        job.stop()
    else:
        job.cancel()
    job.wait()
    if job.report is not None:
        print(job.report.headline)


def _report(job: Job) -> None:
    if job.report is None:
        print(f"{_called(job)} is not over; its receipt comes at its end.\n{job.summary()}")
    else:
        print(job.report)


def _logs(name: str | None, count: int) -> None:
    if name is not None:
        print("\n".join(map(_stamped, _find_service(name).logs(count))) or f"service {name!r} has no log lines.")
        return
    services = last_job().services
    width = max(map(len, services), default=0)
    lines = [(line.at, f"{name:<{width}}  {_stamped(line)}") for name, one in services.items() for line in one.logs()]
    print("\n".join(text for _, text in sorted(lines)[-count:]) or "the services of the last job have no log lines.")


def _stamped(line: Any) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(line.at))}  {line}"


def _find_service(name: str) -> ServiceHandle:
    """Return a service of the newest environment or job that has it."""
    known: dict[str, ServiceHandle] = {}
    owners: list[Job | Environment] = [*jobs(), *environments()]
    for owner in owners:
        known.update(owner.services)
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(known) or 'none'}."
    raise UnknownServiceError(f"no job or environment here has a service {name!r}.{hint}", service=name)


def _show_panel(shell: Any, displays: Displays | None) -> None:
    if displays is None or not has_pictures(shell):
        print(f"a terminal shows no panel; {LINE_MAGIC} status says what there is:\n{_status()}")
    else:
        displays.show_kernel()


def _set(setting: str) -> None:
    """Carry out ``NAME=VALUE``."""
    name, equals, value = setting.partition("=")
    if name.strip() != "nested_loop" or not equals:
        raise UsageError(f"{LINE_MAGIC} config: there is no setting {setting!r}; there is nested_loop=True.")
    match value.strip():
        case "True":
            nest_loops()
        case "False" if is_nested():
            raise UsageError(f"{LINE_MAGIC} config: loops nest until this kernel ends; restart it to go back.")
        case "False":
            pass
        case _:
            raise UsageError(f"{LINE_MAGIC} config: nested_loop is True or False, not {value.strip()!r}.")


def _config(shell: Any) -> str:
    versions = [f"autostop_lab {__version__}", f"Python {platform.python_version()}"]
    for package in ("ipython", "ipykernel"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    front = "a kernel: jobs are shown as pictures" if has_pictures(shell) else "a terminal: jobs are shown as text"
    return "\n".join(
        [
            ", ".join(versions),
            "loaded: %%autostop_job, %autostop, completion, top-level await in %%autostop_job",
            f"front end: {front}",
            describe_guard(current_guard().status),
            f"runtimes of services: {', '.join(RUNTIME_OPTIONS)}, and programs (Command)",
            f"settings: nested_loop {state_in_words()}; others are options of each job, which %%autostop_job -h shows",
        ]
    )
