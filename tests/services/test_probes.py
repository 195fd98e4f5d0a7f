from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.services.command import Command
from autostop_lab.services.handle import run_in_background
from autostop_lab.services.probes import CallReady, HttpReady, LogReady, TcpReady
from tests.services.lives import LONG_S, Life, eventually, python

MakeLife = Callable[..., Life]

SLEEP = python("import time; time.sleep(1000)")

#: A server that does what its second argument says with each connection.
SERVER = """
import os, socket, sys, time
port, act = int(sys.argv[1]), sys.argv[2]
while act.startswith("later") and not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
server = socket.create_server(("127.0.0.1", port))
kept = []
while True:
    connection, _ = server.accept()
    request = connection.recv(65536) if "http" in act else b""
    if act == "hang":
        kept.append(connection)
        continue
    if "http" in act:
        status = 200 if b"GET /health?x=1 " in request or os.path.exists(sys.argv[3]) else 503
        connection.sendall(b"HTTP/1.1 %d X\\r\\nContent-Length: 0\\r\\n\\r\\n" % status)
    connection.close()
"""


def server(act: str, flag: object = "/nonexistent") -> list[str]:
    return [*python(SERVER), "{port}", act, str(flag)]


# -- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [1, 65535, "80", "{port}", "{port:http}"])
def test_a_port_is_a_number_or_a_placeholder(port: Any) -> None:
    assert TcpReady(port).texts() == [str(port), "{host}"]


@pytest.mark.parametrize(
    "port", [0, 65536, -1, "", "http", "{host}", "{portx}", "{port", "{port}{port}", " {port}", "²", True, None, 1.5]
)
def test_what_is_no_port_is_refused(port: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is neither a port number nor a placeholder such as '\{port\}'"):
        TcpReady(port)


@pytest.mark.parametrize(
    ("make_probe", "text"),
    [
        (lambda: TcpReady(host=3), "host=3 is not a string"),  # type: ignore[arg-type]
        (lambda: TcpReady(attempt_timeout_s=0), "attempt_timeout_s=0 must be greater than 0"),
        (lambda: HttpReady("health"), "must begin with '/', 'http://' or 'https://'"),
        (lambda: HttpReady(3), "must begin with"),  # type: ignore[arg-type]
        (lambda: HttpReady(attempt_timeout_s=None), "not a number of seconds"),  # type: ignore[arg-type]
        (lambda: LogReady("("), "is not a regular expression"),
        (lambda: LogReady(3), "pattern=3 is not a string"),  # type: ignore[arg-type]
        (lambda: LogReady(b"x"), "is not a string"),  # type: ignore[arg-type]
        (lambda: CallReady("ping"), "'ping' cannot be called"),  # type: ignore[arg-type]
        (lambda: CallReady(print, attempt_timeout_s=-1), "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make_probe: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make_probe()


@pytest.mark.parametrize(
    ("probe", "port"),
    [
        (TcpReady(80), 80),
        (TcpReady("80"), 80),
        (TcpReady(), None),
        (HttpReady("http://127.0.0.1:8080/x"), 8080),
        (HttpReady("http://127.0.0.1:8080"), 8080),
        (HttpReady("http://127.0.0.1:8080?x"), 8080),
        (HttpReady("http://127.0.0.1/:80"), None),
        (HttpReady("http://{host}:{port}/x"), None),
        (HttpReady("/x"), None),
        (LogReady("x"), None),
        (CallReady(print), None),
    ],
)
def test_a_fixed_port_is_known(probe: Any, port: int | None) -> None:
    assert probe.fixed_port == port


# -- TcpReady ----------------------------------------------------------------------------------------------


def test_tcp_is_ready_when_the_service_listens(make: MakeLife) -> None:
    life = make(Command, server("plain"), ready=TcpReady()).start()
    socket.create_connection(("127.0.0.1", life.handle.port or 0)).close()


def test_tcp_waits_until_the_service_listens(make: MakeLife, tmp_path: Any) -> None:
    life = make(Command, server("later", tmp_path / "flag"), ready=TcpReady())
    starting = run_in_background(life.start, name="start")
    eventually(lambda: life.runtime is not None and life.runtime._looks > 2)
    assert not starting.done()
    (tmp_path / "flag").touch()

    starting.result(LONG_S)


def test_tcp_of_a_service_that_accepts_and_says_nothing_is_ready(make: MakeLife) -> None:
    make(Command, server("hang"), ready=TcpReady()).start()


def test_tcp_can_look_at_a_named_port_and_another_host(make: MakeLife) -> None:
    argv = [word.replace("{port}", "{port:db}") for word in server("plain")]
    life = make(Command, argv, ready=TcpReady("{port:db}", host="localhost")).start()

    assert life.handle.port is None


# -- HttpReady ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/health?x=1", "http://{host}:{port}/health?x=1"])
def test_http_is_ready_when_the_status_is_good(make: MakeLife, url: str) -> None:
    make(Command, server("http"), ready=HttpReady(url)).start()


def test_http_waits_until_the_status_is_good(make: MakeLife, tmp_path: Any) -> None:
    life = make(Command, server("http", tmp_path / "flag"), ready=HttpReady("/other"))
    starting = run_in_background(life.start, name="start")
    eventually(lambda: life.runtime is not None and "status 503" in life.runtime._last_look)
    assert life.runtime.waiting_for().startswith("http://127.0.0.1:")
    (tmp_path / "flag").touch()

    starting.result(LONG_S)


def test_http_that_is_never_answered_is_given_up_and_tried_again(make: MakeLife) -> None:
    life = make(Command, server("hang"), ready=HttpReady(attempt_timeout_s=0.05))
    with pytest.raises(TimeoutError):
        life.start(0.7)

    assert life.runtime._looks >= 2
    waiting = life.runtime.waiting_for()
    assert "did not answer (timed out)" in waiting or "gave no answer within 0.05 s" in waiting


@pytest.mark.parametrize("act", ["plain"])
def test_http_that_is_answered_with_nonsense_is_not_ready(make: MakeLife, act: str) -> None:
    life = make(Command, server(act), ready=HttpReady())
    with pytest.raises(TimeoutError):
        life.start(0.3)

    assert "did not answer (" in life.runtime.waiting_for()


# -- LogReady ----------------------------------------------------------------------------------------------


def test_log_is_ready_when_a_line_matches(make: MakeLife) -> None:
    argv = python("import time; print('Starting'); print('Ready on port {1}'); time.sleep(1000)")
    life = make(Command, argv, ready=LogReady(r"^Ready on \w+ \{1}")).start()

    assert life.texts() == ("Starting", "Ready on port {1}")


def test_log_waits_for_a_line_and_says_for_which(make: MakeLife, tmp_path: Any) -> None:
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'flag')!r}): time.sleep(0.01)\n"
    life = make(Command, python(wait + "print('up')\ntime.sleep(1000)"), ready=LogReady("^up$"))
    starting = run_in_background(life.start, name="start")
    eventually(lambda: life.runtime is not None and life.runtime.phase == "ready")
    assert life.runtime.waiting_for() == "still waiting for a log line that matches '^up$'"
    (tmp_path / "flag").touch()

    starting.result(LONG_S)


def test_log_finds_a_line_that_others_have_pushed_out_already(make: MakeLife) -> None:
    code = "import time\nprint('up')\nfor n in range(5000): print(n)\ntime.sleep(1000)"
    life = make(Command, python(code), ready=LogReady("^up$")).start()
    life.says("4999")

    assert "up" not in life.texts()


def test_log_does_not_take_the_line_of_an_earlier_life(make: MakeLife, tmp_path: Any) -> None:
    flag = tmp_path / "flag"
    text = f"if [ ! -e {flag} ]; then touch {flag}; echo up; fi; sleep 1000"
    life = make(Command, ["sh", "-c", text], ready=LogReady("up")).start()
    life.stop()
    life.clean()

    with pytest.raises(TimeoutError):
        life.start(0.2)


# -- CallReady ---------------------------------------------------------------------------------------------


def test_call_is_ready_when_the_function_says_so_and_gets_the_command(make: MakeLife) -> None:
    seen: list[Any] = []

    def ping(command: Command) -> bool:
        seen.append((command.host, command.port, threading.current_thread().name))
        return len(seen) > 2

    life = make(Command, [*SLEEP, "{port}"], ready=CallReady(ping)).start()

    assert seen == [("127.0.0.1", life.handle.port, "autostop-lab: probe of service it")] * 3


def test_call_may_be_a_coroutine_function(make: MakeLife) -> None:
    answers = [False, True]

    async def ping(command: Command) -> bool:
        return answers.pop(0)

    make(Command, SLEEP, ready=CallReady(ping)).start()

    assert answers == []


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: False, "ping() returned False ("),
        (lambda: None, "ping() returned None ("),
        (lambda: 1 / 0, "ping() raised ZeroDivisionError: division by zero ("),
        (lambda: exec("raise SystemExit(3)"), "ping() raised SystemExit: 3 ("),
    ],
)
def test_call_that_says_no_or_raises_is_not_ready_and_told(
    make: MakeLife, act: Callable[[], object], text: str
) -> None:
    def ping(command: Command) -> object:
        return act()

    life = make(Command, SLEEP, ready=CallReady(ping))
    with pytest.raises(TimeoutError):
        life.start(0.1)

    assert life.runtime.waiting_for().startswith(text)


def test_call_that_hangs_is_left_alone_and_tried_again(make: MakeLife) -> None:
    door, calls = threading.Event(), []

    def ping(command: Command) -> bool:
        calls.append(1)
        return len(calls) > 1 or door.wait(LONG_S)

    make(Command, SLEEP, ready=CallReady(ping, attempt_timeout_s=0.05)).start()
    door.set()

    assert len(calls) == 2


# -- all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [TcpReady(), HttpReady(), LogReady("never"), CallReady(lambda command: False)])
def test_every_probe_fails_at_once_when_the_service_has_exited(make: MakeLife, ready: Any) -> None:
    life = make(Command, [*python("raise SystemExit(3)"), "{port}"], ready=ready)

    with pytest.raises(Exception, match="it ended with exit code 3 before it was ready"):
        life.start()


@pytest.mark.parametrize("ready", [TcpReady(), HttpReady("/health?x=1"), CallReady(lambda command: True)])
def test_a_lasting_probe_tells_the_health(make: MakeLife, ready: Any) -> None:
    life = make(Command, server("http"), ready=ready).start()

    assert life.health().is_healthy
    assert life.health().details == {"pid": life.pid}


def test_an_unhealthy_probe_says_why(make: MakeLife, tmp_path: Any) -> None:
    (tmp_path / "flag").touch()
    life = make(Command, server("http", tmp_path / "flag"), ready=HttpReady("/other")).start()
    (tmp_path / "flag").unlink()
    result = life.health()

    assert not result.is_healthy
    assert result.error == f"http://127.0.0.1:{life.handle.port}/other answered with status 503"


def test_a_probe_that_hangs_later_on_is_unhealthy(make: MakeLife) -> None:
    door, answers = threading.Event(), [True]

    def ping(command: Command) -> bool:
        return answers.pop() if answers else door.wait(LONG_S)

    life = make(Command, SLEEP, ready=CallReady(ping, attempt_timeout_s=0.05)).start()
    result = life.health()
    door.set()

    assert result.error == "ping() gave no answer within 0.05 s"


def test_a_line_of_the_log_says_nothing_about_the_health(make: MakeLife) -> None:
    life = make(Command, ["sh", "-c", "echo up; exec sleep 1000"], ready=LogReady("up")).start()

    assert life.health().is_healthy


def test_a_health_check_of_the_user_comes_before_the_probe(make: MakeLife) -> None:
    class Store(Command):
        argv = ("sh", "-c", "echo up; exec sleep 1000")
        ready = CallReady(lambda command: True)

        def health_check(self) -> dict[str, int]:
            return {"rows": 3}

    life = make(Store).start()

    assert life.health().details == {"pid": life.pid, "rows": 3}
