"""Gemini's chunks of words: read at a glance they say what they say at length, whatever comes between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import CLIENTS, gemini
from adapters.framing import SseCutter, whole_events
from adapters.providers import PROVIDERS
from adapters.taps import Translation
from adapters.types import ChatRequest, Failure, Target, Usage
from tests.recorded import Recording, recordings

RECORDINGS = [
    each
    for each in recordings("gemini", "vertex", kinds=("generateContent",))
    if each.is_stream and each.status == 200
]
TARGET = Target(provider=PROVIDERS["gemini"], model="gemini-3-flash", base_url="http://x")
QUESTION = ChatRequest(model="any", messages=(), stream=True)


def tap(client: str) -> Translation:
    writer = CLIENTS[client].write_stream(answer_id="id", model="mine", now=1, wants_usage=True)
    return Translation(SseCutter(), gemini.read_stream(QUESTION, TARGET), writer)


def state(it: Translation) -> tuple[Any, ...]:
    """What a tap knows of its stream, but for usage, of which asking is part of the test."""
    failure = it.failure and (type(it.failure), it.failure.message)
    return failure, it.finish, it.answer_id, it.deltas, it.chars, it.done, it.over, bool(it.events)


def check(pieces: Sequence[bytes], *, asked: Iterable[int] = ()) -> int:
    """Each piece of a stream gives the same bytes and the same knowledge both ways, and so does its end.

    Usage is asked for after the pieces `asked`, before the end if -1 is one of them, and after it. How many pieces went the short way.
    """
    for client in CLIENTS:
        short, long = tap(client), tap(client)
        hits = 0
        for number, piece in enumerate(pieces):
            out = short.again(piece)
            hits += bool(out)
            assert (out or short.feed(piece)) == long.feed(piece)
            assert state(short) == state(long)
            if number in asked:
                assert short.usage == long.usage
        if -1 in asked:
            assert short.usage == long.usage
        assert short.close() == long.close()
        assert (state(short), short.usage) == (state(long), long.usage)
    return hits


def cut(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = sorted({0, len(stream), *(at % len(stream) for at in cuts)})
    return [stream[start:end] for start, end in pairwise(borders)]


# -- chunks ----------------------------------------------------------------------------------------------------------

WORDS = st.text(min_size=1, max_size=6) | st.sampled_from(
    [
        '"',
        "\\",
        '"}}',
        "\r\n\r\n",
        "<b>",
        "&='",
        "\u2028",
        "\x7f",
        "null",
        '"}],"role":"model"},"index":0}]',
        "?",
    ]
)
COUNT = st.sampled_from([0, 1, 7, 8, 9, 140, 10**6, 2**63, -1, 1.0, 1.5, None, "7", True])
COUNTS: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 99).map(
        lambda said: {"promptTokenCount": 7, "candidatesTokenCount": said, "totalTokenCount": 7 + said}
    ),
    st.dictionaries(
        st.sampled_from(
            ["promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "new"]
        ),
        COUNT,
        max_size=4,
    ),
    st.sampled_from(
        [
            None,
            {},
            [],
            {"trafficType": "ON_DEMAND"},
            {"promptTokenCount": 5, "trafficType": "ON_DEMAND_FLEX"},
            {"promptTokenCount": 9, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}]},
            {"promptTokenCount": 9, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": -4}]},
            {"promptTokenCount": 9, "new": {"a": [1e999, "\ud800", "}"]}},
        ]
    ),
)
GROUNDING = {"webSearchQueries": ["a", "b"]}
Change = Callable[[dict[str, Any]], object]


def _candidate(**fields: Any) -> Change:
    return lambda event: event["candidates"][0].update(fields)


def _part(**fields: Any) -> Change:
    return lambda event: event["candidates"][0]["content"]["parts"][0].update(fields)


def _parts(*parts: dict[str, Any]) -> Change:
    return lambda event: event["candidates"][0]["content"].update(parts=list(parts))


def _reverse(event: dict[str, Any]) -> None:
    for name in list(event)[::-1]:
        event[name] = event.pop(name)


def _another_candidate(event: dict[str, Any]) -> None:
    event["candidates"].append({"content": {"parts": [{"text": "two"}]}, "index": 1, "finishReason": "STOP"})


CHANGES: list[Change] = [
    _candidate(finishReason="STOP"),
    _candidate(finishReason="SAFETY"),
    _candidate(finishReason="MALFORMED_FUNCTION_CALL", finishMessage="no"),
    _candidate(safetyRatings=[{"category": "A", "probability": "LOW"}]),
    _candidate(groundingMetadata=GROUNDING),
    _candidate(citationMetadata={"citationSources": []}),
    _candidate(index=1),
    _candidate(index=None),
    _candidate(content=None),
    _candidate(logprobsResult={"chosenCandidates": [{"token": "a", "logProbability": -1.0}]}),
    _part(thought=True),
    _part(thought=False),
    _part(thoughtSignature="c2VhbA=="),
    _part(text=5),
    _part(text=""),
    _parts({"text": "a"}, {"text": "b"}),
    _parts({"functionCall": {"name": "look", "args": {"at": "it"}}}),
    _parts({"functionCall": {"name": "look", "willContinue": True}}),
    _parts({"inlineData": {"mimeType": "image/png", "data": "aaaa"}}),
    _reverse,
    _another_candidate,
    lambda event: event.update(candidates=[]),
    lambda event: event.update(modelVersion="gemini-4"),
    lambda event: event.update(responseId="other"),
    lambda event: event.update(promptFeedback={"blockReason": "SAFETY"}),
    lambda event: event.update(error={"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}),
    lambda event: event.update(new='"usageMetadata":{"promptTokenCount":7}'),
    lambda event: event.pop("usageMetadata"),
    lambda event: event.update(new=event.pop("usageMetadata")),
]


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunk, mostly an ordinary one."""
    event: dict[str, Any] = {
        "candidates": [{"content": {"parts": [{"text": draw(WORDS)}], "role": "model"}, "index": 0}],
        "usageMetadata": draw(COUNTS),
        "modelVersion": "gemini-3-flash",
        "responseId": "r-1_x",
    }
    if draw(st.integers(0, 3)) == 3:
        draw(st.sampled_from(CHANGES))(event)
    return spelled(
        event, draw(st.sampled_from(["google", "google", "google", "dense", "ascii", "lf", "lines"]))
    )


def spelled(event: dict[str, Any], spelling: str) -> bytes:
    """An event as Google writes it, or somebody else."""
    separators = (",", ": ") if spelling == "google" else (",", ":")
    text = json.dumps(event, separators=separators, ensure_ascii=spelling == "ascii")
    text = text.replace("<", r"\u003c").replace("'", r"\u0027")
    data = text.encode("utf-8", "surrogatepass")
    if spelling == "lines":
        return b"data: " + data.replace(b"Metadata:", b"Metadata:\r\ndata:") + b"\r\n\r\n"
    return b"data: " + data + (b"\n\n" if spelling == "lf" else b"\r\n\r\n")


def ordinary(words: str, said: int) -> bytes:
    counts = {"promptTokenCount": 7, "candidatesTokenCount": said, "totalTokenCount": 7 + said}
    content = {"parts": [{"text": words}], "role": "model"}
    event = {"candidates": [{"content": content, "index": 0}], "usageMetadata": counts}
    return spelled({**event, "modelVersion": "gemini-3-flash", "responseId": "r-1_x"}, "google")


ASKED = st.sets(st.integers(-1, 12))


@given(events=st.lists(chunks(), max_size=12), asked=ASKED)
def test_event_by_event(events: list[bytes], asked: set[int]) -> None:
    """Whatever chunks are made of and follow one another."""
    check([ordinary("a", 1), ordinary("b", 2), *events], asked=asked)


@given(events=st.lists(chunks(), max_size=8), cuts=st.lists(st.integers(0, 5000), max_size=9), asked=ASKED)
def test_in_any_pieces(events: list[bytes], cuts: list[int], asked: set[int]) -> None:
    """However the wire cuts them."""
    check(cut(b"".join([ordinary("a", 1), ordinary("b", 2), *events]), cuts), asked=asked)


@given(
    events=st.lists(chunks() | st.builds(ordinary, WORDS, st.integers(0, 9)), min_size=1, max_size=6),
    damage=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 600), st.integers(0, 3), st.binary(max_size=3)),
        max_size=3,
    ),
    asked=ASKED,
)
def test_with_damage(events: list[bytes], damage: list[tuple[int, int, int, bytes]], asked: set[int]) -> None:
    """Bytes that are lost, doubled or changed."""
    for number, place, size, others in damage:
        event = events[number % len(events)]
        at = place % len(event) if event else 0
        events[number % len(events)] = event[:at] + others + event[at + size :]
    check([ordinary("a", 1), ordinary("b", 2), *events], asked=asked)


# -- some that matter ------------------------------------------------------------------------------------------------


def test_the_short_way_is_taken() -> None:
    """From the third chunk on, whatever is counted; usage is what was counted last, whenever it is asked for."""
    events = [ordinary(word, said) for said, word in enumerate(["a", "b", "c ✓", 'd "\\\n<', "e"], start=1)]
    assert check(events) == check(events, asked=range(5)) == 3
    for said in range(1, 6):
        it = tap("openai")
        for event in events[:said]:
            assert it.again(event) or it.feed(event)
        assert it.usage == it.usage == Usage(input=7, output=said)


def test_totals_that_go_back_and_forth() -> None:
    """The last totals hold, those too that were the last ones of an earlier chunk."""
    stop = ordinary("", 5).replace(b'"role": "model"}', b'"role": "model"},"finishReason": "STOP"')
    other = ordinary("x", 1).replace(b"gemini-3", b"gemini-4")
    thought = ordinary("x", 8).replace(b'"text": "x"', b'"text": "x","thought": true')
    a, b = ordinary("a", 9), ordinary("b", 3)
    for events in ([a, a, b, a, stop], [a, a, thought, a, b, b], [b, a, a, other, a, other, other, b, stop]):
        assert check(events)
        check(events, asked=range(len(events)))


def test_searches_are_counted_where_they_are_told() -> None:
    """What was counted before a search was told has none, what is counted after it has."""
    a, b = ordinary("a", 1), ordinary("b", 2)
    searched = b.replace(b'"index": 0', b'"index": 0,"groundingMetadata": ' + json.dumps(GROUNDING).encode())
    it = tap("openai")
    for event in (a, a, b, searched):
        assert it.again(event) or it.feed(event)
    assert it.usage is not None
    assert it.usage.units.searches == 2
    assert check([a, a, b, searched, b, a], asked=[2]) == 3


@pytest.mark.parametrize(
    "counts",
    [
        b"",
        b"\x00",
        b"null",
        b"[]",
        b"{",
        b'{"totalTokenCount": -7}',
        b'{"promptTokenCount": 7}, "x": {}',
        b'{"promptTokenCount": 7},"usageMetadata": {"promptTokenCount": 9}',
        b'{"promptTokenCount": 7},"error": {"code": 503}',
        b'{"totalTokenCount":\r\n7}',
        b'{"totalTokenCount":\n7}',
        b'{"totalTokenCount": 7, "new": "\xff"}',
        b'{"totalTokenCount": 7, "serviceTier": "\xff"}',
        b'{"totalTokenCount": 7, "new": "\\ud800"}',
        b'{"totalTokenCount": 7, "new": NaN}',
        b'{"trafficType": "ON_DEMAND"}',
        b'{"totalTokenCount": 7, "new": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_counts_that_are_none(counts: bytes) -> None:
    """What stands where the counts stood is read as a whole where it is not plainly counts."""
    a, b = ordinary("a", 1), ordinary("b", 2)
    strange = with_counts(a, counts)
    check([a, a, b, strange])
    check([a, a, b, strange, a, b], asked=range(6))
    if b"\n" in counts:
        check([a, a, with_counts(b, counts.replace(b"\n", b"\ndata: ")), strange])


def with_counts(event: bytes, counts: bytes) -> bytes:
    head, name, rest = event.partition(b'"usageMetadata": ')
    return head + name + counts + rest.partition(b"}")[2]


@pytest.mark.parametrize(
    "words", [b"\xff", b"\xe2\x82", b"\x00", b"\n", b'"', b"\\", b"\\ud800", b"\\u003c", b"\\x", b""]
)
def test_words_that_are_none(words: bytes) -> None:
    """What stands where the words stood is read as a whole where it is not plainly words."""
    a = ordinary("a", 1)
    check([a, a, a.replace(b'"a"', b'"%b"' % words), a], asked=range(4))


def test_other_choices() -> None:
    """The short way is the first choice's."""
    a = ordinary("a", 1).replace(b'"index": 0', b'"index": 1')
    assert check([a] * 5) == 0


def test_after_a_failure() -> None:
    """A reader that has failed says nothing more."""
    reader = gemini.read_stream(QUESTION, TARGET)
    event = ordinary("a", 1)
    assert [len(reader.feed(each)) for each in (event, event)] == [3, 1]
    assert reader.words(event) == b'"a"'
    assert isinstance(reader.feed(b"data: {\n\n")[-1], Failure)
    assert reader.words(event) == b""
    assert reader.feed(event) == []


@pytest.mark.parametrize(
    "event",
    [
        b'{"x":"a","candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":1},"y":1}',
        b'{"x":"?","candidates":[{"content":{"parts":[{"text":"?"}]}}],"usageMetadata":{"promptTokenCount":1},"y":1}',
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"x":{"promptTokenCount":1},"usageMetadata":{"promptTokenCount":1}}',
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":1},"candidates":[]}',
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"x":"a"}],"usageMetadata":{"promptTokenCount":1}}',
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"x":NaN}],"usageMetadata":{"promptTokenCount":1}}',
    ],
)
def test_only_what_is_proved_is_learned(event: bytes) -> None:
    """Chunks whose words or counts only seem to be where they are."""
    whole = b"data: " + event + b"\r\n\r\n"
    others = [
        whole.replace(b'"text":"a"', b'"text":"z"'),
        whole.replace(b'"a"', b'"z"', 1),
        whole.replace(b'"?"', b'"z"', 1),
        whole.replace(b'Count":1', b'Count":2,"totalTokenCount":2', 1),
        whole.replace(b'Count":1', b'Count":2', 1),
        whole.replace(b'"usageMetadata":{"promptTokenCount":1}', b'"usageMetadata":{"promptTokenCount":2}'),
    ]
    check([whole, whole, whole, *others, whole], asked=range(10))


def test_what_no_event_is() -> None:
    """Before anything is learned nothing is said at a glance, whatever the bytes."""
    for noise in (b'\x00"a"\x00{"promptTokenCount":1}\x00', b"\x00\x00", b"\n\n", b""):
        assert check([noise]) == 0
        check([ordinary("a", 1), ordinary("a", 1), noise, ordinary("a", 1)], asked=[2])


# -- what Gemini really said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_recorded_streams(recording: Recording) -> None:
    """Event by event and cut within each event: at a glance what at length."""
    events = whole_events(recording.response)
    plain = sum(
        b'"text"' in each and b'"thought' not in each and b"finishReason" not in each for each in events
    )
    assert check(events) == check(events, asked=range(len(events))) >= plain - 3
    for part in range(2, 9):
        pieces = [
            each[start:end]
            for number, each in enumerate(events)
            for start, end in (
                [(0, len(each))] if number % part else [(0, len(each) // part), (len(each) // part, None)]
            )
        ]
        check(pieces, asked=range(0, len(pieces), part))


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_recorded_streams_one_byte_at_a_time(recording: Recording) -> None:
    """The short way does not get in the way."""
    stream = recording.response
    check([stream[at : at + 1] for at in range(len(stream))])
