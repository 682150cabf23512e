"""Byte streams, cut at event borders.

The wire cuts where it likes: in the middle of a character, of a line, between CR and LF. A cutter takes bytes as they
come and gives back whole events, unchanged; a partial one waits, at most `limit` bytes. What is inside a whole event is
`read_events`' business.

Server-sent events after the WHATWG standard, https://html.spec.whatwg.org/multipage/server-sent-events.html, with two
things that providers taught us: an SSE line whose *field name* is `error` is an error (llama.cpp servers send it, and a
standard parser would drop it), and the last event counts even without the blank line after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapters.errors import UpstreamMalformed

EVENT_LIMIT = 8 * 1024 * 1024

_BORDERS = (b"\n\n", b"\r\n\r\n")
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")

NEVER = b"\x00"
"""What no event begins with or ends with."""


class SseCutter:
    """Cuts server-sent events."""

    __slots__ = ("_limit", "_rest", "_searched")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._rest = b""
        self._searched = 0
        self._limit = limit

    def feed(self, data: bytes) -> bytes:
        """All whole events that are there by now, as the bytes that came. Raises `UpstreamMalformed` over the limit."""
        if data.endswith(_BORDERS) and not self._rest:
            return data  # the usual case, 0.1 us: providers write whole events
        whole = self._rest + data
        end = _last_border(whole, self._searched)
        if not end:
            if len(whole) > self._limit:
                raise UpstreamMalformed(f"The provider sent an event of over {self._limit} bytes")
            self._rest = whole
            self._searched = max(0, len(whole) - 3)
            return b""
        self._rest = whole[end:]
        self._searched = 0
        return whole[:end]

    def flush(self) -> bytes:
        """What is left when the bytes have ended, closed with a blank line."""
        rest, self._rest = self._rest, b""
        return rest + b"\n\n" if rest.strip() else b""


def _last_border(whole: bytes, start: int) -> int:
    """Where the last blank line at or after `start` ends, 0 if there is none."""
    end = 0
    for blank in (b"\n\n", b"\n\r\n", b"\r\r") if b"\r" in whole else (b"\n\n",):
        found = whole.rfind(blank, start)
        if found >= 0:
            end = max(end, found + len(blank))
    return end  # CR CR may be the first half of CR CR LF: then that LF begins the rest, and is harmless there


class LineCutter:
    """Cuts newline-delimited JSON."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._rest = b""
        self._limit = limit

    def feed(self, data: bytes) -> bytes:
        """All whole lines that are there by now."""
        whole = self._rest + data
        end = whole.rfind(b"\n") + 1
        self._rest = whole[end:]
        if len(self._rest) > self._limit:
            raise UpstreamMalformed(f"The provider sent a line of over {self._limit} bytes")
        return whole[:end]

    def flush(self) -> bytes:
        """The last line, if it has no end."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest.strip() else b""


def whole_events(events: bytes) -> list[bytes]:
    """Each whole event as the bytes that came, the blank line included."""
    if events.find(b"\r") >= 0:  # never inside JSON, so it ends a line
        return list(split_events(events))
    if events.find(b"\n\n") == len(events) - 2:
        return [events]
    whole = events.split(b"\n\n")
    rest = whole.pop()
    whole = [event + b"\n\n" for event in whole]
    return [*whole, rest] if rest else whole


def split_events(events: bytes) -> Iterator[bytes]:
    """Each whole event as the bytes that came, the blank line included."""
    at = 0
    for border in _BLANK_LINE.finditer(events):
        yield events[at : border.end()]
        at = border.end()
    if events[at:].strip():
        yield events[at:]


def read_event(event: bytes) -> tuple[bytes, bytes]:
    """The (name, data) of one whole event; both empty for a comment.

    Several data lines are joined with a newline. One space after the colon is not part of the value, a second one is.
    """
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:
        return b"", event[6:-2]  # the usual case: one data line with LF
    if event.startswith(b"event: ") and event.find(b"\r") < 0:
        end = event.find(b"\n")
        if event.startswith(b"data: ", end + 1) and event.find(b"\n", end + 1) == len(event) - 2:
            return event[7:end], event[end + 7 : -2]  # 0.5 us, against 3: the same after a line with the name
    name = b""
    data: list[bytes] = []
    for line in _LINE_END.split(event.removeprefix(b"\xef\xbb\xbf")):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"error":
            name = b"error"
            data.append(value)
    return name, b"\n".join(data)


def read_events(events: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (name, data) of each whole event that has data."""
    for event in split_events(events):
        name, data = read_event(event)
        if data:
            yield name, data


def on_one_line(data: bytes) -> bytes:
    """JSON without line ends, which stand between its tokens only: what a vendor sent may be indented."""
    return data.replace(b"\n", b" ").replace(b"\r", b" ")


def sse(data: bytes, name: bytes = b"") -> bytes:
    """One server-sent event. `data` must have no line end in it, as JSON without indentation has none."""
    if name:
        return b"event: " + name + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"
