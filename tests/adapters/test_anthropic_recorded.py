"""What Anthropic really said, replayed: the adapter against a naive reading of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from adapters import anthropic
from adapters.anthropic_questions import DEFAULT_MAX_TOKENS
from adapters.envelope import open_envelope
from adapters.errors import (
    GatewayError,
    UpstreamAuth,
    UpstreamError,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.framing import SseCutter
from adapters.taps import Passthrough
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Delta,
    Failure,
    Finish,
    Opaque,
    Operation,
    Provider,
    RedactedThinking,
    SignatureDelta,
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
from tests.recorded import Recording, recordings

ALL = list(recordings("anthropic", kinds=("messages", "count_tokens")))
FAILED = [each for each in ALL if each.status >= 400]
WHOLE = [each for each in ALL if each.status < 400 and each.kind == "messages" and not each.is_stream]
BROKEN = [each for each in ALL if each.is_stream and b"event: error" in each.response]
STREAMS = [each for each in ALL if each.is_stream and each not in BROKEN]
COUNTED = [each for each in ALL if each.status < 400 and each.kind == "count_tokens"]
ASKED = [each for each in ALL if each.request is not None and each.status != 400]

TARGET = Target(
    provider=Provider(name="anthropic", format="anthropic"),
    model="claude-other",
    base_url="https://example.com",
)
QUESTION = ChatRequest(model="any", messages=())
PUBLIC = 'our "own" name'


# -- a naive reading -------------------------------------------------------------------------------------------------


def events_of(stream: bytes) -> list[dict[str, Any]]:
    lines = stream.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def naive_usage(counts: dict[str, Any]) -> dict[str, int]:
    """The vendor's numbers: all input, cached, written, written for an hour, all output, thinking."""
    cached, written = (
        counts.get("cache_read_input_tokens") or 0,
        counts.get("cache_creation_input_tokens") or 0,
    )
    return {
        "prompt": counts["input_tokens"] + cached + written,
        "cache_read": cached,
        "written": written,
        "hour": (counts.get("cache_creation") or {}).get("ephemeral_1h_input_tokens", 0),
        "completion": counts["output_tokens"],
        "reasoning": (counts.get("output_tokens_details") or {}).get("thinking_tokens", 0),
    }


def our_usage(usage: Usage | None) -> dict[str, int]:
    assert usage is not None
    return {
        "prompt": usage.prompt,
        "cache_read": usage.cache_read,
        "written": usage.cache_write + usage.cache_write_1h,
        "hour": usage.cache_write_1h,
        "completion": usage.completion,
        "reasoning": usage.reasoning,
    }


FINISH = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}


def naive_stream(stream: bytes) -> dict[str, Any]:
    text = thinking = signatures = ""
    arguments: dict[int, str] = {}
    tools: dict[int, tuple[str, str]] = {}
    counts: dict[str, Any] = {}
    stop = None
    for event in events_of(stream):
        delta = event.get("delta", {})
        text += delta.get("text", "")
        thinking += delta.get("thinking", "")
        signatures += delta.get("signature", "")
        block = event.get("content_block", {})
        if block.get("type") == "tool_use":
            tools[event["index"]] = (block["id"], block["name"])
        if event.get("index") in tools:
            arguments[event["index"]] = arguments.get(event["index"], "") + delta.get("partial_json", "")
        given = event.get("usage") or event.get("message", {}).get("usage") or {}
        counts |= {name: value for name, value in given.items() if value is not None}
        stop = delta.get("stop_reason") or stop
    return {
        "text": text,
        "thinking": thinking,
        "signatures": signatures,
        "tools": [(*tools[at], json.loads(arguments[at] or "{}")) for at in sorted(tools)],
        "usage": naive_usage(counts),
        "finish": FINISH[str(stop)],
    }


def told(deltas: list[Delta]) -> dict[str, Any]:
    """What deltas say, in the naive reading's shape."""
    assert not [each for each in deltas if isinstance(each, Failure)]
    starts = [each for each in deltas if isinstance(each, ToolStart)]
    assert [each.index for each in starts] == list(range(len(starts)))
    arguments = [
        "".join(string(each.arguments) for each in deltas if isinstance(each, ToolDelta) and each.index == at)
        for at in range(len(starts))
    ]
    finishes = [each.reason for each in deltas if isinstance(each, Finish)]
    assert len(finishes) == 1
    return {
        "text": "".join(string(each.text) for each in deltas if isinstance(each, TextDelta)),
        "thinking": "".join(string(each.text) for each in deltas if isinstance(each, ThinkingDelta)),
        "signatures": "".join(string(each.signature) for each in deltas if isinstance(each, SignatureDelta)),
        "tools": [(each.id, each.name, json.loads(arguments[at])) for at, each in enumerate(starts)],
        "usage": our_usage([each for each in deltas if isinstance(each, UsageDelta)][-1].usage),
        "finish": finishes[0],
    }


def string(raw: msgspec.Raw) -> str:
    value = json.loads(bytes(raw))
    assert isinstance(value, str)
    assert value
    return value


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read(recording: Recording) -> None:
    """Text, thinking, tool calls, usage and finish of a stream are what a naive reading finds."""
    reader = anthropic.read_stream(QUESTION, TARGET)
    deltas = reader.feed(recording.response)
    assert reader.done
    assert reader.close() == []
    assert told(deltas) == naive_stream(recording.response)


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read_byte_by_byte(recording: Recording) -> None:
    """Bytes that come one at a time give the same deltas as the whole stream at once."""
    at_once = anthropic.read_stream(QUESTION, TARGET).feed(recording.response)
    cutter, reader, one_by_one = SseCutter(), anthropic.read_stream(QUESTION, TARGET), []
    for at in range(len(recording.response)):
        if whole := cutter.feed(recording.response[at : at + 1]):
            one_by_one += reader.feed(whole)
    assert one_by_one == at_once


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_with_other_line_ends_is_read(recording: Recording) -> None:
    """CR LF instead of LF changes nothing."""
    with_cr = recording.response.replace(b"\n", b"\r\n")
    expected = anthropic.read_stream(QUESTION, TARGET).feed(recording.response)
    assert anthropic.read_stream(QUESTION, TARGET).feed(with_cr) == expected


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_survives_our_writer(recording: Recording) -> None:
    """What the reader makes of a stream, the writer makes into a stream that a naive reading finds the same in."""
    deltas = anthropic.read_stream(QUESTION, TARGET).feed(recording.response)
    writer = anthropic.write_stream(answer_id="abc", model=PUBLIC, now=0, wants_usage=True)
    written = writer.feed(deltas) + writer.close()
    assert naive_stream(written) == naive_stream(recording.response)
    assert events_of(written)[0]["message"]["model"] == PUBLIC


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_read(recording: Recording) -> None:
    """Parts, usage and finish of a whole answer are what a naive reading finds."""
    body = json.loads(recording.response)
    answer = anthropic.read_response(recording.response, QUESTION, TARGET)
    assert (answer.id, answer.model) == (body["id"], body["model"])
    assert our_usage(answer.usage) == naive_usage(body["usage"])
    choice = answer.choices[0]
    assert choice.finish == FINISH[body["stop_reason"]]
    assert choice.stop_sequence == body["stop_sequence"]
    assert len(choice.parts) == len(body["content"])
    for part, block in zip(choice.parts, body["content"], strict=True):
        if isinstance(part, Text):
            assert part.text == block["text"]
        elif isinstance(part, Thinking):
            assert (part.text, part.signature) == (block["thinking"], block["signature"])
        elif isinstance(part, RedactedThinking):
            assert part.data == block["data"]
        elif isinstance(part, ToolCall):
            assert (part.id, part.name) == (block["id"], block["name"])
            assert json.loads(part.arguments) == block["input"]
        else:
            assert isinstance(part, Opaque)
            assert json.loads(bytes(part.raw)) == block


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_survives_our_writer(recording: Recording) -> None:
    """A whole answer that is read and written again says the same."""
    answer = anthropic.read_response(recording.response, QUESTION, TARGET)
    again = anthropic.write_response(answer, answer_id=answer.id, model=answer.model, now=0)
    assert anthropic.read_response(again, QUESTION, TARGET) == answer


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_is_classified(recording: Recording) -> None:
    """Each recorded refusal is the error that its status means, and a bad key is never told to the caller."""
    error = anthropic.read_error(recording.status, {}, recording.response)
    expected: dict[int, type[UpstreamError]] = {
        400: UpstreamRefused,
        401: UpstreamAuth,
        404: UpstreamNotFound,
        429: UpstreamRateLimited,
        500: UpstreamError,
        529: UpstreamOverloaded,
    }
    assert type(error) is expected[recording.status]
    message = json.loads(recording.response)["error"]["message"]
    assert (error.message == message) is (recording.status != 401)


@pytest.mark.parametrize("recording", BROKEN, ids=str)
def test_error_in_a_stream_is_classified(recording: Recording) -> None:
    """An error as the first event of a 200 is the failure that it names."""
    reader = anthropic.read_stream(QUESTION, TARGET)
    (failure,) = reader.feed(recording.response)
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamOverloaded
    assert failure.error.provider_status == 529
    assert not reader.done
    assert reader.close() == []


# -- the same format on both sides -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_passing_stream_differs_in_the_model_only(recording: Recording) -> None:
    """A stream passes as the same bytes but for `message.model`, whether it comes at once or byte by byte."""
    body = recording.response
    model = events_of(body)[0]["message"]["model"]
    expected = body.replace(json.dumps(model).encode(), json.dumps(PUBLIC).encode(), 1)
    editor = anthropic.pass_stream(TARGET, "chat", model=PUBLIC, wants_usage=True)
    tap = Passthrough(SseCutter(), editor)
    assert b"".join(tap.feed(body[at : at + 1]) for at in range(len(body))) + tap.close() == expected
    at_once = anthropic.pass_stream(TARGET, "chat", model=PUBLIC, wants_usage=True)
    assert at_once.feed(body) + at_once.close() == expected
    assert tap.done
    assert tap.failure is None
    assert (tap.events, tap.deltas, tap.chars) == (at_once.events, at_once.deltas, at_once.chars)


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_passing_stream_is_accounted(recording: Recording) -> None:
    """What the editor knows of a stream is what a naive reading finds."""
    body = recording.response
    editor = anthropic.pass_stream(TARGET, "chat", model=PUBLIC, wants_usage=True)
    editor.feed(body)
    naive, events = naive_stream(body), events_of(body)
    assert our_usage(editor.usage) == naive["usage"]
    assert editor.finish == naive["finish"]
    assert editor.answer_id == events[0]["message"]["id"]
    assert editor.events == len([event for event in events if event["type"] != "ping"])
    words = sum(
        len(delta.get(name, ""))
        for delta in (event.get("delta", {}) for event in events)
        for name in ("text", "thinking", "partial_json")
    )
    assert words * 0.9 - 20 <= editor.chars <= words * 1.3 + 150


@pytest.mark.parametrize("recording", BROKEN, ids=str)
def test_passing_error_is_kept_back(recording: Recording) -> None:
    """An error event does not pass: it is the editor's failure."""
    editor = anthropic.pass_stream(TARGET, "chat", model=PUBLIC, wants_usage=True)
    assert editor.feed(recording.response) == b""
    assert isinstance(editor.failure, UpstreamOverloaded)


@pytest.mark.parametrize("recording", WHOLE + COUNTED, ids=str)
def test_passing_answer_differs_in_the_model_only(recording: Recording) -> None:
    """A whole answer passes as the same bytes but for the top-level `model`."""
    body, model = recording.response, json.loads(recording.response).get("model")
    operation: Operation = "count_tokens" if recording.kind == "count_tokens" else "chat"
    passed, usage, finish, ident = anthropic.pass_response(body, TARGET, operation, model=PUBLIC)
    parsed = json.loads(body)
    if operation == "count_tokens":
        assert (passed, usage, finish, ident) == (body, None, None, "")
        return
    at = body.index(b'"model"')
    assert passed == body[:at] + body[at:].replace(json.dumps(model).encode(), json.dumps(PUBLIC).encode(), 1)
    assert our_usage(usage) == naive_usage(parsed["usage"])
    assert (finish, ident) == (FINISH[parsed["stop_reason"]], parsed["id"])


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_with_status_200_is_raised(recording: Recording) -> None:
    """An error's body never passes as an answer, whatever its status."""
    with pytest.raises(GatewayError) as passing:
        anthropic.pass_response(recording.response, TARGET, "chat", model=PUBLIC)
    with pytest.raises(GatewayError) as reading:
        anthropic.read_response(recording.response, QUESTION, TARGET)
    assert type(passing.value) is type(reading.value)
    assert type(passing.value) is type(anthropic.read_error(recording.status, {}, recording.response))


@pytest.mark.parametrize("recording", ASKED, ids=str)
def test_passing_question_differs_in_the_model_only(recording: Recording) -> None:
    """Every value of a question but `model` passes as the same bytes, known to us or not."""
    assert recording.request is not None
    envelope = open_envelope(recording.request)
    operation: Operation = "count_tokens" if recording.kind == "count_tokens" else "chat"
    passed = open_envelope(anthropic.pass_request(envelope, TARGET, operation, stream=recording.is_stream))
    assert list(passed) == list(envelope)
    assert {name: bytes(value) for name, value in passed.items() if name != "model"} == {
        name: bytes(value) for name, value in envelope.items() if name != "model"
    }
    assert bytes(passed["model"]) == b'"claude-other"'


# -- questions -------------------------------------------------------------------------------------------------------


def plain(content: Any) -> Any:
    """Content with strings as text blocks and without what may be left out."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = []
    for block in content:
        bare = {
            name: value
            for name, value in block.items()
            if value is not None and (name, value) != ("is_error", False)
        }
        if bare["type"] == "tool_result":
            bare["content"] = plain(bare.get("content", []))
        blocks.append(bare)
    return blocks


def merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        content = plain(message["content"])
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += content
        else:
            turns.append({"role": message["role"], "content": content})
    return turns


@pytest.mark.parametrize("recording", ASKED, ids=str)
def test_question_survives_reading_and_writing(recording: Recording) -> None:
    """A question that is read and written again asks the same."""
    assert recording.request is not None
    asked = json.loads(recording.request)
    request = anthropic.read_request(open_envelope(recording.request))
    written = json.loads(anthropic.write_request(request, TARGET))
    assert merged(written["messages"]) == merged(asked["messages"])
    assert plain(written.get("system", [])) == plain(asked.get("system", []))
    for name in ("tool_choice", "stop_sequences", "metadata", "cache_control", "container", "stream"):
        assert written.get(name) == (asked.get(name) or None)
    assert written["max_tokens"] == asked.get("max_tokens", DEFAULT_MAX_TOKENS)
    known = {"name", "description", "input_schema", "cache_control"}
    for ours, theirs in zip(written.get("tools", []), asked.get("tools", []), strict=True):
        if "input_schema" in theirs:
            assert {name: ours.get(name) for name in known} == {name: theirs.get(name) for name in known}
        else:
            assert ours == theirs


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_one_choice(recording: Recording) -> None:
    """The format has one answer per question."""
    answer = anthropic.read_response(recording.response, QUESTION, TARGET)
    assert isinstance(answer, ChatResponse)
    assert len(answer.choices) == 1
