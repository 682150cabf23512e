"""watsonx.ai's service that continues a text, with what it really said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import FORMATS, watsonx_text
from adapters.base import ProviderSide, StreamReader
from adapters.errors import Unsupported, UpstreamError, UpstreamMalformed, UpstreamOverloaded
from adapters.providers import PROVIDERS
from adapters.types import ChatRequest, Failure, Image, Message, Reasoning, Target, Text, Usage
from tests.adapters.reading import at_once, byte_by_byte, said
from tests.recorded import Recording, recordings

TARGET = Target(
    provider=PROVIDERS["watsonx_text"],
    model="google/flan-ul2",
    base_url="https://us-south.ml.cloud.ibm.com",
    options={"project_id": "c1234567-2222-2222-3333-444444444444"},
)
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("What is 1 + 1?"),)),))
ALL = list(recordings("watsonx", kinds=("invoke",)))
STREAM = (
    b'id: 1\nevent: message\ndata: {"model_id":"m","results":[{"generated_text":"","input_token_count":8,'
    b'"stop_reason":"not_finished"}]}\n\n'
    b': alive\n\nid: 2\ndata: {"results":[{"generated_text":"Blue \\u00fc","generated_token_count":2,'
    b'"stop_reason":"not_finished"}]}\n\n'
    b'id: 3\ndata: {"results":[{"generated_text":"","generated_token_count":3,"stop_reason":"max_tokens"}]}\n\n'
)


def written(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(watsonx_text.write_request(request, TARGET))
    return body


def reader() -> StreamReader:
    return watsonx_text.read_stream(QUESTION, TARGET)


def test_the_module_keeps_the_contract() -> None:
    """It is registered as a format."""
    side: ProviderSide = watsonx_text
    assert FORMATS["watsonx_text"] is side


def test_address() -> None:
    """As the chat's, at another path."""
    url = watsonx_text.address(TARGET, "chat", {}, stream=True).url
    assert url == "https://us-south.ml.cloud.ibm.com/ml/v1/text/generation_stream?version=2025-02-11"


def test_question() -> None:
    """The conversation as one text; whoever wants chance has to say that it is wanted."""
    request = replace(
        QUESTION,
        system=(Text("Be brief."),),
        max_tokens=5,
        temperature=0.0,
        stop=("END",),
        seed=3,
        extra={"repetition_penalty": Raw(b"1.1")},
    )
    assert written(request) == {
        "model_id": "google/flan-ul2",
        "project_id": "c1234567-2222-2222-3333-444444444444",
        "input": "Be brief.\n\nWhat is 1 + 1?",
        "parameters": {
            "max_new_tokens": 5,
            "temperature": 0.0,
            "random_seed": 3,
            "stop_sequences": ["END"],
            "repetition_penalty": 1.1,
            "decoding_method": "sample",
        },
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"reasoning": Reasoning(effort="low")}, "reasoning_effort"),
        ({"messages": (Message("user", (Image(url="https://x/y.png"),)),)}, "messages"),
    ],
)
def test_what_cannot_be_said(more: dict[str, Any], param: str) -> None:
    """It is refused, or dropped."""
    request = replace(QUESTION, **more)
    with pytest.raises(Unsupported) as refused:
        watsonx_text.write_request(request, TARGET)
    assert refused.value.param == param
    dropped: list[str] = []
    watsonx_text.write_request(request, replace(TARGET, drop_params=True, dropped=dropped))
    assert dropped == [param]


def test_what_the_operator_allows() -> None:
    """It goes on as it came."""
    request = replace(QUESTION, presence_penalty=0.5, reasoning=Reasoning(effort="low"))
    allowing = replace(TARGET, allowed=frozenset({"presence_penalty", "reasoning_effort"}))
    body = json.loads(watsonx_text.write_request(request, allowing))["parameters"]
    assert (body["presence_penalty"], body["reasoning_effort"]) == (0.5, "low")


def test_stream() -> None:
    """Pieces of text, the counts at the end, and why it ended."""
    deltas = at_once(reader, STREAM)
    assert said(deltas) == {
        "text": "Blue ü",
        "tools": [],
        "finish": ["length"],
        "usage": Usage(input=8, output=3),
    }
    assert byte_by_byte(reader, STREAM) == deltas


def test_broken_streams() -> None:
    """One that ends without a reason, one that is no JSON, and one that names an error."""
    without_end = at_once(reader, STREAM.partition(b"id: 3")[0])[-1]
    assert isinstance(without_end, Failure)
    assert type(without_end.error) is UpstreamMalformed
    for data in (b"data: {\n\n", b'data: {"results":[]}\n\n'):
        (failure,) = at_once(reader, data)
        assert isinstance(failure, Failure)
        assert type(failure.error) is UpstreamMalformed
    (failure,) = at_once(
        reader, b'event: error\ndata: {"errors":[{"code":"x","message":"busy"}],"status_code":503}\n\n'
    )
    assert isinstance(failure, Failure)
    assert type(failure.error) is UpstreamOverloaded


def test_error_in_a_good_answer() -> None:
    """An error hides in a 200, and an answer without a result is none."""
    with pytest.raises(UpstreamError, match="no"):
        watsonx_text.read_response(b'{"errors":[{"code":"x","message":"no"}]}', QUESTION, TARGET)
    with pytest.raises(UpstreamMalformed):
        watsonx_text.read_response(b"{}", QUESTION, TARGET)


@pytest.mark.parametrize("recording", ALL, ids=str)
def test_recorded(recording: Recording) -> None:
    """What was asked is what we ask, and what was said is what we read."""
    assert recording.request is not None
    asked = json.loads(recording.request)
    request = ChatRequest(model="any", messages=(Message("user", (Text(asked["input"]),)),))
    assert written(request) == asked
    if recording.is_stream:
        deltas = at_once(reader, recording.response)
        assert said(deltas) == {
            "text": "the sun is the most important star in the sky",
            "tools": [],
            "finish": ["stop"],
            "usage": Usage(input=8, output=11),
        }
        assert byte_by_byte(reader, recording.response) == deltas
    else:
        answer = watsonx_text.read_response(recording.response, QUESTION, TARGET)
        assert answer.model == "google/flan-ul2"
        assert answer.choices[0].parts == (Text("2"),)
        assert answer.choices[0].finish == "stop"
        assert answer.usage == Usage(input=7, output=2)


def test_what_is_null_is_absent() -> None:
    """Whole and in a stream."""
    body = b'{"model_id":null,"results":[{"generated_text":null,"stop_reason":null}]}'
    assert watsonx_text.read_response(body, QUESTION, TARGET).choices[0].parts == ()
    assert not any(isinstance(delta, Failure) for delta in reader().feed(b"data: " + body + b"\n\n"))
