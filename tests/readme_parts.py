"""The parts of a page that the code generates, each between two comments that name it.

``python -m tests.readme_parts README.md`` makes them anew.

::

    <!-- generated: service table -->
    ...
    <!-- end: service table -->
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from autostop_lab.diagrams.markup import markdown_table, mermaid
from autostop_lab.exceptions import ConfigurationError
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE
from autostop_lab.services.policies import RESTART_WORDS, Restart
from autostop_lab.supervisor.restart import Again, Past, decide, wants_restart


def blocks() -> dict[str, str]:
    """Return what the tables generate, by the name that stands in the comments."""
    return {
        "service diagram": f"```mermaid\n{mermaid(SERVICE_TABLE)}\n```",
        "service table": markdown_table(SERVICE_TABLE),
        "job diagram": f"```mermaid\n{mermaid(JOB_TABLE)}\n```",
        "job table": markdown_table(JOB_TABLE),
        "policy table": policy_table(),
        "kernel ends": kernel_ends_table(),
    }


KERNEL_ENDS = Path(__file__).parent / "benchmarks" / "kernel_ends.json"


def kernel_ends_table() -> str:
    """Return what was left of each system's helpers after each end of a kernel, as it was measured, as Markdown."""
    figures = json.loads(KERNEL_ENDS.read_text())
    systems = list(dict.fromkeys(figure["system"] for figure in figures))
    found = {(figure["end"], figure["system"]): figure for figure in figures}
    lines = [["", *systems], ["---"] * (len(systems) + 1)]
    for end in dict.fromkeys(figure["end"] for figure in figures):
        lines.append([end, *(_what_was_left(found[end, system]) for system in systems)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _what_was_left(figure: dict[str, Any]) -> str:
    kernel = "kernel lives on" if figure["kernel_s"] is None else f"kernel {_about(figure['kernel_s'])}"
    if not figure["started"]:
        return kernel
    gone = f"**{figure['left']} of {figure['started']} stay**" if figure["left"] else _about(figure["all_s"])
    return f"{gone}; {kernel}"


def _about(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else "< 0.1 s"


UNWELL = '`unhealthy`; with `on_unhealthy="restart"` stopped and started anew, within the limit'


def policy_table() -> str:
    """Return what happens to a service on each occasion, for each restart policy, as Markdown."""
    rows = [
        ("it ends by itself, cleanly", [_end(word, is_clean=True) for word in RESTART_WORDS]),
        ("it crashes", [_end(word, is_clean=False) for word in RESTART_WORDS]),
        ("its start fails", [_end(word, is_clean=False) for word in RESTART_WORDS]),
        ("its health check fails too often", [UNWELL] * 4),
        ("its health check hangs", ["counts as failed; others are not delayed"] * 4),
        ("it is stopped by hand", [f"`stopped`; {_return(word)}" for word in RESTART_WORDS]),
        ("the job ends", ["stopped and cleaned, pending restarts are void"] * 4),
        ("the kernel dies", ["ended by the reaper; a Python object dies with it"] * 4),
    ]
    head = ["", *(f'`restart="{word}"`' for word in RESTART_WORDS)]
    lines = [head, ["---"] * len(head), *([what, *cells] for what, cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _end(word: str, *, is_clean: bool) -> str:
    """Say what the decision is, by asking for it."""
    rule = Restart(word)
    if isinstance(decide(rule, Past(), is_wanted=wants_restart(rule, is_clean=is_clean)), Again):
        return f"`backoff`, then started anew; `{'stopped' if is_clean else 'crashed'}` when its limit is reached"
    return "`stopped`, outcome `exited`; dependants live on" if is_clean else "`crashed`; a critical one fails the job"


def _return(word: str) -> str:
    if word == "unless-stopped":
        return "waits for its own `start()`"
    more = ", or its dependency restarts" if word == "always" else ""
    return f"starts again with `start_all()` or a new submit{more}"


def markers(name: str) -> tuple[str, str]:
    """Return the comments before and after the part called `name`."""
    return f"<!-- generated: {name} -->", f"<!-- end: {name} -->"


def rewritten(page: str) -> str:
    """Return a page with what stands between each pair of comments made anew.

    Parameters
    ----------
    page : str
        A text with the comments of any of the parts; see `blocks` for their names.

    Returns
    -------
    str
        The page; outside the comments nothing is changed.

    Raises
    ------
    ConfigurationError
        A part's name is unknown, or its comments are not one pair in their order.
    """
    known = blocks()
    for name in sorted(set(re.findall(r"<!-- (?:generated|end): (.*?) -->", page))):
        if name not in known:
            raise ConfigurationError(f"nothing generates {name!r}; there are {', '.join(map(repr, known))}.")
        begin, end = markers(name)
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
            raise ConfigurationError(f"{begin!r} and {end!r} have to be there once each, in this order.")
        before, rest = page.split(begin)
        after = rest.split(end)[1]
        page = f"{before}{begin}\n{known[name]}\n{end}{after}"
    return page


def main(pages: list[str]) -> int:
    """Rewrite each page that is not as the code would have it, and say so.

    Parameters
    ----------
    pages : list of str
        Paths of the pages.

    Returns
    -------
    int
        Exit status: 0 if all is well, 1 if a page could not be done, 2 without pages.
    """
    if not pages:
        print("usage: python -m tests.readme_parts PAGE.md ...", file=sys.stderr)
        return 2
    status = 0
    for page in map(Path, pages):
        try:
            old = page.read_text(encoding="utf-8")
            new = rewritten(old)
            if new != old:
                page.write_text(new, encoding="utf-8")
                print(f"{page}: rewritten")
        except (OSError, ConfigurationError) as error:
            print(f"{page}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
