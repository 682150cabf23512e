"""Envelopes are opened one level deep, checked, and sealed with the same bytes inside."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from adapters.envelope import decode, open_envelope, seal, text_of
from adapters.errors import MalformedJson, UpstreamMalformed

ANYTHING = msgspec.json.Decoder()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_values_keep_their_bytes() -> None:
    """Sealing writes each value as the bytes it was, white space, numbers and escapes included."""
    body = b'{"model": "m", "messages": [ {"big": 123456789012345678901234567890, "e": 1e5, "s": "\\u00e9\\/"} ] }'
    envelope = open_envelope(body)
    assert (
        bytes(envelope["messages"])
        == b'[ {"big": 123456789012345678901234567890, "e": 1e5, "s": "\\u00e9\\/"} ]'
    )
    sealed = seal({**envelope, "model": "other"})
    assert sealed == b'{"model":"other","messages":' + bytes(envelope["messages"]) + b"}"


@given(
    fields=st.dictionaries(st.text(max_size=8), VALUES, max_size=5),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_any_object_opens(fields: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    """Every object, however it is spelled, opens and says the same when it is sealed."""
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode()
    assert json.loads(seal(open_envelope(body))) == fields


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "request_body"),
        (b"[]", "request_body"),
        (b"null", "request_body"),
        (b'{"a":1', "request_body"),
        (b'{"a":1} x', "request_body"),
        (b'{"a":1}{"b":2}', "request_body"),
        (b'{"a":"\xff"}', "request_body"),
        (b"\xef\xbb\xbf{}", "request_body"),
        (b'{"a":NaN}', "request_body"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "request_body"),
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":1,"b":[1],"a":2}', "a"),
        (b'{"model":"m", "x":1 , "model" : "n"}', "model"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"\\"":1,"b":2,"\\"":1}', '"'),
    ],
)
def test_what_is_refused(body: bytes, param: str) -> None:
    """What is not exactly one object in UTF-8 without a key that stands twice is refused."""
    with pytest.raises(MalformedJson) as caught:
        open_envelope(body)
    assert caught.value.status == 400
    assert caught.value.param == param


def test_keys_may_repeat_deeper() -> None:
    """Only the top level is looked at."""
    assert open_envelope(b'{"a":{"b":1,"b":2},"b":"\\"a\\":1"}').keys() == {"a", "b"}


def test_text_of() -> None:
    """A string is decoded, anything else is none."""
    envelope = open_envelope(b'{"a":"\\u00e9","b":5,"c":null}')
    assert [text_of(envelope, key) for key in "abcd"] == ["é", None, None, None]


def test_lenient_decoding() -> None:
    """What the strict decoder refuses is tried with the standard library's."""
    assert decode(b'{"a":"x\\ud800y"}', ANYTHING)["a"].startswith("x")
    assert decode(b'{"a":"line\nend"}', ANYTHING) == {"a": "line\nend"}
    assert decode(b'{"a":"\xff"}', ANYTHING) == {"a": "\ufffd"}
    assert decode(Raw(b"[1]"), ANYTHING) == [1]
    with pytest.raises(UpstreamMalformed):
        decode(b"<html>", ANYTHING)
    with pytest.raises(UpstreamMalformed):
        decode(b"[1]", msgspec.json.Decoder(dict[str, int]))
