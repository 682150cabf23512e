"""Anthropic's format, both sides, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from adapters import anthropic
from adapters.base import ClientSide, ProviderSide, SameFormat
from adapters.envelope import open_envelope
from adapters.errors import (
    BadRequest,
    GatewayError,
    ModelNotFound,
    TooLarge,
    Unauthorized,
    Unsupported,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamOutOfMoney,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from adapters.framing import SseCutter, read_events
from adapters.types import (
    Audio,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Document,
    Failure,
    Finish,
    FinishReason,
    Image,
    Message,
    Opaque,
    Part,
    Ping,
    Provider,
    Reasoning,
    RedactedDelta,
    RedactedThinking,
    Refusal,
    RefusalDelta,
    ResponseFormat,
    SignatureDelta,
    Start,
    Target,
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

EVERYTHING = (Path(__file__).parents[1] / "transcripts" / "anthropic" / "everything.sse").read_bytes()
PROVIDER = Provider(name="anthropic", format="anthropic")
TARGET = Target(provider=PROVIDER, model="claude-test", base_url="https://api.example.com")
DROPPING = replace(TARGET, drop_params=True)
ADAPTIVE = replace(TARGET, flags=frozenset({"supports_adaptive_thinking"}))
HI = (Message("user", (Text("hi"),)),)
QUESTION = ChatRequest(model="any", messages=HI)


def both(module: SameFormat, client: ClientSide, provider: ProviderSide) -> str:
    return str((module, client, provider))


def test_keeps_the_contract() -> None:
    """The module is a client's format, a provider's format, and passes bytes between the two."""
    assert both(anthropic, anthropic, anthropic)
    assert anthropic.NAME == "anthropic"
    assert list(read_events(anthropic.KEEP_ALIVE)) == [(b"ping", b'{"type": "ping"}')]


# -- read_request ----------------------------------------------------------------------------------------------------


def read(**fields: Any) -> ChatRequest:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]} | fields
    return anthropic.read_request(open_envelope(json.dumps(body).encode()))


def read_parts(*blocks: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    return read(messages=[{"role": role, "content": list(blocks)}]).messages[0].parts


def test_reads_the_plain_fields() -> None:
    """Each field with a place of its own is read into it."""
    request = read(
        system="be brief",
        temperature=1,
        top_p=0.5,
        top_k=7,
        stop_sequences=["a", "b"],
        stream=True,
        metadata={"user_id": "u-1"},
    )
    assert request == ChatRequest(
        model="m",
        messages=HI,
        system=(Text("be brief"),),
        max_tokens=5,
        temperature=1.0,
        top_p=0.5,
        top_k=7,
        stop=("a", "b"),
        user="u-1",
        stream=True,
    )


def test_max_tokens_and_nulls_may_be_missing() -> None:
    """`max_tokens` is not demanded, and null says nothing."""
    envelope = open_envelope(
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":null,"container":null}'
    )
    request = anthropic.read_request(envelope)
    assert request == ChatRequest(model="m", messages=HI)


def test_reads_every_block() -> None:
    """Each block that other vendors know has its part, and marks are kept."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    raw_mark = Raw(json.dumps(mark).encode())
    parts = read_parts(
        {"type": "text", "text": "a", "cache_control": mark},
        {"type": "text", "text": "b", "citations": [1]},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
        {"type": "image", "source": {"type": "url", "url": "https://e.com/a"}, "cache_control": mark},
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
            "title": "t",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "words"},
            "context": "c",
        },
        {
            "type": "document",
            "source": {"type": "url", "url": "https://e.com/d"},
            "citations": {"enabled": True},
        },
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xx"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, "é"]}},
        {
            "type": "tool_result",
            "tool_use_id": "t1",
            "content": "ok",
            "is_error": True,
            "cache_control": mark,
        },
        {"type": "tool_result", "tool_use_id": "t2"},
    )
    assert parts == (
        Text("a", cache=raw_mark),
        Text("b", citations=Raw(b"[1]")),
        Image(media_type="image/png", data="AA"),
        Image(url="https://e.com/a", cache=raw_mark),
        Image(file_id="f"),
        Document(media_type="application/pdf", data="AA", name="t"),
        Document(media_type="text/plain", text="words", context="c"),
        Document(url="https://e.com/d", citations=Raw(b'{"enabled": true}')),
        Document(file_id="f"),
        Thinking("hm", "sig"),
        RedactedThinking("xx"),
        ToolCall("t1", "f", '{"a": [1, "\\u00e9"]}'),
        ToolResult("t1", (Text("ok"),), failed=True, cache=raw_mark),
        ToolResult("t2", ()),
    )


def test_tool_results_have_blocks() -> None:
    """A tool's result may have pictures and blocks that only Anthropic knows."""
    content = [
        {"type": "text", "text": "see"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
        {"type": "search_result", "source": "s", "title": "t", "content": []},
    ]
    (result,) = read_parts({"type": "tool_result", "tool_use_id": "t", "content": content})
    assert isinstance(result, ToolResult)
    text, image, opaque = result.parts
    assert (text, image) == (Text("see"), Image(media_type="image/png", data="AA"))
    assert isinstance(opaque, Opaque)
    assert (opaque.format, opaque.kind, json.loads(bytes(opaque.raw))) == (
        "anthropic",
        "search_result",
        content[2],
    )


@pytest.mark.parametrize(
    "block",
    [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "of_next_year", "text": 5},
        {"type": "document", "source": {"type": "content", "content": "blocks"}},
        {"type": "image", "source": {"type": "of_next_year"}},
    ],
)
def test_unknown_blocks_are_carried(block: dict[str, Any]) -> None:
    """A block that no other vendor knows is carried as it is, and goes back to Anthropic as it came."""
    request = read(messages=[{"role": "user", "content": [block]}])
    (part,) = request.messages[0].parts
    assert isinstance(part, Opaque)
    assert part.kind == block["type"]
    assert json.loads(anthropic.write_request(request, TARGET))["messages"][0]["content"] == [block]


def test_system_turns_join_the_system_prompt() -> None:
    """A `system` turn in mid-conversation joins the system prompt, in order."""
    request = read(
        system=[
            {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": ""},
        ],
        messages=[{"role": "user", "content": "hi"}, {"role": "system", "content": "two"}],
    )
    assert request.system == (Text("one", cache=Raw(b'{"type": "ephemeral"}')), Text("two"))
    assert request.messages == HI


def test_reads_tools() -> None:
    """Tools of the caller's are read, Anthropic's own are carried."""
    server = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    request = read(
        tools=[
            {"name": "a", "description": "d", "input_schema": {"type": "object"}, "strict": True},
            {"type": "custom", "name": "b", "input_schema": {}, "cache_control": {"type": "ephemeral"}},
            {"name": "c"},
            server,
        ]
    )
    assert request.tools[:3] == (
        Tool("a", Raw(b'{"type": "object"}'), "d", strict=True),
        Tool("b", Raw(b"{}"), cache=Raw(b'{"type": "ephemeral"}')),
        Tool("c", Raw(b'{"type":"object","properties":{}}')),
    )
    assert request.tools[3] == Opaque("anthropic", "web_search_20250305", Raw(json.dumps(server).encode()))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "f"}, ToolChoice("named", "f")),
    ],
)
def test_reads_the_tool_choice(asked: dict[str, Any], expected: ToolChoice) -> None:
    """Each tool choice is read, and one call at a time is a field of its own."""
    request = read(tool_choice=asked)
    assert request.tool_choice == expected
    assert request.parallel_tool_calls is (False if "disable_parallel_tool_use" in asked else None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning("enabled", budget=2000)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning("adaptive", display="omitted")),
        ({"thinking": {"type": "disabled"}}, Reasoning("disabled")),
        ({"output_config": {"effort": "low"}}, Reasoning("adaptive", effort="low")),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            Reasoning("adaptive", effort="max"),
        ),
    ],
)
def test_reads_reasoning(fields: dict[str, Any], expected: Reasoning) -> None:
    """Thinking and effort are one thing here."""
    assert read(**fields).reasoning == expected


def test_unknown_thinking_is_unspoken() -> None:
    """A way of thinking that we do not know goes back to Anthropic as it came, and nowhere else."""
    request = read(thinking={"type": "between_tools"})
    assert request.reasoning is None
    assert list(request.unspoken) == ["thinking"]
    assert json.loads(anthropic.write_request(request, TARGET))["thinking"] == {"type": "between_tools"}


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_reads_the_response_format(name: str) -> None:
    """The answer's schema is read from its place of today and from that of the beta."""
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    request = read(**{name: {"format": wanted} if name == "output_config" else wanted})
    assert request.response_format == ResponseFormat("json_schema", Raw(b'{"type": "object"}'))


def test_fields_without_a_place() -> None:
    """Fields of the format are `unspoken`, fields that it does not define are `extra`."""
    request = read(service_tier="auto", container="c", context_management={"edits": []}, wild={"a": 1})
    assert set(request.unspoken) == {"service_tier", "container", "context_management"}
    assert request.extra == {"wild": Raw(b'{"a": 1}')}


def test_a_thread_is_refused_where_nobody_keeps_it() -> None:
    """The end of a conversation is never asked alone; the SDK learns by `details` that it may send all of it."""
    assert read(thread=None) == read()
    with pytest.raises(anthropic.ThreadUnsupported) as caught:
        read(thread={"type": "continue", "previous_message_id": "msg_1"})
    told = json.loads(anthropic.write_error(caught.value, request_id="req-1", mid_stream=False))
    assert told["error"]["details"] == {"error_code": "thread_unsupported_request"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": 1}}]}]},
            "messages.0.content.0.source.type",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "t",
                                "content": [{"type": "text", "text": 1}],
                            }
                        ],
                    },
                ]
            },
            "messages.1.content.0.content.0.text",
        ),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, "system"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop_sequences": ["a", 1]}, "stop_sequences.1"),
        ({"tools": [{"description": "nameless"}]}, "tools.0"),
        ({"tools": [{"name": 1}]}, "tools.0.name"),
        ({"tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ],
)
def test_mistakes_are_named(fields: dict[str, Any], param: str) -> None:
    """A mistake in a request is a 400 that names its place."""
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert caught.value.param == param
    assert caught.value.status == 400


# -- write_response and write_error ----------------------------------------------------------------------------------


def written(*parts: Part, finish: FinishReason = "stop", **more: Any) -> dict[str, Any]:
    answer = ChatResponse("x", "y", (Choice(parts, finish, **more),), Usage(input=1, output=2))
    body: dict[str, Any] = json.loads(anthropic.write_response(answer, answer_id="a.1", model="mine", now=5))
    return body


def test_writes_an_answer() -> None:
    """A whole answer has the client's model, an id of this format and each part as a block."""
    body = written(
        Thinking("hm", "sig"),
        Thinking("unsigned"),
        RedactedThinking("xx"),
        Text("hello"),
        Text(""),
        Refusal("no"),
        ToolCall("call_1", "f", '{"a": 1}'),
        Opaque("anthropic", "server_tool_use", Raw(b'{"type":"server_tool_use"}')),
        Opaque("other", "thing", Raw(b"{}")),
        finish="tool_calls",
    )
    assert body == {
        "id": "msg_a_1",
        "type": "message",
        "role": "assistant",
        "model": "mine",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "thinking", "thinking": "unsigned", "signature": ""},
            {"type": "redacted_thinking", "data": "xx"},
            {"type": "text", "text": "hello"},
            {"type": "text", "text": "no"},
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
            {"type": "server_tool_use"},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 2,
        },
    }


@pytest.mark.parametrize(
    ("ident", "expected"),
    [
        ("call_A-9", "call_A-9"),
        ("functions.f:0", "functions_f_0_d6bdd4de"),
        ("", "toolu_msg_a_1_0"),
        ("é\n", "___edd3a863"),
    ],
)
def test_tool_ids_are_clean(ident: str, expected: str) -> None:
    """A provider's tool id is kept if Anthropic's clients may send it back, else cleaned."""
    assert written(ToolCall(ident, "f", "{}"))["content"][0]["id"] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ('{"a":\n1}', {"a": 1}),
        ('{"a":', {"INVALID_JSON": '{"a":'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('{"a":1} {"b":2}', {"INVALID_JSON": '{"a":1} {"b":2}'}),
    ],
)
def test_arguments_become_an_object(arguments: str, expected: dict[str, Any]) -> None:
    """Arguments are always an object, broken ones too, in answers and in questions."""
    call = ToolCall("t", "f", arguments)
    assert written(call)["content"][0]["input"] == expected
    body = json.loads(anthropic.write_request(asking(Message("assistant", (call,))), TARGET))
    assert body["messages"][0]["content"][0]["input"] == expected


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "end_turn"),
        ("stop_sequence", "stop_sequence"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("refusal", "refusal"),
        ("pause", "pause_turn"),
        ("error", "end_turn"),
    ],
)
def test_finish_reasons(finish: FinishReason, expected: str) -> None:
    """Each finish has a stop reason."""
    assert written(Text("x"), finish=finish)["stop_reason"] == expected


def test_refusal_details_are_anthropics_own() -> None:
    """A refusal's details are told if Anthropic said them, and not if they are another vendor's."""
    own = Raw(b'{"type":"refusal","category":"bio"}')
    assert written(finish="refusal", detail=own)["stop_details"] == {"type": "refusal", "category": "bio"}
    assert "stop_details" not in written(finish="refusal", detail=Raw(b'{"severity":"high"}'))


def test_usage_is_told_in_anthropics_way() -> None:
    """The cache is outside the input, thinking inside the output, sound is part of both, and pictures are input."""
    usage = Usage(
        input=1,
        cache_read=2,
        cache_write=3,
        cache_write_1h=4,
        audio_input=5,
        image_input=9,
        output=6,
        reasoning=7,
        audio_output=8,
    )
    answer = ChatResponse("", "", (Choice((), "stop"),), usage)
    body = json.loads(anthropic.write_response(answer, answer_id="msg_1", model="m", now=0))
    assert body["id"] == "msg_1"
    assert body["usage"] == {
        "input_tokens": 15,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 21,
        "output_tokens_details": {"thinking_tokens": 7},
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (ModelNotFound("x"), "not_found_error"),
        (TooLarge("x"), "request_too_large"),
        (UpstreamRateLimited("x"), "rate_limit_error"),
        (UpstreamOutOfMoney("x"), "rate_limit_error"),
        (UpstreamOverloaded("x"), "overloaded_error"),
        (UpstreamTimeout("x"), "timeout_error"),
        (UpstreamError("x"), "api_error"),
        (UpstreamAuth("x"), "api_error"),
        (UpstreamError("x", status=422), "invalid_request_error"),
        (UpstreamError("x", status=402), "billing_error"),
        (UpstreamError("x", status=529), "overloaded_error"),
        (UpstreamError("x", status=599), "api_error"),
    ],
)
def test_writes_errors(error: GatewayError, expected: str) -> None:
    """An error has Anthropic's type for its status, as a body and as the event that ends a stream."""
    body = anthropic.write_error(error, request_id="req-1", mid_stream=False)
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": expected, "message": "x"},
        "request_id": "req-1",
    }
    event = anthropic.write_error(error, request_id="req-1", mid_stream=True)
    assert event == b"event: error\ndata: " + body + b"\n\n"


def test_what_anthropic_says_of_an_error_besides() -> None:
    """`details` reach a client of the same format, on one line; of a refused key nothing does."""
    details = {"error_code": "thread_not_found"}
    said = {
        "type": "error",
        "error": {"type": "not_found_error", "message": "x", "details": details},
        "request_id": "r",
    }
    for status in (404, 401):
        error = anthropic.read_error(status, {}, json.dumps(said, indent=1).encode())
        event = anthropic.write_error(error, request_id="req-1", mid_stream=True)
        told = json.loads(event.partition(b"data: ")[2])
        assert told["error"].get("details") == (details if status == 404 else None)
        assert event.count(b"\n") == 3


# -- write_stream ----------------------------------------------------------------------------------------------------


def js(text: str) -> Raw:
    return Raw(json.dumps(text).encode())


def stream_of(*deltas: Delta) -> list[dict[str, Any]]:
    writer = anthropic.write_stream(answer_id="msg_7", model="mine", now=0, wants_usage=False)
    events = []
    for name, data in read_events(writer.feed(deltas) + writer.close()):
        event = json.loads(data)
        assert event["type"] == name.decode()
        events.append(event)
    return events


def blocks_of(events: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each block of a stream: how it starts and its words put together; asserts that blocks are sequential."""
    blocks: list[tuple[dict[str, Any], str]] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(blocks)
            is_open = True
            blocks.append((event["content_block"], ""))
        elif event["type"] == "content_block_delta":
            assert is_open
            assert event["index"] == len(blocks) - 1
            kind, words = event["delta"].values()
            assert kind in {"text_delta", "thinking_delta", "signature_delta", "input_json_delta"}
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + words)
        elif event["type"] == "content_block_stop":
            assert is_open
            is_open = False
    assert not is_open
    return blocks


def test_writes_a_stream() -> None:
    """Blocks open and close as the kind of delta changes, and usage that comes after the finish is told."""
    events = stream_of(
        Start("id", "theirs", Usage(input=9)),
        ThinkingDelta(js("hm")),
        SignatureDelta(js("sig")),
        RedactedDelta(js("xx")),
        Ping(),
        TextDelta(js("a")),
        TextDelta(js('"b"')),
        RefusalDelta(js("c")),
        ToolStart(0, "t1", "f"),
        ToolDelta(0, js('{"a":')),
        ToolDelta(0, js("1}")),
        Finish("tool_calls"),
        UsageDelta(Usage(input=10, cache_read=4, output=5)),
    )
    assert events[0]["message"] == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "mine",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": written()["usage"] | {"input_tokens": 9, "output_tokens": 0},
    }
    assert events[1] == {"type": "ping"}
    assert blocks_of(events) == [
        ({"type": "thinking", "thinking": "", "signature": ""}, "hmsig"),
        ({"type": "redacted_thinking", "data": "xx"}, ""),
        ({"type": "text", "text": ""}, 'a"b"c'),
        ({"type": "tool_use", "id": "t1", "name": "f", "input": {}}, '{"a":1}'),
    ]
    usage = written()["usage"] | {"input_tokens": 10, "cache_read_input_tokens": 4, "output_tokens": 5}
    assert events[-2:] == [
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]


def test_text_is_spliced_as_it_came() -> None:
    """The bytes of a piece of text are the provider's own, escapes included."""
    writer = anthropic.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    writer.feed([Start(), TextDelta(js("a"))])
    piece = Raw(b'"\\u00e9\\/\xc3\xa9"')
    assert writer.feed([TextDelta(piece), TextDelta(piece)]) == 2 * (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\u00e9\\/\xc3\xa9"}}\n\n'
    )


def test_interleaved_tools_become_sequential() -> None:
    """What belongs to a later call waits until the open one is complete, and text after it too."""
    events = stream_of(
        Start(),
        ToolStart(0, "t0", "f"),
        ToolStart(1, "t1", "g"),
        ToolDelta(1, js('{"b":')),
        ToolDelta(0, js('{"a":')),
        ToolStart(2, "t2", "h"),
        ToolDelta(2, js("{}")),
        TextDelta(js("end")),
        ToolDelta(1, js("2}")),
        ToolDelta(0, js("1}")),
        Finish("tool_calls"),
    )
    assert [(block.get("id"), words) for block, words in blocks_of(events)] == [
        ("t0", '{"a":1}'),
        ("t1", '{"b":2}'),
        ("t2", "{}"),
        (None, "end"),
    ]


def test_sequential_tools_do_not_wait() -> None:
    """A call begins to be written as soon as the one before it is complete."""
    writer = anthropic.write_stream(answer_id="1", model="m", now=0, wants_usage=False)
    writer.feed([Start(), ToolStart(0, "t0", "f"), ToolDelta(0, js("{}"))])
    assert b'"id":"t1"' in writer.feed([ToolStart(1, "t1", "f")])
    assert b"partial_json" in writer.feed([ToolDelta(1, js('{"a"'))])


def test_only_the_first_choice_is_written() -> None:
    """Deltas of other choices are not written: the format has one answer."""
    events = stream_of(
        Start(),
        TextDelta(js("a")),
        TextDelta(js("other"), choice=1),
        ToolStart(0, "t", "f", choice=1),
        Finish("length", choice=0),
        Finish("stop", choice=1),
    )
    assert blocks_of(events) == [({"type": "text", "text": ""}, "a")]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_empty_stream_is_well_formed() -> None:
    """An answer of which nothing came still has a beginning and an end."""
    assert [event["type"] for event in stream_of()] == [
        "message_start",
        "ping",
        "message_delta",
        "message_stop",
    ]


# -- write_request ---------------------------------------------------------------------------------------------------


def asking(*messages: Message, **fields: Any) -> ChatRequest:
    return ChatRequest(model="any", messages=messages or HI, **fields)


def body_of(request: ChatRequest, target: Target = TARGET) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(anthropic.write_request(request, target))
    return body


def test_turns_are_merged_and_sorted() -> None:
    """Turns of one role in a row are one, tool results come first, and what Anthropic would refuse is left out."""
    body = body_of(
        asking(
            Message("user", (Text("q"), Text(""))),
            Message("assistant", (Thinking("unsigned"), Thinking("hm", "sig"), Text(" "))),
            Message("assistant", (ToolCall("a.b", "f", ""), ToolCall("c", "g", '{"x":1}'))),
            Message("user", (Text("and"),)),
            Message("user", (ToolResult("a.b", (Text("1"), Text("")), failed=True),)),
            Message("user", (ToolResult("c", ()), Text("so?"))),
            Message("assistant", (Text("\n"),)),
        )
    )
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "a_b_2e7336dc", "name": "f", "input": {}},
                {"type": "tool_use", "id": "c", "name": "g", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "a_b_2e7336dc",
                    "content": [{"type": "text", "text": "1"}],
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "and"},
                {"type": "text", "text": "so?"},
            ],
        },
    ]


def test_writes_pictures_and_documents() -> None:
    """Pictures and documents have their source, by whatever way they come."""
    body = body_of(
        asking(
            Message(
                "user",
                (
                    Image(media_type="image/jpg", data="AA", detail="low"),
                    Image(url="https://e.com/a", cache=Raw(b'{"type":"ephemeral"}')),
                    Image(file_id="f"),
                    Document(media_type="application/pdf", data="AA", name="n"),
                    Document(text="words", context="c", citations=Raw(b'{"enabled":true}')),
                    Document(url="https://e.com/d"),
                    Document(file_id="f"),
                    RedactedThinking("xx"),
                    Refusal("no"),
                ),
            )
        )
    )
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA"}},
        {
            "type": "image",
            "source": {"type": "url", "url": "https://e.com/a"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "image", "source": {"type": "file", "file_id": "f"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"},
            "title": "n",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "words"},
            "context": "c",
            "citations": {"enabled": True},
        },
        {"type": "document", "source": {"type": "url", "url": "https://e.com/d"}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
        {"type": "redacted_thinking", "data": "xx"},
        {"type": "text", "text": "no"},
    ]


@pytest.mark.parametrize(
    "part",
    [Audio("AA", "wav"), Opaque("other", "thing", Raw(b"{}")), Image(data="AA")],
    ids=["audio", "opaque", "image"],
)
def test_content_that_cannot_be_said_is_refused(part: Part) -> None:
    """Content is never dropped, whatever `drop_params` says."""
    with pytest.raises(Unsupported):
        anthropic.write_request(asking(Message("user", (part,))), DROPPING)


def test_writes_the_plain_fields() -> None:
    """Plain fields get Anthropic's names, stop sequences of whitespace are dropped, extras are merged."""
    body = body_of(
        asking(
            system=(Text("s"), Text(" "), Text("t", cache=Raw(b'{"type":"ephemeral"}'))),
            max_tokens=0,
            temperature=0.5,
            top_p=0.9,
            top_k=3,
            stop=("a", "\n "),
            user="u",
            stream=True,
            n=1,
            logprobs=False,
            presence_penalty=0.0,
            extra={"top_k": Raw(b"4"), "wild": Raw(b'{"a":1}')},
            unspoken={"store": Raw(b"true"), "cache_control": Raw(b'{"type":"ephemeral"}')},
        )
    )
    assert body == {
        "model": "claude-test",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "system": [
            {"type": "text", "text": "s"},
            {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
        ],
        "max_tokens": 0,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop_sequences": ["a"],
        "metadata": {"user_id": "u"},
        "stream": True,
        "wild": {"a": 1},
        "cache_control": {"type": "ephemeral"},
    }


def test_max_tokens_has_a_default() -> None:
    """Anthropic demands `max_tokens`: it is the model's limit, or 4096 if that is not known."""
    assert body_of(QUESTION)["max_tokens"] == 4096
    assert body_of(QUESTION, replace(TARGET, max_output_tokens=64000))["max_tokens"] == 64000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": Raw(b'{"5":1}')}, "logit_bias"),
        ({"response_format": ResponseFormat("json_object")}, "response_format"),
        ({"unspoken": {"modalities": Raw(b"[]")}}, "modalities"),
        ({"tools": (Opaque("openai", "web_search", Raw(b"{}")),)}, "tools"),
    ],
)
def test_what_cannot_be_said_is_refused_or_dropped(fields: dict[str, Any], param: str) -> None:
    """A field that Anthropic has no word for is refused with the way out, or dropped where that is allowed."""
    with pytest.raises(Unsupported, match="drop_params") as caught:
        anthropic.write_request(asking(**fields), TARGET)
    assert caught.value.param == param
    assert body_of(asking(**fields), DROPPING) == body_of(QUESTION)


def test_models_without_sampling_refuse_it() -> None:
    """Newer models answer sampling parameters with an error, so they are refused or dropped before."""
    newer = replace(TARGET, flags=frozenset({"no_sampling_params"}))
    with pytest.raises(Unsupported) as caught:
        anthropic.write_request(asking(temperature=0.2), newer)
    assert caught.value.param == "temperature"
    assert "temperature" not in body_of(asking(temperature=0.2), replace(newer, drop_params=True))


def test_writes_tools() -> None:
    """Tools keep their schema and marks, and a schema is always one of an object."""
    mark = Raw(b'{"type":"ephemeral"}')
    body = body_of(
        asking(
            tools=(
                Tool("a", Raw(b'{"type":"object","properties":{"x":{}}}'), "d", strict=True, cache=mark),
                Tool("b", Raw(b"{}"), strict=False),
                Tool("c", Raw(b"null")),
                Opaque("anthropic", "code", Raw(b'{"type":"code_execution_20260120","name":"c"}')),
            )
        )
    )
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {
            "name": "a",
            "input_schema": {"type": "object", "properties": {"x": {}}},
            "description": "d",
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "b", "input_schema": empty},
        {"name": "c", "input_schema": empty},
        {"type": "code_execution_20260120", "name": "c"},
    ]
    assert "tool_choice" not in body


def test_bad_schema_is_refused() -> None:
    """A tool's schema that is no object is the caller's mistake."""
    with pytest.raises(BadRequest):
        anthropic.write_request(asking(tools=(Tool("a", Raw(b"[]")),)), TARGET)


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("named", "a"), None, {"type": "tool", "name": "a"}),
    ],
)
def test_writes_the_tool_choice(
    choice: ToolChoice | None, parallel: bool | None, expected: dict[str, Any] | None
) -> None:
    """The tool choice has Anthropic's words, and one call at a time is part of it."""
    fields = {"tool_choice": choice, "parallel_tool_calls": parallel}
    assert body_of(asking(tools=(Tool("a", Raw(b"{}")),), **fields)).get("tool_choice") == expected


def test_a_choice_among_no_tools_is_left_out() -> None:
    """Without tools there is nothing to choose, which Anthropic would answer with an error."""
    assert body_of(asking(tool_choice=ToolChoice("none"), parallel_tool_calls=False)) == body_of(QUESTION)


def test_writes_the_response_format() -> None:
    """A schema for the answer goes to `output_config.format`, whatever the caller's word for its kind."""
    wanted = ResponseFormat("json_schema", Raw(b'{"type":"object"}'), name="n", strict=True)
    expected = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert body_of(asking(response_format=wanted))["output_config"] == expected
    assert body_of(asking(response_format=replace(wanted, kind="json_object")))["output_config"] == expected


@pytest.mark.parametrize(
    ("reasoning", "thinking", "max_tokens"),
    [
        (Reasoning(effort="low"), {"type": "enabled", "budget_tokens": 1024}, 1500),
        (Reasoning(effort="minimal"), {"type": "enabled", "budget_tokens": 1024}, 1500),
        (Reasoning(effort="medium"), {"type": "enabled", "budget_tokens": 2048}, 3548),
        (Reasoning(effort="max"), {"type": "enabled", "budget_tokens": 16384}, 17884),
        (Reasoning(), {"type": "enabled", "budget_tokens": 2048}, 3548),
        (Reasoning(budget=1200), {"type": "enabled", "budget_tokens": 1200}, 1500),
        (
            Reasoning("adaptive", display="omitted"),
            {"type": "enabled", "budget_tokens": 2048, "display": "omitted"},
            3548,
        ),
        (Reasoning("disabled"), None, 1500),
        (Reasoning(effort="none"), None, 1500),
    ],
)
def test_thinks_by_budget(reasoning: Reasoning, thinking: dict[str, Any] | None, max_tokens: int) -> None:
    """Models without adaptive thinking get a budget, and room for the answer beside it."""
    body = body_of(asking(max_tokens=1500, reasoning=reasoning))
    assert body.get("thinking") == thinking
    assert body["max_tokens"] == max_tokens
    assert "output_config" not in body


def test_budget_stays_below_the_models_limit() -> None:
    """A budget that the model's limit has no room for is made smaller."""
    body = body_of(asking(reasoning=Reasoning(effort="high")), replace(TARGET, max_output_tokens=4096))
    assert body["max_tokens"] == 4096
    assert body["thinking"]["budget_tokens"] == 4095


def test_unknown_effort_is_refused() -> None:
    """An effort that has no budget is the caller's mistake."""
    with pytest.raises(BadRequest) as caught:
        anthropic.write_request(asking(reasoning=Reasoning(effort="heroic")), TARGET)
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("reasoning", "thinking", "config"),
    [
        (Reasoning(effort="high"), {"type": "adaptive", "display": "summarized"}, {"effort": "high"}),
        (Reasoning(effort="minimal"), {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        (Reasoning("adaptive", display="omitted"), {"type": "adaptive", "display": "omitted"}, None),
        (Reasoning(budget=3000), {"type": "adaptive", "display": "summarized"}, {"effort": "high"}),
        (Reasoning(budget=99999), {"type": "adaptive", "display": "summarized"}, {"effort": "max"}),
        (Reasoning(effort="none"), {"type": "disabled"}, None),
        (Reasoning("disabled", effort="low"), {"type": "disabled"}, {"effort": "low"}),
    ],
)
def test_thinks_adaptively(
    reasoning: Reasoning, thinking: dict[str, Any], config: dict[str, Any] | None
) -> None:
    """Models with adaptive thinking get an effort."""
    body = body_of(asking(reasoning=reasoning), ADAPTIVE)
    assert (body["thinking"], body.get("output_config")) == (thinking, config)


def test_always_thinking_models_cannot_stop() -> None:
    """A model that always thinks refuses not to, or the wish is dropped."""
    target = replace(TARGET, flags=frozenset({"supports_adaptive_thinking", "thinking_always_on"}))
    with pytest.raises(Unsupported):
        anthropic.write_request(asking(reasoning=Reasoning("disabled")), target)
    assert "thinking" not in body_of(
        asking(reasoning=Reasoning("disabled")), replace(target, drop_params=True)
    )
    allowing = replace(target, allowed=frozenset({"reasoning_effort"}))
    assert body_of(asking(reasoning=Reasoning("disabled")), allowing)["reasoning_effort"] == "none"


def test_a_format_that_the_operator_allows() -> None:
    """JSON without a schema has no word; where the operator says so it is passed on."""
    asked = asking(response_format=ResponseFormat("json_object"))
    with pytest.raises(Unsupported, match="json_schema"):
        body_of(asked)
    allowing = replace(TARGET, allowed=frozenset({"response_format"}))
    assert body_of(asked, allowing)["response_format"] == {"type": "json_object"}


def test_thinking_excludes_sampling() -> None:
    """With thinking Anthropic allows no other temperature than 1, no `top_k` and no low `top_p`."""
    sampling = {"temperature": 0.2, "top_k": 4, "top_p": 0.5}
    body = body_of(asking(reasoning=Reasoning(effort="low"), **sampling))
    assert not sampling.keys() & body.keys()
    body = body_of(asking(reasoning=Reasoning(effort="low"), temperature=1.0, top_p=0.95))
    assert (body["temperature"], body["top_p"]) == (1.0, 0.95)
    assert body_of(asking(reasoning=Reasoning("disabled"), **sampling)).items() >= sampling.items()


def test_rows_reject_and_rename() -> None:
    """What a provider's row rejects is refused or dropped, what it renames is renamed, both ways of asking."""
    picky = Provider(name="picky", rejects=("top_k",), rename={"metadata": "labels"})
    target = replace(TARGET, provider=picky)
    envelope = open_envelope(b'{"model":"m","messages":[],"top_k":1,"metadata":{"user_id":"u"}}')
    with pytest.raises(Unsupported):
        anthropic.write_request(asking(top_k=1), target)
    with pytest.raises(Unsupported):
        anthropic.pass_request(envelope, target, "chat", stream=False)
    dropping = replace(target, drop_params=True)
    assert body_of(asking(top_k=1, user="u"), dropping)["labels"] == {"user_id": "u"}
    passed = json.loads(anthropic.pass_request(envelope, dropping, "chat", stream=True))
    assert passed == {"model": "claude-test", "messages": [], "labels": {"user_id": "u"}, "stream": True}


@pytest.mark.parametrize("base", ["https://e.com", "https://e.com/", "https://e.com/v1", "https://e.com/v1/"])
def test_address(base: str) -> None:
    """The address is the same whether the base ends in `/v1` or not, and the version is ours if the client has none."""
    target = replace(TARGET, base_url=base)
    sent = anthropic.address(target, "chat", {}, stream=True)
    assert (sent.method, sent.url) == ("POST", "https://e.com/v1/messages")
    assert dict(sent.headers) == {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "anthropic-version": "2023-06-01",
    }
    counting = anthropic.address(target, "count_tokens", {}, stream=False)
    assert counting.url == "https://e.com/v1/messages/count_tokens"


def test_headers_cross() -> None:
    """The client's version and beta flags cross byte for byte, and each header is sent once."""
    row = Provider(
        name="p", headers={"Anthropic-Version": "row", "x-title": "t"}, paths={"chat": "/x/{model}/messages"}
    )
    target = replace(TARGET, provider=row, model="a/b")
    headers = {"Anthropic-Version": "2026-10-21", "anthropic-beta": "a,b , c"}
    sent = anthropic.address(target, "chat", headers, stream=False)
    assert sent.url == "https://api.example.com/x/a%2Fb/messages"
    assert dict(sent.headers) == {
        "content-type": "application/json",
        "accept": "application/json",
        "anthropic-version": "2026-10-21",
        "x-title": "t",
        "anthropic-beta": "a,b , c",
    }
    assert len(sent.headers) == 5
    own = anthropic.address(target, "chat", {}, stream=False)
    assert ("anthropic-version", "row") in own.headers


def test_operations_that_are_not_offered_are_refused() -> None:
    """Nothing is sent for an operation that the row does not name, or without an option that its path wants."""
    with pytest.raises(Unsupported):
        anthropic.address(TARGET, "embeddings", {}, stream=False)
    row = Provider(name="p", paths={"chat": "/{region}/messages"})
    with pytest.raises(Unsupported, match="region"):
        anthropic.address(replace(TARGET, provider=row), "chat", {}, stream=False)


# -- read_response and read_error ------------------------------------------------------------------------------------


def answered(**fields: Any) -> ChatResponse:
    body = {"type": "message", "id": "msg_1", "model": "m", "content": [], "stop_reason": "end_turn"} | fields
    return anthropic.read_response(json.dumps(body).encode(), QUESTION, TARGET)


def test_reads_a_refusal() -> None:
    """A refusal may have no content; its details are kept."""
    choice = answered(stop_reason="refusal", stop_details={"type": "refusal"}).choices[0]
    assert choice == Choice((), "refusal", detail=Raw(b'{"type": "refusal"}'))


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "pause"),
        ("of_next_year", "stop"),
        (None, "stop"),
    ],
)
def test_rare_stop_reasons(reason: str | None, finish: FinishReason) -> None:
    """Stop reasons that no recording has are read too."""
    assert answered(stop_reason=reason).choices[0].finish == finish


def test_reads_calls_without_input() -> None:
    """A call without input has the arguments `{}`."""
    choice = answered(content=[{"type": "tool_use", "id": "t", "name": "f"}]).choices[0]
    assert choice.parts == (ToolCall("t", "f", "{}"),)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, Usage()),
        ({"input_tokens": 1, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 2}}, Usage(input=1, output=3, reasoning=2)),
        ({"output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}}, Usage(reasoning=1)),
        ({"cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 4}}, Usage(cache_write=5, cache_write_1h=4)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 5}}, Usage(cache_write=5, cache_write_1h=4)),
        ({"cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 4}}, Usage(cache_write_1h=3)),
    ],
)  # fmt: skip
def test_reads_usage(counts: dict[str, Any], expected: Usage) -> None:
    """Each token is in one bucket, and no bucket is negative."""
    assert answered(usage=counts).usage == expected


def test_answers_without_usage_have_none() -> None:
    """Usage that is not told is not zero."""
    assert answered().usage is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"content":5}', b'{"content":[{"type":"text"}]}']
)
def test_malformed_answers(body: bytes) -> None:
    """What is no answer at all is `UpstreamMalformed`."""
    with pytest.raises(UpstreamMalformed):
        anthropic.read_response(body, QUESTION, TARGET)


def test_odd_json_is_read() -> None:
    """A lone surrogate becomes U+FFFD, an escaped pair stays the character that it is."""
    body = b'{"content":[{"type":"text","text":"\\ud800 \\ud83c\\udf0a"}]}'
    (part,) = anthropic.read_response(body, QUESTION, TARGET).choices[0].parts
    assert part == Text("\ufffd 🌊") or part == Text("? 🌊")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (529, b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', UpstreamOverloaded, "m"),
        (429, b'{"error":"slow down"}', UpstreamRateLimited, "slow down"),
        (400, b'{"message":"odd"}', UpstreamRefused, "odd"),
        (413, b"<html><body>413</body></html>", UpstreamRefused, "The provider answered with status 413"),
        (502, b"", UpstreamError, "The provider answered with status 502"),
        (500, b"plain words", UpstreamError, "plain words"),
        (402, b'{"error":{"type":"billing_error","message":"pay"}}', UpstreamOutOfMoney, "pay"),
        (504, b'{"error":{"type":"timeout_error","message":"late"}}', UpstreamTimeout, "late"),
        (401, b'{"error":{"message":"invalid x-api-key sk-ant-1"}}', UpstreamAuth, "The provider refused the gateway's credentials"),
    ],
)  # fmt: skip
def test_reads_errors(status: int, body: bytes, kind: type[UpstreamError], message: str) -> None:
    """Errors of every shape are classified by status, and none of them breaks the reader."""
    error = anthropic.read_error(status, {"retry-after": "7"}, body)
    assert type(error) is kind
    assert error.message == message
    assert error.provider_status == status


def test_waiting_time_is_read() -> None:
    """`retry-after` of an error is kept."""
    assert anthropic.read_error(429, {"retry-after": "7"}, b"").retry_after == 7


# -- read_stream -----------------------------------------------------------------------------------------------------

EVERYTHING_READ: list[Delta] = [
    Start(
        "msg_01Harbour",
        "claude-keeper-4",
        Usage(input=40, cache_read=20, cache_write=100, cache_write_1h=200, output=1),
    ),
    Ping(),
    ThinkingDelta(Raw(b'"The lamp, \\"north\\" side"')),
    SignatureDelta(
        Raw(b'"c2lnbmVkIGJ5IHRoZSBrZWVwZXIgb2YgdGhlIGxpZ2h0aG91c2Ugb24gdGhlIG5vcnRoIHNpZGUgb2YgdGhlIGJheQ=="')
    ),
    RedactedDelta(Raw(b'"aGlkZGVu"')),
    TextDelta(Raw('"Grüße\\n\\u2028 — \\"model\\":\\"decoy\\" 🌊"'.encode())),
    TextDelta(Raw(b'" High at noon."')),
    ToolStart(0, "toolu_light", "light"),
    ToolDelta(0, Raw(b'"{}"')),
    ToolStart(1, "toolu_ring", "ring"),
    ToolDelta(1, Raw(b'"{\\"model\\": \\"decoy\\", \\"times"')),
    ToolDelta(1, Raw(b'"\\": 3}"')),
    UsageDelta(Usage(input=45, cache_read=20, cache_write=100, cache_write_1h=200, output=60, reasoning=30)),
    Finish("tool_calls"),
]


def test_reads_everything() -> None:
    """All that a stream can have is read; what we do not know is skipped."""
    reader = anthropic.read_stream(QUESTION, TARGET)
    assert reader.feed(EVERYTHING) == EVERYTHING_READ
    assert reader.done
    assert reader.feed(b'event: error\ndata: {"type":"error"}\n\n') == []
    assert reader.close() == []


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """The whole events that come out when the wire cuts the bytes at these places."""
    cutter = SseCutter()
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    for start, end in pairwise(edges):
        if whole := cutter.feed(data[start:end]):
            yield whole
    if rest := cutter.flush():
        yield rest


@given(places=st.lists(st.integers(min_value=0, max_value=100_000), max_size=30), crlf=st.booleans())
def test_any_splitting_reads_the_same(places: list[int], crlf: bool) -> None:
    """However the wire cuts the bytes, the deltas are the same, with either line end."""
    data = EVERYTHING.replace(b"\n", b"\r\n") if crlf else EVERYTHING
    reader = anthropic.read_stream(QUESTION, TARGET)
    assert [delta for events in cut(data, places) for delta in reader.feed(events)] == EVERYTHING_READ
    assert reader.done


@given(places=st.lists(st.integers(min_value=0, max_value=100_000), max_size=30), crlf=st.booleans())
def test_any_splitting_passes_the_same(places: list[int], crlf: bool) -> None:
    """However the wire cuts the bytes, they pass as they came, but for the model in `message_start`."""
    data = EVERYTHING.replace(b"\n", b"\r\n") if crlf else EVERYTHING
    editor = anthropic.pass_stream(TARGET, "chat", model="mine", wants_usage=True)
    passed = b"".join([editor.feed(events) for events in cut(data, places)]) + editor.close()
    assert passed == data.replace(b'"claude-keeper-4"', b'"mine"')
    assert (editor.done, editor.failure, editor.finish) == (True, None, "tool_calls")
    assert (editor.answer_id, editor.events, editor.deltas) == ("msg_01Harbour", 29, 6)
    assert editor.usage == EVERYTHING_READ[-2].usage  # type: ignore[union-attr]  # it is the UsageDelta
    words = 'queries: tides The lamp, side Grüße — model decoy High at noon. {"model": "decoy", "times": 3}'
    assert len(words) <= editor.chars <= len(words) * 2


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | data)}\n\n".encode()


def read_all(*events: bytes) -> list[Delta]:
    reader = anthropic.read_stream(QUESTION, TARGET)
    return reader.feed(b"".join(events)) + reader.close()


BEGUN = event("message_start", message={"id": "m", "model": "x"})
ENDED = event("message_delta", delta={"stop_reason": "end_turn"}) + event("message_stop")


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"output_tokens": 7}, Usage(input=9, cache_read=4, cache_write_1h=5, output=7)),
        (
            {
                "input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "output_tokens": 7,
            },
            Usage(input=9, cache_read=4, cache_write_1h=5, output=7),
        ),
        (
            {
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 0,
            },
            Usage(input=9, cache_read=4, cache_write_1h=5, output=1),
        ),
        (
            {"input_tokens": 20, "cache_read_input_tokens": 6, "output_tokens": 7},
            Usage(input=20, cache_read=6, cache_write_1h=5, output=7),
        ),
    ],
)
def test_totals_do_not_fall_to_zero(last: dict[str, Any], expected: Usage) -> None:
    """The counts at the end are those of the whole answer, but a zero is no news of a count that was given: some servers say
    what went in at the beginning alone.
    """
    first = {
        "input_tokens": 9,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 5,
        "cache_creation": {"ephemeral_1h_input_tokens": 5},
        "output_tokens": 1,
    }
    events = (
        event("message_start", message={"id": "m", "model": "x", "usage": first}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage=last),
        event("message_stop"),
    )
    deltas = read_all(*events)
    assert [delta.usage for delta in deltas if isinstance(delta, UsageDelta)] == [expected]
    editor = anthropic.pass_stream(TARGET, "chat", model="mine", wants_usage=True)
    for each in events:
        editor.feed(each)
    assert editor.usage == expected


@pytest.mark.parametrize(
    ("kind", "expected", "status"),
    [
        ("overloaded_error", UpstreamOverloaded, 529),
        ("rate_limit_error", UpstreamRateLimited, 429),
        ("api_error", UpstreamError, 500),
        ("invalid_request_error", UpstreamRefused, 400),
        ("authentication_error", UpstreamAuth, 401),
        ("of_next_year", UpstreamError, 500),
    ],
)
@pytest.mark.parametrize("before", [b"", BEGUN], ids=["first", "later"])
def test_error_events(before: bytes, kind: str, expected: type[UpstreamError], status: int) -> None:
    """An error event, at any time, is a failure of its type; nothing follows, and the editor keeps it back."""
    broken = event("error", error={"type": kind, "message": "m"})
    failure = read_all(before, broken, ENDED)[-1]
    assert isinstance(failure, Failure)
    assert type(failure.error) is expected
    assert failure.error.provider_status == status
    editor = anthropic.pass_stream(TARGET, "chat", model="x", wants_usage=True)
    assert editor.feed(before + broken + ENDED) == before
    assert type(editor.failure) is expected
    assert not editor.done
    assert editor.close() == b""


@pytest.mark.parametrize(
    "broken",
    [
        b'error: {"error":{"type":"overloaded_error","message":"m"}}\n\n',
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"m"}}\n\n',
        b'data: {"error":{"type":"overloaded_error","message":"m"}}\n\n',
    ],
)
def test_error_events_of_other_servers(broken: bytes) -> None:
    """Errors without Anthropic's event line are found too."""
    (failure,) = read_all(broken)
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamOverloaded


@pytest.mark.parametrize(
    "bad",
    [
        b"event: content_block_delta\ndata: {\n\n",
        b"event: message_delta\ndata: nonsense\n\n",
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":5}}\n\n',
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":"x","delta":{}}\n\n',
        b"event: error\ndata: nonsense\n\n",
    ],
)
def test_malformed_events_are_failures(bad: bytes) -> None:
    """An event that cannot be read ends the stream with a failure, and nothing is raised."""
    deltas = read_all(BEGUN, bad, ENDED)
    assert isinstance(deltas[-1], Failure)
    assert isinstance(deltas[-1].error, UpstreamMalformed)
    assert len(deltas) == 2


def test_stream_without_its_end_is_a_failure() -> None:
    """A stream that ends before `message_stop` is broken, for the reader and for the editor, and says so once."""
    reader = anthropic.read_stream(QUESTION, TARGET)
    reader.feed(BEGUN)
    (failure,) = reader.close()
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, UpstreamMalformed)
    assert reader.close() == []
    editor = anthropic.pass_stream(TARGET, "chat", model="x", wants_usage=True)
    editor.feed(BEGUN)
    assert editor.close() == b""
    assert isinstance(editor.failure, UpstreamMalformed)


def test_calls_that_share_an_index() -> None:
    """Servers that give every block the same index have called each tool once, with its own arguments."""
    deltas = read_all(
        BEGUN,
        *(
            event(
                "content_block_start", index=0, content_block={"type": "tool_use", "id": name, "name": name}
            )
            + (event("content_block_delta", index=0, delta=piece) if piece else b"")
            for name, piece in (
                ("a", {"type": "input_json_delta", "partial_json": '{"x":1}'}),
                ("b", None),
                ("c", {"type": "input_json_delta", "partial_json": '{"z":3}'}),
            )
        ),
        ENDED,
    )
    assert [(one.index, one.id) for one in deltas if isinstance(one, ToolStart)] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    told = [(one.index, json.loads(bytes(one.arguments))) for one in deltas if isinstance(one, ToolDelta)]
    assert told == [(0, '{"x":1}'), (1, "{}"), (2, '{"z":3}')]


@pytest.mark.parametrize("beginning", [b"{}", b"{ }", b'""', b"null", b"[]", b'"x"'])
def test_a_call_that_begins_with_no_arguments(beginning: bytes) -> None:
    """What a compatible server writes as `input` before the arguments come is none of them, unless it is an object."""
    block = b'{"type":"tool_use","id":"t","name":"f","input":%b}' % beginning
    begun = (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":%b}\n\n'
    )
    piece = {"type": "input_json_delta", "partial_json": '{"b":2}'}
    deltas = read_all(
        begun % block,
        event("content_block_delta", index=0, delta=piece),
        event("content_block_stop", index=0),
        ENDED,
    )
    assert [json.loads(bytes(one.arguments)) for one in deltas if isinstance(one, ToolDelta)] == ['{"b":2}']


def test_compatible_servers_are_read() -> None:
    """Servers that put everything into the beginning of a block, or begin without `message_start`, are read."""
    deltas = read_all(
        event("content_block_start", index=0, content_block={"type": "text", "text": "a"}),
        event("content_block_start", index=1, content_block={"type": "thinking", "thinking": "b"}),
        event(
            "content_block_start",
            index=2,
            content_block={"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        ),
        event("content_block_start", index=3, content_block={"type": "tool_use", "id": "u", "name": "g"}),
        event("message_stop"),
    )
    assert deltas == [
        Start(),
        TextDelta(Raw(b'"a"')),
        ThinkingDelta(Raw(b'"b"')),
        ToolStart(0, "t", "f"),
        ToolDelta(0, Raw(b'"{\\"x\\": 1}"')),
        ToolStart(1, "u", "g"),
        ToolDelta(1, Raw(b'"{}"')),
        Finish("stop"),
    ]


def test_odd_characters_in_a_stream() -> None:
    """Bytes that are no UTF-8 and lone surrogates are replaced, and the stream goes on."""
    head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'
    deltas = read_all(BEGUN, head + b'"a\xffb"}}\n\n', head + b'"\\ud83d"}}\n\n', ENDED)
    texts = [json.loads(bytes(delta.text)) for delta in deltas if isinstance(delta, TextDelta)]
    assert texts[0] == "a\ufffdb"
    assert len(texts) == 2
    assert texts[1].isprintable()


# -- both ways -------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(TEXTS, st.one_of(st.integers(), TEXTS, st.none()), max_size=3)


@st.composite
def tracks(draw: st.DrawFn) -> list[list[Delta]]:
    """What may come in parallel: text, thinking, and some tool calls in pieces."""
    found: list[list[Delta]] = [[TextDelta(js(text)) for text in draw(st.lists(TEXTS, max_size=4))]]
    found.append([ThinkingDelta(js(text)) for text in draw(st.lists(TEXTS, max_size=3))])
    for index, arguments in enumerate(draw(st.lists(ARGUMENTS, max_size=4))):
        text = json.dumps(arguments)
        at = draw(st.integers(min_value=1, max_value=len(text)))
        pieces = [piece for piece in (text[:at], text[at:]) if piece]
        found.append([ToolStart(index, f"t{index}", "f"), *(ToolDelta(index, js(piece)) for piece in pieces)])
    return found


def told(deltas: list[Delta]) -> dict[str, Any]:
    """What deltas say in the end, whatever their order."""
    names = {each.index: each.id for each in deltas if isinstance(each, ToolStart)}
    arguments = dict.fromkeys(names.values(), "")
    for each in deltas:
        if isinstance(each, ToolDelta):
            arguments[names[each.index]] += json.loads(bytes(each.arguments))
    return {
        "text": "".join(json.loads(bytes(each.text)) for each in deltas if isinstance(each, TextDelta)),
        "thinking": "".join(
            json.loads(bytes(each.text)) for each in deltas if isinstance(each, ThinkingDelta)
        ),
        "arguments": arguments,
        "finish": [each for each in deltas if isinstance(each, Finish)],
        "usage": [each for each in deltas if isinstance(each, UsageDelta)][-1:],
    }


@given(
    parallel=tracks(),
    picks=st.lists(st.integers(min_value=0, max_value=9), min_size=40, max_size=40),
    counts=st.lists(st.integers(min_value=0, max_value=10**6), min_size=6, max_size=6),
    finish=st.sampled_from(["stop", "length", "tool_calls", "refusal", "pause"]),
    places=st.lists(st.integers(min_value=0, max_value=10_000), max_size=10),
)
def test_deltas_survive_the_wire(
    parallel: list[list[Delta]],
    picks: list[int],
    counts: list[int],
    finish: FinishReason,
    places: list[int],
) -> None:
    """Deltas in any interleaving, written and read again, say the same; the blocks between are sequential."""
    deltas: list[Delta] = [Start()]
    waiting = [list(track) for track in parallel if track]
    for pick in picks:
        if waiting:
            track = waiting[pick % len(waiting)]
            deltas.append(track.pop(0))
            waiting = [track for track in waiting if track]
    usage = Usage(
        input=counts[0],
        cache_read=counts[1],
        cache_write=counts[2],
        cache_write_1h=counts[3],
        output=counts[4],
        reasoning=counts[5],
    )
    deltas += [*(delta for track in waiting for delta in track), Finish(finish), UsageDelta(usage)]
    writer = anthropic.write_stream(answer_id="1", model="m", now=0, wants_usage=True)
    stream = b"".join([writer.feed([delta]) for delta in deltas]) + writer.close()
    blocks_of([json.loads(data) for _, data in read_events(stream)])
    reader = anthropic.read_stream(QUESTION, TARGET)
    again = [delta for events in cut(stream, places) for delta in reader.feed(events)]
    assert reader.done
    assert told(again) == told(deltas)


# -- pass_request and pass_response ----------------------------------------------------------------------------------


def test_passing_answers_edit_the_top_level_only() -> None:
    """Nested models, odd whitespace and escaped keys stay as they are."""
    body = (
        b' {\n "content" : [{"model":"in","text":"\\"model\\":\\"x\\""}] ,"mod\\u0065l"\t: "old\\"est" , "id":"i",'
        b' "usage":{"input_tokens":3,"output_tokens":4,"model":"x"}, "stop_reason":"max_tokens" }\r\n'
    )
    passed, usage, finish, ident = anthropic.pass_response(body, TARGET, "chat", model='mi"ne')
    assert passed == body.replace(b'"old\\"est"', b'"mi\\"ne"')
    assert (usage, finish, ident) == (Usage(input=3, output=4), "length", "i")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"content":[]}', {"content": []}),
        (b'{"id":"a","id":"bc","model":"x","content":[]}', {"id": "bc", "model": "mine", "content": []}),
        (b'{"n":12,"n":1,"model":"x","content":[]}', {"n": 1, "model": "mine", "content": []}),
        (b'{"model":"x","content":["\\ud800"]}', None),
    ],
)
def test_passing_odd_answers(body: bytes, expected: Mapping[str, Any] | None) -> None:
    """An answer that cannot be walked is opened and sealed again; one without a model is left alone."""
    passed = json.loads(anthropic.pass_response(body, TARGET, "chat", model="mine")[0])
    assert passed["model"] == "mine" if expected is None else passed == expected


def test_what_anthropic_said_of_an_end_stays_on_its_line() -> None:
    """Details that came on several lines are written on one, as an event's data must be."""
    writer = anthropic.write_stream(answer_id="a", model="m", now=0, wants_usage=True)
    detail = Raw(b'{\n"type":"refusal",\r\n"category":"x"}')
    out = writer.feed([Start(), Finish("refusal", detail=detail)]) + writer.close()
    (stop,) = [json.loads(data) for name, data in read_events(out) if name == b"message_delta"]
    assert stop["delta"]["stop_details"] == {"type": "refusal", "category": "x"}


def test_passing_streams_edit_the_opening_only() -> None:
    """An opening event with its data on several lines, or without a model, passes too."""
    editor = anthropic.pass_stream(TARGET, "chat", model="mine", wants_usage=True)
    lines = (
        b'event: message_start\ndata: {"type":"message_start",\ndata: "message":{"id":"i","model":"x"}}\n\n'
    )
    ((name, data),) = read_events(editor.feed(lines))
    assert (name, json.loads(data)["message"]) == (b"message_start", {"id": "i", "model": "mine"})
    without = event("message_start", message={"id": "i"})
    assert anthropic.pass_stream(TARGET, "chat", model="m", wants_usage=True).feed(without) == without


def test_passing_stream_ends_at_its_end() -> None:
    """What follows `message_stop` does not pass."""
    editor = anthropic.pass_stream(TARGET, "chat", model="x", wants_usage=True)
    assert editor.feed(BEGUN + ENDED + b"data: [DONE]\n\n") == BEGUN + ENDED
    late = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "late"})
    assert editor.feed(late) == b""
    assert editor.close() == b""
    assert editor.failure is None
