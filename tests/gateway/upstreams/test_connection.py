"""What goes over one connection."""

from __future__ import annotations

import asyncio

import pytest

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamMalformed, UpstreamTimeout
from gateway.outbox import CROWD, Outbox
from gateway.story import Story
from gateway.upstreams import UpstreamResponse, Upstreams
from gateway.upstreams.connection import HEAD_LIMIT, HEADER_LIMIT, INTERIM_LIMIT
from tests.gateway.upstreams.conftest import post
from tests.gateway.upstreams.scripted import Peer, answer, chunked, each, serve


async def send(upstreams: Upstreams, url: str, body: bytes = b"{}", method: str = "POST") -> UpstreamResponse:
    return await upstreams.send(post(url, body, method=method), connect_timeout=10, head_timeout=10)


async def fetch(upstreams: Upstreams, url: str, body: bytes = b"{}", method: str = "POST") -> bytes:
    async with await send(upstreams, url, body, method) as response:
        return await response.read(1 << 20, 10)


async def test_an_answer_has_status_headers_and_body(upstreams: Upstreams) -> None:
    """Status, lower-case header names, joined repetitions and the body arrive."""
    data = answer(
        b'{"a":1}', "X-Thing: one", "x-thing: two", "Content-Type: application/json", status="201 Made"
    )
    async with serve(each(data)) as server, await send(upstreams, server.url) as response:
        assert response.status == 201
        assert response.headers["x-thing"] == "one, two"
        assert response.headers["content-type"] == "application/json"
        assert not response.reused
        assert not response.possible_duplicate
        assert response.connect_seconds > 0
        assert await response.read(100, 10) == b'{"a":1}'


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (answer(b"hello"), b"hello"),
        (answer(b""), b""),
        (chunked(b"he", b"l", b"lo"), b"hello"),
        (chunked(b"hello", end=b"0\r\nX-Trailer: yes\r\nOther: 1\r\n\r\n"), b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + answer(b"ok"), b"ok"),
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_bodies_end_where_they_should(
    upstreams: Upstreams, data: bytes, body: bytes, split: bool
) -> None:
    """Each framing gives its body, in one piece or byte by byte, and the connection is used again."""

    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            await (peer.send_split(data) if split else peer.send(data))

    async with serve(play) as server:
        for _ in range(3):
            assert await fetch(upstreams, server.url) == body
        assert server.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        answer(b"hello", "Connection: close"),
        chunked(b"hello", head="HTTP/1.1 200 OK\r\nConnection: close"),
    ],
)
async def test_a_connection_that_closes_is_not_used_again(upstreams: Upstreams, data: bytes) -> None:
    """Bodies that end with the connection are whole, and each request gets a new connection."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    async with serve(play) as server:
        for _ in range(2):
            assert await fetch(upstreams, server.url) == b"hello"
        assert server.connections == 2


async def test_what_comes_with_the_head_is_there_when_it_is_told_of(upstreams: Upstreams) -> None:
    """A story that waits for the head goes on with the first piece in its hands: it is not woken twice."""
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    pieces: list[bytes] = []
    at_once: list[list[bytes]] = []
    done = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"ok"))
        await peer.request()
        await peer.send(begun)
        await done.wait()

    async def ask(url: str) -> None:
        prepared = upstreams.prepare("POST", url, [], "")
        response = await upstreams.ask(prepared, b"{}", connect_timeout=10, head_timeout=None)
        response.pump(pieces.append, lambda _: None)
        at_once.append(list(pieces))
        response.abort()
        done.set()

    async with serve(play) as server:
        # From here on a connection is free, and nothing else is awaited.
        assert await fetch(upstreams, server.url) == b"ok"
        Story(asyncio.get_running_loop()).start(ask(server.url))
        await asyncio.wait_for(done.wait(), 10)
    assert at_once == [[b"hello"]]


async def test_an_answer_to_head_has_no_body(upstreams: Upstreams) -> None:
    """The length in an answer to HEAD is not waited for."""
    async with serve(each(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")) as server:
        assert await fetch(upstreams, server.url, b"", "HEAD") == b""
        assert await fetch(upstreams, server.url, b"", "HEAD") == b""


async def test_a_redirect_is_an_answer(upstreams: Upstreams) -> None:
    """Nothing follows a Location header."""
    data = answer(b"", "Location: http://169.254.169.254/", status="302 Found")
    async with serve(each(data)) as server, await send(upstreams, server.url) as response:
        assert response.status == 302
        assert server.asked == 1


@pytest.mark.parametrize(
    "data",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (HEADER_LIMIT + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (HEAD_LIMIT + 1) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 4 * HEAD_LIMIT,
        b"HTTP/1.1 200 " + b"y" * 4 * HEAD_LIMIT,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (INTERIM_LIMIT + 1),
    ],
)
async def test_a_head_that_cannot_be_trusted_is_refused(upstreams: Upstreams, data: bytes) -> None:
    """Contradictions, oddities and excesses in a head are errors, and the connection is closed."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        await peer.gone()

    async with serve(play) as server:
        with pytest.raises(UpstreamMalformed):
            await fetch(upstreams, server.url)
        await server.until(lambda seen: not seen.open)


@pytest.mark.parametrize(
    "end",
    [
        b"0x5\r\nhello\r\n",
        b"-1\r\n",
        b"ffffffffffffffffffff\r\n",
        b"5\nhello\n",
        b"5\r\nhelloworld\r\n",
        b"zz\r\n",
        b"0\r\n" + b"Trailer: " + b"y" * 4 * HEAD_LIMIT,
        b"5;" + b"y" * 4 * HEAD_LIMIT,
    ],
)
async def test_a_body_with_bad_chunks_is_refused(upstreams: Upstreams, end: bytes) -> None:
    """What comes before a bad chunk is delivered, then the error ends the body and the connection."""
    pieces: list[bytes] = []
    over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"good", end=end))
        await peer.gone()

    async with serve(play) as server, await send(upstreams, server.url) as response:
        response.pump(pieces.append, over.set_result)
        assert isinstance(await over, UpstreamMalformed)
        assert b"".join(pieces).startswith(b"good")
        await server.until(lambda seen: not seen.open)


async def test_a_second_answer_closes_the_connection(upstreams: Upstreams) -> None:
    """An answer that nobody asked for is never given to the next request."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"mine") + answer(b"yours"))
        await peer.gone()

    async with serve(play) as server:
        assert await fetch(upstreams, server.url) == b"mine"
        await server.until(lambda seen: not seen.open)
        assert await fetch(upstreams, server.url) == b"mine"
        assert server.connections == 2


async def test_bytes_on_an_idle_connection_close_it(upstreams: Upstreams) -> None:
    """A farewell that comes while nobody asks is not an answer to the next request."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"first"))
        await said.wait()
        await peer.send(answer(b"too slow", status="408 Request Timeout"))
        await peer.gone()

    said = asyncio.Event()
    async with serve(play) as server:
        assert await fetch(upstreams, server.url) == b"first"
        said.set()
        await server.until(lambda seen: not seen.open)
        assert await fetch(upstreams, server.url) == b"first"


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        answer(b"hello")[:-1],
        chunked(b"hello", end=b""),
        chunked(b"hello", end=b"0\r\n"),
    ],
)
async def test_a_cut_answer_is_an_error(upstreams: Upstreams, data: bytes, how: str) -> None:
    """Whichever way a server breaks off, the answer is `UpstreamDisconnected`, never a short body."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if how == "reset":
            peer.reset()
        elif how == "half":
            peer.finish()
            await peer.gone()

    async with serve(play) as server:
        with pytest.raises(UpstreamDisconnected) as caught:
            await fetch(upstreams, server.url)
        assert not caught.value.reused
        await server.until(lambda seen: not seen.open)
        assert server.asked == 1


async def test_a_silent_server_times_out(upstreams: Upstreams) -> None:
    """Without a head in time the error says which time it was, and the connection is closed."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.gone()

    async with serve(play) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await upstreams.send(post(server.url), connect_timeout=10, head_timeout=0.05)
        assert caught.value.code == "first_event_timeout"
        await server.until(lambda seen: seen.connections == 1 and not seen.open)


async def test_an_answer_before_the_request_is_sent(upstreams: Upstreams) -> None:
    """An early answer is delivered, and the half-sent request's connection is not used again."""

    async def play(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"too large", status="413 Too Large"))
        await enough.wait()

    enough = asyncio.Event()
    async with serve(play) as server:
        for number in range(2):
            async with await send(upstreams, server.url, b"x" * (32 << 20)) as response:
                assert response.status == 413
                assert await response.read(100, 10) == b"too large"
            assert server.connections == number + 1
        enough.set()


async def test_an_answer_while_its_request_waits_in_the_outbox() -> None:
    """What a server sends unasked may be taken for an answer; the answer that follows is not the next request's."""
    outbox = Outbox(asyncio.get_running_loop())
    upstreams = Upstreams(max_connections=1, outbox=outbox)
    bodies: list[bytes] = []
    over = asyncio.Event()

    async def play(peer: Peer) -> None:
        while True:
            await peer.send(answer((await peer.request()).partition(b"\r\n\r\n")[2]))

    async def tale() -> None:
        for number in (1, 2):
            response = await upstreams.ask(
                prepared, b"%d" % number, connect_timeout=30, head_timeout=None, collect=100
            )
            bodies.append(await response.read(100, None))

    async with serve(play) as server:
        prepared = upstreams.prepare("POST", server.url, ())
        async with await upstreams.ask(prepared, b"0", connect_timeout=30, head_timeout=30) as response:
            await response.read(100, 30)
        outbox.under_way = CROWD
        Story(asyncio.get_running_loop(), lambda _: over.set()).start(tale())
        [connection] = upstreams._pool(prepared)._places
        assert outbox.waiting
        connection.data_received(
            answer(b"unasked")
        )  # the loop found both sockets readable: the client's, and this
        await over.wait()
        assert bodies == [b"unasked", b"2"]
        await upstreams.close()


async def test_one_read_is_one_piece(upstreams: Upstreams) -> None:
    """However many chunks arrive together, they are handed on once."""
    pieces: list[bytes] = []
    over: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()
    head, _, rest = chunked(*(b"data: %d\n\n" % number for number in range(50))).partition(b"\r\n\r\n")

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + b"\r\n\r\n")
        await ready.wait()
        await peer.send(rest)

    ready = asyncio.Event()
    async with serve(play) as server, await send(upstreams, server.url) as response:
        response.pump(pieces.append, over.set_result)
        ready.set()
        assert await over is None
    assert pieces == [b"".join(b"data: %d\n\n" % number for number in range(50))]


async def test_a_large_request_arrives_whole(upstreams: Upstreams) -> None:
    """A body of many megabytes is sent as it is."""
    body = bytes(range(256)) * (1 << 15)
    async with serve(each(answer())) as server:
        assert await fetch(upstreams, server.url, body) == b"ok"
        assert server.requests[0].endswith(b"\r\n\r\n" + body)


async def test_cancelling_a_waiting_request_closes_its_socket(upstreams: Upstreams) -> None:
    """Whoever stops waiting for the head takes the connection with them."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with serve(play) as server:
        loop = asyncio.get_running_loop()
        asking = loop.create_task(send(upstreams, server.url))
        await server.until(lambda seen: seen.connections == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.until(lambda seen: not seen.open)
        assert " 0 active, 0 idle" in repr(upstreams)
