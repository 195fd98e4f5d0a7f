"""The function objects of one replica: made, opened and closed in its thread; and what becomes of failing records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autostop_lab.dataflow.functions import (
    BaseFunction,
    FlatMapFunction,
    FunctionContext,
    construct,
    gathering,
)
from autostop_lab.dataflow.graph import Form, Kind, Operator, Pipeline
from autostop_lab.dataflow.joins import join_of
from autostop_lab.dataflow.settings import DeadLetter, DeadRecord, Retry, takes_two

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle

FindService = Callable[[str], "ServiceHandle"]


class Objects:
    """The functions of one replica's operators.

    Parameters
    ----------
    pipeline : Pipeline
        What they belong to.
    operators : sequence of Operator
        Those of the replica, in the order in which a record passes them.
    services : callable
        ``name -> ServiceHandle``.
    given : mapping
        Functions that the run has for operators of ours, as for ``collect``.
    rest : callable
        Waits some seconds between two attempts.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        operators: Sequence[Operator],
        services: FindService,
        *,
        given: Mapping[Operator, Callable[..., Any]],
        rest: Callable[[float], None],
    ) -> None:
        self._pipeline = pipeline
        self._operators = operators
        self._services = services
        self._given = given
        self._rest = rest
        self._made: dict[Operator, Any] = {}
        self._gathered: dict[Operator, Callable[..., Any]] = {}
        self._objects: list[tuple[Operator, Any]] = []
        self._contexts: list[FunctionContext] = []
        self._to_close: list[tuple[Operator, Callable[[], Any]]] = []

    def make(self) -> None:
        """Make what is given as a class."""
        for operator in self._operators:
            self._made[operator] = self._make(operator)

    def _make(self, operator: Operator) -> Any:
        if operator in self._given:
            return self._given[operator]
        if operator.pairing is not None:
            return join_of(operator.pairing, operator.function)
        if operator.form not in (Form.CLASS, Form.OBJECT):
            return operator.function
        context = FunctionContext(operator.name, self._services)
        function = operator.function
        if operator.form is Form.CLASS:
            try:
                function = construct(function, operator.args, dict(operator.kwargs), context)
            except BaseException as error:
                self.add_note(error, operator, "in its constructor")
                raise
        elif isinstance(function, BaseFunction):
            function._autostop_attach(context)
        self._contexts.append(context)
        self._objects.append((operator, function))
        if isinstance(function, FlatMapFunction):
            self._gathered[operator] = gathering(function.execute, context)
        return function

    def open(self) -> None:
        """Call their ``open()``."""
        for operator, function in self._objects:
            try:
                if callable(opening := getattr(function, "open", None)):
                    opening()
            except BaseException as error:
                self.add_note(error, operator, "in open()")
                raise
            if callable(closing := getattr(function, "close", None)):
                self._to_close.append((operator, closing))

    def begin(self) -> None:
        """Let ``collect()`` of functions work."""
        for context in self._contexts:
            context.collected = []

    def close_with(self, operator: Operator, closing: Callable[[], Any]) -> None:
        """Call `closing` before what was opened is closed."""
        self._to_close.append((operator, closing))

    def function(self, operator: Operator, tag: int) -> Callable[..., Any]:
        """Return what an operator calls with records of the stream `tag`; of a source, what is to be read."""
        made = self._made[operator]
        if operator in self._given:
            return self._guarded(operator, made)
        match operator.kind:
            case Kind.JOIN if operator.pairing is not None:
                return self._guarded(operator, lambda record, key: made.take(record, key, tag))
            case Kind.JOIN:
                execute = made.execute
                return self._guarded(operator, lambda record, key: or_none(execute(record, key, tag)))
            case Kind.COMAP:
                is_several = operator.form is Form.CALLABLES
                return self._guarded(operator, made[tag] if is_several else getattr(made, f"map{tag}"))
        if operator.form not in (Form.CLASS, Form.OBJECT):
            return made if operator.kind is Kind.SOURCE else self._guarded(operator, made)
        return self._guarded(operator, self._gathered.get(operator, made.execute))

    def _guarded(self, operator: Operator, function: Callable[..., Any]) -> Callable[..., Any]:
        settings = operator.settings
        if settings.on_error != "fail" and operator.kind is Kind.FLATMAP:
            function = listed(function)
        return retrying(function, settings.retry, self._rest) if settings.retry is not None else function

    def add_note(self, error: BaseException, operator: Operator, where: str) -> None:
        """Add a note to an exception that says where in the pipeline it was."""
        note(error, f"{self._pipeline.label(operator)}, {where}")

    def close(self, failure: BaseException | None) -> BaseException | None:
        """Close what was opened, the last one first; return the first failure, the rest as notes on it."""
        for context in self._contexts:
            context.collected = None
        for operator, closing in reversed(self._to_close):
            try:
                closing()
            except BaseException as error:
                if failure is None:
                    self.add_note(error, operator, "in close()")
                    failure = error.with_traceback(without_engine(error.__traceback__))
                elif error is not failure:
                    label = self._pipeline.label(operator)
                    failure.add_note(f"{label} failed in close() as well: {type(error).__name__}: {error}")
        for _, function in self._objects:
            if isinstance(function, BaseFunction):
                function._autostop_attach(None)
        return failure


class Letters:
    """Takes the records that failed in one operator, from all its replicas, one at a time.

    Parameters
    ----------
    letter : DeadLetter
        Where they go.
    name : str
        Name of the operator.
    services : callable
        ``name -> ServiceHandle``.
    """

    def __init__(self, letter: DeadLetter, name: str, services: FindService) -> None:
        self._lock = threading.Lock()
        self._object: Any = None
        function = letter.sink
        if letter.has_execute:
            context = FunctionContext(name, services)
            self._object = letter.sink
            if isinstance(letter.sink, type):
                self._object = construct(letter.sink, letter.args, dict(letter.kwargs), context)
            elif isinstance(letter.sink, BaseFunction):
                letter.sink._autostop_attach(context)
            function = self._object.execute
        elif letter.args or letter.kwargs:
            plain, args, kwargs = function, letter.args, letter.kwargs

            def function(*both: Any) -> Any:
                return plain(*both, *args, **kwargs)

        self._function = function
        self._takes_two = takes_two(function)
        if callable(opening := getattr(self._object, "open", None)):
            opening()

    def take(self, record: Any, error: Exception) -> None:
        """Take one."""
        with self._lock:
            if self._takes_two:
                self._function(record, error)
            else:
                self._function(DeadRecord(record, error))

    def close(self) -> None:
        """Close what was opened."""
        if callable(closing := getattr(self._object, "close", None)):
            closing()
        if isinstance(self._object, BaseFunction):
            self._object._autostop_attach(None)


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception, once: the user may raise one object again and again."""
    if text not in getattr(error, "__notes__", ()):
        with suppress(Exception):  # an exception need not take notes
            error.add_note(text)


def or_none(records: Any) -> Any:
    """Return no records for None."""
    return () if records is None else records


def listed(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `function` with all that it returns made at once, so that it fails whole."""

    def execute(record: Any) -> Any:
        __tracebackhide__ = True
        return list(function(record))

    return execute


def retrying(function: Callable[..., Any], retry: Retry, rest: Callable[[float], None]) -> Callable[..., Any]:
    """Return `function` so that it is tried again when it fails.

    Parameters
    ----------
    function : callable
        What is called.
    retry : Retry
        How often, and with which pauses.
    rest : callable
        Waits some seconds.

    Returns
    -------
    callable
        Raises the last exception.
    """

    def attempt(*args: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args)
        except Exception as error:
            failure = error
        pause_s = retry.backoff_s
        for _ in range(retry.attempts - 1):
            rest(pause_s)
            pause_s *= 2
            try:
                return function(*args)
            except Exception as error:
                failure = error
        if retry.attempts > 1:
            note(failure, f"tried {retry.attempts} times")
        try:
            raise failure
        finally:
            del failure  # the traceback knows this frame, and the frame would know the traceback

    return attempt


def without_engine(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` from the generated loop or the user's code on, if it gets that far."""
    inner = traceback
    while inner is not None and str(inner.tb_frame.f_globals.get("__name__", "")).startswith("autostop_lab.engines"):
        inner = inner.tb_next
    return inner or traceback
