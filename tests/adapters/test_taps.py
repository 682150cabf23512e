"""Taps between every pair of formats."""

from __future__ import annotations

import json
from itertools import pairwise
from operator import sub

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from adapters import CLIENTS, FORMATS, SAME
from adapters.base import StreamEditor
from adapters.errors import UpstreamMalformed
from adapters.framing import SseCutter
from adapters.providers import PROVIDERS
from adapters.taps import Passthrough, Tap, Translation
from adapters.types import ChatRequest, Delta, Start, Target, TextDelta
from tests.harness import chat_events, message_events

STREAMS = {
    "openai": b"".join(chat_events("Hel", "lo", " ✓")),
    "anthropic": b"".join(message_events("Hel", "lo", " ✓")),
}
PAIRS = [(client, provider) for client in CLIENTS for provider in ("openai", "anthropic")]
"""The formats that both clients and providers speak; those of providers alone are read the same way in their own tests."""


def tap(client: str, provider: str, *, wants_usage: bool = True) -> Tap:
    target = Target(provider=PROVIDERS[provider], model="theirs", base_url="http://x")
    if client == provider:
        return Passthrough(
            SseCutter(),
            SAME[client, client].pass_stream(target, "chat", model="mine", wants_usage=wants_usage),
        )
    request = ChatRequest(model="theirs", messages=(), stream=True)
    return Translation(
        SseCutter(),
        FORMATS[provider].read_stream(request, target),
        CLIENTS[client].write_stream(answer_id="id", model="mine", now=1, wants_usage=wants_usage),
    )


def through(it: Tap, data: bytes) -> bytes:
    """One read, as the relay hands it on."""
    return it.again(data) or it.feed(data)


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
    bit_by_bit = b"".join(through(single, stream[i : i + 1]) for i in range(len(stream))) + single.close()
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
    out = b"".join(through(other, piece) for piece in pieces) + other.close()
    assert out == one.feed(stream) + one.close()


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
    assert through(it, STREAMS[provider]) == b""
    assert it.over


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_a_stream_that_is_cut(client: str, provider: str) -> None:
    """Wherever it ends, whole events of the client's format alone are written, and it is done or has failed."""
    stream = STREAMS[provider]
    for size in range(len(stream)):
        it = tap(client, provider)
        out = it.feed(stream[:size]) + it.close()
        for event in out.split(b"\n\n")[:-1]:
            _, _, data = event.partition(b"data: ")
            assert data == b"[DONE]" or json.loads(data)
        assert it.done or it.failure is not None


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_event_by_event(client: str, provider: str) -> None:
    """The short way round gives what the long one does, counts the same, and is not taken before an event is whole or after the end."""
    events = (chat_events if provider == "openai" else message_events)(*(["word "] * 20))
    one, other = tap(client, provider), tap(client, provider)
    assert [through(one, event) for event in events] == [other.feed(event) for event in events]
    for name in ("events", "deltas", "chars", "usage", "finish", "answer_id", "done", "over"):
        assert getattr(one, name) == getattr(other, name)
    assert one.over
    assert all(through(one, event) == b"" for event in events)
    shorter = tap(client, provider)
    for event in events[:10]:
        through(shorter, event)
    assert shorter.again(events[10])
    assert through(shorter, events[11][:9]) == shorter.again(events[12]) == b""


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
        SseCutter(limit=1000),
        SAME["openai", "openai"].pass_stream(target, "chat", model="mine", wants_usage=False),
    )
    assert it.feed(b"data: " + b"x" * 2000) == b""
    assert isinstance(it.failure, UpstreamMalformed)


# -- the short way round ---------------------------------------------------------------------------------------------

QUESTION = ChatRequest(model="theirs", messages=(), stream=True)
WORDS = st.text(min_size=1, max_size=6) | st.sampled_from(
    ['"', "\\", '"}}', "\n\n", '\\"', '":"', "\u2028", "\x7f", "\u3000", "null", '","finish_reason":"stop']
)


def spelled(event: bytes, spelling: str, number: int) -> bytes:
    """An event as other servers write it."""
    name, data = event[:-2].rpartition(b"data: ")[::2]
    try:
        fields = json.loads(data)
    except ValueError:
        return event
    if spelling == "padded":
        fields["obfuscation"] = "aBc9"[: number % 5]
    spaces = b" " * (number % 3) if spelling == "spaces" else b""
    separators = (", ", ": ") if spelling == "spaced" else (",", ":")
    text = json.dumps(fields, separators=separators, ensure_ascii=spelling == "ascii").encode(
        "utf-8", "replace"
    )
    line = name + b"data: " + text[:-1] + spaces + b"}\n\n"
    return line.replace(b"\n", b"\r\n") if spelling == "crlf" else line


def check_short_way(provider: str, events: list[bytes]) -> int:
    """Whatever the short way says of an event, a reader that has learned nothing says too; how often it says something."""
    target = Target(provider=PROVIDERS[provider], model="theirs", base_url="http://x")
    reader = FORMATS[provider].read_stream(QUESTION, target)
    hits = 0
    for event in events:
        text = reader.words(event)
        if text:
            fresh = FORMATS[provider].read_stream(QUESTION, target)
            deltas = [delta for delta in fresh.feed(event) if not isinstance(delta, Start)]
            assert deltas == [TextDelta(Raw(text))]
            assert not reader.done
            hits += 1
        reader.feed(event)
    return hits


@given(
    provider=st.sampled_from(sorted(STREAMS)),
    words=st.lists(WORDS, max_size=8),
    spelling=st.sampled_from(["plain", "spaced", "ascii", "padded", "spaces", "crlf"]),
)
def test_the_short_way_reads_what_the_long_way_reads(provider: str, words: list[str], spelling: str) -> None:
    """Words that are read at a glance are those that the whole event says, however it is spelled."""
    make = chat_events if provider == "openai" else message_events
    events = [spelled(event, spelling, number) for number, event in enumerate(make("a", "b", "c", *words))]
    hits = check_short_way(provider, events)
    assert hits or spelling in {"spaces", "padded", "crlf"}


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices":[{"index":0,"delta":{"content":"b"},"x":{"content":"a"}}],"id":"i"}',
        b'{"choices":[{"index":0,"x":{"content":"a"},"delta":{"content":"a"}}],"id":"i"}',
        b'{"choices":[{"index":1,"delta":{"content":"a"}}],"id":"i"}',
        b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],"id":"i"}',
        b'{"choices":[{"index":0,"delta":{"content":":"}}],"id":":"}',
        b'{"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":1},"id":"i"}',
    ],
)
def test_only_what_is_proved_is_learned(event: bytes) -> None:
    """Chunks whose words only seem to be where they are, or that say more than words, are read at length."""
    whole = b"data: " + event + b"\n\n"
    other = whole.replace(b'"content":"a"', b'"content":"z"')
    check_short_way("openai", [whole, whole, whole, other, other, whole])


@given(
    pair=st.sampled_from(PAIRS),
    added=st.lists(WORDS, max_size=8),
    cuts=st.lists(st.integers(0, 5000), max_size=9),
)
def test_any_words_in_any_pieces(pair: tuple[str, str], added: list[str], cuts: list[int]) -> None:
    """Bytes, counts and words are the same for a stream at once, event by event and cut anywhere."""
    client, provider = pair
    events = (chat_events if provider == "openai" else message_events)("a", "b", *added)
    stream = b"".join(events)
    borders = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    ways = [[stream], events, [stream[start:end] for start, end in pairwise(borders)]]
    taps = [tap(client, provider) for _ in ways]
    outs = [b"".join(map(it.feed, pieces)) + it.close() for it, pieces in zip(taps, ways, strict=True)]
    said = "".join(["a", "b", *added])
    assert [words(client, out) for out in outs] == [said] * 3
    assert len(set(outs)) == 1
    assert len({(it.events, it.deltas, it.chars, it.usage, it.finish) for it in taps}) == 1


def check_passing(provider: str, events: list[bytes]) -> None:
    """Each event passes, and is counted, as it is by an editor that has seen no other."""
    target = Target(provider=PROVIDERS[provider], model="theirs", base_url="http://x")

    def editor() -> StreamEditor:
        return SAME[provider, provider].pass_stream(target, "chat", model="mine", wants_usage=False)

    learned = editor()
    for event in events:
        before = learned.events, learned.deltas, learned.chars
        out = learned.feed(event)
        if learned.failure is not None:
            break
        alone = editor()
        assert alone.feed(event) == out
        counts = learned.events, learned.deltas, learned.chars
        assert tuple(map(sub, counts, before)) == (alone.events, alone.deltas, alone.chars)
        if learned.done:
            break


@given(
    provider=st.sampled_from(sorted(STREAMS)),
    added=st.lists(WORDS, max_size=8),
    spelling=st.sampled_from(["plain", "spaced", "ascii", "padded", "spaces", "crlf"]),
)
def test_events_pass_as_they_would_alone(provider: str, added: list[str], spelling: str) -> None:
    """What an editor has learned of earlier events changes neither the bytes of one nor how it is counted."""
    make = chat_events if provider == "openai" else message_events
    check_passing(provider, [spelled(event, spelling, n) for n, event in enumerate(make("a", *added))])


@pytest.mark.parametrize("client", CLIENTS)
def test_words_are_written_as_deltas_are(client: str) -> None:
    """A writer's short way writes what its long way writes, in the first words and after other blocks too."""
    text = b'"a\\n"'
    befores: list[list[Delta]] = [[], [Start()], [Start(), TextDelta(Raw(b'"x"'))]]
    for before in befores:
        one, other = (
            CLIENTS[client].write_stream(answer_id="id", model="mine", now=1, wants_usage=True) for _ in "12"
        )
        assert one.feed(before) == other.feed(before)
        assert one.words(text) == other.feed([TextDelta(Raw(text))])
        assert one.close() == other.close()


def test_words_that_have_to_wait_are_not_doubled() -> None:
    """An Anthropic client reads words that came while a call had no arguments yet once, behind the call; and they count once."""
    begun, *words = chat_events("a", "b", "c", "d", done=False)
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}
    chunk = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    called = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    events = [begun, *words[:3], called, words[3], *chat_events()[1:]]
    one, other = tap("anthropic", "openai"), tap("anthropic", "openai")
    out = b"".join(through(one, event) for event in events) + one.close()
    assert out == other.feed(b"".join(events)) + other.close()
    told = [json.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: ")]
    said = [event["delta"].get("text") for event in told if event["type"] == "content_block_delta"]
    assert said == ["a", "b", "c", None, "d"]
    assert (one.events, one.deltas, one.chars) == (other.events, other.deltas, other.chars)


def test_words_behind_the_reason_come_before_the_end() -> None:
    """A provider may say why it ends and go on: what an OpenAI client reads as the last chunk of a choice is the last."""
    reason, end = message_events()[-2:]
    events = [*message_events("a", done=False), reason, *message_events("b", done=False)[2:], end]
    for pieces in (events, [b"".join(events)]):
        it = tap("openai", "anthropic")
        out = b"".join(through(it, piece) for piece in pieces) + it.close()
        assert words("openai", out) == "ab"
        chunks = [json.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: {")]
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert reasons == [None, None, None, "stop"]


@pytest.mark.parametrize("client", CLIENTS)
def test_words_that_are_cut_are_not_handed_on(client: str) -> None:
    """Of a provider whose events are plain text, one without its end may be half a word, or half a character."""
    target = Target(provider=PROVIDERS["replicate"], model="a/b", base_url="http://x")
    stream = (
        "event: output\ndata: Hel\n\nevent: output\ndata: lo \u2713\n\nevent: done\ndata: {}\n\n".encode()
    )
    for size in range(len(stream)):
        it = Translation(
            SseCutter(),
            FORMATS["replicate"].read_stream(QUESTION, target),
            CLIENTS[client].write_stream(answer_id="id", model="mine", now=1, wants_usage=True),
        )
        out = it.feed(stream[:size]) + it.close()
        assert words(client, out) in {"", "Hel", "Hello \u2713"}
        assert it.done or it.failure is not None
