"""Code that runs in a forked child."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_fork(function: Callable[[], object]) -> str:
    """Return what a function returns in a forked child, as text."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(function())
        except BaseException as error:
            text = repr(error)
        os.write(writes, text.encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said
