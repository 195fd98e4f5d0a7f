"""Make what the state tables generate in a page anew: ``python -m autostop_lab.diagrams README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from autostop_lab.diagrams.readme import rewritten
from autostop_lab.exceptions import ConfigurationError


def main(pages: list[str]) -> int:
    """Rewrite each page that is not as the tables would have it, and say so.

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
        print("usage: python -m autostop_lab.diagrams PAGE.md ...", file=sys.stderr)
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
