"""Going on with a streamed answer: what was heard, how it is asked for, and the seam."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from adapters import CLIENTS, PROVIDERS
from adapters.continuation import Heard, Seam, can_continue, question_to_continue
from adapters.envelope import open_envelope
from adapters.types import (
    Finish,
    Start,
    Target,
    TextDelta,
    ThinkingDelta,
    Told,
    ToolDelta,
    ToolStart,
    Usage,
    UsageDelta,
)
from tests.harness import chat_events, message_events

FORMATS = ("openai", "anthropic")


def heard_of(client_format: str, pieces: list[bytes]) -> Heard:
    heard = Heard(client_format)
    for piece in pieces:
        heard.feed(piece)
    return heard


def stream_of(client_format: str, *words: str, done: bool = False) -> list[bytes]:
    return (chat_events if client_format == "openai" else message_events)(*words, done=done)


def target(provider: str, model: str = "m", **more: Any) -> Target:
    return Target(provider=PROVIDERS[provider], model=model, base_url="https://x.example", **more)


def text_of(out: bytes) -> str:
    """The words of an OpenAI client's stream."""
    events = [json.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: {")]
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])


def seam(text: str, client_format: str = "openai", **told: Any) -> Seam:
    writer = CLIENTS[client_format].write_stream(
        answer_id="a", model="m", now=1, wants_usage=True, told=Told(**{"blocks": 1, "is_open": True, **told})
    )
    return Seam(writer, text, Usage(input=10, output=3, estimated=True))


def said(words: str) -> TextDelta:
    return TextDelta(Raw(msgspec.json.encode(words)))


# -- what was heard --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", FORMATS)
def test_words_are_heard(client: str) -> None:
    """Words come together as they were said, escapes, quotes and halves of characters too."""
    words = ("Hé", 'l"l\\', "o\n", "🦦", " 漢字")
    heard = heard_of(client, stream_of(client, *words))
    assert heard.text == "".join(words)
    assert heard.is_fit
    assert heard.told == (Told(0, is_open=False) if client == "openai" else Told(1, is_open=True))


def test_who_answers() -> None:
    """Id and time of the answer are kept, so that the rest has the same."""
    heard = heard_of("openai", stream_of("openai", "a"))
    assert (heard.answer_id, heard.created) == ("chatcmpl-1", 1_700_000_000)


UNFIT: list[tuple[str, bytes]] = [
    ("openai", b'data: {"id":"1","choices":[{"index":1,"delta":{"content":"b"}}]}\n\n'),
    ("openai", b'data: {"id":"1","choices":[{"index":0,"delta":{"reasoning_content":"b"}}]}\n\n'),
    ("openai", b'data: {"id":"1","choices":[{"index":0,"delta":{"refusal":"b"}}]}\n\n'),
    (
        "openai",
        b'data: {"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}}]}\n\n',
    ),
    (
        "anthropic",
        (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
            b'"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}\n\n'
        ),
    ),
    (
        "anthropic",
        (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
            b'"content_block":{"type":"server_tool_use","id":"t","name":"web_search","input":{}}}\n\n'
        ),
    ),
    (
        "anthropic",
        (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
            b'"content_block":{"type":"thinking","thinking":"","signature":""}}\n\n'
        ),
    ),
]


@pytest.mark.parametrize(("client", "event"), UNFIT)
def test_more_than_words_was_heard(client: str, event: bytes) -> None:
    """Thoughts, refusals, tool calls and other choices cannot be gone on with."""
    assert not heard_of(client, [*stream_of(client, "a"), event]).is_fit


@pytest.mark.parametrize("client", FORMATS)
def test_too_many_words(client: str) -> None:
    """At most 256 kB are kept."""
    assert not heard_of(client, stream_of(client, *["x" * 50_000] * 6)).is_fit


def test_words_that_look_like_events() -> None:
    """What a model says cannot count as a block."""
    heard = heard_of("anthropic", stream_of("anthropic", '{"type":"content_block_start"}'))
    assert heard.told == Told(1, is_open=True)


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({}, True),
        ({"n": 1}, True),
        ({"n": 2}, False),
        ({"logprobs": False}, True),
        ({"logprobs": True}, False),
        ({"response_format": {"type": "text"}}, True),
        ({"response_format": {"type": "json_object"}}, False),
        ({"output_config": {"format": {"type": "json_schema"}}}, False),
        ({"modalities": ["text", "audio"]}, False),
        ({"tools": [{"type": "function"}]}, True),
    ],
)
def test_which_questions(fields: dict[str, Any], can: bool) -> None:
    """Only an answer that is words can be continued, from whatever field of the question that is known."""
    assert can_continue(open_envelope(json.dumps(fields).encode())) is can


# -- the question ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "client", "more", "last"),
    [
        (target("anthropic"), "openai", {}, {"role": "assistant", "content": "One two"}),
        (target("anthropic"), "anthropic", {}, {"role": "assistant", "content": "One two"}),
        (target("mistral"), "openai", {}, {"role": "assistant", "content": "One two", "prefix": True}),
        (target("mistral"), "anthropic", {}, None),
        (target("openai"), "openai", {}, None),
        (target("anthropic", flags=frozenset({"no_assistant_prefill"})), "openai", {}, None),
        (target("anthropic"), "anthropic", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, None),
        (
            target("anthropic"),
            "anthropic",
            {"thinking": {"type": "disabled"}},
            {"role": "assistant", "content": "One two"},
        ),
    ],
)
def test_how_it_is_asked(to: Target, client: str, more: dict[str, Any], last: dict[str, Any] | None) -> None:
    """A turn that the model has begun where its provider goes on with one; else it is told to."""
    question = open_envelope(
        json.dumps({"messages": [{"role": "user", "content": "Count"}], **more}).encode()
    )
    turns = json.loads(bytes(question_to_continue(question, client, "One two ", 2, to)["messages"]))
    assert turns[0] == {"role": "user", "content": "Count"}
    if last is not None:
        assert turns[1:] == [last]
    else:
        assert turns[1] == {"role": "assistant", "content": "One two "}
        assert turns[2]["role"] == "user"
        assert "exactly where it stops" in turns[2]["content"]


def test_what_is_left_of_the_tokens() -> None:
    """What was said counts against the client's limit, of which one token stays at least."""
    question = open_envelope(b'{"messages":[ ],"max_tokens":10,"max_completion_tokens":2}')
    continued = question_to_continue(question, "openai", "One two", 4, target("openai"))
    assert (bytes(continued["max_tokens"]), bytes(continued["max_completion_tokens"])) == (b"6", b"1")
    assert len(json.loads(bytes(continued["messages"]))) == 2
    assert bytes(question["max_tokens"]) == b"10"


def test_nothing_was_said_yet() -> None:
    """Without a word there is nothing to continue: the question is asked as it was."""
    question = open_envelope(b'{"messages":[{"role":"user","content":"Hi"}]}')
    assert question_to_continue(question, "openai", " ", 0, target("openai")) == question


# -- the seam --------------------------------------------------------------------------------------------------------

SEAMS = [
    ("A river", [" flows"], " flows"),
    ("A river flows ", [" down"], "down"),
    ("A river\n", ["\n\nflows"], "\nflows"),
    ("A river flows down", ["flows", " down", " to the sea"], " to the sea"),
    ("A river flows down", ["A river flows down to"], " to"),
    ("A river flows down", ["flows downstream"], "stream"),
    ("ha ha", ["ha ha"], "ha ha"),
    ("so be", ["be it"], "be it"),
    ("--------", ["--------|"], "--------|"),
    ("unbreakable", ["breakable things"], "breakable things"),
    ("A river flows down", ["river", " fl"], "river fl"),
    ("Ein Fluß fließt — é", ["Fluß fließt", " — é", " ab"], " ab"),
    ("", ["Hello"], "Hello"),
]


@pytest.mark.parametrize(("before", "after", "told"), SEAMS)
def test_what_repeats_is_left_out(before: str, after: list[str], told: str) -> None:
    """What exactly repeats the end of what was said is left out, blanks too; what is short, or no whole word, is meant."""
    writer = seam(before)
    out = b"".join(writer.feed([said(piece)]) for piece in after)
    out += writer.feed([Finish("stop")]) + writer.close()
    assert text_of(out) == told


def test_the_seam_by_its_short_way() -> None:
    """`words` says what `feed` says after the seam; before it nothing, and keeps nothing."""
    writer = seam("A river flows down")
    pieces = [msgspec.json.encode(piece) for piece in ("flows", " down", " to", " the")]
    short = [writer.words(piece) for piece in pieces]
    assert short == [b""] * 4
    out = b"".join(writer.words(piece) or writer.feed([TextDelta(Raw(piece))]) for piece in pieces)
    assert text_of(out) == " to the"
    assert writer.words(pieces[0]) == seam("").feed([TextDelta(Raw(pieces[0]))])


def test_one_beginning_one_end_one_usage() -> None:
    """The rest has no beginning and no thoughts; usage is that of both."""
    writer = seam("A river")
    out = writer.feed([Start("other", "model", Usage(input=7)), ThinkingDelta(Raw(b'"hm"')), said(" flows")])
    out += writer.feed([UsageDelta(Usage(input=7, output=2)), Finish("stop")]) + writer.close()
    assert b"role" not in out
    assert b"hm" not in out
    assert out.count(b'"finish_reason":"stop"') == 1
    (usage,) = [line for line in out.splitlines() if b'"prompt_tokens"' in line]
    told = json.loads(usage[6:])["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"]) == (17, 5)


def test_blocks_go_on() -> None:
    """An Anthropic client's open block goes on, and the next one has the next index."""
    writer = seam("A river", "anthropic")
    out = writer.feed([Start("x", "m"), said(" flows"), ToolStart(0, "t1", "f"), ToolDelta(0, Raw(b'"{}"'))])
    out += writer.feed([Finish("tool_calls")]) + writer.close()
    assert b"message_start" not in out
    events = [json.loads(line[6:]) for line in out.splitlines() if line.startswith(b"data: ")]
    kinds = [(event["type"], event.get("index")) for event in events]
    assert kinds == [
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]
    told = [event["usage"] for event in events if event["type"] == "message_delta"]
    assert told == told[:1]


def test_a_block_that_was_closed() -> None:
    """Where the last block was closed the rest begins another one."""
    out = seam("A river", "anthropic", is_open=False).feed([said(" flows")])
    assert b'"type":"content_block_start","index":1' in out
