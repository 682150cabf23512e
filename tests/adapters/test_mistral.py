"""Mistral's dialect: ids, thoughts in the content, fill-in-the-middle; translated, and passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from openai.types import Completion
from openai.types.chat import ChatCompletion

from adapters import mistral, openai
from adapters.errors import BadRequest, UpstreamAuth, UpstreamMalformed, UpstreamRateLimited
from adapters.framing import SseCutter
from adapters.openai_editor import ChatEditor
from adapters.providers import PROVIDERS
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Message,
    Operation,
    Target,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "mistral"
TARGET = Target(provider=PROVIDERS["mistral"], model="codestral-latest", base_url="https://api.mistral.ai/v1")
USAGE = Usage(input=4, cache_read=16, output=9)


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


# -- the question ----------------------------------------------------------------------------------------------------


def passed(messages: Any, operation: Operation = "chat", **fields: Any) -> dict[str, Any]:
    envelope = {
        name: Raw(json.dumps(value).encode()) for name, value in {"messages": messages, **fields}.items()
    }
    sent: dict[str, Any] = json.loads(openai.pass_request(envelope, TARGET, operation, stream=False))
    return sent


def test_messages_that_are_right_keep_their_bytes() -> None:
    """Nothing is written anew where nothing is wrong."""
    raw = Raw(
        b'[ {"role":"user", "content":"\\u0048i"}, {"role":"assistant","content":[],"tool_calls":'
        b'[{"id":"uNfcQGgtW","function":{"name":"f","arguments":"{}"}}]},'
        b' {"role":"tool","tool_call_id":"uNfcQGgtW","content":"1"} ]'
    )
    assert mistral.suit_messages(raw) is raw


def test_foreign_messages_are_put_right() -> None:
    """Ids, roles, thoughts and fields that come from other vendors' answers become Mistral's."""
    call = {"id": "call_abc123", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = passed(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "?", "name": "ann"},
            {
                "role": "assistant",
                "content": "Well.",
                "reasoning_content": "Hm.",
                "refusal": None,
                "annotations": [],
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": "call_abc123", "name": "f", "content": "1"},
            {"role": "user", "content": [{"type": "text", "text": "And?"}]},
        ]
    )["messages"]
    own = mistral.call_id("call_abc123")
    assert len(own) == 9
    assert own.isalnum()
    assert sent == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "text", "text": "Well."},
            ],
            "tool_calls": [call | {"id": own}],
        },
        {"role": "tool", "tool_call_id": own, "name": "f", "content": "1"},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        "x",
        [1],
        [{"role": "assistant", "reasoning_content": 5}],
        [{"role": "assistant", "reasoning_content": "x", "content": 5}],
        [{"role": "assistant", "tool_calls": 5}],
        [{"role": "tool", "tool_call_id": 5}],
    ],
)
def test_messages_that_nobody_understands(messages: Any) -> None:
    """What is of the wrong type is the client's mistake."""
    with pytest.raises(BadRequest) as raised:
        passed(messages)
    assert raised.value.param == "messages"


def test_messages_that_are_nested_too_deeply() -> None:
    """They are the client's mistake too."""
    deep = Raw(b'[{"role":"assistant","reasoning_content":' + b"[" * 5000 + b"]" * 5000 + b"}]")
    with pytest.raises(BadRequest):
        mistral.suit_messages(deep)


def test_a_translated_conversation() -> None:
    """Thoughts go back as chunks, a seed has Mistral's name, and nobody speaks right after a tool."""
    turns = (
        Message("user", (Text("?"),)),
        Message("assistant", (Thinking("Hm.", "foreign"), Text("Well."), ToolCall("toolu_1", "f", "{}"))),
        Message("user", (ToolResult("toolu_1", (Text("1"),)), Text("And?"))),
        Message("assistant", (Thinking("Hm."), ToolCall("toolu_2", "f", "{}"))),
        Message("user", (ToolResult("toolu_2", (Text("2"),)),)),
    )
    request = ChatRequest(model="m", messages=turns, seed=7, max_tokens=5, stream=True)
    sent = json.loads(openai.write_request(request, TARGET))
    assert (sent["random_seed"], sent["max_tokens"], sent["stream"]) == (7, 5, True)
    assert "stream_options" not in sent
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert [message["role"] for message in sent["messages"]] == [
        *("user", "assistant", "tool", "assistant", "user", "assistant", "tool")
    ]
    assert sent["messages"][1]["content"] == [thought, {"type": "text", "text": "Well."}]
    assert sent["messages"][5]["content"] == [thought]


def test_fill_in_the_middle() -> None:
    """Completions go to their own address, with a suffix; fields that Mistral refuses are named differently or gone."""
    assert (
        openai.address(TARGET, "completions", {}, stream=False).url
        == "https://api.mistral.ai/v1/fim/completions"
    )
    envelope = {
        name: Raw(json.dumps(value).encode())
        for name, value in {"prompt": "def f(", "suffix": "return a", "seed": 1, "user": "u"}.items()
    }
    sent = json.loads(openai.pass_request(envelope, TARGET, "completions", stream=True))
    assert sent == {
        "model": "codestral-latest",
        "prompt": "def f(",
        "suffix": "return a",
        "random_seed": 1,
    }


# -- the answer ------------------------------------------------------------------------------------------------------


def fed(body: bytes, operation: Operation = "chat", *, step: int = 0) -> tuple[bytes, ChatEditor]:
    cutter = SseCutter()
    editor = openai.pass_stream(TARGET, operation, model="ours", wants_usage=True)
    pieces = [body[at : at + step] for at in range(0, len(body), step)] if step else [body]
    out = [editor.feed(cutter.feed(piece)) for piece in pieces]
    return b"".join([*out, editor.feed(cutter.flush()), editor.close()]), editor


def chunks(body: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def read(body: bytes) -> ChatResponse:
    return openai.read_response(body, ChatRequest(model="m", messages=()), TARGET)


def test_transcript_of_an_answer() -> None:
    """Thoughts are thoughts, to whom the answer is translated and to whom it passes."""
    body = transcript("answer.json")
    answer = read(body)
    thoughts = (Thinking("Rain falls from clouds."), Text('It "rains".'))
    assert (answer.choices, answer.usage) == ((Choice(thoughts, "stop"),), USAGE)
    plain, usage, finish, answer_id = openai.pass_response(body, TARGET, "chat", model="ours")
    message = json.loads(plain)["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "tool_calls": None,
        "content": 'It "rains".',
        "reasoning_content": "Rain falls from clouds.",
    }
    assert (json.loads(plain)["model"], usage, finish, answer_id) == ("ours", USAGE, "stop", "0a1b2c3d")
    assert ChatCompletion.model_validate_json(plain).choices[0].message.content == 'It "rains".'


def test_transcript_of_a_stream() -> None:
    """The same on a stream, in whatever pieces it comes."""
    body = transcript("stream.sse")
    out, editor = fed(body)
    assert fed(body, step=1)[0] == out
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(out)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Rain falls from clouds."
    assert "".join(delta["content"] for delta in deltas) == 'It "rains".'
    assert {chunk["model"] for chunk in chunks(out)} == {"ours"}
    assert (editor.usage, editor.finish, editor.done, editor.failure) == (USAGE, "stop", True, None)
    assert out.endswith(b"data: [DONE]\n\n")


def test_transcript_of_a_tool_call() -> None:
    """A call that comes whole, with its end, passes as it is."""
    body = transcript("tool_call.sse")
    out, editor = fed(body)
    assert out == body.replace(b"magistral-medium-latest", b"ours")
    assert editor.finish == "tool_calls"


def test_transcript_without_a_terminator() -> None:
    """A stream that simply ends is a failure."""
    assert isinstance(fed(transcript("without_terminator.sse"))[1].failure, UpstreamMalformed)


def test_transcripts_of_errors() -> None:
    """Mistral's two shapes."""
    limited = openai.read_error(429, {}, transcript("error.json"))
    assert type(limited) is UpstreamRateLimited
    assert limited.message == "Rate limit exceeded"
    assert type(openai.read_error(401, {}, transcript("error_auth.json"))) is UpstreamAuth


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":[5]}}]}',
        b'{"choices":5,"x":{"content":[]}}',
        b'{"choices":[{"message":5}],"content":[]}',
        b'{"content":[',
    ],
)
def test_answers_that_cannot_be_put_right(body: bytes) -> None:
    """What cannot be read is the provider's mistake, whole or within a stream."""
    with pytest.raises(UpstreamMalformed):
        openai.pass_response(body, TARGET, "chat", model="ours")
    editor = openai.pass_stream(TARGET, "chat", model="ours", wants_usage=False)
    assert editor.feed(b"data: " + body + b"\n\n") == b""
    assert isinstance(editor.failure, UpstreamMalformed)


FILLED: dict[str, Any] = {
    "id": "fim-1",
    "object": "chat.completion",
    "created": 1,
    "model": "codestral-latest",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a, b):"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}


def test_what_was_filled_in() -> None:
    """It comes as a chat's answer and goes on as a text completion."""
    body, usage, finish, _ = openai.pass_response(
        json.dumps(FILLED).encode(), TARGET, "completions", model="ours"
    )
    assert json.loads(body) == FILLED | {
        "object": "text_completion",
        "model": "ours",
        "choices": [{"index": 0, "text": "a, b):", "logprobs": None, "finish_reason": "stop"}],
    }
    assert (usage, finish) == (Usage(input=5, output=3), "stop")
    assert Completion.model_validate_json(body).choices[0].text == "a, b):"


def test_what_is_filled_in_on_a_stream() -> None:
    """So does each chunk, however often its like was seen."""
    steps = [
        FILLED | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": end}]}
        for word, end in (("a", None), (", b", None), (")", None), (":", "stop"))
    ]
    body = b"".join(b"data: " + json.dumps(step).encode() + b"\n\n" for step in steps) + b"data: [DONE]\n\n"
    out, editor = fed(body, "completions")
    assert fed(body, "completions", step=1)[0] == out
    assert [chunk["choices"][0]["text"] for chunk in chunks(out)] == ["a", ", b", ")", ":"]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks(out)} == {("text_completion", "ours")}
    assert (editor.finish, editor.done) == ("stop", True)


# -- recordings ------------------------------------------------------------------------------------------------------

CHATS = [one for one in recordings("mistral", kinds=("chat",)) if one.status < 400]


@pytest.mark.parametrize("recording", CHATS, ids=str)
def test_recorded_answers_pass_as_openais(recording: Recording) -> None:
    """What passes on has strings for contents and says what a translation says."""
    if recording.response_kind == "json":
        body, usage, _, _ = openai.pass_response(recording.response, TARGET, "chat", model="ours")
        answers = [json.loads(body)]
        expected = read(recording.response)
        parts = expected.choices[0].parts
        texts = "".join(part.text for part in parts if isinstance(part, Text))
        thoughts = "".join(part.text for part in parts if isinstance(part, Thinking))
        assert usage == expected.usage
        assert answers[0]["choices"][0]["message"].get("reasoning_content", "") == thoughts
        assert (answers[0]["choices"][0]["message"]["content"] or "") == texts
        return
    out, editor = fed(recording.response)
    assert fed(recording.response[:20_000], step=1)[0] == fed(recording.response[:20_000])[0]
    assert editor.failure is None
    for chunk in chunks(out):
        for choice in chunk["choices"]:
            assert isinstance(choice["delta"].get("content"), (str, type(None)))


@pytest.mark.parametrize("recording", [one for one in CHATS if one.request], ids=str)
def test_recorded_questions_are_mistrals(recording: Recording) -> None:
    """What Mistral took is left as it is."""
    asked = json.loads(recording.request or b"{}")
    kept = Raw(json.dumps(asked["messages"]).encode())
    assert mistral.suit_messages(kept) is kept
