"""What a provider answers in OpenAI's format: part of `adapters.openai`.

What providers speak under this name is a family of dialects. Reasoning comes under five names, tool calls without ids
or with wrong indexes, usage in four places, errors inside of streams that began well. The reader takes all of them, and
a deviation that cannot be seen in the bytes is a quirk of the provider's row. A whole answer is read as a stream of one
step, so that both follow the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters.envelope import PLAIN_STRING, decode, is_utf8
from adapters.errors import GatewayError, UpstreamError, UpstreamMalformed
from adapters.framing import NEVER, read_event, whole_events
from adapters.openai_usage import find_usage
from adapters.types import (
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    JsonString,
    Part,
    Ping,
    Provider,
    RedactedDelta,
    RedactedThinking,
    Refusal,
    RefusalDelta,
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
    UsageDelta,
)
from adapters.upstream_errors import classify
from adapters.wire import openai as wire
from adapters.wire.openai import given

_EMPTY_ARGUMENTS = Raw(b'"{}"')
_PING = Ping()

_ANSWER = msgspec.json.Decoder(wire.Answer)
_PIECES = msgspec.json.Decoder(list[wire.ReasoningPiece])
_ANYTHING = msgspec.json.Decoder()
_STRING = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode

_READ_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "refusal",
    "error": "error",
    "network_error": "error",
}
_PLAIN_STRING = re.compile(PLAIN_STRING)
_PADDING = re.compile(rb'"(?:obfuscation|p)": ?"([^"\\]*)"\}\s*\Z')
_SEALED = frozenset({"redacted_thinking", "reasoning.encrypted"})
_FALSE = frozenset({b"", b"null", b"false", b"0", b'""', b"{}", b"[]"})


def read_finish(word: str) -> FinishReason:
    """What a vendor's word means; one that nobody knows (`eos`, or none at all) is an ordinary end."""
    return _READ_FINISH.get(word) or _READ_FINISH.get(word.lower(), "stop")


def _is_words(raw: Raw) -> bool:
    """Is it a JSON string that is not empty?"""
    value = bytes(raw)
    return len(value) > 2 and value[0] == 0x22


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read a `chat.completion` of any dialect. Raises `UpstreamMalformed`, or the error that hides in a 200."""
    answer = _read_chunk(body)
    if is_broken(answer) or any(bytes(choice.error) not in _FALSE for choice in answer.choices or ()):
        raise read_error(0, {}, body)
    if not answer.choices:
        raise without_choices(body)
    choices = []
    for at, choice in enumerate(answer.choices):
        reader = _ChoiceReader(at, answer.id or "")
        deltas: list[Delta] = []
        reader.take(choice.message or choice.delta or wire.Piece(), deltas)
        reader.reason = read_finish(choice.finish_reason or "")
        reader.end(deltas)
        choices.append(_assemble(deltas, given(choice.logprobs)))
    if all(choice.finish == "error" and not choice.parts for choice in choices):
        raise read_error(0, {}, body)
    usage = find_usage(answer, target.provider)
    return ChatResponse(answer.id or "", answer.model or "", tuple(choices), usage)


def _read_chunk(data: bytes) -> wire.Answer:
    """One JSON object, its raw values in good UTF-8 so that they can be spliced."""
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("utf-8", "replace").encode()
    return decode(data, _ANSWER)


def _assemble(deltas: Iterable[Delta], logprobs: Raw | None) -> Choice:
    """The parts that the steps of one choice make."""
    parts: list[Part] = []
    finish: FinishReason = "stop"
    for delta in deltas:
        last = parts[-1] if parts else None
        match delta:
            case TextDelta():
                text = _STRING.decode(delta.text)
                if isinstance(last, Text):
                    parts[-1] = Text(last.text + text)
                else:
                    parts.append(Text(text))
            case ThinkingDelta():
                text = _STRING.decode(delta.text)
                if isinstance(last, Thinking) and last.signature is None:
                    parts[-1] = Thinking(last.text + text)
                else:
                    parts.append(Thinking(text))
            case SignatureDelta():
                signature = _STRING.decode(delta.signature)
                if isinstance(last, Thinking) and last.signature is None:
                    parts[-1] = Thinking(last.text, signature)
                else:
                    parts.append(Thinking("", signature))
            case RedactedDelta():
                parts.append(RedactedThinking(_STRING.decode(delta.data)))
            case RefusalDelta():
                parts.append(Refusal(_STRING.decode(delta.text)))
            case ToolStart():
                parts.append(ToolCall(delta.id, delta.name, ""))
            case ToolDelta():
                calls = [at for at, part in enumerate(parts) if isinstance(part, ToolCall)]
                at = calls[delta.index]
                call = parts[at]
                if isinstance(call, ToolCall):
                    parts[at] = replace(call, arguments=call.arguments + _STRING.decode(delta.arguments))
            case Finish():
                finish = delta.reason
            case _:
                continue
    return Choice(tuple(parts), finish, logprobs=logprobs)


class _Call:
    """A tool call as it arrives."""

    __slots__ = ("has_own_id", "held", "id", "index", "key", "name", "only", "spoken", "started")

    def __init__(self, key: int | None) -> None:
        self.index = 0
        self.key = key
        self.id = ""
        self.has_own_id = False
        self.name = ""
        self.only: JsonString | None = None
        """Its arguments, as long as they are one piece."""
        self.started = False
        self.spoken = False
        self.held: list[JsonString] = []


class _ChoiceReader:
    """One choice of an answer, taken apart: the steps of a stream, or the one step that a whole message is.

    Tool calls are numbered as they are opened: vendors begin at 1, give every call the index 0 with a new id, or give
    no index at all. A call is opened when its name is known; one without an id gets one that is made from the answer's.
    """

    __slots__ = ("_answer_id", "_calls", "_choice", "_is_plain", "ended", "reason")

    def __init__(self, choice: int, answer_id: str) -> None:
        self._choice = choice
        self._answer_id = answer_id
        self._calls: list[_Call] = []
        self._is_plain = False
        self.reason: FinishReason | None = None
        self.ended = False

    def take(self, piece: wire.Piece, deltas: list[Delta], logprobs: Raw = wire.NOTHING) -> None:
        """One step: its deltas are added to `deltas`."""
        if (
            piece.reasoning_content is not wire.NOTHING
            or piece.reasoning is not wire.NOTHING
            or _has_details(piece)
        ):
            self._take_reasoning(piece, deltas)
        content = bytes(piece.content)
        if len(content) > 2 and content[0] == 0x22:
            said = None if logprobs is wire.NOTHING else given(logprobs)
            deltas.append(TextDelta(piece.content, self._choice, said))
        elif content[:1] == b"[":
            self._take_list(piece.content, deltas)
        if piece.refusal is not wire.NOTHING and _is_words(piece.refusal):
            deltas.append(RefusalDelta(piece.refusal, self._choice))
        for call in piece.tool_calls or ():
            self._take_call(call, deltas)
        if piece.function_call is not None:
            self._take_call(wire.ToolCallPiece(index=0, function=piece.function_call), deltas)

    def end(self, deltas: list[Delta]) -> None:
        """All that is left, with the `Finish`. A call without arguments has the empty object."""
        if self.ended:
            return
        self.ended = True
        calls = [call for call in self._calls if call.name or call.held]
        for call in calls:
            self._open(call, deltas)
            if not call.spoken:
                deltas.append(ToolDelta(call.index, _EMPTY_ARGUMENTS, self._choice))
        reason = self.reason or "stop"
        deltas.append(Finish("tool_calls" if reason == "stop" and calls else reason, choice=self._choice))

    def _take_reasoning(self, piece: wire.Piece, deltas: list[Delta]) -> None:
        """Plain words, or blocks with signatures that repeat them: in the same step, or at the end of all steps."""
        blocks = piece.thinking_blocks or piece.reasoning_details or ()
        plain = piece.reasoning_content if _is_words(piece.reasoning_content) else piece.reasoning
        words = [
            [raw for raw in (block.thinking, block.text, block.summary) if _is_words(raw)] for block in blocks
        ]
        speaks_in_blocks = any(words) and not self._is_plain
        if not speaks_in_blocks and _is_words(plain):
            self._is_plain = True
            deltas.append(ThinkingDelta(plain, self._choice))
        for block, raws in zip(blocks, words, strict=True):
            if speaks_in_blocks:
                deltas += [ThinkingDelta(raw, self._choice) for raw in raws]
            if _is_words(block.signature):
                deltas.append(SignatureDelta(block.signature, self._choice))
            if block.type in _SEALED and _is_words(block.data):
                deltas.append(RedactedDelta(block.data, self._choice))

    def _take_list(self, content: Raw, deltas: list[Delta]) -> None:
        """Mistral's content: a list of texts and thoughts, a thought being a list of texts again."""
        for piece in decode(content, _PIECES):
            if _is_words(piece.text):
                deltas.append(TextDelta(piece.text, self._choice))
            if _is_words(piece.thinking):
                deltas.append(ThinkingDelta(piece.thinking, self._choice))
            elif bytes(piece.thinking)[:1] == b"[":
                thoughts = [
                    thought.text for thought in decode(piece.thinking, _PIECES) if _is_words(thought.text)
                ]
                deltas += [ThinkingDelta(text, self._choice) for text in thoughts]
            if _is_words(piece.signature):
                deltas.append(SignatureDelta(piece.signature, self._choice))

    def _take_call(self, piece: wire.ToolCallPiece, deltas: list[Delta]) -> None:
        function = piece.function or wire.FunctionPiece()
        name = function.name or ""
        arguments = _read_arguments(function.arguments)
        call = self._find_call(piece, name)
        if call is None:
            if not (name or piece.id or arguments is not None):
                return
            call = _Call(piece.index)
            self._calls.append(call)
        call.id = call.id or piece.id or ""
        call.has_own_id = call.has_own_id or bool(piece.id)
        call.name = call.name or name
        if arguments is not None and (call.spoken or bytes(arguments) != b'"null"'):
            call.only = None if call.spoken or call.held else arguments
            call.held.append(arguments)
        if call.name:
            self._open(call, deltas)

    def _find_call(self, piece: wire.ToolCallPiece, name: str) -> _Call | None:
        """The call that goes on here, None if a new one begins."""
        for call in reversed(self._calls):
            if piece.index is not None:
                if call.key == piece.index:
                    return None if name and _is_another(piece, call) else call
            elif piece.id:
                if call.id == piece.id:
                    return call
            else:
                return None if name else call
        return None

    def _open(self, call: _Call, deltas: list[Delta]) -> None:
        if not call.started:
            call.index = sum(each.started for each in self._calls)
            call.started = True
            if not call.id:
                own = re.sub(r"[^A-Za-z0-9_-]", "", self._answer_id)
                call.id = "_".join(["call", own, str(self._choice), str(call.index)])
            deltas.append(ToolStart(call.index, call.id, call.name, self._choice))
        for arguments in call.held:
            call.spoken = True
            deltas.append(ToolDelta(call.index, arguments, self._choice))
        call.held = []


def _is_another(piece: wire.ToolCallPiece, call: _Call) -> bool:
    """Does a piece with a name begin another call with the same index? Google's endpoint has sent whole calls, all without
    an id and with the index 0.
    """
    if piece.id:
        return bool(call.id) and piece.id != call.id
    if call.has_own_id or call.only is None:
        return False
    try:
        return isinstance(msgspec.json.decode(decode(call.only, _STRING)), dict)
    except (msgspec.DecodeError, UpstreamMalformed, RecursionError):
        return False


def _has_details(piece: wire.Piece) -> bool:
    return bool(piece.thinking_blocks or piece.reasoning_details)


def _read_arguments(raw: Raw) -> JsonString | None:
    """A piece of arguments as a JSON string; some servers send the object itself."""
    value = bytes(raw)
    if value in {b"", b"null", b'""'}:
        return None
    return raw if value[0] == 0x22 else Raw(_encode(value.decode()))


class ChatReader:
    """Reads one stream of chunks.

    A choice's `Finish` is held back until the terminator or the usage chunk: OpenRouter repeats `finish_reason` over
    several chunks, with words between them.
    """

    __slots__ = (
        "_answer_id",
        "_behind",
        "_choices",
        "_end",
        "_failed",
        "_head",
        "_is_padded",
        "_provider",
        "_seen",
        "_started",
        "done",
    )

    def __init__(self, provider: Provider, *, started: bool = False) -> None:
        self.done = False
        self._provider = provider
        self._failed = False
        self._started = started
        self._answer_id = ""
        self._choices: dict[int, _ChoiceReader] = {}
        self._seen = b""
        self._is_padded = False
        self._head = self._behind = self._end = NEVER

    def words(self, events: bytes) -> bytes:
        if events.startswith(self._head) and events.endswith(self._end):
            inside, behind, padding = events[len(self._head) : -len(self._end)].partition(self._behind)
            text = b'"' + inside + b'"'
            if (
                behind
                and (not padding or (self._is_padded and padding.isalnum()))
                and _PLAIN_STRING.fullmatch(text)
                and is_utf8(text)
            ):
                return text
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        is_one = events.find(b"\n") == len(events) - 2
        for event in (events,) if is_one else whole_events(events):
            if self.done or self._failed:
                break
            text = self.words(event)
            if text:
                deltas.append(TextDelta(Raw(text)))
                continue
            name, data = read_event(event)
            if not data:
                if self._started and event.strip():
                    deltas.append(_PING)
            elif data.startswith(b"[DONE]"):
                self._end_with_terminator(deltas)
            elif name == b"error":
                self._fail(read_error(0, {}, data), deltas)
            else:
                self._take(data, deltas)
                self._learn(event, deltas)
        if self.done or self._failed:
            self._head = NEVER
        return deltas

    def _learn(self, event: bytes, deltas: list[Delta]) -> None:
        """Learn what stands around the words of a chunk, once two in a row have begun the same.

        That they are where they seem to be, and all that the chunk says, is proved with other words there.
        """
        last = deltas[-1] if deltas else None
        if type(last) is not TextDelta or last.choice or last.logprobs is not None:
            return
        at = event.find(bytes(last.text)) + 1
        head, tail = event[:at], event[at + len(bytes(last.text)) - 2 :]
        if not at or head == self._head or head != self._seen:
            self._seen = head
            return
        probe = ChatReader(self._provider, started=True)
        other = b"?" + bytes(last.text)[1:]
        if probe.feed(event[:at] + other[:-1] + tail) == [TextDelta(Raw(b'"' + other))] and (
            type(probe.close()[-1]) is Failure
        ):
            self._head = head
            self._behind, self._end, self._is_padded = parts_of_tail(tail)

    def close(self) -> list[Delta]:
        deltas: list[Delta] = []
        if self.done or self._failed:
            return deltas
        if self._choices and all(choice.reason is not None for choice in self._choices.values()):
            self.done = True
            self._finish(deltas)
        else:
            self._fail(UpstreamMalformed("The provider's stream ended before the answer did"), deltas)
        return deltas

    def _end_with_terminator(self, deltas: list[Delta]) -> None:
        if self._choices:
            self.done = True
            self._finish(deltas)
        else:
            self._fail(UpstreamMalformed("The provider's answer has no choices"), deltas)

    def _take(self, data: bytes, deltas: list[Delta]) -> None:
        broken = False
        try:
            chunk = _read_chunk(data)
            if not self._started and (chunk.choices or chunk.id):
                self._start(chunk, deltas)
            for choice in chunk.choices or ():
                reader = self._choice(choice.index or 0)
                reader.take(choice.delta or choice.message or wire.Piece(), deltas, choice.logprobs)
                if choice.finish_reason:
                    reader.reason = read_finish(choice.finish_reason)
                    broken = broken or reader.reason == "error"
            usage = find_usage(chunk, self._provider)
        except UpstreamMalformed as error:
            self._fail(error, deltas)
            return
        if usage is not None:
            deltas.append(UsageDelta(usage))
        if broken or is_broken(chunk):
            self._fail(read_error(0, {}, data), deltas)
        elif usage is not None and not chunk.choices:
            self._finish(deltas)

    def _start(self, chunk: wire.Answer, deltas: list[Delta]) -> None:
        self._started = True
        self._answer_id = chunk.id or ""
        deltas.append(Start(self._answer_id, chunk.model or ""))

    def _choice(self, index: int) -> _ChoiceReader:
        reader = self._choices.get(index)
        if reader is None:
            reader = self._choices[index] = _ChoiceReader(index, self._answer_id)
        return reader

    def _finish(self, deltas: list[Delta]) -> None:
        """Close the choices that have ended; with the terminator all of them have."""
        for index in sorted(self._choices):
            choice = self._choices[index]
            if self.done or choice.reason is not None:
                choice.end(deltas)

    def _fail(self, error: GatewayError, deltas: list[Delta]) -> None:
        self._failed = True
        deltas.append(Failure(error))


def parts_of_tail(tail: bytes) -> tuple[bytes, bytes, bool]:
    """What follows a chunk's words: (what does not change, the end of the event, is there padding between the two?)."""
    padding = _PADDING.search(tail)
    if padding is None:
        return tail[:-2], tail[-2:], False
    return tail[: padding.start(1)], tail[padding.end(1) :], True


def read_stream(request: ChatRequest, target: Target) -> ChatReader:
    """A reader of `chat.completion.chunk` events of any dialect."""
    return ChatReader(target.provider)


def is_broken(chunk: wire.Answer | wire.Outline) -> bool:
    """Is there an error among the fields?"""
    if chunk.error is not wire.NOTHING and bytes(chunk.error) not in _FALSE:
        return True
    return chunk.x_groq is not None and bytes(chunk.x_groq.error) not in _FALSE


def without_choices(body: bytes) -> UpstreamError:
    """What an answer without choices is: an error that says so in its own way (`code` and `message`), or nothing at all."""
    said = decode(body, _ANYTHING)
    if isinstance(said, dict) and _error_message(_error_fields(said)):
        return read_error(0, {}, body)
    return UpstreamMalformed("The provider's answer has no choices")


# -- what went wrong -------------------------------------------------------------------------------------------------


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a provider's error means, in all the shapes that servers of this format send.

    `error` as an object or a string, `detail` as a string or a list (FastAPI), bare `message`, a list of errors, plain
    text, a proxy's page. `status` under 400 means an error inside of a stream or of a good answer.
    """
    try:
        said = decode(body, _ANYTHING)
    except UpstreamMalformed:
        said = body.decode("utf-8", "replace")
    fields = _error_fields(said)
    code = fields.get("code")
    own_status = fields.get("status_code")
    if status < 400 and isinstance(own_status, int):
        status = own_status
    return classify(
        status,
        message=_error_message(fields),
        code=str(code) if isinstance(code, (str, int)) else _error_reason(fields),
        type=next(
            (fields[key] for key in ("type", "status", "error_type") if isinstance(fields.get(key), str)),
            _error_reason(fields),
        ),
        param=fields["param"] if isinstance(fields.get("param"), str) else None,
        headers=headers,
        body=body,
    )


def _error_fields(said: Any) -> dict[str, Any]:
    """The object that has `message`, `code`, `type` and `param`, wherever they stand."""
    if isinstance(said, list):
        said = said[0] if said else {}
    if not isinstance(said, dict):
        return {"message": said}
    error = said.get("error") or said.get("errors")
    if isinstance(error, dict):
        return error
    if error:
        return said | {"message": "; ".join(map(str, error)) if isinstance(error, list) else error}
    if isinstance(said.get("x_groq"), dict):
        return {"message": said["x_groq"].get("error")}
    choices = said.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get("error"), dict):
            return dict(choice["error"])
    detail = said.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = detail[0].get("loc")
        where = [str(step) for step in place if step != "body"] if isinstance(place, list) else []
        return {"message": f"{'.'.join(where)}: {detail[0].get('msg')}", "param": ".".join(where)}
    if isinstance(detail, dict):
        return detail
    return said if isinstance(said.get("message"), str) else said | {"message": detail or said.get("title")}


def _error_message(fields: dict[str, Any]) -> str:
    message = fields.get("message")
    metadata = fields.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, str) and raw:
        return f"{message}: {raw}"  # OpenRouter: "Provider returned error", and here is which
    return message if isinstance(message, str) else ""


def _error_reason(fields: dict[str, Any]) -> str | None:
    """A code that stands deeper: Azure's inner error, Google's details."""
    for name in ("innererror", "inner_error"):
        inner = fields.get(name)
        if isinstance(inner, dict) and isinstance(inner.get("code"), str):
            return str(inner["code"])
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("reason"), str):
            return str(detail["reason"])
    return None
