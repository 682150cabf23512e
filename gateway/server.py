"""The way in: a connection that serves model routes straight from the socket, and everything else through aiohttp.

aiohttp's server needs 30 to 40 us for a request before its handler runs. A request to a model route that is plainly plain
(one `POST` of a known path, HTTP/1.1, one `Content-Length`, nothing that needs interpretation) is taken from
`data_received` instead, and its story begins in that call. Whatever is not plain, from a pipelined `GET` to a smuggler's
two lengths, goes to aiohttp byte for byte as it came, on the same connection; so there is one strict reader of the odd
things, and the quick one may be simple. `PENSTOCK_FAST_PATH=off` sends everything to aiohttp.

The rules that keep the two from getting into each other's way:

* Bytes go to aiohttp from the beginning of a message on, and it keeps the connection until that message has been
  answered. Where its end cannot be told (chunked bodies, pipelined requests), it keeps it for good.
* While a story runs, what else the client sends is held back, up to a bound, then reading pauses.
* aiohttp's keep-alive timer watches both; no request of ours is under way when it strikes.

`RequestHandler` documents nothing of what is used here, so aiohttp's minor version is pinned, and
tests/faults/test_conformance.py runs every case through both doors.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server
from multidict import CIMultiDict, CIMultiDictProxy

from adapters import CLIENTS
from adapters.errors import Bug, GatewayError, MalformedHttp
from gateway.client import ClientGone, ClientWriter, abort_after, header_lines, writer_for
from gateway.endpoints import dialect_of
from gateway.exchange import begin_exchange, new_id
from gateway.inbound import Endpoint, Head, Incoming, ThroughAiohttp, head_of
from gateway.malformed import reason_of
from gateway.pipeline import handle
from gateway.runtime import Runtime
from gateway.story import Story

HEAD_LIMIT = 8190
"""Bytes of a head that is read here; aiohttp's limit for one line of it."""
HEADER_LIMIT = 100
HELD_LIMIT = 64 * 1024
"""Bytes that a client may send ahead while its request is answered, before reading pauses."""
LINGER = 10.0
"""Seconds in which the rest of a refused request's body may come, so that the client sees the answer and no reset."""

_REQUEST_LINE = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n")
_HEADERS = re.compile(
    r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)[ \t]*\r\n",
    re.MULTILINE,
)
"""All headers in one call: 200 opcodes for an SDK's, 1,300 one by one. Where all is in the caches both take the same time, 13 us."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_ODD = frozenset({"transfer-encoding", "expect", "upgrade", "content-encoding", "trailer"})
_LONGEST_LENGTH = 16
_ANY_LENGTH = re.compile(rb"content-length", re.IGNORECASE)
_ONCE = ("host", "content-length")
_BORDERLESS = re.compile(rb"\r\n(transfer-encoding|upgrade)[ \t]*:", re.IGNORECASE)

HotPaths = Mapping[bytes, Endpoint]


class ClientConnection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_after_length",
        "_attended",
        "_before_length",
        "_client",
        "_goes_on",
        "_head",
        "_held",
        "_hot_paths",
        "_incoming",
        "_is_stopped",
        "_owed",
        "_remote",
        "_rt",
        "_story",
        "_with_aiohttp",
    )

    def __init__(self, rt: Runtime, hot_paths: HotPaths, manager: Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._rt = rt
        self._hot_paths = hot_paths
        self._remote: str | None = None
        self._story: Story | None = None
        self._attended: Story | None = None
        """That of a request which aiohttp has read."""
        self._client: ClientWriter | None = None
        self._incoming: Incoming | None = None
        self._held = b""
        self._goes_on = False
        """What is held will be looked at in a moment."""
        self._is_stopped = False
        # The head of the request before: an equal one, but for its length, need not be read again.
        self._before_length = b""
        self._after_length = b""
        self._head: Head | None = None
        self._with_aiohttp = not hot_paths
        self._owed = 0 if hot_paths else -1
        """Bytes that aiohttp's message still lacks; -1: nobody knows."""

    # -- for the event loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if isinstance(peer, tuple) and peer else None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._attended is not None:
            # aiohttp cancels its task: in the turn in which a deadline strikes that alone would be taken for the deadline's doing.
            self._attended.interrupt(ClientGone())
        super().connection_lost(exc)
        self._held = b""
        if self._story is not None:
            self._story.interrupt(ClientGone())

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp wakes its parser this way
            super().data_received(data)
        elif self._story is not None or self._incoming is not None or self._goes_on:
            self._hold(data)
        elif self._with_aiohttp and not self._is_back():
            self._give_more(data)
        elif not (self._close or self._force_close):
            if self._held:
                data, self._held = self._held + data, b""
            self._begin(data)

    def force_close(self) -> None:
        """Close the connection. What is written already is still sent, but nobody keeps a connection by not reading."""
        if self.transport is not None and not self.transport.is_closing():
            abort_after(self.transport, self._rt.limits.client_write)
        super().force_close()

    def _process_keepalive(self) -> None:
        if self._story is None and self._incoming is None:
            super()._process_keepalive()
            return
        self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)

    # -- the beginning of a message ----------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> None:
        before, after, head = self._before_length, self._after_length, self._head
        if head is not None and data.startswith(before):
            at = len(before)
            end = data.find(b"\r\n", at)
            digits = data[at:end]
            if data.startswith(after, end) and digits.isdigit() and len(digits) < _LONGEST_LENGTH:
                self._tell(head, data, end + len(after), int(digits))
                return
        end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT) + 4
        if end < 4 and len(data) < HEAD_LIMIT and self._may_be_ours(data):
            self._held = data
            return
        read = self._read_head(data, end) if end >= 4 else None
        if read is None:
            self._pass_on(data)
        else:
            self._tell(read[0], data, end, read[1])

    def _may_be_ours(self, data: bytes) -> bool:
        """As far as its line has come, does a request ask for one of our paths?"""
        line = _REQUEST_LINE.match(data)
        if line is not None:
            return line[1] in self._hot_paths
        return b"\n" not in data and any(
            (b"POST %b HTTP/1.1\r\n" % path).startswith(data) for path in self._hot_paths
        )

    def _read_head(self, data: bytes, end: int) -> tuple[Head, int] | None:
        """The head and the length of the body; None for what is not plainly plain."""
        line = _REQUEST_LINE.match(data)
        endpoint = self._hot_paths.get(line[1]) if line is not None else None
        if line is None or endpoint is None:
            return None
        lines = data[line.end() : end - 2].decode("utf-8", "surrogateescape")
        pairs = _HEADERS.findall(lines)
        if len(pairs) != lines.count("\n") or len(pairs) > HEADER_LIMIT:
            return None
        headers = CIMultiDictProxy(CIMultiDict(pairs))
        length = _LENGTH.search(data, line.end() - 2, end)
        if length is None or any(len(headers.getall(name, ())) != 1 for name in _ONCE):
            return None
        connection = ", ".join(headers.getall("connection", ("keep-alive",))).lower()
        if connection not in ("keep-alive", "close") or not headers.keys().isdisjoint(_ODD):
            return None
        self._head = head = Head(
            endpoint,
            headers,
            remote=self._remote,
            keep_alive=connection != "close",
            cors=header_lines(self._rt.cors_headers(headers.get("origin"))),
        )
        self._before_length, self._after_length = data[: length.start(1)], data[length.end(1) : end]
        return head, int(length[1])

    # -- our own way -------------------------------------------------------------------------------------------------

    def _tell(self, head: Head, data: bytes, at: int, length: int) -> None:
        """Let the story of a request begin; its body begins `at`."""
        body: bytes | Incoming
        end = at + length
        if len(data) >= end:
            body = data[at:end]
            if len(data) > end:
                self._keep(data[end:])
        else:
            body = self._incoming = Incoming(length, data[at:])
            self._read_on()  # the rest is wanted, however much was sent ahead
        self._client = client = writer_for(self, head, self._rt.outbox)
        self._story = story = Story(self._loop, self._told)
        story.start(handle(self._rt, begin_exchange(head, body, client, story, self._rt.now())))

    def _hold(self, data: bytes) -> None:
        """Take the rest of a body, and keep what was sent behind it."""
        incoming = self._incoming
        missing = incoming.missing if incoming is not None else 0
        if len(data) > missing:
            self._keep(self._held + data[missing:])
        if incoming is not None and missing:
            incoming.feed(data[:missing])
            if not incoming.missing and self._story is None and self._incoming is incoming:
                self._tidy_up()  # it was refused before, and has been waited for

    def _keep(self, held: bytes) -> None:
        self._held = held
        if len(held) > HELD_LIMIT and not self._is_stopped and self.transport is not None:
            self._is_stopped = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._is_stopped and self.transport is not None:
            self._is_stopped = False
            self.transport.resume_reading()

    def _told(self, _: Story) -> None:
        """The story is over."""
        self._story = None
        incoming = self._incoming
        if incoming is not None and incoming.missing and self.transport is not None:
            incoming.forget()
            self._loop.call_later(LINGER, self._give_up, incoming)
        else:
            self._tidy_up()

    def _give_up(self, incoming: Incoming) -> None:
        if self._incoming is incoming:
            self.force_close()

    def _tidy_up(self) -> None:
        """Close the connection, or wait for the next request."""
        self._incoming = None
        client, self._client = self._client, None
        if client is None or not client.stays_open or self._close or self._force_close:
            self._rt.outbox.flush()
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)
        if self._held or self._is_stopped:
            self._goes_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Look at what was sent ahead."""
        self._goes_on = False
        if self.transport is None:
            return
        data, self._held = self._held, b""
        if len(data) <= HELD_LIMIT:
            self._read_on()
        if data and not self._close:
            self._begin(data)

    # -- aiohttp's way -----------------------------------------------------------------------------------------------

    async def attend(self, story: Story, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the story of a request that aiohttp has read, in the task of its handler."""
        self._attended = story
        try:
            await story.attend(coroutine)
        finally:
            self._attended = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp could not read or answer. Who asks is not known, and where what came is no request,
        neither is the path: then the error is written so that readers of either dialect find what they look for.
        """
        super().handle_error(request, status, exc, message)  # it logs, and raises if an answer has begun
        if isinstance(exc, HttpProcessingError):
            self._rt.metrics.refused(MalformedHttp.reason)
            error = MalformedHttp(f"This is no HTTP request that can be read: {reason_of(exc)}")
            told = orjson.loads(CLIENTS["openai"].write_error(error, request_id="", mid_stream=False))
            response = _error_answer(error, orjson.dumps({"type": "error", **told}))
        else:
            response = refusal(request, Bug("Internal error"))
        sign(request, response)
        response.force_close()
        return response

    def _pass_on(self, data: bytes) -> None:
        self._with_aiohttp = True
        self._owed = _still_to_come(data)
        self._read_on()
        super().data_received(data)

    def _give_more(self, data: bytes) -> None:
        self._owed = max(-1, self._owed - len(data)) if self._owed > 0 else -1
        super().data_received(data)

    def _is_back(self) -> bool:
        """Has aiohttp answered all that it was given, and was that a whole number of messages?"""
        waiter = self._waiter
        if (
            self._owed
            or waiter is None
            or waiter.done()
            or self._messages
            or self._current_request is not None
        ):
            return False
        self._with_aiohttp = False
        return True


def _still_to_come(data: bytes) -> int:
    """How many bytes of the message that begins here are missing; -1 where that cannot be told, or it is not alone."""
    end = data.find(b"\r\n\r\n") + 4
    head = data[: max(end, 0)]
    lengths = _LENGTH.findall(head)
    if (
        end < 4
        or _BORDERLESS.search(head)
        or len(lengths) != len(_ANY_LENGTH.findall(head))
        or len(lengths) > 1
    ):
        return -1
    size = int(lengths[0]) if lengths else 0
    return max(-1, end + size - len(data))


def refusal(request: web.BaseRequest, error: GatewayError) -> web.Response:
    """An error in the dialect of whoever asks, for requests whose story does not begin."""
    write_error = CLIENTS[dialect_of(request.path, request.headers)].write_error
    return _error_answer(error, write_error(error, request_id=id_of(request), mid_stream=False))


def sign(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """The id of a request without a story, by the names that model routes give it; aiohttp would say which versions run here."""
    named = dict.fromkeys(("x-request-id", "request-id", "x-litellm-call-id"), id_of(request))
    response.headers.update({"server": "penstock", **named})


def id_of(request: web.BaseRequest) -> str:
    """By it client and log mean the same request."""
    if _ID not in request:
        request[_ID] = new_id()
    return request[_ID]


_ID = web.RequestKey("id", str)


def _error_answer(error: GatewayError, body: bytes) -> web.Response:
    headers = {"content-type": "application/json", **error.headers}
    return web.Response(status=error.status, body=body, headers=headers)


# -- the server ------------------------------------------------------------------------------------------------------


class _Server(Server):
    """aiohttp's server with our connections."""

    def __init__(self, rt: Runtime, hot_paths: HotPaths, other: Server) -> None:
        super().__init__(
            other.request_handler,
            request_factory=other.request_factory,
            handler_cancellation=other.handler_cancellation,
            loop=other._loop,  # noqa: SLF001 - it is taken apart to be put together again
            **other._kwargs,  # noqa: SLF001 - as above
        )
        self._rt = rt
        self._hot_paths = hot_paths

    def owes(self) -> bool:
        """Somebody has not been sent all that was written for them."""
        return any(transport.get_write_buffer_size() for transport in self._connections.values())

    def __call__(self) -> RequestHandler:
        return ClientConnection(self._rt, self._hot_paths, self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application behind `ClientConnection`s. `fast_path` off: aiohttp reads every request."""

    __slots__ = ("_hot_paths", "_rt")

    def __init__(
        self, app: web.Application, rt: Runtime, endpoints: Iterable[Endpoint], **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._rt = rt
        self._hot_paths = {
            endpoint.path.encode(): endpoint
            for endpoint in endpoints
            if rt.environment.fast_path and endpoint.method == "POST" and "{" not in endpoint.path
        }

    def owes(self) -> bool:
        """Somebody has not been sent all that was written for them, and would not be if the process ended now."""
        return isinstance(self.server, _Server) and self.server.owes()

    async def _make_server(self) -> Server:
        return _Server(self._rt, self._hot_paths, await super()._make_server())


async def through_aiohttp(rt: Runtime, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    """The handler of a model route, for requests that aiohttp has read."""
    cors = header_lines(rt.cors_headers(request.headers.get("origin")))
    head = head_of(request, endpoint, cors=cors)
    client = writer_for(request.protocol, head, rt.outbox)
    story = Story(asyncio.get_running_loop())
    if request.client_max_size != rt.body_limit:  # a reload has changed it since the application was made
        request = request.clone(client_max_size=rt.body_limit)
    told = handle(rt, begin_exchange(head, ThroughAiohttp(request), client, story, rt.now()))
    await cast("ClientConnection", request.protocol).attend(story, told)
    return client.response(rt.limits.client_write)
