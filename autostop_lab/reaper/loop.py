"""The reaper: a process beside the owner that ends what the owner has left, when the owner is gone.

It is nobody's descendant, carries no id of ours, and is deaf to the signals that end a terminal or a notebook. It
takes the owner for gone when the socket ends or when the process does, whichever comes first: a forked child may
keep the socket open, and a process that has replaced itself (exec) is no owner any more. An owner that is only
suspended is alive. A reaper that never learned whose it is ends without doing anything.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from autostop_lab.reaper import journal
from autostop_lab.reaper.cleaning import Cleaned, clean, drop_refused
from autostop_lab.reaper.deaths import CLOSED, OWNER_DIED, death_of, record
from autostop_lab.reaper.folders import make_private_under, remove_all
from autostop_lab.reaper.groups import leave_groups_of_ours
from autostop_lab.reaper.journal import Journal, SessionLock
from autostop_lab.reaper.lease import (
    MAX_PID,
    Estate,
    Lease,
    LeaseError,
    is_time,
    lease_problem,
    process_from_json,
    session_problem,
)
from autostop_lab.reaper.outputs import READ_BYTES, Outputs
from autostop_lab.reaper.processes import boot_id, process
from autostop_lab.reaper.protocol import Lines, RefusedError, Request, ack, decode_request, encode, nak
from autostop_lab.reaper.sweep import sweep
from autostop_lab.reaper.timings import Timings
from autostop_lab.reaper.watch import Watch

DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
#: How many descriptors may come along with what is read at once.
READ_DESCRIPTORS = 64
#: Requests are answered at the latest when so many bytes of them were read.
BATCH_BYTES = 1 << 20


def main(descriptor: int) -> None:
    """Be the reaper of whoever has the other end of a socket; does not return."""
    code = 1
    try:
        for number in DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        os.chdir("/")
        os.umask(0o077)
        leave_groups_of_ours()
        _allow_descriptors()
        reaper = Reaper(socket.socket(fileno=descriptor))
        try:
            reaper.run()
            code = 0
        except BaseException as error:
            reaper.tell(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _allow_descriptors() -> None:
    """Allow as many as there may be: each program's output is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Reaper:
    """One reaper.

    Parameters
    ----------
    connection : socket.socket
        Its end of the pair.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        me = process(os.getpid())
        assert me is not None
        self._me = me
        self._lines = Lines()
        # Those that came along and belong to requests not handled yet; None for one that was lost on its way.
        self._descriptors: deque[int | None] = deque()
        self._are_descriptors_lost = False
        self._replies = bytearray(encode({"ready": {"pid": me.pid, "started": me.started}}))
        self._outputs = Outputs()
        self._timings = Timings()
        self._estate: Estate | None = None
        self._journal: Journal | None = None
        self._lock: SessionLock | None = None
        self._watch: Watch | None = None
        self._sweeping: threading.Thread | None = None
        self._inherited: set[str] = set()  # leases of an earlier reaper that the owner has not confirmed yet
        self._is_journal_old = False
        self._journal_problem = ""
        self._has_said_bye = False
        self._is_over = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Guard the owner's estate until the owner is gone, then clean it."""
        self._selector.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while not self._is_over:
            self._serve_once()
        self._selector.close()
        self._socket.close()
        if self._estate is not None:
            self._clean(self._estate)
        if self._sweeping is not None:
            self._sweeping.join()

    def tell(self, failure: str) -> None:
        """Say why this reaper ends, if anybody still listens."""
        with suppress(OSError):
            self._socket.send(encode({"failed": failure}))

    # -- while the owner lives -----------------------------------------------------------------------------

    def _serve_once(self) -> None:
        is_polling = self._watch is not None and self._watch.descriptor is None
        events = self._selector.select(self._timings.owner_poll_s if is_polling else None)
        has_owner_ended = self._watch is not None and (
            any(key.fd == self._watch.descriptor for key, _ in events) or (is_polling and not events)
        )
        if any(key.fileobj is self._socket for key, _ in events) or has_owner_ended:
            is_open = self._read()
            self._is_over = self._is_over or not is_open
            self._write()
        if has_owner_ended and self._watch is not None and not self._is_over:
            try:
                has_ended = self._watch.has_ended()
            except OSError:  # no descriptor is left for that look: another will tell
                time.sleep(self._timings.wait_pause_s)
                return
            if has_ended:
                self._is_over = True
            elif self._watch.descriptor is not None:  # it cannot be relied upon: from now on we look
                self._selector.unregister(self._watch.descriptor)
                self._watch.descriptor = None
        if self._has_said_bye:
            self._is_over = True

    def _read(self) -> bool:
        """Take up all requests that wait, and answer them; return whether the owner still holds its end."""
        requests: list[bytes | None] = []
        is_open = True
        taken = 0
        while taken < BATCH_BYTES:
            try:
                data, descriptors, flags, _ = socket.recv_fds(self._socket, READ_BYTES, READ_DESCRIPTORS)
            except BlockingIOError:
                break
            except OSError:
                data, descriptors, flags = b"", [], 0
            self._descriptors.extend(descriptors)
            if flags & socket.MSG_CTRUNC and not descriptors:
                self._descriptors.append(None)
            if not data:
                is_open = False
                break
            taken += len(data)
            requests.extend(self._lines.feed(data))
        answers = [self._answer(line) for line in requests]
        self._write_journal()  # before any of the answers goes out
        for answer in answers:
            self._replies += answer
        return is_open

    def _answer(self, line: bytes | None) -> bytes:
        try:
            try:
                request = decode_request(line)
            except RefusedError:
                self._lose_descriptors()
                raise
            has_descriptor = request.op == "register" and request.body.get("fds") == 1
            descriptor = self._take_descriptor() if has_descriptor else None
            try:
                self._carry_out(request, descriptor)
            except Exception as error:  # whatever it is: a reaper that ends guards nobody
                if descriptor is not None:
                    os.close(descriptor)
                raise RefusedError(str(error) or type(error).__name__, request.seq) from None
        except RefusedError as refused:
            return nak(refused)
        return ack(request.seq)

    def _take_descriptor(self) -> int | None:
        descriptor = self._descriptors.popleft() if self._descriptors else None
        if descriptor is not None and self._are_descriptors_lost:
            os.close(descriptor)
            return None
        return descriptor

    def _lose_descriptors(self) -> None:
        """Forget descriptors, from now on: one may have come with a line that was not understood."""
        self._are_descriptors_lost = self._are_descriptors_lost or bool(self._descriptors)
        while self._descriptors:
            self._take_descriptor()

    def _write(self) -> None:
        while self._replies:
            try:
                del self._replies[: self._socket.send(self._replies)]
            except BlockingIOError:
                break
            except OSError:
                self._replies.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._replies else 0)
        self._selector.modify(self._socket, wanted)

    def _write_journal(self) -> None:
        if self._journal is None or not (self._is_journal_old or self._journal.is_lost):
            return
        problem = ""
        try:
            self._journal.write()
            self._is_journal_old = False
        except OSError as error:
            problem = f"the journal cannot be written ({error}), so nothing is cleaned if the reaper dies as well"
        if problem != self._journal_problem:
            self._journal_problem = problem
            self._replies += encode({"journal": problem})

    # -- requests ------------------------------------------------------------------------------------------

    def _carry_out(self, request: Request, descriptor: int | None) -> None:
        body = request.body
        if request.op == "hello":
            self._hello(body)
            return
        if request.op == "bye":
            self._has_said_bye = True
            return
        if self._estate is None or self._journal is None:
            raise RefusedError("the owner has not said whose session it is")
        if request.op == "there":
            return
        if request.op == "synced":
            for instance_id in self._inherited:
                self._forget(self._estate, instance_id)
            self._inherited.clear()
            return
        if request.op == "register":
            instance_id = self._register(self._estate, Lease.from_json(body.get("lease")))
        else:
            instance_id = str(body.get("instance_id"))
            if request.op == "asked":
                at = body.get("at")
                if is_time(at) and instance_id in self._estate.leases:
                    self._estate.asked_at[instance_id] = float(at)
            else:
                self._forget(self._estate, instance_id)
        self._journal.note(instance_id)
        self._is_journal_old = True
        if request.op == "register":
            self._outputs.keep(instance_id, descriptor)

    def _forget(self, estate: Estate, instance_id: str) -> None:
        estate.leases.pop(instance_id, None)
        estate.asked_at.pop(instance_id, None)
        self._outputs.drop(instance_id)
        if self._journal is not None:
            self._journal.note(instance_id)
            self._is_journal_old = True

    def _register(self, estate: Estate, lease: Lease) -> str:
        seen = process(lease.pid) if lease.pid is not None and 1 < lease.pid < MAX_PID else None
        owner = process(estate.owner.pid) or estate.owner
        if (problem := lease_problem(lease, estate, me=self._me, owner=owner, seen=seen)) is not None:
            raise LeaseError(problem)
        estate.leases[lease.instance_id] = lease
        estate.asked_at.pop(lease.instance_id, None)
        self._inherited.discard(lease.instance_id)
        return lease.instance_id

    def _hello(self, body: dict[str, Any]) -> None:
        if self._estate is not None:
            raise RefusedError("the owner has said already whose session it is")
        texts = [body.get(name) for name in ("session_id", "path", "folder", "place")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(body.get("timings", {}), dict):
            raise RefusedError("a greeting has to name session, path, folder and place")
        session_id, path, folder, place = (str(text) for text in texts)
        owner = process_from_json(body.get("owner"), "an owner")
        estate = Estate(
            session_id=session_id, path=path, folder=Path(folder), owner=owner, boot_id=boot_id(), place=place
        )
        if (problem := session_problem(estate)) is not None:
            raise RefusedError(problem)
        try:
            self._timings = Timings(**body.get("timings", {}))
        except TypeError as error:
            raise RefusedError(str(error)) from None
        make_private_under(estate.folder.parent, estate.folder)
        lock = SessionLock(estate.folder)
        if not lock.take(timeout_s=self._timings.lock_timeout_s):
            raise RefusedError(f"another process holds the lock of {estate.folder}")
        self._inherit(estate)
        self._estate, self._lock, self._journal = estate, lock, Journal(estate)
        self._is_journal_old = True
        self._watch = Watch(owner)
        self._is_over = self._watch.has_ended()
        if self._watch.descriptor is not None:
            self._selector.register(self._watch.descriptor, selectors.EVENT_READ)
        self._sweeping = threading.Thread(target=self._sweep_others, args=(estate,), daemon=True)
        self._sweeping.start()

    def _inherit(self, estate: Estate) -> None:
        """Take over what a reaper before this one has left: the owner may die before it has said everything anew."""
        try:
            left = journal.read(estate.folder)
        except FileNotFoundError:
            return
        except journal.JournalError:
            journal.set_aside(estate.folder)
            return
        if left.owner == estate.owner and left.boot_id == estate.boot_id:
            drop_refused(left)
            estate.leases, estate.asked_at = left.leases, left.asked_at
            self._inherited = set(left.leases)

    def _sweep_others(self, estate: Estate) -> None:
        with suppress(OSError):
            sweep(root=estate.folder.parent, spare=frozenset({estate.session_id}), timings=self._timings)

    # -- when it is gone -----------------------------------------------------------------------------------

    def _clean(self, estate: Estate) -> None:
        died_at = time.time()
        had_leases = bool(estate.leases)
        cleaned = clean(estate, self._timings, self._outputs.drain, book=self._journal)
        if cleaned.is_complete:
            self._remove_folder(estate, cleaned)
        if had_leases or cleaned.strays or cleaned.problems:
            why = CLOSED if self._has_said_bye else OWNER_DIED
            with suppress(OSError):
                record(estate.folder.parent, death_of(estate, cleaned, why=why, died_at=died_at), self._timings)
        with suppress(OSError):  # not if there is anything else, a record above all
            estate.folder.parent.rmdir()

    @staticmethod
    def _remove_folder(estate: Estate, cleaned: Cleaned) -> None:
        try:
            remove_all(estate.folder)
        except OSError as error:
            cleaned.problems.append(f"folder {estate.folder} could not be removed: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
