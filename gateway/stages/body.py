"""What is asked? Opens the envelope, not the letter.

The body is read under a size limit and a deadline and opened one level deep. What a caller may say to the gateway itself
(`fallbacks`, `timeout`, tags …) is taken out: it never reaches a provider. What a caller must not say is refused:
nothing about where requests go, or with whose key, comes from a body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

from adapters.envelope import open_envelope, text_of
from adapters.errors import BadRequest, Busy, MalformedJson, TooLarge, TooSlow
from adapters.multipart import read_form
from gateway.exchange import Exchange
from gateway.inbound import NO_CONTROLS, Body, Controls, Head
from gateway.runtime import Runtime

_UNKNOWN_SIZE = 1024 * 1024
_LONGEST_NAME = 500
"""Characters of a name that a caller may choose: names are kept in memory, compared and written down."""
_MOST_NAMES = 50
_NEEDED = {"chat": "messages", "count_tokens": "messages", "embeddings": "input"}

# The gateway's own words in a body. `metadata` is one of them where OpenAI's format is spoken (providers would store it)
# and the client's own in Anthropic's (`metadata.user_id`).
_CONTROLS = frozenset({
    "allowed_openai_params", "additional_drop_params", "cache", "caching", "context_window_fallback_dict",
    "disable_fallbacks", "drop_params", "fallbacks", "guardrails", "litellm_call_id", "litellm_metadata",
    "litellm_session_id", "litellm_trace_id", "max_retries", "mock_delay", "mock_first_delay", "mock_response",
    "no-log", "num_retries", "priority", "request_timeout", "stream_timeout", "tags", "timeout",
})  # fmt: skip
_STEERING = frozenset({
    "x-litellm-num-retries", "x-litellm-max-retries", "x-litellm-timeout", "x-litellm-stream-timeout",
    "x-litellm-priority", "x-litellm-tags", "x-litellm-session-id", "x-claude-code-session-id",
})  # fmt: skip
"""The same of a head. Most heads have none of them, and to read each that is not there takes 5 us."""
_REFUSED = frozenset({
    "api_base", "api_key", "api_version", "azure_ad_token", "base_url", "custom_llm_provider", "extra_headers",
    "headers", "models", "organization", "region_name",
})  # fmt: skip
_REFUSED_PREFIXES = ("aws_", "vertex_", "mock_testing_", "azure_")
_STREAMED = frozenset({"chat", "completions"})
_NEVER_STREAMED = frozenset({"images", "speech", "transcriptions", "translations", "rerank"})
_FORMS = frozenset({"transcriptions", "translations"})
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,15})?")
_ARRAY = ord("[")
_MOST_SHAPES = 1_000
_SHORT_NAMES = 1_000
"""Characters of all keys of an envelope whose shape is remembered."""


class _Shape(Struct, frozen=True, gc=False):
    """What the names of an envelope's keys say, whatever their values."""

    refused: tuple[str, ...]
    """Keys that no request may have, unless they say nothing."""
    steers: bool
    """Something in it is for the gateway."""
    kept_back: bool
    """Not all of it goes on to the provider."""
    names_user: bool
    """It may say for whom the caller asks."""


class _Shapes:
    """The shapes of one format. A client sends the same keys again and again: 0.4 us to look up, 3 to work out."""

    def __init__(self, ours: frozenset[str]) -> None:
        self.ours = ours
        self._known: dict[tuple[str, ...], _Shape] = {}

    def of(self, envelope: Mapping[str, Raw]) -> _Shape:
        names = tuple(envelope)
        return self._known.get(names) or self._work_out(names)

    def _work_out(self, names: tuple[str, ...]) -> _Shape:
        refused = tuple(name for name in names if name in _REFUSED or name.startswith(_REFUSED_PREFIXES))
        shape = _Shape(
            refused,
            steers="metadata" in names or not _CONTROLS.isdisjoint(names),
            kept_back=not self.ours.isdisjoint(names),
            names_user="user" in names or "metadata" in names,
        )
        if sum(map(len, names)) <= _SHORT_NAMES:  # callers choose them: what is remembered is bounded
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            self._known[names] = shape
        return shape


_SHAPES = {"openai": _Shapes(_CONTROLS | {"metadata"}), "anthropic": _Shapes(_CONTROLS)}


async def read(rt: Runtime, x: Exchange) -> None:
    """Fill `x.envelope`, `x.model`, `x.wants_stream` and `x.controls`. Raises `BadRequest` and its kin."""
    body = x.body if type(x.body) is bytes else await _read_bytes(rt, x, x.body)  # type: ignore[arg-type]  # it is no bytes
    x.body = b""
    size = len(body)
    if size > rt.body_limit:
        raise TooLarge(f"The request is over {rt.body_limit} bytes")
    if rt.body_bytes + size > rt.body_budget:
        raise _too_much_at_once()
    x.body_size = size
    rt.body_bytes += size  # until the bill is written
    envelope = _open_form(x, body) if x.endpoint.operation in _FORMS else open_envelope(body)
    shapes = _SHAPES[x.endpoint.client_format]
    shape = shapes.of(envelope)
    if shape.refused:
        envelope = _without(envelope, shape.refused)
    x.controls = (
        _controls(envelope, x.http.headers) if shape.steers else x.http.controls or _controls_of(x.http)
    )
    if shape.names_user or x.http.end_user:
        x.end_user = _end_user(x, envelope)
    x.envelope = (
        {key: raw for key, raw in envelope.items() if key not in shapes.ours} if shape.kept_back else envelope
    )
    x.model = _model(x, envelope)
    _demand(x, envelope)
    if x.endpoint.operation in _STREAMED:
        x.wants_stream = "stream" in envelope and _flag(envelope, "stream")
    elif "stream" in envelope and x.endpoint.operation in _NEVER_STREAMED and _flag(envelope, "stream"):
        raise BadRequest(f"{x.endpoint.path} answers whole: it does not stream", param="stream")
    x.wants_usage = x.endpoint.client_format != "openai" or (
        "stream_options" in envelope and _wants_usage(envelope)
    )


def _open_form(x: Exchange, body: bytes) -> dict[str, Raw]:
    """A form's fields as an envelope; its files and lists are in `x.form`."""
    x.form = read_form(x.http.headers.get("content-type", ""), body)
    return {name: Raw(_said(text)) for name, text in x.form.fields.items()}


def _said(text: str) -> bytes:
    """A field of a form as JSON: all are text, but `true`, `false` and numbers mean what they say."""
    return (
        text.encode() if text in ("true", "false") or _NUMBER.fullmatch(text) else msgspec.json.encode(text)
    )


def _model(x: Exchange, envelope: Mapping[str, Raw]) -> str:
    if x.http.model:  # the bytes of a header may be no UTF-8, which nobody could write down
        name = unquote(x.http.model.encode(errors="surrogateescape"))
    else:
        name = _string(envelope, "model")
    if not name:
        raise BadRequest(f"{x.endpoint.path}: Missing required parameter: 'model'.", param="model")
    if len(name) > _LONGEST_NAME:
        raise BadRequest(f"A model's name has at most {_LONGEST_NAME} characters", param="model")
    return name


def _demand(x: Exchange, envelope: Mapping[str, Raw]) -> None:
    needed = _NEEDED.get(x.endpoint.operation)
    if needed is None:
        return
    if needed not in envelope:
        raise BadRequest(f"{x.endpoint.path}: Missing required parameter: {needed!r}.", param=needed)
    if needed == "messages" and memoryview(envelope[needed])[0] != _ARRAY:
        raise BadRequest("'messages' must be an array", param=needed)


async def _read_bytes(rt: Runtime, x: Exchange, body: Body) -> bytes:
    expected = body.size or _UNKNOWN_SIZE
    if expected > rt.body_limit:
        raise TooLarge(f"The request is over {rt.body_limit} bytes")
    if rt.body_bytes + expected > rt.body_budget:
        raise _too_much_at_once()
    if x.http.chunked and x.http.headers.get("expect", "").lower() == "100-continue":
        x.client.invite_body()
    rt.body_bytes += expected
    seconds = rt.limits.body_grace + expected / rt.limits.body_rate
    deadline = rt.deadlines.start(
        seconds, lambda: x.story.interrupt(TooSlow("The request's body did not arrive in time"))
    )
    try:
        return await body.read()
    finally:
        deadline.cancel()
        rt.body_bytes -= expected


def _too_much_at_once() -> Busy:
    return Busy("The gateway holds as many request bytes as it may; try again", headers={"retry-after": "1"})


def _without(envelope: dict[str, Raw], refused: tuple[str, ...]) -> dict[str, Raw]:
    """Clients that write all they know of write `null` for what they do not say."""
    for name in refused:
        if bytes(envelope[name]) != b"null":
            raise BadRequest(
                f"{name[:100]!r} cannot be set by a request; the gateway's configuration decides it",
                param=name[:100],
            )
    return {name: raw for name, raw in envelope.items() if name not in refused}


def _controls_of(head: Head) -> Controls:
    """What the head alone says."""
    says_nothing = head.headers.keys().isdisjoint(_STEERING)
    head.controls = NO_CONTROLS if says_nothing else _controls({}, head.headers)
    return head.controls


def _controls(envelope: Mapping[str, Raw], headers: Mapping[str, str]) -> Controls:
    metadata = _value(envelope, "litellm_metadata") or _value(envelope, "metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    tags = _strings(_value(envelope, "tags")) or _strings(metadata.get("tags"))
    tags += tuple(tag.strip() for tag in headers.get("x-litellm-tags", "").split(",") if tag.strip())
    return Controls(
        num_retries=_retries(envelope, headers),
        timeout=_seconds(envelope, headers, "timeout"),
        stream_timeout=_seconds(envelope, headers, "stream_timeout"),
        fallbacks=_fallbacks(_value(envelope, "fallbacks")),
        context_window_fallbacks=_texts(_value(envelope, "context_window_fallback_dict")),
        disable_fallbacks=_flag(envelope, "disable_fallbacks"),
        drop_params=_flag(envelope, "drop_params"),
        drop=_strings(_value(envelope, "additional_drop_params"))[:_MOST_NAMES],
        allowed=_strings(_value(envelope, "allowed_openai_params"))[:_MOST_NAMES],
        tags=tuple(tag[:_LONGEST_NAME] for tag in tags[:_MOST_NAMES]),
        session_id=_text(
            _string(envelope, "litellm_session_id")
            or headers.get("x-litellm-session-id")
            or headers.get("x-claude-code-session-id")
            or metadata.get("session_id")
        ),
        priority=int(_number(envelope, headers, "priority") or 0),
    )


def _end_user(x: Exchange, envelope: Mapping[str, Raw]) -> str | None:
    named = _text(x.http.end_user or ("user" in envelope and _string(envelope, "user")))
    if named or x.endpoint.client_format != "anthropic":
        return named
    metadata = _value(envelope, "metadata")
    return _text(metadata.get("user_id")) if isinstance(metadata, dict) else None


def _value(envelope: Mapping[str, Raw], key: str) -> Any:
    raw = envelope.get(key)
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:  # opening the envelope does not look inside
        raise MalformedJson(f"Invalid JSON payload: {key!r}: {error}", param=key) from None


def _string(envelope: Mapping[str, Raw], key: str) -> str:
    try:
        return text_of(envelope, key) or ""
    except msgspec.DecodeError as error:
        raise MalformedJson(f"Invalid JSON payload: {key!r}: {error}", param=key) from None


def _text(value: object) -> str | None:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _strings(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _flag(envelope: Mapping[str, Raw], key: str) -> bool:
    raw = envelope.get(key)
    if raw is None:
        return False
    value = bytes(raw)
    if value not in (b"true", b"false", b"null"):
        raise BadRequest(f"{key!r} must be true or false", param=key)
    return value == b"true"


def _number(envelope: Mapping[str, Raw], headers: Mapping[str, str], key: str) -> float | None:
    header = headers.get(f"x-litellm-{key.replace('_', '-')}")
    value = _value(envelope, key) if header is None else header
    if value is None:
        return None
    try:
        number = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
        )
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number <= 86_400:
        raise BadRequest(f"{key!r} must be a number between 0 and 86400", param=key)
    return number


def _seconds(envelope: Mapping[str, Raw], headers: Mapping[str, str], key: str) -> float | None:
    return _number(envelope, headers, key) or None


def _whole(envelope: Mapping[str, Raw], headers: Mapping[str, str], key: str) -> int | None:
    number = _number(envelope, headers, key)
    return None if number is None else min(int(number), 10)


def _retries(envelope: Mapping[str, Raw], headers: Mapping[str, str]) -> int | None:
    """What `num_retries` says; `max_retries` is what SDKs call it."""
    number = _whole(envelope, headers, "num_retries")
    return _whole(envelope, headers, "max_retries") if number is None else number


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    pairs = ((name, text) for name, text in value.items() if isinstance(text, str) and _is_name(text))
    return dict(islice(pairs, _MOST_NAMES))


def _fallbacks(value: object) -> tuple[str, ...]:
    """The caller's own stand-ins: `["b", "c"]`, `[{"model": "b"}]` or `[{"a": ["b"]}]`."""
    names: list[str] = []
    for item in value if isinstance(value, list) else ():
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, dict) and isinstance(item.get("model"), str):
            names.append(item["model"])
        elif isinstance(item, dict):
            for chain in item.values():
                names += _strings(chain)
    return tuple(islice(filter(_is_name, names), _MOST_NAMES))


def _is_name(text: str) -> bool:
    """Routes remember the names that callers ask for: no model has so long a one."""
    return len(text) <= _LONGEST_NAME


def _wants_usage(envelope: Mapping[str, Raw]) -> bool:
    options = _value(envelope, "stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
