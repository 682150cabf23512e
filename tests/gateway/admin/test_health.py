"""How is it? Answers without asking anybody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import FakeProvider, Gateway, config_for, config_of, entry, gateway, whole


async def test_the_body(provider: FakeProvider, gw: Gateway) -> None:
    """One body has every field that the seeds' health checks read, and no provider was asked."""
    answer = await gw.get("/health", headers={"via": "a proxy"})
    told = await answer.json()
    assert answer.status == 200
    assert told["status"] == "healthy"
    assert told["models"] == ["gpt-4o", "claude"]
    assert [shown["model"] for shown in told["healthy_endpoints"]] == ["gpt-4o", "claude"]
    assert (told["healthy_count"], told["unhealthy_count"]) == (2, 0)
    assert {"version", "uptime", "cache", "db", "auth"} <= set(told)
    assert told["auth"] == "disabled"
    assert (provider.requests, provider.connections) == ([], [])


async def test_who_sees_what(provider: FakeProvider, tmp_path: Any) -> None:
    """Strangers see names and a word each, the administrator sees addresses and causes."""
    key = {"authorization": "Bearer sk-the-master-key"}
    provider.will(whole({"error": {"message": "no"}}, 429, {"retry-after": "60"}))
    config = config_for(provider, general_settings={"master_key": "sk-the-master-key"})
    async with gateway(config, tmp_path) as gw:
        await gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": []}, headers=key)
        strange = await (await gw.get("/health")).json()
        known = await (await gw.get("/health", headers=key)).json()
    assert strange["unhealthy_endpoints"] == [{"model": "gpt-4o", "status": "unhealthy"}]
    assert provider.url not in str(strange)
    (shown,) = known["unhealthy_endpoints"]
    assert (shown["api_base"], shown["last_error"], shown["failures"]) == (
        provider.url,
        "upstream_rate_limited",
        1,
    )
    assert 50 < shown["cooldown_seconds"] <= 60
    assert known["records"]["durable"] is True


@pytest.mark.parametrize("path", ["/health/liveness", "/health/liveliness"])
async def test_liveness(gw: Gateway, path: str) -> None:
    """The process says that it is alive, while it drains too."""
    for gw.rt.draining in (False, True):
        answer = await gw.get(path)
        assert (answer.status, await answer.json()) == (200, "I'm alive!")


async def test_readiness(gw: Gateway) -> None:
    """Traffic may come until a signal comes."""
    assert (await gw.get("/health/readiness")).status == 200
    gw.rt.draining = True
    for path in ("/health/readiness", "/health"):
        answer = await gw.get(path)
        assert answer.status == 503
        assert (await answer.json())["status"] == "shutting_down"


async def test_what_is_not_served(provider: FakeProvider, tmp_path: Any) -> None:
    """The administrator sees which entries cannot be served, and why."""
    broken = {"model_name": "m", "litellm_params": {"model": "openai/a", "api_key": "os.environ/NOWHERE"}}
    async with gateway(config_of(entry("n", "openai/b", provider.url), broken), tmp_path) as gw:
        told = await (await gw.get("/health")).json()
    assert [(row["model"], "NOWHERE" in row["why"]) for row in told["unserved"]] == [("m", True)]


async def test_aliases(provider: FakeProvider, tmp_path: Any) -> None:
    """A hidden alias is shown to nobody, another one is a name but no endpoint of its own."""
    aliases = {"quick": "m", "secret": {"model": "m", "hidden": True}}
    config = config_of(entry("m", "openai/a", provider.url), model_group_alias=aliases)
    async with gateway(config, tmp_path) as gw:
        told = await (await gw.get("/health")).json()
    assert told["models"] == ["m", "quick"]
    assert told["healthy_count"] == 1
