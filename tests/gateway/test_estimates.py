"""Tokens, where nobody has counted them."""

from __future__ import annotations

import pytest
from msgspec import Raw

from adapters.types import Operation, Units, Usage
from gateway.estimates import believed, of_cut_stream, tokens_asked, tokens_of, tokens_said, unreported
from gateway.pricing import Price


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


DOCUMENTS = Raw(b"[" + b",".join([b'"d"'] * 101) + b"]")


@pytest.mark.parametrize(
    ("operation", "price", "question", "usage"),
    [
        ("rerank", Price(search=1), {"documents": DOCUMENTS}, Usage(units=Units(searches=2))),
        ("rerank", Price(search=1), {}, Usage(units=Units(searches=1))),
        ("rerank", Price(input=1), {"query": Raw(b'"123456"')}, Usage(input=2)),
        ("images", None, {"n": Raw(b"3")}, Usage(units=Units(images=3))),
        ("images", None, {"n": Raw(b'"many"')}, Usage(units=Units(images=1))),
        ("speech", Price(character=1), {"input": Raw(b'"hello"')}, Usage(units=Units(characters=5))),
        ("speech", Price(audio_output=1), {"input": Raw(b'"0123456789"')}, Usage(input=3, audio_output=14)),
        ("speech", None, {"input": Raw(b"null")}, Usage(units=Units(characters=1))),
        ("transcriptions", None, {}, Usage(units=Units(milliseconds=2001))),
        ("embeddings", None, {"input": Raw(b'"12345678"')}, Usage(input=2)),
        ("chat", None, {"messages": Raw(b"[12345678]")}, Usage(input=2, output=100)),
    ],
)
def test_what_nobody_reported(
    operation: Operation, price: Price | None, question: dict[str, Raw], usage: Usage
) -> None:
    """Each operation is estimated in the measure that its price is in, and the estimate says that it is one."""
    found = unreported(operation, price, question, sent=32_000, said=400)
    assert found.estimated
    assert found == usage + Usage(estimated=True)


@pytest.mark.parametrize(
    ("usage", "fits"),
    [
        (Usage(input=10**9), True),
        (Usage(input=10**9, output=1), False),
        (Usage(billed=0), True),
        (Usage(billed=-1), False),
        (Usage(billed=10**16), False),
        (Usage(units=Units(milliseconds=10**9)), True),
        (Usage(units=Units(milliseconds=10**9, characters=10**10)), False),
    ],
)
def test_what_is_believed(usage: Usage, fits: bool) -> None:
    """No bills below zero or of millions of dollars, and no numbers that the books cannot hold: not of a stream that was cut either."""
    assert believed(usage) == (usage if fits else None)
    assert of_cut_stream(usage, {}, 0, 0).estimated is not fits
