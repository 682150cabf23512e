"""What a client's field should have been is said with its place."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw, Struct
from msgspec.structs import replace

from adapters.envelope import open_envelope
from adapters.errors import BadRequest, MalformedJson, Unsupported
from adapters.fields import allowed_fields, other_fields, read_fields, read_value
from adapters.types import Provider, Target


class Voice(Struct):
    id: str


class Question(Struct):
    input: str
    voice: str | Voice = ""
    n: int | None = None


QUESTION = msgspec.json.Decoder(Question)


def test_known_fields_are_read_and_others_kept_as_they_are() -> None:
    """What the struct does not have stays JSON."""
    envelope = open_envelope(b'{"input":"a","n":null,"other":{"b": 1}}')
    assert read_fields(envelope, QUESTION) == Question("a")
    assert other_fields(envelope, QUESTION) == {"other": Raw(b'{"b": 1}')}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"{}", "input", "Missing required parameter: 'input'."),
        (b'{"input":1}', "input", "Invalid value (Expected str, got int) for 'input'."),
        (b'{"input":"","n":"2"}', "n", "Invalid value (Expected int | null, got str) for 'n'."),
        (b'{"input":"","voice":{}}', "voice.id", "Missing required parameter: 'voice.id'."),
        (
            b'{"input":"","voice":{"id":3}}',
            "voice.id",
            "Invalid value (Expected str, got int) for 'voice.id'.",
        ),
    ],
)
def test_a_wrong_field_is_named(body: bytes, param: str, message: str) -> None:
    """With its place, however deep it is."""
    with pytest.raises(BadRequest) as caught:
        read_fields(open_envelope(body), QUESTION)
    assert (caught.value.param, caught.value.message) == (param, message)


def test_a_wrong_value_within_a_field_is_named() -> None:
    """A field that is read on its own, too."""
    with pytest.raises(BadRequest) as caught:
        read_value(Raw(b'["a",2]'), msgspec.json.Decoder(list[str]), "input")
    assert caught.value.param == "input[1]"
    assert read_value(Raw(b'["a"]'), msgspec.json.Decoder(list[str]), "input") == ["a"]


def test_json_that_only_looks_whole_is_refused() -> None:
    """An envelope's values are not parsed before they are read; a lone surrogate, say, shows up only now."""
    with pytest.raises(MalformedJson):
        read_value(Raw(b'"\\ud800"'), msgspec.json.Decoder(str), "input")


def test_json_that_is_too_deep_is_refused() -> None:
    """Deeper than the decoder goes."""
    with pytest.raises(MalformedJson, match="deeply"):
        read_value(Raw(b"[" * 100_000), msgspec.json.Decoder(), "input")


def test_what_a_provider_does_not_know() -> None:
    """Is refused, or dropped, or goes along where the operator says so; what nobody asked for is no matter."""
    target = Target(provider=Provider(name="p"), model="m", base_url="https://example.com")
    assert allowed_fields(Question("a"), target, "n") == {}
    with pytest.raises(Unsupported):
        allowed_fields(Question("a", n=1), target, "n")
    dropped: list[str] = []
    assert allowed_fields(Question("a", n=1), replace(target, drop_params=True, dropped=dropped), "n") == {}
    assert dropped == ["n"]
    assert allowed_fields(Question("a", n=1), replace(target, allowed=frozenset({"n"})), "n") == {"n": 1}
