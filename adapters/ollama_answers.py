"""Reading what Ollama answers: whole, in lines, or an error. Part of `adapters.ollama`.

A line of a stream is an answer with what is new in it, and the last one is `done`. Calls of tools come whole, and the
reason is `stop` with them too. Where a version gives a call no id, its id is made from what the line says, so that the same
bytes give the same id and another answer another one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from adapters.base import StreamReader
from adapters.envelope import PLAIN_STRING, count_of, decode, is_utf8
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Part,
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
from adapters.upstream_errors import classify
from adapters.wire import ollama as wire

_ANSWER = msgspec.json.Decoder(wire.Answer)
_ERROR = msgspec.json.Decoder(wire.Error)
_ERROR_OBJECT = msgspec.json.Decoder(wire.ErrorObject)
_TEXT = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_WORDS = re.compile(
    rb'\{(?:"(?:model|remote_model|remote_host|created_at)":"[^"\\\n]*",)+'
    rb'"message":\{"role":"assistant","content":(%b)\},"done":false\}\n' % PLAIN_STRING
)


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a whole answer."""
    answer = decode(body, _ANSWER)
    if answer.error != wire.NULL:
        raise read_error(0, {}, body)
    message = answer.message
    if message is None:
        raise UpstreamMalformed("The provider sent an answer without a message")
    calls = list(_read_calls(body, message))
    parts: list[Part] = []
    if (thoughts := _string(message.thinking)) is not None:
        parts.append(Thinking(decode(thoughts, _TEXT)))
    if (text := _string(message.content)) is not None:
        parts.append(Text(decode(text, _TEXT)))
    finish = read_finish(answer.done_reason, has_calls=bool(calls))
    choice = Choice((*parts, *calls), finish, logprobs=_read_logprobs(answer.logprobs))
    return ChatResponse("", answer.model or "", (choice,), read_usage(answer))


def _read_calls(source: bytes, message: wire.Message) -> Iterator[ToolCall]:
    """The calls of one answer or line; `source` is its bytes."""
    for at, call in enumerate(message.tool_calls or []):
        ident = call.id or f"call_{hashlib.sha256(b'%d %b' % (at, source)).hexdigest()[:16]}"
        yield ToolCall(ident, call.function.name or "", _read_arguments(call.function.arguments))


def _read_arguments(raw: Raw) -> str:
    if raw == wire.NULL:
        return "{}"
    if bytes(raw).startswith(b'"'):
        return decode(raw, _TEXT) or "{}"
    return bytes(raw).decode("utf-8", "replace")


def _read_logprobs(raw: Raw) -> Raw | None:
    """Ollama's list is what OpenAI calls `content`."""
    return None if raw in (wire.NULL, Raw(b"[]")) else Raw(b'{"content":%b}' % bytes(raw))


def read_finish(reason: str | None, *, has_calls: bool) -> FinishReason:
    """Why it ended; what we do not know (`load`) is an ordinary end."""
    if reason == "length":
        return "length"
    return "tool_calls" if has_calls else "stop"


def read_usage(answer: wire.Answer) -> Usage | None:
    """Ollama's counts. A prompt that was cached as a whole is not counted by older versions: then it is zero."""
    if answer.prompt_eval_count is None and answer.eval_count is None:
        return None
    return Usage(input=count_of(answer.prompt_eval_count), output=count_of(answer.eval_count))


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer, or a line in a stream, means: `{"error": "…"}`."""
    try:
        said = decode(body, _ERROR)
        error = said.error
        message = decode(error, _TEXT) if bytes(error).startswith(b'"') else ""
        if bytes(error).startswith(b"{"):
            message = decode(error, _ERROR_OBJECT).message or ""
    except UpstreamMalformed:
        message = body.decode("utf-8", "replace")
    return classify(status, message=message, headers=headers, body=body)


# -- its stream --------------------------------------------------------------------------------------------------------


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer."""
    return _Reader()


def _string(raw: Raw) -> Raw | None:
    """A JSON string that says something, or None. Raises `UpstreamMalformed` for what is no string."""
    piece = bytes(raw)
    if piece[0] != 0x22:
        if piece == b"null":
            return None
        raise UpstreamMalformed("The provider sent a message that is no text")
    return raw if len(piece) > 2 else None


class _Reader:
    """Takes a stream of lines apart."""

    __slots__ = ("_broken", "_started", "_tools", "done")

    def __init__(self) -> None:
        self.done = False
        self._broken = False
        self._started = False
        self._tools = 0

    def words(self, events: bytes) -> bytes:
        if self._started and not (self.done or self._broken):
            found = _WORDS.fullmatch(events)
            if found is not None and is_utf8(found[1]):
                return found[1]
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if not events.isascii():
            events = events.decode("utf-8", "replace").encode()
        try:
            for line in events.splitlines():
                if self.done or self._broken:
                    break
                if line.strip():
                    self._line(line, deltas)
        except UpstreamError as error:
            self._broken = True
            deltas.append(Failure(error))
        return deltas

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        self._broken = True
        return [Failure(UpstreamMalformed("The provider's stream ended before the answer was done"))]

    def _line(self, line: bytes, deltas: list[Delta]) -> None:
        answer = decode(line, _ANSWER)
        if answer.error != wire.NULL:
            raise read_error(0, {}, line)
        if not self._started and (answer.message is not None or answer.done):
            self._started = True
            deltas.append(Start("", answer.model or ""))
        if answer.message is not None:
            self._message(line, answer.message, _read_logprobs(answer.logprobs), deltas)
        if answer.done:
            self.done = True
            usage = read_usage(answer)
            if usage is not None:
                deltas.append(UsageDelta(usage))
            deltas.append(Finish(read_finish(answer.done_reason, has_calls=self._tools > 0)))

    def _message(self, line: bytes, message: wire.Message, logprobs: Raw | None, deltas: list[Delta]) -> None:
        if (thought := _string(message.thinking)) is not None:
            deltas.append(ThinkingDelta(thought))
        if (text := _string(message.content)) is not None:
            deltas.append(TextDelta(text, logprobs=logprobs))
        for call in _read_calls(line, message):
            deltas += (
                ToolStart(self._tools, call.id, call.name),
                ToolDelta(self._tools, Raw(_encode(call.arguments))),
            )
            self._tools += 1
