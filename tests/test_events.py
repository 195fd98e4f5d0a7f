from __future__ import annotations

import threading

from autostop_lab.events import Bus, Event, JobMoved, ServiceMoved, Subscription
from autostop_lab.lifecycle import JobState, ServiceState


def moved(name: str) -> ServiceMoved:
    return ServiceMoved(
        service=name, source=ServiceState.STOPPED, target=ServiceState.STARTING, trigger="start", why="because"
    )


def test_the_record_keeps_everything_and_a_subscription_the_newest() -> None:
    bus = Bus()
    subscription = bus.subscribe(max_items=2)
    events = [moved(str(number)) for number in range(5)]
    for event in events:
        bus.publish(event)

    assert bus.record() == tuple(events)
    assert subscription.take() == events[3:]


def test_a_subscription_waits_for_news_and_ends_with_the_bus() -> None:
    bus = Bus()
    subscription = bus.subscribe()
    seen: list[Event] = []
    reader = threading.Thread(target=lambda: seen.extend(subscription))
    reader.start()
    first, second = moved("a"), moved("b")
    bus.publish(first)
    bus.publish(second)
    bus.close()
    reader.join(10)

    assert seen == [first, second]


def test_take_returns_nothing_when_time_is_over() -> None:
    assert Bus().subscribe().take(timeout_s=0.01) == []


def test_closing_a_subscription_twice_is_harmless_and_ends_its_news() -> None:
    bus = Bus()
    subscription: Subscription = bus.subscribe()
    subscription.close()
    subscription.close()
    bus.publish(moved("a"))

    assert subscription.take() == []


def test_events_read_as_one_line() -> None:
    job = JobMoved(job="words", source=JobState.PENDING, target=JobState.STARTING, trigger="start", why="go")

    assert str(moved("a")) == "a: stopped -> starting (because)"
    assert str(job) == "words: pending -> starting (go)"
