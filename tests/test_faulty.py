from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.faulty import FaultyProxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[FaultyProxy]:
    """In front of a server that repeats what it hears, in capitals."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            writer.write(piece.upper())
        writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    faulty = FaultyProxy(f"test://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await faulty.start()
    yield faulty
    await faulty.close()
    server.close()


async def connect(proxy: FaultyProxy) -> Pair:
    host, _, port = proxy.url.removeprefix("test://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def heard(pair: Pair, words: bytes) -> bytes:
    """What comes back within a moment; what was cut is an error."""
    reader, writer = pair
    writer.write(words)
    async with asyncio.timeout(0.2):
        return await reader.read(100)


async def test_passes_on(proxy: FaultyProxy) -> None:
    """Without a fault, or after one, everything passes both ways."""
    pair = await connect(proxy)
    assert await heard(pair, b"a") == b"A"
    proxy.slow(0.01)
    assert await heard(pair, b"b") == b"B"
    proxy.heal()
    assert await heard(pair, b"c") == b"C"
    pair[1].close()


async def test_stalls(proxy: FaultyProxy) -> None:
    """A stalled connection says nothing and is gone afterwards."""
    pair = await connect(proxy)
    proxy.stall()
    with pytest.raises(TimeoutError):
        await heard(pair, b"a")
    proxy.heal()
    with pytest.raises(ConnectionError):
        await heard(pair, b"b")
    pair[1].close()


async def test_resets_and_refuses(proxy: FaultyProxy) -> None:
    """Who is connected is cut off, who comes is not let in."""
    pair = await connect(proxy)
    assert await heard(pair, b"a") == b"A"
    proxy.refuse()
    with pytest.raises(ConnectionError):
        await heard(pair, b"b")
    pair[1].close()
    pair = await connect(proxy)
    with suppress(ConnectionError):
        assert await heard(pair, b"c") == b""
    pair[1].close()
    assert proxy.accepted == 1


async def test_cuts_in_the_middle(proxy: FaultyProxy) -> None:
    """Of an answer only the first bytes arrive."""
    pair = await connect(proxy)
    proxy.cut_after(2)
    with pytest.raises(ConnectionError):
        while True:
            assert await heard(pair, b"abc") == b"AB"
            assert await pair[0].read(100)
    pair[1].close()


async def test_loses_an_answer(proxy: FaultyProxy) -> None:
    """The words arrive, their answer does not."""
    pair = await connect(proxy)
    proxy.lose_answer_to(b"please")
    assert await heard(pair, b"a") == b"A"
    with pytest.raises(ConnectionError):
        await heard(pair, b"please")
    pair[1].close()


async def test_half_closes(proxy: FaultyProxy) -> None:
    """The answers have ended, and the connection has not."""
    pair = await connect(proxy)
    assert await heard(pair, b"a") == b"A"
    proxy.half_close()
    assert await heard(pair, b"") == b""
    pair[1].close()
