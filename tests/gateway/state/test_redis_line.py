"""Answers in any pieces, connections that end at any time, and all that an URL may ask for; the servers are real."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import AuthenticationError, RedisError

from gateway.state.redis_line import Command, RedisLine, ReplyError, open_line, packed, read_reply
from tests.faulty import FaultyProxy
from tests.gateway.state.test_shared_redis import Server, server
from tests.gateway.upstreams.conftest import Authority, authority

__all__ = ["authority", "server"]


@asynccontextmanager
async def line_to(url: str, lost: list[Exception] | None = None, **options: Any) -> AsyncIterator[RedisLine]:
    pool = ConnectionPool.from_url(url, **{"protocol": 2, **options})
    line = await open_line(pool, 5.0, (lost if lost is not None else []).append)
    try:
        yield line
    finally:
        line.close()


async def begun(line: RedisLine) -> asyncio.Future[list[Any] | Exception]:
    """What it will be told."""
    told: asyncio.Future[list[Any] | Exception] = asyncio.get_running_loop().create_future()
    line.exchange([("PING",)], 10.0, told.set_result)
    return told


async def said(line: RedisLine, *commands: Command, patience: float = 10.0) -> list[Any]:
    return await line.ask(commands, patience)


# -- bytes -------------------------------------------------------------------------------------------------------------

REPLIES: Sequence[tuple[bytes, Any]] = (
    (b"$5\r\nhello\r\n", b"hello"),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n:1\r\n", b"\r\n:1"),
    (b"$-1\r\n", None),
    (b":-42\r\n", -42),
    (b"+OK\r\n", b"OK"),
)


@pytest.mark.parametrize(("data", "value"), REPLIES)
def test_a_reply(data: bytes, value: Any) -> None:
    """Whole it is its value, in part it is nothing yet, wherever it begins."""
    assert read_reply(data, 0) == (value, len(data))
    assert read_reply(b"xyz" + data + b":1\r\n", 3) == (value, len(data) + 3)
    for end in range(len(data)):
        assert read_reply(data[:end], 0) is None


def test_an_error() -> None:
    """What Redis says is kept."""
    found = read_reply(b"-NOSCRIPT No matching script.\r\n", 0)
    assert found is not None
    assert isinstance(found[0], ReplyError)
    assert str(found[0]) == "NOSCRIPT No matching script."


@pytest.mark.parametrize("data", [b"*1\r\n:1\r\n", b"$x\r\n", b":\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_is_no_reply(data: bytes) -> None:
    """Arrays, which none of our commands gives, and what is not Redis at all."""
    with pytest.raises(ValueError, match=r"."):
        read_reply(data, 0)


def test_a_command() -> None:
    """Numbers and texts are what they are in UTF-8, half characters too; bytes go as they are."""
    assert packed(("SET", "é", 12, b"\x00\xff")) == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n$2\r\n\x00\xff\r\n"
    )
    assert packed(("\ud83d",)) == b"*1\r\n$3\r\n\xed\xa0\xbd\r\n"


@asynccontextmanager
async def scripted(lost: list[Exception]) -> AsyncIterator[tuple[RedisLine, asyncio.StreamWriter]]:
    """A line to a server that says what the test has it say."""
    writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    listener = await asyncio.start_server(lambda _, writer: writers.put_nowait(writer), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with line_to(f"redis://127.0.0.1:{port}", lost, driver_info=None) as line:
            writer = await writers.get()
            yield line, writer
            writer.close()
    finally:
        listener.close()


@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_answers_in_pieces(cuts: list[int]) -> None:
    """However they are cut, they are the same."""
    data = b"".join(reply for reply, _ in REPLIES)

    async def play() -> None:
        lost: list[Exception] = []
        async with scripted(lost) as (line, _):
            got: list[Any] = []
            line.exchange([("PING",)] * len(REPLIES), 10.0, got.append)
            borders = [0, *sorted(cuts), len(data)]
            for start, end in pairwise(borders):
                if start < end:
                    line.data_received(data[start:end])
            assert got == [[value for _, value in REPLIES]]
            assert lost == []

    asyncio.run(play())


async def test_an_answer_that_nobody_asked_for() -> None:
    """Another one may be meant for another question: the connection is of no use any more."""
    lost: list[Exception] = []
    async with scripted(lost) as (line, writer):
        told = await begun(line)
        writer.write(b":1\r\n:2\r\n")
        assert "nobody asked" in str(await told)
    async with scripted(lost) as (_, writer):
        writer.write(b":1\r\n")
        while not lost:
            await asyncio.sleep(0.01)
        assert isinstance(lost[0], ValueError)
    async with scripted(lost) as (line, writer):
        told = await begun(line)
        writer.write(b":1\r\n")
        assert await told == [1]
        lost.clear()
        writer.write(b":2\r\n")  # not the answer to what comes next
        while not lost:
            await asyncio.sleep(0.01)


async def test_what_is_not_redis() -> None:
    """It is said at once."""
    async with scripted([]) as (line, writer):
        told = await begun(line)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert "begins with b'H'" in str(await told)


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_an_end_in_the_middle() -> None:
    """Whoever waits is told; nobody else."""
    lost: list[Exception] = []
    async with scripted(lost) as (line, writer):
        told = await begun(line)
        writer.write(b"$100\r\nhalf")
        writer.close()
        assert isinstance(await told, ConnectionError)
    assert lost == []


async def test_an_end_while_nothing_is_asked(server: Server) -> None:
    """It is told at once, not to the next request."""
    lost: list[Exception] = []
    async with line_to(server.url, lost) as line:
        assert await said(line, ("PING",)) == [b"PONG"]
        server.stop()
        while not lost:
            await asyncio.sleep(0.01)
        assert isinstance(lost[0], ConnectionError)
    assert len(lost) == 1


async def test_closing(redis_url: str) -> None:
    """An exchange that is under way is over; a line that is idle tells nobody."""
    lost: list[Exception] = []
    async with line_to(redis_url, lost) as line:
        got: list[Any] = []
        line.exchange([("PING",)], 10.0, got.append)
        line.close()
        assert isinstance(got[0], ConnectionError)
        line.close()
        await asyncio.sleep(0.05)
        assert (len(got), lost) == (1, [])


async def test_patience(redis_url: str) -> None:
    """It ends after the time that it has, and what comes later reaches nobody."""
    proxy = FaultyProxy(redis_url)
    await proxy.start()
    async with line_to(proxy.url) as line:
        assert await said(line, ("PING",)) == [b"PONG"]
        proxy.stall()
        with pytest.raises(TimeoutError, match="no answer within 20 ms"):
            await said(line, ("PING",), patience=0.02)
    await proxy.close()


async def test_an_answer_that_is_there_is_seen_however_late_the_loop_is(redis_url: str) -> None:
    """A loop that was held up for longer than the patience looks at the socket before it gives up."""
    async with line_to(redis_url) as line:
        got: list[Any] = []
        line.exchange([("PING",)], 0.05, got.append)
        time.sleep(0.2)  # noqa: ASYNC251 - that is the point
        while not got:
            await asyncio.sleep(0)
        assert got == [[b"PONG"]]


@pytest.mark.parametrize("delay", [0.0, 0.0002, 0.001])
@pytest.mark.parametrize("resets", [True, False])
async def test_an_end_at_the_beginning(delay: float, *, resets: bool) -> None:
    """A server that takes connections and ends them: there is none, or it is lost; nothing else is raised."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                time.sleep(delay)
                if resets:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(50):
            with suppress(RedisError, OSError):
                async with line_to(url, driver_info=None) as line:
                    await said(line, ("PING",))
        listener.shutdown(socket.SHUT_RDWR)


class Ended(Connection):
    """One that ends before its first words, for which uvloop has an exception of its own."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        assert self._writer is not None
        self._writer.transport.abort()
        while "closed=True" not in repr(self._writer.transport):
            await asyncio.sleep(0)
        await super().on_connect_check_health(check_health)


async def test_an_end_before_the_first_words(redis_url: str) -> None:
    """Like one a moment later."""
    pool = ConnectionPool.from_url(redis_url, password="open sesame", connection_class=Ended)
    with pytest.raises(ConnectionError, match="closed"):
        await open_line(pool, 5.0, print)


class Torn(Connection):
    """One that ends as redis-py's do when they are taken apart while they begin."""

    async def connect(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        raise AttributeError("'NoneType' object has no attribute 'writelines'")


async def test_a_failure_that_nobody_waits_for() -> None:
    """Nobody is told that it was forgotten."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with pytest.raises(TimeoutError, match="no connection"):
        await open_line(ConnectionPool(connection_class=Torn), 0.0, print)
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    gc.collect()
    assert faults == []


# -- what an URL may ask for -------------------------------------------------------------------------------------------


async def test_a_password_and_a_database(server: Server) -> None:
    """Without it nobody gets in; with it one is where one wants to be."""
    await server.tell("CONFIG", "SET", "requirepass", "open sesame")
    url = server.url.replace("redis://", "redis://:open%20sesame@").replace("/0", "/3")
    async with line_to(url) as line:
        assert await said(line, ("SET", "a", "1"), ("GET", "a")) == [b"OK", b"1"]
        assert b"db=3" in (await said(line, ("CLIENT", "INFO")))[0]
    with pytest.raises(AuthenticationError):
        async with line_to(url.replace("sesame", "barley")):
            pass


async def test_tls(redis_url: str, authority: Authority) -> None:
    """Certificates are checked; inside it is the same."""
    target = urlsplit(redis_url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(target.hostname, target.port)
        async with asyncio.TaskGroup() as both:
            both.create_task(_carry(reader, ahead))
            both.create_task(_carry(behind, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=authority.context("DNS:localhost"))
    url = f"rediss://localhost:{listener.sockets[0].getsockname()[1]}"
    async with line_to(url, ssl_ca_certs=authority.cafile) as line:
        assert await said(line, ("ECHO", "x" * 100_000)) == [b"x" * 100_000]
        assert await said(line, ("PING",)) == [b"PONG"]
    with pytest.raises(RedisError, match="certificate"):
        async with line_to(url):
            pass
    listener.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def test_nobody_there() -> None:
    """A port that nobody listens to, and a server that takes connections and says nothing."""
    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError, match=r"no connection within 0\.2 s"):
        await open_line(ConnectionPool.from_url(f"redis://:pw@127.0.0.1:{port}"), 0.2, print)
    listener.close()
    for writer in writers:
        writer.close()
    with pytest.raises(RedisError):
        await open_line(ConnectionPool.from_url(f"redis://127.0.0.1:{port}"), 5.0, print)
