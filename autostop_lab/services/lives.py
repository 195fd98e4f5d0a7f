"""Calls that go on through the lives of a service: they wait for the next one, and may be repeated in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autostop_lab.exceptions import ServiceCrashedError
from autostop_lab.services.slot import EndpointClosedError, Slot

Failed = tuple[Callable[..., Any], EndpointClosedError | ServiceCrashedError]


def over_lives(slot: Slot, method: str, use: Callable[[Callable[..., Any]], Any], failed: Failed | None = None) -> Any:
    """Call a method through as many lives of its service as it takes.

    A call that came just as the service went down waits for its next life, if there is one. One that was inside when
    the service died is repeated once, where the policy says so.

    Parameters
    ----------
    slot, method
        What is called.
    use : callable
        Given what calls the method, calls it.
    failed : tuple or None
        What a first try has called, and what it ended with.

    Returns
    -------
    object
        What `use` returned.
    """
    may_repeat = slot.retries_calls
    while True:
        if failed is None:
            call = slot.calls.get(method) or slot.bind(method)
            try:
                return use(call)
            except (EndpointClosedError, ServiceCrashedError) as raised:
                failed = (call, raised)
        call, error = failed
        failed = None
        if isinstance(error, ServiceCrashedError):
            is_own = error.service == slot.name and error.phase == "call"
            if not (is_own and may_repeat):
                raise error
            may_repeat = False
        slot.note_closed(call, method)


def map_over_lives(slot: Slot, method: str, values: list[Any]) -> list[Any]:
    """Call a method with each of `values`, in one round trip for each life that it takes."""
    results: list[Any] = []

    def use(call: Callable[..., Any]) -> None:
        batch = getattr(call, "map", None)
        if batch is None:
            while len(results) < len(values):
                results.append(call(values[len(results)]))
            return
        results.extend(batch(values[len(results) :]))
        if len(results) < len(values):  # it went down on the way
            raise EndpointClosedError

    over_lives(slot, method, use)
    return results
