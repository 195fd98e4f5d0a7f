"""``autostop-lab`` as a user meets it: words, statuses, and nothing left."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from autostop_lab import __version__
from autostop_lab.cli import demo, notebook, screen

ROOT = Path(__file__).parents[2]
LAST_WORDS = "The kernel is shut down, and no process is left."
ANSWERS = "[7/10] The answers"

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None or find_spec("redis") is None,
    reason="redis-server or the package redis is not installed",
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command line in an empty folder."""

    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "autostop_lab.cli", *arguments],
            cwd=tmp_path,
            env=environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def make_notebook(path: Path, *sources: str, tags: tuple[str, ...] = ()) -> Path:
    """Write a notebook whose last cell has `tags`."""
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "Words."]}]
    cells += [{"cell_type": "code", "metadata": {}, "source": source, "outputs": []} for source in sources]
    cells[-1]["metadata"] = {"tags": list(tags)}
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


# -- words, without a kernel -------------------------------------------------------------------------------


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version").stdout == f"autostop-lab {__version__}\n"


def test_help_names_the_commands(run: Run) -> None:
    done = run("-h")

    assert done.returncode == 0
    assert "demo" in done.stdout


def test_without_a_command_it_shows_how_it_is_used(run: Run) -> None:
    done = run()

    assert done.returncode == 2
    assert "usage: autostop-lab" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmeo"], "there is no command 'dmeo'. Did you mean 'demo'?"),
        (["zzz"], "there is no command 'zzz'. There is: demo, doctor, status, sweep."),
        (["demo", "--rediss"], "unrecognized arguments: --rediss"),
        (["demo", "--notebook"], "expected one argument"),
    ],
)
def test_what_it_does_not_know_is_a_usage_error_in_words(run: Run, arguments: list[str], words: str) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_without_redis_server_the_demo_says_how_to_get_it_and_starts_nothing(run: Run) -> None:
    done = run("demo", "--redis", PATH="")

    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr
    assert "brew install redis" in done.stderr
    assert done.stdout == ""


def test_without_the_package_redis_the_demo_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")

    (missing,) = demo.missing_for_redis()

    assert missing.endswith("-m pip install redis")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("print(1)", "is not a Jupyter notebook"),
        ("[]", "is not a Jupyter notebook"),
        ('{"cells": [{}]}', "is not a Jupyter notebook"),
    ],
)
def test_what_is_no_notebook_is_refused_in_words(run: Run, tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "some.ipynb"
    if content is not None:
        path.write_text(content)

    done = run("demo", "--notebook", path)

    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_parameter_needs_a_cell_for_it(tmp_path: Path) -> None:
    path = make_notebook(tmp_path / "some.ipynb", "1")

    with pytest.raises(notebook.DemoError, match="no cell tagged 'parameters'"):
        notebook.read_cells(path, {"STORE": "redis"})


def test_a_parameter_is_set_after_the_cell_for_it(tmp_path: Path) -> None:
    path = make_notebook(tmp_path / "some.ipynb", "STORE = 1", tags=("parameters",))

    (cell,) = notebook.read_cells(path, {"STORE": "redis"})

    assert cell == notebook.Cell("Title", "STORE = 1\nSTORE = 'redis'")


# -- the screen --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(out: io.StringIO) -> str:
    shown = screen.Screen(out)
    shown.line("title", "bold")
    shown.progress("running")
    shown.write("\x1b[31mred\x1b[39m")
    shown.line("end")
    return out.getvalue()


def test_a_file_gets_plain_text() -> None:
    assert shown_on(io.StringIO()) == "title\nred\nend\n"


def test_a_terminal_gets_colours_and_a_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    assert shown_on(Terminal()) == (
        "\x1b[1mtitle\x1b[0m\n\r\x1b[Krunning\r\x1b[K\x1b[31mred\x1b[39m\nend\n"
    )


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")

    assert shown_on(Terminal()) == "title\n\r\x1b[Krunning\r\x1b[Kred\nend\n"


# -- the demo, in a real kernel ----------------------------------------------------------------------------


def answers(output: str) -> list[str]:
    """Return the lines that the cell with the answers has printed."""
    after = output.split(ANSWERS)[1].split("\ndone after")[0].splitlines()
    return [line for line in after if line and not line.startswith("  |")]


@pytest.mark.kernel
def test_the_demo_runs_to_its_end_with_a_kernel_of_this_interpreter(run: Run, tmp_path: Path) -> None:
    # An installed kernel of the usual name, which must not be used.
    kernels = tmp_path / "kernels" / "python3"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))

    done = run("demo", JUPYTER_PATH=str(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "job 'index' succeeded" in done.stdout
    assert "  store  stopped    start" in done.stdout
    assert "EmptyTopicError: topic 'silence' has no text" in done.stdout
    assert "job 'broken' failed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("All 10 cells ended as they should, in ")
    assert done.stdout.endswith(f"{LAST_WORDS}\n")
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


@pytest.mark.kernel
@needs_redis
def test_a_redis_server_gives_the_same_answers(run: Run) -> None:
    usual, with_redis = run("demo"), run("demo", "--redis")

    assert with_redis.returncode == 0, with_redis.stdout + with_redis.stderr
    assert len(answers(with_redis.stdout)) == 4
    assert answers(with_redis.stdout) == answers(usual.stdout)


@pytest.mark.kernel
def test_a_cell_that_should_not_fail_ends_the_demo(run: Run, tmp_path: Path) -> None:
    path = make_notebook(tmp_path / "some.ipynb", "print('before')", "1 / 0", "print('after')")

    done = run("demo", "--notebook", path)

    assert done.returncode == 1
    assert "\nbefore\n" in done.stdout
    assert "\nafter\n" not in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last == f"Cell 2 (Title) failed: ZeroDivisionError: division by zero. {LAST_WORDS}"


@pytest.mark.kernel
def test_a_cell_that_may_fail_does_not(run: Run, tmp_path: Path) -> None:
    path = make_notebook(tmp_path / "some.ipynb", "1 / 0", tags=("raises-exception",))

    done = run("demo", "--notebook", path)

    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stdout


@pytest.mark.kernel
def test_a_kernel_that_dies_is_told_in_words(run: Run, tmp_path: Path) -> None:
    path = make_notebook(tmp_path / "some.ipynb", "import os\nos._exit(1)")

    done = run("demo", "--notebook", path)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"It could not go on: the kernel died. {LAST_WORDS}"


WAITING = """%%autostop_job waiting --service nap=Command(["sleep","60"])
import time
print("it waits")
time.sleep(50)
"""


@contextmanager
def waiting_demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a demo whose cell has a service and waits, and yield when it does."""
    path = make_notebook(
        folder / "some.ipynb", "%load_ext autostop_lab\nfrom autostop_lab import Command", WAITING, "print('after')"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "autostop_lab.cli", "demo", "--notebook", path],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "it waits\n":
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.kernel
def test_ctrl_c_interrupts_the_cell_cleans_up_and_ends_with_130(tmp_path: Path) -> None:
    with waiting_demo(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 130, output
    assert "KeyboardInterrupt" in output
    assert "job 'waiting' cancelled (interrupted)" in output
    assert "1 service: 1 stopped" in output
    assert "\nafter\n" not in output
    assert output.splitlines()[-1] == f"Interrupted. {LAST_WORDS}"


@pytest.mark.kernel
def test_a_polite_kill_of_the_demo_takes_the_kernel_and_its_services_along(tmp_path: Path) -> None:
    with waiting_demo(tmp_path) as process:
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM  # the leak check looks for the rest


@pytest.mark.kernel
def test_an_output_that_is_closed_ends_the_demo(tmp_path: Path) -> None:
    with waiting_demo(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)

    assert process.returncode == 1
