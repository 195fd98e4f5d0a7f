"""The output of a job: live while it runs, a still picture with the receipt at its end."""

from __future__ import annotations

import re

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

#: The forms of a still picture.
STILL = ["image/svg+xml", "text/html", "text/plain"]


def test_there_is_one_output_and_it_ends_as_a_still_picture_with_the_receipt(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job shown --service store=Store\ntime.sleep(0.25)")
    last = run.pictures[-1]

    assert len(run.contents("display_data")) == 1
    (own,) = {content["transient"]["display_id"] for content in run.contents("display_data", "update_display_data")}
    assert own
    assert sorted(last) == STILL
    assert "data:image/svg+xml" in last["text/html"]
    assert "1 service: 1 stopped" in last["text/html"]
    assert "<script" not in last["text/html"]
    assert "receipt: 1 service: 1 stopped" in last["text/plain"]
    assert len(last["text/plain"].splitlines()) <= 5


def test_it_stands_above_what_the_services_and_the_body_print(kernel: Kernel) -> None:
    kernel.run("class Greets(Service):\n    def start(self): print('hello', flush=True)")
    run = kernel.run("%%autostop_job shown --service one=Greets\nprint('body')")
    kinds = [message["msg_type"] for message in run.messages if message["msg_type"] in ("display_data", "stream")]

    assert kinds[0] == "display_data"


def test_it_follows_the_moves_of_job_and_services(kernel: Kernel) -> None:
    kernel.run("class Slow(Store):\n    def start(self): time.sleep(0.3)\n    def stop(self): time.sleep(1.0)")
    run = kernel.run("%%autostop_job shown --service one=Slow\ntime.sleep(1.0)")
    heads = [text for text in kernel.widget_texts() if "Job shown: " in text]

    for state in ("running", "cleaning_up"):
        assert any(f"Job shown: {state}" in head for head in heads)
    last = re.sub(r"\[\w+\]|, [\d.]+ s", "", run.pictures[-1]["text/plain"]).splitlines()[:2]
    assert last == ["job 'shown' : succeeded", "services: one stopped"]


def test_it_is_updated_at_most_ten_times_a_second(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job busy --service one=Store\n"
        "until = time.monotonic() + 1\n"
        "while time.monotonic() < until:\n"
        "    one.stop()\n"
        "    one.start()"
    )
    moves, took_s = kernel.value("len(last_job().events()), last_job().elapsed_s").strip("()").split(",")

    assert int(moves) > 50
    assert len([text for text in kernel.widget_texts() if "Job busy: " in text]) <= 10 * float(took_s) + 2
    assert [sorted(picture) for picture in run.pictures[:-1]].count(STILL) == 0


def test_a_failed_job_shows_picture_and_receipt_above_the_one_traceback(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job broken --service store=Store\n1 / 0")
    kinds = [message["msg_type"] for message in run.messages]

    assert kinds.count("error") == 1
    assert kinds.index("error") > max(i for i, kind in enumerate(kinds) if kind == "update_display_data")
    assert "ZeroDivisionError" in run.pictures[-1]["text/html"]
    assert "1 service: 1 stopped" in run.pictures[-1]["text/html"]


def test_the_output_of_a_job_in_the_background_ends_the_same_way(kernel: Kernel) -> None:
    number = kernel.run("%%autostop_job feed --background --service store=Store\ntime.sleep(0.2)").number
    kernel.wait_for_end_of_job(number)
    updates = [m["content"]["data"] for m in kernel.of(number) if m["msg_type"] == "update_display_data"]

    assert "data:image/svg+xml" in updates[-1]["text/html"]
    assert "1 service: 1 stopped" in updates[-1]["text/html"]


def test_a_job_shows_itself_when_a_cell_ends_with_it(kernel: Kernel) -> None:
    kernel.run("%%autostop_job shown --service store=Store\n5")
    (shown,) = kernel.run("last_job()").contents("execute_result")

    assert "data:image/svg+xml" in shown["data"]["text/html"]
    assert "job 'shown'" in shown["data"]["text/plain"]
