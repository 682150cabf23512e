"""Byte streams are cut at event borders, wherever the wire cuts, and an event is read as the standard says."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import UpstreamMalformed
from adapters.framing import (
    LineCutter,
    SseCutter,
    on_one_line,
    read_event,
    read_events,
    split_events,
    sse,
    whole_events,
)

STREAM = (
    b": comment\n\n"
    b"event: a\ndata: 1\n\n"
    b"data: x\r\ndata: y\r\n\r\n" + 'data: {"é": "\u2028 \u0085"}\n\n'.encode() + b"data:  two spaces\n\n"
    b"data\n\n"
    b"error: {}\n\n"
    b"data: old\r\r"
    b"id: 1\nretry: 5\ndata: last\n\n"
)
EVENTS = [
    (b"a", b"1"),
    (b"", b"x\ny"),
    (b"", '{"é": "\u2028 \u0085"}'.encode()),
    (b"", b" two spaces"),
    (b"error", b"{}"),
    (b"", b"old"),
    (b"", b"last"),
]


def cut(pieces: list[bytes]) -> list[bytes]:
    cutter = SseCutter()
    return [*(cutter.feed(piece) for piece in pieces), cutter.flush()]


def test_events_at_once() -> None:
    """A stream that arrives at once is read into its events."""
    assert list(read_events(b"".join(cut([STREAM])))) == EVENTS


def test_events_byte_by_byte() -> None:
    """A stream that arrives one byte at a time gives the same events, each whole."""
    parts = cut([STREAM[at : at + 1] for at in range(len(STREAM))])
    assert b"".join(parts) == STREAM
    assert [event for part in parts for event in read_events(part)] == EVENTS


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_events_in_any_pieces(cuts: list[int]) -> None:
    """Wherever the wire cuts, no byte is lost and no event is torn."""
    pieces = [STREAM[a:b] for a, b in pairwise([0, *cuts, len(STREAM)])]
    parts = cut(pieces)
    assert b"".join(parts) == STREAM
    assert [event for part in parts for event in read_events(part)] == EVENTS


def test_the_last_event_without_a_blank_line() -> None:
    """What is left when the bytes end counts, and white space alone does not."""
    cutter = SseCutter()
    assert cutter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert cutter.flush() == b"data: 2\n\n"
    assert cutter.flush() == b""
    assert cutter.feed(b"\r\n") == b""
    assert cutter.flush() == b""


def test_an_event_over_the_limit() -> None:
    """An event that never ends is refused instead of kept."""
    cutter = SseCutter(limit=100)
    cutter.feed(b"data: " + b"x" * 90)
    with pytest.raises(UpstreamMalformed):
        cutter.feed(b"x" * 10)
    lines = LineCutter(limit=10)
    with pytest.raises(UpstreamMalformed):
        lines.feed(b"x" * 11)


def test_splitting_keeps_the_bytes() -> None:
    """Each event comes as the bytes it was, with its blank line."""
    assert list(split_events(b"data: 1\n\n: c\r\n\r\ndata: 2")) == [
        b"data: 1\n\n",
        b": c\r\n\r\n",
        b"data: 2",
    ]
    assert b"".join(split_events(STREAM)) == STREAM


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_whole_events(end: bytes) -> None:
    """One event and several, named or not, come as the bytes they were, whatever ends their lines."""
    events = [event.replace(b"\n", end) for event in (b"event: a\ndata: 1\n\n", b"data: 2\n\n", b": c\n\n")]
    assert whole_events(b"".join(events)) == events
    assert whole_events(events[0]) == events[:1]
    assert whole_events(b"".join(events) + b"data: 3") == [*events, b"data: 3"]
    assert [read_event(event) for event in events] == [(b"a", b"1"), (b"", b"2"), (b"", b"")]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"data: x\n\n", (b"", b"x")),
        (b"data:x\n\n", (b"", b"x")),
        (b"data:  x\n\n", (b"", b" x")),
        (b"data: a: b\n\n", (b"", b"a: b")),
        (b"\xef\xbb\xbfdata: x\n\n", (b"", b"x")),
        (b"event: e\ndata: x\n\n", (b"e", b"x")),
        (b"event: e\ndata: x\ndata: y\n\n", (b"e", b"x\ny")),
        (b"event: e\ndata: x\rdata: y\n\n", (b"e", b"x\ny")),
        (b"event: e\ndata:x\n\n", (b"e", b"x")),
        (b"event: \ndata: x\n\n", (b"", b"x")),
        (b"data: x\nevent: e\n\n", (b"e", b"x")),
        (b": only a comment\n\n", (b"", b"")),
        (b": comment\ndata: x\n\n", (b"", b"x")),
        (b"data\n\n", (b"", b"")),
        (b"unknown: x\n\n", (b"", b"")),
        (b"error: x\n\n", (b"error", b"x")),
    ],
)
def test_reading_one_event(event: bytes, expected: tuple[bytes, bytes]) -> None:
    """Fields, comments and the one space after the colon are read as the standard says."""
    assert read_event(event) == expected


def test_lines() -> None:
    """Lines of JSON are cut at their ends, and the last counts without one."""
    cutter = LineCutter()
    assert cutter.feed(b'{"a":') == b""
    assert cutter.feed(b'1}\n{"b":2}\n{"c"') == b'{"a":1}\n{"b":2}\n'
    assert cutter.feed(b":3}") == b""
    assert cutter.flush() == b'{"c":3}\n'
    assert cutter.flush() == b""


def test_writing() -> None:
    """What is written is read back."""
    assert sse(b"{}") == b"data: {}\n\n"
    assert read_event(sse(b"{}", b"ping")) == (b"ping", b"{}")
    assert sse(on_one_line(b'{\n"a":\r\n1}')) == b'data: { "a":  1}\n\n'
