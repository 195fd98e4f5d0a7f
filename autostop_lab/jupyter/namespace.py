"""Variables that jobs put into the user's namespace for their time, and what they hide meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

_MISSING = object()


class Layer:
    """One variable of one job, and what it hides."""

    def __init__(self, value: Any, hidden: Any) -> None:
        self.value = value
        self.hidden = hidden


class Namespace:
    """The user's namespace, with the variables of jobs laid over it.

    Jobs end in any order: each variable goes back to what the first of them hid, and what the user has assigned
    in the meantime stays.

    Parameters
    ----------
    variables : dict
        The user's namespace.
    """

    def __init__(self, variables: dict[str, Any]) -> None:
        self._variables = variables
        self._layers: dict[str, list[Layer]] = {}
        self._lock = threading.Lock()

    def put(self, values: Mapping[str, Any]) -> Callable[[], None]:
        """Lay variables over the namespace; the returned function takes them away, once."""
        with self._lock:
            mine = {name: Layer(value, self._variables.get(name, _MISSING)) for name, value in values.items()}
            for name, layer in mine.items():
                self._layers.setdefault(name, []).append(layer)
                self._variables[name] = layer.value

        def take_away() -> None:
            with self._lock:
                for name in list(mine):
                    self._remove(name, mine.pop(name))

        return take_away

    def _remove(self, name: str, layer: Layer) -> None:
        layers = self._layers[name]
        at = layers.index(layer)
        del layers[at]
        if at < len(layers):
            if layers[at].hidden is layer.value:
                layers[at].hidden = layer.hidden
        elif self._variables.get(name, _MISSING) is layer.value:
            if layer.hidden is _MISSING:
                del self._variables[name]
            else:
                self._variables[name] = layer.hidden
