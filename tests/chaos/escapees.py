"""``python escapees.py FOLDER WAY...``: a program whose children try to get away in each of the named ways.

Each child writes its pid into a file of its way's name in the folder, ignores the polite signal if the way says so,
and lives on. The program says "up" when all of them are there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

LIVE = "import os, sys, time, signal\n{deaf}open(sys.argv[1], 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(1000)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
#: Ways to get away: what is done on the way, in words joined by "-".
#: ``setsid`` a session of its own; ``daemon`` its parent ends; ``bare`` with an empty environment; ``closed`` without
#: any inherited descriptor; ``deaf`` ignores the polite signal.
WAYS = (
    "plain",
    "setsid",
    "daemon",
    "setsid-daemon",
    "setsid-daemon-bare",
    "setsid-daemon-closed",
    "setsid-daemon-deaf",
)
#: Gets away from everything but what the kernel itself offers.
WORST = "setsid-daemon-bare-closed"


def get_away(folder: str, way: str) -> None:
    """Start a child that gets away, and return when it lives."""
    steps = way.split("-")
    path = os.path.join(folder, way)
    code = LIVE.format(deaf=DEAF if "deaf" in steps else "")
    argv = [sys.executable, "-S", "-E", "-c", code, path]
    if (pid := os.fork()) == 0:
        if "setsid" in steps:
            os.setsid()
        if "daemon" in steps and os.fork():
            os._exit(0)
        if "closed" in steps:
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.closerange(3, 4096)
        os.execve(argv[0], argv, {} if "bare" in steps else dict(os.environ))
    if "daemon" in steps:
        os.waitpid(pid, 0)
    while not os.path.exists(path) or not open(path).read().endswith("\n"):
        time.sleep(0.01)


def storm(folder: str) -> None:
    """Fork children into sessions of their own, without end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            os.setsid()
            with open(os.path.join(folder, "storm"), "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(1000)
        time.sleep(0.01)


def main() -> None:
    folder, *ways = sys.argv[1:]
    for way in ways:
        if way == "storm":
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                storm(folder)
        elif way == "popen":
            child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            with open(os.path.join(folder, way), "w") as file:
                file.write(f"{child.pid}\n")
        else:
            get_away(folder, way)
    print("up", flush=True)
    if "exit" in os.environ.get("THEN", ""):
        sys.exit(int(os.environ["THEN"].split()[1]))
    time.sleep(1000)


if __name__ == "__main__":
    main()
