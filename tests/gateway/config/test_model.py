"""Twin of gateway/config/model.py."""

from __future__ import annotations

import copy
import json
import pickle

import msgspec
import orjson
import pytest

from gateway.config.model import Fallbacks, ModelEntry, ModelParams, Place, Secret

CLEAR = "sk-proj-very-secret-a1b2"


@pytest.mark.parametrize(
    ("text", "printed"),
    [(CLEAR, "…a1b2"), ("123456789012", "…9012"), ("12345678901", "…"), ("", "…")],
)
def test_a_secret_prints_its_last_four_characters_if_it_is_long_enough(text: str, printed: str) -> None:
    """A secret shows four characters at most, and none of a short one."""
    secret = Secret(text)
    assert (str(secret), f"{secret}", repr(secret)) == (printed, printed, f"Secret({printed})")
    assert secret.reveal() == text


def test_no_serializer_writes_a_secret() -> None:
    """JSON, msgspec, orjson, pickle and copies by pickling refuse a secret instead of writing it."""
    secret = Secret(CLEAR)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        orjson.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)


def test_a_struct_with_a_secret_in_it_prints_without_it() -> None:
    """The representation of a whole entry holds no key, in headers and options neither."""
    params = ModelParams(
        model="openai/x",
        api_key=Secret(CLEAR),
        extra_headers={"x-key": Secret(CLEAR)},
        options={"client_secret": Secret(CLEAR)},
    )
    entry = ModelEntry(model_name="x", params=params, place=Place("config.yaml", 8, 7))
    assert CLEAR not in repr(entry)
    with pytest.raises(TypeError):
        msgspec.json.encode(entry)


def test_secrets_are_values() -> None:
    """Two secrets with one text are equal, hash alike and equal no plain text."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a") != "a"
    assert not Secret("")


def test_a_place_reads_as_editors_want_it() -> None:
    """A place is file:line:column, or the file alone if no line is meant."""
    assert str(Place("config.yaml", 8, 7)) == "config.yaml:8:7"
    assert str(Place("environment", 0, 0)) == "environment"


def test_fallbacks_are_false_when_there_are_none() -> None:
    """Empty fallbacks count as none."""
    assert not Fallbacks()
    assert Fallbacks({"a": ("b",)})
    assert Fallbacks({}, (("a", "b"),))
