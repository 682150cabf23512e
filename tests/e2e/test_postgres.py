"""The gateway with a database, and without the one that it should have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.state.records import LedgerQuery
from tests.faulty import FaultyProxy
from tests.harness import FakeProvider, Gateway, chat_answer, config_for, gateway, whole

MASTER = {"authorization": "Bearer sk-the-master-key"}
QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultyProxy]:
    faulty = FaultyProxy(database_url)
    await faulty.start()
    yield faulty
    await faulty.close()


def config(provider: FakeProvider, url: str) -> str:
    general = {"master_key": "sk-the-master-key", "database_url": url}
    return config_for(provider, general_settings=general)


async def new_key(gw: Gateway) -> dict[str, str]:
    answer = await gw.post("/key/generate", {"models": ["gpt-4o"]}, headers=MASTER)
    assert answer.status == 200
    return {"authorization": f"Bearer {(await answer.json())['key']}"}


async def status(gw: Gateway, headers: dict[str, str]) -> int:
    return (await gw.post(CHAT, QUESTION, headers=headers)).status


async def readiness(gw: Gateway) -> tuple[int, Any]:
    answer = await gw.get("/health/readiness")
    return answer.status, (await answer.json())["db"]


@pytest.mark.rows("A5", "L10")
async def test_a_database_that_comes_later(
    provider: FakeProvider, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """Without its database the gateway starts and serves whom it knows; when it comes all of it works, and no row is missing."""
    provider.will(whole(chat_answer()))
    proxy.refuse()
    async with gateway(config(provider, proxy.url), tmp_path) as gw:
        assert await status(gw, MASTER) == 200
        unknown = await gw.post(CHAT, QUESTION, headers={"authorization": "Bearer sk-somebody"})
        assert (unknown.status, "retry-after" in unknown.headers) == (503, True)
        generated = await gw.post("/key/generate", {}, headers=MASTER)
        assert (generated.status, generated.headers["retry-after"]) == (503, "5")
        assert await readiness(gw) == (200, "Not connected")
        assert (await (await gw.get("/health")).json())["db"] == "Not connected"
        assert "penstock_records_away 1.0" in await (await gw.get("/metrics")).text()
        proxy.heal()
        while (await readiness(gw))[1] != "connected":
            await asyncio.sleep(0.02)
        key = await new_key(gw)
        assert await status(gw, key) == 200
        assert [row.caller_kind for row in await gw.rows(2)] == ["master", "key"]
        assert "penstock_records_away 0.0" in await (await gw.get("/metrics")).text()


async def test_a_database_that_goes(provider: FakeProvider, proxy: FaultyProxy, tmp_path: Path) -> None:
    """While the database is away keys that are known go on, nothing is slower, and the rows arrive afterwards."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider, proxy.url), tmp_path) as gw:
        key = await new_key(gw)
        assert await status(gw, key) == 200
        proxy.stall()
        assert [await status(gw, key) for _ in range(20)] == [200] * 20
        proxy.heal()
        assert len(await gw.rows(21)) == 21
        again = await gw.rt.records.rows(LedgerQuery())
        assert len({row.id for row in again}) == len(again) == 21


async def test_two_replicas(provider: FakeProvider, database_url: str, tmp_path: Path) -> None:
    """A key that one replica makes works on the other at once, and what one revokes is revoked on the other soon."""
    provider.will(whole(chat_answer()))
    for name in "ab":
        (tmp_path / name).mkdir()
    text = config(provider, database_url)
    async with gateway(text, tmp_path / "a") as a, gateway(text, tmp_path / "b") as b:
        key = await new_key(a)
        assert (await status(a, key), await status(b, key)) == (200, 200)
        blocked = {"key": key["authorization"].removeprefix("Bearer ")}
        assert (await a.post("/key/block", blocked, headers=MASTER)).status == 200
        assert await status(a, key) == 401
        async with asyncio.timeout(5):
            while await status(b, key) != 401:
                await asyncio.sleep(0.02)
