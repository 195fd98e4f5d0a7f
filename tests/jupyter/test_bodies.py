"""The body of a cell runs as it would without the magic."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("x = 1\nx + 1", "2"),
        ("x = 1\nx + 1;", None),
        ("x = 1\nx + 1  # so it is", "2"),
        ("'a;b'", "'a;b'"),
        ("x = 1", None),
        ("None", None),
        ("# nothing", None),
        ("\n\nx = 1\nx + 1", "2"),
        ("if True:\n    5", None),
        ("%pwd", "'{cwd}'"),
        ("import asyncio\nawait asyncio.sleep(0, 7)", "7"),
        ("import asyncio\nawait asyncio.sleep(0, 7);", None),
    ],
)
def test_the_last_expression_is_shown_as_without_the_magic(kernel: Kernel, body: str, shown: str | None) -> None:
    cwd = kernel.value("import os; os.getcwd()").strip("'")
    with_magic = kernel.run(f"%%autostop_job shown\n{body}")

    assert with_magic.status == "ok"
    assert with_magic.value == kernel.run(body).value
    assert with_magic.value == (shown.format(cwd=cwd) if shown else None)


def test_every_expression_is_shown_where_the_shell_is_set_so(kernel: Kernel) -> None:
    kernel.run("get_ipython().ast_node_interactivity = 'all'")
    try:
        run = kernel.run("%%autostop_job all\n1\n2\nfor i in range(2):\n    'inner'\nawait asyncio.sleep(0, 3)")
        values = [content["data"]["text/plain"] for content in run.contents("execute_result")]
        assert values == ["1", "2", "'inner'", "'inner'", "3"]
    finally:
        kernel.run("get_ipython().ast_node_interactivity = 'last_expr'")


def test_the_last_assignment_is_shown_where_the_shell_is_set_so(kernel: Kernel) -> None:
    kernel.run("get_ipython().ast_node_interactivity = 'last_expr_or_assign'")
    try:
        assert kernel.run("%%autostop_job assigned\nx = 41\nx += 1").value == "42"
    finally:
        kernel.run("get_ipython().ast_node_interactivity = 'last_expr'")


def test_commands_and_magics_work_in_the_body(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job shell\n!echo from the shell\nlines = !echo kept\nprint(lines)\n%pwd")

    assert run.status == "ok"
    assert "from the shell" in run.printed()
    assert "['kept']" in run.printed()


def test_variables_of_the_body_stay(kernel: Kernel) -> None:
    kernel.run("%%autostop_job kept\nof_the_body = [1]\ndef double(x): return 2 * x")

    assert kernel.value("of_the_body, double(4)") == "([1], 8)"


def test_the_cell_takes_one_number(kernel: Kernel) -> None:
    before = kernel.run("1").reply["execution_count"]

    assert kernel.run("%%autostop_job number\n1").reply["execution_count"] == before + 1
    assert kernel.run("1").reply["execution_count"] == before + 2


def test_a_future_import_of_the_body_counts_for_its_later_statements(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job future\nfrom __future__ import annotations\ndef f(x: undefined): pass\nf.__name__"
    )

    assert run.value == "'f'"
    kernel.run("get_ipython().compile.reset_compiler_flags()")


def test_the_body_is_code_of_its_job(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job mine\ncurrent_job().name, current_job() is env.last_job")

    assert run.value == "('mine', True)"
    assert kernel.run("%%autostop_job mine\nawait asyncio.sleep(0)\ncurrent_job().name").value == "'mine'"


def test_the_value_that_is_shown_is_the_result_of_the_job(kernel: Kernel) -> None:
    kernel.run("%%autostop_job result\n6 * 7")

    assert kernel.value("last_job().result()") == "42"


def test_a_job_in_the_body_of_a_job_is_a_job_of_its_own(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job outer\nget_ipython().run_cell_magic('autostop_job', 'inner', 'env.name')\nenv.name"
    )

    assert [content["data"]["text/plain"] for content in run.contents("execute_result")] == ["'inner'", "'outer'"]
    assert kernel.value("[job.name for job in jobs()[-2:]]") == "['outer', 'inner']"


def test_other_cell_magics_may_stand_before(kernel: Kernel) -> None:
    run = kernel.run("%%time\n%%autostop_job timed\n1 / 0")

    assert "Wall time" in run.printed()
    assert run.error == ("ZeroDivisionError", "division by zero")
    assert "line 3" in run.traceback


# -- errors ------------------------------------------------------------------------------------------------


def test_an_error_has_one_traceback_with_the_lines_of_the_cell(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job broken --service store=Store\n\nx = 1\nraise ValueError('boom')")

    assert run.status == "error"
    assert run.error == ("ValueError", "boom")
    assert f"Cell In[{run.reply['execution_count']}], line 4" in run.traceback
    assert "----> 4 raise ValueError('boom')" in run.traceback
    assert run.traceback.count("Cell In") == 1
    assert "autostop_lab" not in run.traceback
    assert "ValueError: boom" in run.traceback
    assert "job 'broken' failed" in run.traceback
    assert kernel.value("diary") == "['store started', 'store stopped', 'store cleaned']"


def test_an_error_after_an_await_has_the_lines_of_the_cell(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job broken\nawait asyncio.sleep(0)\n1 / 0")

    assert run.error == ("ZeroDivisionError", "division by zero")
    assert f"Cell In[{run.reply['execution_count']}], line 3" in run.traceback
    assert run.traceback.count("Cell In") == 1
    assert "autostop_lab" not in run.traceback


def test_an_error_in_a_function_of_another_cell_shows_both_cells(kernel: Kernel) -> None:
    kernel.run("def fails():\n    raise KeyError('there')")
    run = kernel.run("%%autostop_job broken\nfails()")

    assert run.traceback.count("Cell In") == 2
    assert "line 2, in fails()" in run.traceback


def test_the_error_that_a_job_ended_with_is_the_users_object(kernel: Kernel) -> None:
    kernel.run("class MyError(Exception): pass")
    kernel.run("%%autostop_job broken\nmine = MyError(7)\nraise mine")

    assert kernel.value("last_job().exception is mine, mine.args") == "(True, (7,))"


@pytest.mark.parametrize(
    ("body", "line"),
    [("x = = 3", 2), ("untouched = 1\n\nreturn untouched", 4), ("\nuntouched = 1; break", 3), ("if True:\nx = 1", 3)],
)
def test_invalid_code_is_refused_before_anything_starts(kernel: Kernel, body: str, line: int) -> None:
    jobs_before = kernel.value("len(jobs())")
    run = kernel.run(f"%%autostop_job invalid --service store=Store\n{body}")

    assert run.error[0] in ("SyntaxError", "IndentationError")
    assert f"Cell In[{run.reply['execution_count']}], line {line}" in run.traceback
    assert "autostop_lab" not in run.traceback
    assert kernel.value("len(jobs()), diary, 'untouched' in globals()") == f"({jobs_before}, [], False)"


def test_system_exit_is_handled_as_the_shell_does(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job leaving --service store=Store\nraise SystemExit(3)")

    assert run.error == ("SystemExit", "3")
    assert "To exit: use 'exit', 'quit', or Ctrl-D." in run.printed("stderr")
    assert kernel.value("diary[-1]") == "'store cleaned'"


def test_a_service_that_does_not_start_fails_the_cell_and_the_body_does_not_run(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job unlucky --service store=Store --service bad=NeverStarts\nprint('ran')")

    assert run.error[0] == "ServiceStartError"
    assert "OSError: no luck" in run.traceback
    assert "autostop_lab/" not in run.traceback
    assert "ran" not in run.printed()
    assert kernel.value("diary[-1], 'env' in globals(), 'bad' in globals()") == "('store cleaned', False, False)"


# -- the namespace -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["pass", "await asyncio.sleep(0)"])
def test_what_the_services_hid_is_put_back(kernel: Kernel, first: str) -> None:
    kernel.run("store = 'mine'")
    kernel.run(
        f"%%autostop_job names --service store=Store --service other=Store\n{first}\n"
        "found = (env.name, store.echo(5))"
    )

    assert kernel.value("found, store") == "(('names', 5), 'mine')"
    assert kernel.value("[name for name in globals() if name in ('env', 'other') or '_autostop' in name]") == "[]"


def test_what_the_services_hid_is_put_back_after_an_error(kernel: Kernel) -> None:
    kernel.run("store = 'mine'")
    kernel.run("%%autostop_job names --service store=Store\n1 / 0")

    assert kernel.value("store, 'env' in globals()") == "('mine', False)"


def test_what_the_body_assigns_itself_stays(kernel: Kernel) -> None:
    kernel.run("%%autostop_job names --service store=Store\nstore = 'assigned in the body'")

    assert kernel.value("store") == "'assigned in the body'"


def test_a_service_may_take_an_earlier_one_as_argument(kernel: Kernel) -> None:
    kernel.run(
        "class Front(Service):\n"
        "    def __init__(self, back): self.back = back\n"
        "    def ask(self): return self.back.echo('deep')"
    )
    run = kernel.run("%%autostop_job chain --service back=Store --service front=Front(back)\nfront.ask()")

    assert run.value == "'deep'"


def test_arguments_with_spaces_and_quotes_reach_the_service(kernel: Kernel) -> None:
    kernel.run(
        "class Holder(Service):\n"
        "    def __init__(self, dim, name): self.both = dim, name\n"
        "    def get(self): return self.both"
    )
    run = kernel.run('%%autostop_job args --service emb=Holder(dim=100 + 28, name="a b"):thread\nemb.get()')

    assert run.value == "(128, 'a b')"


def test_the_service_is_not_made_before_the_job_starts_it(kernel: Kernel) -> None:
    kernel.run("class Counted(Service):\n    made = 0\n    def __init__(self): Counted.made += 1")
    kernel.run("%%autostop_job lazily --service one=Counted()\npass")

    assert kernel.value("Counted.made") == "1"


# -- pipelines ---------------------------------------------------------------------------------------------


def test_a_pipeline_of_the_body_runs_when_the_body_ends_in_the_same_job(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job piped --service store=Store\n"
        "out = []\n"
        "env.from_batch([1, 2]).map(lambda x: store.echo(x) * 10).sink(out.append)\n"
        "print('body is over', out)"
    )

    assert run.status == "ok"
    assert "body is over []" in run.printed()
    assert kernel.value("out, diary[-1], last_job().name, last_job().progress.snapshot().records") == (
        "([10, 20], 'store cleaned', 'piped', 2)"
    )


def test_a_failed_pipeline_of_the_body_fails_the_cell(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job piped\nenv.from_batch([1, 0]).map(lambda x: 1 / x).sink(print)")

    assert run.error == ("ZeroDivisionError", "division by zero")
    assert "Cell In" in run.traceback
    assert "record 1" in run.traceback


def test_a_pipeline_that_cannot_run_fails_the_cell(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job piped --service store=Store\nenv.from_batch([1]).map(str)")

    assert run.error[0] == "PipelineError"
    assert kernel.value("diary[-1]") == "'store cleaned'"


def test_the_environment_is_closed_when_the_job_is_over(kernel: Kernel) -> None:
    kernel.run("%%autostop_job closed --service store=Store\nheld = env")
    run = kernel.run("held.submit(autostop=True)")

    assert run.error[0] == "EnvironmentClosedError"


def test_the_stop_timeout_is_the_policy_of_the_environment(kernel: Kernel) -> None:
    assert kernel.run("%%autostop_job policy --stop-timeout 2.5\nenv.policy.stop_timeout_s").value == "2.5"
