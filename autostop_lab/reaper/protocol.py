"""What owner and reaper say to each other: lines of JSON over a pair of sockets.

The reaper begins with ``{"ready": {...}}``. Each request has a number, ``seq``, and an operation, ``op``; its
answer is ``{"ack": seq}`` or ``{"nak": seq, "why": "..."}``. A request with ``"fds": 1`` brings a descriptor along:
the read end of a program's output, which the reaper drains when the owner no longer does, so that a program which
logs while it ends is not killed by SIGPIPE. ``there`` asks for nothing but an answer. A line that is not understood
is refused, and does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: A longer line is refused, in bytes.
MAX_LINE_BYTES = 1 << 20
OPERATIONS = frozenset({"hello", "synced", "register", "asked", "release", "there", "bye"})


class RefusedError(Exception):
    """A request is refused; the text says why.

    Attributes
    ----------
    seq : int or None
        Number of the request, where it could be read.
    """

    def __init__(self, why: str, seq: int | None = None) -> None:
        super().__init__(why)
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes
    ----------
    seq : int
        Its number.
    op : str
        Its operation.
    body : dict
        All that it says.
    """

    seq: int
    op: str
    body: dict[str, Any]


class Lines:
    """Splits a stream of bytes into lines; one that is too long comes out as None."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._is_skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Take bytes, and give the lines that they complete."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            line = bytes(self._rest + piece)
            is_skipped, self._is_skipping = self._is_skipping or len(line) > MAX_LINE_BYTES, False
            self._rest.clear()
            yield None if is_skipped else line
        if not self._is_skipping:
            self._rest += rest
        if len(self._rest) > MAX_LINE_BYTES:
            self._is_skipping = True
            self._rest.clear()


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def ack(seq: int) -> bytes:
    """Return the line that says yes to a request."""
    return encode({"ack": seq})


def nak(refused: RefusedError) -> bytes:
    """Return the line that refuses a request."""
    return encode({"nak": refused.seq, "why": str(refused)})


def decode(line: bytes | None) -> dict[str, Any]:
    """Read a line, whatever was sent.

    Raises
    ------
    RefusedError
        It is not an object in JSON.
    """
    if line is None:
        raise RefusedError(f"a line is longer than {MAX_LINE_BYTES} bytes")
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"a line is not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise RefusedError("a line is not an object")
    return message


def decode_request(line: bytes | None) -> Request:
    """Read a request.

    Raises
    ------
    RefusedError
        It is not one.
    """
    message = decode(line)
    seq, op = message.get("seq"), message.get("op")
    if not isinstance(seq, int) or isinstance(seq, bool) or abs(seq) >= 1 << 63:
        raise RefusedError("a request has no number")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise RefusedError(f"there is no operation {op!r:.60}", seq)
    return Request(seq, op, message)
