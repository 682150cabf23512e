"""Amazon's frames: cut anywhere, read as botocore reads them, and never believed if a checksum is wrong."""

from __future__ import annotations

import random
import struct
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import UpstreamMalformed
from adapters.eventstream import FrameCutter, read_frames
from tests.adapters.frames import event, exception, frame, of_block
from tests.recorded import Recording, recordings

STREAMS = [each for each in recordings("bedrock") if each.is_stream]
STREAM = b"".join(
    (
        event("messageStart", {"role": "assistant"}),
        event("contentBlockDelta", {"delta": {"text": "Grüße, 世界"}, "contentBlockIndex": 0}),
        frame({}, b""),
        exception("throttlingException", {"message": "slowly"}),
    )
)


def by_botocore(stream: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """What Amazon's own library reads."""
    buffer = EventStreamBuffer()
    buffer.add_data(stream)
    return [(dict(each.headers), each.payload) for each in buffer]


def ours(stream: bytes) -> list[tuple[dict[str, str], bytes]]:
    return [(dict(headers), payload) for headers, payload in read_frames(stream)]


def cut(stream: bytes, *places: int) -> bytes:
    """What a cutter gives of the stream, cut at these places."""
    cutter, at, whole = FrameCutter(), 0, b""
    for place in (*sorted(places), len(stream)):
        piece = cutter.feed(stream[at:place])
        assert ours(piece) is not None  # whole frames only
        whole += piece
        at = place
    return whole + cutter.flush()


def test_frames_are_read_as_botocore_reads_them() -> None:
    """Headers and payloads are the same, with and without."""
    assert ours(STREAM) == by_botocore(STREAM)
    assert len(ours(STREAM)) == 4


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_recordings_are_read_as_botocore_reads_them(recording: Recording) -> None:
    """Real streams, too."""
    assert ours(recording.response) == by_botocore(recording.response)


def test_every_kind_of_header_is_passed_over() -> None:
    """Headers of all ten types: those that are text are read, all others skipped by their size."""
    block = b""
    values = {
        0: b"",
        1: b"",
        2: b"\x01",
        3: b"\x00\x01",
        4: b"\x00" * 4,
        5: b"\x00" * 8,
        6: b"\x00\x02ab",
        8: b"\x00" * 8,
        9: b"\x00" * 16,
    }
    for kind, value in values.items():
        block += b"\x02h" + str(kind).encode() + bytes([kind]) + value
    block += b"\x04last\x07\x00\x03yes"
    (headers, payload), *others = read_frames(of_block(block, b"body"))
    assert (dict(headers), payload, others) == ({"last": "yes"}, b"body", [])
    assert by_botocore(of_block(block, b"body"))[0][0]["last"] == "yes"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_cut_anywhere(places: list[int]) -> None:
    """Wherever the wire cuts, all frames come out whole and in order."""
    assert cut(STREAM, *places) == STREAM


def test_cut_at_every_byte() -> None:
    """One byte at a time."""
    assert cut(STREAM, *range(len(STREAM))) == STREAM


@given(st.integers(0, len(STREAM) * 8 - 1))
def test_a_flipped_bit_is_noticed(bit: int) -> None:
    """With one bit wrong, no frame is read that was not sent, and the end is `UpstreamMalformed`."""
    broken = bytearray(STREAM)
    broken[bit // 8] ^= 1 << bit % 8
    read: list[tuple[dict[str, str], bytes]] = []
    cutter = FrameCutter()
    with pytest.raises(UpstreamMalformed):
        for at in range(0, len(broken), 7):
            for headers, payload in read_frames(cutter.feed(bytes(broken[at : at + 7]))):
                read.append((dict(headers), payload))
        list(read_frames(cutter.flush()))
    assert read == ours(STREAM)[: len(read)]


@given(st.binary(max_size=300))
def test_noise_is_malformed(noise: bytes) -> None:
    """Bytes that are no frames are `UpstreamMalformed` or wait for more; nothing else is raised, and nothing hangs."""
    cutter = FrameCutter()
    try:
        whole = cutter.feed(noise)
        assert not whole
        rest = cutter.flush()
        if rest:
            with pytest.raises(UpstreamMalformed):
                list(read_frames(rest))
    except UpstreamMalformed:
        pass


def test_what_came_before_a_broken_frame_is_read() -> None:
    """Frames in front of noise come out however the wire cuts, and the noise is found behind them."""
    for places in ((), (len(STREAM),), tuple(range(len(STREAM)))):
        cutter, at, whole = FrameCutter(), 0, b""
        with pytest.raises(UpstreamMalformed):
            for place in (*places, len(STREAM) + 20):
                whole += cutter.feed((STREAM + b"\x00" * 20)[at:place])
                at = place
            list(read_frames(cutter.flush()))
        assert whole == STREAM


def test_a_frame_that_is_too_large_is_refused_at_its_beginning() -> None:
    """The length is enough: nobody waits for eight megabytes."""
    large = frame({"name": "value"}, b"x" * 2000)
    with pytest.raises(UpstreamMalformed, match="over 1000 bytes"):
        FrameCutter(limit=1000).feed(large[:12])


def test_a_stream_that_breaks_off_within_a_frame() -> None:
    """What is left is no frame, and its reader says so."""
    cutter = FrameCutter()
    assert cutter.feed(STREAM[:-1]) == STREAM[: -len(exception("throttlingException", {"message": "slowly"}))]
    with pytest.raises(UpstreamMalformed, match="within a frame"):
        list(read_frames(cutter.flush()))
    assert cutter.flush() == b""


@pytest.mark.parametrize(
    "block",
    [
        b"\x09name",  # cut within its name
        b"\x01n\x07\x00",  # within its length
        b"\x01n\x07\x00\x09ab",  # within its value
        b"\x01n\x0bxx",  # a type that there is not
        b"\x01\xff\x07\x00\x01a",  # no UTF-8
    ],
)
def test_broken_headers_are_malformed(block: bytes) -> None:
    """Headers that do not fit into their frame, though its checksums are right."""
    with pytest.raises(UpstreamMalformed):
        list(read_frames(of_block(block)))


def test_a_length_that_is_too_small() -> None:
    """Headers longer than their frame, with a right checksum."""
    whole = frame({"n": "v"}, b"")
    head = struct.pack(">II", len(whole), len(whole))
    with pytest.raises(UpstreamMalformed, match="wrong beginning"):
        FrameCutter().feed(head + struct.pack(">I", crc32(head)) + whole[12:])


def test_random_cuts_of_random_streams() -> None:
    """Many streams, cut at random: the same frames as at once."""
    chance = random.Random(7)
    for _ in range(30):
        stream = b"".join(
            event("contentBlockDelta", {"delta": {"text": "x" * chance.randrange(300)}})
            for _ in range(chance.randrange(1, 20))
        )
        places = [chance.randrange(len(stream)) for _ in range(chance.randrange(40))]
        assert cut(stream, *places) == stream
