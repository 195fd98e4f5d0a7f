"""Replicas in processes of their own: each is a service of the run, so it is guarded, watched and ended as those are.

Functions, records and exceptions travel; queues, order, counts and dead letters stay here. A replica here sends a
batch, and takes what becomes of it as if its own loop had made it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autostop_lab.dataflow.fuse import fuse
from autostop_lab.dataflow.graph import Operator
from autostop_lab.dataflow.settings import DeadLetter, Settings
from autostop_lab.dataflow.stages import Routing, Stage
from autostop_lab.engines.halt import DiscardedError
from autostop_lab.engines.objects import FindService, note
from autostop_lab.engines.replica import Program, Replica
from autostop_lab.engines.stage_host import Part, StageHost
from autostop_lab.exceptions import PipelineError, ServiceError, ServiceStartError
from autostop_lab.origin import Origin
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.slot import HealthResult, ServiceSlot
from autostop_lab.services.spec import spec_of_class
from autostop_lab.services.travel import obstacle, unpack_error
from autostop_lab.supervisor.loop import LoopThread, supervisor_loop
from autostop_lab.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from autostop_lab.engines.local import PipelineRun

#: How long functions have to open, and to close, in seconds; a cancel waits for neither.
OPEN_S, CLOSE_S = 600.0, 10.0
#: How long a replica that is discarded has to end by itself, in seconds.
DISCARD_S = 0.5


def travelling(operator: Operator) -> Operator:
    """Return an operator as it travels: who takes its dead letters stays here."""
    settings: Settings = operator.settings
    if not isinstance(settings.last_resort, DeadLetter):
        return operator
    retry = settings.retry
    return replace(
        operator, settings=replace(settings, on_error=replace(retry, then="skip") if retry is not None else "skip")
    )


class ProcessReplica(Replica):
    """A replica whose functions live in another process."""

    def __init__(self, run: PipelineRun, stage: Stage, index: int) -> None:
        super().__init__(run, stage, index)
        exits = tuple(
            (one, len(run.queues[hop]) if one.routing is Routing.HASH else 1)
            for one, hop in zip(self._exits, run.plan.out_of(stage), strict=True)
        )
        has_keys = any(hop.has_keys for hop in run.plan.into(stage))
        operators = tuple(map(travelling, self._operators))
        handles = {name: run.services(name) for name in names_of(run.services)}
        self.part = Part(run.pipeline.number, operators, exits, has_keys, handles)
        self.handle: ServiceHandle | None = None
        self._tags: dict[Program, int] = {}
        self._takers: dict[int, Callable[[Exception, Any, int], None]] = {}

    def _make_functions(self) -> None:
        """They are made where they live."""

    def _bind(self, tag: int) -> Program:
        steps = self._steps()
        loop = fuse(steps, self._exits, has_keys=self.part.has_keys)
        self._takers = {
            place: self._taker_of_failures(operator)
            for place, operator in enumerate(self._operators)
            if steps[place].is_guarded
        }
        program = Program(loop, refuse_batch, self._meter(steps))
        self._tags[program] = tag
        return program

    def _run_batch(self, program: Program, gate: list[int], records: Iterator[Any]) -> tuple[tuple[int, ...], float]:
        __tracebackhide__ = True
        first = self._taken
        batch = [record for _, record in zip(gate, records, strict=False)]
        if not batch:
            return (first, *(0 for _ in program.loop.counters)), 0.0
        started_s = time.perf_counter()
        answer = self._ask("work", self._tags[program], batch)
        elapsed_s = time.perf_counter() - started_s
        if answer.printed:
            sys.stdout.write(answer.printed)
        for place, record, index, packed in answer.dropped:
            error = unpack_error(packed, self.name)
            self._takers[place](error, record, first + index)  # type: ignore[arg-type]  # it was caught as one
        for outlet, made, marks in zip(self._outlets, answer.records, answer.marks, strict=True):
            outlet.records.extend(made)
            outlet.marks.extend([first + mark for mark in marks] if first else marks)
        if answer.failure is not None:
            failure = answer.failure
            counts = (failure.counts[0] + first, *failure.counts[1:])
            error = unpack_error(answer.error, self.name)
            self._fail(error, replace(failure, counts=counts, index=failure.index + first))
            raise error
        return (answer.counts[0] + first, *answer.counts[1:]), elapsed_s

    def _ask(self, method: str, *args: Any) -> Any:
        __tracebackhide__ = True
        assert self.handle is not None
        try:
            return self.handle.call(method, *args)
        except ServiceError as error:
            self._run.halt.check()  # then it was ended by us
            note(error, f"{self.name}, in its process")
            raise

    def _close(self, failure: BaseException | None) -> BaseException | None:
        """Close the functions where they live; where something failed, the end of the process does."""
        if failure is not None or self._run.halt.is_ordered or self.handle is None:
            return failure
        try:
            packed = self._ask("finish")
        except DiscardedError:
            return None
        except BaseException as error:
            return error
        return unpack_error(packed, self.name) if packed else None


def refuse_batch(gate: list[int], records: Iterator[Any]) -> tuple[int, ...]:
    """Stand for a loop that is in another process."""
    raise AssertionError("this loop runs in another process")


class Hosts:
    """The processes of one run.

    Parameters
    ----------
    run : PipelineRun
        Whose they are.
    """

    def __init__(self, run: PipelineRun) -> None:
        self._run = run
        self._loop: LoopThread | None = None
        self._supervisor: Supervisor | None = None
        self._names: list[str] = []
        self._shown: list[str] = []

    def start(self, replicas: Sequence[Replica]) -> None:
        """Start the processes of those replicas that live in one.

        Raises
        ------
        BaseException
            What an operator's constructor or ``open()`` raised; all are ended then.
        """
        mine = [replica for replica in replicas if isinstance(replica, ProcessReplica)]
        if not mine:
            return
        slots = [self._slot(replica, number) for number, replica in enumerate(mine)]
        self._loop = supervisor_loop()
        self._supervisor = self._loop.run(make_supervisor(slots))
        self._names = [slot.name for slot in slots]
        self._run.halt.on_abort(self._discard)
        starting = self._loop.submit(self._supervisor.start(self._names, Origin()))
        while not starting.done() and not self._run.halt.is_ordered:
            try:
                starting.result(0.05)
            except TimeoutError:
                continue
            except BaseException:
                break
        self._run.halt.check()
        error = starting.exception()
        if error is not None:
            raise first_cause(error)
        for replica, slot in zip(mine, slots, strict=True):
            replica.handle = ServiceHandle(slot)
            if (pid := slot.vitals().pid) is not None:
                self._run.control.pids[replica.name] = pid
                self._shown.append(replica.name)

    def _slot(self, replica: ProcessReplica, number: int) -> ServiceSlot:
        parts = [(self._run.pipeline.label(one), one) for one in replica.part.operators]
        found = obstacle([(label, (one.function, one.args, dict(one.kwargs))) for label, one in parts])
        if found:
            raise PipelineError(f"{found}. Make it within the function, or leave runtime='process' out.")
        policy = ServicePolicy(
            start_timeout_s=OPEN_S,
            stop_timeout_s=CLOSE_S,
            call_timeout_s=OPEN_S,
        ).inherit(None)
        spec = spec_of_class(
            f"{replica.name} [{number + 1}]",
            StageHost,
            (replica.part,),
            {},
            runtime="process",
            default_runtime="process",
            options=None,
            policy=policy,
        )
        return ServiceSlot(spec, NoOrders())

    def _discard(self) -> None:
        if self._loop is not None and self._supervisor is not None:
            supervisor = self._supervisor
            self._loop.submit(supervisor.stop(self._names, reason="discarded", timeout_s=DISCARD_S))

    def stop(self) -> None:
        """End all processes, and return when they are gone."""
        if self._loop is None or self._supervisor is None:
            return
        for name in self._shown:
            self._run.control.pids.pop(name, None)
        timeout_s = DISCARD_S if self._run.halt.is_ordered else None
        self._loop.run(self._supervisor.stop_all(reason="the pipeline has ended", timeout_s=timeout_s, is_final=True))
        self._loop = None


def first_cause(error: BaseException) -> BaseException:
    """Return what a process failed to start with: the user's own exception, where there is one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ServiceStartError) and error.__cause__ is not None:
        return error.__cause__
    return error


def names_of(services: FindService) -> Sequence[str]:
    """Return the names of all services of the job."""
    names: Callable[[], Sequence[str]] = getattr(services, "names", tuple)
    return names()


async def make_supervisor(slots: Sequence[ServiceSlot]) -> Supervisor:
    """Return a supervisor of its own for these services."""
    supervisor = Supervisor()
    for slot in slots:
        supervisor.add(slot)
    return supervisor


class NoOrders:
    """A replica is told what to do by its run alone."""

    def _refuse(self, name: str) -> Any:
        raise ServiceError(f"{name!r} belongs to a running pipeline, which starts and ends it.", service=name)

    start_service = wake_service = stop_service = restart_service = kill_service = _refuse

    def check_service(self, name: str) -> HealthResult:
        """Refuse to look at it."""
        result: HealthResult = self._refuse(name)
        return result


