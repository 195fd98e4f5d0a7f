"""What the processes of services use: memory and CPU, looked at now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

#: Shortest time between two looks, in seconds, and the largest share of a core that looking may take.
LOOK_S, LARGEST_SHARE = 1.0, 0.01


class Use(NamedTuple):
    """What a service's processes use."""

    memory_bytes: int
    cpu_percent: float


class Meter:
    """Measures services that have processes of their own, with all their descendants."""

    def __init__(self) -> None:
        self._due_s = 0.0
        self._cpu_s: dict[int, tuple[float, float]] = {}
        self.uses: dict[str, Use] = {}

    def look(self, pids: Mapping[str, int], now_s: float) -> bool:
        """Look at the processes, by name of their service, if it is time; return whether it was."""
        if now_s < self._due_s:
            return False
        began_s = time.perf_counter()
        self.uses = {name: use for name, pid in pids.items() if (use := self._measure(pid)) is not None}
        self._cpu_s = {pid: at for pid, at in self._cpu_s.items() if pid in pids.values()}
        self._due_s = now_s + max(LOOK_S, (time.perf_counter() - began_s) / LARGEST_SHARE)
        return bool(pids)

    def _measure(self, pid: int) -> Use | None:
        import psutil  # not with this module: a kernel without programs can do without

        memory, cpu_s = 0, 0.0
        try:
            first = psutil.Process(pid)
            family = [first, *first.children(recursive=True)]
        except psutil.Error:
            return None
        for process in family:
            try:
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory += process.memory_info().rss
            except psutil.Error:
                continue
        now_s = time.monotonic()
        before_s, before_cpu_s = self._cpu_s.get(pid, (now_s, cpu_s))
        self._cpu_s[pid] = (now_s, cpu_s)
        percent = 100 * (cpu_s - before_cpu_s) / (now_s - before_s) if now_s > before_s else 0.0
        return Use(memory, max(0.0, percent))
