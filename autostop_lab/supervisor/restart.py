"""PURE. Whether a service that ended by itself is started anew, and when."""

from __future__ import annotations

from dataclasses import dataclass

from autostop_lab.services.policies import Restart

#: Largest part of a pause that is added or taken away, so that services which died together do not return together.
JITTER = 0.1
#: Doublings after which every pause has reached its maximum; keeps the number a float.
MOST_DOUBLINGS = 64


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


@dataclass(frozen=True)
class Past:
    """The restarts of a service since its window was emptied: by a manual order, or by ``window_s`` of running.

    Attributes
    ----------
    recent : tuple of float
        When those within the sliding window were, in seconds, oldest first: they count towards the limit.
    in_a_row : int
        How many there were in all: they lengthen the pause.
    """

    recent: tuple[float, ...] = ()
    in_a_row: int = 0

    def seen_from(self, now: float, rule: Restart, *, ran_s: float) -> Past:
        """Return what of it still counts at `now`, for a service that has run for `ran_s` without interruption."""
        if ran_s >= rule.window_s:
            return Past()
        return Past(tuple(at for at in self.recent if now - at < rule.window_s), self.in_a_row)

    def with_one(self, at: float) -> Past:
        """Return it with a further restart."""
        return Past((*self.recent, at), self.in_a_row + 1)


def decide(rule: Restart, past: Past, *, is_wanted: bool, jitter: float = 0.0) -> Again | Enough:
    """Decide what becomes of a service that ended by itself, or did not become ready.

    Parameters
    ----------
    rule : Restart
        Its policy.
    past : Past
        Its restarts, as seen from now.
    is_wanted : bool
        Whether an end of this kind asks for a restart at all, see `wants_restart`.
    jitter : float
        Between -1 and 1: how much of `JITTER` to add to the pause.

    Returns
    -------
    Again or Enough
        The decision.
    """
    if not is_wanted:
        return Enough()
    count = len(past.recent)
    if rule.max_restarts == 0:
        return Enough("its policy allows no restart")
    if rule.max_restarts is not None and count >= rule.max_restarts:
        times = f"{count} restart{'s' if count != 1 else ''}"
        return Enough(f"{times} within {rule.window_s:g} s, and no more are allowed")
    delay_s = min(rule.backoff_s * 2.0 ** min(past.in_a_row, MOST_DOUBLINGS), rule.backoff_max_s)
    return Again(delay_s * (1 + JITTER * jitter), count + 1)


def wants_restart(rule: Restart, *, is_clean: bool) -> bool:
    """Return whether the policy restarts a service after a clean exit (`is_clean`), or after a crash."""
    return rule.when in ("always", "unless-stopped") or (rule.when == "on-failure" and not is_clean)
