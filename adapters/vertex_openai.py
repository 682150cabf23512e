"""Mistral and AI21 on Vertex AI: OpenAI's format at Google's address.

https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/mistral. As with Claude there (`vertex.py`) the model
stands in the path and a stream has a path of its own; but it stands in the body too, without its version. Other
companies' models share one address that needs none of this: `/endpoints/openapi`.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Raw
from msgspec.structs import replace

from adapters import openai
from adapters.openai import (
    STREAM_TYPE,
    cut,
    pass_response,
    pass_stream,
    read_error,
    read_response,
    read_stream,
)
from adapters.types import Address, ChatRequest, Operation, Target

__all__ = [
    "STREAM_TYPE",
    "address",
    "cut",
    "pass_request",
    "pass_response",
    "pass_stream",
    "read_error",
    "read_response",
    "read_stream",
    "write_request",
]


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat completion request; `mistral-medium-3@001` is `mistral-medium-3` in it."""
    return openai.write_request(request, _without_version(target))


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question with that model."""
    return openai.pass_request(envelope, _without_version(target), operation, stream=stream)


def _without_version(target: Target) -> Target:
    return replace(target, model=target.model.partition("@")[0])


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/…/publishers/{publisher}/models/{model}:rawPredict`. Raises `Unsupported`."""
    found = openai.address(target, operation, headers, stream=stream)
    url = found.url.replace("%40", "@")
    return replace(found, url=url.replace(":rawPredict", ":streamRawPredict") if stream else url)
