"""The official SDKs against a running gateway, in front of Google: AI Studio with a key, Vertex AI with a service account."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.harness import (
    Asked,
    FakeProvider,
    Gateway,
    config_of,
    entry,
    events,
    gateway,
    message_answer,
    message_events,
    whole,
)

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "gemini"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def streamed(name: str) -> list[bytes]:
    """A transcript's events as Google frames them, with CR LF."""
    body = transcript(name).replace(b"\n", b"\r\n")
    return [event + b"\r\n\r\n" for event in body.split(b"\r\n\r\n") if event]


def account(provider: FakeProvider) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "a-project",
            "private_key": pem,
            "client_email": "robot@a-project.iam.gserviceaccount.com",
            "token_uri": f"{provider.url}/token",
        }
    )


def with_tokens(play: Any) -> Any:
    """Gives tokens at `/token`, and plays everything else."""
    token = whole({"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"})

    async def either(provider: FakeProvider, asked: Asked) -> None:
        await (token if asked.path == "/token" else play)(provider, asked)

    return either


@pytest.fixture
async def google(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Gateway]:
    vertex = {"api_key": None, "vertex_credentials": account(provider), "vertex_location": "eu"}
    config = config_of(
        entry("studio", "gemini/gemini-3-flash", provider.url),
        entry("vertex", "vertex_ai/gemini-3-flash", provider.url, **vertex),
        entry("claude", "vertex_ai/claude-haiku-4-5@20251001", provider.url, **vertex),
        entry("vectors", "gemini/gemini-embedding-2", provider.url),
    )
    async with gateway(config, tmp_path) as gw:
        yield gw


def of_openai(gw: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="anything", max_retries=0)


def of_anthropic(gw: Gateway) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gw.url, api_key="anything", max_retries=0)


async def test_a_plain_answer(google: Gateway, provider: FakeProvider) -> None:
    """The key stands in a header, and nowhere in the address."""
    provider.will(whole(transcript("answer.json")))
    async with of_openai(google) as sdk:
        answer = await sdk.chat.completions.create(model="studio", messages=HELLO, max_tokens=50)
    assert answer.choices[0].message.content == "Hello, world — é!"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 5)
    (asked,) = provider.requests
    assert asked.path == "/v1beta/models/gemini-3-flash:generateContent"
    assert asked.headers["x-goog-api-key"] == "sk-provider-key"
    assert "authorization" not in asked.headers
    assert asked.json["generationConfig"] == {"maxOutputTokens": 50}


async def test_a_tool_loop_with_openais_sdk(google: Gateway, provider: FakeProvider) -> None:
    """Calls are streamed; the SDK's own message goes back, and the seal is on the call again."""
    provider.will(events(streamed("parallel_tools.sse")), whole(transcript("answer.json")))
    async with of_openai(google) as sdk:
        async with sdk.chat.completions.stream(model="studio", messages=HELLO, tools=[WEATHER]) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        assert message.content == "I will look."
        calls = message.tool_calls or []
        assert [(call.id, call.function.name) for call in calls] == [
            ("w1", "get_weather"),
            ("t1", "get_time"),
        ]
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in calls]
        back: Any = message.model_dump(exclude_none=True, exclude={"parsed"})
        await sdk.chat.completions.create(model="studio", messages=[*HELLO, back, *results])
    first, second = provider.requests
    assert first.path.endswith(":streamGenerateContent?alt=sse")
    assert second.json["contents"][1]["parts"][1] == {
        "functionCall": {"id": "w1", "name": "get_weather", "args": {"city": "Paris"}},
        "thoughtSignature": "c2VhbA+/",
    }


async def test_a_tool_loop_with_anthropics_sdk(google: Gateway, provider: FakeProvider) -> None:
    """The same with the other SDK."""
    provider.will(events(streamed("parallel_tools.sse")), whole(transcript("answer.json")))
    async with of_anthropic(google) as sdk:
        async with sdk.messages.stream(model="studio", messages=HELLO, max_tokens=50) as stream:
            message = await stream.get_final_message()
        assert message.stop_reason == "tool_use"
        calls = [block for block in message.content if block.type == "tool_use"]
        results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "ok"} for call in calls]
        turns: Any = [*HELLO, {"role": "assistant", "content": message.content}]
        turns.append({"role": "user", "content": results})
        await sdk.messages.create(model="studio", messages=turns, max_tokens=50)
    parts = provider.requests[1].json["contents"][1]["parts"]
    assert parts[1]["functionCall"]["id"] == "w1"
    assert parts[1]["thoughtSignature"] == "c2VhbA-_"


async def test_thinking(google: Gateway, provider: FakeProvider) -> None:
    """Thoughts are thinking for Anthropic's clients and reasoning for OpenAI's."""
    provider.will(events(streamed("thinking.sse")))
    async with of_anthropic(google) as sdk:
        thinking: Any = {"type": "enabled", "budget_tokens": 2000}
        async with sdk.messages.stream(
            model="studio", messages=HELLO, max_tokens=4000, thinking=thinking
        ) as stream:
            message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens == 31
    assert provider.requests[0].json["generationConfig"]["thinkingConfig"] == {
        "includeThoughts": True,
        "thinkingBudget": 2000,
    }
    async with of_openai(google) as openai_sdk:
        pieces = await openai_sdk.chat.completions.create(model="studio", messages=HELLO, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in pieces if chunk.choices]
    said = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert said == "**Hm.** Two and two."


async def test_errors(google: Gateway, provider: FakeProvider) -> None:
    """A bad key is not the caller's, a quota says how long to wait, a stream that breaks says so."""
    async with of_openai(google) as sdk:
        provider.will(whole(transcript("error_auth.json"), 400))
        with pytest.raises(openai.APIStatusError) as refused:
            await sdk.chat.completions.create(model="studio", messages=HELLO)
        assert refused.value.status_code == 502
        provider.will(events(streamed("error_in_stream.sse")))
        pieces = await sdk.chat.completions.create(model="studio", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="internal error"):
            async for _ in pieces:
                pass
        provider.will(events(streamed("error_at_once.sse")))
        with pytest.raises(openai.APIStatusError) as busy:
            await sdk.chat.completions.create(model="studio", messages=HELLO, stream=True)
        assert busy.value.status_code == 503


async def test_vertex(google: Gateway, provider: FakeProvider) -> None:
    """A token is fetched once, the project is the key's own, and the location is the deployment's."""
    provider.will(with_tokens(whole(transcript("answer.json"))))
    async with of_openai(google) as sdk:
        for _ in range(2):
            answer = await sdk.chat.completions.create(model="vertex", messages=HELLO)
    assert answer.choices[0].message.content == "Hello, world — é!"
    token, *asked = provider.requests
    assert token.path == "/token"
    for each in asked:
        assert each.headers["authorization"] == "Bearer ya29.token"
        assert each.path == (
            "/v1beta1/projects/a-project/locations/eu/publishers/google/models/gemini-3-flash:generateContent"
        )


async def test_claude_on_vertex(google: Gateway, provider: FakeProvider) -> None:
    """Anthropic's client hears Claude's own bytes, OpenAI's a translation; the model stands in the path alone."""
    provider.will(with_tokens(events(message_events("Bon", "jour"))))
    async with (
        of_anthropic(google) as sdk,
        sdk.messages.stream(model="claude", messages=HELLO, max_tokens=5) as stream,
    ):
        message = await stream.get_final_message()
    assert message.model == "claude"
    path = "/v1/projects/a-project/locations/eu/publishers/anthropic/models/claude-haiku-4-5@20251001"
    assert provider.requests[-1].path == f"{path}:streamRawPredict"
    assert provider.requests[-1].json == {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 5,
        "messages": HELLO,
        "stream": True,
    }
    provider.will(with_tokens(whole(message_answer("Bonjour."))))
    async with of_openai(google) as openai_sdk:
        answer = await openai_sdk.chat.completions.create(model="claude", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.content == "Bonjour."
    assert provider.requests[-1].path == f"{path}:rawPredict"
    assert provider.requests[-1].json.keys() == {"anthropic_version", "max_tokens", "messages"}


async def test_vectors(google: Gateway, provider: FakeProvider) -> None:
    """The SDK asks for base64 and gets numbers out of it again."""
    provider.will(whole({"embeddings": [{"values": [0.5, -1.0]}], "usageMetadata": {"promptTokenCount": 3}}))
    async with of_openai(google) as sdk:
        answer = await sdk.embeddings.create(model="vectors", input="Hello")
    assert answer.data[0].embedding == [0.5, -1.0]
    assert answer.usage.prompt_tokens == 3
    assert provider.requests[0].path == "/v1beta/models/gemini-embedding-2:batchEmbedContents"
