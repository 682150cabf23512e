"""What the documents say of money and pace binds as it is written: budgets, prices, limits of all, of keys and of users."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.harness import FakeProvider, chat_answer, config_of, entry, gateway, hang, whole
from tests.harness import written as wire
from tests.seeds.deployment import authorization, moved, question
from tests.seeds.documents import Shelf
from tests.seeds.test_routing import ask

OPENAI = {"OPENAI_API_KEY": "sk-of-openai"}
DEAR = {**chat_answer(), "usage": {"prompt_tokens": 10, "completion_tokens": 20_000_000, "total_tokens": 0}}
"""An answer that costs more than any budget of the documents."""


@pytest.mark.rows("B22", "B24", "L16")
async def test_a_budget_of_the_gateway(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`max_budget` under `general_settings` binds, the master key too, and begins anew with its period."""
    block = seeds[2].block("yaml", "Budget Control")
    headers = authorization(block, {})
    provider.will(whole(DEAR))
    async with gateway(block.text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        assert (await ask(gw, "gpt-4o", headers)).status == 200
        refused = await ask(gw, "gpt-4o", headers)
        assert (refused.status, refused.body["error"]["type"]) == (422, "budget_exceeded")
        assert str(block.data["general_settings"]["max_budget"]) in refused.body["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
        assert (await ask(gw, "gpt-4o")).status == 401


@pytest.mark.rows("B24", "B32", "L17")
async def test_a_price_per_token(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`cost_per_token` is one price for both directions, before the built-in one and after that of an entry."""
    block = seeds[3].block("yaml", "Cost Controls")
    prices = block.data["general_settings"]["cost_per_token"]
    async with gateway(block.text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        for name, dollars in prices.items():
            assert (await ask(gw, name)).status == 200
            assert (await gw.rows())[-1].cost_nano == round(15 * dollars * 1e9)
    first = next(iter(prices))
    of_its_own = entry(
        first, f"openai/{first}", f"{provider.url}/v1", input_cost_per_token=0.5, output_cost_per_token=0
    )
    (tmp_path / "b").mkdir()
    async with gateway(f"model_list: {json.dumps([of_its_own])}\n{block.text}", tmp_path / "b") as gw:
        assert (await ask(gw, first, max_tokens=1)).status == 200
        assert (await gw.rows())[-1].cost_nano == 5_000_000_000


@pytest.mark.rows("B31", "L18")
async def test_when_a_budget_begins_anew(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """A budget of days ends at `budget_reset_at`, in the time zone, and the refusal says how long that is."""
    block = seeds[3].block("yaml", "Cost Controls")
    hour, minute = map(int, block.data["general_settings"]["budget_reset_at"].split(":"))
    text = block.text.replace(block.data["general_settings"]["budget_duration"], "1d")
    provider.will(whole(DEAR))
    name = next(iter(block.data["general_settings"]["cost_per_token"]))
    async with gateway(text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        assert (await ask(gw, name)).status == 200
        refused = await ask(gw, name)
        assert refused.status == 422
        ends = datetime.now(UTC) + timedelta(seconds=int(refused.headers["retry-after"]))
    away = (ends.hour * 60 + ends.minute) - (hour * 60 + minute)
    assert away % 1440 in {0, 1439, 1}


@pytest.mark.rows("B27")
async def test_limits_of_all(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`tpm_limit` and `rpm_limit` bind all callers together."""
    block = seeds[3].block("yaml", "Rate Limiting")
    settings = block.data["general_settings"]
    async with gateway(block.text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        statuses = [(await ask(gw, "gpt-4o", max_tokens=9)).status for _ in range(settings["rpm_limit"])]
        assert set(statuses) == {200}
        late = await ask(gw, "gpt-4o", max_tokens=9)
        assert late.status == 429
        assert int(late.headers["retry-after"]) > 0
    assert len(provider.requests) == settings["rpm_limit"]
    provider.will(whole(DEAR))
    (tmp_path / "b").mkdir()
    async with gateway(block.text, tmp_path / "b", moved(OPENAI, provider, tmp_path)) as gw:
        assert (await ask(gw, "gpt-4o", max_tokens=9)).status == 200
        refused = await ask(gw, "gpt-4o", max_tokens=9)
        assert refused.status == 429
        assert "tpm" in json.dumps(refused.body).lower() or "token" in json.dumps(refused.body).lower()


@pytest.mark.rows("B33")
async def test_a_user(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`user_rate_limit` binds the user whom a request names, and nobody else."""
    block = seeds[3].block("yaml", "Rate Limiting")
    ((user, limits),) = block.data["general_settings"]["user_rate_limit"].items()
    async with gateway(block.text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        for _ in range(limits["rpm"]):
            assert (await ask(gw, "gpt-4o", max_tokens=9, user=user)).status == 200
        assert (await ask(gw, "gpt-4o", max_tokens=9, user=user)).status == 429
        assert (await ask(gw, "gpt-4o", max_tokens=9, user="another")).status == 200


@pytest.mark.rows("B28")
async def test_parallel_requests(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """`max_parallel_requests` is how many requests of one key may run at once."""
    block = seeds[3].block("yaml", "Rate Limiting")
    most = block.data["general_settings"]["max_parallel_requests"]
    provider.will(hang)
    async with gateway(block.text, tmp_path, moved(OPENAI, provider, tmp_path)) as gw:
        key = (await (await gw.post("/key/generate", {})).json())["key"]
        headers = {"authorization": f"Bearer {key}"}
        async with AsyncExitStack() as connections:
            for _ in range(most):
                _, writer = await connections.enter_async_context(gw.connect())
                asking = wire("/v1/chat/completions", question("gpt-4o", max_tokens=9), headers)
                writer.write(asking)
            await provider.asked(most)
            assert (await ask(gw, "gpt-4o", headers, max_tokens=9)).status == 429
        await gw.quiet()
    assert len(provider.requests) == most


@pytest.mark.rows("D15")
async def test_a_key_with_a_budget(provider: FakeProvider, tmp_path: Path, seeds: Shelf) -> None:
    """A key of `/key/generate` has its own budget, which holds whatever others have left."""
    (body,) = [block for block in seeds[4].under("Rate Limiting", "bash") if "max_budget" in block.text]
    wanted = json.loads(body.text.partition("-d '")[2].rpartition("'")[0])
    environ = moved({**OPENAI, "LITELLM_MASTER_KEY": "key-of-the-operator"}, provider, tmp_path)
    master = {"authorization": "Bearer key-of-the-operator"}
    provider.will(whole(DEAR))
    async with gateway(None, tmp_path, environ) as gw:
        made = await (await gw.post("/key/generate", wanted, headers=master)).json()
        assert made["key"].startswith("sk-")
        assert (made["max_budget"], made["budget_duration"]) == (wanted["max_budget"], "1d")
        assert made["metadata"] == wanted["metadata"]
        mine = {"authorization": f"Bearer {made['key']}"}
        assert (await ask(gw, "gpt-4o", mine)).status == 200
        assert (await ask(gw, "gpt-4o", mine)).status == 422
        assert (await ask(gw, "gpt-4o", master)).status == 200


@pytest.mark.rows("B36")
async def test_keys_of_the_configuration(provider: FakeProvider, tmp_path: Path) -> None:
    """Virtual keys may stand in the file: each may what is said of it, and no more."""
    config = json.loads(config_of(*(entry(name, f"openai/{name}", f"{provider.url}/v1") for name in "ab")))
    config["virtual_keys"] = [{"key": "os.environ/KEY_OF_THE_BOT", "key_alias": "bot", "models": ["a"]}]
    environ = {"KEY_OF_THE_BOT": "sk-of-the-bot-0123456789", "LITELLM_MASTER_KEY": "key-of-the-operator"}
    async with gateway(json.dumps(config), tmp_path, environ) as gw:
        bot = {"authorization": "Bearer sk-of-the-bot-0123456789"}
        assert [(await ask(gw, name, bot)).status for name in "ab"] == [200, 403]
        assert (await ask(gw, "b", {"authorization": "Bearer key-of-the-operator"})).status == 200
