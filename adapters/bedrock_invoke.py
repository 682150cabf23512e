"""Bedrock's InvokeModel: each vendor's own words, in Amazon's envelope. Asked for with `bedrock/invoke/…`.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html. Claude speaks Anthropic's format without `model`
and `stream`, which reaches what Converse has no word for (Anthropic's own tools, betas); Nova nearly Converse's; most
others OpenAI's. The oldest models take one text: the conversation is written down as they learned it. On a stream each
frame has a JSON event of the model's in base64, and the last one tells the tokens.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from adapters import (
    anthropic_answers,
    anthropic_questions,
    bedrock_answers,
    eventstream,
    openai_answers,
    openai_questions,
)
from adapters.base import StreamReader
from adapters.bedrock_answers import error_in, read_error
from adapters.bedrock_completions import CompletionReader, read_completion, write_completion
from adapters.bedrock_questions import address, family
from adapters.bedrock_questions import write_request as write_converse
from adapters.envelope import count_of, decode, seal
from adapters.errors import BadRequest, UpstreamError, UpstreamMalformed
from adapters.eventstream import read_frames
from adapters.types import ChatRequest, ChatResponse, Delta, Failure, Target, Usage, UsageDelta
from adapters.wire import bedrock as wire

__all__ = ["STREAM_TYPE", "address", "cut", "read_error", "read_response", "read_stream", "write_request"]

STREAM_TYPE: str = eventstream.TYPE
cut = eventstream.FrameCutter

VERSION = "bedrock-2023-05-31"

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_CHUNK = msgspec.json.Decoder(wire.Chunk)
_METRICS = msgspec.json.Decoder(wire.WithMetrics)


# -- the question --------------------------------------------------------------------------------------------------------


def write_request(request: ChatRequest, target: Target) -> bytes:
    """The model's own request. Raises `Unsupported`."""
    return _WRITERS[_dialect(target)](request, target)


def _dialect(target: Target) -> str:
    owner, model = family(target), target.model
    if owner == "anthropic":
        return "claude"
    if owner == "amazon":
        return "nova" if "nova" in model else "completion"
    is_old = any(
        word in model for word in ("mistral-7b", "mixtral", "mistral-large-2402", "mistral-small-2402")
    )
    return "completion" if owner in {"meta", "cohere"} or is_old else "openai"


def _write_claude(request: ChatRequest, target: Target) -> bytes:
    body: dict[str, Any] = _OBJECT.decode(anthropic_questions.write_request(request, target))
    for name in ("model", "stream"):
        body.pop(name, None)
    betas = body.pop("betas", None)
    if betas is not None:
        body.setdefault("anthropic_beta", betas)
    return seal({**body, "anthropic_version": VERSION})


def _write_nova(request: ChatRequest, target: Target) -> bytes:
    """Converse's body; `topK` is an ordinary parameter here."""
    body: dict[str, Any] = _OBJECT.decode(write_converse(request, target))
    fields = _opened(body, "additionalModelRequestFields")
    inference = _opened(body, "inferenceConfig") | _opened(fields, "inferenceConfig")
    if inference:
        body["inferenceConfig"] = inference
    return seal({"schemaVersion": "messages-v1", **body, **fields})


def _opened(fields: dict[str, Raw], name: str) -> dict[str, Raw]:
    """Takes an object out of the fields. Raises `BadRequest` for a caller's own that is none."""
    try:
        return _OBJECT.decode(fields.pop(name, b"{}"))
    except msgspec.DecodeError:
        raise BadRequest(f"{name}: must be an object", param=name) from None


def _write_openai(request: ChatRequest, target: Target) -> bytes:
    body = _OBJECT.decode(openai_questions.write_request(request, target))
    return seal(
        {name: value for name, value in body.items() if name not in {"model", "stream", "stream_options"}}
    )


_WRITERS: dict[str, Callable[[ChatRequest, Target], bytes]] = {
    "claude": _write_claude,
    "nova": _write_nova,
    "openai": _write_openai,
    "completion": write_completion,
}


# -- the answer ----------------------------------------------------------------------------------------------------------


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """Read the model's own answer. Raises `UpstreamMalformed`.

    The tokens that some models do not count are in Bedrock's headers only (`x-amzn-bedrock-input-token-count`).
    """
    return _READERS[_dialect(target)](body, request, target)


_READERS: dict[str, Callable[[bytes, ChatRequest, Target], ChatResponse]] = {
    "claude": anthropic_answers.read_response,
    "nova": bedrock_answers.read_response,
    "openai": openai_answers.read_response,
    "completion": read_completion,
}


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader for one streamed answer."""
    dialect = _dialect(target)
    if dialect == "claude":
        return _Reader(_Events(anthropic_answers.read_stream(request, target)))
    if dialect == "openai":
        return _Reader(_Events(openai_answers.read_stream(request, target)))
    return _Reader(_Nova(target) if dialect == "nova" else CompletionReader(target.model))


class Inner(Protocol):
    """Reads the model's own events, one by one."""

    @property
    def done(self) -> bool: ...

    def read(self, data: bytes) -> list[Delta]:
        """One event, as JSON. Raises `UpstreamMalformed`, or gives a `Failure` as the last delta."""

    def close(self) -> list[Delta]:
        """There are no more: a `Failure` if the end is missing."""


class _Reader:
    """Takes the envelopes off."""

    __slots__ = ("_broken", "_has_usage", "_inner", "done")

    def __init__(self, inner: Inner) -> None:
        self.done = False
        self._broken = False
        self._has_usage = False
        self._inner = inner

    def words(self, events: bytes) -> bytes:
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            for headers, payload in read_frames(events):
                if self.done or self._broken:
                    break
                error = error_in(headers, payload)
                if error is not None:
                    raise error
                if headers.get(":event-type") == "chunk":
                    self._chunk(_inside(payload), deltas)
        except UpstreamError as error:
            if not (self.done or self._broken):
                self._broken = True
                deltas.append(Failure(error))
        return deltas

    def _chunk(self, data: bytes, deltas: list[Delta]) -> None:
        self._note(self._inner.read(data), deltas)
        metrics = decode(data, _METRICS).metrics if b"-invocationMetrics" in data else None
        if metrics is None or self._broken:
            return
        if not self._has_usage:
            self._note([UsageDelta(metrics_usage(metrics))], deltas)
        if not self._inner.done:
            self._note(self._inner.close(), deltas)
        self.done = not self._broken

    def _note(self, said: list[Delta], deltas: list[Delta]) -> None:
        self._broken = self._broken or any(isinstance(delta, Failure) for delta in said)
        self._has_usage = self._has_usage or any(isinstance(delta, UsageDelta) for delta in said)
        deltas += said

    def close(self) -> list[Delta]:
        if self.done or self._broken:
            return []
        last = [] if self._inner.done else self._inner.close()
        self._note(last, [])
        self.done = not self._broken
        return last


def _inside(payload: bytes) -> bytes:
    """The model's event in a chunk, on one line and in good UTF-8."""
    try:
        data = b64decode(decode(payload, _CHUNK).data)
    except (NotBase64, ValueError):
        raise UpstreamMalformed("The provider sent an event that is not base64") from None
    return data.decode("utf-8", "replace").replace("\r", " ").replace("\n", " ").encode()


def metrics_usage(metrics: wire.Metrics) -> Usage:
    """What Bedrock counted: the cache is outside the input."""
    return Usage(
        input=count_of(metrics.input_token_count),
        cache_read=count_of(metrics.cache_read_input_token_count),
        cache_write=count_of(metrics.cache_write_input_token_count),
        output=count_of(metrics.output_token_count),
    )


class _Events:
    """A vendor's own stream, whose events came as server-sent ones."""

    __slots__ = ("_reader",)

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    @property
    def done(self) -> bool:
        return self._reader.done

    def read(self, data: bytes) -> list[Delta]:
        return self._reader.feed(b"data: " + data + b"\n\n")

    def close(self) -> list[Delta]:
        return self._reader.close()


class _Nova:
    """Converse's events, each an object with its name as the key."""

    __slots__ = ("_events",)

    def __init__(self, target: Target) -> None:
        self._events = bedrock_answers.Events(target.model)

    @property
    def done(self) -> bool:
        return self._events.done

    def read(self, data: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        for name, event in decode(data, _OBJECT).items():
            if bytes(event).startswith(b"{"):
                self._events.read(name, event, deltas)
        return deltas

    def close(self) -> list[Delta]:
        return [Failure(UpstreamMalformed("The provider's stream ended without its `metadata`"))]
