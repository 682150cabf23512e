"""Aleph Alpha's format: OpenAI's chat, and completions for models that know none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import FORMATS, aleph_alpha
from adapters.base import ProviderSide, StreamReader
from adapters.errors import Unsupported, UpstreamError, UpstreamMalformed, UpstreamRefused
from adapters.providers import PROVIDERS, find
from adapters.types import (
    ChatRequest,
    Choice,
    Failure,
    Finish,
    Image,
    Message,
    Ping,
    Reasoning,
    Target,
    Text,
    TextDelta,
    Usage,
)
from tests.adapters.reading import at_once, byte_by_byte, said
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "aleph_alpha"
CHATS = Target(
    provider=PROVIDERS["aleph_alpha"], model="llama-3.3-70b-instruct", base_url="https://api.aleph-alpha.com"
)
COMPLETES = replace(CHATS, model="luminous-base")
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Name a color."),)),))


def transcript(name: str) -> bytes:
    return (TRANSCRIPTS / name).read_bytes()


def written(request: ChatRequest, target: Target) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(aleph_alpha.write_request(request, target))
    return body


def completion() -> StreamReader:
    return aleph_alpha.read_stream(QUESTION, COMPLETES)


def chat() -> StreamReader:
    return aleph_alpha.read_stream(QUESTION, CHATS)


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format, and its older models are known by their name."""
    side: ProviderSide = aleph_alpha
    assert FORMATS["aleph_alpha"] is side
    assert find("luminous-supreme") == (PROVIDERS["aleph_alpha"], "luminous-supreme")


def test_address() -> None:
    """Chats and completions have an address each."""
    assert aleph_alpha.address(CHATS, "chat", {}, stream=False).url.endswith(".com/chat/completions")
    assert (
        aleph_alpha.address(COMPLETES, "chat", {}, stream=True).url == "https://api.aleph-alpha.com/complete"
    )
    with pytest.raises(Unsupported, match="images"):
        aleph_alpha.address(CHATS, "images", {}, stream=False)


def test_chat() -> None:
    """A chat is OpenAI's, in question, answer and stream."""
    request = replace(QUESTION, max_tokens=5, stream=True)
    assert written(request, CHATS) == {
        "model": "llama-3.3-70b-instruct",
        "messages": [{"role": "user", "content": "Name a color."}],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = aleph_alpha.read_response(transcript("chat.json"), QUESTION, CHATS)
    deltas = at_once(chat, transcript("chat.sse"))
    assert said(deltas) == {
        "text": "Blue, mostly.",
        "tools": [],
        "finish": ["stop"],
        "usage": Usage(input=6, output=5),
    }
    assert answer.choices == (Choice((Text("Blue, mostly."),), "stop"),)
    assert answer.usage == Usage(input=6, output=5)


def test_completion_question() -> None:
    """The conversation is one prompt, and the fields have Aleph Alpha's names."""
    request = replace(
        QUESTION,
        system=(Text("Be brief."),),
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        stop=("END",),
        stream=True,
        extra={"minimum_tokens": Raw(b"2")},
    )
    assert written(request, COMPLETES) == {
        "model": "luminous-base",
        "prompt": [{"type": "text", "data": "Be brief.\n\nName a color."}],
        "maximum_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "stop_sequences": ["END"],
        "stream": True,
        "minimum_tokens": 2,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"seed": 3}, "seed"),
        ({"reasoning": Reasoning(effort="low")}, "reasoning_effort"),
        ({"messages": (Message("user", (Image(url="https://x/y.png"),)),)}, "messages"),
    ],
)
def test_what_cannot_be_said(more: dict[str, Any], param: str) -> None:
    """What a completion has no word for is refused, or dropped."""
    request = replace(QUESTION, **more)
    with pytest.raises(Unsupported) as refused:
        aleph_alpha.write_request(request, COMPLETES)
    assert refused.value.param == param
    dropped: list[str] = []
    aleph_alpha.write_request(request, replace(COMPLETES, drop_params=True, dropped=dropped))
    assert dropped == [param]


def test_what_the_operator_allows() -> None:
    """It goes on as it came."""
    request = replace(QUESTION, seed=4, reasoning=Reasoning(effort="low"))
    allowing = replace(COMPLETES, allowed=frozenset({"seed", "reasoning_effort"}))
    body = json.loads(aleph_alpha.write_request(request, allowing))
    assert (body["seed"], body["reasoning_effort"]) == (4, "low")


def test_completion_and_stream_say_the_same() -> None:
    """Text, finish and usage of both."""
    answer = aleph_alpha.read_response(transcript("complete.json"), QUESTION, COMPLETES)
    assert answer.choices == (Choice((Text(" Blue, mostly."),), "stop"),)
    assert answer.usage == Usage(input=6, output=5)
    deltas = at_once(completion, transcript("complete.sse"))
    assert said(deltas) == {
        "text": " Blue, mostly.",
        "tools": [],
        "finish": ["stop"],
        "usage": answer.usage,
    }
    assert byte_by_byte(completion, transcript("complete.sse")) == deltas


def test_stream_of_several() -> None:
    """Each completion has its number; comments are signs of life, other events nothing."""
    stream = (
        b'data: {"type":"stream_chunk","index":1,"completion":"b"}\n\n'
        b': alive\n\ndata: {"type":"news"}\n\ndata: {"type":"stream_chunk","index":0,"completion":""}\n\n'
        b'data: {"type":"stream_summary","index":1,"finish_reason":"stop_sequence_reached"}\n\n'
        b'data: {"type":"stream_summary","index":0,"finish_reason":"maximum_tokens"}\n\n'
        b'data: {"type":"completion_summary"}\n\n'
    )
    assert at_once(completion, stream)[1:] == [
        TextDelta(Raw(b'"b"'), 1),
        Ping(),
        Finish("stop_sequence", choice=1),
        Finish("length"),
    ]


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b'data: {"type":"stream_chunk","index":0,"completion":"b"}\n\n', UpstreamMalformed),
        (b"data: {\n\n", UpstreamMalformed),
        (b'data: {"type":"stream_chunk","completion":{"a":\ndata: 1}}\n\n', UpstreamMalformed),
        (transcript("error_in_stream.sse"), UpstreamError),
    ],
)
def test_broken_streams(stream: bytes, kind: type[UpstreamError]) -> None:
    """No end, no JSON, an error: each is a failure, the last that is said."""
    failure = at_once(completion, stream)[-1]
    assert isinstance(failure, Failure)
    assert type(failure.error) is kind


def test_letters_that_are_none() -> None:
    """What is not UTF-8 does not reach the client, whose whole stream it would make unreadable."""
    (_, delta) = completion().feed(b'data: {"type":"stream_chunk","completion":"\xff"}\n\n')
    assert delta == TextDelta(Raw('"\ufffd"'.encode()))


def test_error_in_a_good_answer() -> None:
    """An error hides in a 200, whole or as an event."""
    with pytest.raises(UpstreamError, match="no worker"):
        aleph_alpha.read_response(b'{"error":"no worker","code":"X"}', QUESTION, COMPLETES)
    (failure,) = at_once(completion, b'event: error\ndata: {"error":"no worker"}\n\n')
    assert isinstance(failure, Failure)
    assert failure.error.message == "no worker"


def test_refusal() -> None:
    """An error is a text with a code."""
    refused = aleph_alpha.read_error(400, {}, transcript("error.json"))
    assert type(refused) is UpstreamRefused
    assert refused.code == "MISSING_CAPABILITY"
    assert refused.message.startswith("Sadly the model you chose")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"completions":[]}'])
def test_malformed(body: bytes) -> None:
    """An answer without a completion is none; one without counts has no usage."""
    with pytest.raises(UpstreamMalformed):
        aleph_alpha.read_response(body, QUESTION, COMPLETES)
    assert aleph_alpha.read_response(b'{"completions":[{}]}', QUESTION, COMPLETES).usage is None


@pytest.mark.parametrize("recording", list(recordings("alephalpha")), ids=str)
def test_recorded(recording: Recording) -> None:
    """What was asked is what we ask, and what was said is what we read."""
    assert recording.request is not None
    asked, body = json.loads(recording.request), json.loads(recording.response)
    request = ChatRequest(
        model="any",
        messages=(Message("user", (Text(asked["prompt"][0]["data"]),)),),
        max_tokens=asked["maximum_tokens"],
    )
    ours = written(request, COMPLETES)
    assert ours["prompt"][0].items() <= asked["prompt"][0].items()
    assert {name: asked[name] for name in ours if name != "prompt"} == {
        name: value for name, value in ours.items() if name != "prompt"
    }
    answer = aleph_alpha.read_response(recording.response, QUESTION, COMPLETES)
    assert answer.choices == (Choice((Text(body["completions"][0]["completion"]),), "length"),)
    assert answer.usage == Usage(input=9, output=1000)
