"""A stream's deltas put together into the whole answer that they make: `fold(read_stream(…)) == read_response(…)`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from msgspec import Raw

from adapters.base import Cutter, StreamReader
from adapters.types import (
    ChatResponse,
    Choice,
    Delta,
    Finish,
    FinishReason,
    Part,
    Ping,
    RedactedDelta,
    RedactedThinking,
    SignatureDelta,
    Start,
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


def text_of(raw: Raw) -> str:
    """The string that a delta's JSON says; it is never empty."""
    value = json.loads(bytes(raw))
    assert isinstance(value, str)
    assert value
    return value


def fold(deltas: Iterable[Delta]) -> ChatResponse:
    """The answer that the deltas of one choice make. Reasoning and words in a row are one part each, calls keep their order."""
    parts: list[Part] = []
    calls: list[ToolCall] = []
    ident = model = ""
    usage: Usage | None = None
    finish: FinishReason | None = None
    for delta in deltas:
        last = parts[-1] if parts else None
        match delta:
            case Start():
                assert not parts
                assert not calls
                ident, model, usage = delta.id, delta.model, delta.usage
            case TextDelta():
                text = text_of(delta.text)
                if isinstance(last, Text):
                    parts[-1] = Text(last.text + text)
                else:
                    parts.append(Text(text))
            case ThinkingDelta():
                thought = text_of(delta.text)
                if isinstance(last, Thinking):
                    parts[-1] = Thinking(last.text + thought)
                else:
                    parts.append(Thinking(thought))
            case ToolStart():
                assert delta.index == len(calls)
                calls.append(ToolCall(delta.id, delta.name, ""))
            case ToolDelta():
                call = calls[delta.index]
                calls[delta.index] = ToolCall(call.id, call.name, call.arguments + text_of(delta.arguments))
            case UsageDelta():
                usage = delta.usage
            case Finish():
                assert finish is None
                finish = delta.reason
            case SignatureDelta():
                assert isinstance(last, Thinking)
                parts[-1] = Thinking(last.text, text_of(delta.signature))
            case RedactedDelta():
                parts.append(RedactedThinking(text_of(delta.data)))
            case Ping():
                continue
            case _:
                raise AssertionError(delta)
    assert finish is not None
    return ChatResponse(ident, model, (Choice((*parts, *calls), finish),), usage)


def read_at_once(cutter: Cutter, reader: StreamReader, body: bytes) -> list[Delta]:
    """All deltas of a stream that comes in one piece."""
    return reader.feed(cutter.feed(body) + cutter.flush()) + reader.close()


def read_in_pieces(cutter: Cutter, reader: StreamReader, body: bytes, size: int = 1) -> list[Delta]:
    """All deltas of a stream that comes in pieces; the short way (`words`) is tried first, as the gateway does."""
    deltas: list[Delta] = []
    for at in range(0, len(body), size):
        whole = cutter.feed(body[at : at + size])
        words = reader.words(whole)
        if words:
            deltas.append(TextDelta(Raw(words)))
        elif whole:
            deltas += reader.feed(whole)
    rest = cutter.flush()
    return deltas + (reader.feed(rest) if rest else []) + reader.close()
