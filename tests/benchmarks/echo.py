"""A service that can be imported for next to nothing, so that starts of its process are not about its module."""

from __future__ import annotations

from autostop_lab import Service


class Echo(Service):
    """Returns what it is given."""

    def echo(self, value: object) -> object:
        return value
