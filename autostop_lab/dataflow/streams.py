"""`DataStream` and `ConnectedStreams`: how a pipeline is written, operator by operator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from autostop_lab.dataflow.declaration import Graph, Node
from autostop_lab.dataflow.describe import a_kind_of, function_name, function_operator, next_name
from autostop_lab.dataflow.describe_several import checked_pairing, checked_strategy, comap_operator, join_operator
from autostop_lab.dataflow.graph import Form, Kind, Operator, Strategy, label
from autostop_lab.dataflow.settings import OnError, settings_of
from autostop_lab.exceptions import ConfigurationError, PipelineError


class Flow:
    """What single and connected streams have in common.

    Parameters
    ----------
    graph : Graph
        Where the pipeline is being declared.
    *nodes : Node
        The operators whose records these are.
    """

    def __init__(self, graph: Graph, *nodes: Node) -> None:
        self._graph = graph
        self._nodes = nodes

    @property
    def owner(self) -> object:
        """The token of who declares the pipeline."""
        return self._graph.owner

    def map(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Make one record of each; None is a record like any other.

        Parameters
        ----------
        function : callable, class or object with ``execute``
            ``record -> record``.
        *args, **kwargs
            Arguments of the class's constructor.
        name : str or None
            Name of the operator; None for ``map``, ``map#2`` ...
        parallelism : int
            How many replicas of it work side by side, each in a thread or process of its own.
        ordered : bool
            Whether records leave in the order in which they came, also with several replicas.
        on_error : "fail", "skip", Retry or DeadLetter
            What becomes of a record that fails: the job fails, or goes on without it; it is tried again; it is given
            to a function of its own.
        runtime : str
            Where the replicas run: ``"thread"``, or ``"process"`` for functions that need a processor. Then functions
            and records travel, what they change stays there, and a cancel ends also what hangs.

        Returns
        -------
        DataStream
            The new records.

        Raises
        ------
        PipelineError
            The function or a setting cannot be used here.
        ArgumentError
            The arguments do not fit the constructor.
        """
        return self._then(Kind.MAP, function, args, kwargs, name, parallelism, ordered, on_error, runtime)

    def filter(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Keep the records for which the function returns something true; else as `map`."""
        return self._then(Kind.FILTER, function, args, kwargs, name, parallelism, ordered, on_error, runtime)

    def flatmap(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Make any number of records of each: those of the iterable that the function returns.

        A `FlatMapFunction` may give them to its ``collect`` as well. With another ``on_error`` than ``"fail"`` the
        records of one leave together, or not at all. Else as `map`.
        """
        return self._then(Kind.FLATMAP, function, args, kwargs, name, parallelism, ordered, on_error, runtime)

    def sink(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> None:
        """Call a function with each record, and end the stream; else as `map`.

        With several replicas, several threads call it at a time, and in no order.
        """
        self._then(Kind.SINK, function, args, kwargs, name, parallelism, ordered, on_error, runtime)

    def print(self, prefix: str = "", separator: str = " ", *, name: str | None = None) -> None:
        """Print each record on a line, and end the stream.

        Parameters
        ----------
        prefix : str
            Stands before each record.
        separator : str
            Stands between the two, if there is a prefix.
        name : str or None
            Name of the operator.
        """
        self._end(Kind.PRINT, printer(prefix, separator), name)

    def collect(self, *, name: str | None = None) -> None:
        """Gather all records in a list, which is the job's result, and end the stream.

        With several of them the result is a list of their lists, pipeline by pipeline in the order in which their
        sources were declared, within one in the order in which they were.

        Parameters
        ----------
        name : str or None
            Name of the operator.
        """
        self._end(Kind.COLLECT, list, name)

    def _then(
        self,
        kind: Kind,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None,
        parallelism: int | None,
        ordered: bool,
        on_error: Any,
        runtime: str,
    ) -> DataStream:
        def describe(name: str) -> Operator:
            what = label(name, function_name(function))
            settings = settings_of(
                what, parallelism=parallelism, ordered=ordered, on_error=on_error, runtime=runtime
            )
            return function_operator(kind, name, function, args, kwargs, settings)

        return self._add(kind, name, describe)

    def _end(self, kind: Kind, function: Callable[..., Any], name: str | None) -> None:
        self._add(kind, name, lambda name: Operator(kind, name, function, Form.OURS))

    def _add(
        self, kind: Kind, name: str | None, describe: Callable[[str], Operator], future: Node | None = None
    ) -> DataStream:
        around: dict[Node, None] = {}
        for node in self._nodes:
            around.update(dict.fromkeys((*self._graph.connected(node), node)))
        try:
            operator = describe(next_name(kind, name, [node.operator for node in around]))
            node = Node(operator, self._nodes, has_own_name=name is not None, future=future)
            self._graph.add(node)
        except ConfigurationError:
            self._graph.forget(self._nodes)
            raise
        return DataStream(self._graph, node)


class DataStream(Flow):
    """The records that leave an operator; each method sends them into a further one.

    Functions are callables, classes with ``execute``, or objects with ``execute``. Of a class a new object is
    made for every run and replica, with the further arguments given here. A stream is made by an environment; used
    several times, it sends every record everywhere.
    """

    @property
    def _node(self) -> Node:
        return self._nodes[0]

    def keyby(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        strategy: str = "hash",
        parallelism: int | None = None,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Give each record a key, which it keeps through ``map``, ``filter`` and ``flatmap``.

        The replicas of operators behind it share the keys among themselves: all records of a key go to the same one,
        in order. Without several replicas nothing moves.

        Parameters
        ----------
        function : callable, class or object with ``execute``
            ``record -> key``; a key is hashable.
        *args, **kwargs
            Arguments of the class's constructor.
        name : str or None
            Name of the operator.
        strategy : "hash" or "broadcast"
            ``"broadcast"`` sends each record to all replicas of the next operator: one stream of a join that all of
            them need whole.
        parallelism : int or None
            How many replicas find out keys; None for as many as there are of what is in front.
        ordered, on_error, runtime
            As for `map`.

        Returns
        -------
        DataStream
            The same records, with keys.
        """
        chosen = checked_strategy(strategy, name or Kind.KEYBY)

        def describe(name: str) -> Operator:
            what = label(name, function_name(function))
            settings = settings_of(
                what, parallelism=parallelism, ordered=ordered, on_error=on_error, runtime=runtime
            )
            return replace(function_operator(Kind.KEYBY, name, function, args, kwargs, settings), strategy=chosen)

        return self._add(Kind.KEYBY, name, describe)

    def connect(self, *others: DataStream | ConnectedStreams) -> ConnectedStreams:
        """Put further streams beside this one.

        Parameters
        ----------
        *others : DataStream or ConnectedStreams
            Streams of the same environment.

        Returns
        -------
        ConnectedStreams
            All of them; this one is the first.

        Raises
        ------
        PipelineError
            One belongs to another environment, or is no stream.
        """
        return ConnectedStreams(self._graph, *self._nodes).connect(*others)

    def fill_future(self, future: DataStream, *, name: str | None = None) -> None:
        """Send the records of this stream back to where `from_future` stands.

        The future ends when all sources have ended and nothing is on its way any more.

        Parameters
        ----------
        future : DataStream
            What ``from_future`` has returned.
        name : str or None
            Name of the operator.

        Raises
        ------
        PipelineError
            It is no future, or it is filled already.
        """
        what = label(name or Kind.FEEDBACK.value, "")
        if not isinstance(future, DataStream) or future._node.operator.kind is not Kind.FUTURE:
            raise PipelineError(f"{what} takes the stream that from_future() has returned, not {a_kind_of(future)}.")
        check_same_graph(what, self._graph, future._graph)
        if any(node.future is future._node for node in self._graph.connected(future._node)):
            raise PipelineError(
                f"{what}: {future._node.operator.label} is filled already. Connect the streams, and fill it with all: "
                "a.connect(b).map(...).fill_future(future)."
            )
        self._add(Kind.FEEDBACK, name, lambda name: Operator(Kind.FEEDBACK, name, None, Form.OURS), future._node)

    def __repr__(self) -> str:
        """Return the operators up to here."""
        names: list[str] = []
        node: Node | None = self._node
        while node is not None:
            names.insert(0, node.operator.name)
            node = node.inputs[0] if node.inputs else None
        return f"<DataStream {' -> '.join(names)}>"


class ConnectedStreams(Flow):
    """Several streams side by side.

    ``map``, ``filter``, ``flatmap``, ``sink``, ``print`` and ``collect`` take the records of all of them, each stream
    in its order; ``comap`` has a function per stream, and ``join`` brings records of equal keys together.
    """

    def connect(self, *others: DataStream | ConnectedStreams) -> ConnectedStreams:
        """Put further streams beside these; see `DataStream.connect`."""
        nodes = list(self._nodes)
        if not others:
            self._refuse("connect() takes at least one further stream: orders.connect(users).")
        for other in others:
            if not isinstance(other, Flow):
                self._refuse(f"connect() takes streams, not {a_kind_of(other)}.")
            try:
                check_same_graph(f"connect() of {nodes[0].operator.label}", self._graph, other._graph)
            except PipelineError:
                self._graph.forget(nodes)
                raise
            nodes.extend(other._nodes)
        return ConnectedStreams(self._graph, *nodes)

    def keyby(
        self,
        *functions: Any,
        name: str | None = None,
        strategy: str | Sequence[str] = "hash",
        parallelism: int | None = None,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **unknown: Any,
    ) -> ConnectedStreams:
        """Give the records of each stream keys; see `DataStream.keyby`.

        Parameters
        ----------
        *functions : callable, class or object with ``execute``
            One for all streams, or one per stream; a list of them will do.
        name : str or None
            Name of the operators; those of further streams have a number.
        strategy : str or sequence of str
            One for all streams, or one per stream.
        parallelism, on_error, runtime
            As for `DataStream.keyby`.

        Returns
        -------
        ConnectedStreams
            The same streams, with keys.
        """
        count = len(self._nodes)
        if len(functions) == 1 and isinstance(functions[0], list | tuple):
            functions = tuple(functions[0])
        strategies = [strategy] * count if isinstance(strategy, str) else list(strategy)
        if len(functions) not in (1, count) or len(strategies) != count:
            self._refuse(
                f"keyby() of {count} streams takes one function, or one per stream, and as many strategies; it got "
                f"{len(functions)} and {len(strategies)}."
            )
        chosen = functions * count if len(functions) == 1 else functions
        keyed = [
            DataStream(self._graph, node).keyby(
                function,
                name=name if name is None or not number else f"{name}#{number + 1}",
                strategy=one,
                parallelism=parallelism,
                on_error=on_error,
                runtime=runtime,
                **unknown,
            )
            for number, (node, function, one) in enumerate(zip(self._nodes, chosen, strategies, strict=True))
        ]
        return ConnectedStreams(self._graph, *(stream._node for stream in keyed))

    def comap(
        self,
        function: Any,
        /,
        *args: Any,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Make one record of each, with a function per stream.

        Parameters
        ----------
        function : class, object or callable
            A class or object with ``map0(record)`` for the first stream, ``map1`` for the second ...; or a callable,
            followed by one for each further stream.
        *args, **kwargs
            Arguments of the class's constructor, or the further callables.
        name, parallelism, ordered, on_error, runtime
            As for `map`.

        Returns
        -------
        DataStream
            The new records; those of one stream in their order.
        """

        def describe(name: str) -> Operator:
            what = label(name, function_name(function))
            settings = settings_of(
                what, parallelism=parallelism, ordered=ordered, on_error=on_error, runtime=runtime
            )
            return comap_operator(name, (function, *args), kwargs, settings, len(self._nodes))

        return self._add(Kind.COMAP, name, describe)

    def join(
        self,
        function: Any = None,
        /,
        *args: Any,
        how: str = "inner",
        window_records: int | None = None,
        window_s: float | None = None,
        name: str | None = None,
        parallelism: int = 1,
        ordered: bool = True,
        on_error: OnError = "fail",
        runtime: str = "thread",
        **kwargs: Any,
    ) -> DataStream:
        """Bring records of equal keys together; the streams have to be keyed.

        Without a window the second stream is read to its end, then each record of the first one meets all of its
        key, in order. With a window, records of both meet those of the other stream that are still in it.

        Parameters
        ----------
        function : callable, JoinFunction or None
            ``(left, right) -> record`` for two streams, None for pairs; or a class or object with
            ``execute(payload, key, tag) -> list`` for any number, which keeps what it needs by itself.
        *args, **kwargs
            Arguments of the class's constructor.
        how : "inner" or "left"
            ``"left"``: a record of the first stream without a match comes with None; not with a window.
        window_records : int or None
            The latest records of each key and stream that can still be matched.
        window_s : float or None
            How long a record can be matched, in seconds since it came to the join.
        name, parallelism, ordered, on_error, runtime
            As for `map`; replicas share the keys among themselves.

        Returns
        -------
        DataStream
            What was joined, without keys.

        Raises
        ------
        PipelineError
            A stream has no keys, or an argument makes no sense.
        """

        def describe(name: str) -> Operator:
            what = label(name, function_name(function) if function is not None else "")
            settings = settings_of(
                what, parallelism=parallelism, ordered=ordered, on_error=on_error, runtime=runtime
            )
            self._refuse_unkeyed(what)
            pairing = checked_pairing(what, how, window_records, window_s)
            return join_operator(name, function, args, kwargs, settings, pairing, len(self._nodes))

        return self._add(Kind.JOIN, name, describe)

    def _refuse_unkeyed(self, what: str) -> None:
        for number, node in enumerate(self._nodes):
            if not node.is_keyed:
                raise PipelineError(
                    f"{what}: stream {number}, of {node.operator.label}, has no keys, and a join goes by them. Give "
                    "them: a.connect(b).keyby(key_of_a, key_of_b).join(...)."
                )
        if all(node.operator.strategy is Strategy.BROADCAST for node in self._nodes):
            raise PipelineError(
                f"{what}: all streams are broadcast, so each replica would join the same records. Broadcast one of "
                "them: keyby(f, g, strategy=('hash', 'broadcast'))."
            )

    def _refuse(self, text: str) -> NoReturn:
        self._graph.forget(self._nodes)
        raise PipelineError(text)

    def __repr__(self) -> str:
        """Return the operators whose records these are."""
        return f"<ConnectedStreams {', '.join(node.operator.name for node in self._nodes)}>"


def check_same_graph(what: str, graph: Graph, other: Graph) -> None:
    """Refuse a stream that belongs to another job."""
    if graph is other:
        return
    names = [getattr(one.owner, "name", None) for one in (graph, other)]
    if graph.owner is other.owner:
        raise PipelineError(
            f"{what}: the other stream belongs to a job that was submitted before. Declare both for the same submit."
        )
    raise PipelineError(
        f"{what}: the other stream belongs to environment {names[1]!r}, and this one to {names[0]!r}. Declare both in "
        "one environment."
    )


def printer(prefix: str, separator: str) -> Callable[[Any], None]:
    """Return a function that prints a record behind `prefix`."""
    before = f"{prefix}{separator}" if prefix else ""

    def print_record(record: Any) -> None:
        # One write per line, so that lines of several threads do not mix; the stream is looked up anew each
        # time, since notebooks and tests replace it.
        sys.stdout.write(f"{before}{record}\n")

    return print_record
