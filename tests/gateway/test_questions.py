"""What a deployment is asked: what was dropped, what is allowed, and who hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness import chat_answer, config_of, entry, fake_provider, gateway, message_answer, whole

HELLO: Any = [{"role": "user", "content": "Hello!"}]
DROPPED = "x-penstock-dropped-params"


@pytest.mark.parametrize("where", ["configuration", "request"])
async def test_what_is_dropped_is_told(tmp_path: Path, where: str) -> None:
    """`drop_params` leaves out what the format has no word for, and a header names it."""
    async with fake_provider() as provider:
        provider.will(whole(message_answer("Hi.")))
        params: dict[str, Any] = {"drop_params": True} if where == "configuration" else {}
        said: dict[str, Any] = {} if where == "configuration" else {"drop_params": True}
        async with gateway(
            config_of(entry("m", "anthropic/claude-3-haiku", provider.url, **params)), tmp_path
        ) as gw:
            answer = await gw.post(
                "/v1/chat/completions", {"model": "m", "messages": HELLO, "seed": 1, "logprobs": True, **said}
            )
    assert answer.status == 200
    assert sorted(answer.headers[DROPPED].split(", ")) == ["logprobs", "seed"]
    assert "seed" not in provider.requests[0].json


async def test_without_leave_it_is_refused_by_name(tmp_path: Path) -> None:
    """A parameter without a word is a 400 that names it, and nothing is sent."""
    async with fake_provider() as provider:
        provider.will(whole(message_answer("Hi.")))
        async with gateway(config_of(entry("m", "anthropic/claude-3-haiku", provider.url)), tmp_path) as gw:
            answer = await gw.post("/v1/chat/completions", {"model": "m", "messages": HELLO, "seed": 1})
    assert answer.status == 400
    assert (await answer.json())["error"]["param"] == "seed"
    assert DROPPED not in answer.headers
    assert provider.requests == []


async def test_what_is_allowed_goes_as_it_came(tmp_path: Path) -> None:
    """`allowed_openai_params`, the operator's or the request's, overrules what is known of a provider."""
    async with fake_provider() as provider:
        provider.will(whole(message_answer("Hi.")))
        config = config_of(
            entry("m", "anthropic/claude-3-haiku", provider.url, allowed_openai_params=["seed"])
        )
        async with gateway(config, tmp_path) as gw:
            answer = await gw.post(
                "/v1/chat/completions",
                {"model": "m", "messages": HELLO, "seed": 1, "n": 2, "allowed_openai_params": ["n"]},
            )
    assert answer.status == 200
    sent = provider.requests[0].json
    assert (sent["seed"], sent["n"]) == (1, 2)
    assert "allowed_openai_params" not in sent


async def test_a_request_may_drop_its_own_parameters(tmp_path: Path) -> None:
    """`additional_drop_params` of a request counts like the deployment's, and the header names what went."""
    async with fake_provider() as provider:
        provider.will(whole(chat_answer("Hi.")))
        config = config_of(
            entry("m", "openai/gpt", f"{provider.url}/v1", additional_drop_params=["user", "seed"])
        )
        async with gateway(config, tmp_path) as gw:
            answer = await gw.post(
                "/v1/chat/completions",
                {
                    "model": "m",
                    "messages": HELLO,
                    "user": "u",
                    "top_p": 1,
                    "additional_drop_params": ["top_p"],
                },
            )
    assert sorted(answer.headers[DROPPED].split(", ")) == ["top_p", "user"]
    assert set(provider.requests[0].json) == {"model", "messages"}


async def test_a_guardrail_is_not_the_callers_to_replace(tmp_path: Path) -> None:
    """What a deployment says of Bedrock's guardrail counts, whatever the request says, or wants dropped."""
    ours, theirs = ({"guardrailIdentifier": name, "guardrailVersion": "1"} for name in ("ours", "theirs"))
    answer = {"output": {"message": {"role": "assistant", "content": [{"text": "Hi."}]}}}
    async with fake_provider() as provider:
        provider.will(whole(answer), whole(answer))
        models = (
            entry("guarded", "bedrock/us-east-1/amazon.nova-pro-v1:0", provider.url, guardrailConfig=ours),
            entry("free", "bedrock/us-east-1/amazon.nova-pro-v1:0", provider.url),
        )
        async with gateway(config_of(*models), tmp_path) as gw:
            for name in ("guarded", "free"):
                said = {
                    "guardrailConfig": theirs,
                    "additional_drop_params": ["temperature"],
                    "temperature": 1,
                }
                asked = await gw.post("/v1/chat/completions", {"model": name, "messages": HELLO, **said})
                assert asked.status == 200
            asked = await gw.post(
                "/v1/chat/completions",
                {"model": "guarded", "messages": HELLO, "additional_drop_params": ["guardrailConfig"]},
            )
    sent = [request.json["guardrailConfig"] for request in provider.requests]
    assert sent == [ours, theirs, ours]
