"""The client's writer: how bytes reach the client's socket.

Model routes answer raw. Whoever has read the request, this module writes head and body to the connection's transport
itself: an upstream's `data_received` may call `write` directly, with no coroutine woken and no response object in between
(a wake-up with `await write()` costs 20-25 us per chunk, a raw write 4-7).

A request that came through aiohttp's handler ends with `Written`, whose `prepare` and `write_eof` do nothing: aiohttp must
be told that all is done. After the first raw byte no exception may leave the handler, else aiohttp would write a second
head into the stream.

Two names of aiohttp's protocol are used that its documentation does not list, `_paused` and `_drain_helper`; its
minor version is pinned for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler
from msgspec import Struct

from gateway.cors import exposed
from gateway.inbound import Head
from gateway.outbox import Outbox
from gateway.story import as_task

_FIRST_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODY_IS_LEFT = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}
_MANY = 2_048
_SIZES = [b"%x\r\n" % size for size in range(_MANY)]
"""The lines that say how long a chunk is: to look one up takes 0.03 us, to write it 0.3."""
_STREAM = (
    "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """Headers as the lines of a head, each with its end. Raises `ValueError` if one has a line break in it."""
    pairs = [f"{name}: {value}" for name, value in headers]
    if any("\n" in pair or "\r" in pair for pair in pairs):
        raise ValueError("a header has a line break in it")
    return "".join(f"{pair}\r\n" for pair in pairs)


def abort_after(transport: asyncio.Transport, patience: float) -> None:
    """Send what is written already for so many seconds to a client that does not read. Whoever calls this closes it."""
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(patience, transport.abort)


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


class ClientWriter(Struct, eq=False):
    """One answer to one client, written once from head to end. Made by `writer_for`.

    Headers are given as lines (`header_lines`); what is written more than once is prepared once. A struct for the same reason as
    the exchange: its defaults are filled in without a line of Python.
    """

    _protocol: RequestHandler
    _transport: asyncio.Transport
    _outbox: Outbox
    _chunked: bool
    _cors: str
    stays_open: bool
    """The connection is kept for another request."""
    _opening: bytes = b""
    _goes_on: bool = False
    """A stream in chunks, whose head is out."""
    status: int = 0
    opened: bool = False
    """The head is out: from here a failure is an event in the stream, not another answer."""
    ended: bool = False
    written: int = 0
    """Bytes of body so far."""

    def close_after(self) -> None:
        """No other request shall come on this connection."""
        self.stays_open = False

    def invite_body(self) -> None:
        """Tell a client that waits for it (`Expect: 100-continue`) that its body is wanted."""
        self._outbox.write(self._transport, b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer(self, status: int, headers: str, body: bytes, media_type: str = "application/json") -> None:
        """A whole answer in one write."""
        self.opened = self.ended = True
        self.written = len(body)
        more = f"content-type: {media_type}\r\n{headers}content-length: {len(body)}\r\n"
        self._outbox.write(self._transport, self._head(status, more) + body)

    def open_stream(self, headers: str) -> None:
        """The head of a stream. It goes out with the first events."""
        self.opened = True
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        self._opening = self._head(200, f"{_STREAM}{headers}{framing}")

    def write(self, events: bytes) -> bool:
        """Whole events, as one chunk. True: the client `is_full` now. For one that has gone, of which its story hears in its own
        turn, they are lost.
        """
        size = len(events)
        self.written += size
        if self._goes_on and size < _MANY:
            data = b"".join((_SIZES[size], events, b"\r\n"))
        else:
            data = self._framed(events)
        try:
            if self._outbox.waiting:
                self._outbox.pass_on(self._transport, data)
            else:
                self._transport.write(data)
        except RuntimeError:  # uvloop's word for a socket that is closed
            return False
        return self._protocol._paused  # noqa: SLF001 - see the head of this module

    def _framed(self, events: bytes) -> bytes:
        """The same for the first events, which the head goes before, for large ones, and for clients that know no chunks."""
        data = b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events
        self._goes_on = self._chunked
        if self._opening:
            data, self._opening = self._opening + data, b""
        return data

    def end(self) -> None:
        """The stream is complete."""
        self.ended = True
        self._outbox.pass_on(self._transport, self._opening + (b"0\r\n\r\n" if self._chunked else b""))

    def break_off(self, patience: float) -> None:
        """The stream is not complete, and the client shall see that: no terminating chunk, the connection closes.

        What is written already is still sent, for `patience` seconds to a client that does not read.
        """
        self.ended = True
        self.stays_open = False
        self._outbox.flush()
        abort_after(self._transport, patience)
        self._transport.close()

    def drop(self) -> None:
        """Close at once; what is not yet sent is lost."""
        self.ended = True
        self.stays_open = False
        self._transport.abort()

    @property
    def is_full(self) -> bool:
        """The client reads more slowly than the provider writes: stop the provider until `drained`."""
        return self._protocol._paused  # noqa: SLF001 - see the head of this module

    async def drained(self, timeout: float) -> None:
        """Wait until the client has read. Raises `TimeoutError` after `timeout` seconds without room."""
        await as_task()
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

    def response(self, patience: float) -> Written:
        """What the handler returns to aiohttp, which may write or close next; then the rest is sent for `patience` seconds."""
        self._outbox.flush()
        if not self.stays_open:
            abort_after(self._transport, patience)
        return Written(self.status, keep_alive=self.stays_open)

    def _head(self, status: int, headers: str) -> bytes:
        self.status = status
        if status in _BODY_IS_LEFT:
            self.stays_open = False
        last = "" if self.stays_open else "connection: close\r\n"
        first = _FIRST_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n"
        cors = self._cors + exposed(headers) if self._cors else ""
        return f"{first}{headers}{cors}{last}\r\n".encode("latin-1", "replace")


def writer_for(protocol: RequestHandler, head: Head, outbox: Outbox) -> ClientWriter:
    """What answers a request with this head. Raises `ClientGone`."""
    transport = protocol.transport
    if transport is None:
        raise ClientGone
    # HTTP/1.0 clients only keep what answers in words of their own; they are few, and closing is always right.
    stays_open = head.keep_alive and head.chunked
    return ClientWriter(protocol, transport, outbox, head.chunked, head.cors, stays_open)
