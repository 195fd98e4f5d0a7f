from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autostop_lab.exceptions import UnknownServiceError
from autostop_lab.lifecycle import ServiceState
from autostop_lab.services.handle import run_in_background
from autostop_lab.services.policies import ServicePolicy
from autostop_lab.services.service import Service
from tests.services.lives import LONG_S, Life, eventually

MakeLife = Callable[..., Life]

QUICK = ServicePolicy(stop_timeout_s=0.2, cleanup_timeout_s=0.2)


class Diary(Service):
    """Writes down what is done with it, and in which thread."""

    def __init__(self, *acts: str) -> None:
        self.acts = acts
        self.entries: list[str] = []
        self.threads: list[str] = []
        self.note("init")

    def note(self, what: str) -> None:
        self.entries.append(what)
        self.threads.append(threading.current_thread().name)
        if what in self.acts:
            raise ValueError(f"{what} failed")

    def start(self) -> None:
        self.note("start")

    def stop(self) -> None:
        self.note("stop" if self.stopping.is_set() else "stop without stopping")

    def cleanup(self) -> None:
        self.note("cleanup")

    def me(self) -> Diary:
        return self


class AsyncDiary(Diary):
    async def start(self) -> None:  # type: ignore[override]
        self.note("start")
        await asyncio.sleep(0)

    async def stop(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.note("stop")

    async def cleanup(self) -> None:  # type: ignore[override]
        self.note("cleanup")

    async def health_check(self) -> dict[str, str]:
        return {"thread": threading.current_thread().name}


def one_life(life: Life) -> Any:
    service = life.start().handle.me()
    life.stop()
    life.clean()
    return service


# -- the hooks ---------------------------------------------------------------------------------------------


def test_the_hooks_are_called_in_order_in_a_thread_of_the_service(make: MakeLife) -> None:
    service = one_life(make(Diary))

    assert service.entries == ["init", "start", "stop", "cleanup"]
    assert set(service.threads) == {"autostop-lab: service it"}


def test_async_hooks_run_on_one_event_loop_of_the_service(make: MakeLife) -> None:
    service = one_life(make(AsyncDiary))

    assert service.entries == ["init", "start", "stop", "cleanup"]
    assert set(service.threads[1:]) == {"autostop-lab: event loop of service it"}


def test_all_hooks_are_optional(make: MakeLife) -> None:
    class Plain:
        def work(self) -> int:
            return 3

    life = make(Plain).start()
    assert life.handle.work() == 3
    assert life.health().is_healthy
    assert life.stop()
    life.clean()


def test_a_function_may_make_the_service(make: MakeLife) -> None:
    assert one_life(make(lambda: Diary())).entries == ["init", "start", "stop", "cleanup"]


def test_a_coroutine_function_may_make_the_service(make: MakeLife) -> None:
    async def connect() -> Diary:
        await asyncio.sleep(0)
        return Diary()

    assert one_life(make(connect)).entries == ["init", "start", "stop", "cleanup"]


def test_a_factory_that_forgot_to_return_is_told_so(make: MakeLife) -> None:
    with pytest.raises(TypeError, match=r"<lambda>\(\) returned None in place of the service"):
        make(lambda: None).start()


def test_it_finds_the_services_that_it_declared_and_no_others(make: MakeLife) -> None:
    class Asking(Service):
        def start(self) -> None:
            self.found = self.service("store")

        def get(self) -> Any:
            return self.found

        def other(self) -> Any:
            return self.service("other")

    life, store = make(Asking), make(Diary, name="store").start().handle
    life.needed["store"] = store
    life.start()

    assert life.handle.get() is store
    with pytest.raises(UnknownServiceError):
        life.handle.other()


def test_what_start_raises_is_raised_and_its_phase_known(make: MakeLife) -> None:
    for act, phase in (("init", "construct"), ("start", "start")):
        life = make(Diary, act)
        with pytest.raises(ValueError, match=f"{act} failed"):
            life.start()
        assert life.runtime.phase == phase


def test_cleanup_is_called_after_a_failed_start_but_not_after_a_failed_init(make: MakeLife) -> None:
    seen: list[Any] = []

    class Remembered(Diary):
        def cleanup(self) -> None:
            seen.append(self.acts)

    for act in ("init", "start"):
        life = make(Remembered, act)
        with pytest.raises(ValueError, match="failed"):
            life.start()
        life.kill()
        life.clean()

    assert seen == [("start",)]


def test_cleanup_is_called_when_stop_raises_which_is_told(make: MakeLife) -> None:
    life = make(Diary, "stop").start()
    service = life.handle.me()
    with pytest.raises(ValueError, match="stop failed"):
        life.stop()
    life.clean()

    assert service.entries == ["init", "start", "stop", "cleanup"]


def test_what_cleanup_raises_is_told_and_its_folder_goes_all_the_same(make: MakeLife) -> None:
    class Mine(Diary):
        def start(self) -> None:
            (self.workdir / "file").write_text("x")

    life = make(Mine, "cleanup").start()
    folder = life.folder
    assert (folder / "work" / "file").exists()
    life.stop()
    with pytest.raises(ValueError, match="cleanup failed"):
        life.clean()

    assert not folder.exists()


def test_the_folder_is_removed_with_the_service_also_when_it_is_read_only(make: MakeLife) -> None:
    class Mine(Service):
        def start(self) -> None:
            inner = self.workdir / "a" / "b"
            inner.mkdir(parents=True)
            (inner / "file").write_text("x")
            (inner / "link").symlink_to("/")
            inner.chmod(0o500)
            inner.parent.chmod(0o500)

    life = make(Mine).start()
    folder = life.folder
    life.stop()
    life.clean()

    assert not folder.exists()
    assert Path("/").stat().st_mode & 0o777 != 0o700


def test_a_service_that_outlives_its_end_makes_no_new_folder(make: MakeLife) -> None:
    class Mine(Service):
        def me(self) -> Mine:
            return self

    service = make(Mine).start().handle.me()
    life = make(Mine, name="other").start()
    other = life.handle.me()
    life.stop()
    life.clean()

    assert service.workdir.is_dir()
    with pytest.raises(FileNotFoundError, match="this life of the service is over"):
        _ = other.workdir


def test_without_use_of_the_workdir_there_is_no_folder(make: MakeLife) -> None:
    life = make(Diary).start()

    assert not life.folder.exists()


# -- run() -------------------------------------------------------------------------------------------------


class Runner(Service):
    def __init__(self, end: Any = None) -> None:
        self.end = end

    def run(self) -> None:
        if isinstance(self.end, BaseException):
            raise self.end
        if self.end is None:
            self.stopping.wait(LONG_S)


def test_the_end_of_run_is_the_end_of_the_service(make: MakeLife) -> None:
    end = make(Runner, "at once").start().exit()

    assert end.is_clean


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), StopIteration(1)])
def test_what_run_raises_is_how_the_service_ended(make: MakeLife, error: BaseException) -> None:
    end = make(Runner, error).start().exit()

    assert end.error is error
    assert not end.is_clean


def test_stop_waits_for_run_which_sees_stopping(make: MakeLife) -> None:
    life = make(Runner).start()
    assert not life.runtime.exited.done()
    assert life.stop()

    assert life.runtime.exited.done()
    assert life.runtime.survivor() == ""


def test_a_service_that_ended_by_itself_takes_no_calls_and_is_cleaned(make: MakeLife) -> None:
    class Short(Diary):
        def run(self) -> None: ...

    life = make(Short).start()
    service = life.handle.me()
    life.exit()
    assert life.settle()
    life.clean()

    assert service.stopping.is_set()
    assert service.entries == ["init", "start", "cleanup"]


def test_an_async_run_is_cancelled_when_it_is_too_late(make: MakeLife) -> None:
    cancelled = threading.Event()

    class Endless(Service):
        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    life = make(Endless).start()
    assert not life.stop(0.1)
    assert life.kill()

    assert cancelled.is_set()
    assert life.runtime.survivor() == ""


# -- late ones ---------------------------------------------------------------------------------------------


class Late(Service):
    """Hangs where it is told, until its door is opened."""

    door: threading.Event
    hangs_at = ""
    is_cleaned: threading.Event

    def _at(self, where: str) -> None:
        if where == self.hangs_at:
            self.door.wait(LONG_S)

    def start(self) -> None:
        self._at("start")

    def run(self) -> None:
        self._at("run")
        self.stopping.wait(LONG_S)

    def stop(self) -> None:
        self._at("stop")

    def cleanup(self) -> None:
        self.is_cleaned.set()
        self._at("cleanup")

    def health_check(self) -> None:
        self._at("health_check")

    def work(self) -> None:
        self._at("work")


def late(where: str) -> type[Late]:
    return type("Late", (Late,), {"hangs_at": where, "door": threading.Event(), "is_cleaned": threading.Event()})


@pytest.mark.parametrize("where", ["run", "stop"])
def test_a_hook_that_hangs_is_named_with_its_stack_and_cleanup_is_called_elsewhere(make: MakeLife, where: str) -> None:
    hung = late(where)
    life = make(hung, policy=QUICK).start()
    assert not life.stop(0.2)
    life.kill()
    life.run(life.runtime.cleanup())
    survivor = life.runtime.survivor()
    hung.door.set()

    assert hung.is_cleaned.is_set()
    assert "autostop-lab: " in survivor.splitlines()[0]
    assert "is still at" in survivor.splitlines()[0]
    assert f"in {where}" in survivor
    eventually(lambda: not life.runtime.survivor())


def test_a_cleanup_that_hangs_is_named_with_its_stack(make: MakeLife) -> None:
    hung = late("cleanup")
    life = make(hung).start()
    life.stop()
    runtime = life.runtime
    with pytest.raises(TimeoutError):
        life.clean(0.05)

    assert "in cleanup" in runtime.survivor()
    hung.door.set()
    eventually(lambda: not runtime.survivor())


def test_a_start_that_hangs_is_asked_to_stop_and_named(make: MakeLife) -> None:
    hung = late("start")
    life = make(hung, policy=QUICK)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    assert life.runtime.waiting_for() == "start() did not return"
    assert life.stop()
    life.run(life.runtime.cleanup())

    assert hung.is_cleaned.is_set()
    assert "in start" in life.runtime.survivor()
    hung.door.set()
    eventually(lambda: not life.runtime.survivor())


def test_a_constructor_that_hangs_is_named_and_nothing_else_is_called(make: MakeLife) -> None:
    door = threading.Event()

    class Mine(Diary):
        def __init__(self) -> None:
            door.wait(LONG_S)
            super().__init__()

        def stop(self) -> None:
            raise AssertionError

    life = make(Mine, policy=QUICK)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    assert life.runtime.waiting_for() == "its constructor did not return"
    assert life.stop()
    assert "in __init__" in life.runtime.survivor()
    door.set()
    eventually(lambda: not life.runtime.survivor())


class AsyncHang(Service):
    hangs_at = ""
    stubborn = False

    async def _at(self, where: str) -> None:
        while where == self.hangs_at:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise

    async def start(self) -> None:
        await self._at("start")

    async def stop(self) -> None:
        await self._at("stop")

    async def work(self) -> None:
        await self._at("work")


def async_hang(where: str, stubborn: bool = False) -> type[AsyncHang]:
    return type("AsyncHang", (AsyncHang,), {"hangs_at": where, "stubborn": stubborn})


def test_an_async_start_that_hangs_is_cancelled(make: MakeLife) -> None:
    life = make(async_hang("start"), policy=QUICK)
    with pytest.raises(TimeoutError):
        life.start(0.05)
    assert life.stop()

    assert life.runtime.survivor() == ""


def test_an_async_stop_that_hangs_is_cancelled(make: MakeLife) -> None:
    life = make(async_hang("stop"), policy=QUICK).start()
    assert not life.stop(0.05)
    assert life.kill()

    assert life.runtime.survivor() == ""


def test_a_coroutine_that_cannot_be_cancelled_is_named_with_its_stack(
    make: MakeLife, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autostop_lab.services.coroutines.ServiceLoop.CLOSING_S", 0.1)
    hung = async_hang("stop", stubborn=True)
    life = make(hung, policy=QUICK).start()
    assert not life.stop(0.05)
    life.kill()

    assert "in _at" in life.runtime.survivor()
    hung.hangs_at = ""
    life.runtime.coroutines.cancel()
    eventually(lambda: not life.runtime.survivor())


def test_a_call_that_hangs_delays_stop_by_half_of_the_grace_period(make: MakeLife) -> None:
    hung = late("work")
    life = make(hung, policy=ServicePolicy(stop_timeout_s=0.4)).start()
    call = life.handle.work.submit()
    service_is_busy = life.runtime._gate
    eventually(lambda: not service_is_busy.wait_empty(0))
    began = time.monotonic()
    assert life.stop()
    took_s = time.monotonic() - began
    hung.door.set()
    call.result(LONG_S)

    assert took_s >= 0.2


def test_stop_waits_for_calls_that_end_in_time(make: MakeLife) -> None:
    done: list[str] = []

    class Busy(Service):
        def __init__(self) -> None:
            self.entered = threading.Event()

        def work(self) -> None:
            self.entered.set()
            self.stopping.wait(LONG_S)
            done.append("call")

        def stop(self) -> None:
            done.append("stop")

        def me(self) -> Busy:
            return self

    life = make(Busy).start()
    service = life.handle.me()
    call = life.handle.work.submit()
    assert service.entered.wait(LONG_S)
    life.stop()
    call.result(LONG_S)

    assert done == ["call", "stop"]


def test_stop_called_from_a_call_of_the_service_is_no_deadlock(make: MakeLife) -> None:
    class Suicidal(Service):
        def work(self, stop: Callable[[], bool]) -> bool:
            return stop()

    life = make(Suicidal, policy=ServicePolicy(stop_timeout_s=0.1)).start()

    assert run_in_background(lambda: life.handle.work(life.stop), name="call").result(LONG_S) is True


# -- health ------------------------------------------------------------------------------------------------


def healthy(answer: Any) -> type:
    def check(self: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return type("Checked", (Service,), {"health_check": check})


@pytest.mark.parametrize(
    ("answer", "is_healthy", "details", "error"),
    [
        (True, True, {}, None),
        (None, True, {}, None),
        ({"rows": 3, "state": "odd"}, True, {"rows": 3, "state": "odd"}, None),
        (False, False, {}, "health_check() returned False"),
        (ValueError("broken"), False, {}, "ValueError: broken"),
        (SystemExit(3), False, {}, "SystemExit: 3"),
        (StopIteration(), False, {}, "StopIteration"),
    ],
)
def test_health_is_what_the_check_says_and_the_state_is_the_supervisor_s(
    make: MakeLife, answer: Any, is_healthy: bool, details: dict[str, Any], error: str | None
) -> None:
    result = make(healthy(answer)).start().health()

    assert (result.is_healthy, result.details, result.error) == (is_healthy, details, error)
    assert result.state is ServiceState.RUNNING
    assert result.latency_s >= 0


def test_an_async_check_runs_on_the_service_s_event_loop(make: MakeLife) -> None:
    result = make(AsyncDiary).start().health()

    assert result.details == {"thread": "autostop-lab: event loop of service it"}


def test_a_check_does_not_wait_for_calls(make: MakeLife) -> None:
    hung = late("work")
    life = make(hung).start()
    call = life.handle.work.submit()
    eventually(lambda: not life.runtime._gate.wait_empty(0))

    assert life.health().is_healthy
    hung.door.set()
    call.result(LONG_S)


def test_a_check_that_hangs_is_not_begun_again_and_is_named_in_the_end(make: MakeLife) -> None:
    hung = late("health_check")
    life = make(hung, policy=QUICK).start()

    async def look_twice() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(life.runtime.check_health(), 0.02)

    life.run(look_twice())
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("autostop-lab: health check of service it") == 1
    life.stop()
    assert "in health_check" in life.runtime.survivor()
    hung.door.set()
    eventually(lambda: life.runtime.survivor() == "")


def test_a_check_that_raises_a_secret_does_not_show_it(make: MakeLife) -> None:
    class Mine(Service):
        def __init__(self, password: str) -> None:
            self.password = password

        def health_check(self) -> None:
            raise ValueError(f"{self.password} was refused")

    result = make(Mine, "hunter2", policy=ServicePolicy(secret=("password",))).start().health()

    assert result.error == "ValueError: *** was refused"


def test_a_secret_that_is_logged_is_not_shown(make: MakeLife) -> None:
    class Mine(Service):
        def __init__(self, password: str) -> None:
            self.logger.info("connecting with %s", password)

    assert make(Mine, "hunter2", policy=ServicePolicy(secret=("password",))).start().texts() == (
        "INFO connecting with ***",
    )


# -- what is left ------------------------------------------------------------------------------------------


def test_fifty_lives_leave_no_thread_and_no_descriptor(make: MakeLife) -> None:
    """The leak check around each test looks at threads and descriptors by name; this one counts."""
    life = make(AsyncDiary)
    one_life(life)
    eventually(lambda: not [t for t in threading.enumerate() if "service it" in t.name])
    before = threading.active_count()
    for _ in range(50):
        one_life(life)

    eventually(lambda: threading.active_count() <= before)


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of descriptors is Linux's")
def test_an_event_loop_gives_its_descriptors_back(make: MakeLife) -> None:
    import os

    life = make(AsyncDiary)
    one_life(life)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        one_life(life)

    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
