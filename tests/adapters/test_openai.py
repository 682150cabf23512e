"""The client's side of OpenAI's format: questions are read with their place, answers are written as clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters import openai
from adapters.base import ClientSide, ProviderSide, SameFormat
from adapters.envelope import open_envelope
from adapters.errors import BadRequest, UpstreamOverloaded
from adapters.types import (
    Audio,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Document,
    Finish,
    Image,
    Message,
    Opaque,
    Ping,
    Reasoning,
    RedactedDelta,
    RedactedThinking,
    Refusal,
    RefusalDelta,
    SignatureDelta,
    Start,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    UsageDelta,
)

CLIENT: ClientSide = openai
PROVIDER: ProviderSide = openai
SAME: SameFormat = openai


def read(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return openai.read_request(open_envelope(json.dumps(body, separators=(",", ":")).encode()))


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    return caught.value


# -- questions -------------------------------------------------------------------------------------------------------


def test_plain_question() -> None:
    """A question with every scalar parameter is read, and the newer name of the token limit wins."""
    request = read(
        temperature=0.5,
        top_p=1,
        n=2,
        seed=7,
        max_tokens=10,
        max_completion_tokens=20,
        stop="END",
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"50256": -100},
        user="u",
        stream=True,
        parallel_tool_calls=False,
        reasoning_effort="low",
    )
    assert request.messages == (Message("user", (Text("hi"),)),)
    assert (request.temperature, request.top_p, request.n, request.seed) == (0.5, 1.0, 2, 7)
    assert request.max_tokens == 20
    assert request.stop == ("END",)
    assert (request.frequency_penalty, request.presence_penalty) == (0.1, -0.1)
    assert (request.logprobs, request.top_logprobs, request.user, request.stream) == (True, 3, "u", True)
    assert request.parallel_tool_calls is False
    assert request.reasoning == Reasoning("enabled", "low")
    assert json.loads(bytes(request.logit_bias or b"")) == {"50256": -100}
    assert request.extra == {}
    assert request.unspoken == {}


def test_nulls_are_absent() -> None:
    """A null says the same as the field's absence, as SDKs send nulls."""
    names = (
        "temperature",
        "tools",
        "tool_choice",
        "stop",
        "n",
        "stream",
        "response_format",
        "user",
        "logit_bias",
    )
    assert read(**dict.fromkeys((*names, "store", "audio", "metadata", "max_tokens"))) == read()


def test_system_and_developer_lead_in_order() -> None:
    """System and developer messages, wherever they stand, become the system prompt in their order."""
    request = read(
        messages=[
            {"role": "system", "content": "one", "cache_control": {"type": "ephemeral"}},
            {"role": "developer", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "hi"},
            {"role": "system", "content": "three"},
        ]
    )
    assert [text.text for text in request.system] == ["one", "two", "three"]
    assert bytes(request.system[0].cache or b"") == b'{"type":"ephemeral"}'
    assert len(request.messages) == 1


def test_user_parts() -> None:
    """Text, images by data and address, sound and files keep what they carry."""
    request = read(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"},
                    },
                    {"type": "image_url", "image_url": "https://pictures.test/cat.png"},
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,aGk=", "filename": "a.pdf"},
                    },
                    {"type": "file", "file": {"file_id": "file-1"}},
                    {
                        "type": "file",
                        "file": {"file_id": "https://files.test/a.pdf", "format": "application/pdf"},
                    },
                ],
            }
        ]
    )
    text, inline, remote, audio, document, file, address = request.messages[0].parts
    assert isinstance(text, Text)
    assert bytes(text.cache or b"") == b'{"type":"ephemeral"}'
    assert inline == Image(media_type="image/png", data="aGk=", detail="low")
    assert remote == Image(url="https://pictures.test/cat.png")
    assert audio == Audio("aGk=", "wav")
    assert document == Document(media_type="application/pdf", data="aGk=", name="a.pdf")
    assert file == Document(file_id="file-1")
    assert address == Document(media_type="application/pdf", url="https://files.test/a.pdf")


def test_tool_loop() -> None:
    """An assistant's turn keeps reasoning, text and calls in order; consecutive tool messages are one user's turn."""
    request = read(
        messages=[
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "looking",
                "reasoning_content": "ignored beside the blocks",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "hm", "signature": "s1"},
                    {"type": "redacted_thinking", "data": "xyz"},
                ],
                "refusal": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "one"},
            {
                "role": "tool",
                "tool_call_id": "b",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
            },
            {"role": "user", "content": "and?"},
        ]
    )
    assert [message.role for message in request.messages] == ["user", "assistant", "user", "user"]
    assert request.messages[1].parts == (
        Thinking("hm", "s1"),
        RedactedThinking("xyz"),
        Text("looking"),
        ToolCall("a", "f", '{"x": 1}'),
        ToolCall("b", "g", "{}"),
    )
    assert request.messages[2].parts == (
        ToolResult("a", (Text("one"),)),
        ToolResult("b", (Image(media_type="image/png", data="aGk="),)),
    )


def test_reasoning_content_alone() -> None:
    """Reasoning without blocks comes back as reasoning without a signature."""
    request = read(messages=[{"role": "assistant", "content": "x", "reasoning_content": "hm"}])
    assert request.messages[0].parts == (Thinking("hm"), Text("x"))


def test_legacy_functions() -> None:
    """The older spelling of tools is read, and a function's result finds the call before it."""
    request = read(
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "done"},
        ],
    )
    assert request.tools == (Tool("f", Raw(b'{"type":"object"}')),)
    assert request.tool_choice == ToolChoice("named", "f")
    assert request.messages[1].parts == (ToolCall("call_1", "f", "{}"),)
    assert request.messages[2].parts == (ToolResult("call_1", (Text("done"),)),)


def test_tools() -> None:
    """Functions become tools, other kinds are carried as they are, and a missing schema is the empty one."""
    request = read(
        tools=[
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {}, "strict": True},
            },
            {"type": "function", "function": {"name": "g"}, "cache_control": {"type": "ephemeral"}},
            {"type": "custom", "custom": {"name": "c"}},
        ],
        tool_choice="required",
    )
    first, second, third = request.tools
    assert first == Tool("f", Raw(b"{}"), "d", strict=True)
    assert isinstance(second, Tool)
    assert json.loads(bytes(second.schema)) == {"type": "object", "properties": {}}
    assert second.cache is not None
    assert isinstance(third, Opaque)
    assert (third.format, third.kind) == ("openai", "custom")
    assert request.tool_choice == ToolChoice("required")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("any", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f")),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    """Every way to choose a tool is understood."""
    assert read(tool_choice=choice).tool_choice == expected


def test_what_has_no_place_is_named() -> None:
    """Fields that OpenAI defines and we have no place for are kept by name; unknown ones are the caller's own words."""
    request = read(
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        store=True,
        web_search_options={},
        modalities=["text"],
        chat_template_kwargs={"a": 1},
    )
    assert set(request.unspoken) == {"tool_choice", "store", "web_search_options"}
    assert {name: bytes(raw) for name, raw in request.extra.items()} == {"chat_template_kwargs": b'{"a":1}'}
    assert set(read(modalities=["text", "audio"]).unspoken) == {"modalities"}


def test_response_format() -> None:
    """JSON with and without a schema is asked for; text is the default."""
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    asked = read(response_format={"type": "json_schema", "json_schema": schema}).response_format
    assert asked is not None
    assert (asked.kind, asked.name, asked.strict) == ("json_schema", "n", True)
    assert bytes(asked.schema or b"") == b'{"type":"object"}'
    assert read(response_format={"type": "text"}).response_format is None
    json_object = read(response_format={"type": "json_object"}).response_format
    assert json_object is not None
    assert json_object.kind == "json_object"


def test_reasoning() -> None:
    """Effort words and Anthropic's `thinking` are both understood."""
    assert read(reasoning_effort="none").reasoning == Reasoning("disabled")
    assert read(thinking={"type": "enabled", "budget_tokens": 1024}).reasoning == Reasoning(
        "enabled", None, 1024
    )
    assert read(thinking={"type": "adaptive"}, reasoning_effort="high").reasoning == Reasoning(
        "adaptive", "high"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "bot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].file.file_id",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": [{"type": "image_url", "image_url": "https://a.test"}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": [1]}, "stop[0]"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools[0].function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"model": None}, "model"),
    ],
)
def test_a_bad_field_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    """What cannot be understood is a 400 whose `param` is the place of the mistake."""
    error = refused(**fields)
    assert error.status == 400
    assert error.param == param


def test_missing_messages_in_litellms_words() -> None:
    """The message for missing messages is the one that LiteLLM's clients know."""
    with pytest.raises(BadRequest) as caught:
        openai.read_request(open_envelope(b'{"model":"m"}'))
    assert caught.value.message == "/chat/completions: Missing required parameter: 'messages'."


# -- answers ---------------------------------------------------------------------------------------------------------

USAGE = Usage(input=5, cache_read=12, cache_write=3, output=3, reasoning=5)


def test_whole_answer() -> None:
    """A whole answer has all that the official client reads, and reasoning as LiteLLM writes it."""
    parts = (
        Thinking("hm", "sig"),
        RedactedThinking("xyz"),
        Text("a"),
        Text("b", citations=Raw(b'[{"url":"u"}]')),
        ToolCall("c1", "f", '{"x":1}'),
        Opaque("anthropic", "server_tool_use", Raw(b"{}")),
    )
    answer = ChatResponse("msg_1", "claude", (Choice(parts, "tool_calls"),), USAGE)
    body = json.loads(openai.write_response(answer, answer_id="chatcmpl-1", model="m", now=7))
    parsed = ChatCompletion.model_validate(body)
    assert (parsed.id, parsed.model, parsed.created, parsed.object) == (
        "chatcmpl-1",
        "m",
        7,
        "chat.completion",
    )
    assert parsed.choices[0].message.content == "ab"
    assert parsed.choices[0].finish_reason == "tool_calls"
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "hm"
    assert message["thinking_blocks"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
    ]
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    ]
    assert message["provider_specific_fields"] == {"citations": [[{"url": "u"}]]}
    assert body["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 8,
        "total_tokens": 28,
        "prompt_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 12,
    }


@pytest.mark.parametrize(
    ("parts", "content", "refusal"),
    [
        ((Text("x"),), "x", None),
        ((), "", None),
        ((ToolCall("a", "f", "{}"),), None, None),
        ((Refusal("no"),), None, "no"),
    ],
)
def test_content_is_null_only_beside_something_else(
    parts: Any, content: str | None, refusal: str | None
) -> None:
    """Content is a string unless calls or a refusal stand in its place."""
    answer = ChatResponse("1", "m", (Choice(parts, "stop"),))
    message = json.loads(openai.write_response(answer, answer_id="1", model="m", now=0))["choices"][0][
        "message"
    ]
    assert (message["content"], message["refusal"]) == (content, refusal)
    assert "reasoning_content" not in message


def test_finish_without_a_word() -> None:
    """A pause and a refusal have no word here: the nearest one is said, and what it really was stands beside it."""
    answer = ChatResponse(
        "1", "m", (Choice((), "pause"), Choice((), "refusal", detail=Raw(b'{"category":"x"}')))
    )
    choices = json.loads(openai.write_response(answer, answer_id="1", model="m", now=0))["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop", "content_filter"]
    assert choices[0]["provider_specific_fields"]["finish_reason"] == "pause"
    assert choices[1]["provider_specific_fields"]["detail"] == {"category": "x"}


def chunks(stream: bytes) -> list[dict[str, Any]]:
    events = stream.decode().split("\n\n")
    assert events.pop() == ""
    return [json.loads(event[6:]) for event in events if event.startswith("data: {")]


DELTAS: list[Delta] = [
    Start("msg", "claude", Usage(input=1)),
    ThinkingDelta(Raw(b'"hm \\"a\\""')),
    ThinkingDelta(Raw(b'" b"')),
    SignatureDelta(Raw(b'"sig"')),
    RedactedDelta(Raw(b'"xyz"')),
    TextDelta(Raw('"é\\n"'.encode())),
    TextDelta(Raw(b'"p"'), logprobs=Raw(b'{"content":[],"refusal":null}')),
    RefusalDelta(Raw(b'"no"')),
    ToolStart(0, "c1", "f"),
    ToolDelta(0, Raw(b'"{}"')),
    Ping(),
    TextDelta(Raw(b'"other"'), choice=1),
    Finish("tool_calls"),
    Finish("stop_sequence", choice=1),
    UsageDelta(USAGE),
]


def test_stream() -> None:
    """Each delta is a chunk that the official client reads, roles come first, usage last and only on demand."""
    writer = openai.write_stream(answer_id="chatcmpl-1", model="m", now=7, wants_usage=True)
    stream = writer.feed(DELTAS) + writer.close()
    assert stream.endswith(b"data: [DONE]\n\n")
    assert openai.KEEP_ALIVE in stream
    said = chunks(stream)
    for chunk in said:
        parsed = ChatCompletionChunk.model_validate(chunk)
        assert (parsed.id, parsed.model, parsed.created) == ("chatcmpl-1", "m", 7)
        assert "usage" in chunk
    assert said[-1]["choices"] == []
    assert said[-1]["usage"]["total_tokens"] == 28
    assert all(chunk["usage"] is None for chunk in said[:-1])
    deltas = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"]) for chunk in said[:-1]]
    assert deltas == [
        (0, {"role": "assistant", "content": ""}),
        (0, {"reasoning_content": 'hm "a"'}),
        (0, {"reasoning_content": " b"}),
        (0, {"thinking_blocks": [{"type": "thinking", "thinking": 'hm "a" b', "signature": "sig"}]}),
        (0, {"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]}),
        (0, {"content": "é\n"}),
        (0, {"content": "p"}),
        (0, {"refusal": "no"}),
        (
            0,
            {
                "tool_calls": [
                    {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
                ]
            },
        ),
        (0, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        (1, {"role": "assistant", "content": ""}),
        (1, {"content": "other"}),
        (0, {}),
        (1, {}),
    ]
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in said[:-1]]
    assert finishes[-2:] == ["tool_calls", "stop"]
    assert set(finishes[:-2]) == {None}


def test_stream_delta_by_delta() -> None:
    """Deltas that are fed one by one give the same bytes as all at once."""
    whole = openai.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    single = openai.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    assert b"".join(single.feed([delta]) for delta in DELTAS) == whole.feed(DELTAS)
    assert single.close() == whole.close() == b"data: [DONE]\n\n"


def test_stream_without_usage() -> None:
    """A client that did not ask for usage sees none, not even as null."""
    writer = openai.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    assert b"usage" not in writer.feed(DELTAS) + writer.close()


def test_what_we_write_we_read_back() -> None:
    """A written answer that is sent back as the assistant's turn has its reasoning and calls again."""
    parts = (Thinking("hm", "sig"), Text("a"), ToolCall("c1", "f", "{}"))
    answer = ChatResponse("1", "m", (Choice(parts, "tool_calls"),))
    body = json.loads(openai.write_response(answer, answer_id="1", model="m", now=0))
    assert read(messages=[body["choices"][0]["message"]]).messages == (Message("assistant", parts),)


def test_errors() -> None:
    """An error is OpenAI's object with a code that is a string; in a stream it is an event, and no `[DONE]` follows."""
    error = UpstreamOverloaded("busy", code="overloaded")
    whole = openai.write_error(error, request_id="r", mid_stream=False)
    expected = {"error": {"message": "busy", "type": "server_error", "param": None, "code": "overloaded"}}
    assert json.loads(whole) == expected
    assert openai.write_error(error, request_id="r", mid_stream=True) == b"data: " + whole + b"\n\n"


def test_what_a_vendor_indented_stays_on_its_line() -> None:
    """Line ends in a provider's JSON end no event: in an error's other fields, in details and in log probabilities."""
    body = b'{\n "error": {\n  "message": "busy",\r\n  "details": [\n   {"a": 1}\n  ]\n }\n}'
    event = openai.write_error(UpstreamOverloaded("busy", body=body), request_id="r", mid_stream=True)
    assert event.count(b"\n") == 2
    assert json.loads(event.removeprefix(b"data: "))["error"]["details"] == [{"a": 1}]
    writer = openai.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    deltas = (
        TextDelta(Raw(b'"a"'), logprobs=Raw(b'{\n"content":[]}')),
        Finish("stop", detail=Raw(b'{\r\n"a":1}')),
    )
    events = writer.feed(deltas).split(b"\n\n")[:-1]
    _, words, end = (json.loads(each.removeprefix(b"data: "))["choices"][0] for each in events)
    assert words["logprobs"] == {"content": []}
    assert end["provider_specific_fields"]["detail"] == {"a": 1}


@pytest.mark.parametrize("value", ["[1e400]", '["text",-1e999]'])
def test_a_number_out_of_range_is_the_callers(value: str) -> None:
    """It is refused with its place, and not taken for a provider's mistake."""
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"modalities":%b}' % value.encode()
    with pytest.raises(BadRequest, match="modalities"):
        openai.read_request(open_envelope(body))
