"""What OpenAI's SDK sees of limits and budgets: the error of its own class, the words, the headers, and no retry for money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.harness import FakeProvider, Gateway, chat_answer, entry, gateway, whole

MASTER = "sk-sdk-the-master-key"
KEY = "sk-sdk-0123456789abcdef"
PRICES = {"input_cost_per_token": "0.001", "output_cost_per_token": "0.001"}
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def config(provider: FakeProvider, general: Any = None, key: Any = None, **litellm: Any) -> str:
    """A model at a tenth of a cent a token, and a key with these limits."""
    return json.dumps({
        "model_list": [entry("m", "openai/m", f"{provider.url}/v1", **PRICES)],
        "litellm_settings": litellm,
        "general_settings": {"master_key": MASTER, **(general or {})},
        "virtual_keys": [{"key": KEY, "key_alias": "bot", **(key or {})}],
    })  # fmt: skip


def client(gw: Gateway, key: str = KEY, retries: int = 3) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key=key, max_retries=retries)


async def spend(sdk: openai.AsyncOpenAI, times: int) -> openai.APIStatusError | None:
    """Ask so often; the first refusal."""
    for _ in range(times):
        try:
            await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=10)
        except openai.APIStatusError as refused:
            return refused
    return None


@pytest.mark.parametrize("key", [MASTER, KEY])
async def test_the_gateways_budget_binds_everybody(provider: FakeProvider, tmp_path: Path, key: str) -> None:
    """`max_budget` of the configuration is shared by the master key and all others: what one spends, the other has not."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider, max_budget=0.15, budget_duration="30d"), tmp_path) as gw:
        other = KEY if key == MASTER else MASTER
        async with client(gw, key) as sdk, client(gw, other) as next_sdk:
            refused = await spend(sdk, 20)
            assert isinstance(refused, openai.UnprocessableEntityError)
            assert (refused.type, refused.code) == ("budget_exceeded", "422")
            assert "Budget has been exceeded! Gateway over 30d budget Current cost: " in refused.message
            assert "Max budget: 0.15" in refused.message
            assert int(refused.response.headers["retry-after"]) > 0
            asked = len(provider.requests)
            assert await spend(next_sdk, 1) is not None
        assert len(provider.requests) == asked


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (402, openai.APIStatusError)],
)
async def test_the_status_of_a_used_up_budget(
    provider: FakeProvider, tmp_path: Path, status: int, error: type[openai.APIStatusError]
) -> None:
    """`budget_exceeded_status_code`, for clients that know another one; the SDK does not try again, also for 429."""
    provider.will(whole(chat_answer()))
    text = config(provider, key={"max_budget": 0.05}, budget_exceeded_status_code=status)
    async with gateway(text, tmp_path) as gw, client(gw) as sdk:
        refused = await spend(sdk, 5)
        assert isinstance(refused, error)
        assert (refused.status_code, refused.type, refused.code) == (status, "budget_exceeded", str(status))
        assert refused.response.headers["x-should-retry"] == "false"
        await gw.quiet()
        assert [row.http_status for row in await gw.rows()].count(status) == 1


@pytest.mark.parametrize(
    ("limits", "kind", "named"),
    [
        ({"rpm_limit": 2}, "requests", True),
        ({"tpm_limit": 60}, "tokens", True),
        ({"max_parallel_requests": 0}, "max_parallel_requests", False),
    ],
)
async def test_headers_of_a_refusal(
    provider: FakeProvider, tmp_path: Path, limits: dict[str, int], kind: str, *, named: bool
) -> None:
    """LiteLLM's names: which limit, what is left of it, and when there is room again."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider, key=limits), tmp_path) as gw, client(gw, retries=0) as sdk:
        refused = await spend(sdk, 10)
        assert isinstance(refused, openai.RateLimitError)
        assert (refused.type, refused.code) == ("throttling_error", "429")
        headers = refused.response.headers
        assert headers["rate_limit_type"] == kind
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers["reset_at"].endswith(" UTC")
        (limit,) = limits.values()
        for prefix in ("x-ratelimit", "x-ratelimit-api_key"):
            name = f"{prefix}-limit-{kind}"
            assert headers.get(name) == (str(limit) if named else None)
        assert (f"x-ratelimit-remaining-{kind}" in headers) == named


async def test_a_raise_for_a_time(provider: FakeProvider, tmp_path: Path) -> None:
    """`temp_budget_increase` lets a key go on whose budget is used up, until it ends."""
    provider.will(whole(chat_answer()))
    async with gateway(config(provider), tmp_path) as gw:
        admin = {"authorization": f"Bearer {MASTER}"}
        made = await (await gw.post("/key/generate", {"max_budget": 0.05}, headers=admin)).json()
        async with client(gw, made["key"]) as sdk:
            assert await spend(sdk, 5) is not None
            raised = {"temp_budget_increase": 0.2, "temp_budget_expiry": "2999-01-01T00:00:00"}
            answer = await gw.post("/key/update", {"key": made["key"], **raised}, headers=admin)
            assert (await answer.json())["metadata"] == raised
            refused = await spend(sdk, 30)
            assert refused is not None
            assert "Max budget: 0.25" in refused.message
            over = {"temp_budget_expiry": "2020-01-01T00:00:00"}
            assert (await gw.post("/key/update", {"key": made["key"], **over}, headers=admin)).status == 200
            refused = await spend(sdk, 1)
            assert refused is not None
            assert "Max budget: 0.05" in refused.message
