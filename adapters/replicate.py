"""Replicate: models of all kinds behind one HTTP API, https://replicate.com/docs/reference/http.

A question is an `input` whose fields each model chooses itself, and the answer a *prediction*: an object with a status,
which has to be asked for again until it is done (`follow`), or a stream at an address of its own. `Prefer: wait` holds
the first answer back for up to a minute, so that mostly there is nothing to ask for.

Most language models take `prompt` and `max_tokens`; what the large vendors' models call otherwise is in `_OWNERS`, after
the pages of their models. What a model does not know it ignores silently, and so do we not: a field is refused (or
dropped, as the deployment says) where the model's owner has no word for it. Replicate does not say why a model stopped.

Names: `owner/name`, `owner/name:version`, `deployments/owner/name`, or a version alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from adapters.base import Follow, Task, leaves_out
from adapters.envelope import count_of, decode
from adapters.errors import Unsupported, UpstreamError, UpstreamMalformed
from adapters.flatten import allowed_beyond_prompt, allowed_effort, pictures_of, prompt_of, system_of
from adapters.framing import SseCutter, read_event, whole_events
from adapters.pictures import nearest_ratio, size_of
from adapters.types import (
    Address,
    Call,
    ChatRequest,
    ChatResponse,
    Choice,
    Delta,
    Failure,
    Finish,
    ImagesRequest,
    ImagesResponse,
    Operation,
    Picture,
    Ping,
    Reply,
    Start,
    Target,
    Text,
    TextDelta,
    Units,
    Usage,
)
from adapters.upstream_errors import classify
from adapters.wire import replicate as wire

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

POLL_SECONDS = 0.5
"""Between two looks at a prediction; Replicate's own clients wait as long."""

_DOMAINS = ("replicate.com", "replicate.net")
"""Streams are at hosts of their own."""

_PREDICTION = msgspec.json.Decoder(wire.Prediction)
_PROBLEM = msgspec.json.Decoder(wire.Problem)
_DONE = msgspec.json.Decoder(wire.Done)
_ANYTHING = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

_NAME = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+", re.ASCII)
_VERSION = re.compile(r"[0-9a-f]{64}")
_RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
_FILTERED = re.compile(r"\bNSFW\b|flagged as sensitive")
_RUNNING = frozenset({"starting", "processing"})


class _Owner(Struct, frozen=True):
    """What the language models of one owner call things; an empty name is for what they do not know."""

    max_tokens: str = "max_tokens"
    system: str = ""
    image: str = "image"
    images: bool = False
    """`image` is a list."""
    sampling: frozenset[str] = frozenset(
        {"temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed", "stop"}
    )
    effort: str = ""


_OWNERS: dict[str, _Owner] = {
    "meta": _Owner(system="system_prompt", image=""),
    "openai": _Owner(
        max_tokens="max_completion_tokens",
        system="system_prompt",
        image="image_input",
        images=True,
        sampling=frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty"}),
        effort="reasoning_effort",
    ),
    "anthropic": _Owner(system="system_prompt", sampling=frozenset()),
    "google": _Owner(
        max_tokens="max_output_tokens",
        system="system_instruction",
        image="images",
        images=True,
        sampling=frozenset({"temperature", "top_p", "top_k"}),
    ),
}
_ANYONE = _Owner()
_SAMPLING = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed")


# -- a question --------------------------------------------------------------------------------------------------------


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where predictions of this model are made. Raises `Unsupported` for what is no model's name."""
    if operation not in target.provider.paths:
        raise Unsupported(f"{target.provider.name} does not offer {operation}.", param="model")
    return Address(
        method="POST",
        url=target.base_url.rstrip("/") + _path(target.model),
        headers=(
            ("content-type", "application/json"),
            ("accept", "application/json"),
            *(() if stream else (("prefer", "wait"),)),
            *headers.items(),
        ),
    )


def _path(model: str) -> str:
    name, _, version = model.partition(":")
    if _VERSION.fullmatch(model) or (version and _NAME.fullmatch(name)):
        return "/predictions"
    kind = "deployments" if name.startswith("deployments/") else "models"
    name = name.removeprefix("deployments/")
    if not _NAME.fullmatch(name):
        raise Unsupported(f"{model!r} is no model's name: write owner/name.", param="model")
    return f"/{kind}/{name}/predictions"


def _body(asked: dict[str, Any], target: Target, *, stream: bool = False) -> bytes:
    name, colon, version = target.model.partition(":")
    body: dict[str, Any] = {"input": asked}
    if colon or _VERSION.fullmatch(name):
        body["version"] = version or name
    if stream:
        body["stream"] = True
    return _encode(body)


def _owner_of(target: Target) -> _Owner:
    return _OWNERS.get(target.model.removeprefix("deployments/").partition("/")[0], _ANYONE)


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A prediction of a language model: the conversation as one prompt. Raises `Unsupported`."""
    owner = _owner_of(target)
    allowed = allowed_beyond_prompt(
        request, target, *(name for name in _SAMPLING if name not in owner.sampling)
    )
    asked: dict[str, Any] = {"prompt": prompt_of(request, target, with_system=not owner.system)}
    system = system_of(request)
    if owner.system and system:
        asked[owner.system] = system
    if request.max_tokens is not None:
        asked[owner.max_tokens] = request.max_tokens
    for name in _SAMPLING:
        value = getattr(request, name)
        if value is not None and name in owner.sampling:
            asked[name] = value
    asked |= _write_stop(request, target, owner)
    asked |= _write_pictures(request, target, owner)
    reasoning = request.reasoning
    if owner.effort and reasoning is not None and reasoning.mode != "disabled" and reasoning.effort:
        asked[owner.effort] = reasoning.effort
    else:
        allowed |= allowed_effort(request, target)
    return _body(asked | allowed | request.extra, target, stream=request.stream)


def _write_stop(request: ChatRequest, target: Target, owner: _Owner) -> dict[str, Any]:
    """One text with commas between the sequences."""
    if not request.stop:
        return {}
    if "stop" not in owner.sampling:
        return {} if leaves_out(target, "stop") else {"stop": request.stop}
    if any("," in stop for stop in request.stop):
        leaves_out(target, "stop", what="stop sequences with a comma in them")
        return {}
    return {"stop_sequences": ",".join(request.stop)}


def _write_pictures(request: ChatRequest, target: Target, owner: _Owner) -> dict[str, Any]:
    pictures = pictures_of(request)
    if not pictures:
        return {}
    if not owner.image or (len(pictures) > 1 and not owner.images):
        leaves_out(target, "messages", what="several pictures" if owner.image else "pictures")
        return {}
    return {owner.image: pictures if owner.images else pictures[0]}


# -- an answer ---------------------------------------------------------------------------------------------------------


def follow(reply: Reply, *, stream: bool = False) -> Follow | None:
    """Where the answer is, if it is not here yet.

    A prediction that was held back by `Prefer: wait` is complete if it has an output, whatever its status: Replicate
    answers before it has written down that it is done. One that was asked for has, while it runs, a part of its output.
    """
    prediction = decode(reply.body, _PREDICTION)
    urls = prediction.urls or wire.Urls()
    if prediction.status not in _RUNNING:
        return None
    if stream:
        if not urls.stream:
            raise UpstreamMalformed("The provider offers no stream of this model's answers")
        return Follow(urls.stream, cancel=urls.cancel, domains=_DOMAINS)
    if _given(prediction.output) is not None and "preference-applied" in reply.headers:
        return None
    if not urls.get:
        raise UpstreamMalformed("The provider does not say where its answer will be")
    return Follow(urls.get, POLL_SECONDS, urls.cancel)


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """A prediction of a language model. Raises `UpstreamMalformed`, or the error that ended it."""
    prediction = _finished(body)
    said = decode(_given(prediction.output) or Raw(b"[]"), _ANYTHING)
    if isinstance(said, list) and all(isinstance(piece, str) for piece in said):
        text = "".join(said)
    elif isinstance(said, str):
        text = said
    else:
        text = _encode(said).decode()  # an object of the model's own making
    parts = (Text(text),) if text else ()
    return ChatResponse(
        prediction.id or "", prediction.model or "", (Choice(parts, "stop"),), _usage(prediction.metrics)
    )


def _given(raw: Raw) -> Raw | None:
    return None if bytes(raw) in {b"", b"null"} else raw


def _finished(body: bytes) -> wire.Prediction:
    """A prediction with its whole output. Raises what ended it otherwise."""
    prediction = decode(body, _PREDICTION)
    if prediction.status in {"failed", "canceled", "aborted"}:
        raise _failure(prediction.status, _given(prediction.error), body)
    if prediction.status != "succeeded" and _given(prediction.output) is None:
        raise UpstreamMalformed("The provider's answer is not complete")
    return prediction


def _failure(status: str, said: Raw | None, body: bytes) -> UpstreamError:
    """What ended a prediction. It has no status and no code, only words, mostly the model's own."""
    try:
        what = "" if said is None else decode(said, _ANYTHING)
    except UpstreamMalformed:
        what = bytes(said or b"").decode("utf-8", "replace")
    message = what if isinstance(what, str) else _encode(what).decode()
    message = message or f"The prediction has {'failed' if status == 'failed' else f'been {status}'}"
    if _FILTERED.search(message):
        return classify(400, message=message, code="content_filter", headers={}, body=body)
    return classify(500, message=message, headers={}, body=body)


def _usage(metrics: wire.Metrics | None) -> Usage | None:
    if metrics is None:
        return None
    tokens_in = metrics.input_token_count if metrics.token_input_count is None else metrics.token_input_count
    tokens_out = (
        metrics.output_token_count if metrics.token_output_count is None else metrics.token_output_count
    )
    if tokens_in is None and tokens_out is None:
        return None
    return Usage(input=count_of(tokens_in), output=count_of(tokens_out))


# -- a stream ----------------------------------------------------------------------------------------------------------


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader of the events at `urls.stream`, https://replicate.com/docs/topics/predictions/streaming."""
    return StreamReader()


class StreamReader:
    """Reads `output` events, whose data is plain text: lines are joined, and a space in front belongs to the text."""

    __slots__ = ("_failed", "_started", "done")

    def __init__(self) -> None:
        self.done = False
        self._failed = False
        self._started = False

    def words(self, events: bytes) -> bytes:
        return b""

    def feed(self, events: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        for event in whole_events(events):
            if self.done or self._failed:
                break
            name, data = read_event(event)
            if name == b"output":
                self._start(deltas)
                if data:
                    deltas.append(TextDelta(Raw(_encode(data.decode("utf-8", "replace")))))
            elif name == b"error":
                self._fail(_read_failure(data), deltas)
            elif name == b"done":
                self._finish(data, deltas)
            elif self._started and not name:
                deltas.append(Ping())
        return deltas

    def close(self) -> list[Delta]:
        deltas: list[Delta] = []
        if not self.done and not self._failed:
            self._fail(UpstreamMalformed("The provider's stream ended before the answer did"), deltas)
        return deltas

    def _start(self, deltas: list[Delta]) -> None:
        if not self._started:
            self._started = True
            deltas.append(Start())

    def _finish(self, data: bytes, deltas: list[Delta]) -> None:
        try:
            reason = _DONE.decode(data or b"{}").reason
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(UpstreamMalformed("The provider's stream ended without saying how"), deltas)
            return
        if reason:
            self._fail(_failure("failed" if reason == "error" else reason, None, data), deltas)
        else:
            self._start(deltas)
            self.done = True
            deltas.append(Finish("stop"))

    def _fail(self, error: UpstreamError, deltas: list[Delta]) -> None:
        self._failed = True
        deltas.append(Failure(error))


def _read_failure(data: bytes) -> UpstreamError:
    """What an `error` event says: a text, or an object with `detail`."""
    try:
        said: Raw | None = _given(_PROBLEM.decode(data).detail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = Raw(_encode(data.decode("utf-8", "replace")))
    return _failure("failed", said, data)


# -- what went wrong ---------------------------------------------------------------------------------------------------


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """A refusal: `{"title","detail","status"}`, or whatever a proxy says."""
    try:
        problem = _PROBLEM.decode(body)
        detail = _given(problem.detail)
        said = None if detail is None else decode(detail, _ANYTHING)
        message = said if isinstance(said, str) else problem.title
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UpstreamMalformed):
        message = body.decode("utf-8", "replace")
    return classify(status, message=message, headers=headers, body=body)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _write_images(request: ImagesRequest, target: Target) -> Sequence[Call]:
    """One prediction for each picture: not every model makes several.

    Models take a size in pixels or a shape; each ignores what it does not know, so both are said.
    """
    is_openai = target.model.startswith("openai/")
    asked: dict[str, Any] = {"prompt": request.prompt}
    size = size_of(request.size)
    if size is not None and is_openai:
        asked["aspect_ratio"] = nearest_ratio(size, ("1:1", "3:2", "2:3"))
    elif size is not None:
        asked |= {"width": size[0], "height": size[1], "aspect_ratio": nearest_ratio(size, _RATIOS)}
    if request.output_format is not None:
        format_ = request.output_format
        asked["output_format"] = "jpg" if format_ == "jpeg" and not is_openai else format_
    for name in ("quality", "background"):
        value = getattr(request, name)
        if value is not None and (is_openai or not leaves_out(target, name)):
            asked[name] = value
    if request.style is not None and not leaves_out(target, "style"):
        asked["style"] = request.style
    if request.response_format == "b64_json":
        leaves_out(target, "response_format", what="b64_json", why="its pictures are addresses")
    asked |= request.extra
    return [Call(_body(asked, target))] * request.n


def _read_images(replies: Sequence[Reply], request: ImagesRequest, target: Target) -> ImagesResponse:
    """The addresses of the pictures; they are good for an hour. A `data:` URL is given as its data."""
    pictures = [picture for reply in replies for picture in _pictures(reply.body)]
    if not pictures:
        raise UpstreamMalformed("The provider's answer has no picture in it")
    return ImagesResponse(tuple(pictures), Usage(units=Units(images=len(pictures))))


def _pictures(body: bytes) -> list[Picture]:
    said = decode(_given(_finished(body).output) or Raw(b"[]"), _ANYTHING)
    urls = said if isinstance(said, list) else [said]
    return [_picture(url) for url in urls if isinstance(url, str) and url]


def _picture(url: str) -> Picture:
    head, _, data = url.partition(",")
    return (
        Picture(b64_json=data) if head.startswith("data:") and head.endswith(";base64") else Picture(url=url)
    )


IMAGES: Task[ImagesRequest, ImagesResponse] = Task(_write_images, _read_images)
