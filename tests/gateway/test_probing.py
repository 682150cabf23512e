"""Probes: what they ask, what they cost, what comes of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.background.supervisor import spawn
from gateway.probing import Prober, probe_all
from tests.harness import FakeProvider, Gateway, by_model, chat_answer, config_of, entry, gateway, hang, whole

EMBEDDING = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "model": "e",
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


def fleet(provider: FakeProvider, **top: Any) -> str:
    """A chat model with two deployments, an embedding, a picture and a mock."""
    base = f"{provider.url}/v1"
    models = [
        entry("m", "openai/a", base),
        entry("m", "openai/b", base),
        {**entry("e", "openai/e", base), "model_info": {"mode": "embedding"}},
        {**entry("p", "openai/p", base), "model_info": {"mode": "image_generation"}},
        {"model_name": "k", "litellm_params": {"model": "openai/k", "mock_response": "Hi"}},
    ]
    return json.dumps({**json.loads(config_of(*models)), **top})


async def test_what_is_asked(provider: FakeProvider, tmp_path: Path) -> None:
    """One token of each chat model, one word of each embedding, and one row for each; pictures and mocks are left alone."""
    provider.will(
        by_model(
            {"a": whole(chat_answer()), "b": whole({"error": {"message": "no"}}, 503), "e": whole(EMBEDDING)}
        )
    )
    async with gateway(fleet(provider), tmp_path) as gw:
        gw.rt.limits.between_probes = 0.0
        told = (await (await gw.post("/health/probe", {})).json())["probes"]
        rows = await gw.rows(3)
        shown = await (await gw.get("/health")).json()
        assert not gw.rt.open
        assert gw.rt.metrics.in_flight == 0
    bodies = {asked.json["model"]: asked.json for asked in provider.requests}
    assert bodies["a"] == {"model": "a", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert bodies["e"]["input"] in ("Hi", ["Hi"])
    assert sorted(bodies) == ["a", "b", "e"]
    assert sorted((one["litellm_model"], one["status"], one["error"]) for one in told) == [
        ("openai/a", "healthy", None),
        ("openai/b", "unhealthy", "upstream_overloaded"),
        ("openai/e", "healthy", None),
    ]
    assert {(row.tags, row.key_alias, row.endpoint) for row in rows} == {
        (("health_check",), "health_check", "/health/probe")
    }
    (ill,) = shown["unhealthy_endpoints"]
    assert (ill["litellm_model"], ill["probe"]["error"]) == ("openai/b", "upstream_overloaded")


async def test_one_model(provider: FakeProvider, tmp_path: Path) -> None:
    """`model` chooses, in the query or the body; `GET /health?probe=true` probes first; a refusal of the question is life."""
    provider.will(whole({"error": {"message": "max_tokens is too small"}}, 400))
    async with gateway(fleet(provider), tmp_path) as gw:
        gw.rt.limits.between_probes = 0.0
        (told,) = (await (await gw.post("/health/probe?model=e", {})).json())["probes"]
        assert told["status"] == "healthy"
        assert len((await (await gw.post("/health/probe", {"model": "m"})).json())["probes"]) == 2
        assert (await gw.post("/health/probe", {"model": "nobody"})).status == 404
        assert (await (await gw.get("/health?probe=true&model=e")).json())["unhealthy_count"] == 0
        assert len(provider.requests) == 4
        assert (await gw.get("/health?probe=true", headers={"via": "a proxy"})).status == 200
        assert len(provider.requests) == 4


async def test_no_provider_is_flooded(provider: FakeProvider, tmp_path: Path) -> None:
    """Probes of one provider go out one after another, with time between."""
    provider.will(whole(chat_answer()))
    async with gateway(fleet(provider), tmp_path) as gw:
        assert gw.rt.limits.between_probes == 1.0
        gw.rt.limits.between_probes = 0.05
        begun = gw.rt.now()
        await asyncio.gather(probe_all(gw.rt, "m"), probe_all(gw.rt, "m"))
        # Three times in between, each up to a millisecond early: the loop counts in whole ones.
        assert gw.rt.now() - begun >= 0.147


async def test_budgets_bind_probes_too(provider: FakeProvider, tmp_path: Path) -> None:
    """Where a budget binds everything, a probe that it refuses is not made, and says nothing about the deployment."""
    provider.will(whole(chat_answer()))
    config = fleet(provider, litellm_settings={"max_budget": 0})
    async with gateway(config, tmp_path) as gw:
        (told,) = (await (await gw.post("/health/probe?model=e", {})).json())["probes"]
        (shown,) = [
            one
            for one in (await (await gw.get("/health")).json())["healthy_endpoints"]
            if one["model"] == "e"
        ]
    assert (told["status"], told["error"], shown["probe"]) == ("not_probed", "price_unknown", None)
    assert provider.requests == []


@pytest.mark.parametrize("routed", [False, True])
async def test_in_the_background(provider: FakeProvider, tmp_path: Path, routed: bool) -> None:
    """The worker probes only where that is wanted; `enable_health_check_routing` leaves out who failed until the next time."""
    provider.will(
        by_model({"a": whole({"error": {"message": "no"}}, 500), "b": whole(chat_answer()), "e": hang})
    )
    settings = {"background_health_checks": True, "health_check_interval": 100}
    config = json.loads(fleet(provider, general_settings=settings))
    config["router_settings"]["enable_health_check_routing"] = routed
    config["model_list"] = config["model_list"][:2]
    async with gateway(json.dumps(config), tmp_path) as gw:
        gw.rt.limits.between_probes = 0.0
        await worked(gw)
        shown = (await (await gw.get("/health")).json())["unhealthy_endpoints"]
    assert len(provider.requests) == 2
    assert [one["cooldown_seconds"] > 50 for one in shown] == [routed]


async def test_nothing_in_the_background(provider: FakeProvider, tmp_path: Path) -> None:
    """Without the setting nobody is asked."""
    async with gateway(fleet(provider), tmp_path) as gw:
        worker = spawn(Prober(gw.rt).run(), name="prober")
        await asyncio.sleep(0.02)
        worker.cancel()
    assert provider.requests == []


async def worked(gw: Gateway) -> None:
    """Let the worker go through its first round."""
    worker = spawn(Prober(gw.rt).run(), name="prober")
    await gw.rows(2)
    worker.cancel()
