"""Anthropic's Messages API, both sides: clients that speak it to us, and Anthropic itself.

What is peculiar to the format, and what we make of it:

* A message is a list of **blocks**, and a stream is those blocks one after the other. The writer therefore opens and
  closes blocks as the kind of delta changes. OpenAI's tool calls may come interleaved: what belongs to a later block
  waits until the open one is complete. The reader goes the other way and counts tool calls, not blocks.
* **Turns alternate**, tool results come first in the user's turn, empty text is an error: `write_request` merges, sorts
  and drops accordingly. Reasoning without a signature is not sent back, because Anthropic refuses it.
* **The system prompt is apart.** A `system` turn in mid-conversation joins it: other vendors know no such turn.
* **The cache is outside `input_tokens`, thinking is inside `output_tokens`**, and on streams the counts are running
  totals of which each event may leave some out: the last that is given counts.
* **Whitespace pads** the JSON of each event, so that its length tells nothing; passed on as it is.
* An `error` event may come at any time, as the first event of a 200 too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Raw

from adapters.base import StreamEditor, StreamReader, StreamWriter
from adapters.envelope import decode, seal
from adapters.errors import BadRequest, GatewayError, Unsupported, UpstreamError, UpstreamMalformed
from adapters.framing import read_event, split_events, sse
from adapters.types import (
    Audio,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Document,
    Failure,
    Finish,
    FinishReason,
    HttpRequest,
    Image,
    JsonString,
    Message,
    Opaque,
    Operation,
    Part,
    Ping,
    Reasoning,
    RedactedDelta,
    RedactedThinking,
    Refusal,
    RefusalDelta,
    ResponseFormat,
    SignatureDelta,
    Start,
    Target,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    UsageDelta,
)
from adapters.upstream_errors import classify
from adapters.wire import anthropic as wire
from adapters.wire import openai as openai_wire

T = TypeVar("T")

NAME = "anthropic"
KEEP_ALIVE: bytes = b'event: ping\ndata: {"type": "ping"}\n\n'
DEFAULT_MAX_TOKENS = 4096

_encode = msgspec.json.Encoder().encode
_KIND = msgspec.json.Decoder(wire.Kind)
_REQUEST = msgspec.json.Decoder(wire.Request)
_MESSAGE = msgspec.json.Decoder(wire.Message)
_TOOL = msgspec.json.Decoder(wire.Tool)
_ANSWER = msgspec.json.Decoder(wire.Answer)
_EVENT = msgspec.json.Decoder(wire.Event)
_PIECE = msgspec.json.Decoder(wire.BlockDelta)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ANY_OBJECT = msgspec.json.Decoder(dict[str, Any])
_TEXT = msgspec.json.Decoder(str)

_REQUEST_FIELDS = frozenset(wire.Request.__struct_fields__) | wire.UNSPOKEN
_NO_ARGUMENTS = Raw(b'"{}"')
_EMPTY_OBJECT = Raw(b"{}")
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}
_STOP_REASON: dict[FinishReason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "pause": "pause_turn",
    "error": "end_turn",  # the format has no word for it
}


# == a client's question =============================================================================================


def read_request(envelope: Mapping[str, Raw]) -> ChatRequest:
    """Read a Messages request.

    `max_tokens` may be missing, though Anthropic demands it: the provider's writer knows a default. Fields that the
    format does not define are `extra`, those that no other format has a place for are `unspoken`.
    """
    body = _read(seal(envelope), _REQUEST, "")
    if not body.messages:
        raise BadRequest("messages: at least one message is required", param="messages")
    system = list(_read_system(body.system, "system"))
    unspoken = {
        name: value for name, value in envelope.items() if name in wire.UNSPOKEN and value != wire.NULL
    }
    reasoning = _read_reasoning(body)
    if body.thinking is not None and reasoning is None:
        unspoken["thinking"] = envelope["thinking"]
    user = body.metadata.user_id if body.metadata else None
    return ChatRequest(
        model=body.model,
        messages=tuple(_read_messages(body.messages, system)),
        system=tuple(system),
        tools=tuple(_read_tool(raw, f"tools.{at}") for at, raw in enumerate(body.tools or ())),
        tool_choice=_read_tool_choice(body.tool_choice),
        parallel_tool_calls=False
        if body.tool_choice and body.tool_choice.disable_parallel_tool_use
        else None,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
        response_format=_read_response_format(body),
        reasoning=reasoning,
        user=user if isinstance(user, str) else None,
        stream=bool(body.stream),
        extra={name: value for name, value in envelope.items() if name not in _REQUEST_FIELDS},
        unspoken=unspoken,
    )


def _read(raw: bytes | Raw, decoder: msgspec.json.Decoder[T], param: str) -> T:
    """Decode a part of a client's request. Raises `BadRequest` with the place, as `messages.0.content.1.text`."""
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        problem, _, path = str(error).partition(" - at `$")
        place = (param + path.rstrip("`").replace("[", ".").replace("]", "")).lstrip(".")
        raise BadRequest(f"{place}: {problem}" if place else problem, param=place or None) from None


def _read_messages(messages: Iterable[Raw], system: list[Text]) -> Iterator[Message]:
    """The turns; those of the role `system` are added to `system`."""
    for at, raw in enumerate(messages):
        param = f"messages.{at}"
        message = _read(raw, _MESSAGE, param)
        if message.role == "system":
            system.extend(_read_system(message.content, f"{param}.content"))
        elif message.role == "user":
            yield Message("user", _read_parts(message.content, f"{param}.content"))
        elif message.role == "assistant":
            yield Message("assistant", _read_parts(message.content, f"{param}.content"))
        else:
            raise BadRequest(f"{param}.role: must be `user` or `assistant`", param=f"{param}.role")


def _read_system(content: str | list[Raw] | None, param: str) -> Iterator[Text]:
    for part in _read_parts(content, param):
        if not isinstance(part, Text):
            raise BadRequest(f"{param}: only text blocks are allowed", param=param)
        if part.text:
            yield part


def _read_parts(content: str | list[Raw] | None, param: str) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_read_block(raw, f"{param}.{at}") for at, raw in enumerate(content))


def _read_block(raw: Raw, param: str) -> Part:
    kind = _read(raw, _KIND, param).type
    if not kind:
        raise BadRequest(f"{param}.type: is required", param=f"{param}.type")
    decoder = wire.BLOCKS.get(kind)
    return _part(_read(raw, decoder, param), kind, raw, param) if decoder else Opaque(NAME, kind, raw)


def _part(block: wire.AnyBlock, kind: str, raw: Raw, param: str) -> Part:
    """What a block means; `raw` if it means something only here."""
    if isinstance(block, wire.TextBlock):
        return Text(block.text, cache=_given(block.cache_control), citations=_given(block.citations))
    if isinstance(block, wire.ImageBlock):
        return _read_image(block) or Opaque(NAME, kind, raw)
    if isinstance(block, wire.DocumentBlock):
        return _read_document(block) or Opaque(NAME, kind, raw)
    if isinstance(block, wire.ThinkingBlock):
        return Thinking(block.thinking, block.signature)
    if isinstance(block, wire.RedactedThinkingBlock):
        return RedactedThinking(block.data)
    if isinstance(block, wire.ToolUseBlock):
        arguments = (_given(block.input) and bytes(block.input).decode()) or "{}"
        return ToolCall(block.id, block.name, arguments, _given(block.cache_control))
    parts = _read_parts(block.content, f"{param}.content")
    return ToolResult(block.tool_use_id, parts, bool(block.is_error), _given(block.cache_control))


def _given(raw: Raw) -> Raw | None:
    return None if raw == wire.NULL else raw


def _read_image(block: wire.ImageBlock) -> Image | None:
    source, cache = block.source, _given(block.cache_control)
    if source.type == "base64" and source.data is not None:
        return Image(media_type=source.media_type, data=source.data, cache=cache)
    if source.type == "url" and source.url is not None:
        return Image(url=source.url, cache=cache)
    if source.type == "file" and source.file_id is not None:
        return Image(file_id=source.file_id, cache=cache)
    return None


def _read_document(block: wire.DocumentBlock) -> Document | None:
    source = block.source
    if source.type not in {"base64", "text", "url", "file"}:
        return None
    return Document(
        media_type=source.media_type,
        data=source.data if source.type == "base64" else None,
        text=source.data if source.type == "text" else None,
        url=source.url,
        file_id=source.file_id,
        name=block.title,
        context=block.context,
        citations=_given(block.citations),
        cache=_given(block.cache_control),
    )


def _read_tool(raw: Raw, param: str) -> Tool | Opaque:
    kind = _read(raw, _KIND, param).type
    if kind not in {None, "custom"}:
        return Opaque(NAME, kind or "", raw)
    tool = _read(raw, _TOOL, param)
    schema = _given(tool.input_schema) or Raw(b'{"type":"object","properties":{}}')
    return Tool(tool.name, schema, tool.description, tool.strict, _given(tool.cache_control))


def _read_tool_choice(choice: wire.ToolChoice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice.type == "tool":
        if not choice.name:
            raise BadRequest("tool_choice.name: is required", param="tool_choice.name")
        return ToolChoice("named", choice.name)
    if choice.type == "any":
        return ToolChoice("required")
    if choice.type == "auto":
        return ToolChoice("auto")
    if choice.type == "none":
        return ToolChoice("none")
    raise BadRequest("tool_choice.type: must be `auto`, `any`, `tool` or `none`", param="tool_choice.type")


def _read_response_format(body: wire.Request) -> ResponseFormat | None:
    wanted = (body.output_config and body.output_config.format) or body.output_format
    if wanted is None:
        return None
    if wanted.type != "json_schema" or wanted.schema == wire.NULL:
        raise BadRequest("output_config.format: must be a `json_schema`", param="output_config.format")
    return ResponseFormat("json_schema", wanted.schema)


def _read_reasoning(body: wire.Request) -> Reasoning | None:
    """How much to think. A bare `effort` means: as the model sees fit. None for ways of thinking we do not know."""
    effort = body.output_config.effort if body.output_config else None
    thinking = body.thinking
    if thinking is None:
        return Reasoning("adaptive", effort=effort) if effort else None
    if thinking.type == "enabled":
        return Reasoning("enabled", effort=effort, budget=thinking.budget_tokens, display=thinking.display)
    if thinking.type == "adaptive":
        return Reasoning("adaptive", effort=effort, display=thinking.display)
    if thinking.type == "disabled":
        return Reasoning("disabled", effort=effort)
    return None


# == an answer for a client ==========================================================================================


def write_response(answer: ChatResponse, *, answer_id: str, model: str, now: int) -> bytes:
    """A Messages answer. There is one choice, the first: the format has no way to ask for more."""
    choice = answer.choices[0] if answer.choices else Choice((), "stop")
    ident = _message_id(answer_id)
    blocks = [_answer_block(part, f"toolu_{ident}_{at}") for at, part in enumerate(choice.parts)]
    return _encode(
        {
            "id": ident,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [block for block in blocks if block is not None],
            **_stop(choice.finish, choice.stop_sequence, choice.detail),
            "usage": _usage_json(answer.usage),
        }
    )


def _answer_block(part: Part, spare_id: str) -> dict[str, Any] | Raw | None:
    """A block of an answer, None for what the format has no word for: an answer cannot be refused."""
    if isinstance(part, Text):
        return _text_block(part) if part.text else None
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, Thinking):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    if isinstance(part, RedactedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, ToolCall):
        ident = _clean_id(part.id) or spare_id
        return {"type": "tool_use", "id": ident, "name": part.name, "input": _input(part.arguments)}
    if isinstance(part, Opaque) and part.format == NAME:
        return part.raw
    return None


def _message_id(answer_id: str) -> str:
    return answer_id if answer_id.startswith("msg_") else f"msg_{_clean_id(answer_id)}"


def _clean_id(ident: str) -> str:
    """A tool call's id with the characters that Anthropic allows; the same id always gives the same."""
    return ident if _TOOL_ID.fullmatch(ident) else _NOT_IN_ID.sub("_", ident)


def _input(arguments: str) -> Raw | dict[str, str]:
    """A call's arguments as the object that `input` must be.

    Models do write broken JSON. Anthropic's page on fine-grained tool streaming says how to hand it on:
    https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming.
    """
    if not arguments.strip():
        return _EMPTY_OBJECT
    text = arguments.encode("utf-8", "replace")
    return Raw(text) if _is_object(text) else {"INVALID_JSON": text.decode()}


def _is_object(text: bytes) -> bool:
    try:
        _ANY_OBJECT.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _stop(reason: FinishReason, stop_sequence: str | None, detail: Raw | None) -> dict[str, Any]:
    """`stop_details` is only what Anthropic itself said, as `{"type":"refusal",…}`."""
    stop: dict[str, Any] = {"stop_reason": _STOP_REASON[reason], "stop_sequence": stop_sequence}
    if detail is not None and reason == "refusal" and _kind_of(bytes(detail)) == "refusal":
        stop["stop_details"] = detail
    return stop


def _usage_json(usage: Usage | None) -> dict[str, Any]:
    known = usage or Usage()
    counts: dict[str, Any] = {
        "input_tokens": known.input + known.audio_input,
        "cache_creation_input_tokens": known.cache_write + known.cache_write_1h,
        "cache_read_input_tokens": known.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": known.cache_write,
            "ephemeral_1h_input_tokens": known.cache_write_1h,
        },
        "output_tokens": known.completion,
    }
    if known.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": known.reasoning}
    return counts


def write_error(error: GatewayError, *, request_id: str, mid_stream: bool) -> bytes:
    """`{"type":"error","error":{…},"request_id":…}`, or the `error` event that ends a stream."""
    kind = wire.TYPE_OF.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    body = _encode(
        {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    )
    return sse(body, b"error") if mid_stream else body


def write_stream(*, answer_id: str, model: str, now: int, wants_usage: bool) -> StreamWriter:
    """A writer for one streamed answer."""
    return _Writer(_message_id(answer_id), model)


class _Writer:
    """Puts a stream of blocks together.

    A tool's block is complete when its arguments are whole JSON; that is looked at once, when something else wants to be
    written. If they are not, all that is not of this tool waits, in order, until the answer is finished.
    """

    __slots__ = (
        "_arguments",
        "_head",
        "_id",
        "_index",
        "_kind",
        "_model",
        "_out",
        "_started",
        "_stop",
        "_tool",
        "_usage",
        "_waiting",
    )

    def __init__(self, answer_id: str, model: str) -> None:
        self._id = answer_id
        self._model = model
        self._out: list[bytes | Raw] = []
        self._started = False
        self._index = -1  # of the newest block
        self._kind = ""  # of the open block: text, thinking, tool_use, or none
        self._head = b""  # of each delta of the open block
        self._tool = -1  # the number of the open block's tool call
        self._arguments: list[JsonString] = []  # what the open block's tool call has got so far
        self._waiting: list[Delta] = []
        self._usage: Usage | None = None
        self._stop = _stop("stop", None, None)

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        out = self._out = []
        for delta in deltas:
            if type(delta) is TextDelta and self._kind == "text" and not delta.choice:
                out += (self._head, delta.text, b"}}\n\n")  # the usual case: spliced between constant bytes
            else:
                self._write(delta)
        return b"".join(out)

    def close(self) -> bytes:
        self._out = []
        self._start(None)
        self._finish()
        usage = _usage_json(self._usage)
        self._event({"type": "message_delta", "delta": self._stop, "usage": usage})
        self._event({"type": "message_stop"})
        return b"".join(self._out)

    def _write(self, delta: Delta) -> None:
        if isinstance(delta, Ping):
            self._out.append(KEEP_ALIVE)
        elif isinstance(delta, UsageDelta):
            self._usage = delta.usage
        elif isinstance(delta, Start):
            self._start(delta.usage)
        elif isinstance(delta, Finish):
            if not delta.choice:
                self._finish()
                self._stop = _stop(delta.reason, delta.stop_sequence, delta.detail)
        elif not isinstance(delta, Failure) and not delta.choice:
            self._start(None)
            self._content(delta)

    def _start(self, usage: Usage | None) -> None:
        if self._started:
            return
        self._started = True
        self._usage = usage
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_json(usage),
        }
        self._event({"type": "message_start", "message": message})
        self._out.append(KEEP_ALIVE)

    def _finish(self) -> None:
        self._close_block()
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for delta in waiting:
                self._content(delta)
            self._close_block()

    def _content(self, delta: Delta) -> None:
        if isinstance(delta, ToolDelta) and delta.index == self._tool:
            self._arguments.append(delta.arguments)
            self._piece(delta.arguments)
        elif self._waiting or not self._may_leave():
            self._waiting.append(delta)
        elif isinstance(delta, TextDelta | RefusalDelta):
            self._open("text", {"type": "text", "text": ""}, b"text_delta", b"text")
            self._piece(delta.text)
        elif isinstance(delta, ThinkingDelta):
            self._open_thinking()
            self._piece(delta.text)
        elif isinstance(delta, SignatureDelta):
            self._open_thinking()
            self._out += (self._delta_head(b"signature_delta", b"signature"), delta.signature, b"}}\n\n")
            self._close_block()
        elif isinstance(delta, RedactedDelta):
            self._open("redacted_thinking", {"type": "redacted_thinking", "data": delta.data}, b"", b"")
            self._close_block()
        elif isinstance(delta, ToolStart):
            self._close_block()
            ident = _clean_id(delta.id) or f"toolu_{self._id}_{delta.index}"
            block = {"type": "tool_use", "id": ident, "name": delta.name, "input": {}}
            self._open("tool_use", block, b"input_json_delta", b"partial_json")
            self._tool = delta.index

    def _may_leave(self) -> bool:
        """Is the open block complete, so that another may begin?"""
        return self._kind != "tool_use" or _is_object(b"".join(map(_text, self._arguments)))

    def _open_thinking(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        self._open("thinking", block, b"thinking_delta", b"thinking")

    def _open(self, kind: str, block: dict[str, Any], delta: bytes, field: bytes) -> None:
        if self._kind == kind:
            return
        self._close_block()
        self._index += 1
        self._kind = kind
        self._event({"type": "content_block_start", "index": self._index, "content_block": block})
        self._head = self._delta_head(delta, field)

    def _delta_head(self, delta: bytes, field: bytes) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (self._index, delta, field)
        )

    def _piece(self, text: JsonString) -> None:
        self._out += (self._head, text, b"}}\n\n")

    def _close_block(self) -> None:
        if self._kind:
            self._event({"type": "content_block_stop", "index": self._index})
        self._kind = ""
        self._tool = -1
        self._arguments = []

    def _event(self, data: dict[str, Any]) -> None:
        self._out.append(sse(_encode(data), data["type"].encode()))


def _text(string: JsonString) -> bytes:
    """What a JSON string says, as UTF-8; a lone surrogate becomes U+FFFD."""
    return decode(string, _TEXT).encode()


# == a question for a provider =======================================================================================


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A Messages request.

    Defaults and adjustments, beyond what `Unsupported` refuses: `max_tokens` is the model's limit if the caller names
    none; stop sequences of nothing but whitespace are dropped; where thinking is asked for, `temperature` and `top_k`
    are dropped and `top_p` is if it is below 0.95, because Anthropic allows no other with thinking, and `max_tokens` is
    raised above a thinking budget that it does not exceed.
    """
    body: dict[str, Any] = {"model": target.model, "messages": _write_messages(request.messages)}
    system = [_text_block(part) for part in request.system if part.text.strip()]
    if system:
        body["system"] = system
    limit = target.max_output_tokens or DEFAULT_MAX_TOKENS
    body["max_tokens"] = limit if request.max_tokens is None else request.max_tokens
    stop = [text for text in request.stop if text.strip()]
    if stop:
        body["stop_sequences"] = stop
    if request.user:
        body["metadata"] = {"user_id": request.user}
    if request.stream:
        body["stream"] = True
    _write_tools(body, request, target)
    _write_sampling(body, request, target)
    _write_output(body, request, target)
    _write_unspoken(body, request, target)
    body.update(request.extra)
    return seal(_fitted(body, target))


def _refuse(field: str, target: Target, why: str = "Anthropic's format has no word for it") -> None:
    if not target.drop_params:
        message = f"`{field}` is not supported by {target.provider.name}: {why}. To leave it out, set `drop_params: true`"
        raise Unsupported(message, param=field)


def _fitted(body: dict[str, Any], target: Target) -> dict[str, Any]:
    """The body without what this provider rejects and with its own names."""
    for field in target.provider.rejects:
        if body.pop(field, None) not in (None, wire.NULL):
            _refuse(field, target, "it answers the field with an error")
    renamed = target.provider.rename
    return {renamed.get(field, field): value for field, value in body.items()} if renamed else body


def _write_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns: those of one role in a row are one, tool results come first in it, and none is empty."""
    turns: list[tuple[str, list[Part]]] = []
    for message in messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.parts)
        else:
            turns.append((message.role, list(message.parts)))
    written = []
    for role, parts in turns:
        parts.sort(key=lambda part: not isinstance(part, ToolResult))
        content = _write_parts(parts)
        if content:
            written.append({"role": role, "content": content})
    return written


def _write_parts(parts: Iterable[Part]) -> list[dict[str, Any] | Raw]:
    blocks = (_write_part(part) for part in parts)
    return [block for block in blocks if block is not None]


def _write_part(part: Part) -> dict[str, Any] | Raw | None:
    """A block, None for what must be left out: empty text, and reasoning that nobody signed."""
    if isinstance(part, Text):
        return _text_block(part) if part.text.strip() else None
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text} if part.text.strip() else None
    if isinstance(part, Image):
        return _marked({"type": "image", "source": _image_source(part)}, part.cache)
    if isinstance(part, Document):
        return _document_block(part)
    if isinstance(part, Thinking):
        if not part.signature:
            return None
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if isinstance(part, RedactedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, ToolCall):
        ident = _clean_id(part.id)
        block = {"type": "tool_use", "id": ident, "name": part.name, "input": _input(part.arguments)}
        return _marked(block, part.cache)
    if isinstance(part, ToolResult):
        return _tool_result_block(part)
    if isinstance(part, Audio):
        raise Unsupported("Anthropic's format has no audio input", param="messages")
    if part.format != NAME:
        raise Unsupported(
            f"Anthropic's format has no word for a block of the type `{part.kind}`", param="messages"
        )
    return part.raw


def _marked(block: dict[str, Any], cache: Raw | None) -> dict[str, Any]:
    if cache is not None:
        block["cache_control"] = cache
    return block


def _text_block(part: Text) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": part.text}
    if part.citations is not None:
        block["citations"] = part.citations
    return _marked(block, part.cache)


def _tool_result_block(part: ToolResult) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": _clean_id(part.id)}
    content = _write_parts(part.parts)
    if content:
        block["content"] = content
    if part.failed:
        block["is_error"] = True
    return _marked(block, part.cache)


def _image_source(image: Image) -> dict[str, Any]:
    if image.data is not None:
        if image.media_type is None:
            raise Unsupported("Anthropic's format wants to know an image's media type", param="messages")
        kind = "image/jpeg" if image.media_type == "image/jpg" else image.media_type
        return {"type": "base64", "media_type": kind, "data": image.data}
    if image.url is not None:
        return {"type": "url", "url": image.url}
    return {"type": "file", "file_id": image.file_id}


def _document_block(document: Document) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "document", "source": _document_source(document)}
    named = {"title": document.name, "context": document.context, "citations": document.citations}
    block.update({name: value for name, value in named.items() if value is not None})
    return _marked(block, document.cache)


def _document_source(document: Document) -> dict[str, Any]:
    if document.data is not None:
        return {
            "type": "base64",
            "media_type": document.media_type or "application/pdf",
            "data": document.data,
        }
    if document.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": document.text}
    if document.url is not None:
        return {"type": "url", "url": document.url}
    return {"type": "file", "file_id": document.file_id}


def _write_tools(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    tools: list[dict[str, Any] | Raw] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(_tool_json(tool))
        elif tool.format == NAME:
            tools.append(tool.raw)
        else:
            _refuse("tools", target, f"Anthropic's format has no word for the tool type `{tool.kind}`")
    choice = request.tool_choice
    if tools:
        body["tools"] = tools
    elif choice is None or choice.mode in {"auto", "none"}:
        return  # nothing to choose from
    chosen: dict[str, Any] = {}
    if choice is not None:
        kind = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}[choice.mode]
        chosen = {"type": kind, "name": choice.name} if choice.mode == "named" else {"type": kind}
    if request.parallel_tool_calls is False and chosen.get("type") != "none":
        chosen = {"type": "auto"} | chosen | {"disable_parallel_tool_use": True}
    if chosen:
        body["tool_choice"] = chosen


def _tool_json(tool: Tool) -> dict[str, Any]:
    block: dict[str, Any] = {"name": tool.name, "input_schema": _object_schema(tool.schema)}
    if tool.description is not None:
        block["description"] = tool.description
    if tool.strict:
        block["strict"] = True
    return _marked(block, tool.cache)


def _object_schema(schema: Raw) -> Raw | dict[str, Any]:
    """Anthropic demands `"type":"object"`, other vendors let a tool without parameters have `{}` or null."""
    if schema == wire.NULL:
        return {"type": "object", "properties": {}}
    try:
        opened = _OBJECT.decode(schema)
    except msgspec.DecodeError:
        raise BadRequest("tools: a schema must be a JSON object", param="tools") from None
    return schema if "type" in opened else {"type": "object", "properties": {}, **opened}


_WITHOUT_WORD: tuple[tuple[str, Callable[[ChatRequest], bool]], ...] = (
    ("n", lambda request: request.n not in {None, 1}),
    ("logprobs", lambda request: bool(request.logprobs)),
    ("top_logprobs", lambda request: bool(request.top_logprobs)),
    ("seed", lambda request: request.seed is not None),
    ("frequency_penalty", lambda request: bool(request.frequency_penalty)),
    ("presence_penalty", lambda request: bool(request.presence_penalty)),
    ("logit_bias", lambda request: request.logit_bias not in (None, wire.NULL, _EMPTY_OBJECT)),
)


def _write_sampling(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    for field, is_meant in _WITHOUT_WORD:
        if is_meant(request):
            _refuse(field, target)
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    for field, value in sampling.items():
        if value is None:
            continue
        if "no_sampling_params" in target.flags:
            _refuse(field, target, f"{target.model} takes no sampling parameters")
        else:
            body[field] = value


_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""Tokens for an effort, for models that think by budget."""


def _write_output(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    """Thinking and the answer's shape: `thinking` and `output_config`."""
    config: dict[str, Any] = {}
    reasoning = request.reasoning
    if reasoning is not None:
        if reasoning.mode == "disabled" or reasoning.effort == "none":
            _write_no_thinking(body, config, reasoning, target)
        elif "supports_adaptive_thinking" in target.flags:
            body["thinking"] = {"type": "adaptive", "display": reasoning.display or "summarized"}
            config |= _effort(reasoning)
        else:
            _write_budget(body, reasoning, target)
        if body.get("thinking", {}).get("type") in {"adaptive", "enabled"}:
            _unsample(body)
    wanted = request.response_format
    if wanted is not None and wanted.schema is not None:
        config["format"] = {"type": "json_schema", "schema": wanted.schema}
    elif wanted is not None:
        _refuse("response_format", target, "it writes JSON to a schema only (`json_schema`)")
    if config:
        body["output_config"] = config


def _write_no_thinking(
    body: dict[str, Any], config: dict[str, Any], reasoning: Reasoning, target: Target
) -> None:
    """Models that think by budget do not unless asked, and the older of them do not know the word."""
    if "thinking_always_on" in target.flags:
        _refuse("reasoning_effort", target, f"{target.model} always thinks")
        return
    if reasoning.mode == "disabled" or "supports_adaptive_thinking" in target.flags:
        body["thinking"] = {"type": "disabled"}
    if reasoning.effort not in {None, "none"}:
        config["effort"] = reasoning.effort


def _effort(reasoning: Reasoning) -> dict[str, Any]:
    effort = reasoning.effort
    if effort is None and reasoning.budget is not None:
        fitting = (
            word for word, tokens in _BUDGETS.items() if tokens >= reasoning.budget and word != "minimal"
        )
        effort = next(fitting, "max")
    return {"effort": "low" if effort == "minimal" else effort} if effort else {}


def _write_budget(body: dict[str, Any], reasoning: Reasoning, target: Target) -> None:
    effort = reasoning.effort or "medium"
    if reasoning.budget is None and effort not in _BUDGETS:
        raise BadRequest(f"reasoning_effort: must be one of {', '.join(_BUDGETS)}", param="reasoning_effort")
    budget = reasoning.budget if reasoning.budget is not None else _BUDGETS[effort]
    if body["max_tokens"] <= budget:
        body["max_tokens"] += budget
    if target.max_output_tokens is not None and body["max_tokens"] > target.max_output_tokens:
        body["max_tokens"] = target.max_output_tokens
        budget = min(budget, target.max_output_tokens - 1)
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if reasoning.display is not None:
        body["thinking"]["display"] = reasoning.display


def _unsample(body: dict[str, Any]) -> None:
    body.pop("top_k", None)
    if body.get("temperature") != 1:
        body.pop("temperature", None)
    if body.get("top_p", 1) < 0.95:
        del body["top_p"]


def _write_unspoken(body: dict[str, Any], request: ChatRequest, target: Target) -> None:
    for field, value in request.unspoken.items():
        if field in wire.OWN or field == "thinking":
            body[field] = value
        elif field not in openai_wire.HINTS:
            _refuse(field, target)


_PATHS: dict[str, str] = {"chat": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}


def address(
    body: bytes, target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool
) -> HttpRequest:
    """`POST {base_url}/v1/messages`; a `base_url` that ends in `/v1` is understood too. Raises `Unsupported`.

    The API version is the client's if it sent one, else the one that the provider's row names, else `wire.VERSION`.
    """
    provider = target.provider
    path = (provider.paths or _PATHS).get(operation)
    if path is None:
        raise Unsupported(f"{provider.name} does not offer {operation}", param="model")
    names = {name: quote(value, safe="") for name, value in {**target.options, "model": target.model}.items()}
    try:
        path = path.format_map(names)
    except KeyError as missing:
        raise Unsupported(
            f"A deployment of {provider.name} needs the option {missing}", param="model"
        ) from None
    base = target.base_url.rstrip("/")
    if path.startswith("/v1/"):
        base = base.removesuffix("/v1")
    sent = {
        "content-type": "application/json",
        "accept": "text/event-stream" if stream else "application/json",
        "anthropic-version": wire.VERSION,
    }
    sent |= {name.lower(): value for name, value in provider.headers.items()}
    sent |= {name.lower(): value for name, value in headers.items()}
    return HttpRequest("POST", base + path, tuple(sent.items()), body)


# == a provider's answer =============================================================================================


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a Messages answer."""
    answer = decode(body, _ANSWER)
    if answer.type == "error" or answer.error is not None:
        raise _error_in(body)
    if answer.content is None:
        raise UpstreamMalformed("The provider sent an answer without content")
    finish = _finish(answer)
    return ChatResponse(
        id=answer.id or "",
        model=answer.model or "",
        choices=(
            Choice(
                tuple(_answer_part(raw) for raw in answer.content),
                finish,
                answer.stop_sequence,
                detail=_given(answer.stop_details),
            ),
        ),
        usage=_usage(answer.usage) if answer.usage else None,
    )


def _answer_part(raw: Raw) -> Part:
    kind = decode(raw, _KIND).type or ""
    if kind not in wire.ANSWER_BLOCKS:
        return Opaque(NAME, kind, raw)
    return _part(decode(raw, wire.BLOCKS[kind]), kind, raw, "content")


def _finish(answer: wire.Answer) -> FinishReason:
    return _FINISH.get(answer.stop_reason or "", "stop")


def _usage(counts: wire.Usage) -> Usage:
    split = counts.cache_creation or wire.CacheCreation()
    hour = split.ephemeral_1h_input_tokens or 0
    written = counts.cache_creation_input_tokens
    if written is None:
        written = hour + (split.ephemeral_5m_input_tokens or 0)
    hour = min(hour, written)
    output = counts.output_tokens or 0
    thinking = counts.output_tokens_details.thinking_tokens if counts.output_tokens_details else None
    reasoning = min(thinking or 0, output)
    return Usage(
        input=counts.input_tokens or 0,
        cache_read=counts.cache_read_input_tokens or 0,
        cache_write=written - hour,
        cache_write_1h=hour,
        output=output - reasoning,
        reasoning=reasoning,
    )


def _newer(known: wire.Usage, given: wire.Usage | None) -> wire.Usage:
    """Running totals: what is given replaces what is known, what is left out stays."""
    if given is None:
        return known
    fields = msgspec.structs.asdict(given)
    return msgspec.structs.replace(
        known, **{name: value for name, value in fields.items() if value is not None}
    )


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer means. A 413 comes from a proxy in front of the API and is HTML."""
    try:
        answer = decode(body, _ANSWER)
    except UpstreamMalformed:
        answer = wire.Answer(message=body.decode("utf-8", "replace"))
    error = answer.error if isinstance(answer.error, wire.Error) else wire.Error()
    message = error.message or (answer.error if isinstance(answer.error, str) else answer.message) or ""
    return classify(status, message=message, type=error.type, headers=headers, body=body)


def _error_in(body: bytes) -> UpstreamError:
    """The error that came with status 200, as an event or as a whole answer."""
    try:
        answer = decode(body, _ANSWER)
    except UpstreamMalformed as error:
        return error
    kind = (answer.error.type if isinstance(answer.error, wire.Error) else None) or ""
    return read_error(wire.STATUS_OF.get(kind, 500), {}, body)


# -- its stream ------------------------------------------------------------------------------------------------------

_DELTA_HEAD = b"event: content_block_delta\ndata: "
_DELTA_AT = len(_DELTA_HEAD)


def _is_one_delta(events: bytes) -> bool:
    """Is this one event, and a delta of a block? That is the usual case: providers write each event by itself."""
    return events.startswith(_DELTA_HEAD) and events.find(b"\n", _DELTA_AT) == len(events) - 2


def _split(events: bytes) -> Iterable[bytes]:
    """Each event with the blank line that ends it."""
    if b"\r" in events:  # never inside JSON, so it ends a line
        return split_events(events)
    return [event + b"\n\n" for event in events.split(b"\n\n") if event]


def _open_event(name: bytes, data: bytes) -> wire.Event | None:
    """One event; None for what is none of ours. Raises the error that it is, or `UpstreamMalformed`."""
    if name == b"error":
        raise _error_in(data)
    try:
        event = decode(data, _EVENT)
    except UpstreamMalformed:
        kind = _kind_of(data)
        if kind is None or kind in wire.EVENT_KINDS:
            raise
        return None
    if event.type == "error" or (not event.type and event.error != wire.NULL):
        raise _error_in(data)
    return event


def _kind_of(data: bytes) -> str | None:
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
    return _Reader()


class _Reader:
    """Takes a stream of blocks apart."""

    __slots__ = ("_bare", "_broken", "_finished", "_started", "_tools", "_usage", "done")

    def __init__(self) -> None:
        self.done = False
        self._broken = False
        self._started = False
        self._finished = False
        self._tools: dict[int, int] = {}  # block → number of its tool call
        self._bare: dict[int, int] = {}  # those of them that have no arguments yet
        self._usage = wire.Usage()

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if not events.isascii():
            events = events.decode("utf-8", "replace").encode()
        try:
            if _is_one_delta(events):
                if not self.done and not self._broken:
                    self._piece(events[_DELTA_AT:-2], deltas)
            else:
                self._each(events, deltas)
        except UpstreamError as error:
            self._broken = True
            deltas.append(Failure(error))
        return deltas

    def _each(self, events: bytes, deltas: list[Delta]) -> None:
        for event in _split(events):
            if self.done or self._broken:
                break
            if _is_one_delta(event):
                self._piece(event[_DELTA_AT:-2], deltas)
            else:
                self._event(*read_event(event), deltas)

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
        event = _open_event(name, data) if data else None
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
            self._usage = _newer(self._usage, event.usage)
            if event.usage is not None:
                deltas.append(UsageDelta(_usage(self._usage)))
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
        self._usage = _newer(self._usage, message.usage)
        usage = _usage(self._usage) if message.usage else None
        deltas.append(Start(message.id or "", message.model or "", usage))

    def _open(self, index: int, block: wire.Block, deltas: list[Delta]) -> None:
        """A block begins. Anthropic's begin empty, compatible servers put everything into the beginning."""
        self._start(wire.Answer(), deltas)
        if block.type == "tool_use":
            tool = self._tools[index] = self._bare[index] = len(self._tools)
            deltas.append(ToolStart(tool, block.id or "", block.name or ""))
            if block.input not in (wire.NULL, _EMPTY_OBJECT):
                del self._bare[index]
                deltas.append(ToolDelta(tool, Raw(_encode(bytes(block.input).decode()))))
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
        reason = _FINISH.get(delta.stop_reason or "", "stop")
        deltas.append(Finish(reason, delta.stop_sequence, detail=_given(delta.stop_details)))


# == both sides speak it =============================================================================================


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question with the target's `model`; all other values are the same bytes, known to us or not."""
    body: dict[str, Any] = {**envelope, "model": target.model}
    if stream:
        body["stream"] = True
    return seal(_fitted(body, target))


def pass_response(
    body: bytes, target: Target, operation: Operation, *, model: str
) -> tuple[bytes, Usage | None, FinishReason | None, str]:
    """A whole answer, in which only the top-level `model` is another. An answer of count_tokens has none."""
    answer = decode(body, _ANSWER)
    if answer.type == "error" or answer.error is not None:
        raise _error_in(body)
    if operation != "chat":
        return body, None, None, ""
    usage = _usage(answer.usage) if answer.usage else None
    return _replaced(body, "model", _encode(model)), usage, _finish(answer), answer.id or ""


_KEY = re.compile(rb'[ \t\n\r,]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*')


def _replaced(data: bytes, key: str, value: bytes) -> bytes:
    """A JSON object with another value at a top-level `key`, and all other bytes as they were.

    Walks from value to value by the lengths that the decoder found. An object on which that fails (it has a key twice,
    or odd JSON in it) is opened and sealed again.
    """
    opened = decode(data, _OBJECT)
    if key not in opened:
        return data
    at = data.index(b"{") + 1
    while found := _KEY.match(data, at):
        name = decode(found[1], _TEXT)
        old = bytes(opened.get(name, b""))
        if not old or not data.startswith(old, found.end()):
            break
        at = found.end() + len(old)
        if name == key:
            return data[: found.end()] + value + data[at:]
    return seal({**opened, key: Raw(value)})


def pass_stream(target: Target, operation: Operation, *, model: str, wants_usage: bool) -> StreamEditor:
    """An editor for one streamed answer."""
    return _Editor(model)


_WORDS = frozenset({b"text", b"king", b"json"})


class _Editor:
    """Lets events pass. Only those that say something of the whole answer are opened, by their names."""

    __slots__ = (
        "_counts",
        "_model",
        "answer_id",
        "chars",
        "deltas",
        "done",
        "events",
        "failure",
        "finish",
        "usage",
    )

    def __init__(self, model: str) -> None:
        self.done = False
        self.failure: GatewayError | None = None
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self.answer_id = ""
        self.events = 0
        self.deltas = 0
        self.chars = 0
        self._model = _encode(model)
        self._counts = wire.Usage()

    def feed(self, events: bytes) -> bytes:
        if _is_one_delta(events) and not self.done and self.failure is None:
            self._count(events)  # the usual case: one delta, nothing to edit
            return events
        out: list[bytes] = []
        try:
            for event in _split(events):
                if self.done or self.failure is not None:
                    break
                out.append(self._pass(event))
        except UpstreamError as error:
            self.failure = error
        return b"".join(out)

    def close(self) -> bytes:
        if not self.done and self.failure is None:
            self.failure = UpstreamMalformed("The provider's stream ended without `message_stop`")
        return b""

    def _count(self, event: bytes) -> None:
        """A delta of a block. The last string in it are its words, if it is called `text`, `thinking` or `partial_json`."""
        self.events += 1
        end = event.rfind(b'"')
        at, gap = event.rfind(b'":"', 0, end), 3
        if at < 0:
            at, gap = event.rfind(b'": "', 0, end), 4
        length = end - at - gap
        if length > 0 and event[at - 4 : at] in _WORDS:
            self.deltas += 1
            self.chars += length

    def _pass(self, event: bytes) -> bytes:
        if _is_one_delta(event):
            self._count(event)
            return event
        name, data = read_event(event)
        opened = _open_event(name, data) if data else wire.Event("ping")
        if opened is not None and opened.type == "ping":
            return event
        if opened is not None and opened.type == "content_block_delta":
            self._count(event)
            return event
        self.events += 1
        if opened is None:
            return event
        if opened.type == "message_start" and opened.message is not None:
            return self._start(opened.message, event, data)
        if opened.type == "message_delta":
            self._know(opened.usage)
            if opened.delta is not None and opened.delta.stop_reason:
                self.finish = _FINISH.get(opened.delta.stop_reason, "stop")
        self.done = opened.type == "message_stop"
        return event

    def _know(self, counts: wire.Usage | None) -> None:
        if counts is not None:
            self._counts = _newer(self._counts, counts)
            self.usage = _usage(self._counts)

    def _start(self, message: wire.Answer, event: bytes, data: bytes) -> bytes:
        self._know(message.usage)
        self.answer_id = message.id or ""
        old = bytes(decode(data, _OBJECT)["message"])
        edited = _replaced(data, "message", _replaced(old, "model", self._model))
        at = event.find(data)
        if at < 0:  # its data were on several lines
            return sse(edited, b"message_start")
        return event[:at] + edited + event[at + len(data) :]
