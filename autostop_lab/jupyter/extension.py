"""What ``%load_ext autostop_lab`` brings into a shell, and takes away again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from IPython.core.magic import no_var_expand

from autostop_lab.environment.aftermath import has_unclean_sessions, news, sweep_and_tell
from autostop_lab.environment.registry import registry
from autostop_lab.jupyter.body import compile_body
from autostop_lab.jupyter.cell import CellJob, start_in_background
from autostop_lab.jupyter.commands import run_command
from autostop_lab.jupyter.completion import make_matcher
from autostop_lab.jupyter.namespace import Namespace
from autostop_lab.jupyter.options import MAGIC, PARSER, parse_line
from autostop_lab.jupyter.shutdown import watch_shutdown
from autostop_lab.jupyter.transform import CellTransformer
from autostop_lab.jupyter.view import Displays
from autostop_lab.origin import Origin

#: How long loading waits for the sweep of dead sessions, in seconds.
SWEEP_WAIT_S = 2.0


class Extension:
    """Our magics, input transformer and completion in one shell.

    Parameters
    ----------
    shell : InteractiveShell
        The shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._namespace = Namespace(shell.user_ns)
        self._transformer = CellTransformer(shell)
        self._matcher = make_matcher(shell)
        self._magics = {("cell", MAGIC[2:]): self.autostop_job, ("line", "autostop"): self.autostop}
        self._displays = Displays(shell)
        self._forget_shutdown: Callable[[], None] = lambda: None

    def load(self) -> None:
        """Bring it in."""
        for (kind, name), function in self._magics.items():
            self._shell.register_magic_function(function, magic_kind=kind, magic_name=name)
        self._shell.input_transformers_cleanup.append(self._transformer)
        self._shell.Completer.custom_matchers.append(self._matcher)
        self._displays.load()
        kernel = getattr(self._shell, "kernel", None)  # a plain IPython has none
        if kernel is not None:
            self._forget_shutdown = watch_shutdown(kernel, registry.ends.begin)
        self._tell_of_earlier_sessions()

    def _tell_of_earlier_sessions(self) -> None:
        """Say what was cleaned after an earlier kernel died; what nobody cleans is cleaned in the background."""
        if text := news():
            print(text)
        if has_unclean_sessions():
            # Mostly it is done at once, and then told within this cell.
            Origin().start_thread(sweep_and_tell, name="sweep of dead sessions").join(SWEEP_WAIT_S)

    def unload(self) -> None:
        """Take it away."""
        self._forget_shutdown()
        self._displays.unload()
        for kind, name in self._magics:
            self._shell.magics_manager.magics[kind].pop(name, None)
        for place, ours in (
            (self._shell.input_transformers_cleanup, self._transformer),
            (self._shell.Completer.custom_matchers, self._matcher),
        ):
            if ours in place:
                place.remove(ours)

    # The docstrings of these two are what `%%autostop_job?` and `%autostop?` show; -h shows more.

    @no_var_expand
    def autostop_job(self, line: str, text: str) -> Coroutine[Any, Any, None] | None:
        """Run the cell as a job with its services; ``%%autostop_job -h`` shows the options."""
        options = parse_line(line)
        if options.wants_help:
            print(PARSER.format_help())
            return None
        if options.in_background:
            start_in_background(self._shell, self._namespace, options, text)
            return None
        body = compile_body(self._shell, text)
        job = CellJob(self._shell, self._namespace, options, body, text)
        if body.is_async:
            return job.run_async()
        job.run()
        return None

    @no_var_expand
    def autostop(self, line: str) -> None:
        """Look at jobs and services, and end them; ``%autostop -h`` shows the commands."""
        run_command(self._shell, line, self._displays)
