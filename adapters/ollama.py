"""Ollama's own API: chats and embeddings. We are its client only.

https://docs.ollama.com/api/introduction. `ollama_questions` asks for chats, `ollama_answers` reads them; embeddings are here.
Ollama speaks OpenAI's format as well, under `/v1`: a deployment whose address ends so is asked in that
(`adapters.providers.located`). So that it cannot be taken for the provider's name, the format's is `ollama_native`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters import openai_questions
from adapters.base import Task
from adapters.embeddings import in_order
from adapters.envelope import count_of, decode, seal
from adapters.errors import Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.framing import LineCutter
from adapters.ollama_answers import read_error, read_response, read_stream
from adapters.ollama_questions import with_extra, write_request
from adapters.types import (
    Address,
    Call,
    EmbeddingsRequest,
    EmbeddingsResponse,
    Operation,
    Reply,
    Target,
    Usage,
)
from adapters.wire import ollama as wire

__all__ = [
    "EMBEDDINGS",
    "NAME",
    "STREAM_TYPE",
    "address",
    "cut",
    "read_error",
    "read_response",
    "read_stream",
    "write_request",
]

NAME = "ollama_native"
STREAM_TYPE: str = "application/x-ndjson"
cut = LineCutter

_EMBEDDINGS = msgspec.json.Decoder(wire.Embeddings)


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """`POST {base_url}/api/chat`. Raises `Unsupported`."""
    found = openai_questions.address(target, operation, headers, stream=False)
    if not stream:
        return found
    sent = {**dict(found.headers), "accept": STREAM_TYPE}
    return Address(found.method, found.url, tuple(sent.items()))


# -- embeddings --------------------------------------------------------------------------------------------------------


def _write_embeddings(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    """A question for `/api/embed`: https://docs.ollama.com/api/embed. Raises `Unsupported` for texts as token numbers."""
    if any(not isinstance(text, str) for text in request.input):
        raise Unsupported("Ollama embeds texts, not token numbers", param="input")
    body: dict[str, Any] = {"model": target.model, "input": request.input}
    body |= allowed_fields(request, target, "input_type")
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return [Call(seal(with_extra(body, {}, request.extra)))]


def _read_embeddings(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    answer = decode(replies[0].body, _EMBEDDINGS)
    if answer.embeddings is None:
        raise UpstreamMalformed("The provider sent no embeddings")
    count = answer.prompt_eval_count
    usage = None if count is None else Usage(input=count_of(count))
    return EmbeddingsResponse(in_order(answer.embeddings, request), answer.model or "", usage)


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_embeddings, _read_embeddings)
