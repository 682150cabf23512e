"""Reading what Cohere answers: whole, in events, or an error. Part of `adapters.cohere`.

The tokens of the answer are counted, not the billed ones: cached tokens are inside the input, those of pictures outside,
reasoning is inside the output. A stream ends with `message-end`, and `[DONE]` after it. Citations come with a whole
answer, as Cohere's JSON in `Text.citations`; a stream's are skipped, as no client's stream has a place for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from adapters.base import StreamReader
from adapters.envelope import PLAIN_STRING, count_of, decode, is_utf8
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.framing import read_event, whole_events
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
from adapters.wire import cohere as wire

_ANSWER = msgspec.json.Decoder(wire.Answer)
_ERROR = msgspec.json.Decoder(wire.Error)
_KIND = msgspec.json.Decoder(wire.Kind)
_START = msgspec.json.Decoder(wire.Start)
_EVENT = msgspec.json.Decoder(wire.Event)
_TEXT = msgspec.json.Decoder(str)
_WORDS = re.compile(
    rb'event: content-delta\ndata: \{"type":"content-delta","index":\d+,'
    rb'"delta":\{"message":\{"content":\{"text":(%b)\}\}\}\}\n\n' % PLAIN_STRING
)
_NO_ARGUMENTS = Raw(b'"{}"')
_ABSENT_ARGUMENTS = Raw(b'"null"')

_FINISH: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop_sequence",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
_BROKEN = {"ERROR": 500, "TIMEOUT": 504}
"""Reasons that are none: the status that each would have been."""


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a whole answer."""
    answer = decode(body, _ANSWER)
    message = answer.message
    if isinstance(message, str):
        raise read_error(0, {}, body)
    if message is None:
        raise UpstreamMalformed("The provider sent an answer without a message")
    return ChatResponse(
        id=answer.id or "",
        model="",
        choices=(Choice(tuple(_read_parts(message)), read_finish(answer.finish_reason)),),
        usage=read_usage(answer.usage),
    )


def _read_parts(message: wire.Message) -> Iterable[Part]:
    content = message.content
    citations = wire.given(message.citations)
    for piece in [wire.Content(text=content)] if isinstance(content, str) else content or []:
        if piece.thinking:
            yield Thinking(piece.thinking)
        if piece.text:
            yield Text(piece.text, citations=citations)
            citations = None
    if message.tool_plan:
        yield Thinking(message.tool_plan)
    for call in message.tool_calls or []:
        yield ToolCall(call.id or "", call.function.name or "", _read_arguments(call.function.arguments))


def _read_arguments(raw: Raw) -> str:
    """A call's arguments; a tool without parameters may be called with the string `null`."""
    text = decode(raw, _TEXT) if bytes(raw).startswith(b'"') else bytes(raw).decode("utf-8", "replace")
    return "{}" if text.strip() in {"", "null"} else text


def read_finish(reason: str | None) -> FinishReason:
    """Why it ended; a reason that we do not know is an ordinary end. Raises the error that it may be."""
    if reason in _BROKEN:
        raise classify(_BROKEN[reason], message=f"The provider broke off: {reason}", headers={})
    return _FINISH.get(reason or "", "stop")


def read_usage(counts: wire.Usage | None) -> Usage | None:
    """Cohere's counts, each token in one bucket; billed units only where there are no others."""
    tokens = None if counts is None else counts.tokens or counts.billed_units
    if counts is None or tokens is None:
        return None
    sent, made = count_of(tokens.input_tokens), count_of(tokens.output_tokens)
    cached = min(count_of(counts.cached_tokens), sent)
    reasoning = min(count_of(tokens.reasoning_tokens), made)
    return Usage(
        input=sent - cached,
        cache_read=cached,
        image_input=count_of(tokens.image_tokens),
        output=made - reasoning,
        reasoning=reasoning,
    )


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer means: `{"id", "message"}`, sometimes with an `error_type`."""
    try:
        error = decode(body, _ERROR)
    except UpstreamMalformed:
        error = wire.Error(message=body.decode("utf-8", "replace"))
    return classify(status, message=error.message or "", type=error.error_type, headers=headers, body=body)


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
        raise UpstreamMalformed("The provider sent a delta that is no text")
    return raw if len(piece) > 2 else None


class _Reader:
    """Takes a stream apart."""

    __slots__ = ("_bare", "_broken", "_calls", "_finished", "_started", "_tools", "done")

    def __init__(self) -> None:
        self.done = False
        self._broken = False
        self._started = False
        self._finished = False
        self._calls = 0
        self._tools: dict[int, int] = {}  # Cohere's number of a call → ours
        self._bare: dict[int, int] = {}  # those of them that have no arguments yet

    def words(self, events: bytes) -> bytes:
        if self._started and not (self._finished or self._broken):
            found = _WORDS.fullmatch(events)
            if found is not None and is_utf8(found[1]):
                return found[1]
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if not events.isascii():
            events = events.decode("utf-8", "replace").encode()
        try:
            for event in whole_events(events):
                if self.done or self._broken:
                    break
                name, data = read_event(event)
                if data:
                    self._event(name, data, deltas)
        except UpstreamError as error:
            self._broken = True
            deltas.append(Failure(error))
        return deltas

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        if self._finished:  # all was said, only `[DONE]` was not
            self.done = True
            return []
        self._broken = True
        return [Failure(UpstreamMalformed("The provider's stream ended without `message-end`"))]

    def _event(self, name: bytes, data: bytes, deltas: list[Delta]) -> None:
        if data.strip() == b"[DONE]" and self._finished:
            self.done = True
            return
        if name == b"error":
            raise read_error(0, {}, data)
        head = decode(data, _KIND)
        if head.type is None and head.message != wire.NULL:
            raise read_error(0, {}, data)
        if head.type == "message-start":
            self._start(decode(data, _START).id or "", deltas)
        elif head.type in wire.EVENT_KINDS and not self._finished:
            self._start("", deltas)
            self._step(head.type, decode(data, _EVENT), deltas)

    def _start(self, answer_id: str, deltas: list[Delta]) -> None:
        if not self._started:
            self._started = True
            deltas.append(Start(answer_id))

    def _step(self, kind: str, event: wire.Event, deltas: list[Delta]) -> None:
        message = event.delta.message or wire.MessageDelta()
        if kind in {"content-start", "content-delta"}:
            piece = message.content or wire.Piece()
            if (thought := _string(piece.thinking)) is not None:
                deltas.append(ThinkingDelta(thought))
            if (text := _string(piece.text)) is not None:
                deltas.append(TextDelta(text))
        elif kind == "tool-plan-delta":
            if (plan := _string(message.tool_plan)) is not None:
                deltas.append(ThinkingDelta(plan))
        elif kind == "message-end":
            self._finish(event.delta, deltas)
        elif kind == "tool-call-end":
            self._fill([event.index], deltas)
        else:
            self._call(kind, event.index, message.tool_calls or wire.ToolCall(), deltas)

    def _call(self, kind: str, index: int, call: wire.ToolCall, deltas: list[Delta]) -> None:
        if kind == "tool-call-start":
            self._fill([index], deltas)
            self._tools[index] = self._bare[index] = self._calls
            deltas.append(ToolStart(self._calls, call.id or "", call.function.name or ""))
            self._calls += 1
        arguments = _string(call.function.arguments)
        tool = self._tools.get(index)
        if arguments is None or tool is None:
            return
        is_first = self._bare.pop(index, None) is not None
        deltas.append(
            ToolDelta(tool, _NO_ARGUMENTS if is_first and arguments == _ABSENT_ARGUMENTS else arguments)
        )

    def _fill(self, calls: Iterable[int], deltas: list[Delta]) -> None:
        """A call that ended without arguments has none: `{}`."""
        for index in calls:
            tool = self._bare.pop(index, None)
            if tool is not None:
                deltas.append(ToolDelta(tool, _NO_ARGUMENTS))

    def _finish(self, end: wire.Delta, deltas: list[Delta]) -> None:
        if end.error:
            raise classify(0, message=end.error, headers={})
        reason = read_finish(end.finish_reason)
        self._fill(list(self._bare), deltas)
        usage = read_usage(end.usage)
        if usage is not None:
            deltas.append(UsageDelta(usage))
        deltas.append(Finish(reason))
        self._finished = True
