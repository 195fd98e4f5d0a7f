"""Jobs in the background: the cell returns, the body goes on under it."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel, Message

pytestmark = pytest.mark.kernel

CLEAN = "['store started', 'store stopped', 'store cleaned']"
WAITS = "print('begun', flush=True)\ncurrent_job().stopping.wait()"


def text_of(messages: list[Message]) -> str:
    return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")


def test_the_cell_returns_at_once_with_one_line(kernel: Kernel) -> None:
    run = kernel.run(f"%%autostop_job feed --background --service store=Store\n{WAITS}")

    assert run.status == "ok"
    assert "job 'feed'" in run.printed()
    assert "runs in the background" in run.printed()
    assert kernel.value("last_job().is_over") == "False"


def test_its_output_appears_under_its_own_cell_while_others_run(kernel: Kernel) -> None:
    kernel.run("go_on = threading.Event()")
    kernel.run("class Speaks(Service):\n    def say(self, word): print('service says', word, flush=True)")
    first = kernel.run(
        "%%autostop_job feed --background --service voice=Speaks\n"
        "go_on.wait()\n"
        "print('body speaks', flush=True)\n"
        "voice.say('this')\n"
        "env.from_batch([1]).map(lambda x: print('operator speaks', flush=True)).sink(lambda x: None)\n"
        "'the value'"
    ).number
    other = kernel.run("go_on.set()\nlast_job().wait()\nprint('another cell')")
    kernel.wait_for_end_of_job(first)
    messages = kernel.of(first)
    printed = text_of(messages)

    assert "body speaks" in printed
    assert "service says this" in printed
    assert "operator speaks" in printed
    assert "'the value'" in [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "display_data"]
    assert other.printed() == "another cell\n"
    assert other.pictures == []


def test_output_of_replicas_in_threads_and_processes_appears_there_too(kernel: Kernel) -> None:
    kernel.run("go_on = threading.Event()")
    first = kernel.run(
        "%%autostop_job feed --background\n"
        "go_on.wait()\n"
        "numbers = env.from_batch([1, 2])\n"
        "numbers.map(lambda x: print('thread speaks', flush=True), parallelism=2).sink(lambda x: None)\n"
        "numbers.map(lambda x: print('process speaks', flush=True), runtime='process').sink(lambda x: None)\n"
    ).number
    other = kernel.run("go_on.set()\nlast_job().wait()\nprint('another cell')")
    kernel.wait_for_end_of_job(first)
    printed = text_of(kernel.of(first))

    assert (printed.count("thread speaks"), printed.count("process speaks")) == (2, 2)
    assert other.printed() == "another cell\n"


def test_the_names_are_there_until_it_is_over(kernel: Kernel) -> None:
    kernel.run("store = 'mine'")
    kernel.run(f"%%autostop_job feed --background --service store=Store\n{WAITS}")
    assert kernel.value("store.echo(3), env.name") == "(3, 'feed')"
    kernel.run("%autostop stop feed")
    kernel.run("while 'env' in globals():\n    time.sleep(0.01)")

    assert kernel.value("store") == "'mine'"


def test_two_at_a_time_find_their_own_services(kernel: Kernel) -> None:
    """Also where both call them alike, and the second begins before the body of the first does."""
    kernel.run("found = {}\nclass Slow(Store):\n    def start(self): time.sleep(0.3)")
    for word in ("one", "two"):
        kernel.run(
            f"%%autostop_job {word} --background --service store=Slow('{word}')\n"
            "found[env.name] = (lambda: store.echo(env.name))(), current_job().name\n"
            f"env.from_batch([1]).map(lambda x: (store.echo(x), env.name))"
            f".sink(found.setdefault('records of {word}', []).append)"
        )
    kernel.run("store = 'mine meanwhile'")
    kernel.run("for job in jobs()[-2:]: job.wait()")

    assert kernel.value("found['one'], found['two']") == "(('one', 'one'), ('two', 'two'))"
    assert kernel.value("found['records of one'], found['records of two']") == "([(1, 'one')], [(1, 'two')])"
    assert kernel.value("store") == "'mine meanwhile'"


def test_a_pipeline_of_the_body_runs_in_the_same_job(kernel: Kernel) -> None:
    kernel.run("out = []")
    kernel.run("%%autostop_job feed --background\nenv.from_batch([1, 2]).map(lambda x: x * 2).sink(out.append)")
    kernel.run("last_job().wait()")

    assert kernel.value("out, last_job().state.value") == "([2, 4], 'succeeded')"


def test_an_error_is_told_under_its_own_cell(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job feed --background --service store=Store\n\n1 / 0")
    assert run.status == "ok"
    kernel.run("last_job().wait()")
    kernel.wait_until(run.number, lambda messages: "division by zero" in text_of(messages))
    told = text_of(kernel.of(run.number))

    assert "ZeroDivisionError" in told
    assert f"In[{run.reply['execution_count']}]" in told
    assert "autostop_lab/" not in told
    assert kernel.value("diary") == CLEAN


def test_a_service_that_does_not_start_is_told_under_its_own_cell(kernel: Kernel) -> None:
    number = kernel.run("%%autostop_job feed --background --service bad=NeverStarts\nprint('ran')").number
    kernel.wait_for_end_of_job(number)

    assert kernel.value("type(last_job().exception).__name__") == "'ServiceStartError'"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("!ls", "!commands"),
        ("files = !ls", "!commands"),
        ("%pwd", "%magics"),
        ("import asyncio\nawait asyncio.sleep(0)", "await"),
        ("async with thing: pass", "await"),
        ("input('name?')", "input()"),
    ],
)
def test_what_needs_the_main_thread_is_refused_before_anything_starts(kernel: Kernel, body: str, word: str) -> None:
    before = kernel.value("len(jobs())")
    run = kernel.run(f"%%autostop_job feed --background --service store=Store\n{body}")

    assert run.error[0] == "UsageError"
    assert word in run.error[1]
    assert "--background" in run.error[1]
    assert kernel.value("len(jobs()), diary") == f"({before}, [])"


def test_awaiting_in_a_function_of_the_body_is_not_refused(kernel: Kernel) -> None:
    kernel.run("%%autostop_job feed --background\nasync def f(): return await asyncio.sleep(0, 5)\nasyncio.run(f())")

    assert kernel.value("last_job().result()") == "5"


@pytest.mark.parametrize("cell_id", [None, "a-cell"], ids=["by the cell's text", "by the front end's id"])
def test_a_second_run_of_the_cell_replaces_the_first(kernel: Kernel, cell_id: str | None) -> None:
    cell = f"%%autostop_job feed --background --service store=Store\n{WAITS}"
    first = kernel.run(cell, cell_id=cell_id)
    kernel.wait_for_text(first.number, "begun")
    second = kernel.run(cell, cell_id=cell_id)

    assert "environment 'feed' of this cell's earlier run is closed" in second.printed()
    assert kernel.value("[(job.name, job.state.value) for job in jobs()[-2:]]") in (
        "[('feed', 'cancelled'), ('feed', 'starting')]",
        "[('feed', 'cancelled'), ('feed', 'running')]",
    )
    assert kernel.value("diary.count('store cleaned')") == "1"


def test_a_cell_that_names_its_job_anew_replaces_the_former_too(kernel: Kernel) -> None:
    kernel.run(f"%%autostop_job old --background\n{WAITS}", cell_id="renamed")
    second = kernel.run("%%autostop_job new\n5", cell_id="renamed")

    assert "job 'old' of this cell's earlier run is closed" in second.printed()
    assert kernel.value("[(job.name, job.is_over) for job in jobs()[-2:]]") == "[('old', True), ('new', True)]"


def test_other_cells_replace_nothing(kernel: Kernel) -> None:
    kernel.run(f"%%autostop_job feed --background\n{WAITS}", cell_id="one")
    run = kernel.run("%%autostop_job feed\n5", cell_id="two")

    assert "closed" not in run.printed()
    assert kernel.value("[job.is_over for job in jobs()[-2:]]") == "[False, True]"


def test_a_job_in_the_background_outlives_an_interrupt_of_another_cell(kernel: Kernel) -> None:
    kernel.run(f"%%autostop_job feed --background\n{WAITS}")
    number = kernel.send("print('begun', flush=True)\nwhile True:\n    time.sleep(0.1)")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()

    assert kernel.finish(number).error[0] == "KeyboardInterrupt"
    assert kernel.value("last_job().state.value") == "'running'"


def test_a_time_out_ends_it(kernel: Kernel) -> None:
    number = kernel.run(f"%%autostop_job feed --background --timeout 0.2 --service store=Store\n{WAITS}").number
    kernel.wait_for_end_of_job(number)

    assert kernel.value("type(last_job().exception).__name__, diary[-1]") == "('JobTimeoutError', 'store cleaned')"
