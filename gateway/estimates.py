"""Tokens, where nobody has counted them.

Providers count for themselves, and what they report is what is booked. Estimates stand in for a stream that was cut, a
provider that counts nothing, and `count_tokens` where the provider has no such thing; they always say so.

Four bytes of JSON are taken for a token. A picture or a file is base64, a string of kilobytes without a space in it: it
counts as one thousand tokens whatever its size, as vendors price an image by its area and not by its bytes
(https://docs.claude.com/en/docs/build-with-claude/vision: at most about 1,600).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Raw

_BYTES_PER_TOKEN = 4
_FILE = 4096
"""Bytes of a string from which on it may be a file."""
_FILE_TOKENS = 1000
_SHORT_DELTA = 8
"""Bytes of words in a delta up to which it is taken for one token: most providers send each token on its own."""
_ASKED = ("system", "messages", "tools", "input", "prompt")


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
