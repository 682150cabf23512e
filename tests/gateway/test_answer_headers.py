"""The headers of an answer, as they arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer_headers import _ms
from tests.harness import (
    FakeProvider,
    Gateway,
    by_model,
    chat_answer,
    chat_events,
    config_of,
    entry,
    events,
    fake_provider,
    gateway,
    whole,
)

HELLO: Any = [{"role": "user", "content": "Hello!"}]
CHAT = "/v1/chat/completions"


def question(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, "max_tokens": 100, **more}


async def test_headers_of_an_answer(provider: FakeProvider, gw: Gateway) -> None:
    """LiteLLM's headers are there, the provider's rate limits and ids cross, its cookies and the like do not."""
    theirs = {
        "x-ratelimit-remaining-tokens": "77",
        "x-request-id": "req_theirs",
        "set-cookie": "a=b",
        "server": "cloudflare",
        "retry-after": "3",
        "openai-organization": "org-secret",
    }
    provider.will(whole(chat_answer(), headers=theirs))
    answer = await gw.post(CHAT, question(stream=False))
    told = answer.headers
    for name in ("x-litellm-call-id", "x-litellm-model-id", "x-litellm-version", "x-litellm-response-cost"):
        assert told[name]
    assert told["x-litellm-model-api-base"] == provider.url
    assert told["x-ratelimit-remaining-tokens"] == told["llm_provider-x-ratelimit-remaining-tokens"] == "77"
    assert told["llm_provider-x-request-id"] == "req_theirs"
    assert told["x-request-id"] != "req_theirs"
    assert not {"set-cookie", "server", "retry-after", "openai-organization"} & {
        name.lower() for name in told
    }


def timing(answer: Any) -> dict[str, float]:
    """The steps of `x-penstock-timing`, in milliseconds."""
    steps = (step.split(";dur=") for step in answer.headers["x-penstock-timing"].split(", "))
    return {name: float(milliseconds) for name, milliseconds in steps}


@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_time_went(provider: FakeProvider, gw: Gateway, *, stream: bool) -> None:
    """The head tells how long each step took: a new connection where one was opened, no step that there was not."""
    provider.will(events(chat_events("Hi")) if stream else whole(chat_answer()))
    first = await gw.post(CHAT, question(stream=stream))
    assert list(timing(first)) == ["queue", "connect", "first"]
    again = timing(await gw.post(CHAT, question(stream=stream)))
    assert list(again) == ["queue", "first"]
    row = (await gw.rows(2))[1]
    assert sum(again.values()) <= row.total_us / 1000 + 0.02


@given(st.integers(-1_000, 10**11))
def test_milliseconds(micros: int) -> None:
    """Three digits behind the point, as a float would be written, and nothing below nothing."""
    assert _ms(micros / 1e6) == f"{max(micros, 0) / 1000:.3f}"


async def test_time_that_was_lost(provider: FakeProvider, tmp_path: Path) -> None:
    """Attempts in vain are a step of their own; where nobody answers the error says so, and what bound the attempts."""
    models = (
        entry("m", "openai/broken", f"{provider.url}/v1", order=1),
        entry("m", "openai/works", f"{provider.url}/v1", order=2, region_name="EU-West-1", timeout=7),
    )
    failing = whole({"error": {"message": "no"}}, 500)
    provider.will(by_model({"broken": failing, "works": whole(chat_answer())}))
    async with gateway(config_of(*models, num_retries=1, disable_cooldowns=True), tmp_path) as gw:
        answer = await gw.post(CHAT, question("m", stream=False))
        assert answer.status == 200
        assert {"queue", "retries", "first"} <= timing(answer).keys()
        assert answer.headers["x-litellm-model-region"] == "eu-west-1"
        assert answer.headers["x-litellm-attempted-retries"] == "1"
        assert answer.headers["x-litellm-model-name"].endswith("works")
        provider.will(failing)
        answer = await gw.post(CHAT, question("m", stream=False))
        assert answer.status >= 500
        assert list(timing(answer)) == ["queue", "retries"]
        told = answer.headers
        assert (told["x-litellm-model-group"], told["x-litellm-max-retries"], told["x-litellm-timeout"]) == (
            "m",
            "1",
            "7",
        )


async def test_the_callers_id(provider: FakeProvider, gw: Gateway) -> None:
    """A caller may name its request; the name comes back and stands in the row."""
    provider.will(whole(chat_answer()))
    answer = await gw.post(CHAT, question(stream=False), headers={"x-litellm-call-id": "mine-1"})
    (row,) = await gw.rows()
    assert answer.headers["x-litellm-call-id"] == row.call_id == "mine-1"
    assert answer.headers["x-request-id"] == row.id


async def test_an_estimate_after_a_failure(tmp_path: Path) -> None:
    """`count_tokens`: where one deployment fails and another cannot count, the headers name the one that stands for the answer."""
    async with fake_provider() as broken:
        broken.will(whole({"type": "error", "error": {"type": "api_error", "message": "x"}}, 503))
        models = (
            entry("m", "anthropic/a", broken.url, order=1),
            entry("m", "openai/b", f"{broken.url}/v1", order=2),
        )
        async with gateway(config_of(*models, num_retries=1), tmp_path) as gw:
            question = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            answer = await gw.post("/v1/messages/count_tokens", question)
    assert answer.status == 200
    assert answer.headers["x-litellm-model-name"] == "openai/b"
