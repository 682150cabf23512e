"""Mistral and AI21 on Vertex AI: what differs from OpenAI's format elsewhere."""

from __future__ import annotations

import json

import pytest

from adapters import openai, vertex_openai
from adapters.envelope import open_envelope
from adapters.providers import find
from adapters.types import ChatRequest, Message, Target, Text

QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Hello"),)),), max_tokens=5)
LOCATION = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1"


def target_of(model: str) -> Target:
    found = find(model)
    assert found is not None
    return Target(
        provider=found[0],
        model=found[1],
        base_url="https://us-central1-aiplatform.googleapis.com",
        options={"vertex_project": "p", "vertex_location": "us-central1"},
    )


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("vertex_ai/mistral-medium-3@001", "mistralai/models/mistral-medium-3@001"),
        ("vertex_ai/mistralai/codestral-2", "mistralai/models/codestral-2"),
        ("vertex_ai/jamba-1.5-mini@001", "ai21/models/jamba-1.5-mini@001"),
    ],
)
def test_address(model: str, path: str) -> None:
    """The model stands in the path with its version, and a stream has a path of its own."""
    target = target_of(model)
    assert target.provider.format == "vertex_openai"
    whole = vertex_openai.address(target, "chat", {}, stream=False)
    assert whole.url == f"{LOCATION}/publishers/{path}:rawPredict"
    stream = vertex_openai.address(target, "chat", {}, stream=True)
    assert stream.url == f"{LOCATION}/publishers/{path}:streamRawPredict"


def test_the_model_in_the_body() -> None:
    """It has no version there, whether the question is translated or passed."""
    target = target_of("vertex_ai/mistral-medium-3@001")
    body = json.loads(vertex_openai.write_request(QUESTION, target))
    assert body["model"] == "mistral-medium-3"
    assert body["max_tokens"] == 5
    asked = open_envelope(b'{"model":"ours","messages":[],"max_completion_tokens":5}')
    passed = json.loads(vertex_openai.pass_request(asked, target, "chat", stream=False))
    assert passed == {"model": "mistral-medium-3", "messages": [], "max_tokens": 5}


def test_answers_are_openais() -> None:
    """What reads and passes them is the same."""
    for name in ("read_response", "read_stream", "read_error", "pass_response", "pass_stream", "cut"):
        assert getattr(vertex_openai, name) is getattr(openai, name)
