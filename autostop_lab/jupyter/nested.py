"""``%autostop config nested_loop=True``: ``asyncio.run()`` and the like work in cells, whose loop runs already.

It changes asyncio for the whole process, so it is never done by itself. nest_asyncio 1.x and nest-asyncio2 before
1.7.3 lose messages of the kernel that come while a nested loop runs; both set the same mark in asyncio, so applying a
good one over a bad one does nothing, without a word.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version

from autostop_lab.exceptions import ConfigurationError

#: The first version that loses no message.
FIRST_GOOD = (1, 7, 3)


def is_nested() -> bool:
    """Return whether loops nest in this process, whoever has seen to it."""
    return hasattr(asyncio, "_nest_patched")


def state_in_words() -> str:
    """Return who made loops nest, if they do."""
    if not is_nested():
        return "off"
    return "on (nest_asyncio 1.x: messages may get lost)" if _is_bad() else "on (nest-asyncio2)"


def _is_bad() -> bool:
    return is_nested() and "nest_asyncio" in sys.modules and "nest_asyncio2" not in sys.modules


def _parts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def nest_loops() -> None:
    """Let event loops nest from now on, for the life of this process.

    Raises
    ------
    ConfigurationError
        It cannot be done well here; the text says what to do.
    """
    if _is_bad():
        raise ConfigurationError(
            "nested_loop: nest_asyncio 1.x was applied in this kernel before, and it loses messages: clicks and cells "
            "that come while a nested loop runs. Take nest_asyncio.apply() out, restart the kernel, and set this first."
        )
    try:
        found = version("nest-asyncio2")
    except PackageNotFoundError:
        found = ""
    if _parts(found) < FIRST_GOOD:
        has = f"nest-asyncio2 {found}" if found else "no nest-asyncio2"
        raise ConfigurationError(
            f"nested_loop: there is {has} here, and those before 1.7.3 lose messages of the kernel. Install it with: "
            "pip install -U 'nest-asyncio2>=1.7.3'"
        )
    import nest_asyncio2  # only when it was asked for

    nest_asyncio2.apply()
