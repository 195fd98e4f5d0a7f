"""Every timing of the reaper and of the guard that starts it, in one place. All count on the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """How long what may take.

    Attributes
    ----------
    boot_timeout_s : float
        From the launch of a reaper until it says that it is there; then it counts as one that cannot be started.
    ack_timeout_s : float
        From sending a request until its answer; then the reaper counts as stuck, is killed and replaced.
    still_there_s : float
        From the last word of a reaper until it is asked whether it is still there.
    register_timeout_s : float
        From the call of `Guard.register` until it gives up, whatever it waits for: boot, answer, replacement.
    bye_timeout_s : float
        From the call of `Guard.bye` until it no longer waits for the goodbye to be on its way.
    respawn_pauses_s : tuple of float
        From the death of a reaper until the next is launched: after the first death within `degraded_window_s`,
        the second, and so on; the last one holds for all that follow.
    degraded_deaths : int
        So many deaths within `degraded_window_s` make the guard degraded.
    degraded_window_s : float
        For how long a death counts, from the death on.
    lock_timeout_s : float
        From a reaper's first try to lock its session until it gives up: its killed predecessor, or a sweeper that
        looks whether the owner is alive, may hold the lock for a moment.
    owner_poll_s : float
        Between looks whether the owner is alive, where the system does not tell of its end by itself.
    total_cap_s : float
        From the beginning of a cleaning until those that were not asked to end, in whatever order, are asked; it is
        longer, and `give_up_s` with it, where the grace periods of all levels are.
    last_grace_s : float
        From then until everything that is left is killed.
    stray_grace_s : float
        From asking a process of the session that no lease covers until it is killed.
    give_up_s : float
        From the beginning of a cleaning until what is still there is abandoned, come what may.
    looks_needed : int
        Empty looks in a row before something counts as gone: a child forked after the list of processes was read
        is invisible to one look.
    confirm_pause_s : float
        Between looks that confirm emptiness, and after a kill.
    wait_pause_s, longest_wait_pause_s : float
        Between looks that wait for something to end: the first pause and the longest.
    pause_per_look : float
        A pause that waits is at least so many times as long as the look before it.
    unmarked_age_s : float
        From the last change of a session's folder that has no journal until a sweep may remove it.
    set_aside_age_s : float
        The same where a journal was set aside because it could not be trusted.
    death_age_s : float
        From a cleaning until its record is dropped (on the wall clock: it outlives reboots).
    """

    boot_timeout_s: float = 10.0
    ack_timeout_s: float = 2.0
    still_there_s: float = 5.0
    register_timeout_s: float = 15.0
    bye_timeout_s: float = 0.5
    respawn_pauses_s: tuple[float, ...] = (0.0, 0.1, 1.0, 5.0)
    degraded_deaths: int = 5
    degraded_window_s: float = 60.0
    lock_timeout_s: float = 2.0
    owner_poll_s: float = 0.5
    total_cap_s: float = 30.0
    last_grace_s: float = 2.0
    stray_grace_s: float = 2.0
    give_up_s: float = 45.0
    looks_needed: int = 3
    confirm_pause_s: float = 0.003
    wait_pause_s: float = 0.01
    longest_wait_pause_s: float = 0.1
    pause_per_look: float = 4.0
    unmarked_age_s: float = 600.0
    set_aside_age_s: float = 7 * 86400.0
    death_age_s: float = 7 * 86400.0


#: What holds unless a test says otherwise.
DEFAULT = Timings()
