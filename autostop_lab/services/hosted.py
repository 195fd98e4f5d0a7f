"""The life of a Python service in a host: its hooks, its calls, its end.

The functions are what its owner has the host carry out. What each means is said in `ThreadRuntime`, which does the
same in the owner's own process.
"""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from autostop_lab.services.context import current_hook, seconds_waited_for, within
from autostop_lab.services.coroutines import ServiceLoop, StartsThreads, place_of
from autostop_lab.services.gate import CallGate, NoTurnError
from autostop_lab.services.host import Host
from autostop_lab.services.objects import ObjectCalls, make_object
from autostop_lab.services.service import ServiceContext, hook
from autostop_lab.services.travel import pack_result, unpack
from autostop_lab.services.wire import Connection

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle

#: How long threads get to end that were asked and are late, in seconds.
LAST_MOMENT_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a service in its host.

    Attributes
    ----------
    name, key : str
        Its name, and what handles refer to.
    folder : Path
        That of this life, which is there.
    target, args, kwargs
        Its class or factory, and what that is called with.
    limit, call_timeout_s, stop_timeout_s, cleanup_timeout_s
        As in its policy; times in seconds.
    is_scheduled, notes_use : bool
        Whether ``run()`` is called by a schedule, and whether somebody asks how long it has been idle.
    finder : bytes
        Pickle of ``name -> ServiceHandle`` for what it depends on.
    """

    name: str
    key: str
    folder: Path
    target: Callable[..., Any]
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)
    limit: int
    call_timeout_s: float
    stop_timeout_s: float
    cleanup_timeout_s: float
    is_scheduled: bool
    notes_use: bool
    finder: bytes


class Begun(NamedTuple):
    """What its owner learns of a service that is ready."""

    methods: tuple[str, ...]
    has_health_check: bool
    has_cleanup: bool


class _Folder:
    """The folder of this life, made and removed by the owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def workdir(self) -> Path:
        folder = self._folder / "work"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


class _TellingHandler(logging.Handler):
    """Hands log records to the owner."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            self._host.tell("log", record.levelno, message, self.format(record)[len(message) :])
        except Exception:  # arguments that do not fit the message
            self.handleError(record)


class _Lane:
    """A daemon thread that calls functions one after another; a hung one holds nobody but itself."""

    def __init__(self, threads: StartsThreads, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._given = self._done = 0  # each is written by one thread only
        self.thread = threads.start_thread(self._work, name=name)

    @property
    def is_busy(self) -> bool:
        return self._done < self._given

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._given += 1
        self._calls.put((function, future))
        return future

    def close(self) -> None:
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            function, future = item
            try:
                result = function()
            except BaseException as error:
                self._done += 1
                future.set_exception(error)
            else:
                self._done += 1
                future.set_result(result)
            del item, function, future


def _value(future: Future[Any]) -> Any:
    """Return a future's value, or raise its exception without frames of the futures' own."""
    wait([future])
    if (error := future.exception()) is not None:
        raise error
    return future.result()


class NotCalledError(Exception):
    """A call was not begun, or not ended, for a reason that the owner words; `status` says which."""

    def __init__(self, status: bytes) -> None:
        super().__init__()
        self.status = status


class _Calls(ObjectCalls):
    """The methods of the object, as the owner calls them."""

    def no_method(self, method: str) -> Exception:
        return NotCalledError(b"no method")

    def refusal(self, reason: NoTurnError) -> Exception:
        return NotCalledError(b"closed" if reason.is_closed else b"late" if reason.is_given_up else b"no turn")

    def ended(self) -> Exception:
        return NotCalledError(b"ended")


class HostedService:
    """One life of a service, in its host."""

    def __init__(self, host: Host, recipe: Recipe) -> None:
        self.host = host
        self.recipe = recipe
        self.key = recipe.key
        self.service: Any = None
        self.phase = "construct"
        self.context = ServiceContext(recipe.name, _Folder(recipe.folder), _TellingHandler(host), self._find)
        self.coroutines = ServiceLoop(host, f"event loop of service {recipe.name}")
        self.gate = CallGate(recipe.limit, recipe.call_timeout_s)
        self.calls: _Calls | None = None
        self._hooks = self._lane(f"service {recipe.name}")
        self._spare: _Lane | None = None
        self._runner: _Lane | None = None
        self._checker: _Lane | None = None
        self._starting: Future[Any] | None = None
        self._running: Future[Any] | None = None
        self._stopping: Future[Any] | None = None
        self._cleaning: Future[Any] | None = None
        self._checking: Future[Any] | None = None
        self._finder: Callable[[str], ServiceHandle] | None = None
        self._bound: dict[str, Callable[..., Any]] = {}
        # By the whole head of a call that carries nothing along.
        self._plain: dict[bytes, Callable[..., Any]] = {}

    def _find(self, name: str) -> ServiceHandle:
        if self._finder is None:
            self._finder = pickle.loads(self.recipe.finder)
        return self._finder(name)

    def _lane(self, name: str) -> _Lane:
        return _Lane(self.host, name)

    def _call_hook(self, name: str) -> Any:
        function = hook(self.service, name)
        if function is None:
            return None
        before = current_hook.set(self)
        try:
            return self.coroutines.finish(function())
        finally:
            current_hook.reset(before)

    # -- what the owner asks -------------------------------------------------------------------------------

    def begin(self) -> Begun:
        """Make the object and call its ``start()``; begin its ``run()`` if it has one."""
        self._starting = self._hooks.call(self._begin)
        _value(self._starting)
        if not self.recipe.is_scheduled and hook(self.service, "run") is not None:
            self._begin_run().add_done_callback(self._tell_run_end)
        self.calls = _Calls(self.service, self.gate, self.coroutines, notes_use=self.recipe.notes_use)
        has_health_check, has_cleanup = (hook(self.service, name) is not None for name in ("health_check", "cleanup"))
        return Begun(tuple(self.calls.methods()), has_health_check, has_cleanup)

    def _begin(self) -> None:
        recipe = self.recipe
        self.service = make_object(recipe.target, recipe.args, recipe.kwargs, self.context, self.coroutines)
        self.phase = "start"
        self.host.tell("phase", "start")
        self._call_hook("start")

    def _begin_run(self) -> Future[Any]:
        self._runner = self._lane(f"run of service {self.recipe.name}")
        self._running = self._runner.call(lambda: self._call_hook("run"))
        self._runner.close()
        return self._running

    def _tell_run_end(self, running: Future[Any]) -> None:
        error = running.exception()
        where = f"in the process of {self.host.name} (pid {os.getpid()})"
        self.host.tell("ended", self.host.pack_error(error, where) if error is not None else None)

    def run_once(self) -> None:
        """Call ``run()`` in a thread of its own."""
        _value(self._begin_run())

    def idle_for_s(self) -> float:
        """Return for how long no call has been inside; 0 while one is, or while its ``is_idle()`` says no."""
        if not self.gate.wait_empty(0):
            return 0.0
        if hook(self.service, "is_idle") is not None and not self._call_hook("is_idle"):
            self.gate.last_left_s = time.monotonic()
        return time.monotonic() - self.gate.last_left_s

    def check_health(self, timeout_s: float) -> Any:
        """Return what its ``health_check()`` says; who asks while another waits gets the same answer."""
        check = hook(self.service, "health_check")
        if check is None:
            return None
        if inspect.iscoroutinefunction(check):
            return self.coroutines.finish(_bounded(check(), timeout_s))
        if self._checking is None or self._checking.done():
            self._checker = self._lane(f"health check of service {self.recipe.name}")
            self._checking = self._checker.call(lambda: self._call_hook("health_check"))
            self._checker.close()
        return _value(self._checking)

    def refuse_calls(self) -> None:
        """Let no further call in."""
        self.context.stopping.set()
        self.gate.close()

    def stop(self) -> None:
        """Call ``stop()`` once; who asks again waits for the same end."""
        self.refuse_calls()
        patience_s = self.recipe.stop_timeout_s / 2
        if self._starting is not None and not self._starting.done():
            wait([self._starting], patience_s)
            self.coroutines.cancel()
            wait([self._starting], LAST_MOMENT_S)
        if self._stopping is None and self.service is not None:
            self._stopping = self._free_lane().call(lambda: self._stop_in_lane(patience_s))
        try:
            if self._stopping is not None:
                _value(self._stopping)
        finally:
            if self._running is not None:
                wait([self._running])

    def _stop_in_lane(self, patience_s: float) -> None:
        if not self.gate.wait_empty(patience_s) and (callers := _threads_in_calls()):
            places = "\n".join(place_of(thread, verb="is") for thread in callers)
            self.context.logger.warning("its end does not wait for the calls inside: %s", places.rstrip())
        self._call_hook("stop")

    def _free_lane(self) -> _Lane:
        if not self._hooks.is_busy:
            return self._hooks
        if self._spare is None or self._spare.is_busy:
            self._spare = self._lane(f"cleanup of service {self.recipe.name}")
        return self._spare

    def where(self) -> str:
        """Return where the threads are now that run its code, in words and in traceback form; "" if none does."""
        lanes = (self._hooks, self._spare, self._runner, self._checker)
        busy = [lane.thread for lane in lanes if lane is not None and lane.is_busy]
        stacks = [place_of(thread, verb="was") for thread in (*busy, *_threads_in_calls())]
        if stacks:  # it may wait for a coroutine
            stacks.append(self.coroutines.survivor())
        return "\n".join(filter(None, stacks))

    def cancel(self) -> None:
        """Cancel its coroutines; nothing here can end its threads."""
        self.refuse_calls()
        self.coroutines.cancel()

    def clean(self) -> None:
        """Call ``cleanup()`` once; who asks again waits for the same end."""
        if self._cleaning is None and self.service is not None:
            self._cleaning = self._free_lane().call(lambda: self._call_hook("cleanup"))
        if self._cleaning is not None:
            _value(self._cleaning)

    def end(self) -> None:
        """Stop and clean within their time-outs, since the owner is gone."""
        self._within(self.stop, self.recipe.stop_timeout_s)
        self.cancel()
        self._within(self.clean, self.recipe.cleanup_timeout_s)

    def _within(self, function: Callable[[], None], timeout_s: float) -> None:
        lane = self._lane("end")
        done, _ = wait([lane.call(function)], timeout_s)
        for future in done:
            if (error := future.exception()) is not None:
                self.context.logger.error("while it was ended: %r", error)
        lane.close()

    # -- calls ---------------------------------------------------------------------------------------------

    def serve(self, connection: Connection) -> None:
        """Answer calls on a connection until it ends."""
        while True:
            try:
                head, body, buffers = connection.receive()
            except (EOFError, OSError):
                return
            status, data, out = self._answer(head, body, buffers)
            del body, buffers
            try:
                connection.send(status, data, out)
            except OSError:
                return
            del data, out

    def _answer(self, head: bytes, body: bytes, buffers: list[Any]) -> tuple[bytes, bytes, list[memoryview]]:
        try:
            plain = self._plain.get(head)
            if plain is not None:
                return self._do(plain, unpack(body, buffers), is_batch=False)
            method, is_batch, carried = pickle.loads(head)
            call = self._bound.get(method) or self._bind(method)
            work = unpack(body, buffers)
            if carried is None:
                if not is_batch:
                    self._plain[head] = call
                return self._do(call, work, is_batch=is_batch)
            with within(carried):
                if seconds_waited_for() <= 0:
                    raise NotCalledError(b"late")
                return self._do(call, work, is_batch=is_batch)
        except NotCalledError as reason:
            return reason.status, b"", []
        except BaseException as error:
            return b"error", self.host.pack_error(error, f"in service {self.recipe.name!r} (pid {os.getpid()})"), []

    def _bind(self, method: str) -> Callable[..., Any]:
        if self.calls is None:
            raise NotCalledError(b"closed")
        call = self._bound[method] = self.calls.bind(method)
        return call

    def _do(self, call: Callable[..., Any], work: Any, *, is_batch: bool) -> tuple[bytes, bytes, list[memoryview]]:
        if is_batch:
            return self._do_batch(call, work)
        args, kwargs = work
        value = call(*args, **kwargs)
        return (b"value", *pack_result(self.recipe.name, value))

    def _do_batch(self, call: Callable[..., Any], values: list[Any]) -> tuple[bytes, bytes, list[memoryview]]:
        results: list[Any] = []
        take = results.append
        try:
            for value in values:
                take(call(value))
        except NotCalledError as reason:
            if reason.status != b"closed":
                raise
        return (b"value", *pack_result(self.recipe.name, results))


def _threads_in_calls() -> list[threading.Thread]:
    """Return the threads that are inside a call of its owner; calls themselves keep no record, since they are fast."""
    found, frames = [], sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None and frame.f_code is not HostedService._do.__code__:
            frame = frame.f_back
        if frame is not None:
            found.append(thread)
    return found


async def _bounded(check: Any, timeout_s: float) -> Any:
    import asyncio

    return await asyncio.wait_for(check, timeout_s)


# -- works -------------------------------------------------------------------------------------------------


def begin(host: Host, *, recipe: Recipe) -> Begun:
    """Make the service and call its ``start()``; begin its ``run()`` if it has one."""
    service = HostedService(host, recipe)
    host.resident = service
    return service.begin()


def ask(host: Host, *, what: str, args: tuple[Any, ...] = ()) -> Any:
    """Call a method of the service that lives in the host; before there is one, there is nothing to ask."""
    return getattr(host.resident, what)(*args) if host.resident is not None else None
