"""Ports for programs: free ones are chosen for each start, and taken ones are recognised."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable

from autostop_lab.reaper.processes import listener_pids

#: Longest try to connect, in seconds.
CONNECT_TIMEOUT_S = 1.0


class FreePorts:
    """Free ports of this machine, each given out once at a time within this process."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._lock = threading.Lock()

    def choose(self, host: str) -> int:
        """Return a port that nobody uses now."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind((host, 0))
                    port: int = probe.getsockname()[1]
                if port not in self._given:
                    self._given.add(port)
                    return port

    def give_back(self, ports: Iterable[int]) -> None:
        """Let ports be chosen again."""
        with self._lock:
            self._given.difference_update(ports)


free_ports = FreePorts()


def takers_of(host: str, port: int) -> frozenset[int] | None:
    """Return the pids of those who listen on a port, as far as can be seen; None if nobody does."""
    with socket.socket() as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        if probe.connect_ex((host, port)) != 0:
            return None
    return listener_pids(port) or frozenset()
