"""Open the envelope, not the letter.

A JSON object opened one level deep is `dict[str, Raw]`: the top-level keys with the bytes of their values. A gateway
needs `model`, `stream` and a handful of others; `messages`, often megabytes, is never parsed, and what passes through
is the same bytes that came in.

The envelope is always sealed again before it is sent, so that what was checked is what is sent: with the original bytes
a duplicated key could mean one thing to us and another to the provider.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from adapters.errors import MalformedJson, UpstreamMalformed

T = TypeVar("T")

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ENCODER = msgspec.json.Encoder()
_SPACE = b" \t\n\r"
_SURROGATE = re.compile("[\ud800-\udfff]")
_AFTER_SPACE = re.compile(rb"[ \t\n\r]*")


def open_envelope(body: bytes) -> dict[str, Raw]:
    """Open one JSON object.

    Raises `MalformedJson` for anything that is not exactly one JSON object in UTF-8, and for an object that has a key
    twice at its top level; the message says where.
    """
    try:
        body.decode()
        envelope = _OBJECT.decode(body)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"Invalid JSON payload: not UTF-8 at byte {error.start}", param="request_body"
        ) from None
    except msgspec.ValidationError:
        raise MalformedJson("Invalid JSON payload: it must be an object", param="request_body") from None
    except msgspec.DecodeError as error:
        raise MalformedJson(f"Invalid JSON payload: {error}", param="request_body") from None
    except RecursionError:
        raise MalformedJson("Invalid JSON payload: nested too deeply", param="request_body") from None
    _refuse_duplicates(body, envelope)
    return envelope


def _refuse_duplicates(body: bytes, envelope: Mapping[str, Raw]) -> None:
    # Walks from value to value by the lengths that the decoder found, so no value is read again: 7 us for a body of
    # 6 kB, where a second parse costs 25. The decoder keeps the last of two equal keys, so at the first one either
    # the bytes differ from what is kept or the key comes again.
    seen = set()
    at = _past_space(body, 0) + 1
    for _ in range(len(envelope) + 1):
        at = _past_space(body, at)
        if body[at] == 0x7D:  # }
            break
        end = body.index(b'"', at + 1)
        while _is_escaped(body, end):
            end = body.index(b'"', end + 1)
        key = body[at + 1 : end]
        name = msgspec.json.decode(body[at : end + 1], type=str) if b"\\" in key else key.decode()
        at = _past_space(body, _past_space(body, end + 1) + 1)
        value = bytes(envelope[name])
        if name in seen or not body.startswith(value, at):
            raise MalformedJson(f"Invalid JSON payload: the key {name!r} stands there twice", param=name)
        seen.add(name)
        at = _past_space(body, at + len(value))
        if body[at] == 0x2C:  # ,
            at += 1


def _past_space(body: bytes, at: int) -> int:
    if body[at] not in _SPACE:
        return at
    match = _AFTER_SPACE.match(body, at)
    return match.end() if match else at


def _is_escaped(body: bytes, quote: int) -> bool:
    slashes = 0
    while body[quote - 1 - slashes] == 0x5C:
        slashes += 1
    return slashes % 2 == 1


def seal(envelope: Mapping[str, Any]) -> bytes:
    """Close an envelope: raw values are written as they are, others are encoded."""
    return _ENCODER.encode(envelope)


def text_of(envelope: Mapping[str, Raw], key: str) -> str | None:
    """The string at `key`, or None where there is none or it is no string."""
    raw = envelope.get(key)
    if raw is None or not bytes(raw).startswith(b'"'):
        return None
    return msgspec.json.decode(raw, type=str)


def decode(data: bytes | Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a provider's JSON leniently.

    What msgspec refuses is tried again with the standard library's decoder, which knows lone surrogates (they become
    U+FFFD), NaN and control characters in strings. Raises `UpstreamMalformed`.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        first = error
    try:
        loose = json.loads(bytes(data).decode("utf-8", "replace"), strict=False)
        clean = _SURROGATE.sub("\ufffd", json.dumps(loose, ensure_ascii=False))
        return decoder.decode(clean.encode())
    except (ValueError, RecursionError):
        raise UpstreamMalformed(f"The provider sent JSON that cannot be read: {first}") from None
