"""PURE. In which order services start and stop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from autostop_lab.exceptions import DependencyError, UnknownServiceError

Dependencies = Mapping[str, Collection[str]]


def start_levels(dependencies: Dependencies) -> list[list[str]]:
    """Return the services in levels: each depends only on those before it.

    Parameters
    ----------
    dependencies : mapping of str to collection of str
        For each service, the names that it depends on.

    Returns
    -------
    list of list of str
        Levels in the order of starting; to stop, reverse the levels.

    Raises
    ------
    DependencyError
        A name is unknown, a service depends on itself, or the dependencies form a circle.
    """
    for name, needed in dependencies.items():
        for other in needed:
            if other == name:
                raise DependencyError(f"service {name!r} depends on itself; take it out of its depends_on.")
            if other not in dependencies:
                hint = did_you_mean(other, dependencies)
                raise DependencyError(f"service {name!r} depends on {other!r}, which is not registered.{hint}")
    sorter = TopologicalSorter(dependencies)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise DependencyError(f"services depend on each other in a circle: {circle}. Take one of them out.") from None
    levels = []
    while sorter.is_active():
        level = sorted(sorter.get_ready(), key=list(dependencies).index)
        levels.append(level)
        sorter.done(*level)
    return levels


def levels_within(names: Collection[str], dependencies: Dependencies) -> list[list[str]]:
    """Return `names` in levels as `start_levels` does, by what they need of each other, be it by way of others.

    It never refuses: what was registered after they had started must not hinder their end, be it a circle.
    """
    return _levels(names, dependencies, dependencies)


def stop_levels(names: Collection[str], dependencies: Dependencies) -> list[list[str]]:
    """Return `names` in the levels in which they stop: each when all that need it have ended, as early as can be."""
    return _levels(names, dependencies, _reversed(dependencies))


def _levels(names: Collection[str], known: Collection[str], edges: Dependencies) -> list[list[str]]:
    chosen = set(names)
    inner = {name: _closure(edges.get(name, ()), edges) & chosen - {name} for name in known if name in chosen}
    try:
        return start_levels(inner)
    except DependencyError:
        return [list(inner)]


def with_needed(names: Iterable[str], dependencies: Dependencies) -> set[str]:
    """Return `names` and everything that they depend on."""
    return _closure(names, dependencies)


def with_dependants(names: Iterable[str], dependencies: Dependencies) -> set[str]:
    """Return `names` and everything that depends on them."""
    return _closure(names, _reversed(dependencies))


def _reversed(dependencies: Dependencies) -> dict[str, list[str]]:
    reverse: dict[str, list[str]] = {}
    for name, needed in dependencies.items():
        for other in needed:
            reverse.setdefault(other, []).append(name)
    return reverse


def _closure(names: Iterable[str], edges: Dependencies) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(edges.get(name, ()))
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names what was probably meant, or what there is."""
    names = list(known)
    if near := get_close_matches(name, names, 1):
        return f" Did you mean {near[0]!r}?"
    return f" There are: {', '.join(map(repr, names))}." if names else " There are none."


def unknown_service(name: str, known: Iterable[str]) -> UnknownServiceError:
    """Return the error for a name that is not registered."""
    return UnknownServiceError(f"there is no service {name!r}.{did_you_mean(name, known)}", service=name)
