"""The client's writer: framing, connections, and what clients do on one connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_for,
    events,
    gateway,
    hang,
    receive,
    whole,
    written,
)

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def question(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": HELLO, **more}


async def test_pipelining(provider: FakeProvider, gw: Gateway) -> None:
    """Requests that are sent at once are answered in their order, streams among them."""
    provider.will(
        whole(chat_answer("1")), events(chat_events("2")), whole(chat_answer("3")), events(chat_events("4"))
    )
    async with gw.connect() as (reader, writer):
        writer.write(
            b"".join(written(CHAT, question(stream=stream)) for stream in (False, True, False, True))
        )
        answers = [await receive(reader) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    for word, answer in zip("1234", answers, strict=True):
        assert f'"{word}"'.encode() in answer.body


async def test_expect_100_continue(provider: FakeProvider, gw: Gateway) -> None:
    """A client that asks whether it may send is told so, and then answered."""
    provider.will(whole(chat_answer()))
    request = written(CHAT, question(), {"expect": "100-continue"})
    head, _, body = request.partition(b"\r\n\r\n")
    async with gw.connect() as (reader, writer):
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await receive(reader)).status == 200


async def test_a_request_in_pieces(provider: FakeProvider, gw: Gateway) -> None:
    """A head and a body that come byte by byte are a request like any other."""
    provider.will(whole(chat_answer()))
    async with gw.connect() as (reader, writer):
        for byte in written(CHAT, question()):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await receive(reader)).status == 200


@pytest.mark.parametrize("keep", [True, False])
async def test_http_1_0(provider: FakeProvider, gw: Gateway, keep: bool) -> None:
    """An HTTP/1.0 client gets its answer with a length, and the connection closes."""
    provider.will(whole(chat_answer()))
    headers = {"connection": "keep-alive"} if keep else {}
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(), headers, version="1.0"))
        answer = await receive(reader)
        assert await reader.read() == b""
    assert answer.json["model"] == "gpt-4o"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("stream", [False, True])
async def test_connection_close(provider: FakeProvider, gw: Gateway, stream: bool) -> None:
    """A client that wants the connection closed gets it closed after its answer."""
    provider.will(events(chat_events("Hi")) if stream else whole(chat_answer()))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question(stream=stream), {"connection": "close"}))
        answer = await receive(reader)
        assert await reader.read() == b""
    assert answer.complete
    assert answer.headers["connection"] == "close"


async def test_a_refusal_keeps_the_connection(gw: Gateway) -> None:
    """An error of the caller's does not cost him his connection."""
    async with gw.connect() as (reader, writer):
        for _ in range(3):
            writer.write(written(CHAT, question(model="nobody")))
            answer = await receive(reader)
            assert (answer.status, "connection" in answer.headers) == (404, False)


async def test_draining_closes_connections(provider: FakeProvider, gw: Gateway) -> None:
    """A gateway that goes down answers what still comes, and asks for no more on this connection."""
    provider.will(whole(chat_answer()))
    gw.rt.draining = True
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question()))
        answer = await receive(reader)
        assert await reader.read() == b""
    assert (answer.status, answer.headers["connection"]) == (200, "close")


SMUGGLED = b"GET /health/liveness HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
SMUGGLING = {
    "cl and te": HEAD + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te and cl": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te xchunked": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te identity": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te space": HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "cl different": HEAD + b"content-length: 0\r\ncontent-length: 44\r\n\r\n" + SMUGGLED,
    "cl same": HEAD + b"content-length: 0\r\ncontent-length: 0\r\n\r\n" + SMUGGLED,
    "cl list": HEAD + b"content-length: 0, 0\r\n\r\n" + SMUGGLED,
    "cl plus": HEAD + b"content-length: +0\r\n\r\n" + SMUGGLED,
    "cl hex": HEAD + b"content-length: 0x0\r\n\r\n" + SMUGGLED,
    "cl underscore": HEAD + b"content-length: 0_0\r\n\r\n" + SMUGGLED,
    "cl negative": HEAD + b"content-length: -1\r\n\r\n" + SMUGGLED,
    "chunk hex": HEAD + b"transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n" + SMUGGLED,
    "chunk lf": HEAD + b"transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n" + SMUGGLED,
    "bare lf": HEAD.replace(b"\r\n", b"\n") + b"content-length: 0\n\n" + SMUGGLED,
    "bare cr": HEAD + b"x: a\rcontent-length: 0\r\n\r\n" + SMUGGLED,
    "obs-fold": HEAD + b"x: a\r\n content-length: 0\r\n\r\n" + SMUGGLED,
    "nul": HEAD + b"x: a\x00b\r\n\r\n" + SMUGGLED,
    "host twice": HEAD + b"host: y\r\n\r\n" + SMUGGLED,
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "long header": HEAD + b"x: " + b"a" * 20_000 + b"\r\n\r\n" + SMUGGLED,
    "no version": b"GET /health\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_smuggling(provider: FakeProvider, gw: Gateway, name: str) -> None:
    """A request whose end is in dispute is 400 and closes the connection; what follows it is never looked at."""
    async with gw.connect() as (reader, writer):
        writer.write(SMUGGLING[name])
        told = await asyncio.wait_for(reader.read(), 30)
    assert told.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert b"alive" not in told
    assert provider.requests == []


async def test_many_headers(gw: Gateway) -> None:
    """Two hundred headers are refused or read, and break nothing."""
    lines = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    async with gw.connect() as (reader, writer):
        writer.write(HEAD + lines + b"content-length: 2\r\n\r\n{}")
        assert (await receive(reader)).status == 400


async def test_a_body_with_a_bad_chunk(gw: Gateway) -> None:
    """A body whose framing breaks ends the connection."""
    async with gw.connect() as (reader, writer):
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n\r\n" + SMUGGLED)
        told = await asyncio.wait_for(reader.read(), 30)
    assert told.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"alive" not in told
    await gw.quiet()


async def test_a_client_that_leaves_while_it_sends(provider: FakeProvider, gw: Gateway) -> None:
    """A client that leaves before its body is complete leaves one row and nothing else."""
    async with gw.connect() as (_, writer):
        writer.write(written(CHAT, question())[:-5])
        while not gw.rt.open:
            await asyncio.sleep(0.001)
    await gw.quiet()
    (row,) = await gw.rows()
    assert (row.status, row.http_status, row.model_requested, row.usage_source) == (
        "client_disconnected",
        499,
        "",
        "none",
    )
    assert (provider.requests, gw.rt.body_bytes) == ([], 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_half_closed(provider: FakeProvider, gw: Gateway, stream: bool) -> None:
    """A client that closes its half of the connection counts as gone."""
    provider.will(hang)
    async with gw.connect() as (_, writer):
        writer.write(written(CHAT, question(stream=stream)))
        asked = await provider.asked()
        writer.write_eof()
        await asked.connection.closed.wait()
        await gw.quiet()
    (row,) = await gw.rows()
    assert row.status == "client_disconnected"


async def test_nobody_is_invited_before_it_is_known_who_asks(provider: FakeProvider, tmp_path: Path) -> None:
    """A client without a key that waits for `100 Continue` gets its 401 at once, and never sends the body."""
    async with (
        gateway(config_for(provider), tmp_path, {"LITELLM_MASTER_KEY": "secret"}) as gw,
        gw.connect() as (
            reader,
            writer,
        ),
    ):
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
        )
        assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
