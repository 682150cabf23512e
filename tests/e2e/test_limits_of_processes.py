"""Limits that several processes keep together through one Redis: nothing is admitted twice, nothing is lost.

A busy machine may keep Redis from answering within 50 ms, and then a process would give out its part of a limit alone. Here they wait
longer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.background.supervisor import spawn
from tests.e2e.process import Process, penstock
from tests.gateway.state.test_shared_redis import Server, server
from tests.harness import Asked, FakeProvider, chat_answer, entry, whole

__all__ = ["server"]

CHAT = "/v1/chat/completions"
KEY = "sk-e2e-0123456789abcdef"
HEADERS = {"authorization": f"Bearer {KEY}"}
PRICES = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.001"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
COST = 20_000_000  # nano-dollars of one answer
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 10}


@asynccontextmanager
async def processes(
    provider: FakeProvider, folder: Path, server: Server, count: int, **limits: Any
) -> AsyncIterator[Process]:
    """A gateway of so many processes, with a key that has these limits."""
    config = {
        "model_list": [entry("m", "openai/m", f"{provider.url}/v1", **PRICES)],
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": "sk-e2e-the-master-key"},
        "virtual_keys": [{"key": KEY, **limits}],
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    flags = ("--config", "config.yaml", "--num_workers", str(count))
    environ = {"REDIS_URL": server.url, "PENSTOCK_REDIS_TIMEOUT": "10"}  # none goes on alone
    async with penstock(*flags, folder=folder, environ=environ) as process:
        yield process


async def answers(process: Process, clients: int, each: int) -> Counter[int]:
    """Statuses of what so many clients get at once, each so many times."""
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        for _ in range(each):
            statuses[(await process.post(CHAT, ASK, headers=HEADERS)).status] += 1

    await asyncio.gather(*(ask() for _ in range(clients)))
    return statuses


async def counted(server: Server) -> int:
    """What the only budget's counter holds."""
    (name,) = await server.tell("KEYS", "penstock:budget:*")
    return int(await server.tell("HGET", name, "n"))


async def becomes(value: Callable[[], Coroutine[Any, Any, int]], wanted: int) -> None:
    """Wait for it: settlements and rows are written some milliseconds later."""
    async with asyncio.timeout(20):
        while await value() != wanted:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("count", [1, 4])
async def test_a_budget_for_a_hundred(
    provider: FakeProvider, tmp_path: Path, server: Server, count: int
) -> None:
    """Of a thousand at once at most a hundred pass; ledger, counter and provider agree to the nano-dollar."""
    provider.will(whole(chat_answer(usage=USAGE)))
    async with processes(provider, tmp_path, server, count, max_budget=2.0) as process:
        statuses = await answers(process, 100, 10)
        passed = statuses[200]
        assert set(statuses) == {200, 422}
        assert 90 <= passed <= 100
        assert len(provider.requests) == passed
        await process.rows_written(1000)
        assert sum(row["cost_nano"] or 0 for row in process.rows()) == passed * COST
        await becomes(lambda: counted(server), passed * COST)


async def test_a_rate_of_a_hundred(provider: FakeProvider, tmp_path: Path, server: Server) -> None:
    """Of 2,000 requests within a minute, in four processes, exactly a hundred pass; the others are told when to come back."""
    provider.will(whole(chat_answer()))
    async with processes(provider, tmp_path, server, 4, rpm_limit=100) as process:
        statuses = await answers(process, 50, 40)
        assert set(statuses) == {200, 429}
        assert statuses[200] == 100
        assert len(provider.requests) == statuses[200]
        refused = await process.post(CHAT, ASK, headers=HEADERS)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-limit-requests"] == "100"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_ten_at_once(provider: FakeProvider, tmp_path: Path, server: Server) -> None:
    """The provider never sees more, however requests end; afterwards all slots are free."""
    now = most = 0
    ways = [whole(chat_answer()), whole({"error": {"message": "no"}}, 500), whole(b"no answer at all")]

    async def play(provider: FakeProvider, asked: Asked) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1  # before the answer, after which the gateway may send the next
        await ways[len(provider.requests) % len(ways)](provider, asked)

    provider.will(play)
    async with processes(provider, tmp_path, server, 4, max_parallel_requests=10) as process:
        statuses = await answers(process, 40, 10)
        assert set(statuses) == {200, 429, 502}
        assert most <= 10

        async def free() -> int:
            return int(await server.tell("ZCARD", f"penstock:slots:{await slots_name(server)}"))

        await becomes(free, 0)


async def slots_name(server: Server) -> str:
    names = [name.decode() for name in await server.tell("KEYS", "penstock:slots:parallel:*")]
    return names[0].removeprefix("penstock:slots:") if names else "none"


async def test_a_redis_that_is_flushed_again_and_again(
    provider: FakeProvider, tmp_path: Path, server: Server
) -> None:
    """Counters are made anew from the ledger and from what requests hold in all processes. At most what was in flight may be
    overspent, where a busy process wrote its rows late.
    """

    async def play(provider: FakeProvider, asked: Asked) -> None:
        await asyncio.sleep(0.03)
        await whole(chat_answer(usage=USAGE))(provider, asked)

    provider.will(play)
    async with processes(provider, tmp_path, server, 2, max_budget=2.0) as process:
        asking = spawn(answers(process, 16, 40), name="clients")
        for number in range(8):
            await provider.asked(10 * number + 5)
            await server.tell("FLUSHALL")
        statuses = await asking
        assert set(statuses) <= {200, 422}
        await process.rows_written(640)
        spent = sum(row["cost_nano"] or 0 for row in process.rows())
        assert spent == statuses[200] * COST
        assert spent <= 2_000_000_000 + 16 * COST
        assert statuses[200] >= 80
