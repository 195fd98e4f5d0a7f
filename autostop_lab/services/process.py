"""Runtime ``process``: a Python object in a child process of ours.

It lives in a host, which can be killed; so whatever hangs in it, all of it is gone in the end.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from os import fspath
from typing import Any

from autostop_lab.exceptions import ServiceStopError
from autostop_lab.origin import Origin
from autostop_lab.reaper.guard import GuardError, current_guard
from autostop_lab.reaper.lease import Lease
from autostop_lab.services import hosted
from autostop_lab.services.child import Child, LaunchError
from autostop_lab.services.children import ChildRuntime
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.hosting import EXIT_S, HostGoneError, HostProcess
from autostop_lab.services.logs import SERVICE_LOGGER
from autostop_lab.services.pool import HostedEndpoint
from autostop_lab.services.remote import find_from
from autostop_lab.services.runtime import Exit, UnhealthyError, describe_error, details_of
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.switchboard import finders
from autostop_lab.services.threads import call_in_thread
from autostop_lab.services.travel import unpack_error

#: How long a host may take to answer before it counts as stuck when it is to be killed, in seconds.
ANSWER_S = 1.0
#: What Python says where the memory of a thread's stack is not to be had.
NO_THREAD = "can't start new thread"
#: How long a host may take to say where its threads are, in seconds.
WHERE_S = 0.3


class ProcessRuntime(ChildRuntime):
    """One life of a Python object in a child process.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    origin : Origin
        Under whose cell its threads run.
    find_service : callable
        ``name -> ServiceHandle`` for what it depends on.
    """

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot)
        self.origin = origin
        self.guard = current_guard()
        self.instance = self.guard.session.new_instance(slot.name)
        self.needed = frozenset(slot.spec.policy.depends_on)
        self.host = HostProcess(f"service {slot.name!r}", self.instance, slot.ring, origin, self._hear)
        self._loop = asyncio.get_running_loop()
        self._find_service = find_service
        self._begun: hosted.Begun | None = None
        self.first_line = slot.ring.mark
        self._has_begun_object = False
        self._is_forced = False
        self._is_dismissed = False
        self._upper = logging.getLogger(SERVICE_LOGGER)

    # -- start ---------------------------------------------------------------------------------------------

    async def launch(self) -> None:
        """Launch the host, make the object in it and call its ``start()``; begin its ``run()`` if it has one."""
        spec = self.slot.spec
        options, environment = spec.options, self.environment_with(spec.options.get("env", {}))
        self.slot.ring.hide(spec.secret_texts(environment))
        cwd = fspath(options["cwd"]) if options.get("cwd") is not None else None
        with suppress(GuardError):  # the launch says it
            self.guard.begin()  # it takes a while, and only the launch has to wait for it
        try:
            await self.host.launch(
                environment=environment,
                cwd=cwd,
                memory_limit_mb=options.get("memory_limit_mb"),
                on_launch=self._register,
            )
            self.host.exited.add_done_callback(self._note_host_exit)
            self.phase = "construct"
            finders[self.instance.id] = self._find_service
            self._has_begun_object = True
            self._begun = await self.host.ask(partial(hosted.begin, recipe=self._recipe()))
        except LaunchError as error:
            raise self.start_error(str(error)) from error.__cause__
        except GuardError as error:
            raise self.unguarded(error) from error
        except HostGoneError as error:
            raise self.start_error(f"its process ended with {error} before it was ready{self._limit}") from None
        except (MemoryError, RuntimeError) as error:
            if not self._limit or not (isinstance(error, MemoryError) or str(error) == NO_THREAD):
                raise
            where = "its constructor" if self.phase == "construct" else f"{self.phase}()"
            raise self.start_error(f"{where} raised {describe_error(error)}{self._limit}") from error
        self.endpoint = HostedEndpoint(
            self.slot, self.host.connect, self._begun.methods, self.host.is_over, self.host.exited.result
        )

    @property
    def _limit(self) -> str:
        """What is added to the text of an error that a limit of its memory may explain."""
        limit_mb = self.slot.spec.options.get("memory_limit_mb")
        return f"; it may take memory_limit_mb={limit_mb:g}, raise that in runtime_options" if limit_mb else ""

    def _register(self, child: Child) -> None:
        """Have the reaper know the host, which then stops and cleans by itself."""
        policy = self.slot.spec.policy
        leader = child.leader if child.is_pinned else None
        lease = Lease(
            instance_id=self.instance.id,
            name=self.slot.name,
            kind="process",
            pid=leader.pid if leader is not None else None,
            started=leader.started if leader is not None else "",
            stop_grace_s=policy.stop_timeout_s + policy.cleanup_timeout_s + EXIT_S,
            kill_timeout_s=policy.kill_timeout_s,
            depends_on=tuple(sorted(self.needed)),
            scope=f"{id(self.slot.orders):x}",
            folder=str(self.instance.folder),
        )
        self.guard.register(lease, child.output)

    def _recipe(self) -> hosted.Recipe:
        spec, policy = self.slot.spec, self.slot.spec.policy
        return hosted.Recipe(
            name=spec.name,
            key=self.slot.key,
            folder=self.instance.folder,
            target=spec.target,
            args=spec.args,
            kwargs=spec.kwargs,
            limit=policy.max_concurrent_calls,
            call_timeout_s=policy.call_timeout_s,
            stop_timeout_s=policy.stop_timeout_s,
            cleanup_timeout_s=policy.cleanup_timeout_s,
            is_scheduled=policy.cron is not None,
            notes_use=policy.idle_timeout_s is not None,
            finder=pickle.dumps(partial(find_from, self.host.address, self.instance.id)),
        )

    # -- what it tells by itself ---------------------------------------------------------------------------

    def _hear(self, what: str, *values: Any) -> None:
        """Take up what the host tells; called in a thread that reads it."""
        if what == "log":
            self._take_log(*values)
        elif what == "phase":
            (self.phase,) = values
        elif what == "ended":
            (packed,) = values
            error = unpack_error(packed, self.slot.name) if packed is not None else None
            self._loop.call_soon_threadsafe(self.note_exit, Exit(error=error))

    def _take_log(self, level: int, message: str, more: str) -> None:
        ring = self.slot.ring
        ring.write(f"{logging.getLevelName(level)} {message}{more}")
        if self._upper.isEnabledFor(level) and self._upper.hasHandlers():
            name = f"{SERVICE_LOGGER}.{self.slot.name}"
            self._upper.handle(logging.LogRecord(name, level, "", 0, ring.mask(message + more), None, None))

    def _note_host_exit(self, exited: asyncio.Future[Exit]) -> None:
        if isinstance(self.endpoint, HostedEndpoint):
            self.endpoint.pool.cut()
        self.note_exit(exited.result())

    # -- end -----------------------------------------------------------------------------------------------

    async def _ask(self, what: str, *args: Any) -> Any:
        return await self.host.ask(partial(hosted.ask, what=what, args=args))

    async def run_once(self) -> None:
        """Call ``run()`` in a thread of its own."""
        try:
            await self._ask("run_once")
        except HostGoneError as error:
            raise self.start_error(f"its process ended with {error} during its run") from None

    async def idle_for_s(self) -> float:
        """Return for how long no call has been inside; 0 while one is, or while its ``is_idle()`` says no."""
        idle_s: float = await self._ask("idle_for_s")
        return idle_s

    async def stop(self) -> None:
        """Refuse new calls, let those inside finish within half of the grace period, call ``stop()``."""
        self.phase = "stop"
        if not self._is_reachable:
            return
        try:
            await self._ask("stop")
        except HostGoneError as error:
            raise self._stop_error(f"its process ended with {error} while it was stopped") from None

    @property
    def _is_reachable(self) -> bool:
        """Whether something lives in the host that can be asked to end."""
        return self._has_begun_object and not self.host.exited.done()

    def _stop_error(self, problem: str) -> ServiceStopError:
        return ServiceStopError(
            self.slot.ring.mask(f"service {self.slot.name!r}: {problem}"),
            service=self.slot.name,
            phase=self.phase,
            exit_code=self.exit_code,
            log_lines=self.slot.ring.last_words(since=self.first_line),
        )

    async def kill(self) -> None:
        """Let it come to its ``cleanup()`` if it still answers, after which it is killed; else kill it now."""
        self._is_forced = self._is_forced or self._begun is not None or self.phase == "stop"
        patience_s = min(ANSWER_S, self.slot.spec.policy.kill_timeout_s / 2)
        try:
            if self._is_reachable:
                await asyncio.wait_for(self._ask("cancel"), patience_s)
                return
        except HostGoneError:
            pass
        except TimeoutError:
            self._is_forced = True
        await self.host.end(is_polite=False, timeout_s=patience_s)

    async def settle(self) -> None:
        """Refuse further calls; what a process that has ended left behind is ended, politely first."""
        if self.host.exited.done():
            await self.host.end(is_polite=True, timeout_s=self.slot.spec.policy.stop_timeout_s)
        elif self._is_reachable:
            with suppress(HostGoneError):
                await self._ask("refuse_calls")

    async def cleanup(self) -> None:
        """Call its ``cleanup()``, however it ended."""
        self.phase = "cleanup"
        if not self._has_begun_object:
            return
        try:
            if not self._is_reachable:
                raise HostGoneError(str(self.host.exited.result()))
            await self._ask("clean")
        except HostGoneError as error:
            if self._begun is None or self._begun.has_cleanup:
                raise self._stop_error(f"its process ended with {error}, so its cleanup() could not run") from None

    async def dismiss(self) -> None:
        """End the host and its whole tree, and remove its folder."""
        self._is_dismissed = True
        await self.host.end(is_polite=not self._is_forced, timeout_s=self.slot.spec.policy.kill_timeout_s)
        if self.instance.has_folder:
            name = f"folder of service {self.slot.name}"
            await call_in_thread(self.instance.remove, origin=self.origin, name=name, or_here=True)

    def release(self) -> None:
        """Let go of the process, its connections and its folder."""
        if isinstance(self.endpoint, HostedEndpoint):
            self.endpoint.pool.close()
        self.endpoint = None
        self.host.release()
        finders.pop(self.instance.id, None)
        if not self.host.left:  # else the reaper tries again when this process has ended
            self.guard.release(self.instance.id)
        self.instance.remove()
        self.note_exit(Exit())

    # -- looks ---------------------------------------------------------------------------------------------

    @property
    def has_health_check(self) -> bool:
        """Whether it has a ``health_check()``."""
        return self._begun is not None and self._begun.has_health_check

    async def examine(self) -> dict[str, Any]:
        """Look at its process, and at its ``health_check()`` if it has one."""
        details: dict[str, Any] = {"pid": self.pid}
        try:
            if self.host.exited.done():
                raise HostGoneError(str(self.host.exited.result()))
            if self.has_health_check:
                details.update(details_of(await self._ask("check_health", self.slot.spec.policy.look_timeout_s)))
        except HostGoneError as error:
            raise UnhealthyError(f"its process ended with {error}") from None
        return details

    def waiting_for(self) -> str:
        """Return in words what `launch` waits for now."""
        return "its process did not come up" if self.phase == "launch" else super().waiting_for()

    async def where(self) -> str:
        """Return where its code is now, in words and in traceback form, if its host still answers."""
        place = None
        if self._is_reachable:
            with suppress(Exception):
                place = await asyncio.wait_for(self._ask("where"), WHERE_S)
        return self.slot.ring.mask(place or "")

    def survivor(self) -> str:
        """Return the pids that are still there; "" if none is."""
        left = self.host.left if self._is_dismissed else []  # until then it is to be there
        return f"still there: pid {', '.join(map(str, left))}" if left else ""

    @property
    def exit_code(self) -> int | None:
        """Exit status of its process; None while it runs."""
        return self.host.exited.result().code if self.host.exited.done() else None

    @property
    def contain(self) -> str:
        """How its process is contained; "" before it was launched."""
        return self.host.containment

    @property
    def was_forced(self) -> bool:
        """Whether anything of it had to be killed."""
        return self._is_forced or self.host.was_killed or self.host.killed_others

    @property
    def pid(self) -> int | None:
        """Pid of its process; None before it was launched."""
        return self.host.pid
