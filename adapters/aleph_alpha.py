"""Aleph Alpha's PhariaInference, https://docs.aleph-alpha.com/api/pharia-inference.

Its chat is OpenAI's, and so is this format, but for the `luminous` models: they complete a text and know no chat, so the
conversation is written as one prompt for `/complete`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters import openai_answers, openai_questions
from adapters.base import StreamReader, leaves_out
from adapters.envelope import count_of, decode
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.flatten import allowed_beyond_prompt, allowed_effort, pictures_of, prompt_of
from adapters.framing import SseCutter, read_event, whole_events
from adapters.types import (
    Address,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    FinishReason,
    Operation,
    Ping,
    Start,
    Target,
    Text,
    TextDelta,
    Usage,
    UsageDelta,
)
from adapters.wire import aleph_alpha as wire

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

_ANSWER = msgspec.json.Decoder(wire.Answer)
_EVENT = msgspec.json.Decoder(wire.Event)
_encode = msgspec.json.Encoder().encode

_FINISH: dict[str | None, FinishReason] = {
    "maximum_tokens": "length",
    "stop_sequence_reached": "stop_sequence",
}
read_error = openai_answers.read_error
"""`{"error","code"}`, which OpenAI's reader knows."""


def _completes(target: Target) -> bool:
    """Is it a model that knows no chat?"""
    return target.model.startswith("luminous-")


# -- a question --------------------------------------------------------------------------------------------------------


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where and how to send it. Raises `Unsupported` for what is not offered."""
    plain = openai_questions.address(target, operation, headers, stream=stream)
    if operation == "chat" and _completes(target):
        return replace(plain, url=f"{target.base_url.rstrip('/')}/complete")
    return plain


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat, or the completion of a text. Raises `Unsupported`."""
    if not _completes(target):
        return openai_questions.write_request(request, target)
    allowed = allowed_beyond_prompt(request, target, "seed") | allowed_effort(request, target)
    if pictures_of(request):
        leaves_out(target, "messages", what="pictures")
    fields = {
        "maximum_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "stop_sequences": list(request.stop) or None,
        "stream": request.stream or None,
    }
    prompt = prompt_of(request, target, with_system=True)
    body: dict[str, Any] = {"model": target.model, "prompt": [{"type": "text", "data": prompt}]}
    body |= {name: value for name, value in fields.items() if value is not None}
    return _encode(body | allowed | request.extra)


# -- an answer ---------------------------------------------------------------------------------------------------------


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """A chat's answer, or a completion. Raises `UpstreamMalformed`, or the error that hides in a 200."""
    if not _completes(target):
        return openai_answers.read_response(body, request, target)
    answer = decode(body, _ANSWER)
    if _is_error(answer.error):
        raise read_error(0, {}, body)
    if not answer.completions:
        raise UpstreamMalformed("The provider's answer has no completion")
    choices = tuple(
        Choice((Text(each.completion),) if each.completion else (), _FINISH.get(each.finish_reason, "stop"))
        for each in answer.completions
    )
    usage = _usage(answer.num_tokens_prompt_total, answer.num_tokens_generated)
    return ChatResponse("", target.model, choices, usage)


def _is_error(raw: Raw) -> bool:
    return bytes(raw) not in {b"", b"null"}


def _usage(tokens_in: int | None, tokens_out: int | None) -> Usage | None:
    if tokens_in is None and tokens_out is None:
        return None
    return Usage(input=count_of(tokens_in), output=count_of(tokens_out))


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader of a chat's or a completion's events."""
    return _CompletionReader() if _completes(target) else openai_answers.read_stream(request, target)


class _CompletionReader:
    """Reads the events of `/complete`, which end with `completion_summary`."""

    __slots__ = ("_failed", "_started", "done")

    def __init__(self) -> None:
        self.done = False
        self._failed = False
        self._started = False

    def words(self, events: bytes) -> bytes:
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        if not events.isascii():
            events = events.decode("utf-8", "replace").encode()
        for event in whole_events(events):
            if self.done or self._failed:
                break
            name, data = read_event(event)
            if name == b"error":
                self._fail(read_error(0, {}, data), deltas)
            elif data:
                self._take(data, deltas)
            elif self._started:
                deltas.append(Ping())
        return deltas

    def close(self) -> list[Delta]:
        deltas: list[Delta] = []
        if not self.done and not self._failed:
            self._fail(UpstreamMalformed("The provider's stream ended before the answer did"), deltas)
        return deltas

    def _take(self, data: bytes, deltas: list[Delta]) -> None:
        try:
            event = decode(data, _EVENT)
        except UpstreamMalformed as error:
            self._fail(error, deltas)
            return
        if _is_error(event.error):
            self._fail(read_error(0, {}, data), deltas)
            return
        if not self._started:
            self._started = True
            deltas.append(Start())
        if event.type == "stream_chunk" and bytes(event.completion) not in {b"", b'""', b"null"}:
            if not bytes(event.completion).startswith(b'"'):
                self._fail(UpstreamMalformed("The provider sent a completion that is no text"), deltas)
                return
            deltas.append(TextDelta(event.completion, event.index))
        elif event.type == "stream_summary":
            deltas.append(Finish(_FINISH.get(event.finish_reason, "stop"), choice=event.index))
        elif event.type == "completion_summary":
            usage = _usage(event.num_tokens_prompt_total, event.num_tokens_generated)
            if usage is not None:
                deltas.append(UsageDelta(usage))
            self.done = True

    def _fail(self, error: UpstreamError, deltas: list[Delta]) -> None:
        self._failed = True
        deltas.append(Failure(error))
