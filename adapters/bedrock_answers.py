"""Reading what Bedrock's Converse answers: whole, in frames, or an error. Part of `adapters.bedrock`.

The cache is outside `inputTokens`, reasoning is inside `outputTokens` and not told apart. A stream's events are named by
their frames' headers. Only a tool's block is announced, text and reasoning just begin; the usage comes in `metadata`,
after `messageStop`, and is what a stream ends with. After the 200 an error is a frame of its own.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from adapters.base import StreamReader
from adapters.envelope import PLAIN_STRING, count_of, decode, is_utf8
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.eventstream import payload_behind, read_frames
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Part,
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
    Usage,
    UsageDelta,
)
from adapters.upstream_errors import classify
from adapters.wire import bedrock as wire

_ANSWER = msgspec.json.Decoder(wire.Answer)
_ERROR = msgspec.json.Decoder(wire.Error)
_MODEL_FIELDS = msgspec.json.Decoder(wire.ModelFields)
_STRING = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_NO_ARGUMENTS = Raw(b'"{}"')

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a Converse answer. It has no id: that is in a header."""
    answer = decode(body, _ANSWER)
    if answer.output is None or answer.output.message is None:
        raise UpstreamMalformed("The provider sent an answer without a message")
    parts = tuple(part for block in answer.output.message.content or () for part in _read_block(block))
    stopped = _stop_sequence(answer.additional_model_response_fields)
    choice = Choice(parts, read_finish(answer.stop_reason), stopped)
    usage = read_usage(answer.usage, answer.service_tier) if answer.usage else None
    return ChatResponse(id="", model=target.model, choices=(choice,), usage=usage)


def _read_block(block: wire.Block) -> Iterable[Part]:
    """What a block says; nothing for the kinds that we do not know, and for tools that the service ran itself."""
    if block.text:
        yield Text(block.text)
    elif block.tool_use is not None and block.tool_use.type in {None, "tool_use"}:
        tool = block.tool_use
        arguments = wire.given(tool.input)
        yield ToolCall(
            tool.tool_use_id,
            tool.name,
            "{}" if arguments is None else bytes(arguments).decode("utf-8", "replace"),
        )
    elif block.reasoning_content is not None:
        reasoning = block.reasoning_content
        if reasoning.reasoning_text is not None:
            yield Thinking(reasoning.reasoning_text.text, reasoning.reasoning_text.signature)
        elif reasoning.redacted_content:
            yield RedactedThinking(redacted_text(reasoning.redacted_content))
    elif block.citations_content is not None:
        for piece in block.citations_content.content or ():
            if piece.text:
                yield Text(piece.text)


_STILL_BASE64 = "base64:"


def redacted_text(blob: str) -> str:
    """Encrypted reasoning as the vendor of the model wrote it: Bedrock sends its bytes, so the JSON has base64 of them.

    Anthropic's is text. It is carried as that text, so that a conversation may go on at Anthropic itself or come from there.
    """
    try:
        text = b64decode(blob, validate=True).decode("ascii")
    except (NotBase64, UnicodeDecodeError, ValueError):
        return _STILL_BASE64 + blob
    return text if text.isprintable() else _STILL_BASE64 + blob


def redacted_blob(text: str) -> str:
    """The other way round."""
    if text.startswith(_STILL_BASE64):
        return text.removeprefix(_STILL_BASE64)
    return b64encode(text.encode("utf-8", "replace")).decode()


def read_finish(stop_reason: str | None) -> FinishReason:
    """Why it ended; a reason that we do not know is an ordinary end."""
    return _FINISH.get(stop_reason or "", "stop")


def _stop_sequence(fields: Raw) -> str | None:
    if fields == wire.NULL:
        return None
    try:
        told = _MODEL_FIELDS.decode(fields)
    except msgspec.DecodeError:  # a caller may have asked for anything
        return None
    return told.stop_sequence or (told.delta.stop_sequence if told.delta else None)


def read_usage(counts: wire.Usage, tier: wire.ServiceTier | None = None) -> Usage:
    """Bedrock's counts, each token in one bucket. What was written to the cache is for five minutes unless said."""
    read = counts.cache_read_input_tokens
    written = counts.cache_write_input_tokens
    read = count_of(counts.cache_read_input_token_count if read is None else read)
    written = count_of(counts.cache_write_input_token_count if written is None else written)
    hour = sum(count_of(detail.input_tokens) for detail in counts.cache_details or () if detail.ttl == "1h")
    hour = min(hour, written)
    served = tier.type if tier else None
    return Usage(
        input=count_of(counts.input_tokens),
        cache_read=read,
        cache_write=written - hour,
        cache_write_1h=hour,
        output=count_of(counts.output_tokens),
        tier=served if served and served != "default" else "",
    )


# -- errors ------------------------------------------------------------------------------------------------------------

_NO_SUCH_MODEL = re.compile(
    r"model identifier is invalid|could not resolve the foundation model", re.IGNORECASE
)
_BAD_KEY = re.compile(r"authentication failed|api key", re.IGNORECASE)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer means. Which exception it is stands in the header `x-amzn-errortype`, before a colon."""
    error = _open_error(body)
    name = headers.get("x-amzn-errortype") or error.type or ""
    return _error(name, status, error, headers, body)


def error_in(headers: Mapping[str, str], payload: bytes) -> UpstreamError | None:
    """The error that a frame is, None if it is an event."""
    kind = headers.get(":message-type")
    if kind == "exception":
        return _error(headers.get(":exception-type", ""), 0, _open_error(payload), {}, payload)
    if kind == "error":
        error = wire.Error(message=headers.get(":error-message"))
        return _error(headers.get(":error-code", ""), 0, error, {}, payload)
    return None


def _open_error(body: bytes) -> wire.Error:
    try:
        return decode(body, _ERROR)
    except UpstreamMalformed:
        return wire.Error(message=body.decode("utf-8", "replace"))


def _error(
    name: str, status: int, error: wire.Error, headers: Mapping[str, str], body: bytes
) -> UpstreamError:
    name = name.partition(":")[0].rpartition("#")[2]
    word = name.lower()
    message = error.message or error.upper_message or error.original_message or name
    code = None
    if word in wire.CREDENTIALS or (word == "accessdeniedexception" and _BAD_KEY.search(message)):
        code = "invalid_api_key"
    elif word in {"validationexception", "resourcenotfoundexception"} and _NO_SUCH_MODEL.search(message):
        code = "model_not_found"
    if status < 400 or word == "servicequotaexceededexception":
        status = wire.STATUS_OF.get(word, 500)
    return classify(status, message=message, code=code, type=name, headers=headers, body=body)


# -- its stream --------------------------------------------------------------------------------------------------------


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer."""
    return _Reader(target.model)


_DELTA_HEADERS = b"".join(
    (
        b"\x0b:event-type\x07\x00\x11contentBlockDelta",
        b"\x0d:content-type\x07\x00\x10application/json",
        b"\x0d:message-type\x07\x00\x05event",
    )
)
_DELTA_OF_WORDS = re.compile(
    rb'\{"contentBlockIndex":\d{1,6},"delta":\{"text":(%b)\}(?:,"p":"\w*")?\}' % PLAIN_STRING
)


class _Reader:
    """Takes frames apart."""

    __slots__ = ("_broken", "_events", "done")

    def __init__(self, model: str) -> None:
        self.done = False
        self._broken = False
        self._events = Events(model)

    def words(self, events: bytes) -> bytes:
        if not self._events.started or self.done or self._broken:
            return b""
        found = _DELTA_OF_WORDS.fullmatch(payload_behind(_DELTA_HEADERS, events))
        return found[1] if found is not None and is_utf8(found[1]) else b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            for headers, payload in read_frames(events):
                if self.done or self._broken:
                    break
                if not payload.isascii():  # what is kept as JSON text is not decoded, and goes on to a client
                    payload = payload.decode("utf-8", "replace").encode()  # noqa: PLW2901 - the same text
                error = error_in(headers, payload)
                if error is not None:
                    raise error
                self._events.read(headers.get(":event-type", ""), payload, deltas)
                self.done = self._events.done
        except UpstreamError as error:
            if not self.done:
                self._broken = True
                deltas.append(Failure(error))
        return deltas

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        self._broken = True
        return [Failure(UpstreamMalformed("The provider's stream ended without its `metadata`"))]


class Events:
    """Makes deltas of Converse's events, given by name; Nova's InvokeModel streams the same ones, packed otherwise."""

    __slots__ = ("_bare", "_calls", "_finished", "_model", "_tools", "done", "started")

    def __init__(self, model: str) -> None:
        self.done = False
        self._model = model
        self.started = False
        self._finished = False
        self._calls = 0
        self._tools: dict[int, int] = {}  # block → number of its tool call; servers use an index twice
        self._bare: dict[int, int] = {}  # those of them that have no arguments yet

    def read(self, name: str, payload: bytes | Raw, deltas: list[Delta]) -> None:
        """Add what an event says; nothing for events that we do not know. Raises `UpstreamMalformed`."""
        if name == "contentBlockDelta":
            self._piece(decode(payload, wire.BLOCK_DELTA), deltas)
        elif name == "messageStart":
            self._start(deltas)
        elif name == "contentBlockStart":
            self._open(decode(payload, wire.EVENT), deltas)
        elif name == "contentBlockStop":
            self._fill([decode(payload, wire.EVENT).content_block_index], deltas)
        elif name == "messageStop":
            self._finish(decode(payload, wire.EVENT), deltas)
        elif name == "metadata":
            self._end(decode(payload, wire.EVENT), deltas)

    def _start(self, deltas: list[Delta]) -> None:
        if not self.started:
            self.started = True
            deltas.append(Start(model=self._model))

    def _open(self, event: wire.Event, deltas: list[Delta]) -> None:
        self._start(deltas)
        tool = event.start.tool_use if event.start else None
        if tool is not None and tool.type in {None, "tool_use"}:
            index = event.content_block_index
            self._fill([index], deltas)
            number = self._tools[index] = self._bare[index] = self._calls
            self._calls += 1
            deltas.append(ToolStart(number, tool.tool_use_id, tool.name))

    def _piece(self, event: wire.BlockDelta, deltas: list[Delta]) -> None:
        self._start(deltas)
        piece = event.delta
        if (text := _string(piece.text)) is not None:
            deltas.append(TextDelta(text))
        elif piece.tool_use is not None:
            arguments = _string(piece.tool_use.input)
            number = self._tools.get(event.content_block_index)
            if arguments is not None and number is not None:  # else it is a tool of the service's own
                self._bare.pop(event.content_block_index, None)
                deltas.append(ToolDelta(number, arguments))
        elif piece.reasoning_content is not None:
            reasoning = piece.reasoning_content
            if (thought := _string(reasoning.text)) is not None:
                deltas.append(ThinkingDelta(thought))
            if (signature := _string(reasoning.signature)) is not None:
                deltas.append(SignatureDelta(signature))
            if (redacted := _string(reasoning.redacted_content)) is not None:
                deltas.append(RedactedDelta(Raw(_encode(redacted_text(_STRING.decode(redacted))))))

    def _fill(self, blocks: Iterable[int], deltas: list[Delta]) -> None:
        """A call that ended without arguments has none: `{}`."""
        for index in blocks:
            number = self._bare.pop(index, None)
            if number is not None:
                deltas.append(ToolDelta(number, _NO_ARGUMENTS))

    def _finish(self, event: wire.Event, deltas: list[Delta]) -> None:
        self._start(deltas)
        if not self._finished:
            self._finished = True
            self._fill(list(self._bare), deltas)
            stopped = _stop_sequence(event.additional_model_response_fields)
            deltas.append(Finish(read_finish(event.stop_reason), stopped))

    def _end(self, event: wire.Event, deltas: list[Delta]) -> None:
        if not self._finished:
            raise UpstreamMalformed("The provider's stream ended without `messageStop`")
        self.done = True
        if event.usage is not None:
            deltas.append(UsageDelta(read_usage(event.usage, event.service_tier)))


def _string(raw: Raw) -> Raw | None:
    """A JSON string that says something, or None. Raises `UpstreamMalformed` for what is no string."""
    piece = bytes(raw)
    if piece[0] != 0x22:
        if piece == b"null":
            return None
        raise UpstreamMalformed("The provider sent a delta that is no text")
    return raw if len(piece) > 2 else None
