"""Environments in cells without the magic."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

CLEAN = "['store started', 'store stopped', 'store cleaned']"
MAKE = "env = LocalEnvironment('plain')\nstore = env.register_service('store', Store)\n"
ENDLESS = "env.run(lambda: (print('begun', flush=True), current_job().stopping.wait()))\n"


def test_submit_with_autostop_blocks_inside_the_running_loop(kernel: Kernel) -> None:
    run = kernel.run(
        f"{MAKE}out = []\nenv.from_batch([1, 2]).map(store.echo).sink(out.append)\n"
        "env.submit(autostop=True)\nout, diary"
    )

    assert run.value == f"([1, 2], {CLEAN})"


def test_what_operators_and_services_print_appears_under_the_cell_that_submitted(kernel: Kernel) -> None:
    kernel.run(
        "go_on = threading.Event()\nclass Speaks(Store):\n    def say(self, x): print('service says', x, flush=True)"
    )
    first = kernel.run(
        "env = LocalEnvironment('speaking')\n"
        "voice = env.register_service('voice', Speaks)\n"
        "def speak(x):\n    go_on.wait()\n    print('operator says', x, flush=True)\n    voice.say(x)\n"
        "env.from_batch([1]).map(speak).sink(str)\n"
        "job = env.submit(autostop=True, wait=False)"
    ).number
    other = kernel.run("go_on.set()\njob.wait()\nprint('other')")
    kernel.wait_for_text(first, "service says")

    assert other.printed() == "other\n"


def test_an_interrupt_of_submit_cleans_the_services(kernel: Kernel) -> None:
    number = kernel.send(f"{MAKE}{ENDLESS}env.submit(autostop=True)")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()

    assert kernel.finish(number).error[0] == "KeyboardInterrupt"
    assert kernel.value("diary, last_job().state.value") == f"({CLEAN}, 'cancelled')"


def test_a_job_can_be_awaited(kernel: Kernel) -> None:
    run = kernel.run(f"{MAKE}env.run(lambda: store.echo(7))\nawait env.submit(autostop=True, wait=False)")

    assert run.value == "7"
    assert kernel.value("diary") == CLEAN


def test_an_interrupt_of_awaiting_a_job_cleans_the_services(kernel: Kernel) -> None:
    number = kernel.send(f"{MAKE}{ENDLESS}await env.submit(autostop=True, wait=False)")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()

    assert kernel.finish(number).error[0] == "CancelledError"
    assert kernel.value("diary, last_job().state.value") == f"({CLEAN}, 'cancelled')"


@pytest.mark.parametrize("cell_id", [None, "a-cell"], ids=["by the cell's text", "by the front end's id"])
def test_an_environment_made_again_by_the_same_cell_closes_the_former(kernel: Kernel, cell_id: str | None) -> None:
    cell = f"{MAKE}env.start()"
    kernel.run(cell, cell_id=cell_id)
    second = kernel.run(cell, cell_id=cell_id)

    assert "environment 'plain' of this cell's earlier run is closed" in second.printed()
    assert kernel.value("diary") == "['store started', 'store stopped', 'store cleaned', 'store started']"
    kernel.run("env.close()")


def test_an_environment_of_another_cell_is_left_alone(kernel: Kernel) -> None:
    kernel.run(f"{MAKE}env.start()\nfirst = env", cell_id="one")
    second = kernel.run(f"{MAKE}env.start()", cell_id="two")

    assert "closed" not in second.printed()
    assert kernel.value("diary") == "['store started', 'store started']"
    kernel.run("first.close()\nenv.close()")


def test_a_body_may_make_an_environment_called_as_its_own_job(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job same --service store=Store\nwith LocalEnvironment('same') as other:\n    pass\nstore.echo(5)"
    )

    assert run.value == "5"
    assert kernel.value("last_job().state.value") == "'succeeded'"
