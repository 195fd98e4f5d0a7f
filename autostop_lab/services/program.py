"""Runtime of `Command`: a program in a session of its own, ended with its whole tree.

The program carries our id in its environment and holds our marker file open, so that whatever it leaves behind
can be found. Its exit is seen at once (pidfd, or a thread that waits); it is reaped only when its tree is gone,
since until then its pid, group and session number stay its own.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from os import fspath
from typing import Any

from autostop_lab.exceptions import ServiceStartError
from autostop_lab.origin import Origin
from autostop_lab.reaper.processes import Process, ids_of, listener_pids, process
from autostop_lab.reaper.session import current_session
from autostop_lab.services.command import MAIN_PORT, Command, fill, placeholders
from autostop_lab.services.handle import HealthResult, ServiceHandle, ServiceSlot
from autostop_lab.services.logs import SHOWN_LOG_LINES, LogRing
from autostop_lab.services.probes import HttpReady, NotReadyError, TcpReady
from autostop_lab.services.runtime import Exit, Runtime, describe_error, details_of
from autostop_lab.services.service import ServiceContext, construct, hook, public_methods
from autostop_lab.services.sweep import Tree, sweeper
from autostop_lab.services.threads import HookThread, call_in_thread, post

#: Starts of one program when others take its chosen ports before it can.
PORT_TRIES = 4
#: Pauses between looks of a readiness probe, in seconds: the first, and the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
#: Variables that are ours and must not reach a program.
HIDDEN_VARIABLES = ("AUTOSTOP_LAB_API_KEY",)


class PortLostError(Exception):
    """A chosen port was taken by somebody else between choosing and listening."""


class _Ports:
    """Free ports of this machine, each given out once at a time within this process."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def choose(self, host: str) -> int:
        """Return a port that nobody uses now."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind((host, 0))
                    port: int = probe.getsockname()[1]
                if port not in self._taken:
                    self._taken.add(port)
                    return port

    def give_back(self, ports: Iterable[int]) -> None:
        """Let ports be chosen again."""
        with self._lock:
            self._taken.difference_update(ports)


_ports = _Ports()


class CommandEndpoint:
    """Calls the methods of a `Command` subclass in the caller."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.host: str | None = command.host
        self.port: int | None = command.port
        self.ports: dict[str, int] = command.ports

    def methods(self) -> Iterable[str]:
        """Return the names of its public methods."""
        return public_methods(type(self._command), (Command,))

    def bind(self, method: str) -> Callable[..., Any]:
        """Return the method."""
        function = getattr(self._command, method)
        if not inspect.iscoroutinefunction(function):
            return function  # type: ignore[no-any-return]  # user code
        return lambda *args, **kwargs: asyncio.run(function(*args, **kwargs))


class Launched:
    """A program that was launched, as its readiness probe sees it."""

    def __init__(self, runtime: ProgramRuntime) -> None:
        self._runtime = runtime
        self._first_line_at = time.time()

    @property
    def command(self) -> Command:
        """The command itself."""
        return self._runtime.command

    @property
    def ring(self) -> LogRing:
        """Its log lines."""
        return self._runtime.slot.ring

    def texts_of_this_life(self) -> list[str]:
        """Return the lines since it was launched, oldest first."""
        return [line.text for line in self.ring.lines() if line.at >= self._first_line_at]

    def fill(self, text: str) -> str:
        """Replace placeholders."""
        return self._runtime.fill(text)

    def in_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `function` in a daemon thread."""
        return self._runtime.in_thread(function, "probe")

    async def check_listener(self, port: int) -> None:
        """Refuse an answer that came from somebody else's process."""
        pids = await self.in_thread(lambda: listener_pids(port))
        if pids and not await self.in_thread(lambda: any(self._runtime.owns(pid) for pid in pids)):
            raise PortLostError(f"port {port} is answered by pid {min(pids)}, which is not part of the service")


class ProgramRuntime(Runtime):
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

    phase = "launch"

    def __init__(self, slot: ServiceSlot, origin: Origin, find_service: Callable[[str], ServiceHandle]) -> None:
        super().__init__(slot)
        self.origin = origin
        self._loop = asyncio.get_running_loop()
        self._instance = current_session().new_instance(slot.name)
        self._context = ServiceContext(slot.name, self._instance, slot.ring, find_service)
        spec = slot.spec
        self.command: Command = construct(spec.target, spec.args, spec.kwargs, self._context)
        self._chosen_ports: dict[str, int] = {}
        self._launching: asyncio.Future[Any] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._leader: Process | None = None
        self._tree: Tree | None = None
        self._output: int | None = None
        self._pidfd: int | None = None
        self._looks = 0
        self._last_look = ""
        self._cleaner: HookThread | None = None
        self._was_killed = False
        self._last_busy_s = time.monotonic()

    # -- start ---------------------------------------------------------------------------------------------

    async def launch(self) -> None:
        """Launch the program, unless a schedule does that, and return when its probe is answered."""
        if self.slot.spec.policy.cron is None:
            await self._bring_up()
        self.endpoint = CommandEndpoint(self.command)

    async def run_once(self) -> None:
        """Launch the program and wait until it and its tree have ended."""
        if self._child is not None:
            self._forget_run()
        await self._bring_up()
        end = await asyncio.shield(self.exited)
        await self.settle()
        if not end.is_clean:
            raise self._start_error(f"its run ended with {end}")

    async def idle_for_s(self) -> float:
        """Return for how long its ``is_idle()`` has said yes."""
        is_idle = hook(self.command, "is_idle")
        answer = is_idle is not None and await self.in_thread(lambda: _finish(is_idle()), "idleness")
        if not answer:
            self._last_busy_s = time.monotonic()
        return time.monotonic() - self._last_busy_s

    async def _bring_up(self) -> None:
        """Launch the program and wait until its probe is answered; a port lost to others is chosen anew."""
        for attempt in range(PORT_TRIES):
            self._choose_ports()
            await self._refuse_taken_port()
            try:
                self.phase = "launch"
                await self._launch_once()
                self.phase = "ready"
                await self._wait_ready()
            except (PortLostError, ServiceStartError) as error:
                if not await self._has_lost_port(error):
                    if isinstance(error, PortLostError):
                        raise self._start_error(str(error)) from error
                    raise
                if attempt == PORT_TRIES - 1:
                    raise self._start_error(f"each of {PORT_TRIES} chosen ports was taken by others first") from error
                await self._undo_launch()
            else:
                return

    def _choose_ports(self) -> None:
        names = sorted(name for name in placeholders(self.command._autostop_texts()) if name.startswith(MAIN_PORT))
        self._chosen_ports = {name: _ports.choose(self.command.host) for name in names}
        self.command._autostop_attach(
            self._context,
            port=self._chosen_ports.get(MAIN_PORT, self._fixed_port),
            ports={name.removeprefix("port:"): port for name, port in self._chosen_ports.items() if ":" in name},
        )

    @property
    def _fixed_port(self) -> int | None:
        ready = self.command.ready
        return ready.fixed_port if isinstance(ready, TcpReady | HttpReady) else None

    def fill(self, text: str) -> str:
        """Replace placeholders in `text`."""
        values: dict[str, Callable[[], object]] = {
            "host": lambda: self.command.host,
            "workdir": lambda: self._instance.workdir,
            **{name: lambda port=port: port for name, port in self._chosen_ports.items()},  # type: ignore[misc]
        }
        return fill(text, values)

    async def _refuse_taken_port(self) -> None:
        port = self._fixed_port
        if port is None:
            return
        pids = await self.in_thread(lambda: _taken_by(self.command.host, port), "port")
        if pids is not None:
            owner = f" by pid {min(pids)}" if pids else ""
            raise self._start_error(
                f"port {port} is taken{owner} already. End that program, or write {{port}} to have a free one chosen"
            )

    def in_thread(self, function: Callable[[], Any], purpose: str) -> asyncio.Future[Any]:
        """Call `function` in a daemon thread named for its `purpose`."""
        return call_in_thread(function, origin=self.origin, name=f"{purpose} of service {self.slot.name}")

    async def _launch_once(self) -> None:
        self._launching = self.in_thread(self._popen, "launch")
        await asyncio.shield(self._launching)
        self._adopt_child()

    def _adopt_child(self) -> None:
        if self._child is not None and self._leader is None:
            self._leader = process(self._child.pid)
            self._watch_exit()
            assert self._output is not None
            self._loop.add_reader(self._output, self._read_output)

    async def _settle_launch(self) -> None:
        """Wait for a launch that goes on in its thread although nobody waits for the service any more."""
        if self._launching is not None:
            await asyncio.wait({self._launching})
            self._adopt_child()

    def _popen(self) -> None:
        command = self.command
        argv = [self.fill(fspath(word)) for word in command.argv]
        cwd = self.fill(fspath(command.cwd)) if command.cwd is not None else None
        reads, writes = os.pipe()
        marker = self._instance.open_marker()
        try:
            stdin = subprocess.DEVNULL if command.stdin is None else subprocess.PIPE
            self._child = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=writes,
                stderr=writes,
                cwd=cwd,
                env=self._environment(),
                pass_fds=(marker,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(reads)
            raise self._start_error(_launch_problem(error, argv[0], cwd)) from error
        finally:
            os.close(writes)
            self._instance.close_marker(marker)
        os.set_blocking(reads, False)
        self._output = reads
        if isinstance(command.stdin, str | bytes) and self._child.stdin is not None:
            data = command.stdin.encode() if isinstance(command.stdin, str) else command.stdin
            self.origin.start_thread(lambda: self._feed(data), name=f"stdin of service {self.slot.name}")

    def _feed(self, data: bytes) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        with suppress(OSError):  # it need not read all
            self._child.stdin.write(data)
        with suppress(OSError):
            self._child.stdin.close()

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in HIDDEN_VARIABLES}
        added = {name: self.fill(value) for name, value in self.command.env.items()}
        return {**inherited, **added, **self._instance.environment}

    async def _wait_ready(self) -> None:
        probe = self.command.ready
        if probe is None:
            return
        launched = Launched(self)
        self._looks = 0
        pause_s = FIRST_PAUSE_S
        while True:
            look = asyncio.ensure_future(asyncio.wait_for(probe.look(launched), probe.attempt_timeout_s))
            try:
                watched: set[asyncio.Future[Any]] = {look, self.exited}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                if self.exited.done():
                    await asyncio.sleep(0)  # its last words
                    self._read_output()
                    raise self._start_error(f"it ended with {self.exited.result()} before it was ready")
                look.result()
            except NotReadyError as error:
                self._last_look = str(error)
            except TimeoutError:
                self._last_look = f"no answer within {probe.attempt_timeout_s:g} s"
            else:
                return
            finally:
                look.cancel()
            self._looks += 1
            await asyncio.wait({self.exited}, timeout=pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)

    def waiting_for(self) -> str:
        """Return what the probe found at its last look."""
        if self.phase != "ready" or self.command.ready is None:
            return "it could not be launched in time"
        return f"{self.command.ready.describe(self.fill)}: {self._last_look} ({self._looks} looks)"

    async def _has_lost_port(self, error: BaseException) -> bool:
        """Return whether somebody else listens on a port that was chosen for this program."""
        if not self._chosen_ports:
            return False
        if isinstance(error, PortLostError):
            return True

        def look() -> bool:
            owners = [listener_pids(port) for port in self._chosen_ports.values()]
            return any(pids and not any(self.owns(pid) for pid in pids) for pids in owners)

        return bool(await self.in_thread(look, "port"))

    async def _undo_launch(self) -> None:
        await self.kill()
        self._forget_run()

    def _forget_run(self) -> None:
        self._forget_child()
        self._child = self._leader = self._tree = None
        self.exited = self._loop.create_future()

    def _start_error(self, problem: str) -> ServiceStartError:
        lines = self.slot.ring.texts(SHOWN_LOG_LINES)
        pid = f" (pid {self.pid})" if self.pid is not None else ""
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return ServiceStartError(
            f"service {self.slot.name!r}{pid} did not start: {problem}.{said}",
            service=self.slot.name,
            phase=self.phase,
            exit_code=self.exit_code,
            log_lines=lines,
        )

    def owns(self, pid: int) -> bool:
        """Return whether a process is part of this program's tree."""
        from_tree = process(pid)
        if from_tree is None or self._leader is None:
            return False
        return pid == self._leader.pid or from_tree.session == self._leader.pid or self._instance.id in ids_of(pid)

    # -- watch ---------------------------------------------------------------------------------------------

    def _watch_exit(self) -> None:
        child = self._child
        assert child is not None
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(child.pid)
            self._loop.add_reader(self._pidfd, self._note_child_exit)
        else:
            exited, loop = self.exited, self._loop

            def wait() -> None:
                post(loop, exited, Exit(code=child.wait()), None)

            self.origin.start_thread(wait, name=f"exit of service {self.slot.name}")

    def _note_child_exit(self) -> None:
        assert self._child is not None
        self._stop_watching()
        # The status is read without reaping.
        status = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if status is not None:
            is_signal = status.si_code != os.CLD_EXITED
            self.note_exit(Exit(code=-status.si_status if is_signal else status.si_status))

    def _stop_watching(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _read_output(self) -> None:
        if self._output is None:
            return
        try:
            data = os.read(self._output, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.slot.ring.feed(data)
        else:
            self._close_output()

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = None
            self.slot.ring.finish()

    # -- end -----------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Ask the program to end, and wait until all of its tree has."""
        self.phase = "stop"
        self._context.stopping.set()
        grace_until = time.monotonic() + self.slot.spec.policy.stop_timeout_s
        await self._settle_launch()
        if self._child is None:
            return
        error: BaseException | None = None
        if not self.exited.done():
            if self.command.stdin == subprocess.PIPE:
                self._close_stdin()
            if self.command.stop_argv is not None:
                error = await self._run_stop_argv()
            if self.command.stop_argv is None or error is not None:
                self._signal_group(self.command.stop_signal, signal.SIGCONT)
        await self._wait_gone(grace_until)
        if error is not None:
            raise error

    async def _run_stop_argv(self) -> BaseException | None:
        """Run the program that asks it to end; return why that did not work, if it did not."""
        argv = [self.fill(fspath(word)) for word in self.command.stop_argv or ()]
        try:
            helper = await asyncio.create_subprocess_exec(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=self.fill(fspath(self.command.cwd)) if self.command.cwd is not None else None,
                start_new_session=True,
            )
        except OSError as error:
            return error
        try:
            said, _ = await helper.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                helper.kill()
            raise
        if said:
            self.slot.ring.feed(said)
            self.slot.ring.finish()
        if helper.returncode:
            return RuntimeError(f"{argv[0]} (stop_argv) ended with exit code {helper.returncode}")
        return None

    def _close_stdin(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            with suppress(OSError):
                self._child.stdin.close()

    def _signal_group(self, *numbers: int) -> None:
        # The leader is not reaped, so its group's number cannot have gone to a stranger.
        if self._child is not None and self._child.returncode is None:
            for number in numbers:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._child.pid, number)

    async def _wait_gone(self, grace_until: float) -> None:
        await asyncio.wait({self.exited})
        if self._leader is not None:
            self._tree = Tree(self._instance.id, self._leader, grace_until)
            await sweeper.end(self._tree)

    async def settle(self) -> None:
        """End what the program left behind when it ended by itself, politely first."""
        await self._wait_gone(time.monotonic() + self.slot.spec.policy.stop_timeout_s)

    async def kill(self) -> None:
        """Kill the program's group, and whatever else carries its signs."""
        await self._settle_launch()
        if self._child is not None:
            self._was_killed = not self.exited.done()
            self._signal_group(signal.SIGKILL)
            await self._wait_gone(grace_until=0.0)

    async def cleanup(self) -> None:
        """Call the command's ``cleanup()``, here beside the supervisor."""
        self.phase = "cleanup"
        function = hook(self.command, "cleanup")
        if function is not None:
            self._cleaner = HookThread(self.origin, f"cleanup of service {self.slot.name}")
            cleaning = self._cleaner.call(lambda: _finish(function()))
            self._cleaner.close()
            await cleaning

    def _forget_child(self) -> None:
        self._stop_watching()
        self._read_output()
        self._close_output()
        self._close_stdin()
        if self._child is not None:
            self._child.poll()
        _ports.give_back(self._chosen_ports.values())

    def release(self) -> None:
        """Reap the program, close its pipes, remove its folder."""
        self.endpoint = None
        self._forget_child()
        self._instance.remove()

    @property
    def has_health_check(self) -> bool:
        """Whether it has a ``health_check()`` or a probe."""
        return self.command.ready is not None or hook(self.command, "health_check") is not None

    async def check_health(self) -> HealthResult:
        """Look at it once: its process, its ``health_check()`` if it has one, else its probe."""
        began = time.monotonic()
        details: dict[str, Any] = {"pid": self.pid}
        error: str | None = f"it ended with {self.exited.result()}" if self.exited.done() else None
        check = hook(self.command, "health_check")
        try:
            if error is None and check is not None:
                answer = await Launched(self).in_thread(lambda: _finish(check()))
                healthy, more = details_of(answer)
                details.update(more)
                error = None if healthy else f"health_check() returned {answer!r}"
            elif error is None and self.command.ready is not None:
                await asyncio.wait_for(self.command.ready.look(Launched(self)), self.command.ready.attempt_timeout_s)
        except Exception as raised:
            error = describe_error(raised)
        return HealthResult(
            state=self.slot.state,
            is_healthy=error is None,
            details=details,
            latency_s=time.monotonic() - began,
            error=error,
        )

    def survivor(self) -> str:
        """Return the pids that are still there."""
        left = self._tree.left if self._tree is not None else []
        pids = [process.pid for process in left] or ([self.pid] if self.pid and not self.exited.done() else [])
        notes = [f"still there: pid {', '.join(map(str, pids))}"] if pids else []
        if self._cleaner is not None and self._cleaner.is_busy:
            notes.append(self._cleaner.survivor())
        return "\n".join(notes)

    @property
    def was_forced(self) -> bool:
        """Whether anything of its tree had to be killed."""
        return self._was_killed or (self._tree is not None and bool(self._tree.killed))

    @property
    def pid(self) -> int | None:
        """Pid of the program; None before it was launched."""
        return self._child.pid if self._child is not None else None


def _finish(value: Any) -> Any:
    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


def _taken_by(host: str, port: int) -> frozenset[int] | None:
    """Return who listens on a port, as far as can be seen; None if nobody does."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((host, port)) != 0:
            return None
    return listener_pids(port) or frozenset()


def _launch_problem(error: OSError, program: str, cwd: str | None) -> str:
    if cwd is not None and not os.path.isdir(cwd):
        return f"its working directory {cwd!r} does not exist"
    if isinstance(error, FileNotFoundError):
        return f"program {program!r} was not found. Install it, or give its full path"
    if isinstance(error, PermissionError):
        return f"program {program!r} may not be executed. Check its permissions"
    return f"program {program!r} could not be launched ({error})"
