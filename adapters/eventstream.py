"""Amazon's event stream, cut and read: binary frames, each with two checksums.

    total length u32 | length of the headers u32 | CRC-32 of these 8 bytes | headers | payload | CRC-32 of all before

A header is its name (with a length u8), a type u8 and a value. https://smithy.io/2.0/aws/amazon-eventstream.html. A frame
is an event, or (`:message-type`) an exception of the service or an error of the transport. Bytes whose checksum is wrong
are never read: what a length says is believed only if the first checksum proves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from struct import Struct
from struct import error as BrokenStruct  # noqa: N812 - `error` says nothing where it is caught
from zlib import crc32

from adapters.errors import UpstreamMalformed
from adapters.framing import EVENT_LIMIT

TYPE: str = "application/vnd.amazon.eventstream"

_PRELUDE = Struct(">III")
_U16 = Struct(">H")
_U32 = Struct(">I")
_LEAST = 16  # a frame without headers and payload
_MOST_HEADERS = 128 * 1024

_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type: true, false, i8, i16, i32, i64, time, UUID."""
_LONG = {6: False, 7: True}
"""Types whose value has a length u16 before it: bytes, and text."""


class FrameCutter:
    """Cuts a stream into whole frames."""

    __slots__ = ("_end", "_limit", "_rest")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._rest = b""
        self._end = 0
        """Where the first frame that is not yet whole will end in `_rest`, as far as that is known."""
        self._limit = limit

    def feed(self, data: bytes) -> bytes:
        """All whole frames that are there by now, as the bytes that came. Raises `UpstreamMalformed`."""
        whole = self._rest + data if self._rest else data
        at = 0
        if len(whole) < self._end:
            self._rest = whole
            return b""
        self._end = 0
        while len(whole) - at >= _PRELUDE.size:
            try:
                length = frame_length(whole, at, self._limit)
            except UpstreamMalformed:
                if at:
                    break  # what came before is sound: it is for whoever is fed next, or flushes, to find this
                raise
            if len(whole) - at < length:
                self._rest, self._end = whole[at:], length
                return whole[:at]
            at += length
        if at == len(whole):  # the usual case: whole frames
            self._rest = b""
            return whole
        self._rest = whole[at:]
        return whole[:at]

    def flush(self) -> bytes:
        """What is left when the bytes have ended: a broken frame, whose reader will say so."""
        rest, self._rest = self._rest, b""
        self._end = 0
        return rest


def frame_length(data: bytes, at: int, limit: int = EVENT_LIMIT) -> int:
    """The bytes of the frame that begins at `at`. Raises `UpstreamMalformed` if no frame begins there."""
    if len(data) - at < _PRELUDE.size:
        raise UpstreamMalformed("The provider's event stream ended within a frame")
    length, headers, checksum = _PRELUDE.unpack_from(data, at)
    if crc32(data[at : at + 8]) != checksum or length < _LEAST + headers or headers > _MOST_HEADERS:
        raise UpstreamMalformed("The provider's event stream has a frame with a wrong beginning")
    if length > limit:
        raise UpstreamMalformed(f"The provider sent an event of over {limit} bytes")
    return int(length)


def read_frames(data: bytes) -> Iterator[tuple[Mapping[str, str], bytes]]:
    """The (headers, payload) of each whole frame. Headers that are no text are left out. Raises `UpstreamMalformed`."""
    at = 0
    while at < len(data):
        length = frame_length(data, at)
        end = at + length
        if end > len(data):
            raise UpstreamMalformed("The provider's event stream ended within a frame")
        if crc32(data[at : end - 4]) != _U32.unpack_from(data, end - 4)[0]:
            raise UpstreamMalformed("The provider's event stream has a frame with a wrong checksum")
        begin = at + _PRELUDE.size
        body = begin + int(_U32.unpack_from(data, at + 4)[0])
        yield _read_headers(data[begin:body]), data[body : end - 4]
        at = end


def payload_behind(block: bytes, data: bytes) -> bytes:
    """The payload, if `data` is one sound frame with exactly these headers; else nothing: then read it frame by frame.

    The short way for what streams are made of: many frames with the same headers, one at a time.
    """
    begin = _PRELUDE.size + len(block)
    if not data.startswith(block, _PRELUDE.size):
        return b""
    length, headers, _ = _PRELUDE.unpack_from(data)
    if (
        length != len(data)
        or headers != len(block)
        or crc32(data[:-4]) != _U32.unpack_from(data, length - 4)[0]
    ):
        return b""
    return data[begin:-4]


@lru_cache(maxsize=64)
def _read_headers(block: bytes) -> Mapping[str, str]:
    # The same few bytes stand before all events of a kind: 0.1 us instead of 3. Readers do not change what they get.
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name = block[at + 1 : name_end].decode()
            kind = block[name_end]
            at = name_end + 1
            if kind in _LONG:
                at += 2
                end = at + int(_U16.unpack_from(block, at - 2)[0])
                if _LONG[kind]:
                    headers[name] = block[at:end].decode()
            else:
                end = at + _FIXED[kind]
            if end > len(block):
                raise UpstreamMalformed("The provider's event stream has a header that is cut off")
            at = end
    except (IndexError, KeyError, UnicodeDecodeError, BrokenStruct):
        raise UpstreamMalformed("The provider's event stream has headers that cannot be read") from None
    return headers
