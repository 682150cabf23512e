"""A vendor's seal on the thoughts behind a tool call, for clients whose format has no place for it.

Gemini refuses a conversation whose calls have lost their seals. What every client sends back unchanged is a call's id: the
seal stands in it, as LiteLLM writes it (`call_1__thought__CpECAb4…`), in characters that Anthropic allows in ids. It is
base64, whose two alphabets mean the same to Google.
"""

from __future__ import annotations

_BETWEEN = "__thought__"
_SAFE = str.maketrans({"+": "-", "/": "_", "=": None})


def sealed_id(ident: str, signature: str | None) -> str:
    """A call's id with its seal, if it has one."""
    return f"{ident}{_BETWEEN}{signature.translate(_SAFE)}" if signature else ident


def opened_id(ident: str) -> tuple[str, str | None]:
    """The id alone, and the seal that was in it."""
    alone, _, signature = ident.partition(_BETWEEN)
    return (alone, signature) if alone and signature else (ident, None)
