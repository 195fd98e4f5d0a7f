from __future__ import annotations

import pytest

from autostop_lab.exceptions import ServiceStopError
from autostop_lab.job.audit import Leak
from autostop_lab.job.report import CleanupReport, ServiceEntry
from autostop_lab.services.runtime import Exit
from autostop_lab.supervisor.outcome import Life, Outcome


def entry(name: str = "store", outcome: Outcome = Outcome.STOPPED, **more: object) -> ServiceEntry:
    return ServiceEntry(name=name, outcome=outcome, **more)  # type: ignore[arg-type]


def report(*services: ServiceEntry, leaks: tuple[Leak, ...] = ()) -> CleanupReport:
    return CleanupReport(title="job 'words'", state="succeeded", elapsed_s=1.5, services=services, leaks=leaks)


def test_the_first_line_says_who_how_long_and_how_the_services_ended() -> None:
    text = str(report(entry(), entry("api", Outcome.KILLED), entry("web")))

    assert text.splitlines()[0] == "job 'words' succeeded in 1.50 s; 3 services: 1 killed, 2 stopped"


def test_the_first_line_says_that_a_service_was_restarted() -> None:
    assert "RESTARTED: store" in report(entry(restarts=2)).headline


def test_the_first_line_names_what_was_left_behind() -> None:
    leak = Leak(kind="thread", what="'worker'", stack="  File x\n")
    text = str(report(leaks=(leak,)))

    assert "LEFT BEHIND: thread 'worker'" in text.splitlines()[0]
    assert "File x" in text


def test_times_of_an_entry_come_from_its_life() -> None:
    life = Life(started_s=1.0, ready_s=1.5, stop_began_s=4.0, cleanup_began_s=4.25, ended_s=5.0, exit_code=-15)
    found = ServiceEntry.of("store", "Redis", "stopped", life)

    assert (found.start_s, found.up_s, found.stop_s, found.cleanup_s) == (0.5, 2.5, 0.25, 0.75)
    assert (found.exit_code, str(found.outcome)) == (-15, "stopped")


def test_errors_stand_in_the_text_with_their_traceback_and_phase() -> None:
    try:
        raise OSError("will not")
    except OSError as error:
        text = str(report(entry(outcome=Outcome.FAILED, errors=(("stop", error),))))

    assert "stop: OSError: will not" in text
    assert "store, stop:\nTraceback" in text


def test_stacks_of_what_is_left_stand_in_the_text_whole() -> None:
    text = str(report(entry(outcome=Outcome.ABANDONED, survivor="thread 'x' is still at\n  File a\n    wait()")))

    assert "    wait()" in text


def test_check_raises_a_group_with_each_service_that_failed() -> None:
    error = OSError("will not")
    bad = entry("bad", Outcome.FAILED, errors=(("stop", error),))
    left = entry("left", Outcome.ABANDONED, survivor="thread 'x' is still at\n...")
    with pytest.raises(ExceptionGroup) as caught:
        report(bad, left, entry("good")).check()

    first, second = caught.value.exceptions
    assert isinstance(first, ServiceStopError)
    assert (first.service, first.phase, first.__cause__) == ("bad", "stop", error)
    assert "'left' was abandoned" in str(second)


@pytest.mark.parametrize(
    "fine", [entry(), entry(outcome=Outcome.KEPT), entry(outcome=Outcome.EXITED, exit=Exit(code=1))]
)
def test_check_says_nothing_of_services_that_ended_as_they_may(fine: ServiceEntry) -> None:
    report(fine).check()

    assert report(fine).is_clean


def test_an_entry_is_found_by_name() -> None:
    assert report(entry("a"), entry("b"))["b"].name == "b"
    with pytest.raises(KeyError):
        report(entry("a"))["c"]


def test_the_html_form_escapes_what_comes_from_anywhere() -> None:
    error = OSError("<script>alert(1)</script>")
    html = report(entry("<b>", Outcome.FAILED, errors=(("stop", error),)))._repr_html_()

    assert "<script" not in html
    assert "&lt;b&gt;" in html


def test_a_crash_is_told_with_its_exit_code_or_signal() -> None:
    assert entry(outcome=Outcome.EXITED, exit=Exit(code=-9)).note == "ended by itself with signal 9"
    assert entry(outcome=Outcome.EXITED, exit=Exit(code=3)).note == "ended by itself with exit code 3"
    assert entry(outcome=Outcome.EXITED, exit=Exit(error=OSError("x"))).note == "ended by itself with OSError: x"
    assert entry(outcome=Outcome.EXITED, exit=Exit(code=0)).note == "ended by itself"
