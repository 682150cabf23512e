"""Envelopes are opened one level deep, checked, and sealed with the same bytes inside."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from adapters.envelope import (
    count_of,
    decode,
    is_utf8,
    open_envelope,
    seal,
    text_of,
    value_of,
    with_model,
    with_value,
)
from adapters.errors import MalformedJson, UpstreamMalformed
from adapters.wire import MOST

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


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (rb"a\ud800b", 7),
        (rb"\ude00", 6),
        (rb"\ud83d\ude00\uDE00", 18),
        (rb"\ud83d\ud83d\ude00", 6),
        (rb"\\\ud800", 8),
    ],
)
def test_half_a_surrogate_pair(text: bytes, at: int) -> None:
    """What Python's `json.dumps` makes of a string with half a pair in it is refused with its place."""
    with pytest.raises(MalformedJson, match=rf"half a surrogate pair .* \(byte {at}\)"):
        open_envelope(b'{"a":"%b"}' % text)


@pytest.mark.parametrize("text", [rb"\ud83d\ude00", rb"\\ud800", rb"\ud83d\ude00\\ude00"])
def test_whole_pairs_are_no_halves(text: bytes) -> None:
    """Another mistake behind whole pairs, or what only looks like an escape, is told as what it is."""
    assert open_envelope(b'{"a":"%b"}' % text)
    with pytest.raises(MalformedJson, match="truncated"):
        open_envelope(b'{"a":"%b"' % text)


FORMS = st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (None, (" , ", " :")), (2, None)])


@given(
    fields=st.dictionaries(st.text(max_size=8), VALUES, min_size=1, max_size=5),
    again=VALUES,
    at=st.integers(0, 4),
    before=st.integers(0, 5),
    form=FORMS,
    ascii_only=st.booleans(),
)
def test_a_key_that_stands_twice_is_found(
    fields: dict[str, Any], again: Any, at: int, before: int, form: Any, ascii_only: bool
) -> None:
    """Whatever stands around it and however it is spelled, a key that stands twice is refused by its name."""
    indent, separators = form
    spell = {"indent": indent, "separators": separators, "ensure_ascii": ascii_only}
    twice = list(fields)[at % len(fields)]
    pairs = [*fields.items()]
    pairs.insert(before % (len(pairs) + 1), (twice, again))
    names = {f"k{number}": value for number, (_, value) in enumerate(pairs)}
    body = json.dumps(names, **spell)
    for number, (key, _) in enumerate(pairs):
        body = body.replace(f'"k{number}"', json.dumps(key, ensure_ascii=ascii_only), 1)
    if len(json.loads(body)) < len(pairs):  # no text of a value was taken for a name
        with pytest.raises(MalformedJson) as caught:
            open_envelope(body.encode())
        assert caught.value.param == twice


@given(fields=st.dictionaries(st.text(max_size=8), VALUES, min_size=1, max_size=4), form=FORMS)
def test_the_cheap_proofs_cannot_be_cheated(fields: dict[str, Any], form: Any) -> None:
    """A string that looks like members, before a key that stands twice, does not hide it."""
    indent, separators = form
    inner = json.dumps(fields, indent=indent, separators=separators)
    text = json.dumps({"x": inner}, indent=indent, separators=separators)
    body = text[:-1].rstrip() + ',"x":' + json.dumps(inner) + "}"
    with pytest.raises(MalformedJson, match="'x' stands there twice"):
        open_envelope(body.encode())


def test_many_kinds_of_envelopes() -> None:
    """More different sets of keys than are remembered open all the same, percent signs in keys included."""
    for number in range(2_100):
        body = b'{"k%%%d": 1, "%%b": 2}' % number
        assert list(open_envelope(body)) == [f"k%{number}", "%b"]
        with pytest.raises(MalformedJson):
            open_envelope(b'{"k%%%d": 1, "%%b": 2, "%%b": 2}' % number)
    assert len(open_envelope(b'{"%s": 1}' % (b"k" * 5_000))) == 1


def test_another_value_at_a_key() -> None:
    """The value is replaced at its place; an object with that key twice is sealed anew, one without it stays."""
    assert with_value(b'{"a": {"b": 1}, "b" :2}', "b", b"3") == (b'{"a": {"b": 1}, "b" :3}', (21, 22))
    assert with_value(b'{"b":1,"b":22}', "b", b"3") == (b'{"b":3}', None)
    assert with_value(b'{"a":1}', "b", b"3") == (b'{"a":1}', None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id":"a","n":1e5,"t":true,"model":"old","z":[{"model":"old"}]}', None),
        (b'{\n  "id": "a",\n  "model": "old"\n}', None),
        (b'{"x":{"model":"old"},"model":"old"}', b'{"x":{"model":"old"},"model":"new"}'),
        (b'{"x":"\\"model\\":\\"old\\"","model":"old"}', b'{"x":"\\"model\\":\\"old\\"","model":"new"}'),
        (b'{"mode":"old","models":"old","model":"old"}', b'{"mode":"old","models":"old","model":"new"}'),
        (b'{"model":"first","model":"old"}', b'{"model":"new"}'),
        (b'{"model":"old" , "a" : 1}', b'{"model":"new" , "a" : 1}'),
        (b'{"model" : "old"}', b'{"model" : "new"}'),
        (b'{"a":1}', b'{"a":1}'),
    ],
)
def test_another_model(data: bytes, expected: bytes | None) -> None:
    """Only the top-level model is replaced, wherever it stands and whatever stands before it."""
    wanted = data.replace(b'"old"', b'"new"', 1) if expected is None else expected
    renamed, span = with_model(data, b'"old"', b'"new"')
    assert renamed == wanted
    assert span is None or data[span[0] : span[1]] == b'"old"'
    nested = b'{"type":"message_start","message":' + data + b"}"
    if b"model" in wanted:
        assert with_model(nested, b'"old"', b'"new"', in_message=True)[0] == nested.replace(data, wanted)


@pytest.mark.parametrize("key", [b"\xc3(", b"\\ud800", b"\xc3\\n"])
def test_a_key_that_is_no_text(key: bytes) -> None:
    """A provider's object is sealed anew then: nothing else is raised."""
    renamed, span = with_model(b'{"' + key + b'":{"a":1},"model":"old"}', b'"old"', b'"new"')
    assert json.loads(renamed)["model"] == "new"
    assert span is None or renamed.count(b"old") == 0


def test_the_model_of_a_message_is_not_the_one_beside_it() -> None:
    """Where the message comes after other objects, its model is replaced and the outer one is not."""
    data = b'{"model":"old","x":{},"message":{"model":"old"}}'
    wanted = b'{"model":"old","x":{},"message":{"model":"new"}}'
    assert with_model(data, b'"old"', b'"new"', in_message=True)[0] == wanted


def test_a_message_that_stands_twice() -> None:
    """The object is sealed anew with the last of them."""
    data = b'{"message":{"model":"old","a":1},"message":{"model":"old"}}'
    assert with_model(data, b'"old"', b'"new"', in_message=True) == (b'{"message":{"model":"new"}}', None)


def test_utf8() -> None:
    """What decodes is UTF-8."""
    assert is_utf8("é".encode())
    assert not is_utf8(b"\xc3")


def test_keys_may_repeat_deeper() -> None:
    """Only the top level is looked at."""
    assert open_envelope(b'{"a":{"b":1,"b":2},"b":"\\"a\\":1"}').keys() == {"a", "b"}


def test_text_of() -> None:
    """A string is decoded, anything else is none."""
    envelope = open_envelope(b'{"a":"\\u00e9","b":5,"c":null}')
    assert [text_of(envelope, key) for key in "abcd"] == ["é", None, None, None]


def test_value_of() -> None:
    """Any value is decoded; a number that is too large, wherever it stands, makes it none."""
    envelope = open_envelope(b'{"a":{"b":[1]},"b":"x","c":null,"d":1e999,"e":[{"f":-1e999}]}')
    assert [value_of(envelope, key) for key in "abcdef"] == [{"b": [1]}, "x", None, None, None, None]


@pytest.mark.parametrize(
    ("said", "count"),
    [
        *((7, 7), (0, 0), (12.0, 12), (3.9, 3), (True, 1)),
        *((-5, 0), (-0.5, 0), (None, 0), ("12", 0), ([], 0), ({"a": 1}, 0)),
        *((10**30, MOST), (1e300, MOST), (2**63, MOST)),
    ],
)
def test_counts(said: Any, count: int) -> None:
    """What a provider counts is never below zero, and no more than the books hold."""
    assert count_of(said) == count
    assert type(count_of(said)) is int
    assert 100 * MOST < 2**63


def test_lenient_decoding() -> None:
    """What the strict decoder refuses is tried with the standard library's."""
    assert decode(b'{"a":NaN,"b":[-Infinity,1]}', ANYTHING) == {"a": None, "b": [None, 1]}
    assert decode(b'{"a":"x\\ud800y"}', ANYTHING)["a"].startswith("x")
    assert decode(b'{"a":"line\nend"}', ANYTHING) == {"a": "line\nend"}
    assert decode(b'{"a":"\xff"}', ANYTHING) == {"a": "\ufffd"}
    assert decode(Raw(b"[1]"), ANYTHING) == [1]
    with pytest.raises(UpstreamMalformed):
        decode(b"<html>", ANYTHING)
    with pytest.raises(UpstreamMalformed):
        decode(b"[1]", msgspec.json.Decoder(dict[str, int]))
