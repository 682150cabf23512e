"""What Cohere really said, replayed: the adapter against a naive reading of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from adapters import CLIENTS, EMBEDDINGS, FORMATS, RERANK, cohere
from adapters.envelope import open_envelope
from adapters.errors import ContextWindowExceeded, UpstreamAuth, UpstreamError, UpstreamNotFound
from adapters.framing import SseCutter
from adapters.providers import PROVIDERS
from adapters.taps import Translation
from adapters.types import (
    ChatRequest,
    ChatResponse,
    EmbeddingsRequest,
    Reply,
    RerankRequest,
    Target,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from tests.adapters.folding import fold, read_at_once, read_in_pieces
from tests.recorded import Recording, recordings

ALL = list(recordings("cohere"))
CHATS = [each for each in ALL if each.kind == "chat"]
FAILED = [each for each in ALL if each.status >= 400]
WHOLE = [each for each in CHATS if each.status < 400 and not each.is_stream]
STREAMS = [each for each in CHATS if each.is_stream]
ASKED = [each for each in CHATS if each.request is not None and each.status != 400]
EMBEDDED = [each for each in ALL if each.kind == "embeddings" and each.status < 400]
RANKED = [each for each in ALL if each.kind == "rerank"]

TARGET = Target(provider=PROVIDERS["cohere"], model="command-other", base_url="https://example.com")
QUESTION = ChatRequest(model="any", messages=())

FINISH = {"COMPLETE": "stop", "TOOL_CALL": "tool_calls", "MAX_TOKENS": "length"}


def naive_usage(counts: dict[str, Any]) -> dict[str, int]:
    tokens = counts["tokens"]
    return {
        "prompt": tokens["input_tokens"] + tokens.get("image_tokens", 0),
        "cached": counts.get("cached_tokens", 0),
        "completion": tokens["output_tokens"],
        "reasoning": tokens.get("reasoning_tokens", 0),
    }


def our_usage(usage: Usage | None) -> dict[str, int]:
    assert usage is not None
    assert min(usage.input, usage.cache_read, usage.output, usage.reasoning) >= 0
    return {
        "prompt": usage.prompt,
        "cached": usage.cache_read,
        "completion": usage.completion,
        "reasoning": usage.reasoning,
    }


def naive_answer(body: dict[str, Any]) -> dict[str, Any]:
    message = body["message"]
    content = message.get("content") or []
    return {
        "id": body["id"],
        "text": "".join(part.get("text", "") for part in content),
        "thinking": "".join(part.get("thinking", "") for part in content) + message.get("tool_plan", ""),
        "tools": [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
            for call in message.get("tool_calls") or []
        ],
        "finish": FINISH[body["finish_reason"]],
        "usage": naive_usage(body["usage"]),
    }


def naive_stream(stream: bytes) -> dict[str, Any]:
    """The whole answer that the events make."""
    message: dict[str, Any] = {"content": [{"text": "", "thinking": ""}], "tool_plan": "", "tool_calls": []}
    body: dict[str, Any] = {"message": message}
    for line in stream.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        delta = event.get("delta", {})
        said = delta.get("message", {})
        if event["type"] == "message-start":
            body["id"] = event["id"]
        elif event["type"] in {"content-start", "content-delta"}:
            message["content"][0]["text"] += said["content"].get("text", "")
            message["content"][0]["thinking"] += said["content"].get("thinking", "")
        elif event["type"] == "tool-plan-delta":
            message["tool_plan"] += said["tool_plan"]
        elif event["type"] == "tool-call-start":
            message["tool_calls"].append(said["tool_calls"])
        elif event["type"] == "tool-call-delta":
            call = message["tool_calls"][event["index"]]["function"]
            call["arguments"] += said["tool_calls"]["function"]["arguments"]
        elif event["type"] == "message-end":
            body |= delta
    return naive_answer(body)


def told(answer: ChatResponse) -> dict[str, Any]:
    (choice,) = answer.choices
    return {
        "id": answer.id,
        "text": "".join(part.text for part in choice.parts if isinstance(part, Text)),
        "thinking": "".join(part.text for part in choice.parts if isinstance(part, Thinking)),
        "tools": [
            (part.id, part.name, json.loads(part.arguments))
            for part in choice.parts
            if isinstance(part, ToolCall)
        ],
        "finish": choice.finish,
        "usage": our_usage(answer.usage),
    }


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read(recording: Recording) -> None:
    """A stream says what a naive reading finds, at once and byte by byte."""
    at_once = read_at_once(SseCutter(), cohere.read_stream(QUESTION, TARGET), recording.response)
    assert told(fold(at_once)) == naive_stream(recording.response)
    one_by_one = read_in_pieces(SseCutter(), cohere.read_stream(QUESTION, TARGET), recording.response)
    assert one_by_one == at_once


@pytest.mark.parametrize("size", [1, 10_000_000])
@pytest.mark.parametrize("client", sorted(CLIENTS))
@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_reaches_clients(recording: Recording, client: str, size: int) -> None:
    """A client of either format gets the same words, thoughts and calls, the short way and the long."""
    body = recording.response
    writer = CLIENTS[client].write_stream(answer_id="abc", model="ours", now=0, wants_usage=True)
    tap = Translation(SseCutter(), cohere.read_stream(QUESTION, TARGET), writer)
    written = b"".join(tap.feed(body[at : at + size]) for at in range(0, len(body), size)) + tap.close()
    assert tap.done
    assert tap.failure is None
    again = fold(read_at_once(SseCutter(), FORMATS[client].read_stream(QUESTION, TARGET), written))
    assert told(again) | {"id": ""} == naive_stream(body) | {"id": ""}


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_words_take_the_short_way(recording: Recording) -> None:
    """Nearly every event of words is known at a glance; those with an escape by number are not."""
    first, *events = recording.response.split(b"\n\n")
    reader = cohere.read_stream(QUESTION, TARGET)
    reader.feed(first + b"\n\n")
    short = sum(bool(reader.words(event + b"\n\n")) for event in events)
    assert short >= 0.9 * recording.response.count(b'{"content":{"text":"')


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_read(recording: Recording) -> None:
    """A whole answer says what a naive reading finds; citations are kept as they are."""
    answer = cohere.read_response(recording.response, QUESTION, TARGET)
    body = json.loads(recording.response)
    assert told(answer) == naive_answer(body)
    citations = [
        json.loads(bytes(part.citations))
        for part in answer.choices[0].parts
        if isinstance(part, Text) and part.citations is not None
    ]
    assert citations == ([body["message"]["citations"]] if "citations" in body["message"] else [])


EXPECTED: dict[str, type[UpstreamError]] = {
    "cohere/chat-err400-13c11": ContextWindowExceeded,
    "cohere/chat-err401-dbb75": UpstreamAuth,
    "cohere/embeddings-err404-29cc2": UpstreamNotFound,
}


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_is_classified(recording: Recording) -> None:
    """Each recorded refusal is the error that it means."""
    error = cohere.read_error(recording.status, {}, recording.response)
    assert type(error) is EXPECTED[str(recording)]
    assert (error.message == json.loads(recording.response)["message"]) is (recording.status != 401)


def _joined(content: Any) -> Any:
    """One text as a part, as a list of parts or as a string is the same; no text is none."""
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    return content or None


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = [{**message, "content": _joined(message.get("content"))} for message in body["messages"]]
    for message in messages:
        message.pop("tool_plan", None)
    return messages


@pytest.mark.parametrize("recording", ASKED, ids=str)
def test_question_is_asked_again(recording: Recording) -> None:
    """A recorded question's messages and tools, asked by a client of OpenAI's format, come out the same."""
    body = json.loads(recording.request or b"")
    asked = {name: body[name] for name in ("messages", "tools", "stream", "temperature") if name in body}
    request = CLIENTS["openai"].read_request(open_envelope(json.dumps(asked | {"model": "ours"}).encode()))
    written = json.loads(cohere.write_request(request, TARGET))
    assert _messages(written) == _messages(body)
    assert written.get("tools") == body.get("tools")
    assert written.get("temperature") == body.get("temperature")


@pytest.mark.parametrize("recording", EMBEDDED, ids=str)
def test_embeddings(recording: Recording) -> None:
    """The recorded question is what we would ask, and its vectors are read as they are."""
    asked = json.loads(recording.request or b"")
    request = EmbeddingsRequest(model="any", input=tuple(asked["texts"]), input_type=asked["input_type"])
    (call,) = EMBEDDINGS["cohere"].write(request, TARGET)
    assert json.loads(call.body) == asked | {"model": TARGET.model}
    answer = EMBEDDINGS["cohere"].read([Reply({}, recording.response)], request, TARGET)
    body = json.loads(recording.response)
    vectors = [json.loads(bytes(each)) for each in answer.vectors if isinstance(each, Raw)]
    assert vectors == body["embeddings"]["float"]
    assert answer.usage is not None
    assert answer.usage.total == body["meta"]["billed_units"]["input_tokens"]


@pytest.mark.parametrize("recording", RANKED, ids=str)
def test_rerank(recording: Recording) -> None:
    """The recorded question is what we would ask, and results come in the order that Cohere gives."""
    asked = {name: value for name, value in json.loads(recording.request or b"").items() if value is not None}
    request = RerankRequest(
        model="any",
        query=asked["query"],
        documents=tuple(Raw(json.dumps(each).encode()) for each in asked["documents"]),
        top_n=asked.get("top_n"),
    )
    (call,) = RERANK["cohere"].write(request, TARGET)
    assert json.loads(call.body) == asked | {"model": TARGET.model}
    answer = RERANK["cohere"].read([Reply({}, recording.response)], request, TARGET)
    body = json.loads(recording.response)
    assert [(each.index, each.score) for each in answer.results] == [
        (each["index"], each["relevance_score"]) for each in body["results"]
    ]
    assert answer.usage is not None
    assert answer.usage.units.searches == body["meta"]["billed_units"]["search_units"]
