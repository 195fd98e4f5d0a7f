"""``%autostop``: what it shows, and how it ends jobs."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

WAITS = "print('begun', flush=True)\ncurrent_job().stopping.wait()"


def background(kernel: Kernel, name: str, *, service: str = "Store") -> None:
    number = kernel.run(f"%%autostop_job {name} --background --service store={service}\n{WAITS}").number
    kernel.wait_for_text(number, "begun")


@pytest.mark.parametrize("line", ["%autostop", "%autostop status"])
def test_status_shows_what_runs(kernel: Kernel, line: str) -> None:
    background(kernel, "feed")

    assert "job 'feed'" in kernel.run(line).printed()
    assert "store running" in kernel.run(line).printed()


def test_status_shows_the_last_job_where_none_runs(kernel: Kernel) -> None:
    kernel.run("%%autostop_job done\n5")

    assert "no job runs; the last one:\njob 'done'" in kernel.run("%autostop status").printed()


def test_status_shows_services_that_live_without_a_job(kernel: Kernel) -> None:
    kernel.run("held = LocalEnvironment('held')\nheld.register_service('store', Store)\nheld.start()")

    assert "environment 'held' keeps: store running" in kernel.run("%autostop status").printed()
    kernel.run("held.close()")


def test_jobs_shows_all(kernel: Kernel) -> None:
    kernel.run("%%autostop_job good --service store=Store\n5")
    kernel.run("%%autostop_job bad\n1 / 0")
    *_, good, bad = kernel.run("%autostop jobs").printed().splitlines()

    assert good.split()[1:3] == ["good", "succeeded"]
    assert bad.split()[1:3] == ["bad", "failed"]
    assert "ZeroDivisionError" in bad


def test_services_shows_those_of_open_environments(kernel: Kernel) -> None:
    background(kernel, "feed")
    head, *rows = kernel.run("%autostop services").printed().splitlines()

    assert head.split() == ["service", "state", "address", "environment", "job"]
    assert [row.split()[:4] for row in rows] == [["store", "running", "-", "feed"]]


@pytest.mark.parametrize(("word", "state"), [("stop", "succeeded"), ("cancel", "cancelled")])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_job_is_ended_and_clean_when_the_command_returns(
    kernel: Kernel, word: str, state: str, by_name: bool
) -> None:
    background(kernel, "feed")
    run = kernel.run(f"%autostop {word} feed" if by_name else f"%autostop {word}")

    assert f"job 'feed' {state}" in run.printed()
    assert kernel.value("last_job().state.value, diary[-1]") == f"('{state}', 'store cleaned')"


def test_the_last_running_job_is_ended_not_the_last_one(kernel: Kernel) -> None:
    background(kernel, "feed")
    kernel.run("%%autostop_job later\n5")
    kernel.run("%autostop stop")

    assert kernel.value("[job.is_over for job in jobs()[-2:]]") == "[True, True]"


def test_nothing_to_end_is_said(kernel: Kernel) -> None:
    assert kernel.run("%autostop stop").printed() == "no job runs.\n"


def test_a_job_that_is_over_is_not_ended_again(kernel: Kernel) -> None:
    kernel.run("%%autostop_job done\n5")

    assert "is over already" in kernel.run("%autostop stop done").printed()


def test_doctor_says_what_this_machine_can_promise(kernel: Kernel) -> None:
    said = kernel.run("%autostop doctor").printed()

    assert "ok       ipykernel " in said
    assert "nothing outlives its job here" in said.splitlines()[-1]
    assert kernel.run("%autostop doctor --json").printed().startswith('{\n  "can_promise": true')


def test_report_shows_the_receipt(kernel: Kernel) -> None:
    kernel.run("%%autostop_job first --service store=Store\n5")
    kernel.run("%%autostop_job second\n5")

    assert kernel.run("%autostop report").printed().startswith("job 'second' succeeded")
    assert "store  stopped" in kernel.run("%autostop report first").printed()


def test_report_of_a_running_job_says_so(kernel: Kernel) -> None:
    background(kernel, "feed")

    assert "is not over; its receipt comes at its end" in kernel.run("%autostop report").printed()


@pytest.mark.parametrize("how", ["job.name", "job.id", "job.name[:6]", "job.id[:6]"])
def test_a_job_is_found_by_name_by_id_and_by_how_they_begin(kernel: Kernel, how: str) -> None:
    kernel.run("%%autostop_job unmistakable\n5\njob = current_job()")
    kernel.run("%%autostop_job other\n5")

    assert "job 'unmistakable'" in kernel.run(f"get_ipython().run_line_magic('autostop', 'report ' + {how})").printed()


def test_a_name_is_that_of_the_newest_job(kernel: Kernel) -> None:
    kernel.run("%%autostop_job same\n1 / 0")
    kernel.run("%%autostop_job same\n5")

    assert "job 'same' succeeded" in kernel.run("%autostop report same").printed()


def test_an_unknown_job_is_refused_with_those_that_there_are(kernel: Kernel) -> None:
    kernel.run("%%autostop_job known\n5")
    run = kernel.run("%autostop report nowhere")

    assert run.error[0] == "UnknownJobError"
    assert "'known'" in run.error[1]
    assert "autostop_lab" not in run.traceback


def test_several_jobs_that_begin_alike_are_refused(kernel: Kernel) -> None:
    kernel.run("%%autostop_job alike_one\n5")
    kernel.run("%%autostop_job alike_two\n5")
    run = kernel.run("%autostop report alike")

    assert run.error[0] == "UnknownJobError"
    assert "several jobs" in run.error[1]


def test_logs_shows_the_last_lines_of_a_service(kernel: Kernel) -> None:
    kernel.run(
        "class Talks(Service):\n    def start(self):\n        for i in range(5): self.logger.info('line %s', i)"
    )
    kernel.run("%%autostop_job talk --service one=Talks --service two=Talks\n5")

    assert [line.split()[-1] for line in kernel.run("%autostop logs one -n 2").printed().splitlines()] == ["3", "4"]
    assert kernel.run("%autostop logs").printed().count("line 0") == 2
    assert "two" in kernel.run("%autostop logs").printed()


def test_logs_of_an_unknown_service_names_the_nearest(kernel: Kernel) -> None:
    kernel.run("%%autostop_job talk --service store=Store\n5")
    run = kernel.run("%autostop logs stor")

    assert run.error[0] == "UnknownServiceError"
    assert "Did you mean 'store'?" in run.error[1]


def test_config_shows_versions(kernel: Kernel) -> None:
    version = kernel.value("import autostop_lab; autostop_lab.__version__").strip("'")

    assert kernel.run("%autostop config").printed().startswith(f"autostop_lab {version}, Python 3.")


@pytest.mark.parametrize(
    "word", ["", "status ", "jobs ", "services ", "stop ", "cancel ", "report ", "logs ", "config "]
)
def test_each_command_has_help(kernel: Kernel, word: str) -> None:
    run = kernel.run(f"%autostop {word}-h")

    assert run.status == "ok"
    assert run.printed().startswith(f"usage: %autostop {word.strip()}".rstrip())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sttus", "the nearest is status"),
        ("xyz", "it has status, jobs"),
        ("logs -n many", "many is not a whole number above 0"),
        ("stop one two", "'two' is one word too many"),
        ("jobs -n 3", "there is no option -n"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(kernel: Kernel, line: str, said: str) -> None:
    run = kernel.run(f"%autostop {line}")

    assert run.error[0] == "UsageError"
    assert said in run.error[1]
