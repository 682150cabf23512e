"""`GET /router/explain`, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import FakeProvider, Gateway, chat_answer, config_for, gateway, whole

MASTER = "sk-mzqster-0123456789"
ADMIN = {"authorization": f"Bearer {MASTER}"}
PAGE = "/router/explain"


@pytest.fixture
async def keyed(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a master key; the provider answers whatever it is asked."""
    provider.will(whole(chat_answer()))
    async with gateway(config_for(provider, general_settings={"master_key": MASTER}), tmp_path) as gw:
        yield gw


async def explained(gw: Gateway, query: str, headers: dict[str, str] = ADMIN) -> tuple[int, Any]:
    answer = await gw.get(f"{PAGE}?{query}", headers=headers)
    return answer.status, await answer.json()


async def made(gw: Gateway, **fields: Any) -> dict[str, Any]:
    answer = await gw.post("/key/generate", fields, headers=ADMIN)
    key: dict[str, Any] = await answer.json()
    return key


async def test_the_operator_sees_health(keyed: Gateway, provider: FakeProvider) -> None:
    """What live traffic has shown of a deployment, its address and its place stand beside its share."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    assert (await keyed.post("/v1/chat/completions", body, headers=ADMIN)).status == 200
    await keyed.rows()
    status, told = await explained(keyed, "model=gpt-4o&stream=true&tag=a&tag=b")
    (one,) = told["deployments"]
    assert (status, one["share"], one["api_base"]) == (200, 1.0, provider.url)
    assert (one["health"]["available"], one["health"]["successes"]) == (True, 1)
    assert one["health"]["latency_ms"] > 0
    _, told = await explained(keyed, "")
    assert [model["model"] for model in told["models"]] == ["gpt-4o", "claude"]


async def test_about_a_key(keyed: Gateway) -> None:
    """By its alias, its digest or itself, its models and limits are looked at; an unknown one is 404."""
    key = await made(keyed, key_alias="bot", models=["gpt-4o"], rpm_limit=7)
    for name in ("bot", key["token"], key["key"]):
        _, told = await explained(keyed, f"model=gpt-4o&key={name}")
        assert told["key"] == {"name": "bot", "may_use_it": True}
        assert {"limit": "rpm", "of": "api_key", "most": 7} in told["limits"]
    _, told = await explained(keyed, "model=claude&key=bot")
    assert told["key"]["may_use_it"] is False
    for unknown in ("sk-zzqnobody", "zzqnobody"):
        status, told = await explained(keyed, f"key={unknown}")
        assert (status, "zzqnobody" in str(told)) == (404, False)


async def test_a_key_in_the_body(keyed: Gateway) -> None:
    """A key itself may come where no proxy logs it; what is no text is none."""
    key = await made(keyed, key_alias="bot", models=["claude"])
    for name in ("bot", key["token"], key["key"]):
        answer = await keyed.post(f"{PAGE}?model=gpt-4o", {"key": name}, headers=ADMIN)
        assert (await answer.json())["key"] == {"name": "bot", "may_use_it": False}
    for body in ({}, {"key": None}, {"key": [1]}):
        answer = await keyed.post(f"{PAGE}?model=gpt-4o", body, headers=ADMIN)
        assert (answer.status, "key" in await answer.json()) == (200, False)


async def test_about_a_key_of_the_configuration(provider: FakeProvider, tmp_path: Path) -> None:
    """Its text need not begin as those do that are handed out, and is not told."""
    secret = "canary-of-a-bot-0123456789"
    settings = {"general_settings": {"master_key": MASTER}, "virtual_keys": [{"key": secret}]}
    async with gateway(config_for(provider, **settings), tmp_path) as gw:
        status, told = await explained(gw, f"model=gpt-4o&key={secret}")
    assert (status, told["key"]["may_use_it"], secret in str(told)) == (200, True, False)


async def test_a_key_about_itself(keyed: Gateway) -> None:
    """A virtual key sees its own models without addresses, may not ask about others, and needs the route to be allowed."""
    key = await made(keyed, models=["gpt-4o"])
    own = {"authorization": f"Bearer {key['key']}"}
    status, told = await explained(keyed, "", own)
    assert (status, [model["model"] for model in told["models"]]) == (200, ["gpt-4o"])
    assert "api_base" not in told["models"][0]["deployments"][0]
    assert "off" not in told
    status, told = await explained(keyed, "model=claude", own)
    assert (status, "deployments" in told) == (200, False)
    assert (await explained(keyed, f"key={key['token']}", own))[0] == 403
    narrow = await made(keyed, allowed_routes=["/chat/completions"])
    assert (await explained(keyed, "", {"authorization": f"Bearer {narrow['key']}"}))[0] == 403
    assert (await explained(keyed, "", {}))[0] == 401


async def test_an_open_gateway_tells_this_machine_alone(gw: Gateway) -> None:
    """Without a master key whoever comes through a proxy is a stranger."""
    assert (await explained(gw, "", {}))[0] == 200
    assert (await explained(gw, "", {"x-forwarded-for": "192.0.2.1"}))[0] == 403
