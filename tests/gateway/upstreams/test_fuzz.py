"""Any splitting of an answer gives the same body, and no bytes hang or crash the client."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import UpstreamError
from gateway.outbox import Outbox
from gateway.upstreams.connection import Connection
from gateway.upstreams.response import UpstreamResponse
from tests.gateway.upstreams.scripted import answer, chunked


class Owner:
    """A pool of one connection that notes how it comes back."""

    def __init__(self) -> None:
        self.back: list[bool] = []

    def answered(self, connection: Connection) -> None: ...

    def finished(self, connection: Connection, *, reusable: bool) -> None:
        self.back.append(reusable)
        if not reusable:
            connection.close()

    def lost(self, connection: Connection) -> None: ...

    def gone(self, connection: Connection) -> None: ...


class Wire(asyncio.Transport):
    """A transport whose reads the test makes, one for each piece, without the kernel joining them."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.closed = True


async def play(pieces: list[bytes]) -> tuple[int, bytes, str, list[bool]]:
    """Status, body, error and fate of the connection after these reads and the end of the stream."""
    owner, wire, body = Owner(), Wire(), bytearray()
    ends: list[UpstreamError | None] = []
    loop = asyncio.get_running_loop()
    connection = Connection(owner, loop, Outbox(loop))
    connection.connection_made(wire)
    asking = loop.create_task(connection.ask([b"request"], "POST", 60.0))
    await asyncio.sleep(0)
    for piece in pieces:
        if not wire.closed:
            connection.data_received(piece)
    if not wire.closed:
        connection.eof_received()
    connection.connection_lost(None)
    try:
        response: UpstreamResponse = await asyncio.wait_for(asking, 60)
    except UpstreamError as error:
        return 0, b"", type(error).__name__, owner.back
    response.pump(body.extend, ends.append)
    assert len(ends) == 1
    return response.status, bytes(body), type(ends[0]).__name__, owner.back


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes as pieces, cut at these places."""
    borders = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(borders) if start < end]


BODIES = st.lists(st.binary(min_size=1, max_size=50), max_size=6)
ANSWERS = st.one_of(
    BODIES.map(lambda pieces: chunked(*pieces)),
    BODIES.map(lambda pieces: chunked(*pieces, end=b"0\r\nTrailer: x\r\n\r\n")),
    BODIES.map(lambda pieces: answer(b"".join(pieces), "X-Thing: one", "X-Thing: two")),
    BODIES.map(lambda pieces: b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(pieces)),
    BODIES.map(lambda pieces: b"HTTP/1.1 103 Hint\r\nLink: x\r\n\r\n" + chunked(*pieces)),
)
PLACES = st.lists(st.integers(0, 10_000), max_size=40)


@given(data=ANSWERS, places=PLACES)
@settings(max_examples=150)
def test_any_splitting_gives_the_same(data: bytes, places: list[int]) -> None:
    """One read, many reads or one for each byte: status, body, outcome and the connection's fate are the same."""
    whole = asyncio.run(play([data]))
    assert whole[0] == 200
    assert whole[2] == "NoneType"
    assert asyncio.run(play(cut(data, places))) == whole
    assert asyncio.run(play([bytes([byte]) for byte in data])) == whole


@given(data=ANSWERS, places=PLACES, at=st.integers(0, 10_000), bits=st.integers(1, 255))
@settings(max_examples=200)
def test_a_damaged_answer_is_an_answer_or_an_error(
    data: bytes, places: list[int], at: int, bits: int
) -> None:
    """Whichever byte is changed, there is one outcome of ours, and the connection comes back once."""
    damaged = bytearray(data)
    damaged[at % len(damaged)] ^= bits
    outcome = asyncio.run(play(cut(bytes(damaged), places)))
    assert outcome[2] in {"NoneType", "UpstreamMalformed", "UpstreamDisconnected"}
    assert len(outcome[3]) == 1


@given(data=st.binary(max_size=300), head=st.booleans(), places=PLACES)
@settings(max_examples=200)
def test_garbage_is_an_error(data: bytes, head: bool, places: list[int]) -> None:
    """Bytes without sense, as a head or as chunks, end in an error of ours and never in a reusable connection."""
    begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if head else b""
    _, _, error, back = asyncio.run(play(cut(begin + data, places)))
    assert error in {"UpstreamMalformed", "UpstreamDisconnected"} or data.startswith(b"0")
    assert len(back) == 1


@given(data=ANSWERS, length=st.integers(0, 10_000))
@settings(max_examples=100)
def test_a_cut_answer_is_never_whole(data: bytes, length: int) -> None:
    """An answer that is cut anywhere is an error, unless its end is the end of the connection."""
    cut_short = data[: length % len(data)]
    _, _, error, back = asyncio.run(play([cut_short] if cut_short else []))
    until_close = data.startswith(b"HTTP/1.1 200 OK\r\n\r\n") and len(cut_short) >= 19
    assert error == ("NoneType" if until_close else "UpstreamDisconnected")
    assert back == [False]
