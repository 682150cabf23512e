"""How bodies are taken."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from adapters.errors import UpstreamDisconnected, UpstreamError, UpstreamMalformed, UpstreamTimeout
from gateway.upstreams import UpstreamResponse, Upstreams
from gateway.upstreams.response import KEPT
from tests.gateway.upstreams.conftest import post
from tests.gateway.upstreams.scripted import Peer, answer, chunked, each, serve


async def send(upstreams: Upstreams, url: str) -> UpstreamResponse:
    return await upstreams.send(post(url), connect_timeout=10, head_timeout=10)


class Taken:
    """What a pump delivered."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends: list[UpstreamError | None] = []
        self.changed = asyncio.Event()

    def receive(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.changed.set()

    def ended(self, error: UpstreamError | None) -> None:
        self.ends.append(error)
        self.changed.set()

    async def until(self, body: bytes | None = None) -> None:
        """Wait until this much has come, or the end."""
        while not (self.ends if body is None else b"".join(self.pieces) == body):
            self.changed.clear()
            await self.changed.wait()


async def test_a_body_over_the_limit_is_refused(upstreams: Upstreams) -> None:
    """A body of exactly the limit is read, a longer one closes the connection."""
    async with serve(each(answer(b"12345"))) as server:
        async with await send(upstreams, server.url) as response:
            assert await response.read(5, 10) == b"12345"
        async with await send(upstreams, server.url) as response:
            with pytest.raises(UpstreamMalformed):
                await response.read(4, 10)


async def test_an_endless_body_is_cut_at_the_limit(upstreams: Upstreams) -> None:
    """A server that never stops sending is left at the limit."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.writer.transport.is_closing():
            await peer.send(b"x" * 65536)

    async with serve(play) as server, await send(upstreams, server.url) as response:
        with pytest.raises(UpstreamMalformed):
            await response.read(1 << 20, 10)
        await server.until(lambda seen: not seen.open)


async def test_a_body_that_stalls_times_out(upstreams: Upstreams) -> None:
    """Reading has a deadline, and passing it closes the connection."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello")[:-1])
        await peer.gone()

    async with serve(play) as server, await send(upstreams, server.url) as response:
        with pytest.raises(UpstreamTimeout) as caught:
            await response.read(100, 0.05)
        assert caught.value.code == "idle_timeout"
        await server.until(lambda seen: not seen.open)


async def test_cancelling_a_read_closes_the_socket(upstreams: Upstreams) -> None:
    """Whoever stops reading takes the connection with them."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello")[:-1])
        await peer.gone()

    async with serve(play) as server:
        response = await send(upstreams, server.url)
        reading = asyncio.get_running_loop().create_task(response.read(100, 10))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await server.until(lambda seen: not seen.open)


def deflate(data: bytes) -> bytes:
    """Deflate without the zlib header, as some servers send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("X-Gzip", gzip.compress(b"hello", mtime=0)),
        ("gzip", gzip.compress(b"hello", mtime=0) + bytes(8)),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", deflate(b"hello")),
        ("identity", b"hello"),
    ],
)
async def test_a_packed_answer_is_unpacked(upstreams: Upstreams, coding: str, body: bytes) -> None:
    """A server that compresses unasked is still understood when the answer is read whole."""
    data = answer(body, f"Content-Encoding: {coding}")
    async with serve(each(data)) as server, await send(upstreams, server.url) as response:
        assert await response.read(1000, 10) == b"hello"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(bytes(1 << 20), mtime=0)),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-5]),
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b"hel", mtime=0) + gzip.compress(b"lo", mtime=0)),
        ("br", b"brotli"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"hello", mtime=0), mtime=0)),
    ],
)
async def test_a_bad_packing_is_refused(upstreams: Upstreams, coding: str, body: bytes) -> None:
    """Bombs, cut and unknown packings are errors."""
    data = answer(body, f"Content-Encoding: {coding}")
    async with serve(each(data)) as server, await send(upstreams, server.url) as response:
        with pytest.raises(UpstreamMalformed):
            await response.read(100_000, 10)


async def test_a_packed_stream_is_refused(upstreams: Upstreams) -> None:
    """A stream that is compressed unasked is not relayed."""
    data = answer(gzip.compress(b"hello"), "Content-Encoding: gzip")
    taken = Taken()
    async with serve(each(data)) as server, await send(upstreams, server.url) as response:
        response.pump(taken.receive, taken.ended)
        assert not taken.pieces
        assert isinstance(taken.ends[0], UpstreamMalformed)


async def test_pieces_come_as_they_are_sent(upstreams: Upstreams) -> None:
    """Each piece is delivered before the next is sent, and the end once."""
    taken = Taken()
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"0", end=b""))
        for number in range(1, 5):
            await go_on.get()
            await peer.send(b"1\r\n%d\r\n" % number)
        await go_on.get()
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with serve(play) as server:
        async with await send(upstreams, server.url) as response:
            response.pump(taken.receive, taken.ended)
            for number in range(5):
                await taken.until(b"01234"[: number + 1])
                assert not taken.ends
                go_on.put_nowait(None)
            await taken.until()
        assert taken.ends == [None]
        assert "1 idle" in repr(upstreams)


async def test_a_body_that_is_there_is_delivered_within_pump(upstreams: Upstreams) -> None:
    """What came with the head is given at once, the end too."""
    taken = Taken()
    async with serve(each(chunked(b"a", b"b"))) as server, await send(upstreams, server.url) as response:
        while "1 idle" not in repr(upstreams):
            await asyncio.sleep(0)
        response.pump(taken.receive, taken.ended)
        assert taken.pieces == [b"ab"]
        assert taken.ends == [None]


async def test_a_body_that_was_cut_before_the_pump(upstreams: Upstreams) -> None:
    """Pieces that came before the cut are delivered before the error."""
    taken = Taken()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"a", b"b", end=b""))

    async with serve(play) as server, await send(upstreams, server.url) as response:
        await server.until(lambda seen: not seen.open)
        while response.error is None:
            await asyncio.sleep(0)
        response.pump(taken.receive, taken.ended)
        assert b"".join(taken.pieces) == b"ab"
        assert isinstance(taken.ends[0], UpstreamDisconnected)


@pytest.mark.parametrize("error", [UpstreamMalformed("bad event"), RecursionError("deep")])
@pytest.mark.parametrize("early", [False, True])
async def test_a_receiver_that_raises_ends_the_answer(
    upstreams: Upstreams, error: Exception, early: bool
) -> None:
    """The socket is closed and the error reported once, whether the piece was waiting or comes later."""
    ends: list[UpstreamError | None] = []
    over = asyncio.Event()

    def receive(piece: bytes) -> None:
        raise error

    def ended(error: UpstreamError | None) -> None:
        ends.append(error)
        over.set()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"a", end=b"") if early else chunked(end=b""))
        await ready.wait()
        await peer.send(b"1\r\nb\r\n")
        await peer.gone()

    ready = asyncio.Event()
    async with serve(play) as server, await send(upstreams, server.url) as response:
        response.pump(receive, ended)
        ready.set()
        await over.wait()
        await server.until(lambda seen: not seen.open)
    assert len(ends) == 1
    assert isinstance(ends[0], UpstreamMalformed)
    assert ends[0] is error or ends[0].__cause__ is error


async def test_leaving_an_unfinished_answer_closes_the_socket(upstreams: Upstreams) -> None:
    """The context closes what is not complete, and tells the pump."""
    taken = Taken()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(b"a", end=b""))
        await peer.gone()

    async with serve(play) as server:
        async with await send(upstreams, server.url) as response:
            response.pump(taken.receive, taken.ended)
        assert len(taken.ends) == 1
        assert isinstance(taken.ends[0], UpstreamDisconnected)
        response.abort()
        response.pause()
        response.resume()
        assert len(taken.ends) == 1
        await server.until(lambda seen: not seen.open)


async def test_a_receiver_may_abort(upstreams: Upstreams) -> None:
    """Aborting out of `receive` ends the answer, and nothing comes after it."""
    taken = Taken()

    def receive(piece: bytes) -> None:
        taken.receive(piece)
        response.abort()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        await ready.wait()
        await peer.send(b"1\r\na\r\n")
        await peer.gone()

    ready = asyncio.Event()
    async with serve(play) as server:
        response = await send(upstreams, server.url)
        response.pump(receive, taken.ended)
        ready.set()
        await taken.until()
        await server.until(lambda seen: not seen.open)
    assert taken.pieces == [b"a"]
    assert len(taken.ends) == 1
    assert taken.ends[0] is not None


async def test_who_takes_the_last_piece_may_know_that_it_is_the_last(upstreams: Upstreams) -> None:
    """A piece that comes with the end of its message is handed on when that is whole: aborting then breaks nothing."""
    taken = Taken()
    whole: list[bool] = []

    def receive(piece: bytes) -> None:
        taken.receive(piece)
        whole.append(response.is_whole)
        if response.is_whole:
            response.abort()
        else:
            second.set()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        await first.wait()
        await peer.send(b"1\r\na\r\n")
        await second.wait()
        await peer.send(b"1\r\nb\r\n0\r\n\r\n")
        await peer.gone()

    first, second = asyncio.Event(), asyncio.Event()
    async with serve(play) as server:
        response = await send(upstreams, server.url)
        response.pump(receive, taken.ended)
        first.set()
        await taken.until()
        assert repr(upstreams).endswith("0 active, 1 idle>")
    assert taken.pieces == [b"a", b"b"]
    assert whole == [False, True]
    assert taken.ends == [None]


async def test_pausing_holds_the_upstream_back(upstreams: Upstreams) -> None:
    """While paused next to nothing is read, however much the server sends; after `resume` all of it comes."""
    size = 16 << 20
    taken = Taken()
    async with serve(each(answer(bytes(size)))) as server:
        async with await send(upstreams, server.url) as response:
            response.pause()
            response.pump(taken.receive, taken.ended)
            for _ in range(100):
                await asyncio.sleep(0)
            assert sum(map(len, taken.pieces)) < size // 4
            response.resume()
            await taken.until()
        assert sum(map(len, taken.pieces)) == size
        assert taken.ends == [None]
        assert "1 idle" in repr(upstreams)


async def test_a_body_that_nobody_takes_waits_at_the_sender(upstreams: Upstreams) -> None:
    """Before anybody reads, only a little is kept; then all of it comes."""
    size = 16 << 20
    async with serve(each(answer(bytes(size)))) as server:
        async with await send(upstreams, server.url) as response:
            while response._kept_bytes <= KEPT:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert response._kept_bytes < size // 4
            assert await response.read(size, 60) == bytes(size)
        assert "1 idle" in repr(upstreams)


async def test_a_connection_that_was_paused_at_the_end_is_reading_when_it_is_idle(
    upstreams: Upstreams,
) -> None:
    """A pause at the last piece does not keep the connection from seeing that the server closes it."""
    taken = Taken()

    def receive(piece: bytes) -> None:
        taken.receive(piece)
        response.pause()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        await ready.wait()
        await peer.send(b"1\r\na\r\n0\r\n\r\n")
        await closing.wait()

    ready, closing = asyncio.Event(), asyncio.Event()
    async with serve(play) as server:
        response = await send(upstreams, server.url)
        response.pump(receive, taken.ended)
        ready.set()
        await taken.until()
        assert taken.ends == [None]
        closing.set()
        while "0 idle" not in repr(upstreams):
            await asyncio.sleep(0)


# -- collected -------------------------------------------------------------------------------------------------------


async def collect(upstreams: Upstreams, url: str, limit: int = 1000) -> UpstreamResponse:
    prepared = upstreams.prepare("POST", url, ())
    return await upstreams.ask(prepared, b"{}", connect_timeout=10, head_timeout=10, collect=limit)


@pytest.mark.parametrize(
    "data", [answer(b"hello"), chunked(b"he", b"l", b"lo"), answer(b"hello", status="201 X")]
)
@pytest.mark.parametrize("split", [False, True])
async def test_a_collected_answer_is_whole(upstreams: Upstreams, data: bytes, split: bool) -> None:
    """When `ask` returns, a 2xx answer is complete, however it came, and its connection is free already."""

    async def play(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send_split(data, 1 if split else len(data))

    async with serve(play) as server:
        for _ in range(2):
            response = await collect(upstreams, server.url)
            assert "1 idle" in repr(upstreams)
            assert repr(response).endswith("complete>")
            reading = response.read(1000, None)
            with pytest.raises(StopIteration) as read:
                reading.send(None)
            assert read.value.value == b"hello"
        assert server.connections == 1


async def test_a_slow_answer_is_collected(upstreams: Upstreams) -> None:
    """Nobody is woken before the last piece has come."""
    go_on: asyncio.Queue[None] = asyncio.Queue()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked(end=b""))
        for number in range(5):
            await go_on.get()
            await peer.send(b"1\r\n%d\r\n" % number)
        await go_on.get()
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with serve(play) as server:
        asking = asyncio.get_running_loop().create_task(collect(upstreams, server.url))
        await server.until(lambda seen: seen.open == 1)
        for _ in range(6):
            assert not asking.done()
            go_on.put_nowait(None)
        response = await asking
        assert await response.read(1000, None) == b"01234"


async def test_collecting_does_not_pause(upstreams: Upstreams) -> None:
    """A body that is larger than what is kept for others is read to its end while nobody takes it."""
    size = 64 * KEPT
    async with serve(each(answer(bytes(size)))) as server:
        response = await collect(upstreams, server.url, size)
        assert await response.read(size, None) == bytes(size)
        assert "1 idle" in repr(upstreams)


@pytest.mark.parametrize("status", ["300 X", "400 X", "429 X", "500 X"])
async def test_other_answers_are_not_collected(upstreams: Upstreams, status: str) -> None:
    """What is no 2xx is given at its head; its body is read with the limit and the time of whoever reads it."""
    ready = asyncio.Event()
    data = answer(b"hello", status=status)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(data[:-5])
        await ready.wait()
        await peer.send(data[-5:])
        await peer.gone()

    async with serve(play) as server:
        response = await collect(upstreams, server.url)
        assert response.status == int(status[:3])
        assert "1 active" in repr(upstreams)
        ready.set()
        assert await response.read(5, 10) == b"hello"
        assert "1 idle" in repr(upstreams)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_collected_answer_over_the_limit_is_refused(upstreams: Upstreams, framing: str) -> None:
    """One of exactly the limit is read; a longer one is malformed and closes its connection."""
    data = answer(b"12345") if framing == "length" else chunked(b"123", b"45")
    async with serve(each(data)) as server:
        assert await (await collect(upstreams, server.url, 5)).read(5, None) == b"12345"
        with pytest.raises(UpstreamMalformed):
            await (await collect(upstreams, server.url, 4)).read(4, None)
        await server.until(lambda seen: not seen.open)


async def test_an_endless_answer_is_not_collected(upstreams: Upstreams) -> None:
    """A server that never stops sending is left at the limit."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.writer.transport.is_closing():
            await peer.send(b"x" * 65536)

    async with serve(play) as server:
        with pytest.raises(UpstreamMalformed):
            await (await collect(upstreams, server.url, 1 << 20)).read(1 << 20, None)
        await server.until(lambda seen: not seen.open)


@pytest.mark.parametrize("data", [answer(b"hello")[:-1], chunked(b"hello", end=b"")])
async def test_a_collected_answer_that_was_cut(upstreams: Upstreams, data: bytes) -> None:
    """A body without its end is no body."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    async with serve(play) as server:
        with pytest.raises(UpstreamDisconnected):
            await (await collect(upstreams, server.url)).read(1000, None)
        await server.until(lambda seen: not seen.open)
        assert ": 0 active, 0 idle" in repr(upstreams)


async def test_a_collected_answer_that_becomes_garbage(upstreams: Upstreams) -> None:
    """Chunks that are none are malformed, behind a good one too."""
    async with serve(each(chunked(b"hello", end=b"zz\r\n"))) as server:
        with pytest.raises(UpstreamMalformed):
            await (await collect(upstreams, server.url)).read(1000, None)
        await server.until(lambda seen: not seen.open)


async def test_a_collected_answer_is_unpacked(upstreams: Upstreams) -> None:
    """Compressed unasked, it is unpacked; the limit holds for what it becomes."""
    data = answer(gzip.compress(b"hello"), "Content-Encoding: gzip")
    async with serve(each(data)) as server:
        assert await (await collect(upstreams, server.url)).read(1000, None) == b"hello"
        with pytest.raises(UpstreamMalformed):
            await (await collect(upstreams, server.url)).read(4, None)
