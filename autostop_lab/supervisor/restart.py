"""PURE. Whether a service that ended by itself is started anew, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autostop_lab.services.policies import Restart

#: Largest part of a pause that is added or taken away, so that services which died together do not return together.
JITTER = 0.1


@dataclass(frozen=True)
class Again:
    """Start it anew.

    Attributes
    ----------
    delay_s : float
        After this pause, in seconds.
    number : int
        As which restart within the window, from 1.
    """

    delay_s: float
    number: int


@dataclass(frozen=True)
class Enough:
    """Leave it as it is.

    Attributes
    ----------
    reason : str
        Why, in words; "" where the policy does not want a restart at all.
    """

    reason: str = ""


def decide(
    rule: Restart, *, is_clean: bool, restarts: Sequence[float], ran_s: float, now: float, jitter: float = 0.0
) -> Again | Enough:
    """Decide what becomes of a service that ended by itself, or did not become ready.

    Parameters
    ----------
    rule : Restart
        Its policy.
    is_clean : bool
        Whether it ended as if it was done.
    restarts : sequence of float
        When it was restarted before, since the last manual order, in seconds on the clock of `now`.
    ran_s : float
        How long it has run without interruption, in seconds.
    now : float
        The time, in seconds.
    jitter : float
        Between -1 and 1: how much of `JITTER` to add to the pause.

    Returns
    -------
    Again or Enough
        The decision.
    """
    if rule.when == "no" or (rule.when == "on-failure" and is_clean):
        return Enough()
    recent = recent_restarts(rule, restarts=restarts, ran_s=ran_s, now=now)
    if rule.max_restarts is not None and len(recent) >= rule.max_restarts:
        times = f"{len(recent)} restart{'s' if len(recent) != 1 else ''}"
        return Enough(f"{times} within {rule.window_s:g} s, and no more are allowed")
    # The exponent is bounded only so that the number stays a float.
    delay_s = min(rule.backoff_s * 2 ** min(len(recent), 64), rule.backoff_max_s)
    return Again(delay_s * (1 + JITTER * jitter), len(recent) + 1)


def recent_restarts(rule: Restart, *, restarts: Sequence[float], ran_s: float, now: float) -> list[float]:
    """Return the restarts that still count: none after ``window_s`` of running, else those within the window."""
    if ran_s >= rule.window_s:
        return []
    return [at for at in restarts if now - at < rule.window_s]
