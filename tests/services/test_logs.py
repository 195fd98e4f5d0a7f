from __future__ import annotations

import logging
import threading

import pytest

from autostop_lab.services import gate
from autostop_lab.services.logs import LogLine, LogRing, RingHandler, last_words, mask


def test_lines_are_kept_oldest_first_and_the_oldest_go() -> None:
    ring = LogRing(max_lines=3)
    for number in range(5):
        ring.write(f"line {number}")

    assert ring.texts() == ("line 2", "line 3", "line 4")


@pytest.mark.parametrize(("count", "texts"), [(0, ()), (2, ("b", "c")), (9, ("a", "b", "c")), (None, ("a", "b", "c"))])
def test_the_last_lines_can_be_asked_for(count: int | None, texts: tuple[str, ...]) -> None:
    ring = LogRing()
    ring.write("a\nb\nc")

    assert ring.texts(count) == texts
    assert [str(line) for line in ring.lines(count)] == list(texts)


def test_lines_since_a_mark_are_those_written_after_it() -> None:
    ring = LogRing(max_lines=3)
    ring.write("before")
    mark = ring.mark
    ring.write("a\nb")

    assert ring.texts(since=mark) == ("a", "b")
    assert ring.texts(1, since=mark) == ("b",)
    ring.write("c\nd\ne")
    assert ring.texts(since=mark) == ("c", "d", "e")
    assert ring.texts(since=ring.mark) == ()


def test_raw_output_is_split_at_line_ends_wherever_it_is_cut() -> None:
    ring = LogRing()
    for piece in (b"fi", b"rst\r\nsec", b"ond\n\nthi"):
        ring.feed(piece)

    assert ring.texts() == ("first", "second", "")
    ring.finish()
    ring.finish()
    assert ring.texts() == ("first", "second", "", "thi")


def test_output_that_is_not_text_is_shown_as_far_as_it_is() -> None:
    ring = LogRing()
    ring.feed(b"\xff\xfe\x00ok\n")

    assert ring.texts()[0].endswith("ok")


def test_long_lines_are_cut() -> None:
    ring = LogRing(max_line_chars=10)
    ring.write("x" * 100)

    assert ring.texts() == ("x" * 10 + " ... (cut)",)


def test_output_without_line_ends_does_not_pile_up() -> None:
    ring = LogRing(max_line_chars=10)
    for _ in range(1000):
        ring.feed(b"x" * 100)

    assert len(ring.texts()) == 1000
    assert len(ring._partial) <= 40


def test_of_a_flood_the_last_lines_are_kept() -> None:
    ring = LogRing(max_lines=3)
    ring.feed(b"".join(b"%d\n" % number for number in range(100_000)) + b"rest")
    ring.feed(b" of it\n")

    assert ring.texts() == ("99998", "99999", "rest of it")


def test_a_listener_gets_every_line_of_a_flood() -> None:
    ring = LogRing(max_lines=3)
    heard: list[str] = []
    forget = ring.listen(heard.extend)
    assert ring.is_watched
    ring.feed(b"".join(b"%d\n" % number for number in range(1000)))
    forget()
    ring.write("not any more")

    assert heard == [str(number) for number in range(1000)]
    assert not ring.is_watched


def test_a_line_says_when_it_came() -> None:
    ring = LogRing()
    ring.write("a")
    (line,) = ring.lines()

    assert isinstance(line, LogLine)
    assert line.at > 1e9


# -- secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("the password is hunter2!", ["hunter2"], "the password is ***!"),
        ("hunter2hunter2", ["hunter2"], "******"),
        ("hunter22", ["hunter2", "hunter22"], "***"),
        ("-----BEGIN KEY-----", ["-----BEGIN KEY-----\nabc\n"], "***"),
        ("abc", ["-----BEGIN KEY-----\nabc\n"], "***"),
        ("nothing", ["", "  ", "\n"], "nothing"),
        ("nothing", [], "nothing"),
    ],
)
def test_secrets_are_masked(text: str, secrets: list[str], shown: str) -> None:
    assert mask(text, secrets) == shown


def test_a_secret_is_hidden_however_it_is_logged() -> None:
    ring = LogRing()
    ring.hide(["hunter2"])
    ring.write("written hunter2")
    ring.feed(b"print")
    ring.feed(b"ed hun")
    ring.feed(b"ter2\n")

    assert ring.texts() == ("written ***", "printed ***")
    assert ring.mask("hunter2") == "***"


def test_a_secret_is_hidden_also_where_its_line_is_cut() -> None:
    ring = LogRing(max_line_chars=10)
    ring.hide(["hunter2"])
    ring.write("12345hunter2")

    assert "hunt" not in ring.texts()[0]


# -- the logger of a service -------------------------------------------------------------------------------


@pytest.fixture
def upper() -> logging.Logger:
    logger = logging.Logger("upper", logging.WARNING)
    logger.records = []  # type: ignore[attr-defined]
    handler = logging.Handler()
    handler.emit = logger.records.append  # type: ignore[attr-defined, method-assign]
    logger.addHandler(handler)
    return logger


def logger_into(ring: LogRing, upper: logging.Logger) -> logging.Logger:
    logger = logging.Logger("lower", logging.DEBUG)
    logger.addHandler(RingHandler(ring, upper))
    return logger


def test_records_of_all_levels_come_into_the_ring(upper: logging.Logger) -> None:
    ring = LogRing()
    logger = logger_into(ring, upper)
    logger.debug("low")
    logger.error("high %d", 3)

    assert ring.texts() == ("DEBUG low", "ERROR high 3")


def test_records_go_on_upwards_only_as_the_upper_level_lets_them(upper: logging.Logger) -> None:
    logger = logger_into(LogRing(), upper)
    logger.debug("low")
    logger.warning("high")

    assert [record.getMessage() for record in upper.records] == ["high"]  # type: ignore[attr-defined]


def test_nothing_is_printed_where_nobody_has_set_up_logging(capsys: pytest.CaptureFixture[str]) -> None:
    logger_into(LogRing(), logging.Logger("nobody", logging.WARNING)).error("x")

    assert capsys.readouterr().err == ""


def test_a_secret_does_not_go_upwards_either(upper: logging.Logger) -> None:
    ring = LogRing()
    ring.hide(["hunter2"])
    logger_into(ring, upper).error("%s", "hunter2")

    assert upper.records[0].getMessage() == "***"  # type: ignore[attr-defined]


def test_an_exception_is_logged_with_its_traceback(upper: logging.Logger) -> None:
    ring = LogRing()
    try:
        raise ValueError("broken")
    except ValueError:
        logger_into(ring, upper).exception("it failed")

    assert ring.texts()[0] == "ERROR it failed"
    assert ring.texts()[-1] == "ValueError: broken"


def test_a_wrong_log_call_does_not_break_the_service(upper: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    logger_into(LogRing(), upper).error("%d", "x")


# -- last words --------------------------------------------------------------------------------------------

CRASH = [
    "Fatal Python error: Segmentation fault",
    "",
    "Current thread 0x00007f5a48d286c0 (most recent call first):",
    *(f'  File "/home/me/mine.py", line {number} in deep' for number in range(30)),
    f'  File "{gate.__file__}", line 135 in call',
    f'  File "{threading.__file__}", line 982 in run',
    "",
    "Thread 0x00007f5a49a36b80 (most recent call first):",
    f'  File "{gate.__file__}", line 114 in run',
    "",
    "Extension modules: mine (total: 1)",
]


def test_the_last_words_of_a_crash_are_its_reason_and_the_service_s_own_code() -> None:
    printed = [f"line {number}" for number in range(30)]
    shown = last_words([*printed, *CRASH], 20)

    assert shown[:6] == (*printed[-5:], CRASH[0])
    assert shown[6:] == tuple(CRASH[2:16])


def test_a_short_crash_leaves_room_for_what_came_before() -> None:
    printed = [f"line {number}" for number in range(30)]
    shown = last_words([*printed, *CRASH[:4], *CRASH[33:]], 20)

    assert shown == (*printed[-17:], CRASH[0], *CRASH[2:4])


def test_what_came_after_a_crash_counts_more() -> None:
    later = [f"line {number}" for number in range(30)]

    assert last_words([*CRASH, *later], 20) == tuple(later[-20:])
    assert last_words([*CRASH, "later"], 20)[-2:] == (CRASH[15], "later")
    assert last_words(later, 20) == tuple(later[-20:])
