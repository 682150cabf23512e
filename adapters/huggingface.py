"""Hugging Face: the router in front of many companies, and servers of one's own, https://huggingface.co/docs/inference-providers.

Both speak OpenAI's chat, so this is `adapters.openai` but for the model's name and what is no chat.

* The router wants `org/name:provider`; people also write `provider/org/name`, as LiteLLM does, which is the same.
* Vectors come from the router's own machines (`hf-inference`), or from a server that the operator names (`api_base`: an
  Inference Endpoint, text-embeddings-inference), which takes the same words at its root.
* Documents are put in order by text-embeddings-inference only: https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters import openai_questions
from adapters.base import Task
from adapters.envelope import decode
from adapters.errors import Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.flatten import texts_of
from adapters.framing import SseCutter
from adapters.openai_answers import read_error, read_response, read_stream
from adapters.openai_editor import pass_response, pass_stream
from adapters.rerank import text_of
from adapters.types import (
    Address,
    Call,
    ChatRequest,
    EmbeddingsRequest,
    EmbeddingsResponse,
    Operation,
    Ranked,
    Reply,
    RerankRequest,
    RerankResponse,
    Target,
    Usage,
)
from adapters.wire import huggingface as wire

__all__ = [
    "EMBEDDINGS",
    "RERANK",
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

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

_NAME = re.compile(r"(?:(?!\.)[\w.-]+/)?(?!\.)[\w.-]+", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,15}")
_VECTORS = msgspec.json.Decoder(list[Raw])
_RANKS = msgspec.json.Decoder(list[wire.Rank])
_encode = msgspec.json.Encoder().encode


def routed(target: Target) -> Target:
    """The target by the name that the router knows: `together/org/name` is `org/name:together`."""
    provider, slash, model = target.model.partition("/")
    if not slash or "/" not in model or not _is_router(target):
        return target
    return replace(target, model=f"{model}:{provider}")


def _is_router(target: Target) -> bool:
    return target.base_url.rstrip("/") == target.provider.base_url


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat completion request. Raises `Unsupported`."""
    return openai_questions.write_request(request, routed(target))


def pass_request(envelope: Mapping[str, Raw], target: Target, operation: Operation, *, stream: bool) -> bytes:
    """The client's question with the model's name as the router knows it."""
    return openai_questions.pass_request(envelope, routed(target), operation, stream=stream)


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where and how to send it. Raises `Unsupported` for what is not offered there."""
    plain = openai_questions.address(target, operation, headers, stream=stream)
    base = target.base_url.rstrip("/")
    if operation == "rerank" and _is_router(target):
        raise Unsupported(f"{target.provider.name} does not offer rerank without api_base.", param="model")
    if operation != "embeddings":
        return plain
    if not _is_router(target):
        return replace(plain, url=f"{base}/")
    model = target.model.removeprefix("hf-inference/").removesuffix(":hf-inference")
    if not _NAME.fullmatch(model):
        raise Unsupported(f"{target.model!r} is no model's name: write org/name.", param="model")
    return replace(plain, url=f"{base}/hf-inference/models/{model}/pipeline/feature-extraction")


# -- vectors -----------------------------------------------------------------------------------------------------------


def _write_embeddings(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    allowed = allowed_fields(request, target, "dimensions", "input_type")
    body: dict[str, Any] = {"inputs": texts_of(request, target)}
    return (Call(_encode(body | allowed | request.extra)),)


def _read_embeddings(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    """A list of vectors; how many tokens they were is in a header, if at all."""
    vectors = decode(replies[0].body, _VECTORS)
    if len(vectors) != len(request.input):
        raise UpstreamMalformed("The provider's answer has not one vector for each text")
    if any(bytes(vector)[:1] != b"[" or bytes(vector)[1:].lstrip()[:1] == b"[" for vector in vectors):
        raise UpstreamMalformed("The provider's vectors are of tokens, not of texts")
    return EmbeddingsResponse(tuple(vectors), target.model, _tokens(replies[0].headers))


def _tokens(headers: Mapping[str, str]) -> Usage | None:
    count = headers.get("x-compute-tokens", "")
    return Usage(input=int(count)) if _COUNT.fullmatch(count) else None


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_embeddings, _read_embeddings)


# -- documents in order ------------------------------------------------------------------------------------------------


def _write_rerank(request: RerankRequest, target: Target) -> Sequence[Call]:
    allowed = allowed_fields(request, target, "max_tokens_per_doc")
    texts = [text_of(document, at, target) for at, document in enumerate(request.documents)]
    body: dict[str, Any] = {"query": request.query, "texts": texts}
    return (Call(_encode(body | allowed | request.extra)),)


def _read_rerank(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    """All documents are in the answer: the best of them are cut off here."""
    ranks = decode(replies[0].body, _RANKS)
    if not all(0 <= rank.index < len(request.documents) for rank in ranks):
        raise UpstreamMalformed("The provider's answer has documents in it that nobody asked about")
    best = sorted((Ranked(rank.index, rank.score) for rank in ranks), key=lambda one: -one.score)
    return RerankResponse(tuple(best[: request.top_n]), usage=_tokens(replies[0].headers))


RERANK: Task[RerankRequest, RerankResponse] = Task(_write_rerank, _read_rerank)
