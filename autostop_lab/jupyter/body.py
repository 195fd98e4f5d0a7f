"""The body of a cell, compiled and run as the shell compiles and runs a cell of its own."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from autostop_lab.jupyter.options import MAGIC


@dataclass(frozen=True)
class Step:
    """One statement.

    Attributes
    ----------
    code : CodeType
        Its code.
    is_value : bool
        Whether it is an expression whose value is shown.
    """

    code: CodeType
    is_value: bool


@dataclass(frozen=True)
class Body:
    """The body of a cell.

    Attributes
    ----------
    shell : InteractiveShell
        The shell in whose namespace it runs.
    steps : tuple of Step
        Its statements.
    """

    shell: Any
    steps: tuple[Step, ...]

    @property
    def is_async(self) -> bool:
        """Whether it has to be awaited."""
        return any(step.code.co_flags & inspect.CO_COROUTINE for step in self.steps)

    def _start(self, step: Step) -> Any:
        return eval(step.code, self.shell.user_global_ns, self.shell.user_ns)

    def run(self, show: Callable[[Any], object] | None = None) -> Any:
        """Run it and return the value that it shows last.

        Parameters
        ----------
        show : callable or None
            Shows a value; None is the shell's way.
        """
        value = None
        for step in self.steps:
            value = self._start(step)
            if step.is_value:
                (show or sys.displayhook)(value)
        return value

    async def run_async(self) -> Any:
        """Run it with what it awaits, and return the value that it shows last."""
        value = None
        for step in self.steps:
            value = self._start(step)
            if step.code.co_flags & inspect.CO_COROUTINE:
                value = await value
            if step.is_value:
                sys.displayhook(value)
        return value


def compile_body(
    shell: Any, text: str, *, in_background: bool = False, renamed: Mapping[str, str] | None = None
) -> Body:
    """Compile a body. Its lines are numbered as in the cell, and errors name the cell.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    text : str
        The body as it was written.
    in_background : bool
        Whether it will run in a thread; what needs the main thread is refused then.
    renamed : mapping of str to str or None
        Names under which a body in the background finds its own variables, whatever other cells call so.

    Raises
    ------
    SyntaxError
        It is not valid.
    UsageError
        It cannot run in the background.
    """
    raw, number = _cell_of(shell, text)
    above = next(i for i, line in enumerate(raw.splitlines(), 1) if line.lstrip().startswith(MAGIC))
    source = "\n" * (above + blank_lines(text)) + shell.transform_cell(text)
    name = shell.compile.cache(source, number, raw_code=raw)
    tree = shell.transform_ast(shell.compile.ast_parse(source, filename=name))
    if in_background:
        _refuse_what_needs_the_main_thread(tree, shell)
        _rename(tree, renamed or {})
    is_quiet = DisplayHook.semicolon_at_end_of_expression(source)
    body = Body(shell, tuple(_steps(shell, tree, name, is_quiet=is_quiet)))
    if in_background and body.is_async:
        raise UsageError(
            "top-level await in a body that runs in the background: the event loop is the main thread's. "
            "Leave --background out, or call asyncio.run() in the body."
        )
    return body


def blank_lines(text: str) -> int:
    """Return how many blank lines a body begins with: the shell's transformation drops them."""
    return text[: len(text) - len(text.lstrip())].count("\n") if text.strip() else 0


def _cell_of(shell: Any, text: str) -> tuple[str, int]:
    """Return the cell that a body is the body of, and its number."""
    result = shell.displayhook.exec_result
    history = shell.history_manager
    number = len(history.input_hist_raw) - 1 if history is not None else shell.execution_count
    raw = result.info.raw_cell if result is not None else ""
    # A magic that was called by code has no cell, and must not pass for the one that is running.
    is_its_body = MAGIC in raw and raw.rstrip().endswith(text.rstrip())
    return (raw if is_its_body else f"{MAGIC}\n{text}"), number


def _steps(shell: Any, tree: ast.Module, name: str, *, is_quiet: bool) -> list[Step]:
    """Compile statement by statement, as `InteractiveShell.run_ast_nodes` does."""
    nodes = tree.body
    interactivity = shell.ast_node_interactivity
    if interactivity == "last_expr_or_assign" and nodes:
        target = _assigned_name(nodes[-1])
        if target is not None:
            nodes.append(ast.fix_missing_locations(ast.Expr(ast.Name(target, ast.Load()))))
    if interactivity in ("last_expr", "last_expr_or_assign"):
        interactivity = "last" if nodes and isinstance(nodes[-1], ast.Expr) else "none"
    shown = {"all": len(nodes), "last": 1, "none": 0}[interactivity] if not is_quiet else 0
    steps = []
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if shell.autoawait else 0
    for at, node in enumerate(nodes):
        is_shown = at >= len(nodes) - shown
        # A flag of `from __future__` counts for all later statements: the shell's compiler keeps it.
        with shell.compile.extra_flags(flags):
            if is_shown and isinstance(node, ast.Expr):
                steps.append(Step(shell.compile(ast.Expression(node.value), name, "eval"), True))
            elif is_shown:
                steps.append(Step(shell.compile(ast.Interactive([node]), name, "single"), False))
            else:
                steps.append(Step(shell.compile(ast.Module([node], []), name, "exec"), False))
    return steps


def _assigned_name(node: ast.stmt) -> str | None:
    """Return the variable that a statement assigns, if it is one."""
    target: ast.expr | None = None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        target = node.target
    return target.id if isinstance(target, ast.Name) else None


# -- in the background -------------------------------------------------------------------------------------


def _refuse_what_needs_the_main_thread(tree: ast.Module, shell: Any) -> None:
    for node in ast.walk(tree):
        match node:
            # What the shell makes of a line with ! or %.
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=attribute)):
                what = "!commands" if attribute in ("system", "getoutput") else "%magics"
            case ast.Call(func=ast.Name(id="input")) if "input" not in shell.user_ns:
                what = "input()"
            case _:
                what = ""
        if what and isinstance(node, ast.Call):
            raise UsageError(
                f"line {node.lineno}: {what} in a body that runs in the background: it needs the main thread. "
                "Leave --background out, or do this in a cell of its own."
            )


def _rename(tree: ast.Module, renamed: Mapping[str, str]) -> None:
    """Rename variables that the body reads and never binds, so that other cells cannot change what it finds."""
    bound = set(_bound_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in renamed and node.id not in bound:
            node.id = renamed[node.id]


def _bound_names(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.append(name)
            case ast.arg(arg=name):
                names.append(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.append(name)
            case ast.alias(name=name, asname=asname):
                names.append(asname or name.partition(".")[0])
            case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name):
                names.append(name)
            case ast.MatchStar(name=str() as name) | ast.MatchMapping(rest=str() as name):
                names.append(name)
            case ast.Global(names=more) | ast.Nonlocal(names=more):
                names += more
    return names
