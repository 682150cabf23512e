"""What Gemini really said, at AI Studio and on Vertex AI, replayed: the adapter against a naive reading of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from adapters import gemini
from adapters.errors import (
    UpstreamError,
    UpstreamNotFound,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
)
from adapters.framing import SseCutter
from adapters.types import (
    ChatRequest,
    Choice,
    Delta,
    Failure,
    Finish,
    Provider,
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
from tests.recorded import Recording, recordings

ALL = list(recordings("gemini", "vertex", kinds=("generateContent", "count_tokens")))
FAILED = [each for each in ALL if each.status >= 400]
GOOD = [each for each in ALL if each.status < 400 and each.kind == "generateContent"]
STREAMS = [each for each in GOOD if each.is_stream]
ARRAYS = [each for each in GOOD if each.response.lstrip().startswith(b"[")]
WHOLE = [each for each in GOOD if each not in STREAMS and each not in ARRAYS]

TARGET = Target(
    provider=Provider(name="gemini", format="gemini"), model="gemini-3-flash", base_url="https://example.com"
)
QUESTION = ChatRequest(model="any", messages=())

FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}


# -- a naive reading -------------------------------------------------------------------------------------------------


def events_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[5:]) for line in stream.decode().splitlines() if line.startswith("data:")]


def counted(counts: dict[str, Any]) -> dict[str, int]:
    """Google's numbers: all that went in, what of it was cached, what came out, what was thought, pictures and sound."""

    def of(field: str, modality: str) -> int:
        return sum(each["tokenCount"] for each in counts.get(field, []) if each["modality"] == modality)

    return {
        "prompt": counts.get("promptTokenCount", 0) + counts.get("toolUsePromptTokenCount", 0),
        "cached": counts.get("cachedContentTokenCount", 0),
        "output": counts.get("candidatesTokenCount", 0),
        "reasoning": counts.get("thoughtsTokenCount", 0),
        "image": of("promptTokensDetails", "IMAGE"),
        "audio": of("promptTokensDetails", "AUDIO"),
    }


def ours(usage: Usage | None) -> dict[str, int]:
    assert usage is not None
    return {
        "prompt": usage.prompt,
        "cached": usage.cache_read,
        "output": usage.completion - usage.reasoning,
        "reasoning": usage.reasoning,
        "image": usage.image_input,
        "audio": usage.audio_input,
    }


def naive(answers: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [
        part
        for answer in answers
        for candidate in answer.get("candidates", [])
        for part in candidate["content"].get("parts", [])
    ]
    calls = [part["functionCall"] for part in parts if part.get("functionCall", {}).get("name")]
    finish = [candidate.get("finishReason") for answer in answers for candidate in answer["candidates"]][-1]
    reason = FINISH[finish]
    return {
        "text": "".join(part.get("text", "") for part in parts if not part.get("thought")),
        "thinking": "".join(part.get("text", "") for part in parts if part.get("thought")),
        "tools": [call["name"] for call in calls],
        "arguments": [call["args"] for call in calls if "args" in call],
        "seals": [part.get("thoughtSignature") for part in parts if part.get("functionCall", {}).get("name")],
        "finish": "tool_calls" if reason == "stop" and calls else reason,
        "usage": counted(answers[-1]["usageMetadata"]),
        "total": answers[-1]["usageMetadata"]["totalTokenCount"],
    }


def string(raw: msgspec.Raw) -> str:
    value = json.loads(bytes(raw))
    assert isinstance(value, str)
    assert value
    return value


def told(deltas: list[Delta]) -> dict[str, Any]:
    """What deltas say, in the naive reading's shape."""
    assert not [each for each in deltas if isinstance(each, Failure)]
    starts = [each for each in deltas if isinstance(each, ToolStart)]
    pieces = [each for each in deltas if isinstance(each, ToolDelta)]
    assert [each.index for each in starts] == [each.index for each in pieces] == list(range(len(starts)))
    assert len({each.id for each in starts}) == len(starts)
    usage = [each.usage for each in deltas if isinstance(each, UsageDelta)][-1]
    (finish,) = [each.reason for each in deltas if isinstance(each, Finish)]
    return {
        "text": "".join(string(each.text) for each in deltas if isinstance(each, TextDelta)),
        "thinking": "".join(string(each.text) for each in deltas if isinstance(each, ThinkingDelta)),
        "tools": [each.name for each in starts],
        "arguments": [json.loads(string(each.arguments)) for each in pieces],
        "seals": [each.signature for each in starts],
        "finish": finish,
        "usage": ours(usage),
        "total": usage.total,
    }


def told_whole(choice: Choice, usage: Usage | None) -> dict[str, Any]:
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    assert len({call.id for call in calls}) == len(calls)
    return {
        "text": "".join(part.text for part in choice.parts if isinstance(part, Text)),
        "thinking": "".join(part.text for part in choice.parts if isinstance(part, Thinking)),
        "tools": [call.name for call in calls],
        "arguments": [json.loads(call.arguments) for call in calls],
        "seals": [call.signature for call in calls],
        "finish": choice.finish,
        "usage": ours(usage),
        "total": usage.total if usage else 0,
    }


# -- answers ---------------------------------------------------------------------------------------------------------


def read(stream: bytes) -> list[Delta]:
    reader = gemini.read_stream(QUESTION, TARGET)
    deltas = reader.feed(stream)
    done = [reader.done]
    deltas += reader.close()
    assert [*done, reader.done] == [False, True]  # the end of the bytes is the terminator
    return deltas


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read(recording: Recording) -> None:
    """Text, thinking, calls with their seals, usage and finish of a stream are what a naive reading finds."""
    expected, found = naive(events_of(recording.response)), told(read(recording.response))
    if "streamed-args" in str(recording):
        assert len(found["arguments"]) == len(found["tools"])
        found["arguments"] = []
    assert found == expected


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read_byte_by_byte(recording: Recording) -> None:
    """Bytes that come one at a time give the same deltas as the whole stream at once, with LF as with CR LF."""
    expected = read(recording.response)
    for body in (recording.response, recording.response.replace(b"\r\n", b"\n")):
        cutter, reader, one_by_one = SseCutter(), gemini.read_stream(QUESTION, TARGET), []
        for at in range(len(body)):
            if whole := cutter.feed(body[at : at + 1]):
                one_by_one += reader.feed(whole)
        assert cutter.flush() == b""
        assert one_by_one + reader.close() == expected


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_read(recording: Recording) -> None:
    """A whole answer says what a naive reading finds, and its id and model are the provider's."""
    body = json.loads(recording.response)
    answer = gemini.read_response(recording.response, QUESTION, TARGET)
    assert told_whole(answer.choices[0], answer.usage) == naive([body])
    assert (answer.id, answer.model) == (body["responseId"], body["modelVersion"])


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_a_stream_of_one_event(recording: Recording) -> None:
    """The same bytes as the one event of a stream say the same."""
    event = b"data: " + json.dumps(json.loads(recording.response)).encode() + b"\r\n\r\n"
    deltas = read(event)
    answer = gemini.read_response(recording.response, QUESTION, TARGET)
    assert told(deltas) == told_whole(answer.choices[0], answer.usage)
    assert deltas[0] == Start(answer.id, answer.model)


@pytest.mark.parametrize("recording", ARRAYS, ids=str)
def test_an_array_has_the_events_of_a_stream(recording: Recording) -> None:
    """What comes as an array of JSON without `alt=sse` are the same events."""
    events = json.loads(recording.response)
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert told(read(stream)) == naive(events)


def test_arguments_in_pieces() -> None:
    """Arguments that come by their paths are put together as the objects that they are."""
    for recording in STREAMS:
        if "streamed-args" not in str(recording):
            continue
        calls = told(read(recording.response))["arguments"]
        if recording.provider == "gemini":
            assert calls == [{"location": "Boston"}, {"location": "San Francisco"}]
        else:
            (call,) = calls
            assert call["recipe"]["ingredients"][0] == {"amount": "16 oz", "name": "Lasagna noodles"}
            assert all(each["name"] and each["amount"] for each in call["recipe"]["ingredients"])


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_is_classified(recording: Recording) -> None:
    """Each recorded refusal is the error that its status means; how long to wait stands in the body."""
    expected: dict[int, type[UpstreamError]] = {
        400: UpstreamRefused,
        404: UpstreamNotFound,
        429: UpstreamRateLimited,
        503: UpstreamOverloaded,
    }
    error = gemini.read_error(recording.status, {}, recording.response)
    assert type(error) is expected[recording.status]
    assert error.message == json.loads(recording.response)["error"]["message"]
    assert error.retry_after == (34.4 if recording.status == 429 else None)
