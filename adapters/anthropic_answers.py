"""Reading what Anthropic answers: whole, in events, or an error. Part of `adapters.anthropic`.

The cache is outside `input_tokens` and thinking inside `output_tokens`; on streams the counts are running totals, of
which each event may leave some out: the last that is given counts. Blocks are numbered through, so tool calls are
counted anew. An `error` event may come at any time, as the first event of a 200 too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from adapters.base import StreamReader
from adapters.envelope import PLAIN_STRING, count_of, decode, is_utf8
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.framing import NEVER, read_event, whole_events
from adapters.types import (
    NO_UNITS,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Opaque,
    Part,
    Ping,
    RedactedDelta,
    RedactedThinking,
    SignatureDelta,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Units,
    Usage,
    UsageDelta,
)
from adapters.upstream_errors import classify
from adapters.wire import anthropic as wire

S = TypeVar("S", bound=Struct)

_KIND = msgspec.json.Decoder(wire.Kind)
_EVENT = msgspec.json.Decoder(wire.Event)
_PIECE = msgspec.json.Decoder(wire.BlockDelta)
_ANSWER = msgspec.json.Decoder(wire.Answer)
_encode = msgspec.json.Encoder().encode
_LAST_STRING = re.compile(rb"(%b) *\} *\}\n\n" % PLAIN_STRING)
_NO_ARGUMENTS = Raw(b'"{}"')

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a Messages answer."""
    answer = decode(body, _ANSWER)
    if answer.type == "error" or answer.error is not None:
        raise error_in(body)
    if answer.content is None:
        raise UpstreamMalformed("The provider sent an answer without content")
    finish = read_finish(answer.stop_reason)
    return ChatResponse(
        id=answer.id or "",
        model=answer.model or "",
        choices=(
            Choice(
                tuple(_read_part(raw) for raw in answer.content),
                finish,
                answer.stop_sequence,
                detail=wire.given(answer.stop_details),
            ),
        ),
        usage=read_usage(answer.usage) if answer.usage else None,
    )


def _read_part(raw: Raw) -> Part:
    """A block of an answer; one that only Anthropic understands is carried as it is."""
    kind = decode(raw, _KIND).type or ""
    block = decode(raw, wire.BLOCKS[kind]) if kind in wire.ANSWER_BLOCKS else None
    if isinstance(block, wire.TextBlock):
        return Text(block.text, citations=wire.given(block.citations))
    if isinstance(block, wire.ThinkingBlock):
        return Thinking(block.thinking, block.signature)
    if isinstance(block, wire.RedactedThinkingBlock):
        return RedactedThinking(block.data)
    if isinstance(block, wire.ToolUseBlock):
        return ToolCall(block.id, block.name, wire.arguments_of(block))
    return Opaque(wire.NAME, kind, raw)


def read_finish(stop_reason: str | None) -> FinishReason:
    """Why it ended; a reason that we do not know is an ordinary end."""
    return _FINISH.get(stop_reason or "", "stop")


def read_usage(counts: wire.Usage) -> Usage:
    """Anthropic's counts, each token in one bucket. What was written to the cache is for five minutes unless said."""
    ages = counts.cache_creation or wire.CacheCreation()
    hour = count_of(ages.ephemeral_1h_input_tokens)
    written = counts.cache_creation_input_tokens
    written = hour + count_of(ages.ephemeral_5m_input_tokens) if written is None else count_of(written)
    hour = min(hour, written)
    output = count_of(counts.output_tokens)
    thinking = counts.output_tokens_details.thinking_tokens if counts.output_tokens_details else None
    reasoning = min(count_of(thinking), output)
    searches = count_of(counts.server_tool_use.web_search_requests) if counts.server_tool_use else 0
    return Usage(
        input=count_of(counts.input_tokens),
        cache_read=count_of(counts.cache_read_input_tokens),
        cache_write=written - hour,
        cache_write_1h=hour,
        output=output - reasoning,
        reasoning=reasoning,
        units=Units(searches=searches) if searches else NO_UNITS,
        tier="fast" if counts.speed == "fast" else _TIERS.get(counts.service_tier or "", ""),
    )


_TIERS = {"batch": "batch", "priority": "priority"}
"""Service tiers with prices of their own, https://docs.claude.com/en/api/service-tiers; `standard` is the ordinary one."""


def newer(known: S, given: S | None) -> S:
    """Running totals: what is given replaces what is known, what is left out stays.

    No total falls to zero: where a server says so at the end, it has told that count at the beginning.
    """
    if given is None:
        return known
    fields = msgspec.structs.asdict(given)
    for name, value in fields.items():
        before = getattr(known, name)
        if isinstance(value, Struct) and before is not None:
            fields[name] = newer(before, value)
        elif not value:
            fields[name] = before
    return msgspec.structs.replace(known, **fields)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer means. A 413 comes from a proxy in front of the API and is HTML."""
    try:
        answer = decode(body, _ANSWER)
    except UpstreamMalformed:
        answer = wire.Answer(message=body.decode("utf-8", "replace"))
    error = answer.error if isinstance(answer.error, wire.Error) else wire.Error()
    message = error.message or (answer.error if isinstance(answer.error, str) else answer.message) or ""
    return classify(status, message=message, type=error.type, headers=headers, body=body)


def error_in(body: bytes) -> UpstreamError:
    """The error that came with status 200, as an event or as a whole answer."""
    try:
        answer = decode(body, _ANSWER)
    except UpstreamMalformed as error:
        return error
    kind = (answer.error.type if isinstance(answer.error, wire.Error) else None) or ""
    return read_error(wire.STATUS_OF.get(kind, 500), {}, body)


# -- its stream --------------------------------------------------------------------------------------------------------


_DELTA_HEAD = b"event: content_block_delta\ndata: "
DELTA_AT = len(_DELTA_HEAD)


def is_one_delta(events: bytes) -> bool:
    """Is this one event, and a delta of a block? That is the usual case: providers write each event by itself."""
    return events.startswith(_DELTA_HEAD) and events.find(b"\n", DELTA_AT) == len(events) - 2


def open_event(name: bytes, data: bytes) -> wire.Event | None:
    """One event; None for what is none of ours. Raises the error that it is, or `UpstreamMalformed`."""
    if name == b"error":
        raise error_in(data)
    try:
        event = decode(data, _EVENT)
    except UpstreamMalformed:
        kind = kind_of(data)
        if kind is None or kind in wire.EVENT_KINDS:
            raise
        return None
    if event.type == "error" or (not event.type and event.error != wire.NULL):
        raise error_in(data)
    return event


def kind_of(data: bytes) -> str | None:
    """The `type` of a JSON object, None if there is none or it is no object."""
    try:
        return decode(data, _KIND).type
    except UpstreamMalformed:
        return None


def _string(raw: Raw) -> Raw | None:
    """A JSON string that says something, or None. Raises `UpstreamMalformed` for what is no string."""
    piece = bytes(raw)
    if piece[0] != 0x22:
        if piece == b"null":
            return None
        raise UpstreamMalformed("The provider sent a delta that is no text")
    return raw if len(piece) > 2 else None


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer."""
    return reader()


def reader() -> StreamReader:
    """The same, whatever was asked."""
    return _Reader()


class _Reader:
    """Takes a stream of blocks apart."""

    __slots__ = (
        "_at",
        "_bare",
        "_broken",
        "_calls",
        "_finished",
        "_head",
        "_started",
        "_tools",
        "_usage",
        "done",
    )

    def __init__(self) -> None:
        self.done = False
        self._broken = False
        self._started = False
        self._finished = False
        self._calls = 0
        self._tools: dict[int, int] = {}  # block → number of its tool call; servers use an index twice
        self._bare: dict[int, int] = {}  # those of them that have no arguments yet
        self._usage = wire.Usage()
        self._head = NEVER  # what a delta of text begins with, its opening quote included
        self._at = 0  # where that quote stands

    def words(self, events: bytes) -> bytes:
        if events.startswith(self._head):
            found = _LAST_STRING.fullmatch(events, self._at)
            if found is not None and is_utf8(found[1]):
                return found[1]
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if not events.isascii():
            events = events.decode("utf-8", "replace").encode()
        try:
            for event in (events,) if is_one_delta(events) else whole_events(events):
                if self.done or self._broken:
                    break
                text = self.words(event)
                if text:
                    deltas.append(TextDelta(Raw(text)))
                elif is_one_delta(event):
                    self._piece(event[DELTA_AT:-2], deltas)
                    self._learn(event, deltas)
                else:
                    self._event(*read_event(event), deltas)
        except UpstreamError as error:
            self._broken = True
            deltas.append(Failure(error))
        if self.done or self._broken:
            self._head = NEVER
        return deltas

    def _learn(self, event: bytes, deltas: list[Delta]) -> None:
        """Learn how a delta of text begins. That its words are where they seem to be is proved with other words there."""
        last = deltas[-1] if deltas else None
        if type(last) is not TextDelta or event.startswith(self._head):
            return
        at = event.find(bytes(last.text))
        head = event[: at + 1]
        if at < DELTA_AT or not _LAST_STRING.fullmatch(event, at):
            return
        try:
            probe = _PIECE.decode(head[DELTA_AT:] + b'?"}}').delta
        except msgspec.DecodeError:
            return
        if probe.type == "text_delta" and bytes(probe.text) == b'"?"':
            self._head, self._at = head, at

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        self._broken = True
        return [Failure(UpstreamMalformed("The provider's stream ended without `message_stop`"))]

    def _piece(self, data: bytes, deltas: list[Delta]) -> None:
        """A delta of a block."""
        try:
            event = _PIECE.decode(data)
        except msgspec.DecodeError:
            event = decode(data, _PIECE)
        piece = event.delta
        kind = piece.type
        if kind == "text_delta":
            if (text := _string(piece.text)) is not None:
                deltas.append(TextDelta(text))
        elif kind == "input_json_delta":
            arguments = _string(piece.partial_json)
            tool = self._tools.get(event.index)
            if arguments is not None and tool is not None:  # else it is a server's own tool
                self._bare.pop(event.index, None)
                deltas.append(ToolDelta(tool, arguments))
        elif kind == "thinking_delta":
            if (thought := _string(piece.thinking)) is not None:
                deltas.append(ThinkingDelta(thought))
        elif kind == "signature_delta" and (signature := _string(piece.signature)) is not None:
            deltas.append(SignatureDelta(signature))

    def _event(self, name: bytes, data: bytes, deltas: list[Delta]) -> None:
        event = open_event(name, data) if data else None
        if event is None:
            return
        if event.type == "content_block_delta":
            self._piece(data, deltas)
        else:
            self._turn(event, deltas)

    def _turn(self, event: wire.Event, deltas: list[Delta]) -> None:
        kind = event.type
        if kind == "message_start":
            self._start(event.message or wire.Answer(), deltas)
        elif kind == "content_block_start":
            self._open(event.index, event.content_block or wire.Block(), deltas)
        elif kind == "content_block_stop":
            self._fill([event.index], deltas)
        elif kind == "message_delta":
            self._usage = newer(self._usage, event.usage)
            if event.usage is not None:
                deltas.append(UsageDelta(read_usage(self._usage)))
            if event.delta is not None and event.delta.stop_reason:
                self._finish(event.delta, deltas)
        elif kind == "message_stop":
            self.done = True
            if not self._finished:
                self._finish(wire.Stop(stop_reason="end_turn"), deltas)
        elif kind == "ping":
            deltas.append(Ping())

    def _start(self, message: wire.Answer, deltas: list[Delta]) -> None:
        if self._started:
            return
        self._started = True
        self._usage = newer(self._usage, message.usage)
        usage = read_usage(self._usage) if message.usage else None
        deltas.append(Start(message.id or "", message.model or "", usage))

    def _open(self, index: int, block: wire.Block, deltas: list[Delta]) -> None:
        """A block begins. Anthropic's begin empty, compatible servers put everything into the beginning."""
        self._start(wire.Answer(), deltas)
        if block.type == "tool_use":
            self._fill([index], deltas)
            tool = self._tools[index] = self._bare[index] = self._calls
            self._calls += 1
            deltas.append(ToolStart(tool, block.id or "", block.name or ""))
            arguments = bytes(block.input)
            if arguments.startswith(b"{") and arguments[1:-1].strip():  # some begin with "" or { }
                del self._bare[index]
                deltas.append(ToolDelta(tool, Raw(_encode(arguments.decode()))))
        elif block.type == "redacted_thinking":
            if (data := _string(block.data)) is not None:
                deltas.append(RedactedDelta(data))
        elif block.type == "thinking":
            if (thought := _string(block.thinking)) is not None:
                deltas.append(ThinkingDelta(thought))
        elif block.type == "text" and (text := _string(block.text)) is not None:
            deltas.append(TextDelta(text))

    def _fill(self, blocks: Iterable[int], deltas: list[Delta]) -> None:
        """A call that ended without arguments has none: `{}`."""
        for index in blocks:
            tool = self._bare.pop(index, None)
            if tool is not None:
                deltas.append(ToolDelta(tool, _NO_ARGUMENTS))

    def _finish(self, delta: wire.Stop, deltas: list[Delta]) -> None:
        if self._finished:
            return
        self._finished = True
        self._fill(list(self._bare), deltas)
        reason = read_finish(delta.stop_reason)
        deltas.append(Finish(reason, delta.stop_sequence, detail=wire.given(delta.stop_details)))
