"""Taps between every pair of formats."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import CLIENTS, FORMATS, SAME
from adapters.errors import UpstreamMalformed
from adapters.framing import SseCutter
from adapters.providers import PROVIDERS
from adapters.taps import Passthrough, Tap, Translation
from adapters.types import ChatRequest, Target
from tests.harness import chat_events, message_events

STREAMS = {
    "openai": b"".join(chat_events("Hel", "lo", " ✓")),
    "anthropic": b"".join(message_events("Hel", "lo", " ✓")),
}
PAIRS = [(client, provider) for client in CLIENTS for provider in FORMATS]


def tap(client: str, provider: str, *, wants_usage: bool = True) -> Tap:
    target = Target(provider=PROVIDERS[provider], model="theirs", base_url="http://x")
    if client == provider:
        return Passthrough(
            SseCutter(), SAME[client].pass_stream(target, "chat", model="mine", wants_usage=wants_usage)
        )
    request = ChatRequest(model="theirs", messages=(), stream=True)
    return Translation(
        SseCutter(),
        FORMATS[provider].read_stream(request, target),
        CLIENTS[client].write_stream(answer_id="id", model="mine", now=1, wants_usage=wants_usage),
    )


def words(client: str, stream: bytes) -> str:
    """The text of a stream, read naively."""
    found = []
    for line in stream.splitlines():
        if not line.startswith(b"data: {"):
            continue
        data = json.loads(line[6:])
        if client == "openai":
            found += [choice["delta"].get("content") or "" for choice in data["choices"]]
        elif data["type"] == "content_block_delta":
            found.append(data["delta"]["text"])
    return "".join(found)


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_words_usage_and_end_arrive(client: str, provider: str) -> None:
    """Each pair of formats carries the words, the usage, the finish and the terminator."""
    it = tap(client, provider)
    out = it.feed(STREAMS[provider]) + it.close()
    assert words(client, out) == "Hello ✓"
    assert it.done
    assert it.failure is None
    assert it.finish == "stop"
    assert it.usage is not None
    assert (it.usage.prompt, it.usage.completion) == (10, 3)
    assert it.answer_id in ("chatcmpl-1", "msg_1")
    assert out.endswith(
        b"data: [DONE]\n\n" if client == "openai" else b'data: {"type":"message_stop"}\n\n'
    ) or (client == provider == "anthropic" and b"message_stop" in out[-60:])
    assert b'"mine"' in out
    assert b"theirs" not in out


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_one_byte_at_a_time(client: str, provider: str) -> None:
    """Cutting the bytes anywhere changes nothing."""
    whole, single = tap(client, provider), tap(client, provider)
    at_once = whole.feed(STREAMS[provider]) + whole.close()
    stream = STREAMS[provider]
    bit_by_bit = b"".join(single.feed(stream[i : i + 1]) for i in range(len(stream))) + single.close()
    assert bit_by_bit == at_once
    assert (single.events, single.usage, single.finish) == (whole.events, whole.usage, whole.finish)


@given(st.sampled_from(PAIRS), st.lists(st.integers(0, 2000), max_size=12))
def test_any_split_gives_the_same(pair: tuple[str, str], cuts: list[int]) -> None:
    """Random cuts change nothing."""
    client, provider = pair
    stream = STREAMS[provider]
    borders = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    one, other = tap(client, provider), tap(client, provider)
    pieces = [stream[start:end] for start, end in pairwise(borders)]
    assert b"".join(map(other.feed, pieces)) + other.close() == one.feed(stream) + one.close()


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_a_stream_without_its_end_is_a_failure(client: str, provider: str) -> None:
    """A stream that stops before its terminator fails, and no terminator is made up."""
    events = chat_events("a", done=False) if provider == "openai" else message_events("a", done=False)
    it = tap(client, provider)
    out = it.feed(b"".join(events)) + it.close()
    assert words(client, out) == "a"
    assert isinstance(it.failure, UpstreamMalformed)
    assert b"[DONE]" not in out
    assert b"message_stop" not in out
    assert it.feed(STREAMS[provider]) == b""


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_an_error_event_ends_the_stream(client: str, provider: str) -> None:
    """An error event becomes the tap's failure; neither it nor what follows passes."""
    error = {"error": {"message": "Overloaded", "type": "overloaded_error", "code": None}}
    if provider == "openai":
        event = b"data: " + msgspec.json.encode(error) + b"\n\ndata: [DONE]\n\n"
        head = chat_events("a", done=False)
    else:
        event = b"event: error\ndata: " + msgspec.json.encode({"type": "error", **error}) + b"\n\n"
        head = message_events("a", done=False)
    it = tap(client, provider)
    out = it.feed(b"".join(head) + event) + it.close()
    assert words(client, out) == "a"
    assert it.failure is not None
    assert "Overloaded" in it.failure.message
    assert b"[DONE]" not in out
    assert b"Overloaded" not in out


def test_an_event_over_the_limit_is_a_failure() -> None:
    """An event that never ends does not fill the memory."""
    target = Target(provider=PROVIDERS["openai"], model="theirs", base_url="http://x")
    it = Passthrough(
        SseCutter(limit=1000), SAME["openai"].pass_stream(target, "chat", model="mine", wants_usage=False)
    )
    assert it.feed(b"data: " + b"x" * 2000) == b""
    assert isinstance(it.failure, UpstreamMalformed)
