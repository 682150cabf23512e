"""Cohere and Ollama through a running gateway: chats of both kinds of clients, whole and streamed, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import plain
from tests.harness import FakeProvider, config_of, entry, events, gateway, whole

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
PROVIDERS = {
    "cohere": ("/v2/chat", "sse", "text/event-stream"),
    "ollama": ("/api/chat", "ndjson", "application/x-ndjson"),
}
"""Each with its path, the ending of its streams' transcripts and their content type."""
CLIENTS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
QUESTION = {
    "messages": [{"role": "user", "content": "Is it lit?"}],
    "max_tokens": 9,
    "stream_options": {"include_usage": True},
}


def config(provider: FakeProvider) -> str:
    return config_of(*(entry(name, f"{name}/a-model", provider.url) for name in PROVIDERS))


def question(name: str, client: str, **more: Any) -> dict[str, Any]:
    body = QUESTION | {"model": name} | more
    if client == "anthropic" or not body.get("stream"):
        body.pop("stream_options")
    return body


def transcript(name: str, title: str) -> bytes:
    return (TRANSCRIPTS / name / title).read_bytes()


@pytest.mark.parametrize("title", ["answer", "tool_calls"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", PROVIDERS)
async def test_chat(name: str, client: str, title: str, provider: FakeProvider, tmp_path: Path) -> None:
    """A client of either format gets the same from a stream, in pieces of any size, as from a whole answer."""
    path, ending, content_type = PROVIDERS[name]
    stream = transcript(name, f"{title}.{ending}")
    pieces = [stream[at : at + 37] for at in range(0, len(stream), 37)]
    async with gateway(config(provider), tmp_path) as gw:
        provider.will(whole(transcript(name, f"{title}.json")))
        response = await gw.post(CLIENTS[client], question(name, client))
        at_once = plain.read(client, await response.read(), is_stream=False)
        provider.will(events(pieces, headers={"content-type": content_type}))
        response = await gw.post(CLIENTS[client], question(name, client, stream=True))
        streamed = plain.read(client, await response.read(), is_stream=True)
        rows = await gw.rows(2)
    assert (streamed.text, streamed.thinking) == (at_once.text, at_once.thinking)
    assert (streamed.calls, streamed.finish, streamed.tokens) == (
        at_once.calls,
        at_once.finish,
        at_once.tokens,
    )
    if title == "answer":
        assert (at_once.text, at_once.finish) == ("The light is lit\nat six – 🗼", "stop")
        assert at_once.thinking == 'When is it dark? At "six".'
    else:
        assert at_once.calls == [("look", {"lamp": "north"}), ("clock", {}), ("clock", {})]
        assert at_once.finish == "tool_calls"
    assert (at_once.tokens.prompt, at_once.tokens.completion) == (200, 40)
    assert [row.usage.total for row in rows] == [240, 240]
    assert {asked.path for asked in provider.requests} == {path}
    assert [asked.json["stream"] for asked in provider.requests] == [False, True]
    assert provider.requests[0].headers["authorization"] == "Bearer sk-provider-key"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_stream_that_breaks(name: str, client: str, provider: FakeProvider, tmp_path: Path) -> None:
    """An error within a stream, and an end too early, are told as errors and never as an end."""
    _, ending, content_type = PROVIDERS[name]
    async with gateway(config(provider), tmp_path) as gw:
        for title in ("error_in_stream", "without_terminator"):
            stream = transcript(name, f"{title}.{ending}")
            provider.will(events([stream], headers={"content-type": content_type}))
            body = (await gw.wire(CLIENTS[client], question(name, client, stream=True))).body
            assert b"The light " in body
            assert plain.is_error(plain.split(body)[-1])
            assert b"[DONE]" not in body
            assert b"message_stop" not in body


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_refusal(name: str, provider: FakeProvider, tmp_path: Path) -> None:
    """What the provider refuses is told in the client's words."""
    async with gateway(config(provider), tmp_path) as gw:
        provider.will(whole(transcript(name, "error_context.json"), 400))
        response = await gw.post(CLIENTS["openai"], question(name, "openai"))
        error = json.loads(await response.read())["error"]
        assert (response.status, error["code"]) == (400, "context_length_exceeded")
        anthropic = await gw.post(CLIENTS["anthropic"], question(name, "anthropic"))
        assert (anthropic.status, (await anthropic.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_ollama_under_v1(provider: FakeProvider, tmp_path: Path) -> None:
    """An address that ends in `/v1` is asked in OpenAI's format, completions too; without it, those are refused."""
    completion = {
        "id": "c",
        "object": "text_completion",
        "model": "m",
        "choices": [{"text": "yes", "index": 0}],
    }
    models = config_of(
        entry("compatible", "ollama/a-model", f"{provider.url}/v1"),
        entry("native", "ollama/a-model", provider.url),
    )
    async with gateway(models, tmp_path) as gw:
        provider.will(whole(completion))
        response = await gw.post("/v1/completions", {"model": "compatible", "prompt": "Is it lit?"})
        assert (await response.json())["choices"][0]["text"] == "yes"
        refused = await gw.post("/v1/completions", {"model": "native", "prompt": "Is it lit?"})
        assert (refused.status, len(provider.requests)) == (400, 1)
        assert provider.requests[0].path == "/v1/completions"
        provider.will(whole({"object": "list", "data": [{"index": 0, "embedding": [1]}], "model": "m"}))
        await gw.post("/v1/embeddings", {"model": "compatible", "input": "Is it lit?"})
        provider.will(whole({"model": "m", "embeddings": [[0.5]], "prompt_eval_count": 3}))
        response = await gw.post("/v1/embeddings", {"model": "native", "input": "Is it lit?"})
        assert (await response.json())["data"][0]["embedding"] == [0.5]
        assert [asked.path for asked in provider.requests[1:]] == ["/v1/embeddings", "/api/embed"]
