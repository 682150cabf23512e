"""Writes Amazon's event streams, as a server would: the other side of `adapters.eventstream`."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from adapters.base import Cutter, StreamReader
from adapters.types import Delta, Failure
from tests.adapters.folding import read_at_once, read_in_pieces

FOLDER = Path(__file__).parents[1] / "transcripts" / "bedrock"


def frame(headers: Mapping[str, str], payload: bytes = b"") -> bytes:
    """One frame, whose headers are all text."""
    block = b""
    for name, value in headers.items():
        block += (
            bytes([len(name)])
            + name.encode()
            + b"\x07"
            + struct.pack(">H", len(value.encode()))
            + value.encode()
        )
    return of_block(block, payload)


def of_block(block: bytes, payload: bytes = b"") -> bytes:
    """One frame with headers as they stand on the wire."""
    head = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    data = head + struct.pack(">I", crc32(head)) + block + payload
    return data + struct.pack(">I", crc32(data))


def event(name: str, payload: Any) -> bytes:
    """An event."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())


def chunk(data: Any) -> bytes:
    """An event of InvokeModelWithResponseStream."""
    inside = data if isinstance(data, bytes) else json.dumps(data).encode()
    return event("chunk", {"bytes": b64encode(inside).decode(), "p": "abc"})


def exception(name: str, payload: Any) -> bytes:
    """An exception of the service."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps(payload).encode())


def transcript(name: str) -> bytes:
    """The stream in `tests/transcripts/bedrock/<name>.jsonl`: a line for each frame, its headers and its payload."""
    lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
    told = (json.loads(line) for line in lines if line)
    return b"".join(
        frame(each["headers"], json.dumps(each["payload"], ensure_ascii=False).encode()) for each in told
    )


def both_ways(
    cutters: type[Cutter], readers: tuple[StreamReader, StreamReader], stream: bytes
) -> list[Delta]:
    """What a stream says, after checking that it says the same when it comes byte by byte."""
    at_once = read_at_once(cutters(), readers[0], stream)
    in_pieces = read_in_pieces(cutters(), readers[1], stream)
    assert [_comparable(each) for each in in_pieces] == [_comparable(each) for each in at_once]
    assert readers[0].close() == readers[1].close() == []
    return at_once


def _comparable(delta: Delta) -> object:
    if isinstance(delta, Failure):
        return type(delta.error), delta.error.message
    return delta
