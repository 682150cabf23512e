"""Tokens, where nobody has counted them.

Providers count for themselves, and what they report is what is booked. Estimates stand in for a stream that was cut, a
provider that counts nothing, and `count_tokens` where the provider has no such thing; they always say so.

What is paid by other measures than tokens is estimated by those: a rerank by a search for every hundred documents, as
Cohere counts (https://docs.cohere.com/docs/rate-limits#what-counts-as-a-search), pictures by how many were asked for, speech by its
characters, and sound that shall be written down by its bytes: 16,000 a second, an MP3 of 128 kbit/s.

Four bytes of JSON are taken for a token. A picture or a file is base64, a string of kilobytes without a space in it: it
counts as one thousand tokens whatever its size, as vendors price an image by its area and not by its bytes
(https://docs.claude.com/en/docs/build-with-claude/vision: at most about 1,600).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from adapters.envelope import value_of
from adapters.types import NO_UNITS, Operation, Units, Usage
from gateway.pricing import Price

_BYTES_PER_TOKEN = 4
_FILE = 4096
"""Bytes of a string from which on it may be a file."""
_FILE_TOKENS = 1000
_SHORT_DELTA = 8
"""Bytes of words in a delta up to which it is taken for one token: most providers send each token on its own."""
_ASKED = ("system", "messages", "tools", "input", "prompt", "query", "documents")
_DOCUMENTS_PER_SEARCH = 100
_BYTES_PER_SECOND = 16_000
_MOST_PICTURES = 100
_MOST_TOKENS = 10**9
_MOST_NANO = 10**15
_SPOKEN_TOKENS_PER_CHARACTER = 1.4
"""OpenAI's voices: some 21 tokens a second (https://platform.openai.com/docs/pricing: $0.015 a minute at $12 a million), in which
fifteen characters are spoken.
"""


def unreported(
    operation: Operation, price: Price | None, question: Mapping[str, Raw], *, sent: int, said: int
) -> Usage:
    """The usage of a question that was answered without a word on it, in the measure that its price is in. `sent` are the
    bytes of the client's body, `said` those of the answer.
    """
    if operation == "rerank" and price is not None and price.search is not None:
        return Usage(units=Units(searches=_searches(question)), estimated=True)
    if operation == "images":
        return Usage(units=Units(images=_pictures(question)), estimated=True)
    if operation in {"transcriptions", "translations"}:
        return Usage(units=Units(milliseconds=1 + sent * 1000 // _BYTES_PER_SECOND), estimated=True)
    if operation == "speech":
        characters = _characters(question)
        if price is not None and price.character is None and price.audio_output is not None:
            spoken = round(characters * _SPOKEN_TOKENS_PER_CHARACTER)
            return Usage(input=tokens_asked(question), audio_output=spoken, estimated=True)
        return Usage(units=Units(characters=characters), estimated=True)
    words = said if operation in {"chat", "completions"} else 0
    return Usage(input=tokens_asked(question), output=words // _BYTES_PER_TOKEN, estimated=True)


def _searches(question: Mapping[str, Raw]) -> int:
    documents = value_of(question, "documents")
    count = len(documents) if isinstance(documents, list) else 1
    return max(1, -(-count // _DOCUMENTS_PER_SEARCH))


def _pictures(question: Mapping[str, Raw]) -> int:
    count = value_of(question, "n")
    return count if isinstance(count, int) and 0 < count <= _MOST_PICTURES else 1


def _characters(question: Mapping[str, Raw]) -> int:
    text = value_of(question, "input")
    return len(text) if isinstance(text, str) else 1


def tokens_asked(envelope: Mapping[str, Raw]) -> int:
    """Tokens of a question, at least 1. Milliseconds for megabytes: not for the way of an ordinary request."""
    return max(1, sum(tokens_of(bytes(envelope[key])) for key in _ASKED if key in envelope))


def tokens_of(data: bytes) -> int:
    """Tokens of some JSON."""
    if len(data) < _FILE:
        return len(data) // _BYTES_PER_TOKEN
    size = files = 0
    for piece in data.split(b'"'):
        if len(piece) >= _FILE and b" " not in piece[:_FILE] and piece[:_FILE].isascii():
            files += 1
        else:
            size += len(piece)
    return size // _BYTES_PER_TOKEN + files * _FILE_TOKENS


def tokens_said(deltas: int, chars: int) -> int:
    """Tokens of an answer of which so many deltas with so many bytes of words were relayed."""
    return deltas if chars <= _SHORT_DELTA * deltas else chars // _BYTES_PER_TOKEN


def believed(reported: Usage | None) -> Usage | None:
    """What a provider reported; nothing if it is more than any request can use, which would not even fit into the books."""
    if reported is None or reported.total > _MOST_TOKENS:
        return None
    if (reported.units is NO_UNITS and reported.billed is None) or _fits(reported):
        return reported
    return None


def _fits(usage: Usage) -> bool:
    """Into the books, beside the tokens."""
    return (
        0 <= (usage.billed or 0) <= _MOST_NANO and max(msgspec.structs.astuple(usage.units)) <= _MOST_TOKENS
    )


def of_cut_stream(reported: Usage | None, question: Mapping[str, Raw], deltas: int, chars: int) -> Usage:
    """What a stream used of which so many deltas came before it was cut, and what the provider had `reported` by then."""
    said, reported = tokens_said(deltas, chars), believed(reported)
    if reported is None:
        return Usage(input=tokens_asked(question), output=said, estimated=True)
    missing = said - reported.completion
    if missing <= 0:
        return reported
    return msgspec.structs.replace(reported, output=reported.output + missing, estimated=True, billed=None)
