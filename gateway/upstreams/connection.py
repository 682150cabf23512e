"""One connection to a provider: HTTP/1.1, one request at a time.

The parser (llhttp) is strict: lengths that contradict one another, odd chunk sizes, bare line feeds and the like are
errors, and after an error the connection is closed, so nobody can smuggle an answer into somebody else's request. What
the parser leaves open is decided here: only `chunked` counts as a transfer coding, heads and trailers have limits,
interim answers are skipped but counted, and anything that comes unasked closes the connection.

`data_received` is the hot path. However many chunks one read holds, their bodies are joined and handed on once: one
read, one write.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamMalformed, UpstreamTimeout
from gateway.outbox import Outbox
from gateway.story import Signal
from gateway.upstreams.response import UpstreamResponse

HEAD_LIMIT = 64 * 1024
"""Bytes of names and values in one head."""
HEADER_LIMIT = 200
"""Headers in one head."""
INTERIM_LIMIT = 20
"""Answers with a 1xx status before the real one."""
QUIET_LIMIT = 2 * HEAD_LIMIT
"""Bytes in a row that bring neither a whole head nor a piece of body: endless header lines, extensions, trailers."""

_HEAD, _BODY, _DONE = range(3)

_NAMES: dict[bytes, str] = {}
"""Names of headers as they came, and as we write them; bounded, because providers choose them."""
_MOST_NAMES = 1_000


def _learn(name: bytes) -> str:
    key = name.decode("latin-1").lower()
    if len(_NAMES) < _MOST_NAMES and len(name) < 100:
        _NAMES[name] = key
    return key


class Owner(Protocol):
    """Who lends connections out: the pool."""

    def answered(self, connection: Connection) -> None:
        """The head of the first answer on it has come."""

    def finished(self, connection: Connection, *, reusable: bool) -> None:
        """The exchange is over. Called once for each `ask`."""

    def lost(self, connection: Connection) -> None:
        """Closed while nobody used it."""

    def gone(self, connection: Connection) -> None:
        """The socket is closed for good."""


class Connection(asyncio.Protocol):
    """A socket and its parser. Not connected until the event loop has called `connection_made`."""

    __slots__ = (
        "_closed",
        "_failure",
        "_goes_on_early",
        "_has_received",
        "_head",
        "_header_count",
        "_header_size",
        "_headers",
        "_interim",
        "_keep",
        "_loop",
        "_method",
        "_outbox",
        "_owner",
        "_parser",
        "_paused",
        "_pieces",
        "_quiet",
        "_response",
        "_stage",
        "_transport",
        "_until_close",
        "idle_since",
        "on_body",
        "uses",
    )

    # what is known of the answer under way; `_expect` begins a new one
    _method: str
    _stage: int
    _failure: UpstreamMalformed | None
    _goes_on_early: bool
    _keep: bool
    _until_close: bool
    _has_received: bool
    _quiet: int
    _interim: int
    _headers: dict[str, str]
    _header_count: int
    _header_size: int

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self.uses = 0
        self.idle_since = 0.0
        self._owner = owner
        self._loop = loop
        self._outbox = outbox
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._paused = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # the parser calls the list itself: no Python frame per chunk
        self._response: UpstreamResponse | None = None
        self._expect()

    @property
    def is_connected(self) -> bool:
        """Can it be asked?"""
        return self._transport is not None and not self._closed

    @property
    def is_closed(self) -> bool:
        """It was closed, by whichever side, and is good for nothing."""
        return self._closed

    @property
    def transport(self) -> asyncio.Transport | None:
        """What the event loop gave, None before."""
        return self._transport

    # -- for the pool ------------------------------------------------------------------------------------------------

    async def ask(
        self, wire: list[bytes], method: str, head_timeout: float | None, collect: int = 0
    ) -> UpstreamResponse:
        """Send a request and wait for the answer's head, `head_timeout` seconds at most (None: somebody else watches).

        `collect`: wait for the whole body too, if the status is 2xx; it has at most so many bytes. One wake-up less.
        Raises `UpstreamTimeout` (`first_event_timeout`), `UpstreamDisconnected`, `UpstreamMalformed`. The connection
        goes back to its owner when the answer ends; when the caller is cancelled, the socket is closed.
        """
        self.send(wire, method, collect)
        return await self.answered(head_timeout)

    def send(self, wire: list[bytes], method: str, collect: int = 0) -> None:
        """Send a request. `answered`, before anything else is awaited, waits for what `ask` does."""
        assert self._transport is not None, "the pool lends only connected ones"  # noqa: S101 - for the type checker
        for piece in wire:
            self._outbox.write(self._transport, piece)
        # Nothing comes back before the event loop has its turn.
        self._response = UpstreamResponse(self, reused=self.uses > 0, collect=collect)
        self._method = method
        self.uses += 1

    async def answered(self, head_timeout: float | None) -> UpstreamResponse:
        """The answer to what was sent. See `ask`."""
        head, response = self._head, self._response
        assert response is not None, "nothing was sent"  # noqa: S101 - for the type checker
        timer = (
            None
            if head_timeout is None
            else self._loop.call_later(head_timeout, self._too_late, response, head_timeout)
        )
        try:
            await head
        except BaseException:
            response.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not response.status and response.error is not None:
            try:
                raise response.error
            finally:
                del response  # it has the error, whose traceback has this frame
        if self.uses == 1:
            self._owner.answered(self)
        return response

    def close(self) -> None:
        """Close the socket at once. An answer on it fails."""
        if self._response is not None:
            self._response.fail(self._broken("The gateway closed the connection"))
        if self._closed:
            return
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # -- for the response --------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._paused and self._transport is not None and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """The answer failed or nobody wants its rest."""
        head = self._head
        self._over(reusable=False)
        head.set()

    # -- for the event loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser: HttpResponseParser = HttpResponseParser(self)
        if self._closed:  # given up while the loop was still connecting
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:  # nobody asked: a farewell (408), or worse
            self.close()
            self._owner.lost(self)
            return
        failure: UpstreamError | None = None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keep = False
            if self._stage != _DONE:
                failure = self._failure or UpstreamMalformed(f"The provider's answer is not HTTP: {error}")
        piece = b""
        if self._pieces:
            piece = b"".join(self._pieces)  # a single one is given back as it is
            self._pieces.clear()
            self._quiet = 0
        receive = response.receive
        if receive is not None and self._stage == _BODY and failure is None and piece:
            # In the midst of a stream nothing below can be so.
            try:
                receive(piece)
            except Exception as error:
                response.broke(error)
            return
        self._has_received = True
        if self._goes_on_early and self._stage != _HEAD:
            self._goes_on_early = False
            if piece and self._stage == _BODY and failure is None:
                response.feed(piece)  # before the head is told of: who waits for it is woken once for both
                self._head.set()
                return
            self._head.set()  # here and not in the parser's callback: who waits for it goes on at once
        if piece:
            if (
                self._stage == _DONE
                and not response.collect
                and failure is None
                and self._response is response
            ):
                self._complete(response, piece)  # a stream's story ends here, and need not wait for the end
                return
            response.feed(piece)
        else:
            self._quiet += len(data)
            if self._quiet > QUIET_LIMIT and failure is None:
                failure = UpstreamMalformed("The provider's answer has a head or a trailer without end")
        if failure is not None:
            response.fail(failure)
        elif self._stage == _DONE and self._response is response:
            self._complete(response)

    def eof_received(self) -> None:
        response = self._response
        if response is not None and self._stage == _BODY and self._until_close:
            self._complete(response)
        elif response is not None:
            response.fail(self._broken("The provider closed the connection"))
        else:
            self.close()
            self._owner.lost(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if self._response is not None:
            reason = "The connection to the provider broke"
            self._response.fail(self._broken(f"{reason}: {error}" if error else reason))
        self._owner.lost(self)
        self._owner.gone(self)
        del self._parser  # it holds our methods: a cycle that only the garbage collector would find

    # -- for the parser ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._stage == _DONE:
            raise self._refuse("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage != _HEAD:
            return  # a trailer
        self._header_count += 1
        self._header_size += len(name) + len(value)
        if self._header_count > HEADER_LIMIT or self._header_size > HEAD_LIMIT:
            raise self._refuse("a head that is too large")
        key = _NAMES.get(name) or _learn(name)
        headers = self._headers
        headers[key] = (
            f"{headers[key]}, {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        )

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers = self._headers
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > INTERIM_LIMIT:
                raise self._refuse("an upgrade" if status == 101 else "too many interim answers")
            self._headers = {}
            self._header_count = self._header_size = 0
            return
        version = self._parser.get_http_version()
        coding = headers.get("transfer-encoding")
        if version not in {"1.1", "1.0"}:
            raise self._refuse("an unknown version of HTTP")
        if coding is not None and (
            coding.lower() != "chunked" or version == "1.0" or "content-length" in headers
        ):
            raise self._refuse("a transfer coding that cannot be trusted")
        self._stage = _BODY
        assert self._response is not None  # noqa: S101 - for the type checker: bytes are parsed only for a response
        self._goes_on_early = not self._response.collect or not 200 <= status < 300
        self._keep = self._parser.should_keep_alive()
        self._until_close = coding is None and "content-length" not in headers and status not in {204, 304}
        self._quiet = 0
        self._response.status = status
        self._response.headers = headers
        if self._method == "HEAD":  # the parser does not know, and would wait for the body that was measured
            self._stage = _DONE
            raise self._refuse("a body that was not asked for")

    def on_message_complete(self) -> None:
        if self._stage == _BODY:
            self._stage = _DONE

    # -- inside ------------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        """Nothing of the next answer is here yet. Called when one is over: then nobody waits."""
        self._method = ""
        self._head = Signal()
        self._stage = _HEAD
        self._failure = None
        self._goes_on_early = False
        self._keep = False
        self._until_close = False
        self._has_received = False
        self._quiet = 0
        self._interim = 0
        self._headers = {}
        self._header_count = 0
        self._header_size = 0

    def _refuse(self, what: str) -> UpstreamMalformed:
        """The error to stop the parser with, kept because the parser raises another one in its place."""
        self._failure = UpstreamMalformed(f"The provider sent {what}")
        return self._failure

    def _broken(self, message: str) -> UpstreamDisconnected:
        reused = self._response is not None and self._response.reused
        return UpstreamDisconnected(message, reused=reused, received=self._has_received)

    def _too_late(self, response: UpstreamResponse, seconds: float) -> None:
        response.fail(
            UpstreamTimeout(f"The provider did not answer in {seconds:g} s", code="first_event_timeout")
        )

    def _complete(self, response: UpstreamResponse, last: bytes = b"") -> None:
        transport = self._transport
        unsent = transport is not None and (
            transport.get_write_buffer_size() > 0 or transport in self._outbox.waiting
        )
        head = self._head  # whoever goes on in one of these calls may ask again on this connection
        self._over(reusable=self._keep and not unsent)
        response.complete(last)
        head.set()

    def _over(self, *, reusable: bool) -> None:
        """The exchange has ended: the connection goes back."""
        self._response = None
        self._expect()
        if self._paused:
            self.resume()
        self._owner.finished(self, reusable=reusable and not self._closed)
