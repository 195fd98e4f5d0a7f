"""The parts of a page that the tables generate, each between two comments that name it.

::

    <!-- generated: service table -->
    ...
    <!-- end: service table -->
"""

from __future__ import annotations

import re

from autostop_lab.diagrams.markup import markdown_table, mermaid
from autostop_lab.exceptions import ConfigurationError
from autostop_lab.lifecycle import JOB_TABLE, SERVICE_TABLE


def blocks() -> dict[str, str]:
    """Return what the tables generate, by the name that stands in the comments."""
    return {
        "service diagram": f"```mermaid\n{mermaid(SERVICE_TABLE)}\n```",
        "service table": markdown_table(SERVICE_TABLE),
        "job diagram": f"```mermaid\n{mermaid(JOB_TABLE)}\n```",
        "job table": markdown_table(JOB_TABLE),
    }


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
