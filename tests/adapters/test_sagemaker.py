"""SageMaker: OpenAI's format in Amazon's frames."""

from __future__ import annotations

import json

import pytest

from adapters import sagemaker
from adapters.base import ProviderSide
from adapters.errors import UpstreamError, UpstreamMalformed, UpstreamRateLimited, UpstreamRefused
from adapters.providers import PROVIDERS
from adapters.types import ChatRequest, Delta, Failure, Message, Target, Text, Usage
from tests.adapters.folding import fold
from tests.adapters.frames import both_ways, exception, frame

TARGET = Target(
    provider=PROVIDERS["sagemaker"],
    model="my-llama",
    base_url="https://runtime.sagemaker.us-east-1.amazonaws.com",
)
QUESTION = ChatRequest(
    model="any", messages=(Message("user", (Text("hi"),)),), max_tokens=5, top_k=3, stream=True
)
EVENTS = (
    b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hel"}}]}\n\n'
    b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def part(payload: bytes) -> bytes:
    headers = {
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    return frame(headers, payload)


def stream(*frames: bytes) -> list[Delta]:
    readers = sagemaker.read_stream(QUESTION, TARGET), sagemaker.read_stream(QUESTION, TARGET)
    return both_ways(sagemaker.cut, readers, b"".join(frames))


def failed(deltas: list[Delta]) -> Exception:
    last = deltas[-1]
    assert isinstance(last, Failure)
    error: Exception = last.error
    return error


def ours(side: ProviderSide) -> str:
    return side.STREAM_TYPE


def test_asks_in_openais_words() -> None:
    """At the endpoint's own path, streamed or whole."""
    assert ours(sagemaker) == "application/vnd.amazon.eventstream"
    body = json.loads(sagemaker.write_request(QUESTION, TARGET))
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["max_tokens"], body["top_k"], body["stream"]) == (5, 3, True)
    where = "https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/my-llama/invocations"
    assert sagemaker.address(TARGET, "chat", {}, stream=False).url == where
    assert sagemaker.address(TARGET, "chat", {}, stream=True).url == f"{where}-response-stream"


@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_frames_cut_anywhere(size: int) -> None:
    """The container's events are joined again."""
    frames = [part(EVENTS[at : at + size]) for at in range(0, len(EVENTS), size)]
    answer = fold(stream(*frames))
    assert answer.choices[0].parts == (Text("Hello"),)
    assert answer.usage == Usage(input=4, output=2)


def test_a_stream_without_done() -> None:
    """A reason is enough; without one the stream was broken off, also in the middle of an event."""
    whole, _, _ = EVENTS.partition(b"data: [DONE]")
    assert fold(stream(part(whole))).choices[0].finish == "stop"
    assert fold(stream(part(whole.rstrip(b"\n")))).usage == Usage(input=4, output=2)
    assert isinstance(failed(stream(part(EVENTS[:40]))), UpstreamMalformed)
    assert isinstance(failed(stream()), UpstreamMalformed)


def test_errors_in_a_stream() -> None:
    """The service's, and the container's own."""
    assert isinstance(failed(stream(exception("ModelStreamError", {"Message": "gone"}))), UpstreamError)
    told = b'data: {"error":{"message":"too fast","code":429}}\n\n'
    assert isinstance(failed(stream(part(told), part(EVENTS))), UpstreamRateLimited)
    assert isinstance(failed(stream(part(EVENTS[:20])[:-1])), UpstreamMalformed)
    broken = part(EVENTS)[:-1] + b"\x00"
    deltas = stream(part(told), broken)
    assert isinstance(failed(deltas), UpstreamRateLimited)
    assert len(deltas) == 1


def test_errors() -> None:
    """SageMaker's shape, and the container's."""
    name = {"x-amzn-errortype": "ModelError"}
    body = b'{"ErrorCode":"CLIENT_ERROR_FROM_MODEL","Message":"Received client error (400) from primary"}'
    error = sagemaker.read_error(424, name, body)
    assert "Received client error" in error.message
    assert isinstance(
        sagemaker.read_error(400, {}, b'{"error":{"message":"no","type":"BadRequestError"}}'), UpstreamRefused
    )
