"""Keys of records: which replica a key belongs to, the same in every process and in every run."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from numbers import Number
from typing import Any

#: So many keys are remembered with their replica; then the memory starts anew.
REMEMBERED_KEYS = 65536


def stable_hash(key: Any) -> int:
    """Return a hash that is equal for equal keys, and the same in every process.

    Python's own differs from process to process for texts and what contains them. Other objects with a
    ``__hash__`` of their own keep that one, so for them it holds within one process.

    Parameters
    ----------
    key : hashable
        Numbers, texts, bytes, None, dates, enums, frozen dataclasses, and tuples and frozensets of these.

    Returns
    -------
    int
        Not negative.

    Raises
    ------
    TypeError
        It is not hashable.
    """
    match key:
        case str():
            return zlib.crc32(key.encode("utf-8", "surrogatepass"))
        case bytes():
            return zlib.crc32(key)
        case None:
            return 0
        case timedelta():
            return _mixed((key.days, key.seconds, key.microseconds))
        case datetime() if key.utcoffset() is not None:
            return _of_text(str(key.timestamp()))
        case date() | time():
            return _of_text(key.isoformat())
        case Number():
            return hash(key) & 0x7FFFFFFF if key == key else 0  # the hash of NaN is its address
        case tuple():
            return _mixed(key)
        case frozenset():
            return sum(map(stable_hash, key)) & 0xFFFFFFFF
        case Enum():
            return _of_text(f"{type(key).__qualname__}.{key.name}")
    if is_dataclass(key) and not isinstance(key, type):
        hash(key)  # a mutable one is no key
        return _mixed(tuple(getattr(key, field.name) for field in fields(key) if field.compare))
    return hash(key) & 0x7FFFFFFF


def _of_text(text: str) -> int:
    return zlib.crc32(text.encode())


def _mixed(values: tuple[Any, ...]) -> int:
    mixed = len(values)
    for value in values:
        mixed = (mixed * 1_000_003 ^ stable_hash(value)) & 0xFFFFFFFF
    return mixed


def router(replicas: int) -> Callable[[Any], int]:
    """Return the function that says which of so many replicas a key belongs to."""
    known: dict[Any, int] = {}

    def route(key: Any) -> int:
        __tracebackhide__ = True
        try:
            return known[key]
        except KeyError:
            if len(known) >= REMEMBERED_KEYS:
                known.clear()
            # By the high bits of a product (Knuth's multiplicative hashing): neighbours differ in few bits only.
            stirred = stable_hash(key) * 2654435761 & 0xFFFFFFFF
            place = known[key] = stirred * replicas >> 32
            return place

    return route
