"""Services in processes of their own, against the least that could do the same."""

from __future__ import annotations

import pickle
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy

from autostop_lab import LocalEnvironment
from tests.benchmarks.bench_lifecycle import fresh_process
from tests.benchmarks.echo import Echo
from tests.benchmarks.registry import Result, benchmark, compare, seconds

#: The least that a call to another process needs: its arguments pickled, sent with their length, and back.
SERVER = """
import pickle, socket, struct, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
end, _ = listener.accept()
while data := end.recv(65536):
    size, = struct.unpack_from("<I", data)
    while len(data) < 4 + size:
        data += end.recv(65536)
    method, args, kwargs = pickle.loads(data[4:])
    data = pickle.dumps(args[0], 5)
    end.sendall(struct.pack("<I", len(data)) + data)
"""


class BareClient:
    """Calls the bare server."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder / "s")], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(str(folder / "s"))

    def echo(self, value: object) -> object:
        data = pickle.dumps(("echo", (value,), {}), 5)
        self._end.sendall(struct.pack("<I", len(data)) + data)
        data = self._end.recv(65536)
        (size,) = struct.unpack_from("<I", data)
        while len(data) < 4 + size:
            data += self._end.recv(65536)
        return pickle.loads(data[4:])

    def close(self) -> None:
        self._end.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def times(function: Callable[[int], object], count: int) -> Callable[[], None]:
    def run() -> None:
        for number in range(count):
            function(number)

    return run


@benchmark
def process_call() -> list[Result]:
    """A lone caller's call, and a batch, against a bare round trip over a Unix socket (per 1,000)."""
    env = LocalEnvironment("calls of a process")
    echo = env.register_service("echo", Echo, runtime="process").echo
    env.start()
    records = list(range(1000))
    with TemporaryDirectory() as folder:
        bare = BareClient(Path(folder))
        results = [
            compare("calls of a process, vs bare round trips", times(echo, 1000), times(bare.echo, 1000), n=1000),
            compare("map of 1,000 records, vs one by one", lambda: echo.map(records), times(echo, 1000), n=1000),
        ]
        bare.close()
    env.close()
    return results


@benchmark
def process_array() -> list[Result]:
    """An array of 100 MB there and back, against its way through a socket pair there and back."""
    env = LocalEnvironment("arrays")
    echo = env.register_service("echo", Echo, runtime="process").echo
    env.start()
    array = numpy.ones(100 * 2**20 // 8)

    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", BYTES_SERVER, f"{folder}/s", str(array.nbytes)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        end = socket.socket(socket.AF_UNIX)
        end.connect(f"{folder}/s")
        back = bytearray(array.nbytes)

        def bare() -> None:
            end.sendall(memoryview(array).cast("B"))
            at = 0
            while at < len(back):
                at += end.recv_into(memoryview(back)[at:])

        result = compare("100 MB array there and back, vs its bytes", lambda: echo(array), bare, n=1)
        end.close()
        process.wait()
        process.stdout.close()
    env.close()
    return [result]


BYTES_SERVER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
end, _ = listener.accept()
data = bytearray(int(sys.argv[2]))
while True:
    at = 0
    while at < len(data):
        count = end.recv_into(memoryview(data)[at:])
        if not count:
            sys.exit()
        at += count
    end.sendall(data)
"""


@benchmark
def process_start() -> list[Result]:
    """Start of a service in a process, and its stop, against an interpreter that imports cloudpickle and ends."""
    env = LocalEnvironment("starts")
    env.register_service("echo", Echo, runtime="process")
    lives: list[tuple[float, float]] = []

    def live() -> None:
        began_s = time.perf_counter()
        env.start()
        ready_s = time.perf_counter()
        env.stop()
        lives.append((ready_s - began_s, time.perf_counter() - ready_s))

    bare = fresh_process("import cloudpickle")
    live()  # which starts the reaper as well
    lives.clear()
    bares = []
    for _ in range(15):
        bares.append(seconds(bare))
        live()
    what = ("start of a process, vs python -c 'import cloudpickle'", "its stop, until all is gone, vs the same")
    env.close()
    return [
        Result(what[step], median(s[step] for s in lives), median(bares), median(s[step] / b for s, b in pairs), 1, 15)
        for step, pairs in ((step, list(zip(lives, bares, strict=True))) for step in (0, 1))
    ]
