"""The dialects of OpenAI's format: what providers answer under its name is read as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import openai
from adapters.errors import (
    ContentPolicyViolation,
    ContextWindowExceeded,
    GatewayError,
    UpstreamAuth,
    UpstreamError,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.types import (
    ChatRequest,
    Choice,
    Delta,
    Failure,
    Finish,
    Message,
    Ping,
    Provider,
    RedactedDelta,
    Refusal,
    RefusalDelta,
    SignatureDelta,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
    UsageDelta,
)

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "openai"
REQUEST = ChatRequest(model="m", messages=(Message("user", (Text("?"),)),))
PLAIN = Provider(name="p")
TARGET = Target(provider=PLAIN, model="m", base_url="https://provider.test")


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **fields: Any
) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return (
        b"data: " + json.dumps({"id": "gen-1", "model": "x", "choices": [choice]} | fields).encode() + b"\n\n"
    )


def read(*events: bytes) -> list[Delta]:
    reader = openai.read_stream(REQUEST, TARGET)
    return reader.feed(b"".join(events)) + reader.close()


def said(deltas: list[Delta]) -> list[Any]:
    """Deltas as plain tuples, without the opening and without choice 0."""
    out: list[Any] = []
    for delta in deltas:
        match delta:
            case TextDelta() | ThinkingDelta() | RefusalDelta():
                out.append((type(delta).__name__, json.loads(bytes(delta.text))))
            case SignatureDelta():
                out.append(("SignatureDelta", json.loads(bytes(delta.signature))))
            case RedactedDelta():
                out.append(("RedactedDelta", json.loads(bytes(delta.data))))
            case ToolStart():
                out.append(("ToolStart", delta.index, delta.id, delta.name))
            case ToolDelta():
                out.append(("ToolDelta", delta.index, json.loads(bytes(delta.arguments))))
            case Finish():
                out.append(("Finish", delta.reason))
            case UsageDelta():
                out.append(("UsageDelta", delta.usage.total))
            case Failure():
                out.append(("Failure", type(delta.error).__name__))
            case Ping():
                out.append("Ping")
            case Start():
                continue
    return out


def failure(deltas: list[Delta]) -> GatewayError:
    assert isinstance(deltas[-1], Failure)
    assert isinstance(deltas[-1].error, GatewayError)
    return deltas[-1].error


# -- transcripts -----------------------------------------------------------------------------------------------------


def test_transcript_of_an_answer() -> None:
    """A whole answer is read with its text, finish and disjoint usage."""
    answer = openai.read_response((TRANSCRIPTS / "answer.json").read_bytes(), REQUEST, TARGET)
    assert (answer.id, answer.model) == ("chatcmpl-answer", "gpt-provider-2026")
    assert answer.choices == (Choice((Text("It rains."),), "stop"),)
    assert answer.usage == Usage(input=5, cache_read=12, cache_write=3, output=3, reasoning=5)


def test_transcript_of_a_stream() -> None:
    """A stream is a start, words, usage and a finish."""
    deltas = read((TRANSCRIPTS / "stream.sse").read_bytes())
    assert deltas[0] == Start("chatcmpl-stream", "gpt-provider-2026")
    assert said(deltas) == [
        ("TextDelta", "It"),
        ("TextDelta", ' "rains".'),
        ("UsageDelta", 24),
        ("Finish", "stop"),
    ]


def test_transcript_of_tool_calls() -> None:
    """Calls are opened once and filled by index; one without arguments gets the empty object."""
    assert said(read((TRANSCRIPTS / "tool_call.sse").read_bytes())) == [
        ("ToolStart", 0, "call_a", "weather"),
        ("ToolDelta", 0, '{"model":'),
        ("ToolDelta", 0, '"gpt-provider-2026"}'),
        ("ToolStart", 1, "call_b", "time"),
        ("ToolDelta", 1, "{}"),
        ("Finish", "tool_calls"),
    ]


def test_transcript_of_an_error_in_a_stream() -> None:
    """An error in a stream ends it; what follows is not read."""
    deltas = read((TRANSCRIPTS / "error_in_stream.sse").read_bytes())
    assert said(deltas) == [("TextDelta", "It"), ("Failure", "UpstreamError")]
    assert failure(deltas).message == "The server had an error"


def test_transcript_of_an_error() -> None:
    """An error before the stream keeps the provider's message, code and type."""
    error = openai.read_error(429, {"retry-after": "2"}, (TRANSCRIPTS / "error.json").read_bytes())
    assert isinstance(error, UpstreamRateLimited)
    assert (error.message, error.code, error.type) == (
        "Rate limit reached for requests",
        "rate_limit_exceeded",
        "requests",
    )
    assert error.retry_after == 2


# -- dialects of streams ---------------------------------------------------------------------------------------------

DONE = b"data: [DONE]\n\n"
STOP = chunk(finish="stop")


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},
        {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
def test_reasoning_by_every_name(delta: dict[str, Any]) -> None:
    """Reasoning is read under each of its names, once."""
    assert said(read(chunk(delta), STOP, DONE)) == [("ThinkingDelta", "hm"), ("Finish", "stop")]


def test_signatures_and_redacted_reasoning() -> None:
    """Signatures and encrypted blocks are read from where providers put them."""
    events = (
        chunk({"reasoning": "hm", "reasoning_details": [{"text": "hm", "signature": "s1"}]}),
        chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]}),
        chunk(
            {
                "content": [
                    {"type": "thinking", "thinking": [], "signature": "s2"},
                    {"type": "text", "text": "a"},
                ]
            }
        ),
    )
    assert said(read(*events, STOP, DONE)) == [
        ("ThinkingDelta", "hm"),
        ("SignatureDelta", "s1"),
        ("RedactedDelta", "xyz"),
        ("SignatureDelta", "s2"),
        ("TextDelta", "a"),
        ("Finish", "stop"),
    ]


def call(
    index: int | None = None, call_id: str | None = None, name: str | None = None, arguments: Any = None
) -> bytes:
    piece = {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return chunk({"tool_calls": [{key: value for key, value in piece.items() if value is not None}]})


CALLS = chunk(finish="tool_calls")


def test_call_indexes_from_one() -> None:
    """Calls are numbered by first appearance, whatever the provider counts."""
    assert said(read(call(1, "a", "f", "{}"), call(7, "b", "g", "{}"), CALLS, DONE)) == [
        ("ToolStart", 0, "a", "f"),
        ("ToolDelta", 0, "{}"),
        ("ToolStart", 1, "b", "g"),
        ("ToolDelta", 1, "{}"),
        ("Finish", "tool_calls"),
    ]


def test_a_stream_without_choices() -> None:
    """It is no answer, as a whole one without them is none."""
    filtered = b'data: {"id":"","choices":[],"prompt_filter_results":[]}\n\n'
    for events in ((DONE,), (filtered, DONE)):
        last = read(*events)[-1]
        assert isinstance(last, Failure)
        assert isinstance(last.error, UpstreamMalformed)


def test_calls_that_share_an_index() -> None:
    """A new id with a name under an index in use is a new call."""
    deltas = read(call(0, "a", "f", "{}"), call(0, "b", "g", '{"x":1}'), CALLS, DONE)
    assert [one for one in said(deltas) if one[0] == "ToolStart"] == [
        ("ToolStart", 0, "a", "f"),
        ("ToolStart", 1, "b", "g"),
    ]


def test_calls_without_index_or_id() -> None:
    """Calls without an index go by their order; one without an id gets one that is made from the answer's."""
    deltas = read(
        call(None, None, "f", '{"x"'), call(None, None, None, ":1}"), call(None, None, "g", "{}"), CALLS
    )
    assert said(deltas) == [
        ("ToolStart", 0, "call_gen-1_0_0", "f"),
        ("ToolDelta", 0, '{"x"'),
        ("ToolDelta", 0, ":1}"),
        ("ToolStart", 1, "call_gen-1_0_1", "g"),
        ("ToolDelta", 1, "{}"),
        ("Finish", "tool_calls"),
    ]


@pytest.mark.parametrize("call_id", [None, ""])
def test_whole_calls_without_id_that_share_an_index(call_id: str | None) -> None:
    """Google's endpoint has sent them: a name after whole arguments begins another call. A name that is repeated does not."""
    deltas = read(call(0, call_id, "f", '{"x":1}'), call(0, call_id, "g", "{}"), CALLS, DONE)
    assert said(deltas) == [
        ("ToolStart", 0, "call_gen-1_0_0", "f"),
        ("ToolDelta", 0, '{"x":1}'),
        ("ToolStart", 1, "call_gen-1_0_1", "g"),
        ("ToolDelta", 1, "{}"),
        ("Finish", "tool_calls"),
    ]
    pieces = (call(0, call_id, "f", piece) for piece in ('{"x":', '{"y":', "1}}"))
    assert said(read(*pieces, CALLS, DONE)) == [
        ("ToolStart", 0, "call_gen-1_0_0", "f"),
        ("ToolDelta", 0, '{"x":'),
        ("ToolDelta", 0, '{"y":'),
        ("ToolDelta", 0, "1}}"),
        ("Finish", "tool_calls"),
    ]
    with_id = (call(0, "a", "f", "{}"), call(0, call_id, "f", "{}"), CALLS, DONE)
    assert len([one for one in said(read(*with_id)) if one[0] == "ToolStart"]) == 1


def test_names_are_never_overwritten() -> None:
    """A later delta with an empty or repeated name and id goes on with the same call."""
    events = (call(0, "a", "f", ""), call(0, "", "", '{"x":'), call(0, "a", "f", "1}"), CALLS, DONE)
    assert said(read(*events)) == [
        ("ToolStart", 0, "a", "f"),
        ("ToolDelta", 0, '{"x":'),
        ("ToolDelta", 0, "1}"),
        ("Finish", "tool_calls"),
    ]


def test_a_name_that_comes_late() -> None:
    """A call is opened when its name is known; arguments wait for it."""
    assert said(read(call(0, "a", None, '{"x"'), call(0, None, "f", ":1}"), CALLS, DONE)) == [
        ("ToolStart", 0, "a", "f"),
        ("ToolDelta", 0, '{"x"'),
        ("ToolDelta", 0, ":1}"),
        ("Finish", "tool_calls"),
    ]


@pytest.mark.parametrize("arguments", ["", "null", None])
def test_no_arguments(arguments: Any) -> None:
    """No arguments in any spelling are the empty object, told before the finish."""
    deltas = read(call(0, "a", "f", arguments), STOP, DONE)
    assert said(deltas) == [("ToolStart", 0, "a", "f"), ("ToolDelta", 0, "{}"), ("Finish", "tool_calls")]


def test_arguments_as_an_object() -> None:
    """Arguments that come as an object become its text."""
    deltas = said(read(call(0, "a", "f", {"x": 1}), CALLS, DONE))
    assert json.loads(deltas[1][2]) == {"x": 1}


def test_interleaved_calls() -> None:
    """Arguments that arrive in turns go to the call of their index."""
    deltas = read(
        call(0, "a", "f"), call(1, "b", "g"), call(0, None, None, "1"), call(1, None, None, "2"), CALLS, DONE
    )
    assert [one for one in said(deltas) if one[0] == "ToolDelta"] == [
        ("ToolDelta", 0, "1"),
        ("ToolDelta", 1, "2"),
    ]


def test_legacy_function_call() -> None:
    """The older `function_call` is a call like another, an empty one is none."""
    events = (chunk({"function_call": {"name": "f", "arguments": "{}"}}), chunk(finish="function_call"), DONE)
    assert said(read(*events)) == [
        ("ToolStart", 0, "call_gen-1_0_0", "f"),
        ("ToolDelta", 0, "{}"),
        ("Finish", "tool_calls"),
    ]
    nothing = chunk({"content": "a", "function_call": {"name": "", "arguments": ""}})
    assert said(read(nothing, STOP, DONE)) == [("TextDelta", "a"), ("Finish", "stop")]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("sensitive", "content_filter"),
        ("SAFETY", "content_filter"),
        ("refusal", "refusal"),
    ],
)
def test_finish_words(word: str, reason: str) -> None:
    """Each vendor's word for the end is understood."""
    assert said(read(chunk({"content": "a"}), chunk(finish=word), DONE))[-1] == ("Finish", reason)


def test_no_finish_word_at_all() -> None:
    """A provider that never says why it ended, but ends with the terminator, has ended well."""
    assert said(read(chunk({"content": "a"}), chunk(finish=""), DONE)) == [
        ("TextDelta", "a"),
        ("Finish", "stop"),
    ]


def test_words_after_the_finish_word() -> None:
    """A finish reason that comes early and again is told once, at the end."""
    events = (
        chunk({"content": "a"}, "length"),
        chunk({"content": "b"}, "length"),
        chunk(finish="length"),
        DONE,
    )
    assert said(read(*events)) == [("TextDelta", "a"), ("TextDelta", "b"), ("Finish", "length")]


def test_azures_first_chunk() -> None:
    """A first chunk without id, model and choices is no start."""
    first = b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}\n\n'
    deltas = read(
        first, chunk({"content": "a"}), b'data: {"id":"gen-1","choices":[{"index":0}]}\n\n', STOP, DONE
    )
    assert deltas[0] == Start("gen-1", "x")
    assert said(deltas) == [("TextDelta", "a"), ("Finish", "stop")]


def test_several_choices() -> None:
    """Choices are told apart, and all of them end."""
    deltas = read(
        chunk({"content": "a"}),
        chunk({"content": "b"}, index=1),
        chunk(finish="length", index=1),
        chunk(finish="stop"),
        DONE,
    )
    assert [(type(delta).__name__, getattr(delta, "choice", None)) for delta in deltas[1:]] == [
        ("TextDelta", 0),
        ("TextDelta", 1),
        ("Finish", 0),
        ("Finish", 1),
    ]


@pytest.mark.parametrize(
    "event",
    [
        chunk(usage={"prompt_tokens": 1, "completion_tokens": 2}),
        chunk(x_groq={"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        b'data: {"choices":[{"index":0,"delta":{},"usage":{"prompt_tokens":1,"completion_tokens":2}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
    ],
)
def test_usage_in_every_place(event: bytes) -> None:
    """Usage is found at the top, in Groq's field and in the first choice."""
    assert ("UsageDelta", 3) in said(read(chunk({"content": "a"}), STOP, event, DONE))


def test_no_usage_replaces_none() -> None:
    """An empty object says nothing, and does not replace what is known."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    deltas = said(read(chunk({"content": "a"}, usage=usage), STOP, chunk(usage={}), chunk(choices=[]), DONE))
    assert [one for one in deltas if one[0] == "UsageDelta"] == [("UsageDelta", 3)]
    assert answer({"content": "a"}) == Choice((Text("a"),), "stop")


def test_logprobs() -> None:
    """Log probabilities go with their words."""
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": []}}
    deltas = read(chunk(choices=[choice]), STOP, DONE)
    assert isinstance(deltas[1], TextDelta)
    assert json.loads(bytes(deltas[1].logprobs or b"")) == {"content": []}


def test_comments() -> None:
    """A comment after the start says that the provider is alive; before it, it says nothing."""
    deltas = read(b": hello\n\n", chunk({"content": "a"}), b": still here\n\n", STOP, DONE)
    assert said(deltas) == [("TextDelta", "a"), "Ping", ("Finish", "stop")]


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        (b'event: error\ndata: {"error":{"message":"m","status_code":429}}\n\n', UpstreamRateLimited, "m"),
        (b'event: error\ndata: {"message":"m","type":"overloaded_error"}\n\n', UpstreamOverloaded, "m"),
        (b'data: {"error":"m"}\n\n', UpstreamError, "m"),
        (b'data: {"error":{"message":"m","code":"context_length_exceeded"}}\n\n', ContextWindowExceeded, "m"),
        (b'error: {"detail":"d","error":{"message":"m"}}\n\n', UpstreamError, "m"),
        (b'data: {"id":"g","choices":[],"error":{"code":502,"message":"m"}}\n\n', UpstreamError, "m"),
        (b'data: {"choices":[],"x_groq":{"error":"m"}}\n\n', UpstreamError, "m"),
        (b"data: <html>\n\n", UpstreamMalformed, "cannot be read"),
        (b"data: [1]\n\n", UpstreamMalformed, "cannot be read"),
    ],
)
def test_errors_inside_of_a_stream(event: bytes, kind: type[UpstreamError], message: str) -> None:
    """An error in any shape ends the stream, and the words before it stand."""
    deltas = read(chunk({"content": "a"}), event, chunk({"content": "b"}), DONE)
    assert said(deltas)[0] == ("TextDelta", "a")
    assert len(said(deltas)) == 2
    error = failure(deltas)
    assert type(error) is kind
    assert message in error.message


def test_a_finish_that_is_an_error() -> None:
    """The finish reason `error` is a failure."""
    assert said(read(chunk({"content": "a"}), chunk(finish="error"), DONE))[-1] == (
        "Failure",
        "UpstreamError",
    )


def test_the_end_without_a_terminator() -> None:
    """A stream that simply ends is whole if every choice has said why, and broken if not."""
    assert said(read(chunk({"content": "a"}), STOP))[-1] == ("Finish", "stop")
    assert said(read(chunk({"content": "a"})))[-1] == ("Failure", "UpstreamMalformed")
    assert said(read(chunk({"content": "a"}), chunk({"content": "b"}, index=1), STOP))[-1][0] == "Failure"
    assert said(read()) == [("Failure", "UpstreamMalformed")]


def test_bad_text_is_mended() -> None:
    """Bytes that are no UTF-8 and lone surrogates become the replacement character, in valid JSON."""
    bad = b'data: {"id":"g","choices":[{"index":0,"delta":{"content":"a\xffb"}}]}\n\n'
    lone = b'data: {"id":"g","choices":[{"index":0,"delta":{"content":"c\\ud83dd"}}]}\n\n'
    deltas = read(bad, lone, STOP, DONE)
    texts = [bytes(delta.text).decode() for delta in deltas if isinstance(delta, TextDelta)]
    assert [json.loads(text)[0] + json.loads(text)[-1] for text in texts] == ["ab", "cd"]
    assert "\ufffd" in texts[0]


def test_words_that_stand_elsewhere_too() -> None:
    """What is in another field is not learned as the place of the words, whatever they are."""
    event = b'data: {"id":"%b","choices":[{"index":0,"delta":{"content":"?"}}]}\n\n'
    reader = openai.read_stream(REQUEST, TARGET)
    for _ in range(4):
        reader.feed(event % b"?")
    assert reader.words(event % b"other") == b""
    assert said(reader.feed(event % b"other")) == [("TextDelta", "?")]


@given(text=st.text())
def test_any_text_survives(text: str) -> None:
    """Whatever the words are, they are spliced without a change."""
    deltas = read(chunk({"content": text}), STOP, DONE)
    spoken = [json.loads(bytes(delta.text)) for delta in deltas if isinstance(delta, TextDelta)]
    assert "".join(spoken) == text.encode("utf-8", "replace").decode()


# -- whole answers ---------------------------------------------------------------------------------------------------


def answer(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> Choice:
    choice = {"index": 0, "message": message, "finish_reason": finish} | fields
    body = json.dumps({"id": "gen-1", "model": "x", "choices": [choice]}).encode()
    return openai.read_response(body, REQUEST, TARGET).choices[0]


def test_no_choices() -> None:
    """An error may hide there, in a shape of its own."""
    with pytest.raises(UpstreamMalformed, match="no choices"):
        openai.read_response(b'{"id":"a","choices":null}', REQUEST, TARGET)
    with pytest.raises(UpstreamRateLimited, match="Slow down"):
        openai.read_response(b'{"code":"rate_limit_exceeded","message":"Slow down"}', REQUEST, TARGET)


@pytest.mark.parametrize("arguments", [None, "{}"])
def test_a_call_without_a_name(arguments: str | None) -> None:
    """Calls are numbered as they are opened: one that has no name leaves no gap before the others."""
    nameless = {"id": "a", "function": {"arguments": arguments}}
    named = {"id": "b", "function": {"name": "g", "arguments": '{"x":1}'}}
    choice = answer({"tool_calls": [nameless, named]})
    assert choice.parts[0] == ToolCall("b", "g", '{"x":1}')
    assert choice.parts[1:] == (() if arguments is None else (ToolCall("a", "", "{}"),))
    deltas = read(call(0, "a", None, arguments), call(1, "b", "g", '{"x":1}'), CALLS, DONE)
    assert said(deltas)[0] == ("ToolStart", 0, "b", "g")


def test_all_parts_of_a_message() -> None:
    """Reasoning, text, refusal and calls of a whole message are read in order."""
    read_back = answer(
        {
            "content": "a",
            "reasoning_content": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "refusal": "no",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        logprobs={"content": []},
    )
    assert read_back.parts == (Thinking("hm", "s"), Text("a"), Refusal("no"), ToolCall("c", "f", '{"x": 1}'))
    assert read_back.finish == "tool_calls"
    assert bytes(read_back.logprobs or b"") == b'{"content": []}'


def test_several_signed_thoughts() -> None:
    """Each block of reasoning keeps its own signature, and what repeats them is not read twice."""
    blocks = [{"type": "thinking", "thinking": text, "signature": f"s{text}"} for text in "ab"]
    read_back = answer({"content": "x", "reasoning_content": "ab", "thinking_blocks": blocks})
    assert read_back.parts == (Thinking("a", "sa"), Thinking("b", "sb"), Text("x"))
    streamed = read(
        chunk({"reasoning_content": "a"}),
        chunk({"reasoning_content": "b"}),
        chunk({"thinking_blocks": blocks[:1]}),
    )
    assert said(streamed)[:-1] == [("ThinkingDelta", "a"), ("ThinkingDelta", "b"), ("SignatureDelta", "sa")]


def test_a_message_may_be_missing() -> None:
    """A filtered answer without a message is an answer without parts."""
    body = b'{"id":"g","model":"x","choices":[{"index":0,"finish_reason":"content_filter"}]}'
    assert openai.read_response(body, REQUEST, TARGET).choices == (Choice((), "content_filter"),)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>busy</html>", UpstreamMalformed),
        (b"[]", UpstreamMalformed),
        (b'{"choices":[]}', UpstreamMalformed),
        (b'{"error":{"message":"m","code":429}}', UpstreamRateLimited),
        (
            b'{"choices":[{"error":{"code":503,"message":"m"},"message":{"content":"half"}}]}',
            UpstreamOverloaded,
        ),
        (b'{"choices":[{"finish_reason":"error","message":{"content":""}}]}', UpstreamError),
    ],
)
def test_an_answer_that_is_none(body: bytes, kind: type[UpstreamError]) -> None:
    """A good status with an error in it, or with nothing, is an error."""
    with pytest.raises(UpstreamError) as caught:
        openai.read_response(body, REQUEST, TARGET)
    assert type(caught.value) is kind


# -- usage -----------------------------------------------------------------------------------------------------------

OUTSIDE = Provider(name="xai", quirks=frozenset({"reasoning_outside_completion"}))


@pytest.mark.parametrize(
    ("usage", "provider", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, PLAIN, Usage(input=5, output=3)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1},
            },
            PLAIN,
            Usage(input=3, cache_read=4, cache_write=1, audio_input=2, output=2, reasoning=3, audio_output=1),
        ),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 8,
                "total_tokens": 15,
                "prompt_tokens_details": {"cached_tokens": 161},
            },
            PLAIN,
            Usage(cache_read=7, output=8),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 10},
            },
            PLAIN,
            Usage(input=5, output=2, reasoning=10),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "completion_tokens_details": {"reasoning_tokens": 10},
            },
            OUTSIDE,
            Usage(input=5, output=2, reasoning=10),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 12,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 10},
            },
            OUTSIDE,
            Usage(input=5, output=2, reasoning=10),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": 30,
                "prompt_tokens_details": {"audio_tokens": 20},
            },
            PLAIN,
            Usage(input=9, audio_input=20, output=1),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 2},
            PLAIN,
            Usage(input=3, cache_read=2, output=1),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_cache_hit_tokens": 2},
            PLAIN,
            Usage(input=3, cache_read=2, output=1),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 1,
                "num_cached_tokens": 2,
                "prompt_tokens_details": None,
            },
            PLAIN,
            Usage(input=3, cache_read=2, output=1),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "reasoning_tokens": 3},
            PLAIN,
            Usage(input=5, output=1, reasoning=3),
        ),
        ({"total_tokens": 9}, PLAIN, Usage(input=9)),
        ({"prompt_tokens": None, "completion_tokens": -1, "total_tokens": "7"}, PLAIN, Usage()),
        ({"prompt_tokens": 5.0, "completion_tokens": True}, PLAIN, Usage(input=5, output=1)),
    ],
)
def test_usage_buckets(usage: dict[str, Any], provider: Provider, expected: Usage) -> None:
    """Each token is in exactly one bucket, whatever the provider includes where."""
    assert openai.read_usage(json.dumps(usage).encode(), provider) == expected


COUNTS = st.integers(0, 9) | st.none()
USAGES = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNTS,
        "completion_tokens": COUNTS,
        "total_tokens": COUNTS,
        "reasoning_tokens": COUNTS,
        "cached_tokens": COUNTS,
        "prompt_cache_hit_tokens": COUNTS,
        "cache_creation_input_tokens": COUNTS,
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("cached_tokens", "cache_write_tokens", "audio_tokens"), COUNTS)
        ),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("reasoning_tokens", "audio_tokens"), COUNTS)),
    },
)


@given(usage=USAGES, odd=st.sampled_from(["7", [7], -7, {"a": 7}]))
def test_usage_with_something_odd_in_it(usage: dict[str, Any], odd: Any) -> None:
    """What is no count is none, and does not change how the others are read."""
    for provider in (
        Provider(name="p"),
        Provider(name="p", quirks=frozenset({"reasoning_outside_completion"})),
    ):
        plain = openai.read_usage(json.dumps(usage).encode(), provider)
        assert openai.read_usage(json.dumps(usage | {"num_cached_tokens": odd}).encode(), provider) == plain


def test_a_prompt_that_is_null() -> None:
    """Is what is left of the total, as one that is absent."""
    usage = b'{"prompt_tokens":null,"completion_tokens":5,"total_tokens":15}'
    assert openai.read_usage(usage, PLAIN) == Usage(input=10, output=5)


@pytest.mark.parametrize("raw", [b"[]", b"5", b'"none"'])
def test_usage_that_is_none(raw: bytes) -> None:
    """A usage that is no object is no usage."""
    assert openai.read_usage(raw, PLAIN) is None


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            400,
            {"error": {"message": "m", "param": "stop", "code": "unsupported_parameter"}},
            UpstreamRefused,
            "m",
        ),
        (
            400,
            {"error": "Incorrect API key provided: xai-abcdefghijk", "code": "invalid"},
            UpstreamAuth,
            "credentials",
        ),
        (400, {"code": "invalid-argument", "error": "m"}, UpstreamRefused, "m"),
        (401, {"detail": "Invalid API Key"}, UpstreamAuth, "The provider refused the gateway's credentials"),
        (
            422,
            {"detail": [{"loc": ["body", "user"], "msg": "extra", "type": "x"}]},
            UpstreamRefused,
            "user: extra",
        ),
        (422, {"detail": {"message": "m"}}, UpstreamRefused, "m"),
        (
            429,
            {"object": "error", "message": "m", "type": "rate_limited", "code": "1300"},
            UpstreamRateLimited,
            "m",
        ),
        (
            429,
            {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "try later"}}},
            UpstreamRateLimited,
            "Provider returned error: try later",
        ),
        (
            400,
            {"error": {"message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            ContentPolicyViolation,
            "m",
        ),
        (
            400,
            [{"error": {"message": "m", "details": [{"reason": "API_KEY_INVALID"}]}}],
            UpstreamAuth,
            "credentials",
        ),
        (400, {"errors": ["one", "two"]}, UpstreamRefused, "one; two"),
        (400, {"title": "m", "status": 400}, UpstreamRefused, "m"),
        (500, {}, UpstreamError, "The provider answered with status 500"),
        (400, [], UpstreamRefused, "The provider answered with status 400"),
    ],
)
def test_shapes_of_errors(status: int, body: Any, kind: type[UpstreamError], message: str) -> None:
    """An error is understood in each shape that servers of this format send."""
    error = openai.read_error(status, {}, json.dumps(body).encode())
    assert type(error) is kind
    assert message in error.message


def test_errors_that_are_no_json() -> None:
    """Plain text is the message; a proxy's page is not shown."""
    assert openai.read_error(503, {}, b"upstream busy").message == "upstream busy"
    page = openai.read_error(502, {}, b"<!DOCTYPE html><html><body>Bad gateway</body></html>")
    assert page.message == "The provider answered with status 502"
    assert openai.read_error(500, {}, b"\xff\xfe").message


def test_the_place_of_a_validation_error() -> None:
    """A list of details names the field."""
    body = json.dumps({"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "bad"}]}).encode()
    assert openai.read_error(422, {}, body).param == "messages.0.role"
