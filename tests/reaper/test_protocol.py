"""Lines between owner and reaper, and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autostop_lab.reaper.protocol import MAX_LINE_BYTES, Lines, RefusedError, ack, decode, decode_request, encode, nak


@settings(deadline=None)
@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.integers(1, 7))
def test_lines_come_out_as_they_went_in_however_they_were_cut(lines: list[bytes], size: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader = Lines()
    found = [line for at in range(0, len(stream), size) for line in reader.feed(stream[at : at + size])]

    assert found == lines


def test_a_line_that_is_too_long_is_told_and_the_next_one_is_read() -> None:
    reader = Lines()
    found = []
    for _ in range(10):
        found += reader.feed(b"x" * MAX_LINE_BYTES)
    found += reader.feed(b"the rest\nnext\n")

    assert found == [None, b"next"]


@pytest.mark.parametrize(
    "line",
    [b"", b"garbage", b"\xff\xfe", b"5", b'"text"', b"[]", b"null", b"{", b"[" * 100_000, b"9" * 100_000, None],
)
def test_what_is_not_an_object_is_refused(line: bytes | None) -> None:
    with pytest.raises(RefusedError):
        decode(line)


@pytest.mark.parametrize(
    ("line", "seq"),
    [
        (b"{}", None),
        (b'{"op": "bye"}', None),
        (b'{"seq": "5", "op": "bye"}', None),
        (b'{"seq": true, "op": "bye"}', None),
        (b'{"seq": 5}', 5),
        (b'{"seq": 5, "op": "kill everything"}', 5),
        (b'{"seq": 5, "op": ["bye"]}', 5),
    ],
)
def test_a_request_needs_a_number_and_an_operation(line: bytes, seq: int | None) -> None:
    with pytest.raises(RefusedError) as refused:
        decode_request(line)

    assert refused.value.seq == seq
    assert decode(nak(refused.value)) == {"nak": seq, "why": str(refused.value)}


def test_a_request_is_read_with_all_that_it_says() -> None:
    request = decode_request(encode({"seq": 5, "op": "register", "lease": {"name": "ü"}}).rstrip(b"\n"))

    assert (request.seq, request.op, request.body["lease"]) == (5, "register", {"name": "ü"})
    assert decode(ack(5)) == {"ack": 5}
