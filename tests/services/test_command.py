from __future__ import annotations

import signal
from typing import Any

import pytest

from autostop_lab.exceptions import ConfigurationError
from autostop_lab.services.command import Command, fill, placeholders
from autostop_lab.services.probes import TcpReady


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{port}", {"port"}),
        ("{host}:{port:http}/{workdir}", {"host", "port:http", "workdir"}),
        ("{port:a}{port:a}{port:b_2}", {"port:a", "port:b_2"}),
        ("plain", set()),
        ('{"json": {"port": 1}}', set()),
        ("${HOME} {} {0} {ports} {port:} {port:9x} {Port} { port }", set()),
    ],
)
def test_only_our_placeholders_are_found(text: str, names: set[str]) -> None:
    assert placeholders([text]) == names


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{host}:{port}", "localhost:80"),
        ('{"port": {port}}', '{"port": 80}'),
        ("{{port}}", "{80}"),
        ("${HOME} {} {0!r} {other} %s", "${HOME} {} {0!r} {other} %s"),
    ],
)
def test_only_our_placeholders_are_replaced_and_other_braces_stay(text: str, filled: str) -> None:
    assert fill(text, {"host": lambda: "localhost", "port": lambda: 80}) == filled


def test_what_is_put_in_is_not_looked_at_again() -> None:
    assert fill("{host}", {"host": lambda: "{port}", "port": lambda: 80}) == "{port}"


def test_a_value_that_is_not_needed_is_not_made() -> None:
    def fail() -> None:
        raise AssertionError

    assert fill("{port}", {"workdir": fail, "port": lambda: 80}) == "80"


class Store(Command):
    argv = ("store", "{port}")
    env = {"A": "1"}  # noqa: RUF012  # as a user would write it
    stop_signal = signal.SIGINT
    ready = TcpReady()


def test_what_is_not_given_is_taken_from_the_class() -> None:
    store = Store(env={"B": "2"})

    assert (store.argv, store.env, store.stop_signal) == (("store", "{port}"), {"B": "2"}, signal.SIGINT)
    assert (store.cwd, store.stdin, store.stop_argv, store.contain) == (None, None, None, "auto")
    assert Store(contain="signs").contain == "signs"
    assert Store().env == {"A": "1"}


def test_an_init_of_the_user_need_not_call_ours() -> None:
    class Mine(Store):
        def __init__(self, name: str) -> None:
            self.name = name

    assert Mine("x").argv == ("store", "{port}")


def test_all_texts_with_placeholders_are_known() -> None:
    command = Command(
        ["a{port}"], env={"X": "b{port:x}"}, cwd="c{workdir}", stop_argv=["d{host}"], ready=TcpReady("{port:y}")
    )

    assert placeholders(command._autostop_texts()) == {"port", "port:x", "workdir", "host", "port:y"}


def test_a_command_made_by_hand_has_no_port_yet() -> None:
    command = Command(["true"])

    assert (command.host, command.port, command.ports) == ("127.0.0.1", None, {})
    for name in ("workdir", "logger"):
        with pytest.raises(ConfigurationError, match=f"Command has a {name} only once it is started as a service"):
            getattr(command, name)


def test_positional_arguments_beyond_argv_are_refused() -> None:
    with pytest.raises(TypeError):
        Command(["true"], {"A": "1"})  # type: ignore[call-arg]


def test_a_class_of_the_user_that_is_called_command_keeps_its_private_names() -> None:
    base: Any = Command

    def define() -> Any:
        class Command(base):  # type: ignore[misc]
            def __init__(self) -> None:
                self.__port = self.__context = 3

            def mine(self) -> int:
                return self.__port

        return Command()

    assert define().mine() == 3
    assert define().port is None
