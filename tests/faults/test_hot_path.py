"""What could go wrong where a story goes on within the call that brings what it waits for, each found once."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import UpstreamTimeout
from gateway.background.supervisor import spawn
from gateway.client import ClientGone
from gateway.config.model import Secret
from gateway.server import ClientConnection
from tests.harness import (
    FakeProvider,
    chat_answer,
    config_for,
    config_of,
    entry,
    gateway,
    hang,
    receive,
    whole,
    written,
)

CHAT = "/v1/chat/completions"
DOORS = pytest.mark.parametrize("door", ["on", "off"])


def question(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], **more}


def connections() -> list[ClientConnection]:
    return [found for found in gc.get_objects() if type(found) is ClientConnection and found.transport]


async def test_a_revoked_key_stays_refused(provider: FakeProvider, tmp_path: Path) -> None:
    """A connection that was used with a key which is gone is refused each time, not only the first."""
    provider.will(whole(chat_answer()))
    config = config_for(provider, general_settings={"master_key": "sk-right"})
    async with gateway(config, tmp_path) as gw, gw.connect() as (reader, writer):
        told = []
        for number in range(4):
            if number == 1:
                gw.rt.keyring.follow(Secret("sk-other"), ())
            writer.write(written(CHAT, question(), {"authorization": "Bearer sk-right"}))
            told.append((await receive(reader)).status)
    assert told == [200, 401, 401, 401]


@DOORS
@pytest.mark.parametrize("key", ["sk-wrong", "sk-right"])
async def test_refusals_do_not_pile_up(provider: FakeProvider, tmp_path: Path, door: str, key: str) -> None:
    """A client that pipelines requests which are refused, and reads nothing, is not read either before long."""
    config = config_for(provider, general_settings={"master_key": "sk-right"})
    async with gateway(config, tmp_path, {"PENSTOCK_FAST_PATH": door}) as gw:
        host, _, port = gw.url.removeprefix("http://").partition(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.setblocking(False)
            data = written(CHAT, b"{}", {"authorization": f"Bearer {key}"}) * 50
            loop = asyncio.get_running_loop()
            sending = spawn(_send(loop, client, data, 20_000_000), name="a client that only sends")
            piled_up = await _most_unsent(sending)
            assert not sending.done()
            sending.cancel()
    assert piled_up < 1_000_000


async def _send(loop: asyncio.AbstractEventLoop, client: socket.socket, data: bytes, limit: int) -> None:
    for _ in range(limit // len(data)):
        await loop.sock_sendall(client, data)


async def _most_unsent(sending: asyncio.Future[None]) -> int:
    """The most that waited to be sent, until nothing has been read or written for a hundred turns of the loop."""
    most, before, calm = 0, -1, 0
    found: list[ClientConnection] = []
    while calm < 100 and not sending.done():
        await asyncio.sleep(0.002)
        found = found or connections()
        unsent = sum(c.transport.get_write_buffer_size() for c in found if c.transport)
        most = max(most, unsent)
        calm = calm + 1 if unsent == before and unsent else 0
        before = unsent
    return most


@pytest.mark.parametrize("stream", [False, True])
async def test_gone_and_late(provider: FakeProvider, tmp_path: Path, stream: bool) -> None:
    """A client that leaves in the turn in which a deadline strikes is gone: nobody else is asked for it."""
    provider.will(hang)
    base = f"{provider.url}/v1"
    config = config_of(entry("m", "openai/a", base), entry("m", "openai/b", base), num_retries=1)
    async with gateway(config, tmp_path) as gw:
        async with gw.connect() as (_, writer):
            writer.write(written(CHAT, question(model="m", stream=stream)))
            await provider.asked()
            (x,) = gw.rt.open
            x.story.interrupt(UpstreamTimeout("late", code="first_event_timeout"))
            x.story.interrupt(ClientGone())
            await gw.quiet()
        (row,) = await gw.rows()
    assert (row.status, len(provider.requests)) == ("client_disconnected", 1)


async def test_what_a_connection_remembers_is_bounded(provider: FakeProvider, tmp_path: Path) -> None:
    """Requests for ever other models of a wildcard, with a header that crosses, do not fill the connection's memory."""
    provider.will(whole(chat_answer()))
    config = config_of(entry("openai/*", "openai/*", f"{provider.url}/v1"))
    async with gateway(config, tmp_path) as gw, gw.connect() as (reader, writer):
        for number in range(250):
            body = json.dumps(question(model=f"openai/m{number:06}")).encode()
            writer.write(written(CHAT, body, {"openai-beta": "x"}))
            assert (await receive(reader)).status == 200
        (head,) = {c._head for c in connections() if c._head and c._head.written}
        assert len(head.written) <= 101


@DOORS
async def test_two_connection_headers(provider: FakeProvider, tmp_path: Path, door: str) -> None:
    """Who says `close` anywhere is not kept."""
    provider.will(whole(chat_answer()))
    async with (
        gateway(config_for(provider), tmp_path, {"PENSTOCK_FAST_PATH": door}) as gw,
        gw.connect() as (reader, writer),
    ):
        writer.write(written(CHAT, question(), [("connection", "keep-alive"), ("connection", "close")]))
        assert (await receive(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
