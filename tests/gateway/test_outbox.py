"""What is written in one turn of the loop, and what of it arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.app import _drain
from gateway.outbox import CROWD, LARGE, Outbox
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    events,
    gateway,
    receive,
    whole,
    written,
)

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


class Spied:
    """A real transport that notes what it is told to write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Line:
    """One connection: what is written on it, and who reads it."""

    def __init__(self, transport: asyncio.Transport, reader: asyncio.StreamReader) -> None:
        self.spied = Spied(transport)
        self.reader = reader

    @property
    def transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.spied)


Dial = Callable[[], Awaitable[Line]]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens real connections of this test's own."""
    ends: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ends.put(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []

    async def dial() -> Line:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        end = await ends.get()
        writers.extend((writer, end))
        return Line(cast("asyncio.Transport", end.transport), reader)

    try:
        yield dial
    finally:
        for writer in writers:
            writer.close()
        server.close()


def crowded() -> Outbox:
    """An outbox of a gateway that is busy."""
    outbox = Outbox(asyncio.get_running_loop())
    outbox.under_way = CROWD
    return outbox


@pytest.fixture
async def outbox() -> Outbox:
    return crowded()


async def test_pieces_of_one_turn_are_one_write(dial: Dial, outbox: Outbox) -> None:
    """Nothing goes out before the turn ends; then each transport gets its pieces together, in their order."""
    one, other = await dial(), await dial()
    for number in range(3):
        outbox.write(one.transport, b"a%d" % number)
        outbox.write(other.transport, b"b%d" % number)
    assert one.spied.writes == other.spied.writes == []
    assert await one.reader.readexactly(6) == b"a0a1a2"
    assert await other.reader.readexactly(6) == b"b0b1b2"
    assert (one.spied.writes, other.spied.writes) == ([b"a0a1a2"], [b"b0b1b2"])


async def test_each_turn_has_its_own_write(dial: Dial, outbox: Outbox) -> None:
    """What a later turn writes is sent by that turn, behind what was sent before."""
    line = await dial()
    for piece in (b"one", b"two"):
        outbox.write(line.transport, piece)
        assert await line.reader.readexactly(3) == piece
    assert line.spied.writes == [b"one", b"two"]


async def test_the_loop_is_told_once_in_a_turn(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many transports are written to, one callback sends it all; the next turn has another one."""
    lines = [await dial() for _ in range(3)]
    loop, outbox = asyncio.get_running_loop(), crowded()
    told: list[object] = []
    call_soon = loop.call_soon

    def note(callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        if callback == outbox.flush:
            told.append(callback)
        return call_soon(callback, *args, context=context)

    monkeypatch.setattr(loop, "call_soon", note)
    for turn in (1, 2):
        for line in lines * 2:
            outbox.write(line.transport, b"x")
        assert len(told) == turn
        for line in lines:
            assert await line.reader.readexactly(2) == b"xx"


async def test_large_pieces_go_at_once(dial: Dial, outbox: Outbox) -> None:
    """A large piece is not copied and does not wait; what was before it is before it on the wire, and so behind it."""
    line = await dial()
    large = b"x" * LARGE
    outbox.write(line.transport, b"before")
    outbox.write(line.transport, large)
    assert line.spied.writes == [b"before", large]
    assert line.spied.writes[1] is large
    outbox.write(line.transport, b"behind")
    assert len(line.spied.writes) == 2
    assert await line.reader.readexactly(LARGE + 12) == b"before" + large + b"behind"


async def test_flush_sends_now(dial: Dial, outbox: Outbox) -> None:
    """Whoever closes next flushes first: nothing is lost, and the end of the turn does not send it again."""
    line = await dial()
    outbox.write(line.transport, b"the last ")
    outbox.write(line.transport, b"words")
    outbox.flush()
    assert line.spied.writes == [b"the last words"]
    line.transport.close()
    assert await line.reader.read() == b"the last words"
    assert line.spied.writes == [b"the last words"]


async def test_flushing_nothing(dial: Dial, outbox: Outbox) -> None:
    """With nothing to send nothing is written."""
    line = await dial()
    outbox.flush()
    outbox.write(line.transport, b"x")
    outbox.flush()
    outbox.flush()
    assert line.spied.writes == [b"x"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_closing_transports_are_skipped(dial: Dial, outbox: Outbox, end: str) -> None:
    """What is left for a connection that has closed meanwhile is dropped; the others get theirs."""
    closed, open_ = await dial(), await dial()
    outbox.write(closed.transport, b"too late")
    outbox.write(open_.transport, b"in time")
    getattr(closed.transport, end)()
    assert await open_.reader.readexactly(7) == b"in time"
    assert closed.spied.writes == []
    with contextlib.suppress(ConnectionError):
        assert await closed.reader.read() == b""


async def test_without_a_crowd_nothing_waits(dial: Dial, outbox: Outbox) -> None:
    """With few requests under way each write goes out at once, in its order."""
    line = await dial()
    outbox.under_way = CROWD - 1
    for piece in (b"one", b"two"):
        outbox.write(line.transport, piece)
    assert line.spied.writes == [b"one", b"two"]


async def test_a_crowd_that_leaves_keeps_its_order(dial: Dial, outbox: Outbox) -> None:
    """What was given in the crowd and still waits goes before what comes when that is gone."""
    line = await dial()
    outbox.write(line.transport, b"one ")
    outbox.under_way = 0
    outbox.write(line.transport, b"two")
    assert await line.reader.readexactly(7) == b"one two"


async def test_what_is_passed_on_does_not_wait(dial: Dial, outbox: Outbox) -> None:
    """A stream's piece goes out at once, crowd or not, but never before what waits for the same client."""
    line, other = await dial(), await dial()
    outbox.write(other.transport, b"waits")
    outbox.pass_on(line.transport, b"one")
    assert (line.spied.writes, other.spied.writes) == ([b"one"], [])
    outbox.write(line.transport, b" two")
    outbox.pass_on(line.transport, b" three")
    assert line.spied.writes == [b"one"]
    assert await line.reader.readexactly(13) == b"one two three"
    assert await other.reader.readexactly(5) == b"waits"


# -- nothing is lost where the gateway closes --------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["on", "off"])
async def test_an_answer_before_the_connection_closes(
    provider: FakeProvider, tmp_path: Path, door: str
) -> None:
    """Behind `Connection: close` an answer and a whole stream arrive to the last byte, then the end, at either door."""
    provider.will(whole(chat_answer("x" * 1000)), events(chat_events("a", "b")))
    async with gateway(config_for(provider), tmp_path, {"PENSTOCK_FAST_PATH": door}) as gw:
        gw.rt.outbox.under_way = CROWD
        for stream in (False, True):
            async with gw.connect() as (reader, writer):
                writer.write(written(CHAT, {**QUESTION, "stream": stream}, {"connection": "close"}))
                answer = await receive(reader)
                assert (answer.status, answer.complete) == (200, True)
                assert answer.headers["connection"] == "close"
                assert answer.body.endswith(b"data: [DONE]\n\n") is stream
                assert await reader.read() == b""


async def test_a_refusal_before_the_connection_closes(provider: FakeProvider, gw: Gateway) -> None:
    """Who is refused and sent away hears why."""
    gw.rt.outbox.under_way = CROWD
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, b"{", {"connection": "close"}))
        answer = await receive(reader)
        assert (answer.status, bool(answer.json["error"])) == (400, True)
        assert await reader.read() == b""


async def test_a_broken_stream_brings_its_last_words(provider: FakeProvider, gw: Gateway) -> None:
    """What was relayed in the turn in which the provider broke off, and the error behind it, arrive before the close."""
    play = b"".join(chat_events("a", "b", done=False))
    provider.will(events([play], end="close"))
    gw.rt.outbox.under_way = CROWD
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, {**QUESTION, "stream": True}))
        answer = await receive(reader)
    assert (answer.status, answer.complete) == (200, False)
    assert answer.body.index(b'"a"') < answer.body.index(b'"b"') < answer.body.index(b'"error"')


async def test_draining_brings_the_last_words(provider: FakeProvider, gw: Gateway) -> None:
    """A stream that is cut off by the gateway's end has all that was relayed, and the reason."""
    provider.will(events(chat_events("a", done=False), end="hang"))
    gw.rt.outbox.under_way = CROWD
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, {**QUESTION, "stream": True}))
        begun = await reader.readuntil(b'"a"')
        gw.rt.draining = True
        gw.rt.impatient.set()
        await _drain(gw.rt, [])
        rest = await reader.read()
    assert begun.startswith(b"HTTP/1.1 200")
    assert b'"error"' in rest
