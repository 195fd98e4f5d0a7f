"""What a user may say of how a service is kept and ended. Frozen, keyword-only, refused at once if senseless."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

from autostop_lab.exceptions import ConfigurationError


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

    def __new__(cls, **given: Any) -> Self:
        """Remember which fields were given, so that the others can be inherited."""
        policy = super().__new__(cls)
        object.__setattr__(policy, "_given", frozenset(given))
        return policy

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        owner = type(self).__name__
        for name in ("depends_on", "secret"):
            object.__setattr__(self, name, check_names(owner, name, getattr(self, name)))
        if not isinstance(self.critical, bool):
            raise ConfigurationError(f"{owner}: critical={self.critical!r} must be True or False.")
        check_seconds(owner, "start_timeout_s", self.start_timeout_s, exclusive=True)
        check_seconds(owner, "kill_timeout_s", self.kill_timeout_s, exclusive=True)
        for name in ("stop_timeout_s", "cleanup_timeout_s", "call_timeout_s"):
            check_seconds(owner, name, getattr(self, name))
        check_count(owner, "max_concurrent_calls", self.max_concurrent_calls, minimum=1)

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
