"""One launched program: its process, its pipes, and the news of its end.

Its exit is seen at once (pidfd, or a thread that waits); it is reaped only with `Child.release`, since until then
its pid, group and session number stay its own. One that is contained by a shim which stays is reaped by that, and the
shim tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from autostop_lab.origin import thread_name
from autostop_lab.reaper.groups import Group
from autostop_lab.reaper.processes import Process, is_alive, open_pidfd, process, send_signal
from autostop_lab.reaper.session import Instance
from autostop_lab.services.containment import Contained, ContainmentError, launch
from autostop_lab.services.logs import LogRing
from autostop_lab.services.runtime import Exit
from autostop_lab.services.scarcity import way_out

logger = logging.getLogger("autostop_lab.services")

#: What is read of a program's output at once, in bytes.
READ_BYTES = 1 << 16
#: A read of so many bytes is a flood. After it comes a pause so many times as long as it took: the program waits, and
#: the event loop does not.
FLOOD_BYTES, PAUSE_PER_READ = 1 << 15, 2


class LaunchError(Exception):
    """A program could not be launched; the text says why."""


class Child:
    """One launched program. Made in any thread; all but `launch` and `enter` is called on one event loop.

    Attributes
    ----------
    pid : int
        Its pid, group and session number.
    leader : Process
        Identity of what we launched: the program, or the shim that stays as its parent.
    containment : str
        How it is contained: ``signs``, ``subreaper`` or ``cgroup``.
    control_group : Group or None
        Its control group, if it has one.
    """

    def __init__(self, contained: Contained, leader: Process, program: Process, output: int) -> None:
        self.pid = contained.pid
        self.leader = leader
        self.containment = contained.containment
        self.control_group = contained.group
        self._program = program
        self._popen = contained.popen
        self._news = contained.news
        self._output: int | None = output
        self._input: memoryview | None = None
        self._pidfd: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ring: LogRing | None = None

    @classmethod
    def launch(
        cls,
        argv: Sequence[str],
        *,
        instance: Instance,
        environment: Mapping[str, str],
        cwd: str | None = None,
        has_input: bool = False,
        contain: str = "signs",
    ) -> Child:
        """Launch a program in a session of its own, with the marker of `instance` open.

        Parameters
        ----------
        argv : sequence of str
            Program and arguments.
        instance : Instance
            To whom it belongs.
        environment : mapping of str to str
            All of its environment.
        cwd : str or None
            Its working directory; None inherits ours.
        has_input : bool
            Whether something is written to it; else it reads nothing.
        contain : str
            How to keep it from getting away: one of `autostop_lab.services.containment.CHOICES`.

        Returns
        -------
        Child
            The program; its output waits in a pipe.

        Raises
        ------
        LaunchError
            It could not be launched, and nothing of it is left.
        GuardError
            There is no reaper, so it was not launched.
        """
        if (guard := instance.session.guard) is not None:
            guard.ensure()  # if this process dies right after the launch, nobody else would know of the program
        try:
            reads, writes = os.pipe()
        except OSError as error:
            raise LaunchError(launch_problem(error, argv[0], None)) from error
        marker = contained = None
        try:
            marker = instance.open_marker()
            contained = launch(
                argv,
                contain=contain,
                instance=instance,
                environment=environment,
                bufsize=0,
                stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
                stdout=writes,
                stderr=writes,
                cwd=cwd,
                pass_fds=(marker,),
            )
            leader, program = (process(pid) or _unseen(pid) for pid in (contained.popen.pid, contained.pid))
        except (ContainmentError, OSError, ValueError) as error:
            os.close(reads)
            if contained is not None:
                contained.undo()
            raise LaunchError(launch_problem(error, argv[0], cwd)) from error
        finally:
            os.close(writes)
            if marker is not None:
                instance.close_marker(marker)
        os.set_blocking(reads, False)
        return cls(contained, leader, program, reads)

    def enter(self, group: Group) -> None:
        """Put it into a control group, right after its launch: for a program that starts nothing before it is told to.

        The kernel takes some 15 ms for that, in which the program comes up. Where it cannot be, it stays as it is.
        """
        if not is_alive(self._program):
            return
        try:
            group.take_in(self.pid)
        except OSError as error:
            logger.info("pid %d is not contained: it cannot enter %s (%s)", self.pid, group.path, error.strerror)
        else:
            self.control_group, self.containment = group, "cgroup"

    # -- on the event loop ---------------------------------------------------------------------------------

    def adopt(self, ring: LogRing, on_exit: Callable[[Exit], None], data: bytes | None = None) -> None:
        """Begin to read its output, to write its input and to watch for its end.

        Parameters
        ----------
        ring : LogRing
            Takes its output.
        on_exit : callable
            Told of its end, after its last words were read.
        data : bytes or None
            Its input; None leaves the input open, if it has one.
        """
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        assert self._output is not None
        self._loop.add_reader(self._output, self.read_output)
        if data is not None and self._popen.stdin is not None:
            self._input = memoryview(data)
            os.set_blocking(self._popen.stdin.fileno(), False)
            self._loop.add_writer(self._popen.stdin.fileno(), self._write_input)
        self._watch_exit(on_exit)

    def _watch_exit(self, on_exit: Callable[[Exit], None]) -> None:
        loop = self._loop
        assert loop is not None
        if self._news is not None:
            self._news.setblocking(False)
            loop.add_reader(self._news, self._read_news, on_exit)
            return
        with suppress(ProcessLookupError):  # other code has waited for it
            self._pidfd = open_pidfd(self.pid)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._note_exit, on_exit)
            return

        def wait() -> None:
            with suppress(ChildProcessError):
                if hasattr(os, "waitid"):
                    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                else:
                    self._popen.wait()
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(self._note_exit, on_exit)

        threading.Thread(target=wait, name=thread_name(f"exit of pid {self.pid}"), daemon=True).start()

    def _read_news(self, on_exit: Callable[[Exit], None]) -> None:
        """Hear from the shim that the program has ended, or that the shim itself has."""
        assert self._news is not None
        try:
            news = self._news.recv(64)
        except BlockingIOError:
            return
        except OSError:
            news = b""
        if news:
            self._note_exit(on_exit, Exit(code=int(news.split()[1])))
        else:
            self._note_exit(on_exit, Exit(problem=f"the process that contained it has ended ({self._exit()})"))

    def _note_exit(self, on_exit: Callable[[Exit], None], end: Exit | None = None) -> None:
        self.read_output()  # its last words come before the news of its end
        self._stop_watching()
        on_exit(end if end is not None else self._exit())

    def _exit(self) -> Exit:
        """Return how it ended, without reaping it where that is possible."""
        if self._popen.returncode is None and hasattr(os, "waitid"):
            try:
                status = os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                self._popen.poll()  # from here on its pid may be somebody else's
                return Exit(error=ChildProcessError("its exit status is unknown: other code has waited for it"))
            assert status is not None
            return Exit(code=status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)
        return Exit(code=self._popen.wait())

    @property
    def has_shim(self) -> bool:
        """Whether a shim stays as its parent."""
        return self.leader.pid != self.pid

    @property
    def output(self) -> int | None:
        """Read end of its output; None when that has ended."""
        return self._output

    @property
    def is_pinned(self) -> bool:
        """Whether it is not reaped, so that pid, group and session number are its own."""
        return self._popen.returncode is None

    def signal_group(self, *numbers: int) -> None:
        """Send signals to its process group, unless the group's number may be a stranger's by now.

        A shim passes them on; but KILL would end the shim, and is sent to the program alone.
        """
        for number in numbers:
            if self.has_shim and number == signal.SIGKILL:
                send_signal(self._program, number)
            elif self.is_pinned:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._popen.pid, number)

    def read_output(self) -> None:
        """Take up what it has written by now."""
        if self._output is None or self._loop is None or self._ring is None:
            return
        began_s = time.monotonic()
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_output()
            return
        self._ring.feed(data)
        if len(data) >= FLOOD_BYTES:
            self._loop.remove_reader(self._output)
            self._loop.call_later(PAUSE_PER_READ * (time.monotonic() - began_s), self._read_on)

    def _read_on(self) -> None:
        if self._output is not None and self._loop is not None:
            self._loop.add_reader(self._output, self.read_output)

    def _close_output(self) -> None:
        if self._output is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = None
            if self._ring is not None:
                self._ring.finish()

    def _write_input(self) -> None:
        stdin = self._popen.stdin
        assert stdin is not None
        assert self._input is not None
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input) :]
        except BlockingIOError:
            return
        except OSError:  # it need not read all
            self._input = None
        if not self._input:
            self.close_input()

    def close_input(self) -> None:
        """Let it read the end of its input; may be called twice."""
        stdin = self._popen.stdin
        if stdin is not None and not stdin.closed:
            if self._loop is not None:
                self._loop.remove_writer(stdin.fileno())
            stdin.close()

    def _stop_watching(self) -> None:
        if self._pidfd is not None and self._loop is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._news is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._news)
            self._news.close()
            self._news = None

    def release(self) -> None:
        """Take up its last words, close its pipes and reap it; does not wait."""
        self._stop_watching()
        self.read_output()
        self._close_output()
        self.close_input()
        self._popen.poll()

    def wait(self) -> None:
        """Wait until it (and what a shim keeps of it) has ended, and reap it; blocks the calling thread."""
        self._popen.wait()


def _unseen(pid: int) -> Process:
    """Return what stands for a program that was gone, and waited for by other code, before we could look."""
    return Process(pid, "0", parent_pid=os.getpid(), group=pid, session=0, is_zombie=True)


def launch_problem(error: Exception, program: str, cwd: str | None) -> str:
    """Return in words why `program` could not be launched."""
    if cwd is not None and not os.path.isdir(cwd):
        return f"its working directory {cwd!r} {'is not a folder' if os.path.exists(cwd) else 'does not exist'}"
    if isinstance(error, ContainmentError):
        return f"program {program!r} could not be contained: {error}"
    is_about_program = isinstance(error, OSError) and error.filename == program
    if is_about_program and _is_nowhere(program):
        return f"program {program!r} was not found. Install it, or give its full path"
    if is_about_program and isinstance(error, FileNotFoundError):
        return f"program {program!r} is there, but not the interpreter that its first line names"
    if is_about_program and isinstance(error, PermissionError):
        return f"program {program!r} may not be executed. Check its permissions"
    return ". ".join(filter(None, [f"program {program!r} could not be launched ({error})", way_out(error)]))


def _is_nowhere(program: str) -> bool:
    # The system says "permission denied" where a folder on the way may not be looked into.
    folders = [""] if os.sep in program else os.get_exec_path()
    return not any(os.path.exists(os.path.join(folder, program)) for folder in folders)
