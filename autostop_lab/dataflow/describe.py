"""From what the user wrote to an `Operator`; what cannot work is refused here, with words."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from autostop_lab.dataflow.declaration import default_name
from autostop_lab.dataflow.functions import (
    BaseFunction,
    BatchFunction,
    CoMapFunction,
    FilterFunction,
    FlatMapFunction,
    JoinFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
    is_iterable,
)
from autostop_lab.dataflow.graph import Form, Kind, OneShot, Operator, label
from autostop_lab.dataflow.settings import DEFAULT_SETTINGS, DeadLetter, Settings, near_ours
from autostop_lab.exceptions import ArgumentError, PipelineError

#: The base class of each kind, and the method of a stream (or of the environment) that takes it.
ROLES: Mapping[type[BaseFunction], tuple[Kind, str]] = {
    BatchFunction: (Kind.SOURCE, "from_batch"),
    SourceFunction: (Kind.SOURCE, "from_source"),
    MapFunction: (Kind.MAP, "map"),
    FilterFunction: (Kind.FILTER, "filter"),
    FlatMapFunction: (Kind.FLATMAP, "flatmap"),
    KeyByFunction: (Kind.KEYBY, "keyby"),
    CoMapFunction: (Kind.COMAP, "connect(...).comap"),
    JoinFunction: (Kind.JOIN, "connect(...).join"),
    SinkFunction: (Kind.SINK, "sink"),
}
#: Methods of function classes that the engine calls.
CALLED = ("execute", "open", "close")


def function_name(function: Any) -> str:
    """Return a short printable name of a function, class, method or object."""
    while isinstance(function, partial):
        function = function.func
    names = (getattr(function, "__qualname__", None), getattr(function, "__name__", None))
    name = next((name for name in names if isinstance(name, str)), type(function).__qualname__)
    name = name.rpartition("<locals>.")[2]
    return name if name.isprintable() else ascii(name)


def a_kind_of(value: Any) -> str:
    """Return `value`'s type with an article: ``a list``, ``an int``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def refuse_async(what: str, function: Any) -> None:
    """Refuse a function whose call does nothing but make a coroutine or an async generator."""
    while isinstance(function, partial):
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PipelineError(
            f"{what} is an async function, and nothing here would await it. "
            "Give a plain function, which may call asyncio.run(...)."
        )


def next_name(kind: Kind, name: str | None, operators: Collection[Operator]) -> str:
    """Return the name of a new operator: `name`, or the kind with ``#2`` for the second of its kind.

    Parameters
    ----------
    kind : Kind
        What it does.
    name : str or None
        The user's name for it.
    operators : collection of Operator
        Those that are there already.

    Raises
    ------
    PipelineError
        The name is taken, or no name at all.
    """
    if name is None:
        return default_name(kind, operators)
    if not isinstance(name, str) or not name.strip():
        raise PipelineError(f"the name of an operator is a text, not {name!r}. Leave name= out for {kind.value!r}.")
    if name in {operator.name for operator in operators}:
        raise PipelineError(
            f"operator {name!r}: the pipeline has an operator of this name. Choose another name=, or leave it out."
        )
    return name


def function_operator(
    kind: Kind,
    name: str,
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    settings: Settings = DEFAULT_SETTINGS,
) -> Operator:
    """Describe an operator that calls a function with each record.

    Parameters
    ----------
    kind : Kind
        What it does.
    name : str
        Its name.
    function : object
        A callable, a class with ``execute``, or an object with ``execute``.
    args, kwargs : tuple, dict
        For the class's constructor.
    settings : Settings
        How it runs.

    Returns
    -------
    Operator
        The description.

    Raises
    ------
    ArgumentError
        The arguments do not fit the constructor.
    PipelineError
        It is none of these, or the class belongs to another operator.
    """
    shown = function_name(function)
    what = label(name, shown)
    form = executable_form(kind, what, function)
    if form is None:
        if not callable(function):
            appends = f" For a list: {kind}(results.append)." if hasattr(function, "append") else ""
            raise PipelineError(
                f"{label(name, '')} takes a function, or a class or object with execute(), not "
                f"{a_kind_of(function)}.{appends} If it was called on the way, give the function itself: "
                f"{kind}(parse), not {kind}(parse(...))."
            )
        form = Form.CALLABLE
        refuse_async(what, function)
        refuse_generator(kind, what, function)
        refuse_other_arguments(what, function, count=1)
    check_arguments(what, function, form, args, kwargs)
    check_settings(what, form, settings)
    return Operator(kind, name, function, form, args, dict(kwargs), shown, settings)


def check_settings(what: str, form: Form, settings: Settings) -> None:
    """Refuse one object for several replicas."""
    if form is Form.OBJECT and settings.parallelism is not None and settings.parallelism > 1:
        raise PipelineError(
            f"{what}: parallelism={settings.parallelism} needs as many objects, and this is one. Give the class, of "
            "which a new object is made for each; or its method, if several threads may call it at a time."
        )
    for letter in (settings.last_resort,):
        if isinstance(letter, DeadLetter):
            refuse_async(f"the dead letter of {what}", getattr(letter.sink, "execute", letter.sink))


def source_operator(
    name: str,
    source: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    settings: Settings = DEFAULT_SETTINGS,
    *,
    is_unbounded: bool = False,
) -> Operator:
    """Describe a source.

    Parameters
    ----------
    name : str
        Its name.
    source : object
        An iterable, a callable that returns one, or a class or object with ``execute``. Without bounds, a callable
        that is no generator function returns a record.
    args, kwargs : tuple, dict
        For the class's constructor.
    settings : Settings
        How it runs.
    is_unbounded : bool
        Whether it goes on until it is stopped.

    Returns
    -------
    Operator
        The description.

    Raises
    ------
    ArgumentError
        The arguments do not fit the constructor.
    PipelineError
        It is none of these.
    """
    shown = function_name(source)
    what = label(name, shown)
    form = executable_form(Kind.SOURCE, what, source, SourceFunction if is_unbounded else BatchFunction)
    if form is None:
        refuse_as_records(what, source)
        form = Form.ITERABLE if is_iterable(source) else Form.CALLABLE
        if form is Form.CALLABLE:
            if not callable(source):
                taker = "from_source" if is_unbounded else "from_batch"
                raise PipelineError(
                    f"{what} cannot be read: {a_kind_of(source)} is not iterable. "
                    f"Give {taker} an iterable, a function that returns one, or a class with execute()."
                )
            refuse_async(what, source)
            refuse_other_arguments(what, source, count=0)
    check_arguments(what, source, form, args, kwargs)
    refuse_settings(what, form, settings)
    if form is Form.ITERABLE and isinstance(source, Iterator):
        source = OneShot(source)
    return Operator(Kind.SOURCE, name, source, form, args, dict(kwargs), shown, settings, is_unbounded)


def refuse_settings(what: str, form: Form, settings: Settings) -> None:
    """Refuse settings that a source cannot have."""
    if settings.parallelism != 1:
        raise PipelineError(
            f"{what}: parallelism={settings.parallelism}: a source is read by one, so that no record comes twice. Give "
            "parallelism= to the operators behind it."
        )
    if settings.runtime != "thread":
        raise PipelineError(
            f"{what}: runtime={settings.runtime!r}: a source is read in this process. Give runtime= to the operators "
            "behind it."
        )
    if settings.on_error == "fail":
        return
    if settings.last_resort != "fail" or form not in (Form.CLASS, Form.OBJECT):
        raise PipelineError(
            f"{what}: on_error={settings.on_error!r}: where a source fails there is no record to go on without. Only "
            "Retry(...) is possible, and only for a class or object with execute()."
        )


def call_operator(function: Any) -> Operator:
    """Describe a job that is one callable.

    Parameters
    ----------
    function : callable
        Called without arguments.

    Returns
    -------
    Operator
        The description.

    Raises
    ------
    PipelineError
        It is no callable, or an async one.
    """
    shown = function_name(function)
    if not callable(function):
        raise PipelineError(
            f"run({shown}) takes a function without arguments, not {a_kind_of(function)}. "
            "If it was called on the way, give the function itself: run(main), not run(main())."
        )
    refuse_async(f"run({shown})", function)
    refuse_other_arguments(f"run({shown})", function, count=0)
    return Operator(Kind.CALL, Kind.CALL.value, function, Form.CALLABLE, shown=shown)


def refuse_other_arguments(what: str, function: Any, *, count: int) -> None:
    """Refuse a function that cannot be called with `count` arguments, where its signature tells."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C need not have one
        return
    try:
        signature.bind(*(None,) * count)
    except TypeError as error:
        given = "with one record" if count else "without arguments"
        raise PipelineError(f"{what} is called {given}, and takes {signature}: {error}.") from None


def refuse_as_records(what: str, source: Any) -> None:
    """Refuse a source that is iterable, but hardly in the way that was meant."""
    if isinstance(source, str | bytes | bytearray):
        unit = "letters" if isinstance(source, str) else "numbers"
        raise PipelineError(
            f"{what} is one text, and would be read as its {unit}. "
            f"Give from_batch([text]) for one record, or list(text) if the {unit} are meant."
        )


def executable_form(kind: Kind, what: str, function: Any, role: type[BaseFunction] | None = None) -> Form | None:
    """Return CLASS or OBJECT for what has ``execute``, None for the rest; refuse what cannot be `kind`, or `role`."""
    is_class = isinstance(function, type)
    # Static: to ask a service's handle for an attribute may wait for the service.
    if inspect.getattr_static(function, "execute", None) is None:
        return None
    cls = function if is_class else type(function)
    role = role or next((base for base, (of, _) in ROLES.items() if of is kind), BaseFunction)
    if issubclass(cls, BaseFunction) and not issubclass(cls, role):
        base = next((base for base in cls.__mro__ if base in ROLES), None)
        hint = f"Use {ROLES[base][1]}() for it" if base else f"Derive it from {role.__name__}"
        raise PipelineError(f"{what}: {cls.__name__} is not a {role.__name__}. {hint}.")
    execute = function.execute
    if not callable(execute):
        raise PipelineError(f"{what}: execute of {cls.__name__} is {a_kind_of(execute)}, and has to be a method.")
    if getattr(execute, "__isabstractmethod__", False):
        raise PipelineError(f"{what}: {cls.__name__} does not define execute(). Define it.")
    for name in CALLED:
        refuse_async(f"{name}() of {what}", getattr(function, name, None))
    refuse_generator(kind, f"execute() of {what}", execute)
    return Form.CLASS if is_class else Form.OBJECT


def refuse_generator(kind: Kind, what: str, function: Any) -> None:
    """Refuse a generator function where a call of it would run none of its lines."""
    if not inspect.isgeneratorfunction(function):
        return
    if kind is Kind.SOURCE:
        raise PipelineError(
            f"{what} contains yield; it is called once per record and returns it, None at the end. "
            "For a generator, give from_batch the function itself, without a class around it."
        )
    if kind in (Kind.FILTER, Kind.SINK, Kind.KEYBY):
        raise PipelineError(f"{what} contains yield, so a call runs none of its lines. Take the yield out.")


def check_arguments(what: str, function: Any, form: Form, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that do not fit the class's constructor, or that nobody would take."""
    if form is not Form.CLASS:
        if args or kwargs:
            given = ", ".join([*map(repr_short, args), *(f"{key}=" for key in kwargs)])
            raise PipelineError(
                f"{what} takes no further arguments ({given}); these go to the constructor of a class with "
                f"execute(). For a function, use functools.partial or a lambda.{near_ours(kwargs)}"
            )
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a class written in C may have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"{what}: the arguments do not fit {function.__name__}{signature}: {error}. Change the ones given here."
            f"{near_ours(kwargs)}"
        ) from None


def repr_short(value: object) -> str:
    """Return the repr of `value`, or its type where that is long or fails."""
    try:
        text = repr(value)
    except Exception:
        text = ""
    return text if text and len(text) <= 40 and text.isprintable() else f"<{type(value).__name__}>"
