"""The official Anthropic SDK against a running gateway, in front of providers of both formats."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest

from tests.harness import (
    FakeProvider,
    Gateway,
    chat_answer,
    chat_events,
    events,
    message_answer,
    message_events,
    whole,
)

HELLO: Any = [{"role": "user", "content": "Hello!"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def client(gw: Gateway, **more: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gw.url, api_key="anything", max_retries=0, **more)


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_a_plain_answer(gw: Gateway, provider: FakeProvider, model: str) -> None:
    """A whole answer comes as a message, whoever wrote it."""
    provider.will(whole(message_answer("Hi.") if model == "claude" else chat_answer("Hi.")))
    async with client(gw) as sdk:
        message = await sdk.messages.create(model=model, max_tokens=50, messages=HELLO, system="Be brief.")
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hi."
    assert message.model == model
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (10, 5)
    asked = provider.requests[0]
    if model == "claude":
        assert asked.headers["x-api-key"] == "sk-provider-key"
        assert asked.headers["anthropic-version"]
    else:
        assert asked.json["messages"][0] == {"role": "system", "content": "Be brief."}
        assert asked.path == "/v1/chat/completions"


@pytest.mark.parametrize("model", ["gpt-4o", "claude"])
async def test_a_stream(gw: Gateway, provider: FakeProvider, model: str) -> None:
    """The SDK's stream helper puts the message together, with its usage."""
    provider.will(events(message_events("Hel", "lo") if model == "claude" else chat_events("Hel", "lo")))
    async with client(gw) as sdk, sdk.messages.stream(model=model, max_tokens=50, messages=HELLO) as stream:
        text = "".join([word async for word in stream.text_stream])
        message = await stream.get_final_message()
    assert text == "Hello"
    assert message.stop_reason == "end_turn"
    assert message.model == model
    assert message.usage.output_tokens == 2


async def test_tools_of_an_openai_model(gw: Gateway, provider: FakeProvider) -> None:
    """Parallel tool calls of an OpenAI stream become tool_use blocks, one after the other."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    other = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": ""}}
    deltas = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [other]},
        {"tool_calls": [{"index": 1, "function": {"arguments": '{"city":"Oslo"}'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
    ]
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "x"}
    told = [
        b"data: "
        + json.dumps({**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
        + b"\n\n"
        for delta in deltas
    ]
    told.append(
        b"data: "
        + json.dumps(
            {**shared, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        ).encode()
        + b"\n\ndata: [DONE]\n\n"
    )
    provider.will(events(told))
    async with (
        client(gw) as sdk,
        sdk.messages.stream(model="gpt-4o", max_tokens=50, messages=HELLO, tools=[WEATHER]) as stream,
    ):
        message = await stream.get_final_message()
    calls = [(block.name, block.id, block.input) for block in message.content if block.type == "tool_use"]
    assert calls == [("weather", "call_1", {"city": "Rome"}), ("weather", "call_2", {"city": "Oslo"})]
    assert message.stop_reason == "tool_use"
    assert provider.requests[0].json["tools"][0]["function"]["name"] == "weather"


async def test_the_tool_runner(gw: Gateway, provider: FakeProvider) -> None:
    """The SDK would have conversations kept by the server: told that nobody keeps them, or that one is lost, it sends all."""

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather."""
        return f"sunny in {city}"

    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
    }
    asks = chat_answer()
    asks["choices"][0] |= {
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "tool_calls": [call]},
    }
    wants = {**message_answer(), "id": "msg_1", "stop_reason": "tool_use"}
    wants["content"] = [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}]
    lost = {"type": "not_found_error", "message": "gone", "details": {"error_code": "thread_not_found"}}
    said = {
        "gpt-4o": [whole(asks), whole(chat_answer("Sunny."))],
        "claude": [
            whole(wants),
            whole({"type": "error", "error": lost}, 404),
            whole(message_answer("Sunny.")),
        ],
    }
    for model, answers in said.items():
        provider.will(*answers)
        async with client(gw) as sdk:
            runner = sdk.beta.messages.tool_runner(
                model=model, max_tokens=50, messages=HELLO, tools=[weather]
            )
            message = await runner.until_done()
        assert message.content[0].type == "text"
        assert message.content[0].text == "Sunny."
        assert [turn["role"] for turn in provider.requests[-1].json["messages"]][:2] == ["user", "assistant"]


async def test_an_image_and_a_tool_result(gw: Gateway, provider: FakeProvider) -> None:
    """An image and a tool's result reach an OpenAI model in its own words."""
    provider.will(whole(chat_answer("A cat.")))
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
    }
    history: Any = [
        {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": 1}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a cat"}]},
    ]
    async with client(gw) as sdk:
        await sdk.messages.create(model="gpt-4o", max_tokens=50, messages=history)
    sent = provider.requests[0].json["messages"]
    assert sent[0]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"x": 1}
    assert sent[2] == {"role": "tool", "tool_call_id": "toolu_1", "content": "a cat"}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (529, anthropic.InternalServerError),
    ],
)
async def test_errors_are_the_sdks_own(
    gw: Gateway, provider: FakeProvider, status: int, error: type[anthropic.APIStatusError]
) -> None:
    """A provider's error is raised as the SDK's class, with a request id."""
    body = {"type": "error", "error": {"type": "some_error", "message": "no"}, "request_id": "req_1"}
    provider.will(whole(body, status))
    async with client(gw) as sdk:
        with pytest.raises(error) as caught:
            await sdk.messages.create(model="claude", max_tokens=50, messages=HELLO)
    assert caught.value.request_id


async def test_a_stream_that_breaks(gw: Gateway, provider: FakeProvider) -> None:
    """A provider that ends without its terminator raises in the SDK, whichever format it spoke."""
    for model, told in (
        ("claude", message_events("a", done=False)),
        ("gpt-4o", chat_events("a", done=False)),
    ):
        provider.will(events(told, end="close"))
        async with client(gw) as sdk:
            with pytest.raises(anthropic.APIError):
                async with sdk.messages.stream(model=model, max_tokens=50, messages=HELLO) as stream:
                    await stream.get_final_message()


async def test_an_error_as_the_first_event(gw: Gateway, provider: FakeProvider) -> None:
    """A 200 stream whose first event is an error becomes an error answer with a true status."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    provider.will(events([b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"]))
    async with client(gw) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with sdk.messages.stream(model="claude", max_tokens=50, messages=HELLO) as stream:
                await stream.get_final_message()
    assert caught.value.status_code in (503, 529)


async def test_counting_tokens(gw: Gateway, provider: FakeProvider) -> None:
    """Anthropic counts for itself; for others the gateway estimates without asking anybody."""
    provider.will(whole({"input_tokens": 42}))
    async with client(gw) as sdk:
        real = await sdk.messages.count_tokens(model="claude", messages=HELLO)
        guess = await sdk.messages.count_tokens(model="gpt-4o", messages=HELLO)
    assert real.input_tokens == 42
    assert guess.input_tokens > 0
    assert [asked.path for asked in provider.requests] == ["/v1/messages/count_tokens"]


async def test_the_model_list(gw: Gateway, provider: FakeProvider) -> None:
    """The one model list satisfies the Anthropic SDK too."""
    async with client(gw) as sdk:
        models = [model.id async for model in sdk.models.list()]
        with pytest.raises(anthropic.NotFoundError) as caught:
            await sdk.models.retrieve("nothing")
    assert models == ["gpt-4o", "claude"]
    assert caught.value.type == "not_found_error"
    assert caught.value.request_id


async def test_the_synchronous_client(gw: Gateway, provider: FakeProvider) -> None:
    """The synchronous SDK streams too."""
    provider.will(events(message_events("Hel", "lo")))

    def ask() -> str:
        with (
            anthropic.Anthropic(base_url=gw.url, api_key="x", max_retries=0) as sdk,
            sdk.messages.stream(model="claude", max_tokens=50, messages=HELLO) as stream,
        ):
            return "".join(stream.text_stream)

    assert await asyncio.to_thread(ask) == "Hello"
