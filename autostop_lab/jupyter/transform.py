"""What a cell of ours becomes before it is compiled, where a magic is too late."""

from __future__ import annotations

import ast
from typing import Any

from IPython.core.error import UsageError

from autostop_lab.jupyter.body import blank_lines
from autostop_lab.jupyter.options import MAGIC, parse_line


class CellTransformer:
    """An input transformer for cells that begin with our magic.

    A magic is a plain call: nobody awaits it, and what it compiles does not fail as the cell itself would. So a
    body with top-level await becomes ``await`` of the call, and a body that is not valid becomes the cell, for the
    shell to refuse.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    """

    #: Not to be called while somebody still types: IPython asks for that with this name.
    has_side_effects = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, lines: list[str]) -> list[str]:
        """Return the lines of a cell, changed if it is ours and a plain call would not do."""
        first = lines[0] if lines else ""
        if not first.startswith(MAGIC) or (first[len(MAGIC) :] and not first[len(MAGIC)].isspace()):
            return lines
        line, body = first[len(MAGIC) :].strip(), "".join(lines[1:])
        try:
            options = parse_line(line)
        except UsageError:
            return lines
        call = f"get_ipython().run_cell_magic({MAGIC[2:]!r}, {line!r}, {body or chr(10)!r})\n"
        if options.wants_help:
            return [call]  # also without a body
        try:
            transformed = self._shell.transform_cell(body)
            tree = self._shell.compile.ast_parse(transformed)
        except SyntaxError:
            return ["\n", *lines[1:]]
        if (invalid := self._first_invalid(tree)) is not None:
            # Alone: the shell would run the statements before it.
            return ["\n"] * (blank_lines(body) + invalid.lineno) + [f"{ast.get_source_segment(transformed, invalid)}\n"]
        if not options.in_background and self._shell.should_run_async(body, transformed_cell=transformed):
            return [f"await {call}"]
        return lines

    def _first_invalid(self, tree: ast.Module) -> ast.stmt | None:
        """Return the first statement that can be parsed and yet not compiled, such as a lonely ``return``."""
        flags = self._shell.compile.flags | (ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if self._shell.autoawait else 0)
        for node in tree.body:
            try:
                compile(ast.Module([node], []), "<cell>", "exec", flags=flags, dont_inherit=True)
            except SyntaxError:
                return node
        return None
