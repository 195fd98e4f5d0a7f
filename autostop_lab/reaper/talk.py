"""The talk of an owner with one reaper: greeting, everything there is to know, then news and answers."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol

from autostop_lab.reaper.link import Link
from autostop_lab.reaper.outbox import Entry, Outbox
from autostop_lab.reaper.processes import process
from autostop_lab.reaper.session import Session
from autostop_lab.reaper.timings import Timings

#: How long nothing need happen where nothing is due, in seconds.
IDLE_S = 3600.0


class StartError(Exception):
    """A reaper is there, but of no use from the start; the text says why."""


class Hearer(Protocol):
    """Who hears how the talk goes."""

    is_bye_asked: bool

    def note_greeted(self) -> None:
        """Hear that the reaper guards the session."""

    def note_journal(self, problem: str) -> None:
        """Hear why the journal cannot be written, "" if it can again."""

    def judge(self) -> float:
        """Find out how it stands; return for how long that holds if nothing happens, in seconds."""


class Talk:
    """The talk with one reaper, in one thread.

    Parameters
    ----------
    reaper : Link
        The reaper.
    session : Session
        Whose it is.
    outbox : Outbox
        What it is to know.
    hearer : Hearer
        Who hears how it goes.
    timings : Timings
        How long what may take.
    """

    def __init__(self, reaper: Link, session: Session, outbox: Outbox, hearer: Hearer, timings: Timings) -> None:
        self._reaper = reaper
        self._session = session
        self._outbox = outbox
        self._hearer = hearer
        self._timings = timings
        self._next_seq = 1
        # By number: when it was sent, and what its answer is for.
        self._sent: dict[int, tuple[float, Callable[[str], None] | None]] = {}
        self._is_greeted = False
        self._bye_seq: int | None = None
        self._heard_at = time.monotonic()
        self._boot_until = time.monotonic() + timings.boot_timeout_s

    def run(self) -> str | None:
        """Talk until the reaper is gone.

        Returns
        -------
        str or None
            Why it is gone; None if it was told goodbye.

        Raises
        ------
        StartError
            It is of no use from the start.
        """
        try:
            return self._run()
        finally:
            # One that lived on would take the end of the link for the end of its owner. One that was told goodbye
            # has to live on.
            if not self._is_bye_said:
                self._reaper.kill()

    @property
    def _is_bye_said(self) -> bool:
        return self._bye_seq is not None and self._bye_seq not in self._sent

    def _run(self) -> str | None:
        poll = select.poll()
        poll.register(self._outbox.fileno(), select.POLLIN)
        patience_s = IDLE_S
        while True:
            with suppress(OSError):  # if it is gone, reading tells
                self._reaper.flush()
            poll.register(self._reaper.fileno(), select.POLLIN | (select.POLLOUT if self._reaper.has_outgoing else 0))
            poll.poll(min(patience_s, self._due_in_s()) * 1000)
            self._outbox.drain()
            messages = self._reaper.receive()
            if messages is None:
                return "it has ended"
            if messages:
                self._heard_at = time.monotonic()
            for message in messages:
                if "failed" in message:
                    return f"it has failed: {message['failed']}"
                self._take(message)
            if self._is_bye_said:
                return None
            if not messages and (problem := self._overdue()) is not None:
                return problem
            if self._is_greeted:
                self._line_up()
                if not self._sent and self._due_in_s() <= 0:
                    self._send({"op": "there"})  # one that is suspended would be missed only when it is needed
                patience_s = self._hearer.judge()

    def _due_in_s(self) -> float:
        now = time.monotonic()
        if self._reaper.reaper is None:
            return max(self._boot_until - now, 0.0)
        if self._sent:
            oldest = next(iter(self._sent.values()))[0]
            return max(oldest + self._timings.ack_timeout_s - now, 0.0)
        return max(self._heard_at + self._timings.still_there_s - now, 0.0)

    def _overdue(self) -> str | None:
        if self._due_in_s() > 0 or (self._reaper.reaper is not None and not self._sent):
            return None
        if self._reaper.reaper is None:
            raise StartError(f"the reaper did not start within {self._timings.boot_timeout_s:g} s")
        return f"it did not answer within {self._timings.ack_timeout_s:g} s"

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._greet()
        elif "journal" in message:
            self._hearer.note_journal(str(message["journal"]))
        elif (seq := message.get("ack", message.get("nak"))) in self._sent:
            _, hear = self._sent.pop(seq)
            if hear is not None:
                hear(str(message["why"]) if "nak" in message else "")

    def _greet(self) -> None:
        me, session = process(os.getpid()), self._session
        assert me is not None
        self._send(
            {
                "op": "hello",
                "session_id": session.id,
                "path": session.path,
                "folder": str(session.folder),
                "place": session.place,
                "owner": {"pid": me.pid, "started": me.started},
                "timings": asdict(self._timings),
            },
            self._note_greeted,
        )

    def _note_greeted(self, refusal: str) -> None:
        if refusal:
            raise StartError(f"the reaper cannot guard this session: {refusal}")
        self._is_greeted = True
        self._outbox.begin_anew()
        self._hearer.note_greeted()
        self._line_up()
        self._send({"op": "synced"})  # it may drop what an earlier reaper has left in the journal beside this

    def _send(
        self, message: dict[str, Any], hear: Callable[[str], None] | None = None, output: int | None = None
    ) -> int:
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._sent[seq] = (time.monotonic(), hear)
        self._reaper.send({"seq": seq, **message}, output)
        return seq

    def _line_up(self) -> None:
        if not self._reaper.has_outgoing:
            self._outbox.close_unused()
        requests, unsent = self._outbox.take()
        for request in requests:
            self._send(request)
        for entry in unsent:
            self._register(entry)
        if self._hearer.is_bye_asked and self._bye_seq is None:
            self._bye_seq = self._send({"op": "bye"})

    def _register(self, entry: Entry) -> None:
        lease = entry.lease

        def hear(refusal: str) -> None:
            entry.settle(f"the reaper has refused it: {refusal}" if refusal else "")

        message = {"op": "register", "lease": lease.as_json(), "fds": int(entry.output is not None)}
        self._send(message, hear, entry.output)
        if entry.asked_at is not None:
            self._send({"op": "asked", "instance_id": lease.instance_id, "at": entry.asked_at})
