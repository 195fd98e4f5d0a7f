"""Outputs of programs whose reader may be gone: who writes into a pipe without a reader is killed by SIGPIPE."""

from __future__ import annotations

import os
import select
import time

#: What is read at once, in bytes.
READ_BYTES = 1 << 16


class Outputs:
    """Read ends of programs' outputs; they are drained when nobody else does that any more."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def keep(self, instance_id: str, descriptor: int | None) -> None:
        """Hold the output of an instance, in place of the one before."""
        self.drop(instance_id)
        if descriptor is not None:
            self._of[instance_id] = descriptor

    def drop(self, instance_id: str) -> None:
        """Let go of the output of an instance, if there is one."""
        if (descriptor := self._of.pop(instance_id, None)) is not None:
            os.close(descriptor)

    def drain(self, seconds: float) -> None:
        """Read and forget what programs say, for so long."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        by_descriptor = {descriptor: instance_id for instance_id, descriptor in self._of.items()}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        while True:
            left_s = deadline - time.monotonic()
            for descriptor, _ in poll.poll(max(left_s, 0.0) * 1000):
                try:
                    is_over = not os.read(descriptor, READ_BYTES)
                except BlockingIOError:
                    is_over = False
                except OSError:
                    is_over = True
                if is_over:
                    poll.unregister(descriptor)
                    self.drop(by_descriptor[descriptor])
            if left_s <= 0:
                return
