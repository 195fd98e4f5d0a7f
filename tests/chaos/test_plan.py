"""No fault of the plan is without a test, and no test without a fault."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.chaos.plan import PLAN

HERE = Path(__file__).parent


def functions_of(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_no_number_is_missing() -> None:
    # 61 was to be the collection of an environment that nobody refers to: it ends nothing, since it is held.
    assert set(PLAN) == set(range(1, 75)) - {61}


def test_every_fault_of_the_plan_has_its_tests() -> None:
    for number, (fault, module, tests) in PLAN.items():
        assert tests, f"{number}: {fault}"
        assert set(tests) <= functions_of(module), f"{number}: {fault}"


def test_every_test_is_in_the_plan() -> None:
    modules = {module for _, module, _ in PLAN.values()}
    assert {path.stem for path in HERE.glob("test_*.py")} == modules | {"test_plan", "test_soak"}
    for module in modules:
        planned = {test for _, of, tests in PLAN.values() for test in tests if of == module}
        assert functions_of(module) == planned
