"""Tokens, where nobody has counted them."""

from __future__ import annotations

from msgspec import Raw

from gateway.estimates import tokens_asked, tokens_of, tokens_said


def test_four_bytes_are_a_token() -> None:
    """A question is what its prompt's fields hold, and never nothing."""
    envelope = {"messages": Raw(b"x" * 400), "system": Raw(b"x" * 40), "model": Raw(b"y" * 4000)}
    assert tokens_asked(envelope) == 110
    assert tokens_asked({}) == 1


def test_a_picture_is_not_priced_by_its_bytes() -> None:
    """Five megabytes of base64 count as one picture; as many bytes of words count as words."""
    picture = (
        b'[{"text":"' + b"word " * 800 + b'"},{"url":"data:image/png;base64,' + b"QUJD" * 1_250_000 + b'"}]'
    )
    assert 2000 <= tokens_of(picture) <= 2100
    assert tokens_of(b'"' + b"some words " * 100_000 + b'"') == 275_000


def test_short_deltas_are_tokens() -> None:
    """Deltas of a word each are counted, longer ones measured."""
    assert tokens_said(10, 50) == 10
    assert tokens_said(2, 400) == 100
    assert tokens_said(0, 0) == 0
