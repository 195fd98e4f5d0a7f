"""The known demo of this idea: a batch of messages into a sink that calls a service, which is then cleaned up.

Run it as a script, or under pytest.
"""

from __future__ import annotations

from typing import Any

from autostop_lab import BatchFunction, LocalEnvironment, Service, SinkFunction


class GreetingService(Service):
    """Counts what is done with it."""

    calls: list[str] = []  # noqa: RUF012  # shared on purpose: it is read when the object is gone

    def start(self) -> None:
        """Take up work."""
        self.calls.append("start")

    def process(self, message: str) -> str:
        """Answer a message."""
        self.calls.append("process")
        return f"hello, {message}"

    def stop(self) -> None:
        """Lay down work."""
        self.calls.append("stop")

    def cleanup(self) -> None:
        """Let go of everything."""
        self.calls.append("cleanup")


class Messages(BatchFunction):
    """Five messages."""

    def __init__(self, count: int) -> None:
        self.left = count

    def execute(self) -> str | None:
        """Return the next one."""
        if self.left == 0:
            return None
        self.left -= 1
        return f"message {self.left}"


class Greet(SinkFunction):
    """Asks the service about each message."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def execute(self, record: Any) -> None:
        """Ask about one message."""
        self.answers.append(self.call_service("greeting", record))


def run_demo() -> list[str]:
    """Run the demo and return what was called on the service, in order."""
    GreetingService.calls.clear()
    answers: list[str] = []
    env = LocalEnvironment("autostop demo")
    env.register_service("greeting", GreetingService)
    env.from_batch(Messages, 5).sink(Greet, answers)
    env.submit(autostop=True)
    calls = list(GreetingService.calls)  # as it is when submit returns, not later
    assert answers == [f"hello, message {number}" for number in (4, 3, 2, 1, 0)]
    env.close()
    assert calls == GreetingService.calls
    return calls


def test_the_service_is_stopped_and_cleaned_once_when_submit_returns() -> None:
    assert run_demo() == ["start", *["process"] * 5, "stop", "cleanup"]


if __name__ == "__main__":
    if run_demo() == ["start", *["process"] * 5, "stop", "cleanup"]:
        print("SUCCESS: Service was properly initialized, used, and cleaned up!")
    else:
        print("FAILURE: Service was not cleaned up!")
