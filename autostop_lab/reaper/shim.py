"""What a contained program is launched through: ``python -I -S shim.py CONTROL GROUP KEEPS PROGRAM [ARGUMENT...]``.

CONTROL is a descriptor of a socket: the program's environment is read from it (``NAME=VALUE`` with a zero byte behind
each, and one more at the end), and the news are written to it, a line each. GROUP is the folder of the control group
to enter first, or empty. Without KEEPS this process becomes the program. With it, this process stays as the parent of
all that the program leaves behind (a "child subreaper"), passes signals on to the program's group, and ends like the
program when nobody is left.

The news: ``group ERRNO``, ``keep ERRNO`` or ``exec ERRNO`` when it failed; ``go 0`` right before this process becomes
the program (no more news after it: it has); ``pid PID`` when a kept program was launched, ``end CODE`` when it has
ended (negative for a signal).

It is started once per program, so it imports next to nothing.
"""

from __future__ import annotations

# The half of `signal` that is there already; the other half is 4 ms of enums.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

PR_SET_CHILD_SUBREAPER = 36
#: Signals that Python ignores at its start, and a program expects at their default.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
#: Signals that are about this process alone, or cannot be waited for.
NOT_PASSED_ON = (
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
)


def main(control: int, group: str, keeps: bool, argv: list[str]) -> None:
    """Launch the program; does not return."""
    os.set_inheritable(control, False)
    environment = read_environment(control)
    if environment is None:  # who wanted the program is gone
        os._exit(127)
    phase = "group"
    try:
        if group:
            enter(group)
        phase = "keep"
        if keeps:
            keep(control, argv, environment)
        phase = "exec"
        tell(control, "go", 0)
        become(argv, environment)
    except OSError as error:
        tell(control, phase, error.errno or 0)
    os._exit(127)


def read_environment(control: int) -> dict[str, str] | None:
    """Return the environment that is sent to us, None if not all of it came."""
    chunks = []
    while chunk := os.read(control, 1 << 16):
        chunks.append(chunk)
    sent = b"".join(chunks)
    if sent != b"\0" and not sent.endswith(b"\0\0"):
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in sent.split(b"\0")[:-2])
    return {name: value for name, _, value in pairs}


def tell(control: int, word: str, number: int) -> None:
    """Write one line of news; who would read it may be gone."""
    try:
        os.write(control, f"{word} {number}\n".encode())
    except OSError:
        pass


def enter(group: str) -> None:
    """Move this process into a control group."""
    descriptor = os.open(f"{group}/cgroup.procs", os.O_WRONLY)
    os.write(descriptor, b"0")
    os.close(descriptor)


def become(argv: list[str], environment: dict[str, str]) -> None:
    """Become the program; returns only by an exception."""
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)


# -- the one that stays ------------------------------------------------------------------------------------


def keep(control: int, argv: list[str], environment: dict[str, str]) -> None:
    """Launch the program in a session of its own and stay until it and all that it leaves has ended."""
    become_subreaper()
    awaited = signal.valid_signals() - set(NOT_PASSED_ON)
    former = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    reads, writes = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            become(argv, environment)
        except OSError as error:
            os.write(writes, str(error.errno or 0).encode())
        os._exit(127)
    os.close(writes)
    failed = os.read(reads, 16)
    os.close(reads)
    if failed:
        os.waitpid(program, 0)
        tell(control, "exec", int(failed))
        os._exit(127)
    let_go_of_its_files()
    tell(control, "pid", program)
    end_like(serve(control, program, awaited))


def become_subreaper() -> None:
    """Make this process the one that adopts the orphans among its descendants."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def let_go_of_its_files() -> None:
    """Hold neither its standard streams, whose ends would not be seen, nor its working directory."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.chdir("/")


def serve(control: int, program: int, awaited: set[int]) -> int:
    """Pass signals on and reap until nobody is left; return the wait status of the program."""
    status = None
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            if status is None:  # once it is reaped, its number may be somebody else's
                os.killpg(program, number)
            continue
        try:
            while True:
                pid, found = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == program:
                    status = found
                    tell(control, "end", os.waitstatus_to_exitcode(found))
        except ChildProcessError:
            return status or 0


def end_like(status: int) -> None:
    """End with a wait status."""
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's own is enough
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 127)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], bool(sys.argv[3]), sys.argv[4:])
