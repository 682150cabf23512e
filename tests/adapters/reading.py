"""What tests of streams have in common: feeding them whole or byte by byte, and what the deltas say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from adapters.base import StreamReader
from adapters.framing import SseCutter
from adapters.types import Delta, Failure, Finish, TextDelta, ToolDelta, ToolStart, Usage, UsageDelta

Reader = Callable[[], StreamReader]


def at_once(reader: Reader, stream: bytes) -> list[Delta]:
    """All deltas of a stream that comes in one piece and ends."""
    one = reader()
    return [*one.feed(stream), *one.close()]


def byte_by_byte(reader: Reader, stream: bytes) -> list[Delta]:
    """The same of one that comes a byte at a time."""
    cutter, one, deltas = SseCutter(), reader(), list[Delta]()
    for at in range(len(stream)):
        if events := cutter.feed(stream[at : at + 1]):
            deltas += one.feed(events)
    if rest := cutter.flush():
        deltas += one.feed(rest)
    return deltas + one.close()


def said(deltas: Sequence[Delta]) -> dict[str, Any]:
    """Text, tool calls, finish and usage of deltas that end well."""
    assert not [each for each in deltas if isinstance(each, Failure)]
    starts = [each for each in deltas if isinstance(each, ToolStart)]
    return {
        "text": "".join(json.loads(bytes(each.text)) for each in deltas if isinstance(each, TextDelta)),
        "tools": [(each.id, each.name, json.loads(arguments_of(each, deltas))) for each in starts],
        "finish": [each.reason for each in deltas if isinstance(each, Finish)],
        "usage": last_usage(deltas),
    }


def arguments_of(start: ToolStart, deltas: Sequence[Delta]) -> str:
    return "".join(
        json.loads(bytes(each.arguments))
        for each in deltas
        if isinstance(each, ToolDelta) and each.index == start.index
    )


def last_usage(deltas: Sequence[Delta]) -> Usage | None:
    known = [each.usage for each in deltas if isinstance(each, UsageDelta)]
    return known[-1] if known else None
