"""Providers at their worst, seen through the whole gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    gateway,
    receive,
    whole,
    written,
)

CHAT = "/v1/chat/completions"


def question(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **more}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "dead", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1", "http://169.254.169.254/v1"]
)
async def test_no_connection(provider: FakeProvider, tmp_path: Path, dead: str, stream: bool) -> None:
    """Refused, unknown, forbidden: another deployment answers, and the row says why."""
    config = config_of(
        entry("m", "openai/a", dead, order=1),
        entry("m", "openai/b", f"{provider.url}/v1", order=2),
        num_retries=1,
    )
    provider.will(events(chat_events("Hi")) if stream else whole(chat_answer("Hi")))
    async with gateway(config, tmp_path) as gw:
        answer = await gw.wire(CHAT, question(stream=stream))
        (row,) = await gw.rows()
    assert (answer.status, answer.complete) == (200, True)
    assert b"Hi" in answer.body
    assert [attempt.reason for attempt in row.attempts] == ["upstream_unreachable", ""]


async def test_kept_connections_that_died(provider: FakeProvider, gw: Gateway) -> None:
    """A provider that closes its kept connections costs nobody an error."""

    async def answer_and_close(_: FakeProvider, asked: Asked) -> None:
        await whole(chat_answer())(provider, asked)
        await asked.connection.writer.drain()
        asked.connection.writer.close()

    provider.will(answer_and_close)
    answers = [await gw.post(CHAT, question("gpt-4o")) for _ in range(50)]
    assert {answer.status for answer in answers} == {200}
    rows = await gw.rows(50)
    assert sum(row.status == "success" for row in rows) == 50


async def test_a_redirect(provider: FakeProvider, gw: Gateway) -> None:
    """A redirect is not followed: a key would go where nobody sent it."""
    provider.will(whole(b"", 302, {"location": "http://169.254.169.254/latest/meta-data"}))
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert answer.status >= 400
    assert len(provider.requests) == 1


async def test_an_answer_without_end(provider: FakeProvider, gw: Gateway) -> None:
    """An answer over the limit is given up, not collected."""
    gw.rt.limits.answer_body = 1_000_000
    sent = 0

    async def flood(_: FakeProvider, asked: Asked) -> None:
        nonlocal sent
        writer = asked.connection.writer
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
        )
        while not writer.is_closing() and sent < 100_000_000:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    provider.will(flood)
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert answer.status == 502
    assert sent < 20_000_000


async def test_an_event_without_end(provider: FakeProvider, gw: Gateway) -> None:
    """An event that never ends is given up at its limit, before it has cost much memory."""

    async def flood(_: FakeProvider, asked: Asked) -> None:
        writer = asked.connection.writer
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + chat_events("a")[0])
        writer.write(b'data: {"x": "')
        while not writer.is_closing():
            writer.write(b"a" * 65536)
            await writer.drain()

    provider.will(flood)
    answer = await gw.wire(CHAT, question("gpt-4o", stream=True))
    (row,) = await gw.rows()
    assert not answer.complete
    assert b"error" in answer.body
    assert row.reason == "upstream_malformed"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 999 \r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000,
        b"",
    ],
    ids=["two lengths", "length and chunks", "ssh", "999", "endless header", "endless 100", "nothing"],
)
async def test_heads_that_are_none(provider: FakeProvider, gw: Gateway, head: bytes) -> None:
    """Whatever a provider sends as a head, its client gets a JSON error."""

    async def play(_: FakeProvider, asked: Asked) -> None:
        asked.connection.writer.write(head)
        await asked.connection.writer.drain()
        asked.connection.writer.close()

    provider.will(play)
    answer = await gw.post(CHAT, question("gpt-4o"))
    assert answer.status >= 500
    assert (await answer.json())["error"]["message"]
    (row,) = await gw.rows()
    assert gw.rt.health.of(row.deployment_id).in_flight == 0


async def test_one_byte_at_a_time(provider: FakeProvider, gw: Gateway) -> None:
    """A stream whose bytes come one by one is the same stream."""
    stream = b"".join(chat_events("Hel", "lo"))
    provider.will(events([bytes([byte]) for byte in stream]), events([stream]))
    slow = await gw.wire(CHAT, question("gpt-4o", stream=True))
    fast = await gw.wire(CHAT, question("gpt-4o", stream=True))
    assert slow.body == fast.body
    assert slow.complete


async def test_a_flood_for_a_client_that_reads(provider: FakeProvider, gw: Gateway) -> None:
    """Fifty megabytes in two thousand events come through whole, with a second request answered meanwhile."""
    words = ["x" * 25_000] * 2_000
    provider.will(events([*chat_events(*words)]), whole(chat_answer()))
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, question("gpt-4o", stream=True)))
        await provider.asked()
        other, answer = await asyncio.gather(gw.post(CHAT, question("gpt-4o")), receive(reader))
    assert other.status == 200
    assert answer.complete
    assert answer.body.count(b"x" * 25_000) == 2_000
