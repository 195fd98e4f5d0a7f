"""The public names: each resolves, ``__all__`` and ``dir()`` show them, and no other name is found."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

import autostop_lab
from autostop_lab import exceptions

ROOT = Path(__file__).parents[1]

# The names that users are told.
PROMISED = {
    "CallReady",
    "CleanupReport",
    "Command",
    "HealthResult",
    "HttpReady",
    "Job",
    "JobState",
    "LocalEnvironment",
    "LogReady",
    "Service",
    "ServiceHandle",
    "ServicePolicy",
    "ServiceState",
    "TcpReady",
    "current_job",
    "jobs",
    "last_job",
    # The function classes.
    "BatchFunction",
    "FilterFunction",
    "FlatMapFunction",
    "MapFunction",
    "SinkFunction",
    # Every error, and the warning.
    *(
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.AutostopError | Warning)
    ),
}


def test_every_promised_name_is_public() -> None:
    assert sorted(PROMISED - set(autostop_lab.__all__)) == []


@pytest.mark.parametrize("name", sorted(autostop_lab.__all__))
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(autostop_lab, name) is not None


def shown_to_type_checkers() -> dict[str, str]:
    """Return the names that ``__init__`` imports for type checkers only, with the modules they come from."""
    tree = ast.parse(Path(autostop_lab.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_public_names_and_no_other() -> None:
    hooks = {"load_ipython_extension", "unload_ipython_extension"}

    assert set(shown_to_type_checkers()) == set(autostop_lab.__all__) - hooks


def test_type_checkers_see_the_same_objects() -> None:
    for name, home in shown_to_type_checkers().items():
        assert getattr(importlib.import_module(home), name) is getattr(autostop_lab, name)


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert list(autostop_lab.__all__) == sorted(set(autostop_lab.__all__))


def test_dir_shows_every_public_name() -> None:
    assert set(autostop_lab.__all__) <= set(dir(autostop_lab))


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        autostop_lab.no_such_name  # noqa: B018 - the look-up is what is tested


def test_an_unknown_name_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="no_such_name"):
        from autostop_lab import no_such_name  # noqa: F401 - it is not there


def test_the_version_is_the_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert autostop_lab.__version__ == project["version"]
