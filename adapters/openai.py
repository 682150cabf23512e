"""OpenAI's chat completions, both sides, and completions and embeddings where they only pass through.

https://platform.openai.com/docs/api-reference/chat is what clients speak to us; what providers speak back under the
same name is a family of dialects. So the client's side is strict (a wrong type is refused with its place), the
provider's side is lenient. The format is one module for those who call it and a few files for those who read it:

* this one is the client's side: the question that we are asked, and our answer;
* `openai_questions` asks a provider, in its own words or in the client's;
* `openai_answers` reads what the provider answers and what went wrong, `openai_usage` what it cost;
* `mistral` is the one dialect that also differs where nothing is translated;
* `openai_editor` passes an answer on where both sides speak this format: the hot path.

Two decisions that are not obvious. A `system` message in the middle of a conversation joins the others in front, in
order: most vendors know one system prompt, and to say it as the user would give it the user's authority only. And
reasoning comes and goes as LiteLLM writes it: words in `reasoning_content`, and Anthropic's blocks with their
signatures, which a tool loop must send back, in `thinking_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters.errors import BadRequest, GatewayError
from adapters.fields import bad_value, read_fields, read_value
from adapters.framing import SseCutter, on_one_line
from adapters.openai_answers import read_error, read_response, read_stream
from adapters.openai_editor import pass_response, pass_stream
from adapters.openai_questions import address, pass_request, write_request
from adapters.openai_usage import read_usage
from adapters.signatures import opened_id
from adapters.types import (
    Audio,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Document,
    Finish,
    FinishReason,
    Image,
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
from adapters.wire import openai as wire
from adapters.wire.gemini import NATIVE_TOOLS
from adapters.wire.openai import given

__all__ = [
    "KEEP_ALIVE",
    "NAME",
    "STREAM_TYPE",
    "ChatWriter",
    "address",
    "cut",
    "pass_request",
    "pass_response",
    "pass_stream",
    "read_error",
    "read_request",
    "read_response",
    "read_stream",
    "read_usage",
    "write_error",
    "write_request",
    "write_response",
    "write_stream",
]

NAME = "openai"
STREAM_TYPE: str = "text/event-stream"
cut = SseCutter
KEEP_ALIVE: bytes = b": keep-alive\n\n"

_DONE = b"data: [DONE]\n\n"
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')

_QUESTION = msgspec.json.Decoder(wire.ChatQuestion)
_QUESTION_FIELDS = frozenset(wire.ChatQuestion.__struct_fields__)
_TOOL_TYPE = msgspec.json.Decoder(wire.ToolType)
_TOOL = msgspec.json.Decoder(wire.Tool)
_KEYS = msgspec.json.Decoder(dict[str, Raw])
_ANYTHING = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


# -- the client's question -------------------------------------------------------------------------------------------


def read_request(envelope: Mapping[str, Raw]) -> ChatRequest:
    """Read a chat completion request. Raises `BadRequest` with `param` as `messages[2].content[0].type`."""
    for name in ("messages", "model"):
        if given(envelope.get(name, wire.NOTHING)) is None:
            raise BadRequest(f"/chat/completions: Missing required parameter: '{name}'.", param=name)
    asked = read_fields(envelope, _QUESTION)
    system, messages = _read_messages(asked.messages)
    tool_choice, unspoken = _read_tool_choice(asked), _read_unspoken(envelope)
    if isinstance(asked.tool_choice, (wire.AllowedTools, wire.CustomToolChoice)):
        unspoken["tool_choice"] = envelope["tool_choice"]
    return ChatRequest(
        model=asked.model,
        messages=messages,
        system=system,
        tools=_read_tools(asked),
        tool_choice=tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        max_tokens=asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        n=asked.n,
        seed=asked.seed,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        logit_bias=given(asked.logit_bias),
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        response_format=_read_response_format(asked.response_format),
        reasoning=_read_reasoning(asked),
        user=asked.user,
        stream=bool(asked.stream),
        extra={k: v for k, v in envelope.items() if k not in _QUESTION_FIELDS and k not in wire.UNSPOKEN},
        unspoken=unspoken,
    )


def _read_unspoken(envelope: Mapping[str, Raw]) -> dict[str, Raw]:
    unspoken = {
        name: raw for name, raw in envelope.items() if name in wire.UNSPOKEN and given(raw) is not None
    }
    if "modalities" in unspoken and read_value(unspoken["modalities"], _ANYTHING, "modalities") == ["text"]:
        del unspoken["modalities"]  # what it is anyway
    return unspoken


def _read_messages(messages: Sequence[wire.Message]) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
    if not messages:
        raise BadRequest("Invalid 'messages': it must have at least one message.", param="messages")
    system: list[Text] = []
    turns: list[Message] = []
    results: list[Part] = []
    last_function = ""
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if message.role in {"tool", "function"}:
            results.append(_read_tool_result(message, where, last_function))
            continue
        if results:
            turns.append(Message("user", tuple(results)))
            results = []
        if message.role in {"system", "developer"}:
            system += _read_system(message, where)
        elif message.role == "user":
            if message.content is None:
                raise BadRequest(f"Missing required parameter: '{where}.content'.", param=f"{where}.content")
            turns.append(Message("user", tuple(_read_content(message, where))))
        else:
            last_function = f"call_{at}" if message.function_call else last_function
            parts = _read_assistant(message, where, last_function)
            if parts:
                turns.append(Message("assistant", tuple(parts)))
    if results:
        turns.append(Message("user", tuple(results)))
    return tuple(system), tuple(turns)


def _read_system(message: wire.Message, where: str) -> list[Text]:
    texts: list[Text] = []
    for at, part in enumerate(_read_content(message, where)):
        if not isinstance(part, Text):
            place = f"{where}.content[{at}].type"
            raise BadRequest(f"Invalid value for '{place}': a {message.role} message is text.", param=place)
        texts.append(part)
    return texts


def _read_assistant(message: wire.Message, where: str, function_id: str) -> list[Part]:
    parts: list[Part] = [_read_part(block, where) for block in message.thinking_blocks or ()]
    if message.reasoning_content and not parts:
        parts.append(Thinking(message.reasoning_content))
    parts += [part for part in _read_content(message, where) if part != Text("")]
    if message.refusal:
        parts.append(Refusal(message.refusal))
    for at, call in enumerate(message.tool_calls or ()):
        if not call.id:
            place = f"{where}.tool_calls[{at}].id"
            raise BadRequest(f"Missing required parameter: '{place}'.", param=place)
        parts.append(_read_call(call, call.id))
    if message.function_call:
        parts.append(
            ToolCall(function_id, message.function_call.name, message.function_call.arguments or "{}")
        )
    return parts


def _read_call(call: wire.ToolCall, written_id: str) -> ToolCall:
    """A call, with the seal on it wherever it stands: in Google's field, in LiteLLM's, in the id."""
    ident, signature = opened_id(written_id)
    google = call.extra_content.google if call.extra_content else None
    for sealed in (google, call.provider_specific_fields):
        signature = (sealed and sealed.thought_signature) or signature
    cache = given(call.cache_control)
    return ToolCall(ident, call.function.name, call.function.arguments or "{}", cache, signature=signature)


def _read_tool_result(message: wire.Message, where: str, last_function: str) -> ToolResult:
    call_id = message.tool_call_id or (last_function if message.role == "function" else "")
    if not call_id:
        raise BadRequest(
            f"Missing required parameter: '{where}.tool_call_id'.", param=f"{where}.tool_call_id"
        )
    parts = _read_content(replace(message, cache_control=wire.NOTHING), where)
    cache = given(message.cache_control)
    return ToolResult(opened_id(call_id)[0], tuple(parts), cache=cache)


def _read_content(message: wire.Message, where: str) -> list[Part]:
    if message.content is None:
        return []
    if isinstance(message.content, str):
        return [Text(message.content, cache=given(message.cache_control))]
    parts = [_read_part(part, f"{where}.content[{at}]") for at, part in enumerate(message.content)]
    cache = given(message.cache_control)
    if cache is not None and parts and isinstance(parts[-1], (Text, Image, Document)):
        parts[-1] = replace(parts[-1], cache=cache)
    return parts


def _read_part(part: wire.ContentPart, where: str) -> Part:
    match part:
        case wire.TextPart():
            return Text(part.text, cache=given(part.cache_control))
        case wire.ImagePart():
            return _read_image(part, where)
        case wire.AudioPart():
            return Audio(part.input_audio.data, part.input_audio.format)
        case wire.FilePart():
            return _read_file(part, where)
        case wire.RefusalPart():
            return Refusal(part.refusal)
        case wire.ThinkingPart():
            return Thinking(part.thinking, part.signature)
        case wire.RedactedThinkingPart():
            return RedactedThinking(part.data)


def _read_image(part: wire.ImagePart, where: str) -> Image:
    image = wire.ImageUrl(part.image_url) if isinstance(part.image_url, str) else part.image_url
    cache = given(part.cache_control)
    if image.url.startswith("data:"):
        media_type, data = _read_data_url(image.url, f"{where}.image_url.url")
        return Image(media_type=image.format or media_type, data=data, detail=image.detail, cache=cache)
    return Image(media_type=image.format, url=image.url, detail=image.detail, cache=cache)


def _read_file(part: wire.FilePart, where: str) -> Document:
    file, cache = part.file, given(part.cache_control)
    if file.file_data:
        if file.file_data.startswith("data:"):
            media_type, data = _read_data_url(file.file_data, f"{where}.file.file_data")
        else:
            media_type, data = "application/pdf", file.file_data
        return Document(media_type=file.format or media_type, data=data, name=file.filename, cache=cache)
    if not file.file_id:
        raise BadRequest(
            f"Missing required parameter: '{where}.file.file_id'.", param=f"{where}.file.file_id"
        )
    if file.file_id.startswith(("https://", "http://")):
        return Document(media_type=file.format, url=file.file_id, name=file.filename, cache=cache)
    return Document(media_type=file.format, file_id=file.file_id, name=file.filename, cache=cache)


def _read_data_url(url: str, where: str) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise BadRequest(f"Invalid value for '{where}': a data URL must be base64.", param=where)
    return head[len("data:") :].partition(";")[0], data


def _read_tools(asked: wire.ChatQuestion) -> tuple[Tool | Opaque, ...]:
    tools: list[Tool | Opaque] = []
    for at, raw in enumerate(asked.tools or ()):
        try:
            asked_tool = _TOOL_TYPE.decode(raw)
            kind = asked_tool.type or _native(raw) or "function"
            if kind == "function":
                tool = _TOOL.decode(raw)
                tools.append(_read_function(tool.function, tool.cache_control))
            else:
                tools.append(Opaque(NAME, kind, raw))
        except msgspec.ValidationError as error:
            raise bad_value(error, f"tools[{at}]") from None
    return (*tools, *(_read_function(function) for function in asked.functions or ()))


def _native(raw: Raw) -> str | None:
    """A tool that Google runs, as LiteLLM's users write it: `{"googleSearch": {}}`."""
    return next((name for name in _KEYS.decode(raw) if name in NATIVE_TOOLS), None)


def _read_function(function: wire.Function, cache: Raw = wire.NOTHING) -> Tool:
    return Tool(
        name=function.name,
        schema=given(function.parameters) or _NO_PARAMETERS,
        description=function.description,
        strict=function.strict,
        cache=given(cache) or given(function.cache_control),
    )


def _read_tool_choice(asked: wire.ChatQuestion) -> ToolChoice | None:
    match asked.tool_choice if asked.tool_choice is not None else asked.function_call:
        case "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required" | "any":
            return ToolChoice("required")
        case wire.NamedToolChoice(function=function):
            return ToolChoice("named", function.name)
        case wire.Named(name=name):
            return ToolChoice("named", name)
        case _:
            return None


def _read_response_format(asked: wire.ResponseFormat | None) -> ResponseFormat | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return ResponseFormat("json_object")
    schema = asked.json_schema
    if schema is None:
        place = "response_format.json_schema"
        raise BadRequest(f"Missing required parameter: '{place}'.", param=place)
    return ResponseFormat("json_schema", given(schema.schema), schema.name, schema.strict, schema.description)


def _read_reasoning(asked: wire.ChatQuestion) -> Reasoning | None:
    effort = asked.reasoning_effort
    if asked.thinking is not None:
        return Reasoning(asked.thinking.type, effort, asked.thinking.budget_tokens, asked.thinking.display)
    if effort is None:
        return None
    return Reasoning("disabled") if effort == "none" else Reasoning("enabled", effort)


# -- our answer to the client ----------------------------------------------------------------------------------------

_WRITE_FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "stop",
    "error": "error",
}


def write_response(answer: ChatResponse, *, answer_id: str, model: str, now: int) -> bytes:
    """A `chat.completion`. Blocks that only another vendor understands (`Opaque`) have no word here."""
    choices = [_write_choice(at, choice) for at, choice in enumerate(answer.choices)]
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": now,
        "model": model,
        "choices": choices,
    }
    if answer.usage is not None:
        body["usage"] = _write_usage(answer.usage)
    return _encode(body)


def _write_choice(at: int, choice: Choice) -> dict[str, Any]:
    parts = choice.parts
    text = "".join(part.text for part in parts if isinstance(part, Text))
    refusal = "".join(part.text for part in parts if isinstance(part, Refusal))
    calls = [part for part in parts if isinstance(part, ToolCall)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (calls or refusal) else None,
        "refusal": refusal or None,
    }
    thinking = [part for part in parts if isinstance(part, (Thinking, RedactedThinking))]
    if thinking:
        message["reasoning_content"] = "".join(part.text for part in thinking if isinstance(part, Thinking))
    if any(isinstance(part, RedactedThinking) or part.signature for part in thinking):
        message["thinking_blocks"] = [_write_thinking(part) for part in thinking]
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | _sealed(call.signature)
            for call in calls
        ]
    own = {"citations": [part.citations for part in parts if isinstance(part, Text) and part.citations]}
    if own["citations"]:
        message["provider_specific_fields"] = own
    written = {
        "index": at,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": _WRITE_FINISH[choice.finish],
    }
    if choice.finish in {"pause", "refusal"} or choice.detail is not None:
        written["provider_specific_fields"] = {"finish_reason": choice.finish, "detail": choice.detail}
    return written


def _sealed(signature: str | None) -> dict[str, Any]:
    """A vendor's seal on the thoughts behind a call, as Google's own endpoint for OpenAI's clients and as LiteLLM writes it."""
    if signature is None:
        return {}
    sealed = {"thought_signature": signature}
    return {"extra_content": {"google": sealed}, "provider_specific_fields": sealed}


def _write_thinking(part: Thinking | RedactedThinking) -> dict[str, Any]:
    if isinstance(part, RedactedThinking):
        return {"type": "redacted_thinking", "data": part.data}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}


def _write_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage, with LiteLLM's two names for cached tokens beside it where there are any."""
    cache_write = usage.cache_write + usage.cache_write_1h
    written: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": cache_write,
            "audio_tokens": usage.audio_input,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_output,
        },
    }
    if cache_write:
        written["cache_creation_input_tokens"] = cache_write
    if usage.cache_read:
        written["cache_read_input_tokens"] = usage.cache_read
    return written


class ChatWriter:
    """Writes one stream of chunks. What never changes within it is built once, so that words are spliced in."""

    __slots__ = (
        "_head",
        "_roles",
        "_tail",
        "_text_head",
        "_text_tail",
        "_thinking",
        "_usage",
        "_wants_usage",
    )

    def __init__(
        self, answer_id: str, model: str, now: int, *, wants_usage: bool, told: Told | None = None
    ) -> None:
        head = {"id": answer_id, "object": "chat.completion.chunk", "created": now, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if wants_usage else b"]}\n\n"
        self._text_head = self._head + b'{"index":0,"delta":{"content":'
        self._text_tail = b'},"finish_reason":null}' + self._tail
        self._wants_usage = wants_usage
        self._roles: set[int] = set() if told is None else {0}
        self._thinking: dict[int, list[bytes]] = {}
        self._usage: Usage | None = None

    def words(self, text: bytes) -> bytes:
        if 0 in self._roles:
            return self._text_head + text + self._text_tail
        return self.feed((TextDelta(Raw(text)),))

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        out: list[bytes | Raw] = []
        for delta in deltas:
            if type(delta) is TextDelta and delta.logprobs is None and delta.choice == 0 and 0 in self._roles:
                out += (self._text_head, delta.text, self._text_tail)
            else:
                self._write(delta, out)
        return b"".join(out)

    def _write(self, delta: Delta, out: list[bytes | Raw]) -> None:
        match delta:
            case Start():
                self._usage = delta.usage
                self._open(0, out)
            case TextDelta():
                self._step(delta.choice, b'{"content":%b}' % bytes(delta.text), out, logprobs=delta.logprobs)
            case ThinkingDelta():
                text = bytes(delta.text)
                self._thinking.setdefault(delta.choice, []).append(text[1:-1])
                self._step(delta.choice, b'{"reasoning_content":%b}' % text, out)
            case SignatureDelta():
                thinking = b"".join(self._thinking.pop(delta.choice, ()))
                block = b'{"type":"thinking","thinking":"%b","signature":%b}' % (
                    thinking,
                    bytes(delta.signature),
                )
                self._step(delta.choice, b'{"thinking_blocks":[%b]}' % block, out)
            case RedactedDelta():
                block = b'{"type":"redacted_thinking","data":%b}' % bytes(delta.data)
                self._step(delta.choice, b'{"thinking_blocks":[%b]}' % block, out)
            case RefusalDelta():
                self._step(delta.choice, b'{"refusal":%b}' % bytes(delta.text), out)
            case ToolStart():
                function = {"name": delta.name, "arguments": ""}
                call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
                call |= _sealed(delta.signature)
                self._step(delta.choice, b'{"tool_calls":[%b]}' % _encode(call), out)
            case ToolDelta():
                call_bytes = b'{"index":%d,"function":{"arguments":%b}}' % (
                    delta.index,
                    bytes(delta.arguments),
                )
                self._step(delta.choice, b'{"tool_calls":[%b]}' % call_bytes, out)
            case UsageDelta():
                self._usage = delta.usage
            case Finish():
                finish = _encode(_WRITE_FINISH[delta.reason])
                if delta.detail is not None:
                    own = {"finish_reason": delta.reason, "detail": delta.detail}
                    finish += b',"provider_specific_fields":' + on_one_line(_encode(own))
                self._step(delta.choice, b"{}", out, finish=finish)
            case Ping():
                out.append(KEEP_ALIVE)
            case _:
                return

    def _open(self, choice: int, out: list[bytes | Raw]) -> None:
        if choice not in self._roles:
            self._roles.add(choice)
            self._step(choice, b'{"role":"assistant","content":""}', out)

    def _step(
        self,
        choice: int,
        delta: bytes,
        out: list[bytes | Raw],
        *,
        finish: bytes = b"null",
        logprobs: Raw | None = None,
    ) -> None:
        self._open(choice, out)
        probabilities = b"" if logprobs is None else b',"logprobs":%b' % on_one_line(bytes(logprobs))
        step = b'{"index":%d,"delta":%b%b,"finish_reason":%b}' % (choice, delta, probabilities, finish)
        out += (self._head, step, self._tail)

    def close(self) -> bytes:
        if self._usage is None or not self._wants_usage:
            return _DONE
        return self._head + b'],"usage":' + _encode(_write_usage(self._usage)) + b"}\n\n" + _DONE


def write_stream(
    *, answer_id: str, model: str, now: int, wants_usage: bool, told: Told | None = None
) -> ChatWriter:
    """A writer of `chat.completion.chunk` events; `wants_usage` is the client's `stream_options.include_usage`."""
    return ChatWriter(answer_id, model, now, wants_usage=wants_usage, told=told)


_SAID = frozenset({"message", "type", "param", "code"})


def write_error(
    error: GatewayError,
    *,
    request_id: str,
    mid_stream: bool,
) -> bytes:
    """`{"error": {message, type, param, code}}`, as a body or as the event that ends a stream; never `[DONE]`.

    What else a provider of this format said of its error follows these four.
    """
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body = _encode({"error": said | said_besides(error, _SAID)})
    return b"data: " + on_one_line(body) + b"\n\n" if mid_stream else body
