"""Claude on Vertex AI: Anthropic's format at Google's address.

https://docs.claude.com/en/api/claude-on-vertex-ai. The model stands in the path and the API version in the body, and a
stream has a path of its own. Answers are Anthropic's; errors may be Google's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from adapters import anthropic
from adapters.anthropic import STREAM_TYPE, cut, pass_response, pass_stream, read_response, read_stream
from adapters.envelope import open_envelope, seal
from adapters.errors import UpstreamError
from adapters.gemini_answers import is_google_error
from adapters.gemini_answers import read_error as read_google_error
from adapters.types import Address, ChatRequest, Operation, Target

__all__ = [
    "STREAM_TYPE",
    "VERSION",
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

VERSION = "vertex-2023-10-16"


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A Messages request without its model."""
    body = open_envelope(anthropic.write_request(request, target))
    del body["model"]
    return seal({**body, "anthropic_version": VERSION})


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question without its model; tokens are counted at an address that has none, so there it stays."""
    body: dict[str, Any] = {**envelope, "anthropic_version": VERSION, "model": target.model}
    if operation != "count_tokens":
        del body["model"]
    if stream:
        body["stream"] = True
    return seal(body)


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/…/publishers/anthropic/models/{model}:rawPredict`. Raises `Unsupported`."""
    found = anthropic.address(target, operation, headers, stream=stream)
    url = found.url.replace("%40", "@")  # a dated model: claude-haiku-4-5@20251001
    if stream:
        url = url.replace(":rawPredict", ":streamRawPredict")
    sent = tuple(each for each in found.headers if each[0] != "anthropic-version")
    return replace(found, url=url, headers=sent)


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """What a non-2xx answer means, be it Anthropic's or Google's."""
    read = read_google_error if is_google_error(body) else anthropic.read_error
    return read(status, headers, body)
