from __future__ import annotations

from autostop_lab.dataflow.flight import Completion, Flight


def test_records_are_through_in_order_whatever_the_order_of_their_ends() -> None:
    quiet: list[str] = []
    flight, completion = Flight(1, lambda: quiet.append("quiet")), Completion()
    first, second, third = (flight.begin(completion, start) for start in (0, 10, 20))

    flight.release(second, 20)
    assert completion.completed == 0
    flight.release(first, 10)
    assert completion.completed == 20
    flight.end_source()
    assert quiet == []
    flight.release(third, 25)
    assert (completion.completed, quiet) == (25, ["quiet"])


def test_a_stretch_is_through_when_all_that_came_of_it_is() -> None:
    flight, completion = Flight(1, lambda: None), Completion()
    span = flight.begin(completion, 0)
    flight.fork(span)
    flight.fork(span)
    flight.release(span, 5)
    flight.release(span)

    assert completion.completed == 0
    flight.release(span)
    assert completion.completed == 5


def test_who_waits_is_told_of_each_stretch_when_it_is_through() -> None:
    told: list[tuple[int, int]] = []
    flight, completion = Flight(2, lambda: None), Completion(lambda start, stop: told.append((start, stop)))
    first, second = flight.begin(completion, 0), flight.begin(completion, 3)
    flight.release(second, 4)
    flight.release(first, 3)
    completion.complete(4, 6)
    completion.complete(6, 6)

    assert told == [(3, 4), (0, 3), (4, 6)]


def test_it_is_quiet_only_when_all_sources_have_ended() -> None:
    quiet: list[str] = []
    flight = Flight(2, lambda: quiet.append("quiet"))
    flight.release(flight.begin(Completion(), 0), 1)
    flight.end_source()
    assert quiet == []
    flight.end_source()

    assert quiet == ["quiet"]


def test_what_a_join_keeps_does_not_move_and_is_not_through() -> None:
    quiet: list[str] = []
    flight, completion = Flight(1, lambda: quiet.append("quiet")), Completion()
    span = flight.begin(completion, 0)
    flight.fork(span)
    flight.release(span, 5)
    flight.end_source()
    assert quiet == []
    flight.hold(span)
    assert (quiet, completion.completed) == (["quiet"], 0)
    flight.release_held(span)

    assert (quiet, completion.completed) == (["quiet"], 5)
