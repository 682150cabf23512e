"""Everything at once: providers that fail in every way, hedges, retries, fallbacks, queues, clients that leave, and reloads which
switch all of that on and off. Whatever happens, each request leaves one row and nothing stays behind.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.background.supervisor import spawn
from gateway.keyfields import digest_of
from gateway.state.shared import budget, slots
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    Play,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    receive,
    whole,
    written,
)

CHAT = "/v1/chat/completions"
KEYS = tuple(f"sk-virtual-of-a-storm-{number}" for number in range(3))
PRICES = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000002"}
TORN = '{"model_list": ['
"""A file that cannot be read, among those that can."""


def moody(dice: random.Random) -> Play:
    """A provider that does anything."""

    async def play(provider: FakeProvider, asked: Asked) -> None:
        await asyncio.sleep(dice.choice((0, 0, 0.002, 0.02)))
        words = chat_events(*(f"{number} " for number in range(dice.randint(1, 5))))
        streams = asked.json.get("stream")
        good: Play = events(words) if streams else whole(chat_answer())
        broken: Play = events(words[: dice.randint(1, len(words))], end=dice.choice(("close", "reset")))
        told = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20ms"}
        plays = (
            *(good,) * 6,
            *(whole({"error": {"message": "no"}}, status) for status in (400, 500, 503)),
            whole({"error": {"message": "no"}}, 429, told),
            broken if streams else good,
            _silent,
        )
        await dice.choice(plays)(provider, asked)

    return play


async def _silent(_: FakeProvider, asked: Asked) -> None:
    try:
        async with asyncio.timeout(0.1):
            await asked.connection.closed.wait()
    except TimeoutError:
        asked.connection.writer.close()


def configuration(bases: Sequence[str], number: int) -> str:
    """Another one for each number: who is there, and what is switched on."""
    models = [
        entry("m", "openai/a", bases[0], max_parallel_requests=4, **PRICES),
        entry("m", "openai/b", bases[1], max_parallel_requests=4, **PRICES),
        entry("m", "openai/c", bases[2], **PRICES),
        entry("n", "openai/d", bases[0], **PRICES),
    ]
    settings: dict[str, Any] = {
        "num_retries": 2,
        "fallbacks": [{"m": ["n"]}],
        "cooldown_time": 0.05,
        "adaptive_concurrency": number % 4 != 1,
        "stream_recovery": "none" if number % 3 == 2 else "continue",
        "disable_cooldowns": number % 5 == 4,
        "retry_budget": {"ratio": 1.0, "minimum": 1000},
    }
    if number % 2 == 0:
        settings["hedging"] = {"after": 0.005, "max": 1 + number % 3}
    if number % 3 != 1:
        settings["queue"] = {"max_wait": 0.5, "max_waiting": 50}
    config = json.loads(config_of(*models[number % 3 == 2 :], **settings))
    config["general_settings"] = {"master_key": "sk-master-of-a-storm-8814"}
    config["virtual_keys"] = [{"key": key, "max_budget": "100", "max_parallel_requests": 8} for key in KEYS]
    if number % 2:
        config["litellm_settings"] = {"max_budget": "100"}
    return json.dumps(config)


async def one(gw: Gateway, dice: random.Random) -> str:
    """What a client that may lose its patience got of a stream."""
    stream = dice.random() < 0.6
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "max_tokens": 50}
    headers = {"authorization": f"Bearer {dice.choice(KEYS)}"}
    patience = 20.0
    if dice.random() < 0.25:
        patience = dice.uniform(0.001, 0.05)
    elif dice.random() < 0.2:
        headers["expect"] = (
            "100-continue"  # the other door, which sees no request of a client that has gone before
        )
    async with gw.connect() as (reader, writer):
        writer.write(written(CHAT, body, headers))
        try:
            async with asyncio.timeout(patience):
                answer = await receive(reader)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return ""
    return answer.body.decode() if stream and answer.status == 200 else ""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_stays_behind(tmp_path: Path, seed: int) -> None:
    """One row each, nobody in flight or waiting, nothing held, budgets that hold what the rows cost, no probe under way, and no
    stream of two answers.
    """
    dice = random.Random(seed)
    count = 200
    async with fake_provider() as one_, fake_provider() as two, fake_provider() as three:
        bases = [f"{provider.url}/v1" for provider in (one_, two, three)]
        for provider in (one_, two, three):
            provider.will(moody(dice))
        async with gateway(configuration(bases, 0), tmp_path) as gw:
            assert gw.rt.reloader is not None
            left = iter(range(count))
            heard: list[str] = []

            async def client() -> None:
                for number in left:
                    heard.append(await one(gw, dice))
                    if number % 20 == 0 and gw.rt.reloader is not None:
                        text = TORN if number % 60 == 40 else configuration(bases, number // 20)
                        (tmp_path / "config.yaml").write_text(text)
                        await gw.rt.reloader.reload("the storm")

            await asyncio.gather(*(spawn(client(), name="client") for _ in range(20)))
            await gw.quiet()
            async with asyncio.timeout(30.0):
                rows = await gw.rows(count)
            for _ in range(
                1_000
            ):  # a loser whose connection was being opened is called off in the next turns
                if not any(condition.in_flight for _, condition in gw.rt.health.all()):
                    break
                await asyncio.sleep(0.002)
            conditions = dict(gw.rt.health.all())
            assert {one.in_flight for one in conditions.values()} == {0}
            assert not any(one.breaker and one.breaker.is_probed for one in conditions.values())
            assert (gw.rt.queue.waiting, gw.rt.body_bytes, gw.rt.outbox.under_way) == (0, 0, 0)
            assert not gw.rt.limiter._open
            counters = gw.rt.limiter._counters
            await counters.make_up()  # a busy machine may have begun without the ledger
            known = [counter for own in counters.known.values() for counter in own.values()]
            spent = [await counters.read(counter) for counter in known]
            assert await gw.rt.shared.look([budget(one.name, 0, 0) for one in known]) == spent
            taken = [slots(f"parallel:api_key:{digest_of(key)}", 0) for key in KEYS]
            assert not any(await gw.rt.shared.look(taken))
    assert len(rows) == len({row.id for row in rows}) == count
    for text in heard:
        told = [
            json.loads(line[6:])
            for line in text.splitlines()
            if line.startswith("data: {") and '"error"' not in line
        ]
        assert len({event["id"] for event in told}) <= 1
        assert text.count('"role"') <= 1
        assert text.count("[DONE]") <= 1
