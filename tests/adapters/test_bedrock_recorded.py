"""What Bedrock really said, replayed: the adapters against a naive reading of the same bytes by Amazon's own library."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.eventstream import EventStreamBuffer

from adapters import bedrock, bedrock_invoke
from adapters.errors import UpstreamAuth, UpstreamMalformed, UpstreamRateLimited, UpstreamRefused
from adapters.providers import PROVIDERS
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Failure,
    RedactedThinking,
    Target,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from tests.adapters.folding import fold
from tests.adapters.frames import both_ways
from tests.recorded import Recording, recordings

ALL = list(recordings("bedrock"))
LEGACY = {"invoke-73248", "invoke-stream-7062f", "invoke-900d4"}
"""Claude's and a container's text completions, which nobody asks for any more."""
FAILED = [each for each in ALL if each.status >= 400]
CONVERSED = [each for each in ALL if each.kind == "converse" and each.status < 400]
WHOLE = [each for each in CONVERSED if not each.is_stream]
STREAMS = [each for each in CONVERSED if each.is_stream]
INVOKED = [each for each in ALL if each.kind == "invoke" and each.path.name not in LEGACY]
OLD = [each for each in ALL if each.path.name in LEGACY and "anthropic" in each.meta["model"]]
QUESTION = ChatRequest(model="any", messages=())
FINISH = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "max_tokens": "length",
}


def target(recording: Recording) -> Target:
    model = unquote(recording.meta["model"])
    return Target(provider=PROVIDERS["bedrock"], model=model, base_url="https://example.com")


def events_of(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    return [(each.headers[":event-type"], json.loads(each.payload)) for each in buffer]


def naive_usage(counts: dict[str, Any]) -> tuple[int, int, int, int]:
    read = counts.get("cacheReadInputTokens", counts.get("cacheReadInputTokenCount", 0))
    written = counts.get("cacheWriteInputTokens", counts.get("cacheWriteInputTokenCount", 0))
    assert counts.get("totalTokens", 0) in {
        0,
        counts["inputTokens"] + counts["outputTokens"] + read + written,
    }
    return counts["inputTokens"], read, written, counts["outputTokens"]


def our_usage(usage: Usage | None) -> tuple[int, int, int, int]:
    assert usage is not None
    return usage.input, usage.cache_read, usage.cache_write + usage.cache_write_1h, usage.output


def told(answer: ChatResponse) -> dict[str, Any]:
    parts = answer.choices[0].parts
    return {
        "text": "".join(part.text for part in parts if isinstance(part, Text)),
        "thinking": "".join(part.text for part in parts if isinstance(part, Thinking)),
        "signatures": [part.signature for part in parts if isinstance(part, Thinking) and part.signature],
        "redacted": [part.data for part in parts if isinstance(part, RedactedThinking)],
        "tools": [
            (part.id, part.name, json.loads(part.arguments)) for part in parts if isinstance(part, ToolCall)
        ],
        "finish": answer.choices[0].finish,
        "usage": our_usage(answer.usage),
    }


def naive_answer(body: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"text": "", "thinking": "", "signatures": [], "redacted": [], "tools": []}
    for block in body["output"]["message"]["content"]:
        said["text"] += block.get("text", "")
        reasoning = block.get("reasoningContent", {})
        text = reasoning.get("reasoningText", {})
        said["thinking"] += text.get("text", "")
        said["signatures"] += [text["signature"]] if "signature" in text else []
        if "redactedContent" in reasoning:
            said["redacted"].append(b64decode(reasoning["redactedContent"]).decode())
        if "toolUse" in block:
            tool = block["toolUse"]
            said["tools"].append((tool["toolUseId"], tool["name"], tool["input"]))
    return said | {"finish": FINISH[body["stopReason"]], "usage": naive_usage(body["usage"])}


def naive_stream(stream: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {"text": "", "thinking": "", "signatures": [], "redacted": []}
    tools: dict[int, list[str]] = {}
    for name, event in events_of(stream):
        delta = event.get("delta", {})
        reasoning = delta.get("reasoningContent", {})
        said["text"] += delta.get("text", "")
        said["thinking"] += reasoning.get("text", "")
        said["signatures"] += [reasoning["signature"]] if "signature" in reasoning else []
        if "redactedContent" in reasoning:
            said["redacted"].append(b64decode(reasoning["redactedContent"]).decode())
        if name == "contentBlockStart":
            tool = event["start"]["toolUse"]
            tools[event["contentBlockIndex"]] = [tool["toolUseId"], tool["name"], ""]
        if "toolUse" in delta:
            tools[event["contentBlockIndex"]][2] += delta["toolUse"]["input"]
        if name == "messageStop":
            said["finish"] = FINISH[event["stopReason"]]
        if name == "metadata":
            said["usage"] = naive_usage(event["usage"])
    said["tools"] = [
        (ident, name, json.loads(arguments or "{}")) for ident, name, arguments in tools.values()
    ]
    return said


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_read(recording: Recording) -> None:
    """Words, reasoning, calls, the end and the cost of a whole answer."""
    answer = bedrock.read_response(recording.response, QUESTION, target(recording))
    assert told(answer) == naive_answer(json.loads(recording.response))


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read(recording: Recording) -> None:
    """The same of a stream, at once and byte by byte."""
    where = target(recording)
    readers = bedrock.read_stream(QUESTION, where), bedrock.read_stream(QUESTION, where)
    deltas = both_ways(bedrock.cut, readers, recording.response)
    assert readers[0].done
    assert told(fold(deltas)) == naive_stream(recording.response)


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_that_breaks_off_is_a_failure(recording: Recording) -> None:
    """Without its last frame, and within it."""
    for missing in (1, len(recording.response) // 2):
        reader = bedrock.read_stream(QUESTION, target(recording))
        cutter = bedrock.cut()
        reader.feed(cutter.feed(recording.response[:-missing]))
        last = (reader.feed(cutter.flush()) + reader.close())[-1]
        assert isinstance(last, Failure)
        assert isinstance(last.error, UpstreamMalformed)


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_is_read(recording: Recording) -> None:
    """Credentials, a limit, a model that cannot do it."""
    error = bedrock.read_error(recording.status, recording.meta["response_headers"], recording.response)
    kinds = {403: UpstreamAuth, 429: UpstreamRateLimited, 400: UpstreamRefused}
    assert type(error) is kinds[recording.status]


# -- InvokeModel -------------------------------------------------------------------------------------------------------


def naive_invoked(recording: Recording) -> dict[str, Any]:
    """Text, names of calls, and tokens, whatever the vendor."""
    if recording.is_stream:
        bodies = [json.loads(b64decode(event["bytes"])) for _, event in events_of(recording.response)]
        metrics = bodies[-1]["amazon-bedrock-invocationMetrics"]
        counts: tuple[Any, Any] | None = metrics["inputTokenCount"], metrics["outputTokenCount"]
    else:
        bodies, counts = [json.loads(recording.response)], None
    text, names = "", []
    for body in bodies:
        if body.get("index") and body.get("type") is None:
            continue  # the second of two answers
        text += body.get("generation") or body.get("outputText") or body.get("text") or ""
        text += "".join(each["text"] for each in (*body.get("outputs", ()), *body.get("generations", ())))
        text += "".join(each.get("text", "") for each in body.get("content", ()))
        delta = body.get("delta", {}) or body.get("contentBlockDelta", {}).get("delta", {})
        text += delta.get("text", "")
        block = body.get("content_block", {})
        names += [block["name"]] if "name" in block else []
        blocks = body.get("output", {}).get("message", {}).get("content", ())
        text += "".join(each.get("text", "") for each in blocks)
        names += [each["toolUse"]["name"] for each in blocks if "toolUse" in each]
        usage = body.get("usage", {})
        if not recording.is_stream and usage:
            counts = (
                usage.get("inputTokens", usage.get("input_tokens")),
                usage.get("outputTokens", usage.get("output_tokens")),
            )
        if "prompt_token_count" in body and not recording.is_stream:
            counts = body["prompt_token_count"], body["generation_token_count"]
    return {"text": text, "names": names, "counts": counts}


@pytest.mark.parametrize("recording", INVOKED, ids=str)
def test_invoked_models_are_read(recording: Recording) -> None:
    """Claude, Nova, Llama, Mistral, Cohere, Titan in their own words, whole and in streams."""
    where = target(recording)
    if recording.is_stream:
        readers = bedrock_invoke.read_stream(QUESTION, where), bedrock_invoke.read_stream(QUESTION, where)
        answer = fold(both_ways(bedrock_invoke.cut, readers, recording.response))
        assert readers[0].done
    else:
        answer = bedrock_invoke.read_response(recording.response, QUESTION, where)
    naive = naive_invoked(recording)
    said = answer.choices[0].parts
    assert "".join(part.text for part in said if isinstance(part, Text)) == naive["text"]
    assert [part.name for part in said if isinstance(part, ToolCall)] == naive["names"]
    if naive["counts"] is None:  # they stand in headers only
        assert answer.usage is None
    elif (
        recording.path.name != "invoke-stream-toolresult-image-fda2b"
    ):  # there, Bedrock and Claude count differently
        assert answer.usage is not None
        assert (answer.usage.input, answer.usage.output) == naive["counts"]


@pytest.mark.parametrize("recording", OLD, ids=str)
def test_what_nobody_asks_for_is_malformed(recording: Recording) -> None:
    """Claude's text completions are not taken for empty messages."""
    if recording.is_stream:
        reader = bedrock_invoke.read_stream(QUESTION, target(recording))
        last = (reader.feed(recording.response) + reader.close())[-1]
        assert isinstance(last, Failure)
        assert isinstance(last.error, UpstreamMalformed)
    else:
        with pytest.raises(UpstreamMalformed):
            bedrock_invoke.read_response(recording.response, QUESTION, target(recording))
