"""Bad input on the magic's line: one line of words, an error status, nothing started."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--servce store=Store", "the nearest is --service"),
        ("--service store=Stroe", "Did you mean Store?"),
        ("--service store=Store(size=3)", "unexpected keyword argument 'size'"),
        ("--service store=Store:cloud", "there is no runtime 'cloud'"),
        ("--service store=Store(missing)", "NameError"),
        ("--service store=Store --timeout never", "never is not a number of seconds"),
        ("--service store=Store(", "')' is missing"),
        ("--service store=Store(policy=ServicePolicy(depends_on=('other',)))", "'other', which is not registered"),
        ("--service store=Store(policy=ServicePolicy(stop_timeout_s=-1))", "stop_timeout_s=-1"),
        ("--service prog=Command", "argv is empty"),
    ],
)
@pytest.mark.parametrize("body", ["print('ran')", "await asyncio.sleep(0)\nprint('ran')"])
def test_bad_input_is_refused_in_one_line_and_nothing_starts(kernel: Kernel, line: str, said: str, body: str) -> None:
    before = kernel.value("len(jobs())")
    run = kernel.run(f"%%autostop_job refused {line}\n{body}")

    assert run.error[0] == "UsageError"
    assert said in run.error[1]
    assert run.printed("stderr").startswith("UsageError: ")
    assert "ran" not in run.printed()
    assert kernel.value("len(jobs()), diary, 'store' in globals()") == f"({before}, [], False)"


def test_a_line_that_is_refused_leaves_the_earlier_job_of_the_cell_alone(kernel: Kernel) -> None:
    body = "current_job().stopping.wait()"
    kernel.run(f"%%autostop_job feed --background\n{body}", cell_id="typo")
    kernel.run(f"%%autostop_job feed --background --service a=Stroe\n{body}", cell_id="typo")

    assert kernel.value("last_job().state.value") == "'running'"


@pytest.mark.parametrize(
    "cell", ["%%autostop_job -h", "%%autostop_job -h\n1 / 0", "%%autostop_job --help\nawait nothing"]
)
def test_help_is_printed_and_nothing_runs(kernel: Kernel, cell: str) -> None:
    before = kernel.value("len(jobs())")
    run = kernel.run(cell)

    assert run.status == "ok"
    assert run.printed().startswith("usage: %%autostop_job")
    assert kernel.value("len(jobs())") == before


def test_an_empty_cell_is_refused_by_the_shell(kernel: Kernel) -> None:
    assert kernel.run("%%autostop_job name").error == (
        "UsageError",
        "%%autostop_job is a cell magic, but the cell body is empty.",
    )


def test_a_cell_of_a_subshell_is_told_to_go_to_the_background(kernel: Kernel) -> None:
    run = kernel.run(
        "said = []\n"
        "def call():\n"
        "    try:\n        get_ipython().run_cell_magic('autostop_job', '', '1')\n"
        "    except BaseException as error:\n        said.append(str(error))\n"
        "thread = threading.Thread(target=call)\nthread.start()\nthread.join()\nprint(said)"
    )

    assert "--background" in run.printed()
