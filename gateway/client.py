"""The client's writer: how bytes reach the client's socket.

Model routes answer raw. aiohttp reads and parses the request, then this module writes head and body to
`request.transport` itself: an upstream's `data_received` may call `write` directly, with no coroutine woken and no
response object in between (a wake-up with `await write()` costs 20-25 us per chunk, a raw write 4-7).

aiohttp must be told that all is done: the handler returns `Written`, whose `prepare` and `write_eof` do nothing. After
the first raw byte no exception may leave the handler, else aiohttp would write a second head into the stream.

Two names of aiohttp's protocol are used that its documentation does not list, `writing_paused` and `_drain_helper`; its
minor version is pinned for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODY_IS_LEFT = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}
STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)
JSON_HEADERS = (("content-type", "application/json"),)

Headers = Iterable[tuple[str, str]]


class ClientGone(asyncio.CancelledError):
    """The client left: the story ends here, as if the handler had been cancelled."""


class Written(web.StreamResponse):
    """Says to aiohttp that the answer has been written already."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        return


class ClientWriter:
    """One answer to one client, written once from head to end."""

    __slots__ = (
        "_chunked",
        "_extra",
        "_http",
        "_keep_alive",
        "_protocol",
        "_timer",
        "_transport",
        "ended",
        "opened",
        "status",
        "written",
    )

    def __init__(self, http: web.BaseRequest, extra: Headers = ()) -> None:
        transport = http.transport
        if transport is None:
            raise ClientGone
        self._http = http
        self._protocol = http.protocol
        self._transport = transport
        self._chunked = http.version >= HttpVersion11
        # HTTP/1.0 clients only keep what answers in words of their own; they are few, and closing is always right.
        self._keep_alive = bool(http.keep_alive) and self._chunked
        self._extra = tuple(extra)
        self._timer: asyncio.TimerHandle | None = None
        self.status = 0
        self.opened = False
        """The head is out: from here a failure is an event in the stream, not another answer."""
        self.ended = False
        self.written = 0
        """Bytes of body so far."""

    def close_after(self) -> None:
        """No other request shall come on this connection."""
        self._keep_alive = False

    def invite_body(self) -> None:
        """Tell a client that waits for it (`Expect: 100-continue`) that its body is wanted."""
        if self._http.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer in one write."""
        self._stop_comments()
        head = [*headers, ("content-length", str(len(body)))]
        data = self._head(status, head) + (b"" if self._http.method == "HEAD" else body)
        self.opened = self.ended = True
        self.written = len(body)
        self._transport.write(data)

    def open_stream(self, headers: Headers) -> None:
        """The head of a stream."""
        framing = [("transfer-encoding", "chunked")] if self._chunked else []
        self.opened = True
        self._transport.write(self._head(200, [*STREAM_HEADERS, *headers, *framing]))

    def write(self, events: bytes) -> None:
        """Whole events, as one chunk."""
        self.written += len(events)
        self._transport.write(b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events)

    def comment_when_idle(self, comment: bytes, seconds: float, head: Callable[[], Headers]) -> None:
        """Until the answer ends, write `comment` whenever nothing was written for about `seconds`.

        A stream that has not begun by then is opened with the headers that `head` gives: middle boxes cut what is silent
        for a minute, and a client should not wait in the dark. Costs nothing per chunk: the timer compares what was
        written with what had been.
        """
        before = self.written

        def tick() -> None:
            if self.ended:
                return
            if not self.opened:
                self.open_stream(head())
            if self.written == before and not self.is_full:
                self.write(comment)
            self.comment_when_idle(comment, seconds, head)

        self._timer = asyncio.get_running_loop().call_later(seconds, tick)

    def _stop_comments(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """The stream is complete."""
        self._stop_comments()
        self.ended = True
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")

    def break_off(self, patience: float) -> None:
        """The stream is not complete, and the client shall see that: no terminating chunk, the connection closes.

        What is written already is still sent, for `patience` seconds to a client that does not read.
        """
        self._stop_comments()
        self.ended = True
        self._keep_alive = False
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(patience, self._transport.abort)
        self._transport.close()

    def drop(self) -> None:
        """Close at once; what is not yet sent is lost."""
        self._stop_comments()
        self.ended = True
        self._keep_alive = False
        self._transport.abort()

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than the provider writes: stop the provider until `drained`."""
        return self._protocol.writing_paused

    async def drained(self, timeout: float) -> None:
        """Wait until the client has read. Raises `TimeoutError` after `timeout` seconds without room."""
        async with asyncio.timeout(timeout):
            await self._protocol._drain_helper()  # noqa: SLF001 - see the head of this module

    async def flushed(self, patience: float) -> None:
        """Wait until the kernel has taken most of a finished answer, so that neither a large one nor pipelined ones pile
        up here. A client that takes nothing for `patience` seconds is dropped; one that leaves has had its answer.
        """
        left = self._transport.get_write_buffer_size()
        with suppress(asyncio.CancelledError, ConnectionError):
            while self.is_full:
                try:
                    await self.drained(patience)
                except TimeoutError:
                    if self._transport.get_write_buffer_size() >= left:
                        self.drop()
                        return
                    left = self._transport.get_write_buffer_size()

    def response(self) -> Written:
        """What the handler returns to aiohttp."""
        return Written(self.status, keep_alive=self._keep_alive)

    def _head(self, status: int, headers: Headers) -> bytes:
        self.status = status
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in (*headers, *self._extra)]
        if not self._keep_alive or status in _BODY_IS_LEFT:
            self._keep_alive = False
            lines.append("connection: close")
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header has a line break in it")
        return f"{head}\r\n\r\n".encode("latin-1", "replace")
