"""What runtimes with a child process share: its environment, its lines, and the error when it does not start."""

from __future__ import annotations

from collections.abc import Mapping
from os import environ

from autostop_lab.exceptions import ServiceStartError
from autostop_lab.reaper.guard import GuardError
from autostop_lab.reaper.session import Instance
from autostop_lab.services.runtime import Runtime

#: Variables that are ours and must not reach a program.
HIDDEN_VARIABLES = ("AUTOSTOP_LAB_API_KEY",)


class ChildRuntime(Runtime):
    """One life of a service that has a child process."""

    instance: Instance
    first_line: int = 0

    def environment_with(self, added: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of its process: ours, what is `added`, and the signs of its instance."""
        inherited = {name: value for name, value in environ.items() if name not in HIDDEN_VARIABLES}
        return {**inherited, **added, **self.instance.environment}

    def texts(self, count: int | None = None) -> tuple[str, ...]:
        """Return the last `count` lines since it was launched (all that are kept if None), oldest first."""
        return self.slot.ring.texts(count, since=self.first_line)

    def start_error(self, problem: str) -> ServiceStartError:
        """Return the error of a start that failed, with its last lines."""
        lines = self.slot.ring.last_words(since=self.first_line)
        pid = f" (pid {self.pid})" if self.pid is not None else ""
        said = "\nIts last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return ServiceStartError(
            self.slot.ring.mask(f"service {self.slot.name!r}{pid} did not start: {problem}.{said}"),
            service=self.slot.name,
            phase=self.phase,
            exit_code=self.exit_code,
            log_lines=lines,
        )

    def unguarded(self, error: GuardError) -> ServiceStartError:
        """Return the error of a start that the reaper cannot know of."""
        return self.start_error(f"nobody would end it if this process died: {error}")
