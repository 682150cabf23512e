"""Whatever happens to Redis while requests run, nobody is refused for it, and in the end all is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faulty import FaultyProxy
from tests.gateway.stages.test_limits import CHAT, config, key_of, question, used
from tests.gateway.state.test_shared_redis import Server, server
from tests.harness import FakeProvider, Gateway, chat_answer, gateway, whole

__all__ = ["server"]

Act = Callable[[Server, FaultyProxy], Awaitable[object]]


async def nothing(server: Server, proxy: FaultyProxy) -> None:
    """It heals by itself."""


def tell(*words: str) -> Act:
    async def act(server: Server, proxy: FaultyProxy) -> None:
        await server.tell(*words)

    return act


def network(fault: str, *arguments: float) -> Act:
    async def act(server: Server, proxy: FaultyProxy) -> None:
        getattr(proxy, fault)(*arguments)

    return act


async def restart(server: Server, proxy: FaultyProxy) -> None:
    server.stop()
    server.start()


async def available(gw: Gateway) -> None:
    """Wait until Redis is used."""
    while not gw.rt.shared.available:
        await asyncio.sleep(0.01)


HEAL = network("heal")
FAULTS: dict[str, tuple[Act, Act]] = {
    "refused": (network("refuse"), HEAL),
    "blackholed": (network("stall"), HEAL),
    "half a second slow": (network("slow", 0.5), HEAL),
    "reset": (network("reset"), nothing),
    "half closed": (network("half_close"), nothing),
    "an answer that is cut": (network("cut_after", 3), nothing),
    "FLUSHALL": (tell("FLUSHALL"), nothing),
    "NOSCRIPT": (tell("SCRIPT", "FLUSH"), nothing),
    "READONLY": (tell("REPLICAOF", "127.0.0.1", "1"), tell("REPLICAOF", "NO", "ONE")),
    "OOM": (tell("CONFIG", "SET", "maxmemory", "1"), tell("CONFIG", "SET", "maxmemory", "0")),
    "restarted": (restart, nothing),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_requests_go_on(
    provider: FakeProvider, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No request fails, a budget is not overspent, Redis is used again, and its counter is what the ledger says."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    provider.will(whole(chat_answer()))
    begins, ends = FAULTS[name]
    proxy = FaultyProxy(server.url)
    await proxy.start()
    try:
        environ = {"REDIS_URL": proxy.url, "PENSTOCK_REDIS_TIMEOUT": "0.3"}
        async with gateway(config(provider), tmp_path, environ) as gw:
            await available(gw)
            key = await key_of(gw, max_budget=0.3, rpm_limit=1000, max_parallel_requests=50)

            async def ask(times: int) -> list[int]:
                return [(await gw.post(CHAT, question(), headers=key)).status for _ in range(times)]

            assert await ask(3) == [200] * 3
            await begins(server, proxy)
            assert await ask(4) == [200] * 4
            await ends(server, proxy)
            await available(gw)
            statuses = await ask(20)
            assert statuses[:4] == [200] * 4
            assert statuses[-1] == 422
            spent = sum(row.cost_nano or 0 for row in await gw.rows())
            assert spent <= 300_000_000
            async with asyncio.timeout(20):  # settlements wait some milliseconds for others
                await available(gw)
                while await used(gw) != spent:
                    await asyncio.sleep(0.01)
    finally:
        await proxy.close()
