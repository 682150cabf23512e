"""What Mistral's dialect of OpenAI's format has of its own: part of `adapters.openai`, for rows with the quirk `mistral`.

https://docs.mistral.ai/api: ids of tool calls are exactly nine letters or digits; thoughts stand in the content, which is
then a list of chunks, and go back the same way; no user may speak right after a tool; unknown fields are refused; and
`/completions` is fill-in-the-middle, which is answered like a chat. Where both sides speak OpenAI's format these functions
put questions and answers right, and leave the bytes alone where nothing is wrong with them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from adapters.envelope import decode
from adapters.errors import BadRequest
from adapters.wire import openai as wire
from adapters.wire.openai import given

_NINE = re.compile(r"[A-Za-z0-9]{9}")
_FIELDS = frozenset({"role", "content", "tool_calls", "prefix"})
_TOOL_FIELDS = frozenset({"role", "content", "tool_call_id", "name"})
_ASSISTANT, _TOOL, _USER, _SYSTEM, _DEVELOPER = (
    Raw(f'"{role}"'.encode()) for role in ("assistant", "tool", "user", "system", "developer")
)
_MESSAGES = msgspec.json.Decoder(list[dict[str, Raw]])
_CONTENT = msgspec.json.Decoder(str | list[Raw])
_TEXT = msgspec.json.Decoder(str)
_PIECES = msgspec.json.Decoder(list[wire.ReasoningPiece])
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode

_BETWEEN = {"role": "assistant", "content": "OK"}


# -- the question ----------------------------------------------------------------------------------------------------


def call_id(own: str) -> str:
    """The id of a tool call, or a digest of it if it is not nine letters or digits."""
    return own if _NINE.fullmatch(own) else hashlib.sha256(own.encode()).hexdigest()[:9]


def content_with(thoughts: Iterable[str], content: Any) -> list[Any]:
    """An assistant's content with the thoughts before it, as chunks."""
    chunks: list[Any] = [
        {"type": "thinking", "thinking": [{"type": "text", "text": text}]} for text in thoughts
    ]
    if isinstance(content, str):
        return [*chunks, {"type": "text", "text": content}] if content else chunks
    return [*chunks, *(content or ())]


def spaced(turns: Iterable[dict[str, Any]], tool: Any = "tool", user: Any = "user") -> list[dict[str, Any]]:
    """The turns, with the assistant's "OK" wherever the user speaks right after a tool. Roles are `tool` and `user`."""
    written: list[dict[str, Any]] = []
    for turn in turns:
        if written and written[-1].get("role") == tool and turn.get("role") == user:
            written.append(_BETWEEN)
        written.append(turn)
    return written


def suit_messages(messages: Raw) -> Raw:
    """A client's messages as Mistral takes them; the same bytes where nothing has to be changed. Raises `BadRequest`."""
    try:
        turns = _MESSAGES.decode(messages)
        suited = spaced(map(_suit, turns), _TOOL, _USER)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"Invalid value for 'messages': {error}", param="messages") from None
    return messages if suited == turns else Raw(_encode(suited))


def _suit(turn: dict[str, Raw]) -> dict[str, Any]:
    known = _TOOL_FIELDS if turn.get("role") == _TOOL else _FIELDS
    suited: dict[str, Any] = {name: value for name, value in turn.items() if name in known}
    if turn.get("role") == _DEVELOPER:
        suited["role"] = _SYSTEM
    if "tool_call_id" in suited:
        suited["tool_call_id"] = _suit_id(turn["tool_call_id"])
    calls = given(turn.get("tool_calls", wire.NOTHING))
    if calls is not None:
        before = _MESSAGES.decode(calls)
        after = [call | ({"id": _suit_id(call["id"])} if "id" in call else {}) for call in before]
        suited["tool_calls"] = calls if after == before else after
    thoughts = given(turn.get("reasoning_content", wire.NOTHING))
    if thoughts is not None and turn.get("role") == _ASSISTANT:
        content = given(turn.get("content", wire.NOTHING))
        said = None if content is None else _CONTENT.decode(content)
        suited["content"] = content_with([_TEXT.decode(thoughts)], said)
    return suited


def _suit_id(raw: Raw) -> Raw:
    own = _TEXT.decode(raw)
    return raw if _NINE.fullmatch(own) else Raw(_encode(call_id(own)))


# -- the answer ------------------------------------------------------------------------------------------------------


def plain_chat(data: bytes) -> bytes:
    """An answer, or a chunk of one, whose content is a string: thoughts go to `reasoning_content`. Raises
    `UpstreamMalformed`.
    """
    if b'"content":[' not in data and b'"content": [' not in data:
        return data
    answer = decode(data, _OBJECT)
    choices = [_plain_choice(choice) for choice in decode(answer.get("choices", b"[]"), _MESSAGES)]
    return _encode({**answer, "choices": choices})


def _plain_choice(choice: dict[str, Raw]) -> dict[str, Any]:
    places = [place for place in ("message", "delta") if place in choice]
    return {**choice, **{place: _plain_message(decode(choice[place], _OBJECT)) for place in places}}


def _plain_message(message: dict[str, Raw]) -> dict[str, Any]:
    content = message.get("content", wire.NOTHING)
    if bytes(content)[:1] != b"[":
        return message
    texts: list[str] = []
    thoughts: list[str] = []
    for piece in decode(content, _PIECES):
        texts += _strings(piece.text)
        thoughts += _strings(piece.thinking)
    reasoning = {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return {**message, "content": "".join(texts), **reasoning}


def _strings(raw: Raw) -> list[str]:
    """The words of a chunk: one string, or a list of texts."""
    if bytes(raw)[:1] == b'"':
        return [decode(raw, _TEXT)]
    if bytes(raw)[:1] == b"[":
        return [text for piece in decode(raw, _PIECES) for text in _strings(piece.text)]
    return []


def plain_completion(data: bytes) -> bytes:
    """What was filled in, or a chunk of it, as OpenAI's `text_completion`. Raises `UpstreamMalformed`."""
    answer = decode(data, _OBJECT)
    if "choices" not in answer:
        return data
    choices = []
    for choice in decode(answer["choices"], _MESSAGES):
        piece = decode(choice.get("message") or choice.get("delta") or b"{}", _OBJECT)
        choices.append(
            {
                "index": choice.get("index", 0),
                "text": "".join(_strings(piece.get("content", wire.NOTHING))),
                "logprobs": None,
                "finish_reason": choice.get("finish_reason"),
            }
        )
    return _encode({**answer, "object": "text_completion", "choices": choices})
