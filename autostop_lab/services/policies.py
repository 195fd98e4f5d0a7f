"""What a user may say of how a service is kept and ended. Frozen, keyword-only, refused at once if senseless."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, fields
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from autostop_lab.exceptions import ArgumentError, ConfigurationError


def check_seconds(owner: str, name: str, value: object, *, minimum: float = 0.0, exclusive: bool = False) -> None:
    """Refuse what is not a number of seconds that can be waited for, at least (or, `exclusive`, above) `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= threading.TIMEOUT_MAX:
        raise ConfigurationError(f"{owner}: {name}={value!r} is not a number of seconds.")
    if value < minimum or (exclusive and value == minimum):
        bound = "greater than" if exclusive else "at least"
        raise ConfigurationError(f"{owner}: {name}={value!r} must be {bound} {minimum:g} s.")


def check_count(owner: str, name: str, value: object, *, minimum: int) -> None:
    """Refuse what is not a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(f"{owner}: {name}={value!r} must be a whole number of at least {minimum}.")


def check_names(owner: str, name: str, value: object) -> tuple[str, ...]:
    """Return `value` as a tuple of names; a bare string is refused, since it is an iterable of letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{owner}: {name}={value!r} must be a tuple of names, as in {name}=({value!r},).")
    names: list[str] = []
    for item in value:
        found = getattr(item, "name", item)  # a handle stands for its service
        if not isinstance(found, str) or not found:
            raise ConfigurationError(f"{owner}: {name} holds {item!r}, which is not a name.")
        names.append(found)
    return tuple(names)


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of `choices`."""
    if value not in choices:
        raise ConfigurationError(f"{owner}: {name}={value!r} must be one of {', '.join(map(repr, choices))}.")


RESTART_WORDS = ("no", "on-failure", "always", "unless-stopped")
STRATEGIES = ("one_for_one", "rest_for_one", "one_for_all")


@dataclass(frozen=True)
class Restart:
    """Whether a service that ended by itself is started anew.

    Parameters
    ----------
    when : str
        ``"no"``; ``"on-failure"``: after a crash only; ``"always"`` and ``"unless-stopped"``: after a clean exit too.
        The last two differ after a manual stop: a new submit, ``start_all()`` or the restart of what it depends on
        starts an ``always`` service again, an ``unless-stopped`` one waits for its own ``start()``.
    max_restarts : int or None
        How many within `window_s`; 0 means none, None no limit.
    window_s : float
        Length of the sliding window in seconds, > 0. So much uninterrupted running empties it, and so does a manual
        stop, start or restart; nothing else does.
    backoff_s, backoff_max_s : float
        Pause in seconds before the first restart; it doubles with each further one until the window is emptied, up
        to the maximum, with a jitter of +-10 %.
    strategy : str
        Who restarts with it: ``"one_for_one"`` nobody, ``"rest_for_one"`` what depends on it, ``"one_for_all"`` every
        service beside it.
    """

    when: str = "on-failure"
    _: KW_ONLY
    max_restarts: int | None = 3
    window_s: float = 60.0
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    strategy: str = "one_for_one"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_choice("Restart", "when", self.when, RESTART_WORDS)
        check_choice("Restart", "strategy", self.strategy, STRATEGIES)
        if self.max_restarts is not None:
            check_count("Restart", "max_restarts", self.max_restarts, minimum=0)
        check_seconds("Restart", "window_s", self.window_s, exclusive=True)
        check_seconds("Restart", "backoff_s", self.backoff_s)
        check_seconds("Restart", "backoff_max_s", self.backoff_max_s, minimum=self.backoff_s)


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a service that runs is looked at: its ``health_check()``, or the readiness probe of a program.

    Parameters
    ----------
    interval_s : float
        From the end of one look to the next, in seconds, > 0.
    timeout_s : float
        Longest look in seconds, > 0; one that takes longer counts as failed.
    failure_threshold, success_threshold : int
        Failed looks in a row that make it unhealthy, and passed ones that make it well again, >= 1.
    on_unhealthy : str
        ``"report"`` shows it; ``"restart"`` restarts the service, whatever its `Restart` says of crashes, and within
        the limits of that.
    """

    interval_s: float = 10.0
    timeout_s: float = 5.0
    failure_threshold: int = 3
    success_threshold: int = 1
    on_unhealthy: str = "report"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_seconds("Health", "interval_s", self.interval_s, exclusive=True)
        check_seconds("Health", "timeout_s", self.timeout_s, exclusive=True)
        check_count("Health", "failure_threshold", self.failure_threshold, minimum=1)
        check_count("Health", "success_threshold", self.success_threshold, minimum=1)
        check_choice("Health", "on_unhealthy", self.on_unhealthy, ("report", "restart"))


@dataclass(frozen=True)
class Cron:
    """When the ``run()`` of a service is called again and again.

    Parameters
    ----------
    schedule : str
        Five fields (minute, hour, day of month, month, day of week), or six with the seconds before them, as cronsim
        reads them.
    run_timeout_s : float or None
        Longest run in seconds, > 0; None for no limit.
    overlap : str
        What happens to a tick that comes while a run goes on: ``"skip"`` it, ``"queue"`` one run behind it, or
        ``"cancel"`` the one that runs.
    timezone : str or None
        Name of a time zone, as in ``"Europe/Berlin"``; None is this machine's.
    run_on_start : bool
        Whether the first run begins at once.
    """

    schedule: str
    _: KW_ONLY
    run_timeout_s: float | None = None
    overlap: str = "skip"
    timezone: str | None = None
    run_on_start: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.run_timeout_s is not None:
            check_seconds("Cron", "run_timeout_s", self.run_timeout_s, exclusive=True)
        check_choice("Cron", "overlap", self.overlap, ("skip", "queue", "cancel"))
        if not isinstance(self.run_on_start, bool):
            raise ConfigurationError(f"Cron: run_on_start={self.run_on_start!r} must be True or False.")
        zone = self.zone()
        try:
            self.next_after(datetime.now(zone))
        except StopIteration:
            raise ConfigurationError(f"Cron: schedule {self.schedule!r} never comes.") from None

    def zone(self) -> tzinfo:
        """Return the time zone that the schedule is meant in."""
        if self.timezone is None:
            return _local_zone()
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise ConfigurationError(
                f"Cron: timezone={self.timezone!r} is not known here. Use a name such as 'Europe/Berlin' or 'UTC'."
            ) from None

    def next_after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in the schedule's time zone.

        Parameters
        ----------
        moment : datetime
            An aware point in time.

        Returns
        -------
        datetime
            The next tick; across a change of clocks none is lost or doubled, as cronsim sees to.
        """
        from cronsim import CronSim, CronSimError

        try:
            ticks = CronSim(self.schedule, moment.astimezone(self.zone()))
        except (CronSimError, AttributeError, TypeError) as error:
            raise ConfigurationError(f"Cron: {self.schedule!r} is not a cron schedule: {error}.") from None
        # In the hour that comes twice, cronsim gives the tick of the first time also when it is over.
        # Compared in UTC: within one zone Python compares what the clock shows.
        return next(tick for tick in ticks if tick.astimezone(UTC) > moment.astimezone(UTC))


def _local_zone() -> tzinfo:
    """Return this machine's time zone, by name where it tells it, so that changes of clocks are known."""
    name = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.now(UTC).astimezone().tzinfo or UTC


@dataclass(frozen=True, kw_only=True)
class ServicePolicy:
    """How one service is started, called and ended.

    Fields that are not given are inherited: from the environment's policy, then from these defaults.

    Parameters
    ----------
    depends_on : tuple of str
        Services that must be ready before this one starts, and that stop only after it has stopped.
    critical : bool
        Whether the job fails when this service dies for good.
    secret : tuple of str
        Names of constructor arguments and environment variables whose values are never shown.
    start_timeout_s : float
        From launch to ready, in seconds, > 0.
    stop_timeout_s : float
        The grace period: from the polite stop to the kill, in seconds, >= 0. Calls in flight may use half of it.
    kill_timeout_s : float
        From the kill to the proof of death, in seconds, > 0; after it the service is abandoned and named.
    cleanup_timeout_s : float
        For ``cleanup()``, in seconds, >= 0.
    call_timeout_s : float
        Longest wait of a call for its turn or for a restart, in seconds, >= 0; the work itself is not bounded.
    max_concurrent_calls : int
        How many calls may be inside at once, >= 1.
    retry_calls : bool
        Whether a call that was inside when the service died is made once more; for services whose calls may be
        repeated without harm.
    idle_timeout_s : float or None
        Stop it when nobody has called it for so many seconds, > 0; the next call starts it again. None never.
    max_lifetime_s : float or None
        Longest life in seconds, > 0; then it is stopped. None for no limit.
    restart : Restart or str
        Whether it is started anew when it ended by itself; a word is short for ``Restart(word)``.
    health : Health or None
        How it is looked at while it runs; None not at all.
    cron : Cron or str or None
        When its ``run()`` is called again and again; a schedule is short for ``Cron(schedule)``.

    Raises
    ------
    ConfigurationError
        A value makes no sense.
    """

    depends_on: tuple[str, ...] = ()
    critical: bool = True
    secret: tuple[str, ...] = ()
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0
    kill_timeout_s: float = 2.0
    cleanup_timeout_s: float = 5.0
    call_timeout_s: float = 30.0
    max_concurrent_calls: int = 1
    retry_calls: bool = False
    idle_timeout_s: float | None = None
    max_lifetime_s: float | None = None
    restart: Restart | str = "no"
    health: Health | None = None
    cron: Cron | str | None = None

    def __new__(cls, **given: Any) -> Self:
        """Remember which fields were given, so that the others can be inherited."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, 1)
                hint = f" Did you mean {near[0]!r}?" if near else f" It has {', '.join(names)}."
                raise ArgumentError(f"ServicePolicy has no field {name!r}.{hint}")
        policy = super().__new__(cls)
        object.__setattr__(policy, "_given", frozenset(given))
        return policy

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        owner = type(self).__name__
        for name in ("depends_on", "secret"):
            object.__setattr__(self, name, check_names(owner, name, getattr(self, name)))
        for name in ("critical", "retry_calls"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{owner}: {name}={getattr(self, name)!r} must be True or False.")
        check_seconds(owner, "start_timeout_s", self.start_timeout_s, exclusive=True)
        check_seconds(owner, "kill_timeout_s", self.kill_timeout_s, exclusive=True)
        for name in ("stop_timeout_s", "cleanup_timeout_s", "call_timeout_s"):
            check_seconds(owner, name, getattr(self, name))
        check_count(owner, "max_concurrent_calls", self.max_concurrent_calls, minimum=1)
        for name in ("idle_timeout_s", "max_lifetime_s"):
            if getattr(self, name) is not None:
                check_seconds(owner, name, getattr(self, name), exclusive=True)
        if isinstance(self.restart, str):
            object.__setattr__(self, "restart", Restart(self.restart))
        if isinstance(self.cron, str):
            object.__setattr__(self, "cron", Cron(self.cron))
        for name, kind in (("restart", Restart), ("health", Health), ("cron", Cron)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name != "restart"):
                raise ConfigurationError(f"{owner}: {name}={value!r} is not a {kind.__name__}.")
        if self.cron is not None and self.restart_rule.when != "no":
            raise ConfigurationError(
                f"{owner}: restart={self.restart_rule.when!r} beside cron: a failed run is repeated by the next tick. "
                "Leave restart out."
            )
        if self.cron is not None and self.health is not None and self.health.on_unhealthy == "restart":
            raise ConfigurationError(
                f"{owner}: health=Health(on_unhealthy='restart') beside cron: a failed run gets a new object anyway. "
                "Use on_unhealthy='report'."
            )

    @property
    def restart_rule(self) -> Restart:
        """The restart policy, a word spelled out."""
        assert isinstance(self.restart, Restart)
        return self.restart

    @property
    def cron_rule(self) -> Cron | None:
        """The schedule, a string spelled out."""
        assert not isinstance(self.cron, str)
        return self.cron

    @property
    def look_timeout_s(self) -> float:
        """Longest look at its health, in seconds."""
        return self.health.timeout_s if self.health is not None else Health().timeout_s

    def inherit(self, parent: ServicePolicy | None) -> ServicePolicy:
        """Return this policy with the fields that were not given taken from `parent`."""
        if parent is None:
            return self
        return type(self)(**{**parent._given_values(), **self._given_values()})

    def with_dependencies(self, names: Iterable[str]) -> ServicePolicy:
        """Return this policy with `names` added to ``depends_on``."""
        merged = tuple(dict.fromkeys((*self.depends_on, *names)))
        return type(self)(**{**self._given_values(), "depends_on": merged})

    def _given_values(self) -> dict[str, Any]:
        given: frozenset[str] = self._given  # type: ignore[attr-defined]  # set by __new__, not a field
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in given}
