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
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from adapters.errors import MalformedJson, UpstreamMalformed

T = TypeVar("T")

_MOST_KEYS = 1_000
"""No API has a hundred; a million of them would hold up the loop for seconds."""

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_ENCODER = msgspec.json.Encoder()
_KEY = re.compile(rb'[ \t\n\r,]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*')
_SURROGATE = re.compile("[\ud800-\udfff]")


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
    if len(envelope) > _MOST_KEYS:
        raise MalformedJson(
            f"Invalid JSON payload: more than {_MOST_KEYS} top-level keys", param="request_body"
        )
    _refuse_duplicates(body, envelope)
    return envelope


def _refuse_duplicates(body: bytes, envelope: Mapping[str, Raw]) -> None:
    # 7 us for a body of 6 kB, where a second parse costs 25. The decoder keeps the last of two equal keys, so at the
    # first one either the bytes differ from what is kept, and the walk stops there, or the key comes again.
    seen = set()
    name = ""
    for name, _, _ in members(body, envelope):
        if name in seen:
            break
        seen.add(name)
    else:
        if len(seen) == len(envelope):
            return
        name = next((key for key in envelope if key not in seen), name)
    name = name[:100]
    raise MalformedJson(f"Invalid JSON payload: the key {name!r} stands there twice", param=name)


def members(data: bytes, envelope: Mapping[str, Raw]) -> Iterator[tuple[str, int, int]]:
    """(key, start, end) of each top-level value of the object `data`, of which `envelope` is the opened form.

    Walks from value to value by the lengths that the decoder found, so that no value is read again, and nothing that
    lies deeper can be taken for a top-level key. Stops early where a value is not the one in the envelope: it has a key
    twice.
    """
    at = data.index(b"{") + 1
    while found := _KEY.match(data, at):
        key = found[1]
        name = msgspec.json.decode(key, type=str) if b"\\" in key else key[1:-1].decode()
        value = bytes(envelope.get(name, b""))
        start = found.end()
        if not value or not data.startswith(value, start):
            return
        at = start + len(value)
        yield name, start, at


def span_of(data: bytes, envelope: Mapping[str, Raw], key: str) -> tuple[int, int] | None:
    """Where the value of a top-level `key` stands in the object's bytes, None if it cannot be told."""
    for name, start, end in members(data, envelope):
        if name == key:
            return start, end
    return None


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
