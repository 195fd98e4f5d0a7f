"""From what the user wrote to an `Operator` that takes several streams; what cannot work is refused here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from autostop_lab.dataflow.describe import (
    a_kind_of,
    check_arguments,
    check_settings,
    executable_form,
    function_name,
    refuse_async,
    refuse_other_arguments,
)
from autostop_lab.dataflow.functions import BaseFunction
from autostop_lab.dataflow.graph import Form, Kind, Operator, Pairing, Strategy, label
from autostop_lab.dataflow.settings import Settings, near_ours
from autostop_lab.exceptions import PipelineError


def comap_operator(
    name: str, functions: tuple[Any, ...], kwargs: Mapping[str, Any], settings: Settings, streams: int
) -> Operator:
    """Describe an operator that calls another function for each of several streams.

    Parameters
    ----------
    name : str
        Its name.
    functions : tuple
        A class or object with a method ``map0``, ``map1`` ... per stream, and the arguments of the class's
        constructor; or a callable per stream.
    kwargs : dict
        For the class's constructor.
    settings : Settings
        How it runs.
    streams : int
        How many streams there are.

    Returns
    -------
    Operator
        The description.

    Raises
    ------
    ArgumentError, PipelineError
        It does not fit.
    """
    function, *args = functions or (None,)
    shown = function_name(function)
    what = label(name, shown)
    if inspect.getattr_static(function, "map0", None) is not None:
        form = Form.CLASS if isinstance(function, type) else Form.OBJECT
        for number in range(streams):
            if not callable(getattr(function, f"map{number}", None)):
                raise PipelineError(
                    f"{what}: there are {streams} streams, and {shown} has no map{number}() for the one numbered "
                    f"{number}. Define it: def map{number}(self, record)."
                )
        for method in (*(f"map{number}" for number in range(streams)), "open", "close"):
            refuse_async(f"{method}() of {what}", getattr(function, method, None))
        check_arguments(what, function, form, tuple(args), kwargs)
        check_settings(what, form, settings)
        return Operator(Kind.COMAP, name, function, form, tuple(args), dict(kwargs), shown, settings)
    is_ours = isinstance(function, BaseFunction) or (isinstance(function, type) and issubclass(function, BaseFunction))
    if is_ours or not functions or not all(map(callable, functions)):
        raise PipelineError(
            f"{what} takes a class or object with a method per stream, map0(record), map1(record) ..., or a function "
            f"for each of the {streams} streams, not {shown if is_ours else a_kind_of(function)}."
        )
    if len(functions) != streams or kwargs:
        given = f"{len(functions)} functions" if not kwargs else f"further arguments ({', '.join(kwargs)})"
        raise PipelineError(
            f"{what}: there are {streams} streams, and it got {given}. Give one function per stream.{near_ours(kwargs)}"
        )
    for one in functions:
        refuse_async(what, one)
        refuse_other_arguments(what, one, count=1)
    return Operator(Kind.COMAP, name, functions, Form.CALLABLES, shown=shown, settings=settings)


def join_operator(
    name: str,
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    settings: Settings,
    pairing: Pairing,
    streams: int,
) -> Operator:
    """Describe an operator that brings records of equal keys together.

    Parameters
    ----------
    name : str
        Its name.
    function : object
        A class or object with ``execute(payload, key, tag)``; a callable ``(left, right) -> record``; or None for
        pairs.
    args, kwargs : tuple, dict
        For the class's constructor.
    settings : Settings
        How it runs.
    pairing : Pairing
        How it pairs by itself.
    streams : int
        How many streams there are.

    Returns
    -------
    Operator
        The description.

    Raises
    ------
    ArgumentError, PipelineError
        It does not fit.
    """
    shown = function_name(function) if function is not None else ""
    what = label(name, shown)
    form = executable_form(Kind.JOIN, what, function) if function is not None else None
    if form is not None:
        if pairing != Pairing():
            raise PipelineError(
                f"{what} decides by itself what it keeps and matches: how=, window_records= and window_s= belong to "
                "join(function) with a function of two records."
            )
        refuse_other_arguments(f"execute() of {what}", function.execute, count=3 + (form is Form.CLASS))
        check_arguments(what, function, form, args, kwargs)
        check_settings(what, form, settings)
        return Operator(Kind.JOIN, name, function, form, args, dict(kwargs), shown, settings)
    if streams != 2:
        raise PipelineError(
            f"{what} pairs the records of two streams, and there are {streams}. Join two, then the result with the "
            "third; or give a JoinFunction."
        )
    if function is not None:
        if not callable(function):
            raise PipelineError(
                f"{what} takes a function of two records, a JoinFunction, or nothing for pairs, not "
                f"{a_kind_of(function)}."
            )
        refuse_async(what, function)
        refuse_other_arguments(what, function, count=2)
    if args or kwargs:
        check_arguments(what, function, Form.CALLABLE, args, kwargs)
    return Operator(Kind.JOIN, name, function, Form.CALLABLE, shown=shown, settings=settings, pairing=pairing)


def checked_strategy(strategy: object, name: str) -> Strategy:
    """Return a strategy by its name."""
    if strategy not in tuple(Strategy):
        choices = ", ".join(repr(one.value) for one in Strategy)
        raise PipelineError(f"{label(name, '')}: there is no strategy {strategy!r}; choose from {choices}.")
    return Strategy(str(strategy))


def checked_pairing(what: str, how: object, window_records: object, window_s: object) -> Pairing:
    """Return how a join pairs records."""
    if how not in ("inner", "left"):
        raise PipelineError(f"{what}: how={how!r} must be 'inner' or 'left'.")
    if window_records is not None and window_s is not None:
        raise PipelineError(f"{what}: a window is one of records or of time; give window_records= or window_s=.")
    if window_records is not None and (
        not isinstance(window_records, int) or isinstance(window_records, bool) or window_records < 1
    ):
        raise PipelineError(f"{what}: window_records={window_records!r} must be a whole number of at least 1.")
    is_number = isinstance(window_s, int | float) and not isinstance(window_s, bool) and 0 < window_s < float("inf")
    if window_s is not None and not is_number:
        raise PipelineError(f"{what}: window_s={window_s!r} must be a number of seconds above 0.")
    pairing = Pairing(str(how), window_records, window_s)  # type: ignore[arg-type]  # both were looked at
    if how == "left" and not pairing.is_batch:
        raise PipelineError(
            f"{what}: how='left' needs the whole second stream to know what has no match; a join with a window is "
            "inner."
        )
    return pairing
