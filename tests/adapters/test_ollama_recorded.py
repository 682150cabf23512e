"""What Ollama really said in its own words, replayed: the adapter against a naive reading of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters import CLIENTS, ollama
from adapters.envelope import open_envelope
from adapters.errors import ContextWindowExceeded
from adapters.framing import LineCutter
from adapters.providers import PROVIDERS
from adapters.types import ChatRequest, ChatResponse, Target, Text, Thinking, ToolCall
from tests.adapters.folding import fold, read_at_once, read_in_pieces
from tests.recorded import Recording, recordings

ALL = list(recordings("ollama", kinds=("chat",)))
NATIVE = [each for each in ALL if "/api/chat" in str(each.meta["url"])]
STREAMS = [each for each in NATIVE if each.response_kind == "ndjson"]
WHOLE = [each for each in NATIVE if each.response_kind == "json"]
FAILED = [each for each in ALL if each.status >= 400]

TARGET = Target(provider=PROVIDERS["ollama"], model="other", base_url="http://example.com")
QUESTION = ChatRequest(model="any", messages=())


def naive(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What a whole answer, or the lines of a stream, say."""
    calls = [call for line in lines for call in line["message"].get("tool_calls", [])]
    return {
        "model": lines[0]["model"],
        "text": "".join(line["message"]["content"] for line in lines),
        "thinking": "".join(line["message"].get("thinking", "") for line in lines),
        "tools": [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls],
        "finish": "tool_calls" if calls else lines[-1]["done_reason"],
        "usage": (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]),
    }


def told(answer: ChatResponse) -> dict[str, Any]:
    (choice,) = answer.choices
    assert answer.usage is not None
    return {
        "model": answer.model,
        "text": "".join(part.text for part in choice.parts if isinstance(part, Text)),
        "thinking": "".join(part.text for part in choice.parts if isinstance(part, Thinking)),
        "tools": [
            (part.id, part.name, json.loads(part.arguments))
            for part in choice.parts
            if isinstance(part, ToolCall)
        ],
        "finish": choice.finish,
        "usage": (answer.usage.prompt, answer.usage.completion),
    }


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_stream_is_read(recording: Recording) -> None:
    """A stream says what a naive reading finds, at once and byte by byte, and all its words take the short way."""
    lines = [json.loads(line) for line in recording.response.splitlines()]
    at_once = read_at_once(LineCutter(), ollama.read_stream(QUESTION, TARGET), recording.response)
    assert told(fold(at_once)) == naive(lines)
    one_by_one = read_in_pieces(LineCutter(), ollama.read_stream(QUESTION, TARGET), recording.response)
    assert one_by_one == at_once
    first, *others, _last = recording.response.splitlines(keepends=True)
    reader = ollama.read_stream(QUESTION, TARGET)
    reader.feed(first)
    assert all(reader.words(line) for line in others)


@pytest.mark.parametrize("recording", WHOLE, ids=str)
def test_answer_is_read(recording: Recording) -> None:
    """A whole answer says what a naive reading finds, and so does a stream of one line."""
    answer = ollama.read_response(recording.response, QUESTION, TARGET)
    assert told(answer) == naive([json.loads(recording.response)])
    line = recording.response.strip()
    assert fold(read_at_once(LineCutter(), ollama.read_stream(QUESTION, TARGET), line)) == answer


@pytest.mark.parametrize("recording", NATIVE, ids=str)
def test_question_is_asked_again(recording: Recording) -> None:
    """A recorded question, asked by a client of OpenAI's format, comes out the same."""
    body = json.loads(recording.request or b"")
    asked = {name: body[name] for name in ("messages", "tools", "stream") if name in body}
    asked |= body.get("options", {})
    request = CLIENTS["openai"].read_request(open_envelope(json.dumps(asked | {"model": "ours"}).encode()))
    written = json.loads(ollama.write_request(request, TARGET))
    expected = {name: value for name, value in body.items() if value not in (None, "", {}, [])}
    assert written == expected | {"model": "other", "stream": bool(body.get("stream"))}


@pytest.mark.parametrize("recording", FAILED, ids=str)
def test_error_is_classified(recording: Recording) -> None:
    """The error of its other format is understood here too."""
    error = ollama.read_error(recording.status, {}, recording.response)
    assert type(error) is ContextWindowExceeded
