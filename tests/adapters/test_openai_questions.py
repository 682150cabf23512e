"""Questions to providers: what was asked in another format is said in OpenAI's, what was asked in it keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from adapters import openai
from adapters.envelope import open_envelope
from adapters.errors import BadRequest, Unsupported
from adapters.types import (
    Audio,
    ChatRequest,
    Document,
    Image,
    Message,
    Opaque,
    Operation,
    Part,
    Provider,
    Reasoning,
    RedactedThinking,
    Refusal,
    ResponseFormat,
    Target,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

MARK = Raw(b'{"type":"ephemeral"}')
OPENAI = Provider(name="openai")


def target(provider: Provider = OPENAI, *, drop_params: bool = False, flags: tuple[str, ...] = ()) -> Target:
    return Target(
        provider=provider,
        model="gpt-x",
        base_url="https://provider.test/v1/",
        drop_params=drop_params,
        flags=frozenset(flags),
    )


def ask(*messages: Message, to: Target | None = None, **fields: Any) -> dict[str, Any]:
    turns = messages or (Message("user", (Text("hi"),)),)
    request = ChatRequest(model="public", messages=turns, **fields)
    body: dict[str, Any] = json.loads(openai.write_request(request, to or target()))
    return body


def messages(*turns: Message, to: Target | None = None) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = ask(*turns, to=to)["messages"]
    return said


# -- written anew ----------------------------------------------------------------------------------------------------


def test_plain_question() -> None:
    """Scalars are said in OpenAI's words, absent ones are not said."""
    body = ask(
        max_tokens=10,
        temperature=0.0,
        top_p=0.5,
        stop=("END",),
        n=2,
        seed=1,
        user="u",
        logit_bias=Raw(b'{"1":2}'),
        response_format=ResponseFormat("json_schema", Raw(b'{"type":"object"}'), strict=True),
    )
    assert body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 10,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["END"],
        "n": 2,
        "seed": 1,
        "user": "u",
        "logit_bias": {"1": 2},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_system_is_one_message() -> None:
    """A system prompt of several texts is one message in front."""
    assert ask(system=(Text("one"), Text("two", cache=MARK)))["messages"][0] == {
        "role": "system",
        "content": "one\n\ntwo",
    }


def test_cache_marks_go_where_they_are_known() -> None:
    """Prompt-cache marks are sent to providers that take them and are hints elsewhere."""
    knows = target(Provider(name="openrouter", quirks=frozenset({"cache_control"})))
    fields: dict[str, Any] = {
        "system": (Text("one", cache=MARK),),
        "tools": (Tool("f", Raw(b"{}"), cache=MARK),),
    }
    turn = Message("user", (Text("a", cache=MARK), Image(url="https://a.test", cache=MARK)))
    marked = ask(turn, to=knows, **fields)
    mark = {"type": "ephemeral"}
    assert marked["messages"][0]["content"] == [{"type": "text", "text": "one", "cache_control": mark}]
    assert [part["cache_control"] for part in marked["messages"][1]["content"]] == [mark, mark]
    assert marked["tools"][0]["cache_control"] == mark
    assert "cache_control" not in json.dumps(ask(turn, **fields))


def test_parts_of_a_user() -> None:
    """Pictures become data URLs, sound and files keep their data."""
    parts: tuple[Part, ...] = (
        Text("look"),
        Image(media_type="image/gif", data="aGk=", detail="low"),
        Image(url="https://a.test/a.png"),
        Audio("aGk=", "wav"),
        Document(media_type="application/pdf", data="aGk="),
        Document(text="plain"),
        Document(file_id="file-1"),
    )
    assert messages(Message("user", parts))[0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,aGk=", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://a.test/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,aGk="},
        },
        {"type": "text", "text": "plain"},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


def test_tool_results_come_first_and_pictures_after() -> None:
    """Each result is a tool message of text; a picture in it follows as the user's."""
    turn = Message(
        "user",
        (
            ToolResult("a", (Text("one"), Text("two"), Image(media_type="image/png", data="aGk="))),
            ToolResult("b", (), failed=True),
            Text("and?"),
        ),
    )
    assert messages(turn) == [
        {"role": "tool", "tool_call_id": "a", "content": "one\ntwo"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_an_assistants_turn() -> None:
    """Texts are joined, calls keep their ids, reasoning stays here, and a turn of nothing else is left out."""
    turn = Message(
        "assistant",
        (
            Thinking("hm", "sig"),
            RedactedThinking("x"),
            Text("a"),
            Refusal("b"),
            ToolCall("toolu_1", "f", '{"x": 1}'),
        ),
    )
    assert messages(turn, Message("assistant", (Thinking("hm"),))) == [
        {
            "role": "assistant",
            "content": "ab",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        }
    ]
    alone = messages(Message("assistant", (ToolCall("c", "f", "{}"),)))[0]
    assert alone["content"] is None


def test_reasoning_goes_back_to_who_wants_it() -> None:
    """A provider that wants its reasoning back gets it."""
    wants = target(Provider(name="deepseek", quirks=frozenset({"reasoning_content"})))
    turn = Message("assistant", (Thinking("hm", "sig"), ToolCall("c", "f", "{}")))
    assert messages(turn, to=wants)[0]["reasoning_content"] == "hm"


def test_mistrals_ids() -> None:
    """Call ids become nine letters or digits, the same in the call and in its result."""
    mistral = target(Provider(name="mistral", quirks=frozenset({"mistral"})))
    turns = (
        Message("assistant", (ToolCall("toolu_01ABC", "f", "{}"), ToolCall("abcDEF123", "g", "{}"))),
        Message("user", (ToolResult("toolu_01ABC", (Text("x"),)), ToolResult("abcDEF123", (Text("y"),)))),
    )
    said = messages(*turns, to=mistral)
    ids = [call["id"] for call in said[0]["tool_calls"]]
    assert ids[1] == "abcDEF123"
    assert len(ids[0]) == 9
    assert ids[0].isalnum()
    assert [message["tool_call_id"] for message in said[1:]] == ids


def test_tools_and_choice() -> None:
    """Tools and the choice among them are said, and a choice without tools is not."""
    tools = (Tool("f", Raw(b'{"type":"object"}'), "d", strict=False),)
    body = ask(tools=tools, tool_choice=ToolChoice("named", "f"), parallel_tool_calls=False)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["parallel_tool_calls"] is False
    assert ask(tools=tools, tool_choice=ToolChoice("required"))["tool_choice"] == "required"
    assert "tool_choice" not in ask(tool_choice=ToolChoice("auto"))


@pytest.mark.parametrize(
    ("reasoning", "effort"),
    [
        (Reasoning("disabled"), None),
        (Reasoning("adaptive"), None),
        (Reasoning("adaptive", "max"), "max"),
        (Reasoning("enabled"), "medium"),
        (Reasoning("enabled", "xhigh"), "xhigh"),
        (Reasoning("enabled", budget=1024), "low"),
        (Reasoning("enabled", budget=4096), "medium"),
        (Reasoning("enabled", budget=32000), "high"),
    ],
)
def test_reasoning_effort(reasoning: Reasoning, effort: str | None) -> None:
    """Words pass, budgets become words, and to be silent is to say nothing."""
    assert ask(reasoning=reasoning).get("reasoning_effort") == effort


def test_reasoning_for_a_model_without() -> None:
    """A model that is known not to reason refuses, or is asked without it where the deployment says so."""
    with pytest.raises(Unsupported):
        ask(reasoning=Reasoning(), to=target(flags=("supports_vision",)))
    assert "reasoning_effort" not in ask(reasoning=Reasoning(), to=target(flags=("x",), drop_params=True))
    assert (
        ask(reasoning=Reasoning(), to=target(flags=("supports_reasoning",)))["reasoning_effort"] == "medium"
    )


@pytest.mark.parametrize(
    ("turn", "fields"),
    [
        (Message("user", (Opaque("anthropic", "container_upload", Raw(b"{}")),)), {}),
        (Message("user", (Image(file_id="file_1"),)), {}),
        (Message("user", (Document(url="https://a.test/a.pdf"),)), {}),
        (Message("assistant", (Text("a"), Opaque("anthropic", "server_tool_use", Raw(b"{}")))), {}),
        (Message("user", (Text("a"),)), {"top_k": 5}),
        (Message("user", (Text("a"),)), {"unspoken": {"container": Raw(b'"c"')}}),
        (Message("user", (Text("a"),)), {"tools": (Opaque("anthropic", "web_search", Raw(b"{}")),)}),
    ],
)
def test_what_cannot_be_said(turn: Message, fields: dict[str, Any]) -> None:
    """What OpenAI has no word for is refused, or left out where the deployment allows it."""
    with pytest.raises(Unsupported) as caught:
        ask(turn, **fields)
    assert caught.value.param
    assert "drop_params" in caught.value.message
    assert ask(turn, to=target(drop_params=True), **fields)["model"] == "gpt-x"


def test_top_k_where_it_is_known() -> None:
    """A provider that takes `top_k` gets it."""
    assert ask(top_k=5, to=target(Provider(name="vllm", quirks=frozenset({"top_k"}))))["top_k"] == 5


def test_hints_are_dropped() -> None:
    """Fields that cannot change an answer are dropped without a word."""
    assert "metadata" not in ask(unspoken={"metadata": Raw(b"{}"), "service_tier": Raw(b'"auto"')})


def test_extra_is_merged() -> None:
    """The caller's own words for the provider are in the body, but cannot change where it goes."""
    body = ask(extra={"min_p": Raw(b"0.1"), "model": Raw(b'"other"'), "stream": Raw(b"true")})
    assert body["min_p"] == 0.1
    assert body["model"] == "gpt-x"
    assert "stream" not in body


@pytest.mark.parametrize(("usage", "asked"), [("ask", True), ("always", False), ("none", False)])
def test_usage_of_a_stream(usage: Any, asked: bool) -> None:
    """A stream's usage is asked for where that is needed."""
    body = ask(stream=True, to=target(Provider(name="p", usage=usage)))
    assert body["stream"] is True
    assert (body.get("stream_options") == {"include_usage": True}) is asked


STRICT = Provider(
    name="strict",
    rejects=("user", "logit_bias", "store"),
    rename={"max_completion_tokens": "max_tokens", "seed": "random_seed"},
)


def test_the_rows_words() -> None:
    """What the row renames is renamed, a hint that it rejects is dropped, another field is refused."""
    body = ask(to=target(STRICT), user="u", max_tokens=5, seed=1)
    assert (body["max_tokens"], body["random_seed"]) == (5, 1)
    assert not body.keys() & {"user", "max_completion_tokens", "seed"}
    with pytest.raises(Unsupported) as caught:
        ask(to=target(STRICT), logit_bias=Raw(b"{}"))
    assert caught.value.param == "logit_bias"
    assert "logit_bias" not in ask(to=target(STRICT, drop_params=True), logit_bias=Raw(b"{}"))


def test_arguments_are_not_changed() -> None:
    """Writing the same request twice gives the same bytes."""
    request = ChatRequest(
        model="m", messages=(Message("user", (Text("hi"),)),), extra={"a": Raw(b"1")}, stream=True, user="u"
    )
    assert openai.write_request(request, target(STRICT)) == openai.write_request(request, target(STRICT))
    assert request.extra.keys() == {"a"}


# -- passed on -------------------------------------------------------------------------------------------------------

MESSAGES = (
    b'[ {"role":"user", "content":"\\u00e9 \xc3\xa9","model":"x","big":123456789012345678901234567890} ]'
)


def passed(
    body: bytes, to: Target | None = None, operation: Operation = "chat", *, stream: bool = False
) -> bytes:
    envelope = open_envelope(body)
    before = dict(envelope)
    out = openai.pass_request(envelope, to or target(), operation, stream=stream)
    assert dict(envelope) == before
    return out


def test_messages_keep_their_bytes() -> None:
    """Passing changes the model and keeps the messages and unknown fields byte for byte."""
    out = passed(b'{"model":"public","messages":' + MESSAGES + b',"made_up":{"a": 1.0}}')
    assert out == b'{"model":"gpt-x","messages":' + MESSAGES + b',"made_up":{"a": 1.0}}'


def test_stream_options_are_kept_and_usage_added() -> None:
    """Usage is asked for beside the client's other options."""
    body = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":false}}'
    out = json.loads(passed(body, stream=True))
    assert out["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert json.loads(passed(b'{"model":"m","stream":true}', stream=True))["stream_options"] == {
        "include_usage": True
    }


def test_stream_options_only_where_they_are_understood() -> None:
    """A provider that reports usage by itself, or an answer that is no stream, gets no stream options."""
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    quiet = target(Provider(name="p", usage="always"))
    assert "stream_options" not in json.loads(passed(body, quiet, stream=True))
    assert "stream_options" not in json.loads(passed(body))
    assert "stream_options" not in json.loads(passed(body, operation="embeddings", stream=True))


def test_bad_stream_options() -> None:
    """Stream options that are no object are the client's mistake."""
    with pytest.raises(BadRequest) as caught:
        passed(b'{"model":"m","stream":true,"stream_options":5}', stream=True)
    assert caught.value.param == "stream_options"


def test_the_rows_words_when_passing() -> None:
    """Rejects and renames hold for what passes; a null is no use of a field."""
    out = json.loads(
        passed(b'{"model":"m","user":"u","logit_bias":null,"max_completion_tokens":5}', target(STRICT))
    )
    assert out == {"model": "gpt-x", "max_tokens": 5}
    with pytest.raises(Unsupported):
        passed(b'{"model":"m","logit_bias":{"1":2}}', target(STRICT))
    assert json.loads(passed(b'{"logit_bias":{}}', target(STRICT, drop_params=True))) == {"model": "gpt-x"}


# -- where it goes ---------------------------------------------------------------------------------------------------


def test_address() -> None:
    """The path follows the base address; content type and the client's headers are there, no authorization is."""
    request = openai.address(target(), "chat", {"openai-beta": "x"}, stream=True)
    assert (request.method, request.url) == ("POST", "https://provider.test/v1/chat/completions")
    headers = dict(request.headers)
    assert headers == {"content-type": "application/json", "accept": "text/event-stream", "openai-beta": "x"}
    assert openai.address(target(), "embeddings", {}, stream=False).url.endswith("/v1/embeddings")


def test_address_with_options() -> None:
    """Model and options stand in the path, quoted."""
    azure = Provider(
        name="azure", paths={"chat": "/openai/deployments/{model}/chat/completions?api-version={api_version}"}
    )
    to = Target(
        provider=azure, model="a/b c", base_url="https://r.test", options={"api_version": "2025-02-01"}
    )
    url = openai.address(to, "chat", {}, stream=False).url
    assert url == "https://r.test/openai/deployments/a%2Fb%20c/chat/completions?api-version=2025-02-01"


def test_what_is_not_offered() -> None:
    """An operation that the provider does not offer is refused, and so is a path whose option is missing."""
    only_chat = Provider(name="p", paths={"chat": "/{zone}/chat"})
    with pytest.raises(Unsupported):
        openai.address(target(only_chat), "embeddings", {}, stream=False)
    with pytest.raises(Unsupported, match="zone"):
        openai.address(target(only_chat), "chat", {}, stream=False)
    with pytest.raises(Unsupported):
        openai.address(target(), "count_tokens", {}, stream=False)
