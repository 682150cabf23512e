"""Claude on Vertex AI: what differs from Anthropic's own address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import Raw

from adapters import anthropic, vertex
from adapters.envelope import open_envelope
from adapters.errors import UpstreamAuth, UpstreamOverloaded, UpstreamRateLimited
from adapters.providers import find
from adapters.types import ChatRequest, Message, Operation, Target, Text

FOUND = find("vertex_ai/claude-haiku-4-5@20251001")
assert FOUND is not None
TARGET = Target(
    provider=FOUND[0],
    model=FOUND[1],
    base_url="https://aiplatform.googleapis.com",
    options={"vertex_project": "p", "vertex_location": "global"},
)
QUESTION = ChatRequest(model="any", messages=(Message("user", (Text("Hello"),)),), max_tokens=5)
MODELS = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/anthropic/models"


@pytest.mark.parametrize(
    ("operation", "stream", "url"),
    [
        ("chat", False, f"{MODELS}/claude-haiku-4-5@20251001:rawPredict"),
        ("chat", True, f"{MODELS}/claude-haiku-4-5@20251001:streamRawPredict"),
        ("count_tokens", False, f"{MODELS}/count-tokens:rawPredict"),
    ],
)
def test_address(operation: Operation, stream: bool, url: str) -> None:
    """The model stands in the path; the client's betas cross, the API version is the body's business."""
    headers = {"anthropic-beta": "a,b", "anthropic-version": "2026-10-21"}
    found = vertex.address(TARGET, operation, headers, stream=stream)
    assert found.url == url
    assert dict(found.headers)["anthropic-beta"] == "a,b"
    assert "anthropic-version" not in dict(found.headers)


def test_a_translated_question() -> None:
    """Anthropic's body without the model and with the version."""
    body = json.loads(vertex.write_request(QUESTION, TARGET))
    expected = json.loads(anthropic.write_request(QUESTION, TARGET))
    assert "model" in expected
    del expected["model"]
    assert body == expected | {"anthropic_version": "vertex-2023-10-16"}


def test_a_passed_question() -> None:
    """The client's own bytes, but for the model; where tokens are counted it stays, by its name there."""
    asked = open_envelope(b'{"model":"ours","messages":[ {"role" : "user"} ],"max_tokens":5,"new":1}')
    body = open_envelope(vertex.pass_request(asked, TARGET, "chat", stream=True))
    assert body.keys() == {"messages", "max_tokens", "new", "anthropic_version", "stream"}
    assert bytes(body["messages"]) == b'[ {"role" : "user"} ]'
    counted = open_envelope(vertex.pass_request(asked, TARGET, "count_tokens", stream=False))
    assert counted["model"] == Raw(b'"claude-haiku-4-5@20251001"')
    assert asked.keys() == {"model", "messages", "max_tokens", "new"}


def test_answers_are_anthropics() -> None:
    """What reads and passes them is the same."""
    for name in ("read_response", "read_stream", "pass_response", "pass_stream", "cut"):
        assert getattr(vertex, name) is getattr(anthropic, name)
    body = (Path(__file__).parents[1] / "transcripts" / "anthropic" / "answer.json").read_bytes()
    assert vertex.read_response(body, QUESTION, TARGET).choices


def test_errors_of_both() -> None:
    """Google's and Anthropic's shapes are told apart."""
    google = b'[{"error":{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED"}}]'
    assert type(vertex.read_error(429, {}, google)) is UpstreamRateLimited
    assert vertex.read_error(429, {}, google).message == "Quota exceeded"
    denied = b'{"error":{"code":401,"message":"Invalid token ya29.x","status":"UNAUTHENTICATED"}}'
    assert type(vertex.read_error(401, {}, denied)) is UpstreamAuth
    own = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    assert type(vertex.read_error(529, {}, own)) is UpstreamOverloaded
