"""Services that tests in several folders use: they write down what is done with them."""

from __future__ import annotations

import threading
import time
from typing import Any

from autostop_lab import Service


class Diary(list[tuple[str, str]]):
    """What was done, in order: (name of the service, what)."""

    def of(self, name: str) -> list[str]:
        return [what for who, what in self if who == name]

    def names(self, what: str) -> list[str]:
        return [who for who, done in self if done == what]


class Recorder(Service):
    """Writes each hook into a diary; each may be told to sleep, to raise, or to hang."""

    def __init__(self, diary: Diary, name: str, **acts: Any) -> None:
        self.diary = diary
        self.name = name
        self.acts = acts
        self._do("construct")

    def _do(self, what: str) -> None:
        self.diary.append((self.name, what))
        act = self.acts.get(what)
        if isinstance(act, BaseException):
            raise act
        if isinstance(act, threading.Event):
            act.wait()
        elif isinstance(act, int | float):
            time.sleep(act)

    def start(self) -> None:
        self._do("start")

    def stop(self) -> None:
        self._do("stop")

    def cleanup(self) -> None:
        self._do("cleanup")

    def echo(self, value: Any) -> Any:
        self._do("echo")
        return value


ONE_LIFE = ["construct", "start", "stop", "cleanup"]
