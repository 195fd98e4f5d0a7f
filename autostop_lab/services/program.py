"""Runtime of `Command`: a program in a session of its own, ended with its whole tree.

The program carries our id in its environment and holds our marker file open, so that whatever it leaves behind
can be found. It is reaped only when its tree is gone.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from os import fspath
from typing import Any

from autostop_lab.exceptions import ServiceStartError, ServiceStopError
from autostop_lab.origin import Origin
from autostop_lab.reaper.guard import GuardError
from autostop_lab.reaper.lease import Lease
from autostop_lab.reaper.processes import listener_pids
from autostop_lab.services.child import Child, LaunchError, launch_problem
from autostop_lab.services.children import ChildRuntime
from autostop_lab.services.command import MAIN_PORT, Command, CommandEndpoint, fill, placeholders
from autostop_lab.services.handle import ServiceHandle
from autostop_lab.services.logs import LogRing
from autostop_lab.services.ports import free_ports, takers_of
from autostop_lab.services.probes import NotReadyError, Probe
from autostop_lab.services.runtime import Exit, LocalRuntime, UnhealthyError, details_of
from autostop_lab.services.scarcity import way_out
from autostop_lab.services.service import construct, hook
from autostop_lab.services.slot import ServiceSlot
from autostop_lab.services.sweep import Tree, sweeper
from autostop_lab.services.threads import HookThread, mark_retrieved

#: Starts of one program when others take its chosen ports before it can.
PORT_TRIES = 4
#: Pauses between looks of a readiness probe, in seconds: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
#: Longest look at who belongs to a program before it is sent a signal, in seconds; on a machine that is too slow
#: for that, the signal goes out all the same.
LOOK_TIMEOUT_S = 0.5
#: What is shown of the output of ``stop_argv``, in bytes.
SHOWN_STOP_BYTES = 65536


class PortLostError(Exception):
    """A port is served by somebody else; a chosen one was taken between choosing and listening."""


class Launched:
    """A program that was launched, as its readiness probe sees it."""

    def __init__(self, runtime: ProgramRuntime) -> None:
        self._runtime = runtime

    @property
    def command(self) -> Command:
        """The command itself."""
        return self._runtime.command

    @property
    def ring(self) -> LogRing:
        """Its log lines."""
        return self._runtime.slot.ring

    def texts_of_this_life(self) -> tuple[str, ...]:
        """Return the lines since it was launched, oldest first."""
        return self._runtime.texts()

    def fill(self, text: str) -> str:
        """Replace placeholders."""
        return self._runtime.fill(text)

    def in_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `function` in a daemon thread."""
        return self._runtime.in_thread(function, "probe")

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call a function of the user in a daemon thread; if it is a coroutine function, its value is awaited."""
        return self.in_thread(lambda: self._runtime.coroutines.finish(function()))

    async def check_listener(self, port: int) -> None:
        """Refuse an answer that came from somebody else's process."""
        pids = await self.in_thread(lambda: listener_pids(port))
        if pids and pids.isdisjoint(await self._runtime.known_pids()):
            raise PortLostError(
                f"port {port} is answered by pid {min(pids)}, which is not part of the service (where another program "
                "listens for it, as docker does, use LogReady or CallReady)"
            )


class ProgramRuntime(ChildRuntime, LocalRuntime):
    """One life of a program.

    Parameters
    ----------
    slot : ServiceSlot
        Whose life it is.
    origin : Origin
        Under whose cell output of its hooks appears.
    find_service : callable
        ``name -> ServiceHandle`` for what it depends on.
    """

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot, origin, find_service)
        self._launcher = HookThread(origin, f"launch of service {slot.name}")
        self._launching: asyncio.Future[Any] | None = None
        self._cleaner: HookThread | None = None
        self._probe: Probe | None = None
        self._port_names: list[str] = []
        self._chosen_ports: dict[str, int] = {}
        self.first_line = slot.ring.mark
        self._child: Child | None = None
        self._tree: Tree | None = None
        self._helper: subprocess.Popen[bytes] | None = None
        self._looks = 0
        self._last_look = ""
        self._was_killed = False
        self._last_busy_s = time.monotonic()

    @property
    def command(self) -> Command:
        """The command of this life."""
        command: Command = self.service
        return command

    # -- start ---------------------------------------------------------------------------------------------

    async def launch(self) -> None:
        """Launch the program, unless a schedule does that, and return when its probe is answered."""
        with suppress(GuardError):  # the launch says it
            self.guard.begin()  # it takes a while, and only the launch has to wait for it
        await self._in_launcher(self._construct)
        if self.slot.spec.policy.cron is None:
            await self._bring_up()
            self._launcher.close()
        self.endpoint = CommandEndpoint(self.command, self.slot.spec.methods, self.coroutines)

    async def run_once(self) -> None:
        """Launch the program and wait until it and its tree have ended."""
        if self._tree is not None:
            self._forget_launch()
        await self._bring_up()
        end = await asyncio.shield(self.exited)
        await self.settle()
        if not end.is_clean:
            raise self.start_error(f"its run ended with {end}")

    async def idle_for_s(self) -> float:
        """Return for how long its ``is_idle()`` has said yes."""
        if not await self.in_thread(lambda: self.call_hook("is_idle"), "idleness"):
            self._last_busy_s = time.monotonic()
        return time.monotonic() - self._last_busy_s

    async def _bring_up(self) -> None:
        """Launch the program and wait until its probe is answered; a port lost to others is chosen anew."""
        for attempt in range(PORT_TRIES):
            self.phase = "launch"
            self._choose_ports()
            await self._refuse_taken_port()
            try:
                await self._in_launcher(self._popen)
                self._adopt_child()
                self.phase = "ready"
                await self._wait_ready()
            except (PortLostError, ServiceStartError) as error:
                if not await self._has_lost_port(error):
                    if isinstance(error, PortLostError):
                        raise self.start_error(str(error)) from error
                    raise
                if attempt == PORT_TRIES - 1:
                    raise self.start_error(f"each of {PORT_TRIES} chosen ports was taken by others first") from error
                await self._undo_launch()
            else:
                return

    async def _in_launcher(self, function: Callable[[], None]) -> None:
        self._launching = self._launcher.call(function)
        await asyncio.shield(self._launching)

    def _construct(self) -> None:
        spec = self.slot.spec
        command: Command = construct(spec.target, spec.args, spec.kwargs, self.context)
        command._autostop_check(self.slot.name)
        self._port_names = sorted(
            name for name in placeholders(command._autostop_texts()) if name.startswith(MAIN_PORT)
        )
        self._probe = command.ready
        self.service = command

    def _choose_ports(self) -> None:
        try:
            for name in self._port_names:
                self._chosen_ports[name] = free_ports.choose(self.command.host)
        except OSError as error:
            problem = f"no free port could be looked for ({error})"
            raise self.start_error(". ".join(filter(None, [problem, way_out(error)]))) from error
        self.command._autostop_attach(
            self.context,
            port=self._chosen_ports.get(MAIN_PORT, self._fixed_port),
            ports={name.removeprefix("port:"): port for name, port in self._chosen_ports.items() if ":" in name},
        )

    @property
    def _fixed_port(self) -> int | None:
        return self._probe.fixed_port if self._probe is not None else None

    def fill(self, text: str) -> str:
        """Replace placeholders in `text`."""
        values: dict[str, Callable[[], object]] = {
            "host": lambda: self.command.host,
            "workdir": lambda: self.instance.workdir,
            **{name: lambda port=port: port for name, port in self._chosen_ports.items()},  # type: ignore[misc]
        }
        return fill(text, values)

    async def _refuse_taken_port(self) -> None:
        port = self._fixed_port
        if port is None:
            return
        pids = await self.in_thread(lambda: takers_of(self.command.host, port), "port")
        if pids is not None:
            owner = f" by pid {min(pids)}" if pids else ""
            raise self.start_error(
                f"port {port} is taken{owner} already. End that program, or write {{port}} to have a free one chosen"
            )

    def _popen(self) -> None:
        command = self.command
        argv = [self.fill(fspath(word)) for word in command.argv]
        cwd = self.fill(fspath(command.cwd)) if command.cwd is not None else None
        environment = self._environment()
        self.slot.ring.hide(self.slot.spec.secret_texts(environment))
        self.first_line = self.slot.ring.mark
        try:
            self._child = Child.launch(
                argv,
                instance=self.instance,
                environment=environment,
                cwd=cwd,
                has_input=command.stdin is not None,
                contain=command.contain,
            )
        except LaunchError as error:
            raise self.start_error(str(error)) from error.__cause__
        except GuardError as error:
            raise self.unguarded(error) from error
        self._register(self._child)

    def _register(self, child: Child) -> None:
        """Have the reaper know the program; a refused one is ended as any that did not become ready."""
        policy = self.slot.spec.policy
        leader = child.leader if child.is_pinned else None
        lease = Lease(
            instance_id=self.instance.id,
            name=self.slot.name,
            kind="command",
            pid=leader.pid if leader is not None else None,
            started=leader.started if leader is not None else "",
            program_pid=child.pid if child.has_shim else None,
            stop_signal=self.command.stop_signal,
            stop_grace_s=policy.stop_timeout_s,
            kill_timeout_s=policy.kill_timeout_s,
            depends_on=tuple(sorted(self.needed)),
            scope=f"{id(self.slot.orders):x}",
            folder=str(self.instance.folder),
        )
        try:
            self.guard.register(lease, child.output)
        except GuardError as error:
            raise self.unguarded(error) from error

    def _adopt_child(self) -> None:
        """Take up, on the event loop, a program that was launched in a thread."""
        child, data = self._child, self.command.stdin if self.service is not None else None
        if child is not None and self._tree is None:
            self._tree = tree = Tree(
                self.instance.id,
                child.leader,
                process_group=child.pid,
                has_shim=child.has_shim,
                control_group=child.control_group,
            )
            data = data.encode() if isinstance(data, str) else data

            def note_exit(end: Exit) -> None:
                tree.is_pinned = child.is_pinned
                if child is self._child:
                    self.note_exit(end)

            child.adopt(self.slot.ring, note_exit, data if isinstance(data, bytes) else None)

    async def _settle_launch(self) -> None:
        """Wait for a launch that goes on in its thread although nobody waits for the service any more."""
        if self._launching is not None:
            await asyncio.wait({self._launching})
            self._adopt_child()

    def _environment(self) -> dict[str, str]:
        return self.environment_with({name: self.fill(value) for name, value in self.command.env.items()})

    async def _wait_ready(self) -> None:
        probe = self._probe
        if probe is None:
            return
        self._looks = 0
        pause_s = FIRST_PAUSE_S
        while True:
            look = asyncio.ensure_future(asyncio.wait_for(probe.look(Launched(self)), probe.attempt_timeout_s))
            look.add_done_callback(mark_retrieved)
            try:
                watched: set[asyncio.Future[Any]] = {look, self.exited}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                if self.exited.done():
                    raise await self._ended_early()
                look.result()
            except NotReadyError as error:
                self._last_look = str(error)
            except TimeoutError:
                self._last_look = self._no_answer(probe)
            else:
                return
            finally:
                look.cancel()
            self._looks += 1
            await asyncio.wait({self.exited}, timeout=pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)

    async def _ended_early(self) -> ServiceStartError:
        """Return the error of a program that has ended while it was waited for."""
        end = self.exited.result()
        is_daemon = end.is_clean and bool(await self.known_pids() - {self.pid})
        hint = ", and left processes running: it is a daemon. Run it in the foreground" if is_daemon else ""
        return self.start_error(f"it ended with {end} before it was ready{hint}")

    def _no_answer(self, probe: Probe) -> str:
        return f"{probe.describe(self.fill)} gave no answer within {probe.attempt_timeout_s:g} s"

    def waiting_for(self) -> str:
        """Return what the probe found at its last look."""
        if self.phase == "construct":
            return super().waiting_for()
        if self.phase != "ready" or self._probe is None:
            return "it could not be launched in time"
        found = f"{self._last_look} ({self._looks} looks)"
        return self.slot.ring.mask(found if self._looks else f"still waiting for {self._probe.describe(self.fill)}")

    async def _has_lost_port(self, error: BaseException) -> bool:
        """Return whether somebody else listens on a port that was chosen for this program."""
        if not self._chosen_ports:
            return False
        if isinstance(error, PortLostError):
            return True
        if self._tree is None:
            return False
        ours, host = await self.known_pids(), self.command.host
        ports = self._chosen_ports.values()
        try:
            takers = await self.in_thread(lambda: [takers_of(host, port) for port in ports], "port")
        except OSError:  # no descriptor left, say: why the start failed is known without this
            return False
        return any(pids is not None and pids.isdisjoint(ours) for pids in takers)

    async def _undo_launch(self) -> None:
        await self.kill()
        self._forget_launch()

    def _forget_launch(self) -> None:
        self._forget_child()
        self._child = self._tree = None
        self._was_killed = False
        self.exited = asyncio.get_running_loop().create_future()

    async def known_pids(self) -> frozenset[int]:
        """Look at who is part of this program's tree now, and return their pids."""
        if self._tree is None:
            return frozenset()
        await sweeper().look(self._tree)
        return frozenset(known.pid for known in self._tree.known)

    # -- end -----------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Ask the program to end, and wait until all of its tree has."""
        self.phase = "stop"
        self.context.stopping.set()
        grace_until = time.monotonic() + self.slot.spec.policy.stop_timeout_s
        await self._settle_launch()
        if self._child is None or self._tree is None:
            return
        error: Exception | None = None
        if not self.exited.done():
            if self.command.stdin == subprocess.PIPE:
                self._child.close_input()
            await self._note_descendants(self._tree)
            if self.command.stop_argv is not None:
                error = await self._run_stop_argv()
            if self.command.stop_argv is None or error is not None:
                self._child.signal_group(self.command.stop_signal, signal.SIGCONT)
                self._tree.note_group_asked()
                self.guard.note_asked(self.instance.id)
        await self._wait_gone(self._tree, grace_until)
        if error is not None:
            raise error

    async def _note_descendants(self, tree: Tree) -> None:
        """See who belongs to the program while descent still tells: its end makes orphans of its children."""
        with suppress(TimeoutError):
            await asyncio.wait_for(sweeper().look(tree), LOOK_TIMEOUT_S)

    async def _run_stop_argv(self) -> Exception | None:
        """Run the program that asks it to end; return why that did not work, if it did not."""
        asking = self.in_thread(self._ask_to_end, "stop")
        watched: set[asyncio.Future[Any]] = {asking, self.exited}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        error = asking.exception() if asking.done() else None
        return error if isinstance(error, Exception) else None

    def _ask_to_end(self) -> None:
        command = self.command
        argv = [self.fill(fspath(word)) for word in command.stop_argv or ()]
        cwd = self.fill(fspath(command.cwd)) if command.cwd is not None else None
        problem = ""
        # Not a pipe: what it leaves behind may hold it open.
        with tempfile.TemporaryFile() as output:
            try:
                self._helper = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    cwd=cwd,
                    start_new_session=True,
                )
                if code := self._helper.wait():
                    problem = f"{argv[0]!r} ended with {Exit(code=code)}"
            except (OSError, ValueError) as error:
                problem = launch_problem(error, argv[0], cwd)
            output.seek(0)
            if said := output.read(SHOWN_STOP_BYTES):
                self.slot.ring.write(said.decode(errors="replace"))
        if problem:
            raise ServiceStopError(
                self.slot.ring.mask(f"service {self.slot.name!r}: its stop_argv failed: {problem}"),
                service=self.slot.name,
                phase="stop",
            )

    async def _wait_gone(self, tree: Tree, grace_until: float) -> None:
        tree.grace_until = grace_until
        await asyncio.wait({self.exited})
        await sweeper().end(tree)

    async def settle(self) -> None:
        """End what the program left behind when it ended by itself, politely first."""
        if self._tree is not None:
            await self._wait_gone(self._tree, time.monotonic() + self.slot.spec.policy.stop_timeout_s)

    async def kill(self) -> None:
        """Kill the program's group, and whatever else carries its signs."""
        await self._settle_launch()
        if self._helper is not None:
            with suppress(ProcessLookupError):
                self._helper.kill()
        if self._child is not None and self._tree is not None:
            self._was_killed = self._was_killed or not self.exited.done() or bool(self._tree.left)
            if not self.exited.done():
                await self._note_descendants(self._tree)
            self._child.signal_group(signal.SIGKILL)
            await self._wait_gone(self._tree, grace_until=0.0)

    def thread_for_cleanup(self) -> HookThread:
        """Return a thread that is free to call ``cleanup()``."""
        self._cleaner = HookThread(self.origin, f"cleanup of service {self.slot.name}")
        return self._cleaner

    def threads(self) -> list[HookThread]:
        """Return the threads that call its code, or launch it."""
        mine = (self._launcher, self._cleaner)
        return [*super().threads(), *(thread for thread in mine if thread is not None)]

    def _forget_child(self) -> None:
        if self._tree is None or self._tree.is_gone:  # else the reaper tries again when this process has ended
            self.guard.release(self.instance.id)
        if self._child is not None:
            self._child.release()
        free_ports.give_back(self._chosen_ports.values())

    def release(self) -> None:
        """Reap the program, close its pipes, let go of its threads and folder."""
        self._forget_child()
        if self._launching is not None and not self._launching.done():
            self._launching.add_done_callback(lambda _: self._end_late_child())
        super().release()

    def _end_late_child(self) -> None:
        """End a program whose launch took longer than anybody has waited for it."""
        if self._child is not None:
            self._child.signal_group(signal.SIGKILL)
            self._child.release()
            self.in_thread(self._wait_late_end, "late end")

    def _wait_late_end(self) -> None:
        if self._child is not None:
            self._child.wait()
            self.guard.release(self.instance.id)

    # -- looks ---------------------------------------------------------------------------------------------

    @property
    def has_health_check(self) -> bool:
        """Whether it has a ``health_check()`` or a probe."""
        return self._probe is not None or hook(self.service, "health_check") is not None

    async def examine(self) -> dict[str, Any]:
        """Look at its process, and at its ``health_check()`` if it has one, else at its probe."""
        if self.exited.done():
            raise UnhealthyError(f"it ended with {self.exited.result()}")
        details: dict[str, Any] = {"pid": self.pid}
        probe = self._probe
        if hook(self.command, "health_check") is not None:
            details.update(details_of(await self.ask_health()))
        elif probe is not None and probe.is_lasting:
            try:
                await asyncio.wait_for(probe.look(Launched(self)), probe.attempt_timeout_s)
            except (NotReadyError, PortLostError) as error:
                raise UnhealthyError(str(error)) from error
            except TimeoutError:
                raise UnhealthyError(self._no_answer(probe)) from None
        return details

    def survivor(self) -> str:
        """Return the pids that are still there, and the threads that still run its code."""
        left = self._tree.left if self._tree is not None else []
        pids = [process.pid for process in left] or ([self.pid] if self.pid and not self.exited.done() else [])
        notes = [f"still there: pid {', '.join(map(str, pids))}"] if pids else []
        return "\n".join(filter(None, [*notes, super().survivor()]))

    @property
    def was_forced(self) -> bool:
        """Whether anything of its tree had to be killed."""
        return self._was_killed or (self._tree is not None and bool(self._tree.killed))

    @property
    def pid(self) -> int | None:
        """Pid of the program; None before it was launched."""
        return self._child.pid if self._child is not None else None

    @property
    def child_pid(self) -> int | None:
        """Pid of what was launched: the program, or the shim that stays as its parent."""
        return self._child.leader.pid if self._child is not None else None

    @property
    def contain(self) -> str:
        """How the program is contained: ``signs``, ``subreaper`` or ``cgroup``; "" before it was launched."""
        return self._child.containment if self._child is not None else ""
