"""What comes in: heads and bodies."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import brotli
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from adapters.errors import BadRequest, GatewayError, TooLarge
from gateway.endpoints import ENDPOINTS
from gateway.inbound import Head, Incoming, ThroughAiohttp, head_of
from gateway.story import Story
from tests.harness import Received, receive

CHAT = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions")


def head(**headers: str) -> Head:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(CHAT, CIMultiDictProxy(CIMultiDict(named)), remote="127.0.0.1", keep_alive=True)


# -- the head --------------------------------------------------------------------------------------------------------


def test_a_head_knows_its_host_and_its_call() -> None:
    """Names are found in any case, and what is not there is empty."""
    told = head(Host="x", X_LiteLLM_Call_Id="call-1")
    assert (told.host, told.call_id) == ("x", "call-1")
    assert (head().host, head().call_id) == ("", "")


def test_a_call_id_is_bounded() -> None:
    """A client's own name for its request has 128 characters at most."""
    assert head(x_litellm_call_id="a" * 1000).call_id == "a" * 128


def test_nothing_is_known_of_a_new_head() -> None:
    """What stages find out is not there before they have, and no two heads share it."""
    one, other = head(), head()
    assert (one.caller, one.controls, one.crossing, one.end_user) == (None, None, None, "")
    assert one.keys_version < 0
    one.written["x"] = 1
    assert other.written == {}


# -- a body from the socket ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 10, 100])
async def test_a_body_is_read_when_it_is_whole(step: int) -> None:
    """Whatever the pieces are, the reader goes on within the call that brings the last, and has all of it."""
    body = b"0123456789"
    incoming = Incoming(len(body), b"")
    read: list[bytes] = []

    async def tale() -> None:
        read.append(await incoming.read())

    Story(asyncio.get_running_loop()).start(tale())
    for at in range(0, len(body), step):
        assert read == []
        assert incoming.missing == len(body) - at
        assert incoming.feed(body[at : at + step]) == b""
    assert read == [body]
    assert (incoming.missing, incoming.size) == (0, len(body))


async def test_what_is_behind_a_body_comes_back() -> None:
    """Bytes of the next request are given back, with the piece that ends the body and after it."""
    incoming = Incoming(5, b"ab")
    assert incoming.missing == 3
    assert incoming.feed(b"cdePOST") == b"POST"
    assert incoming.feed(b" /") == b" /"
    assert await incoming.read() == b"abcde"


async def test_a_body_that_came_before_it_was_asked_for() -> None:
    """Who reads late waits for nothing."""
    incoming = Incoming(2, b"a")
    incoming.feed(b"b")
    assert await incoming.read() == b"ab"


async def test_a_forgotten_body_is_counted() -> None:
    """Nobody gets it, but its end is found, and what is behind it."""
    incoming = Incoming(6, b"ab")
    incoming.forget()
    assert incoming.feed(b"cd") == b""
    assert incoming.missing == 2
    assert incoming.feed(b"efPOST") == b"POST"
    assert incoming.missing == 0


async def test_a_forgotten_body_is_not_kept() -> None:
    """What comes of it afterwards is let go at once: a refused client costs no memory."""
    incoming = Incoming(1000, b"x" * 100)
    incoming.forget()
    incoming.feed(b"x" * 900)
    assert await incoming.read() == b""


# -- a body through aiohttp ------------------------------------------------------------------------------------------


class Reading:
    """A server of aiohttp's own whose handler reads the body, and keeps what it found out."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.sizes: list[int | None] = []
        self.bodies: list[bytes] = []
        self.errors: list[GatewayError] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.heads.append(head_of(request, CHAT, cors="vary: origin\r\n"))
        body = ThroughAiohttp(request)
        self.sizes.append(body.size)
        try:
            self.bodies.append(await body.read())
        except GatewayError as error:
            self.errors.append(error)
        return web.Response()

    async def ask(self, data: bytes) -> Received:
        """Send these bytes and nothing more, and hear the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await receive(reader)
        finally:
            writer.close()


@asynccontextmanager
async def _served() -> AsyncIterator[Reading]:
    reading = Reading()
    app = web.Application(client_max_size=100)
    app.router.add_route("*", "/", reading.handle)
    app.router.add_route("*", "/of/{model}", reading.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    reading.port = runner.addresses[0][1]
    try:
        yield reading
    finally:
        await runner.cleanup()


@pytest.fixture
async def reading() -> AsyncIterator[Reading]:
    async with _served() as reading:
        yield reading


async def test_aiohttp_reads_a_body(reading: Reading) -> None:
    """With a length its size is known before, in chunks it is not."""
    await reading.ask(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
    await reading.ask(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert reading.bodies == [b"hi", b"hi"]
    assert reading.sizes == [2, None]


@pytest.mark.parametrize(
    ("lines", "body", "error"),
    [
        ("content-length: 101", b"x" * 101, TooLarge),
        ("transfer-encoding: chunked", b"65\r\n%b\r\n0\r\n\r\n" % (b"x" * 101), TooLarge),
        ("content-length: 3\r\ncontent-encoding: gzip", b"abc", BadRequest),
        ("content-length: 10\r\ncontent-encoding: gzip", gzip.compress(b"{}")[:10], BadRequest),
        ("content-length: 3\r\ncontent-encoding: br", brotli.compress(b'{"models":["a"]}')[:3], BadRequest),
    ],
    ids=["length", "chunks", "bad gzip", "cut gzip", "cut brotli"],
)
async def test_what_aiohttp_cannot_read_is_our_error(
    reading: Reading, lines: str, body: bytes, error: type[GatewayError]
) -> None:
    """Aiohttp's own exceptions come as ours, which clients are answered with."""
    await reading.ask(b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n%b" % (lines.encode(), body))
    assert [type(each) for each in reading.errors] == [error]
    assert reading.bodies == []


@pytest.mark.parametrize("lines", [b"", b"content-length: 0\r\n"], ids=["nothing said", "no bytes"])
async def test_no_body_needs_no_unpacking(reading: Reading, lines: bytes) -> None:
    """A client that names a coding with each of its requests, also those without a body, is heard."""
    await reading.ask(b"POST / HTTP/1.1\r\nhost: x\r\n%bcontent-encoding: gzip\r\n\r\n" % lines)
    assert (reading.bodies, reading.errors) == ([b""], [])


async def test_the_head_of_aiohttps_request(reading: Reading) -> None:
    """It says what the connection's own reader would say, and the model that stands in the path."""
    await reading.ask(
        b"POST /of/gpt-4o HTTP/1.1\r\nHost: x\r\nX-LiteLLM-Call-Id: a\r\ncontent-length: 0\r\n\r\n"
    )
    await reading.ask(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    await reading.ask(b"POST / HTTP/1.0\r\ncontent-length: 0\r\n\r\n")
    told = [(each.model, each.host, each.call_id, each.keep_alive, each.chunked) for each in reading.heads]
    assert told == [
        ("gpt-4o", "x", "a", True, True),
        ("", "x", "", False, True),
        ("", "", "", False, False),
    ]
    assert {each.remote for each in reading.heads} == {"127.0.0.1"}
    assert {each.cors for each in reading.heads} == {"vary: origin\r\n"}
