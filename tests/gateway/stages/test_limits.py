"""May they, now: rates, slots and budgets, all or nothing, in memory and in Redis."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from msgspec.structs import replace
from redis.asyncio import Redis

from gateway.background.supervisor import spawn
from gateway.state.records import EVERYTHING, RecordsUnavailable
from gateway.state.shared import budget, slots
from tests.e2e.process import Process, penstock
from tests.faulty import FaultyProxy
from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    by_model,
    chat_answer,
    chat_events,
    entry,
    events,
    gateway,
    hang,
    whole,
    written,
)

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
MASTER = {"authorization": "Bearer sk-the-master-key"}
PRICES = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.001"}


def question(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "max_tokens": 10, **more}


def config(provider: FakeProvider, *models: dict[str, Any], general: Any = None, **litellm: Any) -> str:
    """A keyed gateway; `m` costs a tenth of a cent a token, either way."""
    base = f"{provider.url}/v1"
    listed = models or (entry("m", "openai/m", base, **PRICES), entry("n", "openai/n", base))
    return json.dumps({
        "model_list": listed,
        "router_settings": {"num_retries": 0},
        "litellm_settings": litellm,
        "general_settings": {"master_key": "sk-the-master-key", **(general or {})},
    })  # fmt: skip


async def key_of(gw: Gateway, **limits: Any) -> dict[str, str]:
    """The header of a new key."""
    made = await gw.post("/key/generate", limits, headers=MASTER)
    assert made.status == 200, await made.text()
    return {"authorization": f"Bearer {(await made.json())['key']}"}


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    error: dict[str, Any] = (await answer.json())["error"]
    return error


@pytest_asyncio.fixture(params=["memory", "redis"])
async def environ(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Limits in memory, and in a Redis with a prefix of the test's own."""
    if request.param == "memory":
        return {}
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    return {"REDIS_URL": request.getfixturevalue("redis_url")}


async def test_without_limits_nothing_is_taken(provider: FakeProvider, tmp_path: Path) -> None:
    """A key without limits, and the master key, pass without a hold."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw)
        for headers in (MASTER, key):
            assert (await gw.post(CHAT, question("n"), headers=headers)).status == 200


async def test_rpm(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> None:
    """As many as the limit, not one more; what is refused is not counted."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path, environ) as gw:
        key = await key_of(gw, rpm_limit=5)
        answers = await asyncio.gather(*(gw.post(CHAT, question(), headers=key) for _ in range(20)))
        assert Counter(answer.status for answer in answers) == {200: 5, 429: 15}
        refused = next(answer for answer in answers if answer.status == 429)
        error = await error_of(refused)
        assert error["type"] == "throttling_error"
        assert error["message"].startswith("Rate limit exceeded for api_key: ***. Limit type: ")
        assert "Limit type: requests. Current limit: 5, Remaining: 0. Limit resets at: " in error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["rate_limit_type"] == "requests"
        assert refused.headers["x-ratelimit-limit-requests"] == "5"
        assert refused.headers["x-ratelimit-api_key-remaining-requests"] == "0"
        assert answers[0].headers["x-litellm-key-rpm-limit"] == "5"
        rows = await gw.rows()
    assert Counter(row.reason for row in rows) == {"": 5, "rate_limited": 15}
    assert len(provider.requests) == 5


@pytest.mark.parametrize(
    "limits",
    [{"rpm_limit": 0}, {"tpm_limit": 0}, {"model_tpm_limit": {"m": 0}}, {"max_parallel_requests": 0}],
)
async def test_nothing_at_all(provider: FakeProvider, tmp_path: Path, limits: dict[str, Any]) -> None:
    """A limit of 0 lets nobody in, not even the first."""
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, **limits)
        assert (await gw.post(CHAT, question(), headers=key)).status == 429
    assert provider.requests == []


async def test_tpm_settles_with_the_truth(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str]
) -> None:
    """What was estimated too high is given back, and what really was counts."""
    provider.will(whole(chat_answer()))  # 15 tokens each
    async with gateway(config(provider), tmp_path, environ) as gw:
        key = await key_of(gw, tpm_limit=100)
        statuses = []
        for _ in range(10):
            statuses.append((await gw.post(CHAT, question(), headers=key)).status)
            await asyncio.sleep(0.02)  # a settlement may wait some milliseconds for others
    passed = statuses.count(200)
    assert statuses == [200] * passed + [429] * (10 - passed)
    assert 15 * passed <= 100
    assert passed >= 4


async def test_no_tokens(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> None:
    """A limit of no tokens lets nothing pass, as one of no requests does."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path, environ) as gw:
        for limits in ({"tpm_limit": 0}, {"rpm_limit": 0}, {"model_tpm_limit": {"m": 0}}):
            assert (await gw.post(CHAT, question(), headers=await key_of(gw, **limits))).status == 429
    assert provider.requests == []


async def test_parallel(provider: FakeProvider, tmp_path: Path, environ: dict[str, str]) -> None:
    """Slots are free again when a request ends, also one whose client left."""
    provider.will(events([*chat_events("a", done=False), None], end="hang"))
    async with gateway(config(provider, general={"max_parallel_requests": 2}), tmp_path, environ) as gw:
        key = await key_of(gw)
        own = await key_of(gw, max_parallel_requests=1)
        streams = [
            await gw.session.post(gw.url + CHAT, json=question(stream=True), headers=key) for _ in range(2)
        ]
        refused = await gw.post(CHAT, question(stream=True), headers=key)
        assert refused.status == 429
        assert "Limit type: max_parallel_requests. Current limit: 2" in (await error_of(refused))["message"]
        async with gw.session.post(gw.url + CHAT, json=question(stream=True), headers=own) as other:
            assert other.status == 200
            assert (await gw.post(CHAT, question(stream=True), headers=own)).status == 429
        for stream in streams:
            stream.close()
        await gw.quiet()
        await asyncio.sleep(0.05)
        provider.will(whole(chat_answer()))
        assert (await gw.post(CHAT, question(), headers=key)).status == 200


async def test_a_budget_for_a_hundred(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str]
) -> None:
    """A thousand at once on a budget for a hundred: at most so many pass, and nothing is overspent."""
    words = whole(chat_answer(usage={"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}))
    provider.will(words)
    async with gateway(config(provider), tmp_path, environ) as gw:
        key = await key_of(gw, max_budget=2.0)  # 100 * 20 tokens * $0.001
        statuses: Counter[int] = Counter()

        async def ask(times: int) -> None:
            for _ in range(times):
                statuses[(await gw.post(CHAT, question(), headers=key)).status] += 1

        await asyncio.gather(*(ask(10) for _ in range(100)))
        rows = await gw.rows()
        spent = sum(row.cost_nano or 0 for row in rows)
    assert sum(statuses.values()) == 1000
    assert set(statuses) == {200, 422}
    assert 0 < statuses[200] <= 100
    assert spent == statuses[200] * 20_000_000 <= 2_000_000_000
    assert len(provider.requests) == statuses[200]


async def test_the_words_of_a_used_up_budget(provider: FakeProvider, tmp_path: Path) -> None:
    """LiteLLM's message, type and status, which a setting may change; and what a smaller answer would do."""
    provider.will(whole(chat_answer()))
    text = config(provider, budget_exceeded_status_code=429)
    async with gateway(text, tmp_path) as gw:
        key = await key_of(gw, max_budget=0.2, budget_duration="1mo", key_alias="team-a")
        refused = await gw.post(CHAT, question(max_tokens=1000), headers=key)
        error = await error_of(refused)
        assert (refused.status, error["type"], error["code"]) == (429, "budget_exceeded", "429")
        assert error["message"].startswith(
            "Budget has been exceeded! Key=team-a over 1mo budget Current cost: 0.0, "
        )
        assert error["message"].endswith(f". Budget resets at: {refused.headers['reset_at']}")
        assert "Max budget: 0.2" in error["message"]
        assert "max_tokens" in error["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        (row, *_) = [row for row in await gw.rows() if row.http_status == 429]
    assert (row.reason, row.cost_nano) == ("budget_exceeded", 0)


async def test_without_max_tokens(provider: FakeProvider, tmp_path: Path) -> None:
    """What is not said is bounded: by the model, or by 16,384 tokens."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=16.0)
        body = {"model": "m", "messages": HELLO}
        assert (await gw.post(CHAT, body, headers=key)).status == 422
        key = await key_of(gw, max_budget=17.0)
        assert (await gw.post(CHAT, body, headers=key)).status == 200


async def test_a_budget_remembers(provider: FakeProvider, tmp_path: Path) -> None:
    """A counter that nobody has any more is made anew from the ledger."""
    provider.will(whole(chat_answer()))
    text = config(provider)
    async with gateway(text, tmp_path) as gw:
        key = await key_of(gw, max_budget=0.05)
        assert [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)] == [422] * 3
        key = await key_of(gw, max_budget=0.1)
        assert [(await gw.post(CHAT, question(), headers=key)).status for _ in range(2)] == [200, 200]
    async with gateway(text, tmp_path) as gw:
        statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)]
        assert statuses[-1] == 422
        (total,) = await gw.rt.records.totals()
        assert total.cost_nano <= 100_000_000


async def test_the_whole_gateways_budget(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str]
) -> None:
    """It binds the master key too, unless that is exempt."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider, max_budget=0.1, budget_duration="1d"), tmp_path, environ) as gw:
        statuses = [(await gw.post(CHAT, question(), headers=MASTER)).status for _ in range(8)]
        assert statuses[0] == 200
        assert statuses[-1] == 422
        refused = await gw.post(CHAT, question(), headers=MASTER)
        assert "Gateway over 1d budget" in (await error_of(refused))["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 86_400


async def test_an_exempt_master_key(provider: FakeProvider, tmp_path: Path) -> None:
    """Its requests neither count nor are refused."""
    provider.will(whole(chat_answer()))
    text = config(provider, max_budget=0.1, master_key_exempt_from_budget=True)
    async with gateway(text, tmp_path) as gw:
        for _ in range(10):
            assert (await gw.post(CHAT, question(), headers=MASTER)).status == 200
        key = await key_of(gw)
        assert (await gw.post(CHAT, question(), headers=key)).status == 200


async def test_open_mode_has_a_budget_too(provider: FakeProvider, tmp_path: Path) -> None:
    """Who has no key spends the gateway's money all the same."""
    provider.will(whole(chat_answer()))
    text = json.dumps({
        "model_list": [entry("m", "openai/m", f"{provider.url}/v1", **PRICES)],
        "litellm_settings": {"max_budget": 0.06},
    })  # fmt: skip
    async with gateway(text, tmp_path) as gw:
        statuses = [(await gw.post(CHAT, question())).status for _ in range(5)]
    assert statuses[0] == 200
    assert statuses[-1] == 422


async def test_gateway_rates_and_users(provider: FakeProvider, tmp_path: Path) -> None:
    """Limits as general settings have them: of all, and of single users."""
    provider.will(whole(chat_answer()))
    general = {"rpm_limit": 4, "user_rate_limit": {"user-1": {"rpm": 1, "tpm": 5000}}}
    async with gateway(config(provider, general=general), tmp_path) as gw:
        mine = question(user="user-1")
        assert (await gw.post(CHAT, mine, headers=MASTER)).status == 200
        refused = await gw.post(CHAT, mine, headers=MASTER)
        assert (await error_of(refused))["message"].startswith("Rate limit exceeded for user: user-1.")
        statuses = [(await gw.post(CHAT, question(), headers=MASTER)).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]


@pytest.mark.parametrize(("policy", "plain", "with_budget"), [("warn", 200, 400), ("block", 400, 400), ("estimate", 200, 200)])  # fmt: skip
async def test_an_unknown_price(
    provider: FakeProvider, tmp_path: Path, policy: str, plain: int, with_budget: int
) -> None:
    """Nobody spends what nobody can count, unless the operator wants it."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider, general={"unknown_price_policy": policy}), tmp_path) as gw:
        assert (await gw.post(CHAT, question("n"), headers=MASTER)).status == plain
        key = await key_of(gw, max_budget=1.0)
        answer = await gw.post(CHAT, question("n"), headers=key)
        assert answer.status == with_budget
        if with_budget == 400:
            error = await error_of(answer)
            assert "input_cost_per_token" in error["message"]
            assert error["param"] == "model"


async def test_a_models_budget_and_rate(provider: FakeProvider, tmp_path: Path) -> None:
    """Those of one model leave the others alone, and count under an alias and in a fallback too."""
    provider.will(whole(chat_answer()))
    base = f"{provider.url}/v1"
    models = [entry(name, f"openai/{name}", base, **PRICES) for name in ("m", "n")]
    async with gateway(config(provider, *models), tmp_path) as gw:
        key = await key_of(
            gw,
            model_max_budget={"m": {"budget_limit": 0.06, "time_period": "1d"}},
            model_rpm_limit={"n": 1},
        )
        statuses = [(await gw.post(CHAT, question("m"), headers=key)).status for _ in range(4)]
        assert statuses[0] == 200
        assert statuses[-1] == 422
        statuses = [(await gw.post(CHAT, question("n"), headers=key)).status for _ in range(2)]
        assert statuses == [200, 429]


async def test_a_stream_whose_client_leaves_is_settled(provider: FakeProvider, tmp_path: Path) -> None:
    """What was relayed is what it cost; the rest is given back."""
    provider.will(events(chat_events("a", "b", "c", done=False), end="hang"))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=10.0)
        async with gw.connect() as (reader, writer):
            writer.write(written(CHAT, question(stream=True, max_tokens=9000), key))
            await reader.readuntil(b'"c"')
            assert await used(gw) > 9_000_000_000
        await gw.quiet()
        (row,) = [row for row in await gw.rows() if row.endpoint == CHAT]
        assert row.usage_source == "estimated"
        assert await used(gw) == row.cost_nano


async def test_a_client_without_patience_pays_as_one_that_leaves(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Its own `timeout` ends the request, and the provider has read the question; once for each attempt."""
    provider.will(hang)
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=10.0)
        answer = await gw.post(CHAT, question(timeout=0.1), headers=key)
        assert answer.status == 504
        again = await gw.post(CHAT, question(timeout=0.1, num_retries=1), headers=key)
        assert again.status == 504
        first, second = [row for row in await gw.rows(2) if row.endpoint == CHAT]
        assert (first.usage_source, first.input > 0, first.output) == ("estimated", True, 0)
        assert second.input == 2 * first.input
        assert first.cost_nano is not None
        assert await used(gw) == 3 * first.cost_nano > 0


async def test_a_models_rate_holds_in_a_fallback_too(provider: FakeProvider, tmp_path: Path) -> None:
    """Also for a request that falls under other limits from the beginning."""
    provider.will(by_model({"m": whole({"error": {}}, status=500), "n": whole(chat_answer())}))
    base = f"{provider.url}/v1"
    models = [entry(name, f"openai/{name}", base, **PRICES) for name in ("m", "n")]
    text = json.loads(config(provider, *models))
    text["router_settings"]["fallbacks"] = [{"m": ["n"]}]
    for limit in ("model_rpm_limit", "model_tpm_limit"):
        async with gateway(json.dumps(text), tmp_path) as gw:
            key = await key_of(gw, max_budget=10, **{limit: {"n": 1}})
            statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)]
            assert statuses == [200, 502, 502]
            assert (await gw.post(CHAT, question("n"), headers=key)).status == 429


async def test_two_words_for_one_period(provider: FakeProvider, tmp_path: Path) -> None:
    """`1d`, `24h` and `daily` are one counter, of which a request takes once."""
    provider.will(whole(chat_answer()))
    windows = [{"max_budget": 0.07, "budget_duration": "24h"}, {"max_budget": 5, "budget_duration": "daily"}]
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=1, budget_duration="1d", budget_limits=windows)
        assert [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)] == [200, 200, 422]
        assert await used(gw) == 30_000_000


async def test_two_words_for_the_length_of_an_answer(provider: FakeProvider, tmp_path: Path) -> None:
    """Providers read one of them and pass over the other: what is taken is enough for either."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=1.0)
        for small, large in (
            ("max_tokens", "max_completion_tokens"),
            ("max_completion_tokens", "max_tokens"),
        ):
            body = question() | {small: 1, large: 5000}
            assert (await gw.post(CHAT, body, headers=key)).status == 422
            assert (await gw.post("/v1/messages", body, headers=key)).status == 422
        prompts = {"model": "m", "prompt": ["a"] * 200, "max_tokens": 10}
        assert (await gw.post("/v1/completions", prompts, headers=key)).status == 422
    assert provider.requests == []


async def used(gw: Gateway) -> int:
    """What the only budget's counter holds."""
    ((counter, _),) = list(gw.rt.limiter._counters.remaining())
    (nano,) = await gw.rt.shared.look([budget(counter.name, 0, 0)])
    assert nano is not None
    return nano


async def test_another_zone_while_a_request_runs(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str]
) -> None:
    """What a request of a stored key holds it holds in the periods of the new zone, as the key is by then."""
    slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
    provider.will(slow)
    async with gateway(config(provider), tmp_path, environ) as gw:
        key = await key_of(gw, max_budget=0.15)
        running = await gw.session.post(gw.url + CHAT, json=question(stream=True), headers=key)
        assert running.status == 200
        name = key["authorization"].split()[1]
        daily = {"key": name, "budget_duration": "1d"}
        assert (await gw.post("/key/update", daily, headers=MASTER)).status == 200
        (tmp_path / "config.yaml").write_text(config(provider, timezone="Asia/Kathmandu"))
        assert gw.rt.reloader is not None
        await gw.rt.reloader.reload("the test")
        provider.will(whole(chat_answer()))
        answers = [await gw.post(CHAT, question(max_tokens=55), headers=key) for _ in range(2)]
        assert [answer.status for answer in answers] == [422, 422]
        provider.gate.set()
        await running.read()
        await gw.quiet()
        assert (await gw.post(CHAT, question(max_tokens=55), headers=key)).status == 200


async def test_a_budget_that_is_younger_than_a_request(provider: FakeProvider, tmp_path: Path) -> None:
    """A request that was under way when its key got a budget counts for it all the same."""
    provider.will(
        events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]]), whole(chat_answer())
    )
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw)
        stream = await gw.session.post(gw.url + CHAT, json=question(stream=True), headers=key)
        token = key["authorization"].removeprefix("Bearer ")
        changed = await gw.post("/key/update", {"key": token, "max_budget": 1.0}, headers=MASTER)
        assert changed.status == 200
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        provider.gate.set()
        await stream.read()
        await gw.quiet()
        rows = [row for row in await gw.rows() if row.endpoint == CHAT]
        assert len(rows) == 2
        assert await used(gw) == sum(row.cost_nano or 0 for row in rows)


async def test_another_budget_while_requests_run(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str]
) -> None:
    """A new budget knows what is under way at once, in gateways too where nobody asks for it, and what it cost in the end."""
    slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(gateway(config(provider), tmp_path, environ))]
        if environ:
            gateways.append(await stack.enter_async_context(gateway(config(provider), tmp_path, environ)))
        one, other = gateways[0], gateways[-1]
        key = await key_of(other, max_budget=1.0)
        provider.will(slow)
        stream = await one.session.post(one.url + CHAT, json=question(stream=True), headers=key)
        (held,) = [x.hold.held for x in one.rt.open if x.hold is not None]
        token = key["authorization"].removeprefix("Bearer ")
        for duration in ("1d", None, "1mo"):
            change = {"key": token, "budget_duration": duration, "max_budget": held / 1e9 * 1.5}
            assert (await other.post("/key/update", change, headers=MASTER)).status == 200
        while one.rt.keyring.rows()[0].version != 4:
            await asyncio.sleep(0.01)
        assert (await other.post(CHAT, question(), headers=key)).status == 422
        provider.gate.set()
        await stream.read()
        for gw in gateways:
            await gw.quiet()
        await asyncio.sleep(0.05)
        (cost,) = [row.cost_nano for row in await one.rows() if row.cost_nano]
        refused = await other.post(CHAT, question(max_tokens=100_000), headers=key)
        assert f"Current cost: {cost / 1e9}," in (await error_of(refused))["message"]


async def test_a_budget_of_the_gateway_that_was_lifted_for_a_while(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """One that a reload takes away and another gives back knows what was spent in between, of whom it is for."""
    provider.will(whole(chat_answer()))
    spares = {"max_budget": 100.0, "master_key_exempt_from_budget": True}
    async with gateway(config(provider, max_budget=100.0), tmp_path) as gw:
        key = await key_of(gw)
        assert gw.rt.reloader is not None
        for litellm in ({"max_budget": 100.0}, {}, spares, {}, spares, {"max_budget": 100.0}):
            (tmp_path / "config.yaml").write_text(config(provider, **litellm))
            await gw.rt.reloader.reload("the test")
            for headers in (key, MASTER):
                assert (await gw.post(CHAT, question(), headers=headers)).status == 200
            assert len(gw.rt.limiter.states()) == bool(litellm)
        await gw.quiet()
        rows = [row for row in await gw.rows(12) if row.endpoint == CHAT]
        costs = [row.cost_nano or 0 for row in rows]
        of_key = [row.cost_nano or 0 for row in rows if row.caller_kind == "key"]
        windows = [budget(name, 0, 0) for name in ("gateway", "gateway:but_master")]
        assert await gw.rt.shared.look(windows) == [sum(costs), sum(of_key)]


async def test_a_budget_that_binds_no_more_is_not_shown(provider: FakeProvider, tmp_path: Path) -> None:
    """What is left of a key's budget is told of those that it has, not of those that it had."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=1.0)
        token = key["authorization"].removeprefix("Bearer ")
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        await gw.quiet()
        assert [state.left for state in gw.rt.limiter.states()] == [985_000_000]
        change = {"key": token, "max_budget": 9.0, "budget_duration": "1d"}
        assert (await gw.post("/key/update", change, headers=MASTER)).status == 200
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        await gw.quiet()
        assert [state.left for state in gw.rt.limiter.states()] == [8_970_000_000]
        change = {"key": token, "max_budget": None, "budget_duration": None}
        assert (await gw.post("/key/update", change, headers=MASTER)).status == 200
        assert gw.rt.limiter.states() == []


async def test_headers_of_a_key(provider: FakeProvider, tmp_path: Path) -> None:
    """What a key may and what it has spent, this request included."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=5, tpm_limit=100_000)
        first = await gw.post(CHAT, question(), headers=key)
        assert first.headers["x-litellm-key-max-budget"] == "5.0"
        assert first.headers["x-litellm-key-tpm-limit"] == "100000"
        second = await gw.post(CHAT, question(), headers=key)
        assert second.headers["x-litellm-key-spend"] == "0.03"
        row = gw.rt.keyring.rows()[0]
        await gw.quiet()
        assert await gw.rt.limiter.spend_of(row) == 30_000_000


async def test_redis_goes_and_comes_back(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store of all is away this gateway goes on alone, and what it spent is known afterwards."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path, {"REDIS_URL": redis_url}) as gw:
        key = await key_of(gw, max_budget=0.1, rpm_limit=100)
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        shared: Any = gw.rt.shared
        connect, shared._connect = shared._connect, _never
        shared._degrade(ConnectionError("a test"))
        assert (await (await gw.get("/health")).json())["limits"] == "degraded"
        assert b"penstock_shared_degraded 1.0" in await (await gw.get("/metrics")).read()
        statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(10)]
        assert statuses[0] == 200
        assert statuses[-1] == 422
        spent = sum(row.cost_nano or 0 for row in await gw.rows())
        assert spent <= 100_000_000
        shared._connect = connect
        while not shared.available:
            await asyncio.sleep(0.01)
        assert (await gw.post(CHAT, question(), headers=key)).status == 422
        assert await used(gw) == spent
        assert (await (await gw.get("/health")).json())["limits"] == "ok"


async def test_what_was_taken_alone_is_held_when_redis_is_back(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that began while it was away count there before anything is taken, also those of the next outage."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
    general = {"max_parallel_requests": 3}
    async with gateway(config(provider, general=general), tmp_path, {"REDIS_URL": redis_url}) as gw:
        key = await key_of(gw, max_budget=0.1)
        provider.will(whole(chat_answer()))
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        await gw.quiet()
        shared: Any = gw.rt.shared
        provider.will(slow)
        is_back = asyncio.Event()
        away = spawn(goes_and_comes(gw, is_back), name="outage")
        await asyncio.sleep(0)
        alone = await gw.session.post(gw.url + CHAT, json=question(stream=True), headers=key)
        assert alone.status == 200
        is_back.set()
        await away
        (held,) = [x.hold.held for x in gw.rt.open if x.hold is not None]
        assert await used(gw) == held + 15_000_000
        assert await shared.look([slots(f"parallel:api_key:{gw.rt.keyring.rows()[0].payer}", 3)]) == [1]
        assert (await gw.post(CHAT, question(max_tokens=60), headers=key)).status == 422
        is_back.clear()
        away = spawn(goes_and_comes(gw, is_back), name="outage")
        await asyncio.sleep(0)
        assert (await gw.post(CHAT, question(max_tokens=60), headers=key)).status == 422
        provider.gate.set()
        await alone.read()
        await gw.quiet()
        is_back.set()
        await away
        spent = sum(row.cost_nano or 0 for row in await gw.rows())
        assert await used(gw) == spent
        assert await shared.look([slots(f"parallel:api_key:{gw.rt.keyring.rows()[0].payer}", 3)]) == [0]


async def goes_and_comes(gw: Gateway, is_back: asyncio.Event) -> None:
    """Redis is away until then."""
    shared: Any = gw.rt.shared
    connect, shared._connect = shared._connect, _never
    shared._degrade(ConnectionError("a test"))
    await is_back.wait()
    shared._connect = connect
    while not shared.available:
        await asyncio.sleep(0.01)


def slow_reads(
    gw: Gateway, monkeypatch: pytest.MonkeyPatch, *, model: str | None = None
) -> tuple[asyncio.Event, asyncio.Event]:
    """What the counter of a model's budget, or of a key's own, is made from is read when the test lets it: that it is waited for,
    and that it may go on.
    """
    counters: Any = gw.rt.limiter._counters
    read, reads, may_read = counters.read, asyncio.Event(), asyncio.Event()

    async def slow_read(counter: Any, *more: Any) -> int:
        spent: int = await read(counter, *more)
        if counter.model == model:
            reads.set()
            await may_read.wait()
        return spent

    monkeypatch.setattr(counters, "read", slow_read)
    return reads, may_read


async def test_a_counter_of_an_outage_that_is_over(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for it takes nothing from it: it does not know what was taken in Redis before the next outage."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
    async with gateway(config(provider), tmp_path, {"REDIS_URL": redis_url}) as gw:
        key = await key_of(gw, max_budget=0.1)  # room for one at a time
        provider.will(whole(chat_answer()))
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        await gw.quiet()
        is_back = asyncio.Event()
        away = spawn(goes_and_comes(gw, is_back), name="outage")
        await asyncio.sleep(0)
        reads, may_read = slow_reads(gw, monkeypatch)
        waiting = spawn(gw.post(CHAT, question(), headers=key), name="request")
        await reads.wait()
        is_back.set()
        await away
        provider.will(slow)
        taken = await gw.session.post(gw.url + CHAT, json=question(stream=True), headers=key)
        assert taken.status == 200
        gw.rt.shared._degrade(ConnectionError("a test"))  # type: ignore[attr-defined]  # as a round does that has no answer
        may_read.set()
        assert (await waiting).status == 422
        provider.gate.set()
        await taken.read()


async def test_a_fallback_that_waits_for_a_counter_of_an_outage_that_is_over(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a request that waits for one, a fallback takes nothing from it."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    base = f"{provider.url}/v1"
    models = [entry(name, f"openai/{name}", base, **PRICES) for name in "mn"]
    slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
    failing = whole({"error": {"message": "no"}}, 500)
    fallbacks = [{"m": ["n"]}]
    async with gateway(
        config(provider, *models, fallbacks=fallbacks), tmp_path, {"REDIS_URL": redis_url}
    ) as gw:
        key = await key_of(gw, max_budget=9, model_max_budget={"n": {"budget_limit": 0.1}})  # room for one n
        provider.will(whole(chat_answer()))
        assert (await gw.post(CHAT, question("n"), headers=key)).status == 200
        await gw.quiet()
        is_back = asyncio.Event()
        away = spawn(goes_and_comes(gw, is_back), name="outage")
        await asyncio.sleep(0)
        reads, may_read = slow_reads(gw, monkeypatch, model="n")
        provider.will(by_model({"m": failing, "n": slow}))
        waiting = spawn(gw.post(CHAT, question("m"), headers=key), name="request")
        await reads.wait()
        is_back.set()
        await away
        taken = await gw.session.post(gw.url + CHAT, json=question("n", stream=True), headers=key)
        assert taken.status == 200
        gw.rt.shared._degrade(ConnectionError("a test"))  # type: ignore[attr-defined]  # as a round does that has no answer
        other = spawn(gw.post(CHAT, question("n"), headers=key), name="request")
        while gw.rt.limiter._alone_since != gw.rt.shared.degraded_since:
            await asyncio.sleep(0.005)
        may_read.set()
        assert [(await one).status for one in (waiting, other)] == [502, 422]
        provider.gate.set()
        await taken.read()


async def test_a_redis_that_comes_and_goes(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often one gateway goes on alone and comes back, it never lets more pass than the budget is for."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    answer = whole(chat_answer(usage={"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}))

    async def play(provider: FakeProvider, asked: Asked) -> None:
        await asyncio.sleep(0.02)
        await answer(provider, asked)

    provider.will(play)
    async with gateway(config(provider), tmp_path, {"REDIS_URL": redis_url}) as gw:
        gw.rt.shared._pause = 0.01  # type: ignore[attr-defined]  # so that it comes back soon
        key = await key_of(gw, max_budget=2.0)  # 100 * 20 tokens * $0.001
        statuses: Counter[int] = Counter()

        async def ask(times: int) -> None:
            for _ in range(times):
                statuses[(await gw.post(CHAT, question(), headers=key)).status] += 1

        async def disturb() -> None:
            while True:
                await asyncio.sleep(0.015)
                if gw.rt.shared.available:
                    gw.rt.shared._degrade(ConnectionError("a test"))  # type: ignore[attr-defined]  # as a round does that has no answer

        disturbance = spawn(disturb(), name="disturbance")
        await asyncio.gather(*(ask(8) for _ in range(60)))
        disturbance.cancel()
        await gw.quiet()
        rows = await gw.rows()
    assert set(statuses) <= {200, 422, 503}
    assert 0 < statuses[200] <= 100
    assert sum(row.cost_nano or 0 for row in rows) == statuses[200] * 20_000_000
    assert len(provider.requests) == statuses[200]


async def test_a_rate_while_redis_comes_and_goes(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outages have one window together: a gateway on its own lets no more pass in ten of them than in one."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path, {"REDIS_URL": redis_url}) as gw:
        gw.rt.shared._pause = 0.01  # type: ignore[attr-defined]  # so that it comes back soon
        key = await key_of(gw, rpm_limit=5)

        async def ask(times: int) -> int:
            return sum([(await gw.post(CHAT, question(), headers=key)).status == 200 for _ in range(times)])

        alone = 0
        for _ in range(10):
            is_back = asyncio.Event()
            away = spawn(goes_and_comes(gw, is_back), name="outage")
            await asyncio.sleep(0)
            alone += await ask(2)
            is_back.set()
            await away
        assert alone == 5
        assert await ask(6) == 5


@pytest.mark.parametrize("fault", ["stall", "refuse"])
async def test_a_network_that_fails(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """No request fails or waits for long; nothing is overspent, and afterwards all is counted."""
    monkeypatch.setattr("gateway.state.open.PREFIX", f"test:{uuid4().hex}:")
    provider.will(whole(chat_answer()))
    proxy = FaultyProxy(redis_url)
    await proxy.start()
    try:
        environ = {"REDIS_URL": proxy.url, "PENSTOCK_REDIS_TIMEOUT": "0.3"}
        async with gateway(config(provider), tmp_path, environ) as gw:
            key = await key_of(gw, max_budget=0.2)
            assert (await gw.post(CHAT, question(), headers=key)).status == 200
            getattr(proxy, fault)()
            statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)]
            assert statuses == [200] * 3
            is_away = not gw.rt.shared.available
            assert is_away
            proxy.heal()
            while not gw.rt.shared.available:
                await asyncio.sleep(0.01)
            statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(12)]
            assert statuses[-1] == 422
            await gw.quiet()
            await asyncio.sleep(0.05)  # settlements wait some milliseconds for others
            spent = sum(row.cost_nano or 0 for row in await gw.rows())
            assert spent <= 200_000_000
            assert await used(gw) == spent
    finally:
        await proxy.close()


async def test_a_retry_takes_more(provider: FakeProvider, tmp_path: Path) -> None:
    """An attempt that may be billed, though nobody saw its answer, keeps its room; another is made only if there is more."""
    broken = whole(b"this is no answer")
    base = f"{provider.url}/v1"
    models = [entry("m", "openai/m", base, **PRICES, max_retries=1)]
    async with gateway(config(provider, *models), tmp_path) as gw:
        provider.will(broken, whole(chat_answer()))
        key = await key_of(gw, max_budget=0.2)
        assert (await gw.post(CHAT, question(), headers=key)).status == 200
        assert len(provider.requests) == 2
        provider.will(broken, whole(chat_answer()))
        key = await key_of(gw, max_budget=0.08)
        assert (await gw.post(CHAT, question(), headers=key)).status == 502
        assert len(provider.requests) == 3


async def test_a_fallback_has_its_own_budget(provider: FakeProvider, tmp_path: Path) -> None:
    """A model whose budget is used up is no way out for another one, and pays for what it answers."""
    base = f"{provider.url}/v1"
    models = [entry(name, f"openai/{name}", base, **PRICES) for name in ("m", "n")]
    async with gateway(config(provider, *models, fallbacks=[{"m": ["n"]}]), tmp_path) as gw:
        refused = whole({"error": {"message": "no"}}, 500)
        provider.will(by_model({"m": refused, "n": whole(chat_answer())}))
        key = await key_of(gw, model_max_budget={"n": {"budget_limit": 0.07, "time_period": "1d"}})
        statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(4)]
        assert statuses[0] == 200
        assert statuses[-1] != 200
        rows = [row for row in await gw.rows() if row.endpoint == CHAT]
        assert sum(row.cost_nano or 0 for row in rows) <= 70_000_000


async def test_a_budget_that_comes_while_a_fallback_takes(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that a key gets while the room for a fallback is looked for counts what the request really cost, once."""
    base = f"{provider.url}/v1"
    models = [entry(name, f"openai/{name}", base, **PRICES) for name in ("m", "n")]
    async with gateway(config(provider, *models, fallbacks=[{"m": ["n"]}]), tmp_path) as gw:
        slow = events([*chat_events("a", done=False)[:1], None, *chat_events("a", "b")[1:]])
        provider.will(whole({"error": {"message": "no"}}, 500), slow, whole(chat_answer()))
        key = await key_of(
            gw, max_budget=9.0, model_max_budget={"n": {"budget_limit": 9, "time_period": "1d"}}
        )
        totals, asked, gate = gw.rt.records.totals, asyncio.Event(), asyncio.Event()

        async def gated(by: Any = (), query: Any = EVERYTHING) -> Any:
            if by == ("model_group",):
                asked.set()
                await gate.wait()
            return await totals(by, query)

        monkeypatch.setattr(gw.rt.records, "totals", gated)
        first = spawn(gw.post(CHAT, question(stream=True), headers=key), name="a stream")
        await asked.wait()
        token = key["authorization"].removeprefix("Bearer ")
        change = {"key": token, "max_budget": 9.0, "budget_duration": "1d"}
        assert (await gw.post("/key/update", change, headers=MASTER)).status == 200
        gate.set()
        await provider.asked(2)
        assert (await gw.post(CHAT, question("n"), headers=key)).status == 200
        provider.gate.set()
        await first
        await gw.quiet()
        cost = sum(row.cost_nano or 0 for row in await gw.rows())
        (counter,) = gw.rt.limiter.settings.budgets_of(gw.rt.keyring.rows()[0], (), time())
        assert await gw.rt.shared.look([budget(counter.name, 0, 0)]) == [cost]


async def _never() -> bool:
    return False


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
async def test_what_limits_do_without_redis(
    provider: FakeProvider, tmp_path: Path, policy: str, status: int
) -> None:
    """An operator may choose: everything passes, or nothing that has a limit."""
    provider.will(whole(chat_answer()))
    text = config(provider, general={"limits_without_redis": policy})
    async with gateway(text, tmp_path, {"REDIS_URL": "redis://127.0.0.1:1"}) as gw:
        key = await key_of(gw, rpm_limit=1)
        statuses = [(await gw.post(CHAT, question(), headers=key)).status for _ in range(3)]
        assert statuses == [status] * 3
        assert (await gw.post(CHAT, question(), headers=MASTER)).status == 200


async def test_several_workers_without_redis_divide(provider: FakeProvider, tmp_path: Path) -> None:
    """Where nothing is shared each worker gives out its part of the limits of keys that exist, so that all keep them."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        fast, dear = await key_of(gw, rpm_limit=8), await key_of(gw, max_budget=0.4)
    async with gateway(config(provider), tmp_path, {"NUM_WORKERS": "4"}) as gw:
        statuses = [(await gw.post(CHAT, question(), headers=fast)).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        statuses = [(await gw.post(CHAT, question(), headers=dear)).status for _ in range(12)]
        assert statuses[0] == 200
        assert 15_000_000 * statuses.count(200) <= 100_000_000


async def test_a_large_request_fits_into_a_part(provider: FakeProvider, tmp_path: Path) -> None:
    """A request that needs more than a worker's part of a limit passes where nothing else does, as with a single worker."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, tpm_limit=2000)
    async with gateway(config(provider), tmp_path, {"NUM_WORKERS": "4"}) as gw:
        statuses = [(await gw.post(CHAT, question(max_tokens=1500), headers=key)).status for _ in range(2)]
    assert statuses == [200, 429]


async def test_a_ledger_that_cannot_be_read(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting begins at zero, and what was spent before is added as soon as it can be read."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        key = await key_of(gw, max_budget=0.2)
        real = gw.rt.records.totals
        monkeypatch.setattr(gw.rt.records, "totals", _unreadable)
        assert (await gw.post(CHAT, question(), headers=key)).status == 200

        async def totals(by: Any = (), query: Any = EVERYTHING) -> Any:
            return [replace(total, cost_nano=total.cost_nano + 10**9) for total in await real(by, query)]

        monkeypatch.setattr(gw.rt.records, "totals", totals)
        await gw.rt.limiter._counters.make_up()
        assert (await gw.post(CHAT, question(), headers=key)).status == 422


async def test_a_ledger_that_must_be_read(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the operator wants it so, nothing passes that cannot be counted."""
    provider.will(whole(chat_answer()))
    text = config(provider, general={"fail_closed_budget_enforcement": True})
    async with gateway(text, tmp_path) as gw:
        key = await key_of(gw, max_budget=0.2)
        monkeypatch.setattr(gw.rt.records, "totals", _unreadable)
        refused = await gw.post(CHAT, question(), headers=key)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


async def _unreadable(*_: Any) -> Any:
    raise RecordsUnavailable("away")


async def test_a_stream_is_cut(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that says more than it was asked for does not spend what was not reserved."""
    monkeypatch.setattr("gateway.stages.limits._SECONDS", 0.02)
    words = [event for _ in range(400) for event in chat_events("word", done=False)[1:2]]
    provider.will(events([*chat_events("a", done=False)[:1], *words], end="hang"))
    async with gateway(config(provider, general={"on_budget": "cut"}), tmp_path) as gw:
        key = await key_of(gw, max_budget=1.0)
        answer = await gw.wire(CHAT, question(stream=True), key)
        assert b"on_budget is cut" in answer.body
        await gw.quiet()
        (row,) = [row for row in await gw.rows() if row.endpoint == CHAT]
        assert row.reason == "budget_exceeded"


async def test_two_gateways_share_a_budget(
    provider: FakeProvider, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with one Redis: together they let no more pass than the budget is for."""
    text = config(provider, max_budget=2.0)
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    provider.will(whole(chat_answer(usage=usage)))
    environ = {"REDIS_URL": await _empty_database(redis_url), "PENSTOCK_REDIS_TIMEOUT": "10"}
    statuses: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        processes = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "config.yaml").write_text(text)
            made = penstock("--config", "config.yaml", folder=folder, environ=environ)
            processes.append(await stack.enter_async_context(made))

        async def ask(process: Process, times: int) -> None:
            for _ in range(times):
                statuses[(await process.post(CHAT, question(), headers=MASTER)).status] += 1

        await asyncio.gather(*(ask(processes[number % 2], 10) for number in range(100)))
    assert sum(statuses.values()) == 1000
    assert set(statuses) == {200, 422}
    assert 0 < statuses[200] <= 100
    assert len(provider.requests) == statuses[200]


async def _empty_database(url: str) -> str:
    """A database of this Redis that nobody uses: processes have the usual prefix."""
    for number in range(1, 16):
        database = f"{url.rsplit('/', 1)[0]}/{number}"
        client = Redis.from_url(database)
        try:
            if not await client.dbsize():
                return database
        finally:
            await client.aclose()
    raise AssertionError("no database of this Redis is empty")
