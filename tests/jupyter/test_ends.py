"""Every way in which the body of a cell can be made to end."""

from __future__ import annotations

import pytest

from tests.jupyter.conftest import Kernel

pytestmark = pytest.mark.kernel

CLEAN = "['store started', 'store stopped', 'store cleaned']"

# Each would go on for much longer than a test may take. An interrupt of the front end's may come when Python is about
# to enter a system call, and does not end that: so where it is the front end's, the calls are short.
STEPS = {
    "sync": "print('begun', flush=True)\nwhile True:\n    time.sleep(0.1)",
    "await": "print('begun', flush=True)\nawait asyncio.sleep(600)",
    "sync part of an async body": (
        "await asyncio.sleep(0)\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.1)"
    ),
}
SLEEPS = {
    "sync": "print('begun', flush=True)\ntime.sleep(600)",
    "await": "print('begun', flush=True)\nawait asyncio.sleep(600)",
    "sync part of an async body": "await asyncio.sleep(0)\nprint('begun', flush=True)\ntime.sleep(600)",
}
steps = pytest.mark.parametrize("body", STEPS.values(), ids=STEPS.keys())
sleeps = pytest.mark.parametrize("body", SLEEPS.values(), ids=SLEEPS.keys())


# -- the user's interrupt ----------------------------------------------------------------------------------


@steps
def test_an_interrupt_ends_the_body_and_cleans_the_services(kernel: Kernel, body: str) -> None:
    number = kernel.send(f"%%autostop_job interrupted --service store=Store\n{body}")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert "asyncio.sleep(600)" in run.traceback or "time.sleep(0.1)" in run.traceback
    assert run.traceback.count("KeyboardInterrupt") == 2  # the head of the one traceback and its last line
    assert "autostop_lab" not in run.traceback
    assert kernel.value("diary") == CLEAN
    assert kernel.value("last_job().state.value, last_job().reason") == "('cancelled', 'interrupted')"


@steps
def test_the_kernel_works_on_after_an_interrupt(kernel: Kernel, body: str) -> None:
    number = kernel.send(f"%%autostop_job interrupted\n{body}")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    kernel.finish(number)

    assert kernel.value("1 + 1") == "2"
    assert kernel.run("%%autostop_job again\nawait asyncio.sleep(0, 3)").value == "3"
    number = kernel.send(STEPS["sync"])
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    assert kernel.finish(number).error[0] == "KeyboardInterrupt"


@pytest.mark.parametrize("body", ["pass", "await asyncio.sleep(0)"])
def test_an_interrupt_while_services_start_cancels_the_job_and_the_body_never_runs(kernel: Kernel, body: str) -> None:
    number = kernel.send(f"%%autostop_job early --service store=SlowToStart\n{body}\nprint('ran')")
    kernel.wait_for_text(number, "starting")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert "ran" not in run.printed()
    assert kernel.value("diary[-1], last_job().state.value") == "('store cleaned', 'cancelled')"


@steps
def test_a_second_interrupt_skips_the_grace_periods(kernel: Kernel, body: str) -> None:
    number = kernel.send(f"%%autostop_job hurried --service store=SlowToStop --stop-timeout 300\n{body}")
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    kernel.wait_for_text(number, "stopping")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert "stop() did not return" in kernel.value("str(last_job().report)")


def test_an_interrupt_during_the_cleanup_of_a_body_that_ended_well_shows_after_it(kernel: Kernel) -> None:
    number = kernel.send("%%autostop_job late --service store=SlowToStop --stop-timeout 1\n5")
    kernel.wait_for_text(number, "stopping")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert kernel.value("last_job().state.value") == "'succeeded'"


def test_an_interrupt_of_a_pipeline_that_the_body_has_declared_cancels_it(kernel: Kernel) -> None:
    number = kernel.send(
        "%%autostop_job piped --service store=Store\n"
        "env.from_batch(range(10**9)).map(lambda x: (x or print('begun', flush=True), time.sleep(0.01))).sink(len)"
    )
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.error[0] == "KeyboardInterrupt"
    assert kernel.value("diary") == CLEAN


def test_a_body_may_handle_the_interrupt_itself(kernel: Kernel) -> None:
    number = kernel.send(
        "%%autostop_job handled\n"
        "try:\n    print('begun', flush=True)\n    while True: time.sleep(0.1)\n"
        "except KeyboardInterrupt:\n    print('handled')\n'went on'"
    )
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    run = kernel.finish(number)

    assert run.value == "'went on'"
    assert kernel.value("last_job().state.value") == "'succeeded'"


def test_an_async_body_may_clean_up_when_it_is_interrupted(kernel: Kernel) -> None:
    number = kernel.send(
        "%%autostop_job tidy\n"
        "try:\n    print('begun', flush=True)\n    await asyncio.sleep(600)\n"
        "finally:\n    await asyncio.sleep(0)\n    print('tidied')"
    )
    kernel.wait_for_text(number, "begun")
    kernel.interrupt()
    run = kernel.finish(number)

    assert "tidied" in run.printed()
    assert run.error[0] == "KeyboardInterrupt"


def test_a_cancellation_that_is_not_ours_is_shown_as_it_is(kernel: Kernel) -> None:
    run = kernel.run("%%autostop_job foreign\nraise asyncio.CancelledError('mine')\nawait asyncio.sleep(0)")

    assert run.error == ("CancelledError", "mine")


# -- our own ends ------------------------------------------------------------------------------------------


@sleeps
def test_stop_from_another_thread_ends_the_body_and_the_cell_is_well(kernel: Kernel, body: str) -> None:
    run = kernel.run(
        "%%autostop_job stopped --service store=Store\n"
        f"threading.Timer(0.2, current_job().stop).start()\n{body}\nprint('went on')"
    )

    assert run.status == "ok"
    assert "went on" not in run.printed()
    assert run.contents("error") == []
    assert kernel.value("last_job().state.value, last_job().reason") == "('succeeded', 'stopped')"
    assert kernel.value("diary") == CLEAN


@sleeps
def test_a_time_out_shows_where_the_body_was(kernel: Kernel, body: str) -> None:
    run = kernel.run(f"%%autostop_job slow --timeout 0.3 --service store=Store\n{body}")

    assert run.error[0] == "JobTimeoutError"
    assert "was not done after 0.3 s" in run.error[1]
    assert "sleep(600)" in run.traceback
    assert "KeyboardInterrupt" not in run.traceback
    assert "autostop_lab/" not in run.traceback
    assert kernel.value("diary") == CLEAN


@sleeps
def test_cancel_from_another_thread_shows_a_cancelled_job(kernel: Kernel, body: str) -> None:
    run = kernel.run(
        f"%%autostop_job gone --service store=Store\nthreading.Timer(0.2, current_job().cancel).start()\n{body}"
    )

    assert run.error[0] == "JobCancelledError"
    assert kernel.value("diary") == CLEAN


def test_stop_sets_what_the_body_can_wait_for(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job asked\n"
        "threading.Timer(0.2, current_job().stop).start()\n"
        "try:\n    time.sleep(600)\nfinally:\n    print('asked:', current_job().stopping.is_set())"
    )

    assert run.printed() == "asked: True\n"


def test_a_stop_that_comes_when_the_body_has_just_ended_interrupts_nothing(kernel: Kernel) -> None:
    kernel.run(
        "def race(job, seconds):\n"
        "    time.sleep(seconds)\n"
        "    job.stop()\n"
        "def stop_later(job, seconds):\n"
        "    threading.Thread(target=race, args=(job, seconds)).start()"
    )
    for pause in ("0", "0.0002", "0.0005", "0.001", "0.002"):
        for more in ("pass", "await asyncio.sleep(0)"):
            run = kernel.run(
                "%%autostop_job race --service store=Store\n"
                f"stop_later(current_job(), {pause})\ntime.sleep({pause})\n{more}"
            )
            assert run.status == "ok"
    assert kernel.value("1 + 1") == "2"
    assert kernel.value("len(diary), diary[-1]") == "(30, 'store cleaned')"


def test_a_body_that_does_not_stop_is_abandoned_and_its_services_are_cleaned_meanwhile(kernel: Kernel) -> None:
    run = kernel.run(
        "%%autostop_job stubborn --timeout 0.2 --service store=Store\n"
        "while 'store cleaned' not in diary:\n"
        "    try:\n        time.sleep(0.05)\n    except KeyboardInterrupt:\n        pass\n"
        "print('cleaned while the body ran')"
    )

    assert run.error[0] == "JobTimeoutError"
    assert "cleaned while the body ran" in run.printed()
    assert "the cell stays busy until it returns" in kernel.value("str(last_job().report)")


def test_a_critical_service_that_dies_ends_the_body(kernel: Kernel) -> None:
    kernel.run("class Dies(Service):\n    def run(self):\n        time.sleep(0.2)\n        raise OSError('gone')")
    run = kernel.run(f"%%autostop_job needs --service weak=Dies --service store=Store\n{SLEEPS['sync']}")

    assert run.error[0] == "ServiceCrashedError"
    assert "OSError: gone" in run.traceback
    assert kernel.value("diary") == CLEAN


def test_a_failed_cleanup_warns_and_the_cell_is_well(kernel: Kernel) -> None:
    kernel.run("class Messy(Service):\n    def cleanup(self): raise OSError('stuck')")
    for more in ("5", "await asyncio.sleep(0, 5)"):
        run = kernel.run(f"%%autostop_job messy --service messy=Messy\n{more}")

        assert run.value == "5"
        assert "CleanupWarning" in run.printed("stderr")


def test_the_former_handler_of_the_signal_is_back_after_a_cell(kernel: Kernel) -> None:
    before = kernel.value("import signal; signal.getsignal(signal.SIGINT)")
    kernel.run("%%autostop_job signals\npass")

    assert kernel.value("signal.getsignal(signal.SIGINT)") == before
