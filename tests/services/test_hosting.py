"""A host without a service: it carries out what it is given, and is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from autostop_lab.origin import Origin
from autostop_lab.reaper.session import current_session
from autostop_lab.services.host import Host
from autostop_lab.services.hosting import HostGoneError, HostProcess
from autostop_lab.services.logs import LogRing
from autostop_lab.supervisor.loop import supervisor_loop
from tests.services.lives import LONG_S, eventually, is_running


def hosted(use: Callable[[HostProcess], Coroutine[Any, Any, Any]]) -> tuple[Any, HostProcess, list[tuple[Any, ...]]]:
    """Use a host, end it, and return what came of it, the host, and what it told."""
    told: list[tuple[Any, ...]] = []

    async def main() -> tuple[Any, HostProcess]:
        instance = current_session().new_instance("host")
        host = HostProcess("a host", instance, LogRing(), Origin(), lambda *what: told.append(what))
        environment = {**os.environ, **instance.environment}
        try:
            await host.launch(environment=environment, cwd=None, memory_limit_mb=None, on_launch=lambda _: None)
            return await use(host), host
        finally:
            await host.end(is_polite=True, timeout_s=LONG_S)
            host.release()
            instance.remove()

    result, host = supervisor_loop().run(asyncio.wait_for(main(), LONG_S))
    return result, host, told


def add(host: Host, first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def fail(host: Host) -> None:
    raise KeyError("mine")


def die(host: Host) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def tell(host: Host) -> None:
    host.tell("news", 1, "two")


def hang(host: Host) -> None:
    threading.Event().wait()


def test_it_carries_out_what_it_is_given() -> None:
    async def use(host: HostProcess) -> Any:
        return [await host.ask(partial(add, first=1, second=2)), await host.ask(lambda _: 7), host.pid]

    ((total, pid), seven, known), host, _ = hosted(use)

    assert (total, seven) == (3, 7)
    assert pid == known != os.getpid()
    assert host.exited.result().code == 0
    assert not host.was_killed
    assert host.left == []


def test_many_works_at_once_do_not_wait_for_each_other() -> None:
    async def use(host: HostProcess) -> Any:
        hanging = asyncio.ensure_future(host.ask(hang))
        sums = await asyncio.gather(*(host.ask(partial(add, first=n, second=n)) for n in range(10)))
        hanging.cancel()
        return [total for total, _ in sums]

    assert hosted(use)[0] == [2 * n for n in range(10)]


def test_what_a_work_raises_comes_home() -> None:
    async def use(host: HostProcess) -> None:
        with pytest.raises(KeyError, match="mine"):
            await host.ask(fail)

    hosted(use)


def test_who_waits_hears_that_it_has_died() -> None:
    async def use(host: HostProcess) -> int | None:
        with pytest.raises(HostGoneError, match="signal 9"):
            await host.ask(die)
        with pytest.raises(HostGoneError, match="signal 9"):
            await host.ask(die)
        return host.pid

    pid, host, _ = hosted(use)

    assert host.exited.result().code == -signal.SIGKILL
    assert pid is not None
    assert not is_running(pid)


def test_it_tells_by_itself() -> None:
    async def use(host: HostProcess) -> None:
        await host.ask(tell)

    told = hosted(use)[2]
    eventually(lambda: told == [("news", 1, "two")])


def test_one_that_is_not_waited_for_to_come_up_is_ended() -> None:
    async def main() -> HostProcess:
        instance = current_session().new_instance("host")
        host = HostProcess("a host", instance, LogRing(), Origin(), lambda *_: None)
        environment = {**os.environ, **instance.environment}
        launching = asyncio.ensure_future(
            host.launch(environment=environment, cwd=None, memory_limit_mb=None, on_launch=lambda _: None)
        )
        await asyncio.sleep(0)
        launching.cancel()
        await asyncio.wait({launching})
        await host.end(is_polite=False, timeout_s=LONG_S)
        host.release()
        instance.remove()
        return host

    host = supervisor_loop().run(main())

    assert host.exited.done()
    assert host.left == []
