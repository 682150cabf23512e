"""The list of models, for every SDK."""

from __future__ import annotations

from pathlib import Path

import anthropic
import openai
import pytest

from tests.harness import FakeProvider, Gateway, config_for, config_of, entry, gateway


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/openai/v1/models", "/anthropic/v1/models"])
async def test_the_list(gw: Gateway, path: str) -> None:
    """Every spelling gives one list with both vendors' fields."""
    told = await (await gw.get(path)).json()
    assert told["object"] == "list"
    assert [model["id"] for model in told["data"]] == ["gpt-4o", "claude"]
    assert (told["first_id"], told["last_id"], told["has_more"]) == ("gpt-4o", "claude", False)
    for model in told["data"]:
        assert {"object", "type", "created", "created_at", "display_name", "owned_by"} <= set(model)


@pytest.mark.parametrize(
    ("openais", "anthropics"),
    [("/v1", ""), ("", ""), ("/openai/v1", "/anthropic")],
    ids=["v1", "none", "named"],
)
async def test_both_sdks(gw: Gateway, openais: str, anthropics: str) -> None:
    """OpenAI's and Anthropic's SDKs read the list and a model of it, wherever below the gateway they are pointed at."""
    async with openai.AsyncOpenAI(base_url=gw.url + openais, api_key="x") as sdk:
        assert [model.id async for model in sdk.models.list()] == ["gpt-4o", "claude"]
        assert (await sdk.models.retrieve("claude")).owned_by == "anthropic"
    async with anthropic.AsyncAnthropic(base_url=gw.url + anthropics, api_key="x") as other:
        assert [model.id async for model in other.models.list()] == ["gpt-4o", "claude"]
        assert (await other.models.retrieve("gpt-4o")).display_name == "gpt-4o"


@pytest.mark.parametrize("path", ["team%2Fgpt", "team%2fgpt", "team/gpt"])
async def test_a_name_with_a_slash(provider: FakeProvider, tmp_path: Path, path: str) -> None:
    """A slash in a name may be written in each of three ways."""
    config = config_of(entry("team/gpt", "openai/a", provider.url))
    asked = f"GET /v1/models/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with gateway(config, tmp_path) as gw, gw.connect() as (reader, writer):
        writer.write(asked.encode())
        told = await reader.read()
    assert told.startswith(b"HTTP/1.1 200")
    assert b'"id":"team/gpt"' in told


async def test_nobody(gw: Gateway) -> None:
    """A model that does not exist is 404 with OpenAI's code."""
    answer = await gw.get("/v1/models/nobody")
    assert answer.status == 404
    assert (await answer.json())["error"]["code"] == "model_not_found"


async def test_aliases_hide_models(provider: FakeProvider, tmp_path: Path) -> None:
    """The list of a key is what it would be answered by: an alias stands for its model, and for none of its own name."""
    master = {"authorization": "Bearer sk-master-0123456789"}
    config = config_for(provider, general_settings={"master_key": "sk-master-0123456789"})
    async with gateway(config, tmp_path) as gw:
        for models, names in (([], ["claude", "gpt-4o"]), (["claude"], [])):
            fields = {"aliases": {"claude": "gpt-4o"}, "models": models}
            key = (await (await gw.post("/key/generate", fields, headers=master)).json())["key"]
            told = await (await gw.get("/v1/models", headers={"authorization": f"Bearer {key}"})).json()
            assert [model["id"] for model in told["data"]] == names
            assert {model["owned_by"] for model in told["data"]} <= {"openai"}
