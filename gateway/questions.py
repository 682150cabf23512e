"""What one deployment is asked, and how its answer is read.

There are four ways, each a class with the same few methods. Where the provider speaks the client's format, bytes pass
(`Passing`, the hot path). Between two formats a chat is translated (`Translating`). And what is no chat (embeddings,
rerank, pictures, speech) is a task, a question and an answer of their own types (`Doing`). `Continuing` is the rest of a
chat that somebody else began to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec
from msgspec import Raw, Struct

from adapters import (
    CLIENTS,
    EMBEDDINGS,
    FORMATS,
    IMAGES,
    RERANK,
    SAME,
    SPEECH,
    TRANSCRIPTIONS,
    USAGE_IN_HEADERS,
    audio,
    embeddings,
    images,
    rerank,
)
from adapters.base import ProviderSide, SameFormat, Task
from adapters.continuation import Heard, Seam
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed
from adapters.taps import Passthrough, Tap, Translation
from adapters.types import Call, Operation, Reply, Target, TranscriptionRequest, Usage
from gateway.exchange import Exchange
from gateway.routes import Deployment

JSON = "application/json"


class Question(Protocol):
    """What one deployment is asked."""

    @property
    def provider_side(self) -> ProviderSide: ...
    @property
    def calls(self) -> Sequence[Call]: ...
    @property
    def is_same(self) -> bool:
        """The provider speaks the client's format, and the client's headers mean something to it."""

    def finished(self, replies: Sequence[Reply], now: int) -> tuple[bytes, str]:
        """The whole answer for the client and its content type; what it cost goes into the exchange. `replies` are what the
        provider said to each call. Raises `UpstreamMalformed`, or the error that hides in a 200.
        """

    def tap(self, now: int) -> Tap:
        """What a stream's bytes run through."""


def question_for(x: Exchange, deployment: Deployment) -> Question:
    """Raises `Unsupported` for what the deployment cannot be asked, `BadRequest` for what nobody can."""
    operation = x.endpoint.operation
    heard = x.heard if x.heard is not None and x.heard.resumes else None
    if x.dropped:
        x.dropped = []  # what another deployment dropped
    if deployment.mock is not None and operation != "chat":
        raise Unsupported(f"{x.model!r} is a mock: it only chats", param="model")
    target, envelope, controls = deployment.target, x.envelope, x.controls
    if controls.drop_params or target.drop_params or controls.allowed:
        target = _target(x, deployment)
    if deployment.defaults or deployment.drop or controls.drop:
        envelope = _with_defaults(x, deployment)
    provider_format = deployment.target.provider.format
    kind = _KINDS.get(operation)
    if kind is not None:
        task = kind.ways.get(deployment.provider) or kind.ways.get(provider_format)
        if task is not None:
            return Doing(x, target, envelope, kind, task)
    same = SAME.get((x.endpoint.client_format, provider_format))
    if heard is not None:
        return Continuing(x, target, envelope, same, heard)
    if same is not None and operation in _PASSED:
        body = same.pass_request(envelope, target, operation, stream=x.wants_stream)
        return Passing(x, target, same, FORMATS[provider_format], (Call(body),))
    if operation == "chat":
        return Translating(x, target, envelope)
    raise Unsupported(f"{deployment.provider} does not offer {operation}", param="model")


class Passing(Struct, eq=False):
    """The provider speaks the client's format: bytes pass."""

    _x: Exchange
    _target: Target
    _same: SameFormat
    provider_side: ProviderSide
    calls: tuple[Call, ...]
    is_same: ClassVar[bool] = True

    def finished(self, replies: Sequence[Reply], now: int) -> tuple[bytes, str]:
        x = self._x
        body, x.usage, x.finish, x.answer_id = self._same.pass_response(
            replies[0].body, self._target, x.endpoint.operation, model=x.model
        )
        return body, JSON

    def tap(self, now: int) -> Tap:
        x = self._x
        editor = self._same.pass_stream(
            self._target, x.endpoint.operation, model=x.model, wants_usage=x.wants_usage
        )
        return Passthrough(self.provider_side.cut(), editor)


class Translating:
    """A chat between two formats."""

    __slots__ = ("_client_side", "_request", "_target", "_x", "calls", "provider_side")
    is_same = False

    def __init__(self, x: Exchange, target: Target, envelope: Mapping[str, Raw]) -> None:
        self._x = x
        self._target = target
        self._client_side = CLIENTS[x.endpoint.client_format]
        self.provider_side = FORMATS[target.provider.format]
        self._request = self._client_side.read_request(envelope)
        self.calls = (Call(self.provider_side.write_request(self._request, target)),)

    def finished(self, replies: Sequence[Reply], now: int) -> tuple[bytes, str]:
        x = self._x
        answer = self.provider_side.read_response(replies[0].body, self._request, self._target)
        if answer.usage is None:
            answer = msgspec.structs.replace(answer, usage=self._counted(replies))
        x.usage, x.answer_id = answer.usage, answer.id
        x.finish = answer.choices[0].finish if answer.choices else None
        return self._client_side.write_response(answer, answer_id=x.id, model=x.model, now=now), JSON

    def _counted(self, replies: Sequence[Reply]) -> Usage | None:
        """What the headers say that was used, where the body does not."""
        count = USAGE_IN_HEADERS.get(self._target.provider.format)
        return None if count is None else count(replies)

    def tap(self, now: int) -> Tap:
        x = self._x
        return Translation(
            self.provider_side.cut(),
            self.provider_side.read_stream(self._request, self._target),
            self._client_side.write_stream(answer_id=x.id, model=x.model, now=now, wants_usage=x.wants_usage),
        )


class Continuing:
    """The rest of a chat that another deployment has begun to answer: its client goes on reading one answer.

    Whatever the provider speaks, its stream is taken apart, as a beginning must be left out and usage added up.
    """

    __slots__ = ("_client_side", "_heard", "_request", "_target", "_x", "calls", "is_same", "provider_side")

    def __init__(
        self, x: Exchange, target: Target, envelope: Mapping[str, Raw], same: SameFormat | None, heard: Heard
    ) -> None:
        self._x = x
        self._target = target
        self._heard = heard
        self._client_side = CLIENTS[x.endpoint.client_format]
        self.provider_side = FORMATS[target.provider.format]
        self._request = self._client_side.read_request(envelope)
        self.is_same = same is not None
        if same is not None:
            body = same.pass_request(envelope, target, "chat", stream=True)
        else:
            body = self.provider_side.write_request(self._request, target)
        self.calls = (Call(body),)

    def finished(self, replies: Sequence[Reply], now: int) -> tuple[bytes, str]:
        raise UpstreamMalformed("The provider did not stream the rest of an answer")

    def tap(self, now: int) -> Tap:
        x, heard = self._x, self._heard
        writer = self._client_side.write_stream(
            answer_id=heard.answer_id or x.id,
            model=x.model,
            now=heard.created or now,
            wants_usage=x.wants_usage,
            told=heard.told,
        )
        return Translation(
            self.provider_side.cut(),
            self.provider_side.read_stream(self._request, self._target),
            Seam(writer, heard.text, heard.before),
        )


class _Kind(Struct, frozen=True):
    """One kind of task: the formats that have a way of their own, and the client's side of it."""

    ways: Mapping[str, Task[Any, Any]]
    read: Callable[[Exchange, Mapping[str, Raw]], Any]
    write: Callable[[Exchange, Any, Any, int], tuple[bytes, str]]


class Doing:
    """What is no chat: a question and an answer of their own types, in one call or several."""

    __slots__ = ("_kind", "_request", "_target", "_task", "_x", "calls", "provider_side")
    is_same = False

    def __init__(
        self, x: Exchange, target: Target, envelope: Mapping[str, Raw], kind: _Kind, task: Task[Any, Any]
    ) -> None:
        self._x = x
        self._target = target
        self._kind = kind
        self._task = task
        self.provider_side = FORMATS[target.provider.format]
        self._request = kind.read(x, envelope)
        self.calls = tuple(task.write(self._request, target))

    def finished(self, replies: Sequence[Reply], now: int) -> tuple[bytes, str]:
        answer = self._task.read(replies, self._request, self._target)
        self._x.usage = answer.usage
        return self._kind.write(self._x, answer, self._request, now)

    def tap(self, now: int) -> Tap:
        raise Unsupported(f"{self._x.endpoint.operation} cannot be streamed", param="stream")


def _as_json(write: Callable[..., bytes]) -> Callable[[Exchange, Any, Any, int], tuple[bytes, str]]:
    def write_json(x: Exchange, answer: Any, request: Any, now: int) -> tuple[bytes, str]:
        return write(answer, request, model=x.model, now=now, answer_id=x.id), JSON

    return write_json


def _read_sound(x: Exchange, envelope: Mapping[str, Raw]) -> TranscriptionRequest:
    form = x.form
    if form is None or "file" not in form.files:
        raise BadRequest(f"{x.endpoint.path}: Missing required parameter: 'file'.", param="file")
    fields = {name: form.fields.get(name) or str(msgspec.json.decode(raw)) for name, raw in envelope.items()}
    is_translation = x.endpoint.operation == "translations"
    return audio.read_transcription(fields, form.lists, form.files["file"], translate=is_translation)


_TRANSCRIPTIONS = _Kind(
    TRANSCRIPTIONS, _read_sound, lambda _, answer, request, __: audio.write_transcription(answer, request)
)
_KINDS: dict[Operation, _Kind] = {
    "embeddings": _Kind(
        EMBEDDINGS,
        lambda _, envelope: embeddings.read_request(envelope),
        _as_json(embeddings.write_response),
    ),
    "rerank": _Kind(
        RERANK, lambda _, envelope: rerank.read_request(envelope), _as_json(rerank.write_response)
    ),
    "images": _Kind(
        IMAGES, lambda _, envelope: images.read_request(envelope), _as_json(images.write_response)
    ),
    "speech": _Kind(
        SPEECH,
        lambda _, envelope: audio.read_speech(envelope),
        lambda _, answer, __, ___: (answer.data, answer.media_type),
    ),
    "transcriptions": _TRANSCRIPTIONS,
    "translations": _TRANSCRIPTIONS,
}
_PASSED = frozenset({"chat", "completions", "embeddings", "count_tokens"})
"""What passes where both sides speak the same."""


def _target(x: Exchange, deployment: Deployment) -> Target:
    """The deployment's target, with what this request may do and a list for what is dropped."""
    target, controls = deployment.target, x.controls
    return msgspec.structs.replace(
        target,
        drop_params=controls.drop_params or target.drop_params,
        dropped=x.dropped,
        allowed=target.allowed.union(controls.allowed),
    )


def _with_defaults(x: Exchange, deployment: Deployment) -> dict[str, Raw]:
    """The client's envelope with what the deployment adds where the client is silent, without what is to be dropped."""
    drop = (*deployment.drop, *x.controls.drop)
    envelope = {key: value for key, value in x.envelope.items() if key not in drop}
    x.dropped += [key for key in drop if key in x.envelope and key not in x.dropped]
    for key, value in deployment.defaults.items():
        if key == "max_tokens" and "max_completion_tokens" in envelope:
            continue
        raw = Raw(msgspec.json.encode(value))
        if key in _FINAL:
            envelope[key] = raw
        else:
            envelope.setdefault(key, raw)
    return envelope


_FINAL = frozenset({"guardrailConfig"})
"""What a deployment adds and no client may replace: Bedrock's guardrail."""
