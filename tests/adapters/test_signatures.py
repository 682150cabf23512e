"""A seal in a call's id, and out of it again."""

from __future__ import annotations

import re

import pytest

from adapters.signatures import opened_id, sealed_id


def test_there_and_back() -> None:
    """The id and the seal come back, the seal in the alphabet that is safe in ids."""
    sealed = sealed_id("call_1", "ab+/cd==")
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", sealed)
    assert opened_id(sealed) == ("call_1", "ab-_cd")


def test_no_seal() -> None:
    """Without a seal an id stays as it is."""
    assert sealed_id("call_1", None) == "call_1"
    assert opened_id("call_1") == ("call_1", None)


@pytest.mark.parametrize("ident", ["", "__thought__x", "call__thought__"])
def test_what_is_no_sealed_id(ident: str) -> None:
    """Half of one is an id of its own."""
    assert opened_id(ident) == (ident, None)
