"""The live panel by protocol: what a front end is told, and what its clicks do while a cell runs."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel, Run

pytestmark = pytest.mark.kernel

ENDLESS = "\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.05)"
CLEAN = "['store started', 'store stopped', 'store cleaned']"


@pytest.fixture
def panel(kernel: Kernel) -> Kernel:
    """The kernel with nothing heard before."""
    kernel.forget()
    return kernel


@pytest.fixture(scope="module")
def subshell(shared_kernel: Kernel) -> str:
    """A subshell as JupyterLab opens one."""
    if "kernel subshells" not in shared_kernel.run_info().get("supported_features", []):
        pytest.skip("this kernel has no subshells")
    return shared_kernel.open_subshell()


def begin(kernel: Kernel, line: str, body: str = ENDLESS) -> str:
    """Run a cell of ours until its panel is there; return its number."""
    number = kernel.send(f"%%autostop_job {line}{body}")
    kernel.listen_until(lambda: any("Job " in text and ": running" in text for text in kernel.widget_texts()))
    return number


def head(kernel: Kernel) -> str:
    """The head of the panel as it is now."""
    texts = [str(state.get("value")) for state in kernel.widgets().values()]
    return next(text for text in texts if 'aria-label="Job ' in text)


def status(kernel: Kernel) -> str:
    """What the panel says of orders and clicks."""
    return next((text for text in kernel.widget_texts()[::-1] if 'role="status"' in text), "")


def test_stop_ends_a_blocking_cell_with_everything_clean(panel: Kernel, subshell: str) -> None:
    number = begin(panel, "words --service store=Store")
    panel.click(panel.button("Stop"), subshell=subshell)
    run = panel.finish(number)

    assert run.status == "ok"
    assert panel.value("str(last_job().state), last_job().reason, diary") == f"('succeeded', 'stopped', {CLEAN})"


def test_stop_ends_an_awaiting_cell(panel: Kernel, subshell: str) -> None:
    number = begin(panel, "words --service store=Store", "\nawait asyncio.sleep(600)")
    panel.click(panel.button("Stop"), subshell=subshell)

    assert panel.finish(number).status == "ok"
    assert panel.value("diary") == CLEAN


def test_cancel_is_an_error_of_the_cell(panel: Kernel, subshell: str) -> None:
    number = begin(panel, "words --service store=Store")
    panel.click(panel.button("Cancel"), subshell=subshell)

    assert panel.finish(number).error[0] == "JobCancelledError"
    assert panel.value("diary") == CLEAN


def test_restart_goes_through_the_states_while_the_cell_runs(panel: Kernel, subshell: str) -> None:
    number = begin(panel, "words --service store=Store")
    panel.click(panel.button("Restart"), subshell=subshell)
    panel.listen_until(lambda: "service store: restarted" in status(panel))
    panel.click(panel.button("Stop"), subshell=subshell)
    panel.finish(number)

    assert panel.value("diary[:4]") == "['store started', 'store stopped', 'store cleaned', 'store started']"


def test_kill_asks_first_and_a_service_at_rest_offers_its_start(panel: Kernel, subshell: str) -> None:
    number = begin(panel, "words --service store=Store")
    panel.click(panel.button("Kill …"), subshell=subshell)
    panel.listen_until(lambda: has_button(panel, "Kill it now"))
    panel.click(panel.button("Keep it"), subshell=subshell)
    panel.listen_until(lambda: has_button(panel, "Kill …"))
    panel.click(panel.button("Kill …"), subshell=subshell)
    panel.listen_until(lambda: has_button(panel, "Kill it now"))
    panel.click(panel.button("Kill it now"), subshell=subshell)
    panel.listen_until(lambda: has_button(panel, "Start"))
    panel.click(panel.button("Start"), subshell=subshell)
    panel.listen_until(lambda: has_button(panel, "Restart"))
    panel.click(panel.button("Stop"), subshell=subshell)
    panel.finish(number)

    assert panel.value("diary.count('store started')") == "2"


def has_button(kernel: Kernel, label: str) -> bool:
    """Whether a button is shown now."""
    return bool(kernel.buttons(label))


def test_an_order_that_fails_says_why(panel: Kernel, subshell: str) -> None:
    panel.run("class Once(Store):\n    def start(self):\n        if diary: raise OSError('<b>only once</b>')\n"
              "        super().start()")  # fmt: skip
    number = begin(panel, "words --service store=Once")
    panel.click(panel.button("Restart"), subshell=subshell)
    panel.listen_until(lambda: "Restart failed" in status(panel))

    assert "&lt;b&gt;only once&lt;/b&gt;" in status(panel)
    panel.click(panel.button("Stop"), subshell=subshell)
    panel.finish(number)


def test_without_a_subshell_the_panel_says_that_clicks_wait() -> None:
    kernel = Kernel()
    try:
        kernel.run("%load_ext autostop_lab\nimport time")
        number = begin(kernel, "words")
        kernel.listen_until(lambda: "clicks only when the cell has ended" in status(kernel))
        kernel.interrupt()
        assert kernel.finish(number).error[0] == "KeyboardInterrupt"
    finally:
        kernel.close()


def test_a_job_in_the_background_is_stopped_by_a_click_without_any_subshell(panel: Kernel) -> None:
    body = "\ncurrent_job().stopping.wait()"
    number = panel.run(f"%%autostop_job feed --background --service store=Store{body}").number
    panel.listen_until(lambda: any("Job feed: running" in text for text in panel.widget_texts()))
    panel.click(panel.button("Stop"))
    panel.wait_for_end_of_job(number)

    assert panel.value("str(last_job().state), diary") == f"('succeeded', {CLEAN})"


def test_no_panel_shows_only_the_end(panel: Kernel) -> None:
    run = panel.run("%%autostop_job quiet --no-panel --service store=Store\ntime.sleep(0.5)")

    assert panel.widgets() == {}
    assert [sorted(picture) for picture in run.pictures] == [
        ["text/plain"],
        ["image/svg+xml", "text/html", "text/plain"],
    ]


def test_no_widget_is_left_when_a_job_is_over(panel: Kernel) -> None:
    run: Run = panel.run("%%autostop_job short --service store=Store\ntime.sleep(0.6)")

    assert any("Job short: running" in text for text in panel.widget_texts())
    assert "application/vnd.jupyter.widget-view+json" not in run.pictures[-1]
    panel.listen_until(lambda: panel.widgets() == {})
    assert panel.value("len(__import__('ipywidgets').Widget.widgets)") == "0"


def test_pressing_run_again_twice_gives_one_job(panel: Kernel) -> None:
    panel.run("%%autostop_job short --service store=Store\ntime.sleep(0.3)")
    before = int(panel.value("len(jobs())"))
    panel.forget()
    panel.run("%autostop panel")
    again = panel.button("Run again")
    panel.click(again)
    panel.click(again)
    panel.listen_until(lambda: any("short: begun" in text for text in panel.widget_texts()))
    panel.run("last_job().wait()")

    assert int(panel.value("len(jobs())")) == before + 1
    assert panel.value("last_job().name, str(last_job().state)") == "('short', 'succeeded')"
    panel.run("%unload_ext autostop_lab")
    panel.listen_until(lambda: panel.widgets() == {})
    panel.run("%load_ext autostop_lab")


def test_the_panel_of_an_environment_starts_submits_and_stops(panel: Kernel) -> None:
    panel.run("env2 = LocalEnvironment('pool')\nenv2.register_service('store', Store)\nenv2.run(lambda: time.sleep(1))")
    panel.run("env2")
    panel.click(panel.button("Start all"))
    panel.listen_until(lambda: has_button(panel, "Stop all"))
    assert panel.value("diary") == "['store started']"
    panel.click(panel.button("Submit"))
    panel.listen_until(lambda: any("Job pool: running" in text for text in panel.widget_texts()))
    panel.listen_until(lambda: has_button(panel, "Submit"))
    assert panel.value("diary") == "['store started']"  # it was kept
    panel.click(panel.button("Stop all"))
    panel.listen_until(lambda: has_button(panel, "Start all"))
    assert panel.value("diary") == CLEAN
    panel.run("env2.close()")
    panel.listen_until(lambda: panel.widgets() == {})


def test_log_lines_and_names_do_no_harm(panel: Kernel, subshell: str) -> None:
    panel.run(
        "class Loud(Store):\n    def start(self):\n"
        "        self.logger.warning('\\x1b[31m<script>alert(1)</script>\\x00 \\u202e' + 'x' * 10_000)"
    )
    number = begin(panel, "words --service store=Loud")
    tabs = next(comm for comm, state in panel.widgets().items() if state.get("_model_name") == "TabModel")
    data = {"method": "update", "state": {"selected_index": 1}, "buffer_paths": []}
    message = panel.client.session.msg("comm_msg", {"comm_id": tabs, "data": data})
    message["header"]["subshell_id"] = subshell
    panel.client.shell_channel.send(message)
    panel.listen_until(lambda: any('role="log"' in text for text in panel.widget_texts()))
    (log,) = {text for text in panel.widget_texts() if 'role="log"' in text}
    panel.click(panel.button("Stop"), subshell=subshell)
    panel.finish(number)

    assert "&lt;script&gt;alert(1)" in log
    assert not any(harm in log for harm in ("<script", "\x1b", "\x00", "\u202e"))
    assert len(log) < 2_000
