"""Who could answer: the plan and the words for a name that nobody has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import FakeProvider, Gateway, chat_answer, config_of, entry, gateway, whole

HELLO: Any = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_an_unknown_model(gw: Gateway, path: str) -> None:
    """A name that nobody has is 404, with the nearest name that exists."""
    answer = await gw.post(path, {"model": "gpt-4", "messages": HELLO})
    (row,) = await gw.rows()
    error = (await answer.json())["error"]
    assert answer.status == 404
    assert "Did you mean 'gpt-4o'?" in error["message"]
    if path == "/v1/chat/completions":
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    else:
        assert error["type"] == "not_found_error"
    assert (row.reason, row.model_requested, row.cost_nano, row.attempts) == (
        "model_not_found",
        "gpt-4",
        0,
        (),
    )


async def test_a_model_that_cannot_be_served(provider: FakeProvider, tmp_path: Path) -> None:
    """A configured name without a key says what is missing."""
    broken = {"model_name": "m", "litellm_params": {"model": "openai/a", "api_key": "os.environ/NOWHERE"}}
    async with gateway(config_of(broken), tmp_path) as gw:
        answer = await gw.post("/v1/chat/completions", {"model": "m", "messages": HELLO})
    assert answer.status == 404
    assert "NOWHERE is not set" in (await answer.json())["error"]["message"]


async def test_a_name_that_is_a_sentence(gw: Gateway) -> None:
    """Odd names are quoted, cut, and nobody's problem."""
    answer = await gw.post("/v1/chat/completions", {"model": 'a"\r\n\x1b[31m' + "b" * 400, "messages": HELLO})
    assert answer.status == 404
    assert "\x1b" not in (await answer.json())["error"]["message"]


async def test_most_fallbacks(provider: FakeProvider, tmp_path: Path) -> None:
    """`max_fallbacks` bounds how many other models are asked."""
    base = f"{provider.url}/v1"
    names = "abcdefgh"
    config = config_of(
        *(entry(name, f"openai/{name}", base) for name in names),
        fallbacks=[{"a": list(names[1:])}],
        max_fallbacks=2,
    )
    provider.will(whole({"error": {"message": "no"}}, 500))
    async with gateway(config, tmp_path) as gw:
        await gw.post("/v1/chat/completions", {"model": "a", "messages": HELLO})
    assert [asked.json["model"] for asked in provider.requests] == ["a", "b", "c"]


async def test_default_fallbacks(provider: FakeProvider, tmp_path: Path) -> None:
    """`default_fallbacks` stand in for every model that has none of its own; unknown names are passed over."""
    base = f"{provider.url}/v1"
    config = config_of(
        entry("a", "openai/a", base), entry("b", "openai/b", base), default_fallbacks=["nobody", "a", "b"]
    )
    provider.will(whole({"error": {"message": "no"}}, 500), whole(chat_answer()))
    async with gateway(config, tmp_path) as gw:
        answer = await gw.post("/v1/chat/completions", {"model": "a", "messages": HELLO})
    assert answer.status == 200
    assert [asked.json["model"] for asked in provider.requests] == ["a", "b"]


@pytest.mark.parametrize(
    ("environ", "closed", "words"),
    [
        ({}, False, "Set GROQ_API_KEY to use the models of Groq."),
        ({}, True, "general_settings.env_providers is off"),
        ({"OPENAI_API_KEY": "k"}, False, "Models: openai/*"),
    ],
)
async def test_a_known_providers_model(
    provider: FakeProvider, tmp_path: Path, environ: dict[str, str], closed: bool, words: str
) -> None:
    """A model of a provider that is not set up says what is missing; the list is short patterns."""
    config = config_of(entry("m", "openai/a", provider.url)) if closed else None
    async with gateway(config, tmp_path, environ) as gw:
        answer = await gw.post("/v1/chat/completions", {"model": "groq/llama-3.3-70b", "messages": HELLO})
    assert words in (await answer.json())["error"]["message"]


async def test_an_unknown_model_names_none_that_the_key_may_not_use(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Who guesses at names learns only those that the key may use."""
    base = f"{provider.url}/v1"
    names = ("plan-merger", "plan-merges-x", "plan-open-1")
    config = json.loads(config_of(*(entry(name, "openai/a", base) for name in names)))
    config["general_settings"] = {"master_key": "sk-master-of-routes-4417"}
    config["virtual_keys"] = [{"key": "sk-virtual-of-routes-5128", "models": ["plan-open-*", "plan-merge-*"]}]
    async with gateway(json.dumps(config), tmp_path) as gw:
        headers = {"authorization": "Bearer sk-virtual-of-routes-5128"}
        body = {"model": "plan-merge-r", "messages": HELLO}
        refused = await gw.post("/v1/chat/completions", body, headers=headers)
        said = (await refused.json())["error"]["message"]
    assert refused.status == 404
    assert "merger" not in said
    assert "merges" not in said
    assert "plan-open-1" in said
