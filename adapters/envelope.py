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
from adapters.wire import MOST

T = TypeVar("T")

_MOST_KEYS = 1_000
"""No API has a hundred; a million of them would hold up the loop for seconds."""

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_TEXT = msgspec.json.Decoder(str)
_ENCODER = msgspec.json.Encoder()
_KEY = re.compile(rb'[ \t\n\r,]*("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*')
_COLON, _SPACE, _QUOTE, _BRACE, _BRACKET, _BACKSLASH = b': "{[\\'
"""As numbers: to look for a number in bytes takes 0.02 us, and for bytes in bytes 0.1, as these are taken for a number first."""
_NEAR = 500
"""How many bytes of an answer are searched for its model before the answer is opened."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(rb"\\(?:u([dD][89abAB]..\\u[dD][c-fC-F]|[dD][89a-fA-F])|.)", re.DOTALL)
"""An escape of a string; of surrogates, a pair as far as it shows itself, or else half of one."""
_SEARCHED = 1_000_000
"""How many bytes of a body are searched for what is wrong with it."""


def open_envelope(body: bytes) -> dict[str, Raw]:
    """Open one JSON object.

    Raises `MalformedJson` for anything that is not exactly one JSON object in UTF-8, and for an object that has a key
    twice at its top level; the message says where.
    """
    try:
        if not body.isascii():  # 0.06 us for 640 bytes, and seldom more is needed
            body.decode()
        envelope = _OBJECT.decode(body)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"Invalid JSON payload: not UTF-8 at byte {error.start}", param="request_body"
        ) from None
    except msgspec.ValidationError:
        raise MalformedJson("Invalid JSON payload: it must be an object", param="request_body") from None
    except msgspec.DecodeError as error:
        raise MalformedJson(f"Invalid JSON payload: {_why(body, error)}", param="request_body") from None
    except RecursionError:
        raise MalformedJson("Invalid JSON payload: nested too deeply", param="request_body") from None
    if len(envelope) > _MOST_KEYS:
        raise MalformedJson(
            f"Invalid JSON payload: more than {_MOST_KEYS} top-level keys", param="request_body"
        )
    _refuse_duplicates(body, envelope)
    return envelope


def _why(body: bytes, error: msgspec.DecodeError) -> str:
    """Why it cannot be read. Of half a surrogate pair the decoder says that the input were truncated."""
    for escape in _ESCAPE.finditer(body, 0, _SEARCHED):
        if escape[1] is not None and len(escape[1]) == len(b"d8"):
            return f"half a surrogate pair stands alone in a string (byte {escape.start()})"
    return str(error)


def _refuse_duplicates(body: bytes, envelope: Mapping[str, Raw]) -> None:
    # What was opened is written again, with no key twice; if that is the body, it had none. There are two usual ways to
    # write: 0.3 us without spaces, 0.6 us with one after each comma and colon. Any other way is walked.
    is_spaced = body[body.find(b":") + 1] == _SPACE
    if (_spaced(envelope) if is_spaced else _ENCODER.encode(envelope)) != body:
        _walk(body, envelope)


_SPACED: dict[tuple[str, ...], bytes] = {}
"""What stands around the values, for keys that were seen; callers choose the keys, so it is bounded."""
_MOST_SPACED = 1_000
_LONGEST_SPACED = 1_000


def _spaced(envelope: Mapping[str, Raw]) -> bytes:
    """The object as Python's `json.dumps` writes its top level."""
    keys = tuple(envelope)
    template = _SPACED.get(keys)
    if template is None:
        members = [_ENCODER.encode(key).replace(b"%", b"%%") + b": %b" for key in keys]
        template = b"{" + b", ".join(members) + b"}"
        if len(template) <= _LONGEST_SPACED:
            if len(_SPACED) >= _MOST_SPACED:
                _SPACED.clear()
            _SPACED[keys] = template
    return template % tuple(envelope.values())


def _walk(body: bytes, envelope: Mapping[str, Raw]) -> None:
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
        name = decode(key, _TEXT) if b"\\" in key else key[1:-1].decode("utf-8", "replace")
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


def with_value(data: bytes, key: str, value: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """The object `data` with another value at a top-level `key`, all other bytes as they were, and where the old one stood.

    None: there is no such key, or one stands twice, so that the object had to be sealed anew. Raises `UpstreamMalformed`.
    """
    opened = decode(data, _OBJECT)
    if key not in opened:
        return data, None
    span = span_of(data, opened, key)
    if span is None:
        return seal({**opened, key: Raw(value)}), None
    return data[: span[0]] + value + data[span[1] :], span


def with_model(
    data: bytes, old: bytes | Raw, new: bytes, *, in_message: bool = False
) -> tuple[bytes, tuple[int, int] | None]:
    """The object with another top-level `model` (or that of its `message`), and where the old one stood.

    `old` is the model as a decoder of `data` found it: if that is not what stands in front, the key is there twice. This
    costs 0.7 us, and `with_value`, which takes over where the model comes after objects or lists, 4.
    """
    model = bytes(old)
    begin = _plain_way_to(data, b'"message"', 0) if in_message else 0
    start = _plain_way_to(data, b'"model"', begin)
    if in_message and (not begin or data.find(b'"message"', start) >= 0):
        start = 0
    if start and model and model[0] == _QUOTE and data.startswith(model, start):
        end = start + len(model)
        return data[:start] + new + data[end:], (start, end)
    if in_message:
        message = bytes(decode(data, _OBJECT)["message"])
        return with_value(data, "message", with_value(message, "model", new)[0])
    return with_value(data, "model", new)


def _plain_way_to(data: bytes, key: bytes, begin: int) -> int:
    """Where the value of `key` stands in the object that begins at `begin`; 0 if that cannot be told without parsing.

    It can where the key comes before any brace, bracket or backslash: then nothing lies deeper, and each quote begins or
    ends a string.
    """
    at = data.find(key, begin, begin + _NEAR)
    if at < 0:
        return 0
    before = data[begin + 1 : at]
    if _BRACE in before or _BRACKET in before or _BACKSLASH in before:
        return 0
    at += len(key)
    if data[at] != _COLON:
        return 0
    return at + 2 if data[at + 1] == _SPACE else at + 1


def seal(envelope: Mapping[str, Any]) -> bytes:
    """Close an envelope: raw values are written as they are, others are encoded."""
    return _ENCODER.encode(envelope)


PLAIN_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt])++"'
"""A pattern for a JSON string that says something, without the escapes by number; it need not be UTF-8."""


def is_utf8(data: bytes) -> bool:
    """Does it decode?"""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def text_of(envelope: Mapping[str, Raw], key: str) -> str | None:
    """The string at `key`, or None where there is none or it is no string."""
    raw = envelope.get(key)
    try:
        return None if raw is None else _TEXT.decode(raw)
    except msgspec.ValidationError:
        return None


def value_of(envelope: Mapping[str, Raw], key: str) -> Any:
    """The value at `key`, or None where there is none or it cannot be read: opening does not look how large a number is."""
    raw = envelope.get(key)
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None


def count_of(said: Any) -> int:
    """A provider's count as a whole number that fits into the books; what makes no sense is zero."""
    if type(said) is int and 0 <= said <= MOST:
        return said  # as nearly all are; the rest takes three times as long
    return int(max(0, min(said, MOST))) if isinstance(said, (int, float)) else 0


_LOOSE = json.JSONDecoder(strict=False, parse_constant=lambda _: None)


def decode(data: bytes | Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a provider's JSON leniently.

    What msgspec refuses is tried again with the standard library's decoder, which knows lone surrogates (they become
    U+FFFD), NaN and infinities (null), and control characters in strings. Raises `UpstreamMalformed`.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        first = error
    try:
        loose = _LOOSE.decode(bytes(data).decode("utf-8", "replace"))
        clean = _SURROGATE.sub("\ufffd", json.dumps(loose, ensure_ascii=False))
        return decoder.decode(clean.encode())
    except (ValueError, RecursionError):
        raise UpstreamMalformed(f"The provider sent JSON that cannot be read: {first}") from None
