"""`on_disconnect: drain`: a stream that its client has left runs to its end, and its bill is the provider's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.client import ClientGone
from gateway.config.load import load
from gateway.config.problems import ConfigInvalid
from tests.harness import (
    FakeProvider,
    Gateway,
    chat_events,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    message_events,
    written,
)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with fake_provider() as server:
        yield server


@pytest.fixture
async def gw(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    models = [
        entry("gpt-4o", "openai/gpt-4o-2024-08-06", f"{provider.url}/v1", on_disconnect="drain"),
        entry("claude", "anthropic/claude-sonnet-4-5", provider.url, on_disconnect="drain"),
    ]
    async with gateway(config_of(*models), tmp_path) as running:
        yield running


async def leave(gw: Gateway, model: str = "gpt-4o", until: bytes = b"one") -> None:
    """Ask for a stream and go when the first word is there."""
    async with gw.connect() as (reader, writer):
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        writer.write(written("/v1/chat/completions", body))
        await reader.readuntil(until)


async def gone(gw: Gateway) -> None:
    """Wait until the gateway knows that the client has left."""
    while not gw.rt.unheard:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_the_bill_is_the_providers(provider: FakeProvider, gw: Gateway, model: str) -> None:
    """The rest is read, in the client's format or another; one row, when it has ended, with what the provider counted."""
    words = chat_events("one", *"23456") if model == "gpt-4o" else message_events("one", *"23456")
    provider.will(events([*words[:3], None, *words[3:]]))
    await leave(gw, model)
    await gone(gw)
    assert (gw.rt.open, gw.rt.ledger.waiting) == (set(), 0)
    assert not provider.connections[0].closed.is_set()
    provider.gate.set()
    (row,) = await gw.rows()
    assert (row.status, row.usage_source, row.input, row.output) == ("client_disconnected", "reported", 10, 6)
    await gw.quiet()
    assert (gw.rt.unheard, len(await gw.rows())) == (0, 1)


async def test_it_does_not_go_on_for_ever(provider: FakeProvider, gw: Gateway) -> None:
    """After its time the stream is closed, and the row has an estimate that says so."""
    gw.rt.limits.unheard_seconds = 0.05
    provider.will(events(chat_events("one", "two", done=False), end="hang"))
    await leave(gw, until=b"two")
    (row,) = await gw.rows()
    assert (row.status, row.usage_source) == ("client_disconnected", "estimated")
    assert row.output > 0
    await provider.connections[0].closed.wait()


async def test_not_more_than_so_many_bytes(provider: FakeProvider, gw: Gateway) -> None:
    """Nor after its size."""
    gw.rt.limits.answer_body = 1000
    more = chat_events(*("x" * 100 for _ in range(50)), done=False)
    provider.will(events([*chat_events("one", done=False), None, *more], end="hang"))
    await leave(gw)
    await gone(gw)
    provider.gate.set()
    await provider.connections[0].closed.wait()
    (row,) = await gw.rows()
    assert row.status == "client_disconnected"


async def test_not_more_than_so_many_at_once(provider: FakeProvider, gw: Gateway) -> None:
    """Beyond the most that may run, a stream is closed at once as ever."""
    gw.rt.limits.unheard = 0
    provider.will(events(chat_events("one", done=False), end="hang"))
    await leave(gw)
    (row,) = await gw.rows()
    assert (row.status, row.usage_source) == ("client_disconnected", "estimated")
    await provider.connections[0].closed.wait()


async def test_those_who_leave_in_one_turn_count_each(provider: FakeProvider, gw: Gateway) -> None:
    """Several clients that leave at once are not more than so many either: the others' streams are closed."""
    gw.rt.limits.unheard = 2
    provider.will(events(chat_events("one", done=False), end="hang"))
    async with AsyncExitStack() as clients:
        for _ in range(4):
            reader, writer = await clients.enter_async_context(gw.connect())
            body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            writer.write(written("/v1/chat/completions", body))
            await reader.readuntil(b"one")
        for x in list(gw.rt.open):
            x.story.interrupt(ClientGone())
        await asyncio.sleep(0)
        assert gw.rt.unheard == 2
        assert len(await gw.rows(2)) == 2


async def test_a_provider_that_breaks_off(provider: FakeProvider, gw: Gateway) -> None:
    """What fails while nobody listens leaves one row too."""
    provider.will(events([*chat_events("one", done=False), None], end="reset"))
    await leave(gw)
    await gone(gw)
    provider.gate.set()
    (row,) = await gw.rows()
    assert (row.status, row.usage_source) == ("client_disconnected", "estimated")
    await gw.quiet()
    assert len(await gw.rows()) == 1


async def test_the_gateway_ends_meanwhile(provider: FakeProvider, tmp_path: Path) -> None:
    """A stream that is still running when the gateway ends is cut, and its row is written."""
    models = [entry("gpt-4o", "openai/gpt-4o", f"{provider.url}/v1", on_disconnect="drain")]
    async with gateway(config_of(*models), tmp_path) as gw:
        provider.will(events(chat_events("one", done=False), end="hang"))
        await leave(gw)
        await gone(gw)
        await gw.rt.finish_errands(0.01)
        await asyncio.sleep(0)
        (row,) = await gw.rows()
        assert row.status == "client_disconnected"


def test_other_words_are_refused(tmp_path: Path) -> None:
    """Neither `cancel` nor `drain`: the line is named."""
    (tmp_path / "config.yaml").write_text(
        config_of(entry("a", "openai/a", "http://127.0.0.1:9", on_disconnect="go on"))
    )
    with pytest.raises(ConfigInvalid) as refused:
        load(tmp_path / "config.yaml", {})
    assert "on_disconnect" in str(refused.value.problems[0])
    assert "must be cancel or drain" in str(refused.value.problems[0])
