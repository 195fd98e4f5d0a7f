"""``%autostop config nested_loop=True``: only when asked for, and refused where it would lose messages."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.jupyter import nested
from tests.jupyter.conftest import Kernel

RUN = "import asyncio\nasync def three(): return 3\nprint(asyncio.run(three()))"


@pytest.fixture
def patched() -> Iterator[None]:
    """A process in which somebody has made loops nest."""
    asyncio._nest_patched = True  # type: ignore[attr-defined]
    yield
    del asyncio._nest_patched  # type: ignore[attr-defined]


def test_nest_asyncio_1_is_refused(patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio", ModuleType("nest_asyncio"))
    monkeypatch.delitem(sys.modules, "nest_asyncio2", raising=False)

    with pytest.raises(ConfigurationError, match="it loses messages"):
        nested.nest_loops()
    assert nested.state_in_words() == "on (nest_asyncio 1.x: messages may get lost)"


@pytest.mark.parametrize("found", ["1.7.2", "1.6", None])
def test_a_version_that_loses_messages_is_refused(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(nested, "version", version)
    with pytest.raises(ConfigurationError, match=r"pip install -U 'nest-asyncio2>=1.7.3'"):
        nested.nest_loops()
    assert not nested.is_nested()


@pytest.mark.kernel
def test_asyncio_run_works_in_cells_after_it_and_not_before() -> None:
    kernel = Kernel()
    try:
        kernel.run("%load_ext autostop_lab")
        before = kernel.run(RUN)
        assert kernel.run("%autostop config nested_loop=False").status == "ok"
        config = kernel.run("%autostop config nested_loop=True")
        after = kernel.run(RUN)
        back = kernel.run("%autostop config nested_loop=False")
        wrong = kernel.run("%autostop config colour=blue")
    finally:
        kernel.close()

    assert before.error[0] == "RuntimeError"
    assert "nested_loop on (nest-asyncio2)" in config.printed()
    assert (after.status, after.printed()) == ("ok", "3\n")
    assert "restart it to go back" in back.error[1]
    assert "there is nested_loop=True" in wrong.error[1]
