"""News of the end of a process that is not our child."""

from __future__ import annotations

import select
import sys
from typing import Any

from autostop_lab.reaper.processes import Process, is_alive, open_pidfd


class Watch:
    """Tells of the end of a process, by whatever the system has for that."""

    def __init__(self, known: Process) -> None:
        self._known = known
        self.descriptor: int | None = None
        self._queue: Any = None
        try:
            self.descriptor = open_pidfd(known.pid)
            if self.descriptor is None and sys.platform == "darwin":
                self._queue = select.kqueue()
                note = select.kevent(known.pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
                self._queue.control([note], 0)
                self.descriptor = self._queue.fileno()
        except OSError:  # it is gone already: a look tells
            pass

    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return not is_alive(self._known)
