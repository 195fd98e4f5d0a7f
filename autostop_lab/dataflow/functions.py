"""The base classes of a job's functions, and what they have: services, a logger and their operator's name.

What they offer is there before ``__init__`` runs and needs no ``super().__init__()``: the engine makes the
object, attaches a context, and only then calls the constructor.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from autostop_lab.exceptions import PipelineError, UnknownServiceError
from autostop_lab.services.service import ServiceCalls

if TYPE_CHECKING:
    from autostop_lab.services.handle import ServiceHandle

T = TypeVar("T")


@dataclass(slots=True)
class FunctionContext:
    """What an engine gives to a function object for one run.

    Attributes
    ----------
    name : str
        Name of the operator.
    find_service : callable
        ``name -> ServiceHandle``.
    collected : list or None
        Where `FlatMapFunction.collect` puts records; None where there is nobody to take them.
    """

    name: str
    find_service: Callable[[str], ServiceHandle]
    collected: list[Any] | None = None


class Provided(Generic[T]):
    """A read-only attribute that an assignment of the user's hides, where a property would refuse it.

    Parameters
    ----------
    find : callable
        ``object -> value``, used as a decorator.
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None:
            # So that a dataclass with a field of this name does not take it for the field's default.
            raise AttributeError(f"only objects of {owner.__name__} have {self._find.__name__!r}")
        return self._find(instance)


class BaseFunction(ServiceCalls):
    """What all function classes have.

    A subclass may define ``open()``, called before the first record, and ``close()``, called after the last
    one and after a failure as well. A new object is made for every run of the job; the engine opens and
    closes it.
    """

    __context: FunctionContext | None = None

    def _autostop_attach(self, context: FunctionContext | None) -> None:
        # Past a __setattr__ of the user's, which may need what __init__ has not made yet.
        object.__setattr__(self, "_BaseFunction__context", context)

    @property
    def _autostop_context(self) -> FunctionContext | None:
        return self.__context

    @Provided
    def name(self) -> str:
        """Name of the operator; outside a job, of the class."""
        return self.__name

    @Provided
    def logger(self) -> logging.Logger:
        """Logger of the operator, ``autostop_lab.operator.<name>``."""
        return logging.getLogger(f"autostop_lab.operator.{self.__name}")

    @property
    def __name(self) -> str:
        return type(self).__name__ if self.__context is None else self.__context.name

    def service(self, name: str) -> ServiceHandle:
        """Return the handle of a service of the job by its name.

        Parameters
        ----------
        name : str
            A service that is registered with the job's environment.

        Returns
        -------
        ServiceHandle
            Its handle.

        Raises
        ------
        UnknownServiceError
            There is no such service, or this object is not in a job.
        """
        if self.__context is None:
            raise UnknownServiceError(
                f"{type(self).__name__} asked for service {name!r} outside a job. Services are there while a "
                "job runs the function: in its __init__, open, execute and close.",
                service=name,
            )
        return self.__context.find_service(name)


class BatchFunction(BaseFunction):
    """A source: ``execute()`` gives one record per call and None at the end."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, or None when there is no further one."""


class SourceFunction(BaseFunction):
    """A source without an end of its own: None is "nothing now", and ``StopIteration`` is the end."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, or None when there is none now; raise StopIteration when there never will be."""


class MapFunction(BaseFunction):
    """Makes one record of another; None is a record like any other."""

    @abstractmethod
    def execute(self, record: Any) -> Any:
        """Return what becomes of `record`."""


class FilterFunction(BaseFunction):
    """Lets records pass or not."""

    @abstractmethod
    def execute(self, record: Any) -> Any:
        """Return something true to keep `record`."""


class FlatMapFunction(BaseFunction):
    """Makes any number of records of one: returned as an iterable, given to `collect`, or both."""

    @abstractmethod
    def execute(self, record: Any) -> Iterable[Any] | None:
        """Return the records that become of `record`, or None; those given to `collect` come before them."""

    def collect(self, record: Any) -> None:
        """Send `record` on; it leaves when ``execute`` returns, or yields.

        Raises
        ------
        PipelineError
            It was called outside ``execute``, where no operator takes records.
        """
        context = self._autostop_context
        if context is None or context.collected is None:
            raise PipelineError(
                f"{type(self).__name__}.collect() was called outside execute(), where no operator takes the "
                "record. Collect within execute(record) only."
            )
        context.collected.append(record)


class KeyByFunction(BaseFunction):
    """Says which key a record has."""

    @abstractmethod
    def execute(self, record: Any) -> Any:
        """Return the key of `record`: something hashable."""


class CoMapFunction(BaseFunction):
    """Makes one record of each, with a method per stream: ``map0`` for those of the first, ``map1`` ..."""


class JoinFunction(BaseFunction):
    """Sees the records of several streams by key, keeps what it needs, and returns what it has joined."""

    @abstractmethod
    def execute(self, payload: Any, key: Any, tag: int) -> Iterable[Any] | None:
        """Return the records that become of `payload`, whose key is `key`, from the stream numbered `tag` from 0."""


class SinkFunction(BaseFunction):
    """Takes the records at the end of a pipeline."""

    @abstractmethod
    def execute(self, record: Any) -> None:
        """Take `record`."""


def construct(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: FunctionContext) -> Any:
    """Make a function object, with its context attached before ``__init__`` runs.

    Parameters
    ----------
    cls : type
        Any class; only subclasses of `BaseFunction` get the context.
    args, kwargs : tuple, dict
        Arguments of its constructor.
    context : FunctionContext
        Belongs to the object until it is released.

    Returns
    -------
    object
        The new object.
    """
    if not issubclass(cls, BaseFunction):
        return cls(*args, **kwargs)
    new = cls.__new__
    function = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
    if isinstance(function, cls):
        function._autostop_attach(context)
        cls.__init__(function, *args, **kwargs)
    return function


def gathering(execute: Callable[[Any], Any], context: FunctionContext) -> Callable[[Any], Any]:
    """Return `execute` of a `FlatMapFunction` as a function that returns all records in order.

    Parameters
    ----------
    execute : callable
        Returns an iterable or None, and may fill the context's ``collected``.
    context : FunctionContext
        The object's; ``collected`` is there when the function returned here is called.

    Returns
    -------
    callable
        ``record -> iterable``; what is no iterable is passed on, for the caller to complain of.
    """

    def gather(record: Any) -> Any:
        __tracebackhide__ = True
        returned = execute(record)
        collected = context.collected
        if returned is None or isinstance(returned, list | tuple):
            if not collected:
                return () if returned is None else returned
            context.collected = []
            collected.extend(returned or ())
            return collected
        return interleaved(returned, context) if is_iterable(returned) else returned

    return gather


def interleaved(records: Iterable[Any], context: FunctionContext) -> Iterator[Any]:
    """Yield `records`, and before each what its making has collected."""
    __tracebackhide__ = True
    for record in records:
        yield from taken(context)
        yield record
    yield from taken(context)


def taken(context: FunctionContext) -> list[Any]:
    """Return what was collected, and let the context collect anew."""
    collected = context.collected
    if not collected:
        return []
    context.collected = []
    return collected


def is_iterable(value: object) -> bool:
    """Return whether ``iter(value)`` can work, without calling it: that may open files."""
    return hasattr(type(value), "__iter__") or hasattr(type(value), "__getitem__")
