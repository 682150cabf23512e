"""A plain reader of both formats that knows no trick: what our translations are measured by.

It shares no code with the adapters. Where providers deviate it follows what was measured of them: cached tokens are inside
OpenAI's prompt and outside Anthropic's, reasoning is inside the completion but for xAI, cached tokens are never more than
the prompt (Azure's Grok says so), sound is outside Mistral's prompt, and the last usage on a stream counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

_NEUTRAL_FINISH = {
    "stop": "stop",
    "eos": "stop",
    "": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


@dataclass(frozen=True)
class Tokens:
    """What an answer cost; all zeros where it does not say."""

    prompt: int = 0
    completion: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass
class Said:
    """What an answer says, as its first choice. `calls` are (name, arguments); `ids` are theirs, as Anthropic allows."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    finish: str = "stop"
    tokens: Tokens = field(default_factory=Tokens)


# -- events ----------------------------------------------------------------------------------------------------------

_EVENT = re.compile(rb".+?(?:\r?\n){2,}|.+\Z", re.DOTALL)


def split(stream: bytes) -> list[bytes]:
    """Each event with the blank lines after it."""
    return _EVENT.findall(stream)


def data_of(event: bytes) -> Any:
    """The JSON of an event; None for a comment and for `[DONE]`."""
    lines = [line.partition(b":") for line in event.replace(b"\r\n", b"\n").split(b"\n")]
    text = b"\n".join(value.strip() for field, _, value in lines if field in {b"data", b"error"})
    return None if text in {b"", b"[DONE]"} else json.loads(text)


def name_of(event: bytes) -> str:
    """The event's name."""
    found = re.search(rb"^event: ?(.*?)\r?$", event, re.MULTILINE)
    return found[1].decode() if found else ""


def is_error(event: bytes) -> bool:
    """Does the provider break off with this event?"""
    if name_of(event) == "error" or event.startswith(b"error:"):
        return True
    data = data_of(event)
    if not isinstance(data, dict):
        return False
    choices = data.get("choices") or []
    return bool(data.get("error")) or any(choice.get("finish_reason") == "error" for choice in choices)


# -- OpenAI ----------------------------------------------------------------------------------------------------------


def openai_tokens(usage: dict[str, Any] | None, *, reasoning_is_outside: bool = False) -> Tokens:
    """Tokens of a `usage` object of OpenAI's format."""
    usage = usage or {}
    prompt_details = usage.get("prompt_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or {}
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    reasoning = completion_details.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0
    audio = prompt_details.get("audio_tokens") or 0
    if reasoning_is_outside:
        completion += reasoning
    if audio and usage.get("total_tokens") == prompt + completion + audio:
        prompt += audio
    cached = prompt_details.get("cached_tokens") or usage.get("cached_tokens") or 0
    cached = cached or usage.get("prompt_cache_hit_tokens") or 0
    written = prompt_details.get("cache_write_tokens") or usage.get("cache_creation_input_tokens") or 0
    return Tokens(prompt, completion, min(cached, prompt), written, min(reasoning, completion))


def read_openai(docs: list[dict[str, Any]], *, is_stream: bool, reasoning_is_outside: bool = False) -> Said:
    """A whole answer (one document) or the chunks of a stream."""
    said = Said()
    calls: dict[Any, list[str]] = {}
    usage = None
    finish = None
    for doc in docs:
        usage = doc.get("usage") or (doc.get("x_groq") or {}).get("usage") or usage
        for choice in doc.get("choices") or []:
            if choice.get("index"):
                continue
            finish = choice.get("finish_reason") or finish
            piece = choice.get("delta" if is_stream else "message") or {}
            _add(said, piece)
            for at, call in enumerate(piece.get("tool_calls") or []):
                key = at if call.get("index") is None else call["index"]
                found = calls.setdefault(key, ["", "", ""])
                found[0] = found[0] or call.get("id") or ""
                found[1] = found[1] or call["function"].get("name") or ""
                found[2] += call["function"].get("arguments") or ""
    for _, (ident, name, arguments) in sorted(calls.items()):
        said.calls.append((name, json.loads(arguments or "{}")))
        said.ids.append(re.sub(r"[^a-zA-Z0-9_-]", "_", ident))
    said.finish = _NEUTRAL_FINISH[finish or ""]
    said.tokens = openai_tokens(usage, reasoning_is_outside=reasoning_is_outside)
    return said


def _add(said: Said, piece: dict[str, Any]) -> None:
    content: Any = piece.get("content") or ""
    said.thinking += piece.get("reasoning_content") or piece.get("reasoning") or ""
    parts: list[dict[str, Any]] = (
        content if isinstance(content, list) else [{"type": "text", "text": content}]
    )
    for part in parts:
        said.text += part["text"] if part["type"] == "text" else ""
        said.thinking += "".join(thought["text"] for thought in part.get("thinking", []))
    said.text += piece.get("refusal") or ""


# -- Anthropic -------------------------------------------------------------------------------------------------------


def anthropic_tokens(usage: dict[str, Any] | None) -> Tokens:
    """Tokens of a `usage` object of Anthropic's format."""
    usage = {name: value for name, value in (usage or {}).items() if value is not None}
    read, written = usage.get("cache_read_input_tokens", 0), usage.get("cache_creation_input_tokens", 0)
    details = usage.get("output_tokens_details") or {}
    return Tokens(
        prompt=usage.get("input_tokens", 0) + read + written,
        completion=usage.get("output_tokens", 0),
        cache_read=read,
        cache_write=written,
        reasoning=details.get("thinking_tokens") or 0,
    )


def read_anthropic(message: dict[str, Any]) -> Said:
    """A whole answer."""
    said = Said(finish=_NEUTRAL_FINISH[message["stop_reason"]], tokens=anthropic_tokens(message["usage"]))
    for block in message["content"]:
        if block["type"] == "text":
            said.text += block["text"]
        elif block["type"] == "thinking":
            said.thinking += block["thinking"]
        elif block["type"] == "tool_use":
            said.calls.append((block["name"], block["input"]))
            said.ids.append(block["id"])
    return said


def assemble_anthropic(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer that a stream's events make."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    arguments: dict[int, str] = {}
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            message = dict(event["message"])
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            for name in ("text", "thinking", "signature"):
                if name in delta:
                    block[name] = block.get(name, "") + delta[name]
            arguments[event["index"]] = arguments.get(event["index"], "") + delta.get("partial_json", "")
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] |= {name: value for name, value in event["usage"].items() if value is not None}
    for index, text in arguments.items():
        if text:
            blocks[index]["input"] = json.loads(text)
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return message


# -- either ----------------------------------------------------------------------------------------------------------


def read(form: str, body: bytes, *, is_stream: bool, reasoning_is_outside: bool = False) -> Said:
    """What an answer in this format says."""
    docs = [data_of(event) for event in split(body)] if is_stream else [json.loads(body)]
    docs = [doc for doc in docs if doc is not None]
    if form == "openai":
        return read_openai(docs, is_stream=is_stream, reasoning_is_outside=reasoning_is_outside)
    return read_anthropic(assemble_anthropic(docs) if is_stream else docs[0])


def read_tokens(
    form: str, body: bytes, *, is_stream: bool, reasoning_is_outside: bool = False
) -> Tokens | None:
    """What an answer of any operation says that it cost, None if it does not."""
    docs = [data_of(event) for event in split(body)] if is_stream else [json.loads(body)]
    found: dict[str, Any] = {}
    for doc in docs:
        told = doc or {}
        usage = told.get("usage") or (told.get("x_groq") or {}).get("usage") or (told.get("message") or {})
        if form == "anthropic":
            usage = told.get("usage") or (told.get("message") or {}).get("usage") or {}
            found |= {name: value for name, value in usage.items() if value is not None}
        elif usage and "role" not in usage:
            found = usage
    if not found:
        return None
    if form == "anthropic":
        return anthropic_tokens(found)
    return openai_tokens(found, reasoning_is_outside=reasoning_is_outside)


# -- is a stream well-formed? ----------------------------------------------------------------------------------------

_KINDS_OF_DELTA = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "redacted_thinking": set[str](),
}


def check_anthropic_stream(stream: bytes) -> None:
    """`message_start` first, then blocks strictly one after the other, `message_delta`, `message_stop` last."""
    events = [(name_of(event), data_of(event)) for event in split(stream)]
    assert all(name == data["type"] for name, data in events)
    told = [data for name, data in events if name != "ping"]
    assert told[0]["type"] == "message_start"
    assert told[0]["message"]["content"] == []
    assert [data["type"] for data in told[-2:]] == ["message_delta", "message_stop"]
    assert told[-2]["delta"]["stop_reason"]
    blocks, block = 0, ""
    for data in told[1:-2]:
        if data["type"] == "content_block_start":
            assert not block
            assert data["index"] == blocks
            block = data["content_block"]["type"]
        else:
            assert block
            assert data["index"] == blocks
            if data["type"] == "content_block_stop":
                blocks, block = blocks + 1, ""
            else:
                assert data["type"] == "content_block_delta"
                assert data["delta"]["type"] in _KINDS_OF_DELTA[block]
    assert not block


def check_openai_stream(stream: bytes) -> None:
    """The role first, one finish and nothing of the choice after it, then the usage, `[DONE]` last."""
    events = split(stream)
    assert events[-1] == b"data: [DONE]\n\n"
    chunks = [data for event in events[:-1] if (data := data_of(event)) is not None]
    assert len({(data["id"], data["created"], data["model"], data["object"]) for data in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] >= 0
    choices = [data["choices"][0] for data in chunks[:-1]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [bool(choice["finish_reason"]) for choice in choices] == [False] * (len(choices) - 1) + [True]
    begun: list[int] = []
    for call in (call for choice in choices for call in choice["delta"].get("tool_calls", [])):
        if "id" in call:
            assert call["type"] == "function"
            assert call["function"]["name"]
            begun.append(call["index"])
        assert call["index"] in begun
    assert begun == list(range(len(begun)))


# -- is an error one? ------------------------------------------------------------------------------------------------


def check_error(body: bytes, form: str, *, says: str, besides: Collection[str] = ()) -> None:
    """The body is an error in this dialect; `says` are the provider's words, empty where they must not be told, and `besides` the
    further fields of Anthropic's own errors.
    """
    told = json.loads(body)
    error = told["error"]
    if form == "anthropic":
        assert told["type"] == "error"
        assert told["request_id"]
        assert error.keys() == {"type", "message", *besides}
    else:
        assert told.keys() == {"error"}
        assert error.keys() >= {"message", "type", "param", "code"}
        assert isinstance(error["code"], str)
    assert says in error["message"]
    assert "sk-" not in error["message"]
