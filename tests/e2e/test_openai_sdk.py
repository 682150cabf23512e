"""The official OpenAI SDK against a running gateway, in front of providers of both formats."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    events,
    hang,
    message_answer,
    message_events,
    whole,
)

HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client(gw: Gateway, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gw.url}/v1", api_key="anything", max_retries=0, **more)


async def test_a_plain_answer(gw: Gateway, provider: FakeProvider) -> None:
    """A whole answer passes, under the name that was asked for."""
    provider.will(whole(chat_answer("Hi.")))
    async with client(gw) as sdk:
        answer = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.choices[0].message.content == "Hi."
    assert answer.model == "gpt-4o"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 15
    asked = provider.requests[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.json == {"model": "gpt-4o-2024-08-06", "messages": HELLO}
    assert asked.headers["authorization"] == "Bearer sk-provider-key"


async def test_the_same_client_reaches_anthropic(gw: Gateway, provider: FakeProvider) -> None:
    """An OpenAI client gets an Anthropic model's answer in its own format."""
    provider.will(whole(message_answer("Bonjour.")))
    async with client(gw) as sdk:
        answer = await sdk.chat.completions.create(
            model="claude", messages=[{"role": "system", "content": "Speak French."}, *HELLO], max_tokens=50
        )
    assert answer.choices[0].message.content == "Bonjour."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)
    asked = provider.requests[0]
    assert asked.path == "/v1/messages"
    assert asked.headers["x-api-key"] == "sk-provider-key"
    assert asked.json["max_tokens"] == 50
    assert "French" in json.dumps(asked.json["system"])


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_a_stream(gw: Gateway, provider: FakeProvider, model: str) -> None:
    """Words arrive as they are sent, and the usage chunk only if it was asked for."""
    provider.will(events(chat_events("Hel", "lo") if model == "gpt-4o" else message_events("Hel", "lo")))
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(model=model, messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert all(chunk.model == model for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_a_stream_with_usage(gw: Gateway, provider: FakeProvider, model: str) -> None:
    """A client that asks for usage gets it in a last chunk without choices."""
    provider.will(events(chat_events("Hel", "lo") if model == "gpt-4o" else message_events("Hel", "lo")))
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (10, 2)


async def test_usage_is_always_asked_of_the_provider(gw: Gateway, provider: FakeProvider) -> None:
    """The gateway asks for usage even where the client did not: it has a bill to write."""
    provider.will(events(chat_events("a")))
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        _ = [chunk async for chunk in stream]
    assert provider.requests[0].json["stream_options"] == {"include_usage": True}
    (row,) = await gw.rows()
    assert (row.input, row.output, row.usage_source) == (10, 1, "reported")


async def test_tools_of_an_anthropic_model(gw: Gateway, provider: FakeProvider) -> None:
    """A tool call streams through the translation and its result goes back."""
    started = {"id": "toolu_1", "type": "tool_use", "name": "weather", "input": {}}
    pieces: list[tuple[str, dict[str, Any]]] = [
        ("content_block_start", {"index": 0, "content_block": started}),
        ("content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"ci'}}),
        (
            "content_block_delta",
            {"index": 0, "delta": {"type": "input_json_delta", "partial_json": 'ty":"Rome"}'}},
        ),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}),
        ("message_stop", {}),
    ]
    told = [
        f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode() for kind, data in pieces
    ]
    provider.will(events([message_events()[0], *told]), whole(message_answer("Sunny.")))
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(
            model="claude", messages=HELLO, stream=True, tools=[WEATHER]
        )
        calls: dict[int, dict[str, str]] = {}
        finish = None
        async for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or []:
                known = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                known["id"] += call.id or ""
                if call.function is not None:
                    known["name"] += call.function.name or ""
                    known["arguments"] += call.function.arguments or ""
            finish = chunk.choices[0].finish_reason or finish
        assert calls == {0: {"id": "toolu_1", "name": "weather", "arguments": '{"city":"Rome"}'}}
        assert finish == "tool_calls"
        history: Any = [
            *HELLO,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "toolu_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": "sun"},
        ]
        answer = await sdk.chat.completions.create(model="claude", messages=history, tools=[WEATHER])
    assert answer.choices[0].message.content == "Sunny."
    sent = provider.requests[1].json["messages"]
    assert sent[1]["content"][0] == {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "weather",
        "input": {"city": "Rome"},
    }
    assert sent[2]["content"][0]["type"] == "tool_result"
    assert provider.requests[0].json["tools"][0]["input_schema"] == WEATHER["function"]["parameters"]


class Place(BaseModel):
    """A structured answer."""

    city: str
    people: int


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_structured_output(gw: Gateway, provider: FakeProvider, model: str) -> None:
    """A JSON schema reaches the provider in its own words, and the SDK parses the answer."""
    text = '{"city":"Rome","people":3}'
    provider.will(whole(chat_answer(text) if model == "gpt-4o" else message_answer(text)))
    async with client(gw) as sdk:
        answer = await sdk.chat.completions.parse(model=model, messages=HELLO, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Rome", people=3)
    asked = provider.requests[0].json
    if model == "gpt-4o":
        assert asked["response_format"]["json_schema"]["name"] == "Place"
    else:
        assert asked["output_config"]["format"]["schema"]["properties"]["city"]["type"] == "string"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (401, openai.InternalServerError),
    ],
)
async def test_errors_are_the_sdks_own(
    gw: Gateway, provider: FakeProvider, status: int, error: type[openai.APIStatusError]
) -> None:
    """A provider's error is raised as the SDK's class, and the operator's bad key is never the caller's 401."""
    body = {
        "error": {
            "message": "no sk-provider-key here",
            "type": "some_error",
            "param": None,
            "code": "some_code",
        }
    }
    provider.will(whole(body, status, {"retry-after": "7"}))
    async with client(gw) as sdk:
        with pytest.raises(error) as caught:
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert "sk-provider-key" not in str(caught.value)
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "7"


async def test_a_stream_that_breaks(gw: Gateway, provider: FakeProvider) -> None:
    """A provider that dies in the middle raises in the SDK after the words that came."""
    provider.will(events(chat_events("Hel", "lo", done=False), end="reset"))
    words = []
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError):
            async for chunk in stream:
                words.append(chunk.choices[0].delta.content or "")
    assert "".join(words) == "Hello"


async def test_a_client_that_times_out_closes_the_provider(gw: Gateway, provider: FakeProvider) -> None:
    """A client that gives up before the first token closes the provider's connection."""
    provider.will(hang)
    async with client(gw, timeout=0.2) as sdk:
        with pytest.raises(openai.APITimeoutError):
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        asked = await provider.asked()
        async with asyncio.timeout(5):
            await asked.connection.closed.wait()
    (row,) = await gw.rows()
    assert (row.status, row.http_status) == ("client_disconnected", 499)


async def test_a_stream_that_is_closed_half_way(gw: Gateway, provider: FakeProvider) -> None:
    """Closing the stream closes the provider's connection and leaves one row with its tokens."""
    provider.will(events([*chat_events("Hel", "lo", done=False)], end="hang"))
    async with client(gw) as sdk:
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content == "lo":
                break
        await stream.close()
        asked = await provider.asked()
        async with asyncio.timeout(5):
            await asked.connection.closed.wait()
    (row,) = await gw.rows()
    assert row.status == "client_disconnected"
    assert row.usage_source == "estimated"
    assert row.output >= 2


async def test_embeddings_and_models(gw: Gateway, provider: FakeProvider) -> None:
    """Embeddings pass through in the encoding that the SDK asks for; the model list is the configuration's."""
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAEA="}],
        "model": "x",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    provider.will(whole(body))
    async with client(gw) as sdk:
        answer = await sdk.embeddings.create(model="gpt-4o", input="Hello")
        models = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("gpt-4o")
    assert answer.data[0].embedding == [1.0, 2.0]
    assert models == ["gpt-4o", "claude"]
    assert one.id == "gpt-4o"
    assert provider.requests[0].json["encoding_format"] == "base64"


async def test_the_synchronous_client(gw: Gateway, provider: FakeProvider) -> None:
    """The synchronous SDK streams too."""
    provider.will(events(chat_events("Hel", "lo")))

    def ask() -> str:
        with openai.OpenAI(base_url=gw.url, api_key="x", max_retries=0) as sdk:
            stream = sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(ask) == "Hello"


async def test_azures_client(gw: Gateway, provider: FakeProvider) -> None:
    """Azure's SDK names the model in the path and the key in `api-key`."""
    provider.will(whole(chat_answer("Hi.")))
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=gw.url, api_key="x", api_version="2024-10-21", max_retries=0
    ) as sdk:
        answer = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        models = [model.id async for model in sdk.models.list()]
        claude = await sdk.models.retrieve("claude")
    assert answer.choices[0].message.content == "Hi."
    assert provider.requests[0].json["model"] == "gpt-4o-2024-08-06"
    assert models == ["gpt-4o", claude.id]
