"""Services and an engine that follow a script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from autostop_lab.dataflow.control import Control
from autostop_lab.dataflow.graph import Pipeline
from autostop_lab.dataflow.progress import Progress
from autostop_lab.exceptions import ConfigurationError
from autostop_lab.origin import Origin
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.runtime import Exit, Runtime, details_of
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.spec import ServiceSpec
from autostop_lab.supervisor.supervisor import Supervisor
from autostop_lab.testing.clock import FakeClock

#: How a crash ends a service, where a script does not say otherwise.
CRASH = Exit(code=1)


@dataclass(frozen=True, kw_only=True)
class Script:
    """What one life of a `FakeService` does. Durations are in seconds; ``math.inf`` hangs.

    Parameters
    ----------
    ready_after_s : float
        From launch to ready.
    start_error : BaseException or None
        What the start raises then, in place of being ready.
    ends_after_s : float or None
        From ready to its end by itself; None is never.
    exit : Exit
        How it ends by itself.
    run_s, run_error
        How long one run of a schedule takes, and what it raises then.
    stop_s, stop_error
        How long the polite stop takes, beside a run that goes on, and what it raises then.
    kill_s : float
        How long it takes to die when killed.
    cleanup_s, cleanup_error
        How long its cleanup takes, and what it raises then.
    health : sequence
        What looks at its health find, one after another, the last for good; nothing is healthy. Each is what a
        ``health_check()`` returns, an exception that it raises, or, as a float, how long it takes.
    """

    ready_after_s: float = 0.0
    start_error: BaseException | None = None
    ends_after_s: float | None = None
    exit: Exit = CRASH
    run_s: float = 0.0
    run_error: BaseException | None = None
    stop_s: float = 0.0
    stop_error: BaseException | None = None
    kill_s: float = 0.0
    cleanup_s: float = 0.0
    cleanup_error: BaseException | None = None
    health: Sequence[Any] = ()


class FakeService:
    """A service that follows a script and writes down what is done with it.

    Parameters
    ----------
    name : str
        Its name.
    *scripts : Script
        One for each of its lives; the last is for all further ones, too.
    **policy
        Fields of its `ServicePolicy`.

    Attributes
    ----------
    diary : list of (float, str)
        When it was done, in seconds on the loop's clock, and what: ``"launch"``, ``"ready"``, ``"health"``,
        ``"run"``, ``"end"`` (by itself), ``"stop"``, ``"kill"``, ``"gone"``, ``"cleanup"``, ``"release"``.
    lives : list of FakeRuntime
        Its lives so far.
    script : Script
        What the next life follows when the given ones are used up; may be replaced at any time.
    most_at_once, most_runs_at_once : int
        How many lives, and how many runs of a schedule, there ever were at the same time.
    """

    def __init__(self, name: str, *scripts: Script, **policy: Any) -> None:
        self.name = name
        self.spec = ServiceSpec(name=name, target=FakeService, policy=ServicePolicy(**policy))
        self.diary: list[tuple[float, str]] = []
        self.lives: list[FakeRuntime] = []
        self.script = scripts[-1] if scripts else Script()
        self.most_at_once = 0
        self.most_runs_at_once = 0
        self._scripts = list(scripts)

    def times(self, what: str) -> list[float]:
        """Return when something was done, in seconds on the loop's clock."""
        return [at for at, done in self.diary if done == what]

    def count(self, what: str) -> int:
        """Return how often something was done."""
        return len(self.times(what))

    @property
    def life(self) -> FakeRuntime:
        """Its life now, or the last one."""
        return self.lives[-1]

    @property
    def live_count(self) -> int:
        """How many lives it has now."""
        return sum(life.is_there for life in self.lives)

    def end(self, how: Exit = CRASH) -> None:
        """Let it end by itself, now; without a life that is ready nothing happens."""
        if self.lives and self.life.is_ready:
            self.life.end(how)

    def touch(self) -> None:
        """Use it now, as a call does."""
        self.life.last_used_s = asyncio.get_running_loop().time()

    def _next_script(self) -> Script:
        return self._scripts.pop(0) if self._scripts else self.script

    def _write(self, what: str) -> None:
        self.diary.append((asyncio.get_running_loop().time(), what))


class _FakeEndpoint:
    """Takes calls, notes that it was used, and returns None."""

    host: str | None = None
    port: int | None = None

    def __init__(self, life: FakeRuntime) -> None:
        self.ports: dict[str, int] = {}
        self._life = life

    def methods(self) -> Iterable[str]:
        return ()

    def bind(self, method: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: None


class FakeRuntime(Runtime):
    """One life of a `FakeService`.

    Attributes
    ----------
    is_there : bool
        Whether it has been launched and is not gone.
    is_ready : bool
        Whether it has become ready and has not ended.
    is_busy : bool
        Whether a call is inside, so that it is not idle.
    last_used_s : float
        When it was used last, in seconds on the loop's clock.
    """

    def __init__(self, slot: ServiceSlot, service: FakeService) -> None:
        super().__init__(slot)
        self._service = service
        self._script = service._next_script()
        self._loop = asyncio.get_running_loop()
        self._looks = list(self._script.health)
        self._run: asyncio.Task[None] | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._was_killed = False
        self.is_there = False
        self.is_ready = False
        self.is_busy = False
        self.last_used_s = self._loop.time()
        service.lives.append(self)

    async def launch(self) -> None:
        """Become ready, or fail."""
        self.phase = "start"
        self.is_there = True
        self._service._write("launch")
        self._service.most_at_once = max(self._service.most_at_once, self._service.live_count)
        await _take(self._script.ready_after_s, self._script.start_error)
        self._service._write("ready")
        self.is_ready = True
        self.last_used_s = self._loop.time()
        self.endpoint = _FakeEndpoint(self)
        if self._script.ends_after_s is not None:
            self._end_timer = self._loop.call_later(self._script.ends_after_s, self.end, self._script.exit)

    def end(self, how: Exit) -> None:
        """End by itself, unless it follows a schedule: then only its runs end."""
        if self.is_there and not self.exited.done() and self.slot.spec.policy.cron is None:
            self._service._write("end")
            self.is_there = self.is_ready = False
            self.note_exit(how)

    async def run_once(self) -> None:
        """Do one run; who no longer waits for it does not end it."""
        self._run = asyncio.ensure_future(self._do_run())
        self._run.add_done_callback(lambda run: run.cancelled() or run.exception())
        runs = sum(life._run is not None and not life._run.done() for life in self._service.lives)
        self._service.most_runs_at_once = max(self._service.most_runs_at_once, runs)
        await asyncio.shield(self._run)

    async def _do_run(self) -> None:
        self._service._write("run")
        await _take(self._script.run_s, self._script.run_error)

    async def idle_for_s(self) -> float:
        """Return for how long it was not used."""
        return 0.0 if self.is_busy else self._loop.time() - self.last_used_s

    async def stop(self) -> None:
        """Stop, and wait for a run that goes on."""
        self.phase = "stop"
        self._service._write("stop")
        await _take(self._script.stop_s)
        if self._run is not None:
            await asyncio.wait({self._run})
        self._go()
        if self._script.stop_error is not None:
            raise self._script.stop_error

    async def kill(self) -> None:
        """Die."""
        if not self.is_there:
            return
        self._service._write("kill")
        self._was_killed = True
        await _take(self._script.kill_s)
        if self._run is not None:
            self._run.cancel()
        self._go()

    async def settle(self) -> None:
        """Leave nothing behind."""

    def _go(self) -> None:
        self.is_there = self.is_ready = False
        self._service._write("gone")

    async def cleanup(self) -> None:
        """Clean up."""
        self.phase = "cleanup"
        self._service._write("cleanup")
        await _take(self._script.cleanup_s, self._script.cleanup_error)

    def release(self) -> None:
        """Let go of everything."""
        self.endpoint = None
        self.is_ready = False
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.note_exit(Exit())
        self._service._write("release")

    @property
    def has_health_check(self) -> bool:
        """Whether there is anything to look at: always."""
        return True

    async def examine(self) -> dict[str, Any]:
        """Look at it once, as its script says."""
        self._service._write("health")
        answer: Any = self._looks[0] if self._looks else True
        if len(self._looks) > 1:
            del self._looks[0]
        if isinstance(answer, float):
            await _take(answer)
            return {}
        if isinstance(answer, BaseException):
            raise answer
        return details_of(answer)

    def survivor(self) -> str:
        """Return what is left of it."""
        return f"life {self._service.lives.index(self) + 1} of fake service {self.slot.name!r}" if self.is_there else ""

    @property
    def was_forced(self) -> bool:
        """Whether it was killed."""
        return self._was_killed


async def _take(duration_s: float, error: BaseException | None = None) -> None:
    """Take some time, or for ever, then raise `error` if there is one."""
    if math.isinf(duration_s):
        await asyncio.get_running_loop().create_future()
    if duration_s > 0:
        await asyncio.sleep(duration_s)
    if error is not None:
        raise error


class _NoOrders:
    """A fake service is told what to do by its supervisor, not by its handle."""

    def _refuse(self, name: str) -> NoReturn:
        raise ConfigurationError(f"fake service {name!r} takes its orders from its supervisor, not from a handle.")

    start_service = wake_service = stop_service = restart_service = kill_service = check_service = _refuse


def fake_supervisor(clock: FakeClock, *services: FakeService, jitter: Callable[[], float] = lambda: 0.0) -> Supervisor:
    """Return a real supervisor of fake services; call it in a coroutine that `clock` runs.

    Parameters
    ----------
    clock : FakeClock
        Its time, and for schedules the clock on its wall.
    *services : FakeService
        What it keeps.
    jitter : callable
        Returns a number between -1 and 1, for the pauses before restarts.

    Returns
    -------
    Supervisor
        The supervisor; nothing is started yet.
    """
    by_name = {service.name: service for service in services}

    def make(slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> Runtime:
        return FakeRuntime(slot, by_name[slot.name])

    supervisor = Supervisor(runtimes={"thread": make}, wall_clock=clock.wall, jitter=jitter)
    for service in services:
        supervisor.add(ServiceSlot(service.spec, _NoOrders()))
    return supervisor


class FakeEngine:
    """An engine that runs nothing: it returns or raises what it was given.

    Put it into an environment with ``env.engine = FakeEngine(...)``.

    Parameters
    ----------
    *outcomes
        One for each run, the last for all further ones: an exception is raised; a callable is called with the run's
        `Control` (so it can wait for ``control.stopping``) and its value returned; anything else is returned.

    Attributes
    ----------
    runs : list of tuple of Pipeline
        The pipelines of each run so far.
    """

    name = "fake"

    def __init__(self, *outcomes: Any) -> None:
        self._outcomes = list(outcomes)
        self.runs: list[tuple[Pipeline, ...]] = []

    def run(
        self,
        pipelines: Sequence[Pipeline],
        *,
        control: Control,
        progress: Progress,
        services: Callable[[str], ServiceHandle],
    ) -> Any:
        """Return or raise the next outcome; see `autostop_lab.engines.Engine.run`."""
        self.runs.append(tuple(pipelines))
        outcome = self._outcomes[0] if self._outcomes else None
        if len(self._outcomes) > 1:
            del self._outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome(control) if callable(outcome) else outcome
