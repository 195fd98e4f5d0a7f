"""How records get from the replicas of one stage to those of the next: in batches, bounded, in order.

A replica appends its records to the lists of its outlets; they move on in batches, when the replica has done what
it had taken, or when the next stage has nothing to do: then that one fetches them itself. So batches are as large as
the work allows, and no record waits for a batch to fill.

Where several replicas keep order, each thing that is taken has a ticket, and what becomes of it waits in the next
queue until all earlier tickets are finished. The end is counted: a queue ends when each replica that puts into it
has said so. A wait of any kind ends with `DiscardedError` when the run is cancelled or has failed elsewhere, so a
consumer that died blocks nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from autostop_lab.dataflow.flight import Flight, Span
from autostop_lab.engines.halt import Halt

#: After so many seconds without a record, a replica fetches what the replicas in front of it have ready.
PATIENCE_S = 0.02
#: A queue holds so many batches for each replica that takes from it.
BATCHES_PER_REPLICA = 2


class Batch:
    """Records on their way.

    Attributes
    ----------
    records : list
        The records.
    origins : sequence of int
        Of each, the index of the source's record that it came of.
    span : Span
        Where that is counted.
    start : int
        The first ones are taken already.
    """

    __slots__ = ("origins", "records", "span", "start")

    def __init__(self, records: list[Any], origins: Sequence[int], span: Span) -> None:
        self.records = records
        self.origins = origins
        self.span = span
        self.start = 0


class Piece:
    """What a replica has taken.

    Attributes
    ----------
    records, origins, span
        As of the `Batch` that it is a part of.
    tag : int
        Which stream of the stage it came by.
    ticket : int or None
        Its place in the order, where that is kept.
    """

    __slots__ = ("origins", "records", "span", "tag", "ticket")

    def __init__(
        self, records: list[Any], origins: Sequence[int], span: Span, tag: int, ticket: int | None
    ) -> None:
        self.records = records
        self.origins = origins
        self.span = span
        self.tag = tag
        self.ticket = ticket


class Queue:
    """Batches that wait for the replicas that share it. All of it under the lock of its inbox.

    Parameters
    ----------
    inbox : Inbox
        Where it belongs.
    tag : int
        Which stream of the stage comes by it.
    replicas : int
        How many replicas take from it.
    is_bounded : bool
        Whether who puts into it waits for room. What comes back from later stages would wait for itself.
    """

    def __init__(self, inbox: Inbox, tag: int, replicas: int, *, is_bounded: bool = True) -> None:
        self.inbox = inbox
        self.tag = tag
        self.outlets: list[Outlet] = []
        self.producers = 0
        self.count = 0
        self.ready: deque[Batch] = deque()
        self._replicas = replicas
        self._is_bounded = is_bounded
        self._next_ticket = 0
        self._early: dict[int, list[Batch]] = {}
        self._early_count = 0
        self._finished: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing is in it and nothing will come."""
        return not self.ready and self.producers == 0

    def is_next(self, ticket: int | None) -> bool:
        """Return whether what has this ticket can be taken at once."""
        return ticket is None or ticket == self._next_ticket

    @property
    def capacity(self) -> int:
        """How many records are taken in before who puts has to wait."""
        return BATCHES_PER_REPLICA * self._replicas * self.inbox.size

    def has_room(self, ticket: int | None) -> bool:
        """Return whether a further batch may be put."""
        if not self._is_bounded:
            return True
        # What is early must not take the room of what is next: the ones would wait for the others.
        return (self.count if self.is_next(ticket) else self._early_count) < self.capacity

    def put(self, batch: Batch, ticket: int | None) -> None:
        """Take a batch in."""
        size = len(batch.records)
        if self.is_next(ticket):
            self.ready.append(batch)
            self.count += size
        else:
            assert ticket is not None
            self._early.setdefault(ticket, []).append(batch)
            self._early_count += size

    def finish(self, ticket: int) -> None:
        """Note that nothing further has this ticket."""
        self._finished.add(ticket)
        while self._next_ticket in self._finished:
            self._finished.remove(self._next_ticket)
            self._next_ticket += 1
            for batch in self._early.pop(self._next_ticket, ()):
                self.ready.append(batch)
                self._early_count -= len(batch.records)
                self.count += len(batch.records)

    def cut(self, most: int) -> tuple[list[Any], Sequence[int], Span, bool]:
        """Return at most so many records of the first batch, their origins and span, and whether it is used up."""
        batch = self.ready[0]
        start, stop = batch.start, min(batch.start + most, len(batch.records))
        self.count -= stop - start
        if stop == len(batch.records):
            self.ready.popleft()
            if start == 0:
                return batch.records, batch.origins, batch.span, True
            return batch.records[start:], batch.origins[start:], batch.span, True
        batch.start = stop
        return batch.records[start:stop], batch.origins[start:stop], batch.span, False


class Inbox:
    """What waits for the replicas of one stage.

    Parameters
    ----------
    halt : Halt
        Ends waits.
    flight : Flight
        Where batches are counted.
    replicas : int
        How many replicas the stage has.
    keeps_order : bool
        Whether what is taken gets tickets.

    Attributes
    ----------
    size : int
        How many records a replica takes at a time.
    is_hungry : bool
        Whether a replica has nothing to do, so that the next record should come by itself.
    """

    def __init__(self, halt: Halt, flight: Flight, replicas: int, *, keeps_order: bool) -> None:
        self.halt = halt
        self.flight = flight
        self.size = 1
        self.is_hungry = False
        self.lock = threading.Lock()
        self.arrived = halt.wakes(threading.Condition(self.lock))
        self.room = halt.wakes(threading.Condition(self.lock))
        self._tickets = 0 if keeps_order else None
        self._replicas = replicas
        self._queues: list[list[Queue]] = [[] for _ in range(replicas)]
        self._has_partitions = False

    def add_queue(self, tag: int, *, is_bounded: bool = True) -> Queue:
        """Add a queue that all replicas share."""
        queue = Queue(self, tag, self._replicas, is_bounded=is_bounded)
        for queues in self._queues:
            queues.append(queue)
        return queue

    def add_partitions(self, tag: int) -> list[Queue]:
        """Add a queue for each replica."""
        self._has_partitions = True
        partitions = [Queue(self, tag, 1) for _ in self._queues]
        for queues, queue in zip(self._queues, partitions, strict=True):
            queues.append(queue)
        return partitions

    @property
    def count(self) -> int:
        """How many records wait."""
        return sum(queue.count for queue in {queue for queues in self._queues for queue in queues})

    def take(self, replica: int, size: int, *, until: int | None = None, others: bool = True) -> Piece | None:
        """Return at most so many records, or None at the end.

        Parameters
        ----------
        replica : int
            Which one takes.
        size : int
            How many records at most.
        until : int or None
            The stream whose end counts; None for all. Its records come first.
        others : bool
            Whether to take from other streams as well.

        Raises
        ------
        DiscardedError
            What is inside is to be discarded.
        """
        queues = self._queues[replica]
        decisive = queues if until is None else [queue for queue in queues if queue.tag == until]
        if until is not None:
            queues = [*decisive, *(queue for queue in queues if queue.tag != until)] if others else decisive
        with self.lock:
            is_patient = True
            while True:
                self.halt.check()
                if all(queue.is_over for queue in decisive):
                    return None
                for place, queue in enumerate(queues):
                    if queue.ready:
                        if until is None and len(queues) > 1:  # the next time another stream comes first
                            queues.append(queues.pop(place))
                        return self._cut(queue, size)
                if is_patient:
                    is_patient = self.arrived.wait(PATIENCE_S)
                    continue
                is_patient = True
                # In this order: what a producer appends after its gate was emptied, it sends on itself.
                self.is_hungry = True
                if not self._fetch(queues):
                    self.arrived.wait()

    def _cut(self, queue: Queue, size: int) -> Piece:
        if self._replicas > 1:  # so that the last records are shared as well
            size = max(1, min(size, -(-queue.count // self._replicas)))
        records, origins, span, is_last = queue.cut(size)
        if not is_last:
            self.flight.fork(span)
        ticket = self._tickets
        if ticket is not None:
            self._tickets = ticket + 1
        self.room.notify_all()
        if queue.ready:
            self.arrived.notify()
        return Piece(records, origins, span, queue.tag, ticket)

    def _fetch(self, queues: Sequence[Queue]) -> bool:
        """Take what the replicas in front have ready, and let them look up; return whether there was anything."""
        found = False
        for queue in queues:
            for outlet in queue.outlets:
                outlet.recall()
                if outlet.can_move():
                    found = outlet.move() or found
        return found

    def wake(self, *, all_: bool = False) -> None:
        """Tell that something has arrived, or ended."""
        if all_ or self._has_partitions or self.is_hungry:
            self.is_hungry = False
            self.arrived.notify_all()
        else:
            self.arrived.notify()

    def end_one(self, queues: Collection[Queue]) -> None:
        """Note that one replica puts nothing further into some of its queues."""
        with self.lock:
            for queue in queues:
                queue.producers -= 1
            self.wake(all_=True)


class Outlet:
    """Where one replica appends records for one hop, or for one part of it.

    Parameters
    ----------
    queues : list of Queue
        All of one inbox. Each gets all records.
    recall : callable
        Makes the replica look up at its next record.
    has_marks : bool
        Whether the index of what each record came of is appended to `marks`; else it is the next one's each time.

    Attributes
    ----------
    records, marks : list
        What the replica appends; others take from the front.
    """

    def __init__(self, queues: list[Queue], recall: Callable[[], None], *, has_marks: bool) -> None:
        self.records: list[Any] = []
        self.marks: list[int] = []
        self.recall = recall
        self._queues = queues
        self._inbox = queues[0].inbox
        self._has_marks = has_marks
        self._sent = 0
        self._origins: Sequence[int] = ()
        self._span: Span | None = None
        self._ticket: int | None = None
        for queue in queues:
            queue.outlets.append(self)
            queue.producers += 1

    def begin(self, origins: Sequence[int], span: Span, ticket: int | None) -> None:
        """Note what the records that are appended from now on come of."""
        self._sent = 0
        self._origins, self._span, self._ticket = origins, span, ticket

    @property
    def is_hungry(self) -> bool:
        """Whether the next stage has nothing to do."""
        return self._inbox.is_hungry

    @property
    def room(self) -> int:
        """How many records the next stage takes in before it is full."""
        return min(queue.capacity - queue.count for queue in self._queues)

    def can_move(self) -> bool:
        """Return whether what is there can be taken at once."""
        return all(queue.is_next(self._ticket) for queue in self._queues)

    def move(self) -> bool:
        """Move what is there into the queues, under their lock; return whether there was anything."""
        # The mark is appended last; a record without one is not there yet.
        size = len(self.marks) if self._has_marks else len(self.records)
        if not size:
            return False
        records = self.records[:size]
        del self.records[:size]
        if self._has_marks:
            origins: Sequence[int] = [self._origins[mark] for mark in self.marks[:size]]
            del self.marks[:size]
        else:
            origins = self._origins[self._sent : self._sent + size]
        self._sent += size
        assert self._span is not None
        for queue in self._queues:
            self._inbox.flight.fork(self._span)
            queue.put(Batch(records, origins, self._span), self._ticket)
        self._inbox.wake()
        return True

    def flush(self, *, is_last: bool = False) -> None:
        """Send what is there, when there is room.

        Parameters
        ----------
        is_last : bool
            Whether nothing further comes of what was begun.
        """
        inbox = self._inbox
        if not self.records and (self._ticket is None or not is_last):
            return
        with inbox.lock:
            if self.records:
                while not all(queue.has_room(self._ticket) for queue in self._queues):
                    inbox.halt.check()
                    inbox.room.wait()
                inbox.halt.check()
                self.move()
            if is_last and self._ticket is not None:
                for queue in self._queues:
                    queue.finish(self._ticket)
                inbox.room.notify_all()
                inbox.wake()

    def end(self) -> None:
        """Note that the replica puts nothing further."""
        self._inbox.end_one(self._queues)
