"""What is asked? Opens the envelope, not the letter.

The body is read under a size limit and a deadline and opened one level deep. What a caller may say to the gateway itself
(`fallbacks`, `timeout`, tags …) is taken out: it never reaches a provider. What a caller must not say is refused:
nothing about where requests go, or with whose key, comes from a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Raw

from adapters.envelope import open_envelope, text_of
from adapters.errors import BadRequest, Busy, MalformedJson, TooLarge, TooSlow
from gateway.exchange import Controls, Exchange
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
    "no-log", "num_retries", "request_timeout", "stream_timeout", "tags", "timeout",
})  # fmt: skip
_REFUSED = frozenset({
    "api_base", "api_key", "api_version", "azure_ad_token", "base_url", "custom_llm_provider", "extra_headers",
    "headers", "organization", "region_name",
})  # fmt: skip
_REFUSED_PREFIXES = ("aws_", "vertex_", "mock_testing_", "azure_")
_CROSSING = ("anthropic-version", "anthropic-beta", "openai-beta", "idempotency-key", "traceparent")


async def read(rt: Runtime, x: Exchange) -> None:
    """Fill `x.envelope`, `x.model`, `x.wants_stream`, `x.controls` and `x.headers`. Raises `BadRequest` and its kin."""
    body = await _read_bytes(rt, x)
    x.body_size = len(body)
    rt.body_bytes += x.body_size  # until the bill is written
    envelope = open_envelope(body)
    _refuse_routing(envelope)
    x.headers = {name: ",".join(x.http.headers.getall(name)) for name in _CROSSING if name in x.http.headers}
    x.controls = _controls(envelope, x.http.headers)
    x.end_user = _end_user(x, envelope)
    is_openai = x.endpoint.client_format == "openai"
    x.envelope = {
        key: value
        for key, value in envelope.items()
        if key not in _CONTROLS and not (key == "metadata" and is_openai)
    }
    x.model = _model(x, envelope)
    _demand(x, envelope)
    x.wants_stream = _flag(envelope, "stream")
    if x.endpoint.operation in ("embeddings", "count_tokens"):
        x.wants_stream = False
    x.wants_usage = _wants_usage(envelope) if is_openai else True


def _model(x: Exchange, envelope: Mapping[str, Raw]) -> str:
    name = unquote(x.http.match_info.get("model", "")) or _string(envelope, "model")
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
    if needed == "messages" and not bytes(envelope[needed]).startswith(b"["):
        raise BadRequest("'messages' must be an array", param=needed)


async def _read_bytes(rt: Runtime, x: Exchange) -> bytes:
    http = x.http
    expected = http.content_length or _UNKNOWN_SIZE
    if expected > rt.body_limit:
        raise TooLarge(f"The request is over {rt.body_limit} bytes")
    if rt.body_bytes + expected > rt.body_budget:
        raise Busy(
            "The gateway holds as many request bytes as it may; try again", headers={"retry-after": "1"}
        )
    x.client.invite_body()
    rt.body_bytes += expected
    try:
        async with asyncio.timeout(rt.limits.body_grace + expected / rt.limits.body_rate):
            return await http.read()
    except TimeoutError:
        raise TooSlow("The request's body did not arrive in time") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"The request is over {rt.body_limit} bytes") from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise BadRequest(f"The request's body cannot be read: {error}") from None
    finally:
        rt.body_bytes -= expected


def _refuse_routing(envelope: Mapping[str, Raw]) -> None:
    for key in envelope:
        if key in _REFUSED or key.startswith(_REFUSED_PREFIXES):
            raise BadRequest(
                f"{key[:100]!r} cannot be set by a request; the gateway's configuration decides it",
                param=key[:100],
            )


def _controls(envelope: Mapping[str, Raw], headers: Mapping[str, str]) -> Controls:
    metadata = _value(envelope, "litellm_metadata") or _value(envelope, "metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    tags = _strings(_value(envelope, "tags")) or _strings(metadata.get("tags"))
    tags += tuple(tag.strip() for tag in headers.get("x-litellm-tags", "").split(",") if tag.strip())
    return Controls(
        num_retries=_whole(envelope, headers, "num_retries"),
        timeout=_seconds(envelope, headers, "timeout"),
        stream_timeout=_seconds(envelope, headers, "stream_timeout"),
        fallbacks=_fallbacks(_value(envelope, "fallbacks")),
        disable_fallbacks=_flag(envelope, "disable_fallbacks"),
        drop_params=_flag(envelope, "drop_params"),
        tags=tuple(tag[:_LONGEST_NAME] for tag in tags[:_MOST_NAMES]),
        session_id=_text(
            _string(envelope, "litellm_session_id")
            or headers.get("x-litellm-session-id")
            or headers.get("x-claude-code-session-id")
            or metadata.get("session_id")
        ),
    )


def _end_user(x: Exchange, envelope: Mapping[str, Raw]) -> str | None:
    headers = x.http.headers
    named = _text(
        headers.get("x-litellm-end-user-id")
        or headers.get("x-litellm-customer-id")
        or _string(envelope, "user")
    )
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
    return tuple(names[:_MOST_NAMES])


def _wants_usage(envelope: Mapping[str, Raw]) -> bool:
    options = _value(envelope, "stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
