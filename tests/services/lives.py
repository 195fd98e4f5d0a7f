"""One life of a service, driven in tests as its supervisor drives it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from autostop_lab.exceptions import UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.origin import Origin
from autostop_lab.services.command import Command
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.runtime import Exit
from autostop_lab.services.slot import HealthResult, ServiceSlot
from autostop_lab.services.spec import ServiceSpec, spec_of_class, spec_of_factory
from autostop_lab.supervisor.loop import supervisor_loop
from autostop_lab.supervisor.supervisor import RUNTIMES

#: For what has to happen at last; nothing waits that long in a test that passes.
LONG_S = 30.0


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, what or "it did not come"
        time.sleep(0.005)


def python(code: str) -> list[str]:
    """Return the argv of a small Python program."""
    return [sys.executable, "-S", "-u", "-c", code]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_in(path: Path) -> int:
    """Return the pid that a program writes into a file, once it is there."""
    eventually(lambda: path.exists() and path.read_text().strip().isdigit(), f"no pid in {path}")
    return int(path.read_text())


class NoOrders:
    """Stands for an environment that carries out nothing."""

    def start_service(self, name: str) -> None:
        raise NotImplementedError

    def stop_service(self, name: str) -> None:
        raise NotImplementedError

    def restart_service(self, name: str) -> None:
        raise NotImplementedError

    def kill_service(self, name: str) -> None:
        raise NotImplementedError

    def check_service(self, name: str) -> HealthResult:
        raise NotImplementedError


def spec_of(
    name: str,
    target: Any,
    *args: Any,
    policy: ServicePolicy | None = None,
    runtime: str = "thread",
    options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> ServiceSpec:
    policy = policy or ServicePolicy()
    if not isinstance(target, type):
        return spec_of_factory(name, target, runtime=None, default_runtime=runtime, options=options, policy=policy)
    return spec_of_class(
        name, target, args, kwargs, runtime=None, default_runtime=runtime, options=options, policy=policy
    )


class Life:
    """One life of a service; `start` may be called again after `clean`, for the next one."""

    def __init__(self, name: str, target: Any, *args: Any, **kwargs: Any) -> None:
        # The weakest, and the same on every machine; test_containment.py is about the others.
        if isinstance(target, type) and issubclass(target, Command) and target.__init__ is Command.__init__:
            kwargs.setdefault("contain", "signs")
        self.slot = ServiceSlot(spec_of(name, target, *args, **kwargs), NoOrders())
        self.handle = ServiceHandle(self.slot)
        self.needed: dict[str, ServiceHandle] = {}
        self.runtime: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return supervisor_loop().run(work)

    def _find(self, name: str) -> ServiceHandle:
        if name not in self.needed:
            raise UnknownServiceError(f"service {name!r} is not known", service=name)
        return self.needed[name]

    def start(self, timeout_s: float = LONG_S) -> Life:
        """Launch it and wait until it is ready; a `TimeoutError` leaves it as it is."""
        self.run(self._start(timeout_s))
        return self

    async def _start(self, timeout_s: float) -> None:
        self.runtime = RUNTIMES[self.slot.spec.runtime](self.slot, Origin(), self._find)
        self.slot.publish(ServiceState.STARTING, "", None)
        await asyncio.wait_for(self.runtime.launch(), timeout_s)
        self.slot.publish(ServiceState.RUNNING, "", self.runtime.endpoint)

    def stop(self, timeout_s: float = LONG_S) -> bool:
        """Stop it politely; return whether that came to an end in time, raise what its ``stop()`` raised."""
        return bool(self.run(self._within(self.runtime.stop(), timeout_s, ServiceState.STOPPING)))

    def kill(self, timeout_s: float = LONG_S) -> bool:
        return bool(self.run(self._within(self.runtime.kill(), timeout_s, ServiceState.KILLING)))

    def settle(self, timeout_s: float = LONG_S) -> bool:
        return bool(self.run(self._within(self.runtime.settle(), timeout_s, ServiceState.STOPPED)))

    async def _within(self, work: Coroutine[Any, Any, None], timeout_s: float, state: ServiceState) -> bool:
        self.slot.publish(state, "", None)
        task = asyncio.ensure_future(work)
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            return False
        task.result()
        return True

    def clean(self, timeout_s: float = LONG_S) -> None:
        """Call its ``cleanup()`` and let go of it."""
        self.run(self._clean(timeout_s))

    async def _clean(self, timeout_s: float) -> None:
        runtime, self.runtime = self.runtime, None
        self.slot.publish(ServiceState.STOPPED, "", None)
        try:
            await asyncio.wait_for(runtime.cleanup(), timeout_s)
        finally:
            await runtime.dismiss()
            runtime.release()

    def exit(self) -> Exit:
        """Wait until it has ended by itself and return how."""
        runtime = self.runtime

        async def wait() -> Exit:
            end: Exit = await asyncio.wait_for(asyncio.shield(runtime.exited), LONG_S)
            return end

        end: Exit = self.run(wait())
        return end

    def health(self) -> HealthResult:
        result: HealthResult = self.run(self.runtime.check_health())
        return result

    def texts(self) -> tuple[str, ...]:
        return self.slot.ring.texts()

    def says(self, text: str) -> None:
        """Wait until it has logged `text`."""
        eventually(lambda: any(text in line for line in self.texts()), f"no {text!r} in {self.texts()}")

    @property
    def pid(self) -> int:
        pid: int = self.runtime.pid
        return pid

    @property
    def folder(self) -> Path:
        folder: Path = self.runtime.instance.folder
        return folder

    def end(self) -> None:
        """End whatever a test has left."""
        if self.runtime is not None:
            with suppress(Exception):
                self.kill()
            with suppress(Exception):
                self.clean()
