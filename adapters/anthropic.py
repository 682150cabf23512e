"""Anthropic's Messages API, both sides: clients that speak it to us, and Anthropic itself.

https://platform.claude.com/docs/en/api/messages. The format is one module for those who call it and four files for
those who read it:

* this one is the client's side: the question that we are asked, and our answer;
* `anthropic_questions` asks Anthropic, in its own words or in the client's;
* `anthropic_answers` reads what it answers, what that cost and what went wrong;
* `anthropic_editor` passes an answer on where both sides speak this format: the hot path.

Two things are peculiar here. A stream is a list of **blocks, one after the other**, so the writer opens and closes
blocks as the kind of delta changes; OpenAI's tool calls may come interleaved, and what belongs to a later block waits
until the open one is complete. And the **system prompt is apart**: a `system` turn in mid-conversation joins it, because
other vendors know no such turn and to say it as the user would give it the user's authority only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from adapters.anthropic_answers import kind_of, read_error, read_response, read_stream
from adapters.anthropic_editor import pass_response, pass_stream
from adapters.anthropic_questions import (
    address,
    clean,
    input_object,
    is_object,
    pass_request,
    text_block,
    tool_id,
    write_request,
)
from adapters.base import StreamWriter
from adapters.envelope import decode, seal
from adapters.errors import BadRequest, GatewayError, Unsupported
from adapters.framing import SseCutter, on_one_line, sse
from adapters.signatures import opened_id, sealed_id
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Document,
    Failure,
    Finish,
    FinishReason,
    Image,
    JsonString,
    Message,
    Opaque,
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
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Told,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    UsageDelta,
)
from adapters.upstream_errors import said_besides
from adapters.wire import anthropic as wire
from adapters.wire.anthropic import NAME, given

__all__ = [
    "KEEP_ALIVE",
    "NAME",
    "STREAM_TYPE",
    "address",
    "cut",
    "pass_request",
    "pass_response",
    "pass_stream",
    "read_error",
    "read_request",
    "read_response",
    "read_stream",
    "write_error",
    "write_request",
    "write_response",
    "write_stream",
]

T = TypeVar("T")

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter
KEEP_ALIVE: bytes = b'event: ping\ndata: {"type": "ping"}\n\n'

_encode = msgspec.json.Encoder().encode
_KIND = msgspec.json.Decoder(wire.Kind)
_REQUEST = msgspec.json.Decoder(wire.Request)
_MESSAGE = msgspec.json.Decoder(wire.Message)
_TOOL = msgspec.json.Decoder(wire.Tool)
_TEXT = msgspec.json.Decoder(str)

_REQUEST_FIELDS = frozenset(wire.Request.__struct_fields__) | wire.UNSPOKEN

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


_SAID = frozenset(wire.Error.__struct_fields__)
"""Fields of an error that each one has."""


class ThreadUnsupported(Unsupported):
    """The request belongs to a conversation that Anthropic keeps (`thread`), of which it may hold no more than the end."""


# -- a client's question -----------------------------------------------------------------------------------------------


def read_request(envelope: Mapping[str, Raw]) -> ChatRequest:
    """Read a Messages request.

    `max_tokens` may be missing, though Anthropic demands it: the provider's writer knows a default. Fields that the
    format does not define are `extra`, those that no other format has a place for are `unspoken`. Raises `BadRequest`, and
    `ThreadUnsupported` whatever may be dropped: without its thread the rest of a request is another question.
    """
    if envelope.get("thread", wire.NULL) != wire.NULL:
        message = "Only Anthropic keeps threads; send the whole conversation without `thread`."
        raise ThreadUnsupported(message, param="thread")
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
    except RecursionError:
        raise BadRequest(f"{param or 'body'}: nested too deeply", param=param or None) from None


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
        return Text(block.text, cache=given(block.cache_control), citations=given(block.citations))
    if isinstance(block, wire.ImageBlock):
        return _read_image(block) or Opaque(NAME, kind, raw)
    if isinstance(block, wire.DocumentBlock):
        return _read_document(block) or Opaque(NAME, kind, raw)
    if isinstance(block, wire.ThinkingBlock):
        return Thinking(block.thinking, block.signature)
    if isinstance(block, wire.RedactedThinkingBlock):
        return RedactedThinking(block.data)
    if isinstance(block, wire.ToolUseBlock):
        ident, signature = opened_id(block.id)
        return ToolCall(
            ident, block.name, wire.arguments_of(block), given(block.cache_control), signature=signature
        )
    parts = _read_parts(block.content, f"{param}.content")
    ident, _ = opened_id(block.tool_use_id)
    return ToolResult(ident, parts, bool(block.is_error), given(block.cache_control))


def _read_image(block: wire.ImageBlock) -> Image | None:
    source, cache = block.source, given(block.cache_control)
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
        citations=given(block.citations),
        cache=given(block.cache_control),
    )


def _read_tool(raw: Raw, param: str) -> Tool | Opaque:
    kind = _read(raw, _KIND, param).type
    if kind not in {None, "custom"}:
        return Opaque(NAME, kind or "", raw)
    tool = _read(raw, _TOOL, param)
    schema = given(tool.input_schema) or Raw(b'{"type":"object","properties":{}}')
    return Tool(tool.name, schema, tool.description, tool.strict, given(tool.cache_control))


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


# -- an answer for a client --------------------------------------------------------------------------------------------


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
        return text_block(part) if part.text else None
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, Thinking):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    if isinstance(part, RedactedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    if isinstance(part, ToolCall):
        ident = sealed_id(tool_id(part.id) or spare_id, part.signature)
        return {"type": "tool_use", "id": ident, "name": part.name, "input": input_object(part.arguments)}
    if isinstance(part, Opaque) and part.format == NAME:
        return part.raw
    return None


def _message_id(answer_id: str) -> str:
    return answer_id if answer_id.startswith("msg_") else f"msg_{clean(answer_id)}"


def _stop(reason: FinishReason, stop_sequence: str | None, detail: Raw | None) -> dict[str, Any]:
    """`stop_details` is only what Anthropic itself said, as `{"type":"refusal",…}`."""
    stop: dict[str, Any] = {"stop_reason": _STOP_REASON[reason], "stop_sequence": stop_sequence}
    if detail is not None and reason == "refusal" and kind_of(bytes(detail)) == "refusal":
        stop["stop_details"] = detail
    return stop


def _usage_json(usage: Usage | None) -> dict[str, Any]:
    known = usage or Usage()
    counts: dict[str, Any] = {
        "input_tokens": known.input + known.audio_input + known.image_input,
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
    """`{"type":"error","error":{…},"request_id":…}`, or the `error` event that ends a stream.

    What else Anthropic said of its error follows: by `details.error_code` the SDK knows that a request may be sent anew.
    """
    kind = wire.TYPE_OF.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    said: dict[str, Any] = {"type": kind, "message": error.message}
    if isinstance(error, ThreadUnsupported):
        said["details"] = {"error_code": "thread_unsupported_request"}
    said |= said_besides(error, _SAID, format=NAME)
    body = on_one_line(_encode({"type": "error", "error": said, "request_id": request_id}))
    return sse(body, b"error") if mid_stream else body


def write_stream(
    *, answer_id: str, model: str, now: int, wants_usage: bool, told: Told | None = None
) -> StreamWriter:
    """A writer for one streamed answer, or for the rest of one."""
    return _Writer(_message_id(answer_id), model, told)


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

    def __init__(self, answer_id: str, model: str, told: Told | None = None) -> None:
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
        if told is not None:
            self._started = True
            self._index = told.blocks - 1
            if told.is_open:
                self._kind, self._head = "text", self._delta_head(b"text_delta", b"text")

    def words(self, text: bytes) -> bytes:
        if self._kind == "text":
            return self._head + text + b"}}\n\n"
        if self._kind == "tool_use":
            return b""  # they may have to wait
        return self.feed((TextDelta(Raw(text)),))

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
            ident = sealed_id(tool_id(delta.id) or f"toolu_{self._id}_{delta.index}", delta.signature)
            block = {"type": "tool_use", "id": ident, "name": delta.name, "input": {}}
            self._open("tool_use", block, b"input_json_delta", b"partial_json")
            self._tool = delta.index

    def _may_leave(self) -> bool:
        """Is the open block complete, so that another may begin?"""
        return self._kind != "tool_use" or is_object(b"".join(map(_text, self._arguments)))

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
        self._out.append(sse(on_one_line(_encode(data)), data["type"].encode()))


def _text(string: JsonString) -> bytes:
    """What a JSON string says, as UTF-8; a lone surrogate becomes U+FFFD."""
    return decode(string, _TEXT).encode()
