"""Cohere's API, version 2: chats, embeddings, rerank and sound to text. We are its client only.

https://docs.cohere.com/reference/about. `cohere_questions` asks for chats, `cohere_answers` reads them; what is no chat
is here.

* **Embeddings** take at most 96 texts, or one picture, in a call: a longer question becomes several calls. A picture is a
  text that is a data URL (`data:image/png;base64,…`). What the vectors are for, which Cohere wants to know, is
  `search_document` if the client does not say.
* **Rerank** takes texts: a document that is an object is its `text`, or its JSON. Documents are not sent back.
* **Sound** becomes plain text, without times, and its language must be said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from adapters.base import Task, leaves_out
from adapters.cohere_answers import read_error, read_response, read_stream
from adapters.cohere_questions import write_request
from adapters.embeddings import in_order, of_one_type
from adapters.envelope import count_of, decode, seal
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.framing import SseCutter
from adapters.multipart import write_form
from adapters.openai_questions import address
from adapters.types import (
    Call,
    EmbeddingsRequest,
    EmbeddingsResponse,
    Ranked,
    Reply,
    RerankRequest,
    RerankResponse,
    Target,
    TranscriptionRequest,
    TranscriptionResponse,
    Units,
    Usage,
)
from adapters.wire import cohere as wire

__all__ = [
    "EMBEDDINGS",
    "NAME",
    "RERANK",
    "STREAM_TYPE",
    "TRANSCRIPTIONS",
    "address",
    "cut",
    "read_error",
    "read_response",
    "read_stream",
    "write_request",
]

NAME = "cohere"
STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

_MOST_TEXTS = 96
_PICTURE = "data:image/"
_DEFAULT_INPUT_TYPE = "search_document"

_EMBEDDINGS = msgspec.json.Decoder(wire.Embeddings)
_TRANSCRIPT = msgspec.json.Decoder(wire.Transcript)
_RERANKED = msgspec.json.Decoder(wire.Reranked)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])


# -- embeddings --------------------------------------------------------------------------------------------------------


def _write_embeddings(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    """Questions for `/v2/embed`: https://docs.cohere.com/reference/embed."""
    common: dict[str, Any] = {"model": target.model, "embedding_types": ["float"]}
    if request.dimensions is not None:
        common["output_dimension"] = request.dimensions
    common |= request.extra
    wanted = request.input_type or _DEFAULT_INPUT_TYPE
    calls = []
    for batch in _batches(request):
        if batch[0].startswith(_PICTURE):
            asked: dict[str, Any] = {"images": batch, "input_type": "image"}
        else:
            asked = {"texts": batch, "input_type": wanted}
        calls.append(Call(seal(asked | common)))
    return calls


def _batches(request: EmbeddingsRequest) -> Iterator[list[str]]:
    """What fits into one call, in order. Raises `Unsupported` for texts as token numbers."""
    texts: list[str] = []
    for text in request.input:
        if not isinstance(text, str):
            raise Unsupported("Cohere embeds texts, not token numbers", param="input")
        if text.startswith(_PICTURE):
            if texts:
                yield texts
            yield [text]
            texts = []
        else:
            texts.append(text)
            if len(texts) == _MOST_TEXTS:
                yield texts
                texts = []
    if texts:
        yield texts


def _read_embeddings(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    """The vectors of all replies."""
    vectors: list[Raw] = []
    usage = Usage()
    for reply in replies:
        answer = decode(reply.body, _EMBEDDINGS)
        found = of_one_type(answer.embeddings or {})
        if not found:
            raise UpstreamMalformed("The provider sent no embeddings")
        vectors += found
        usage += _billed(answer.meta)
    return EmbeddingsResponse(vectors=in_order(vectors, request), usage=usage)


def _billed(meta: wire.Meta | None) -> Usage:
    units = (meta and meta.billed_units) or wire.BilledUnits()
    return Usage(
        input=count_of(units.input_tokens),
        image_input=count_of(units.image_tokens),
        units=Units(images=count_of(units.images), searches=count_of(units.search_units)),
    )


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_embeddings, _read_embeddings)


# -- rerank ------------------------------------------------------------------------------------------------------------


def _write_rerank(request: RerankRequest, target: Target) -> Sequence[Call]:
    """A question for `/v2/rerank`: https://docs.cohere.com/reference/rerank."""
    body: dict[str, Any] = {
        "model": target.model,
        "query": request.query,
        "documents": [_document(raw) for raw in request.documents],
    }
    limits = {"top_n": request.top_n, "max_tokens_per_doc": request.max_tokens_per_doc}
    body |= {name: value for name, value in limits.items() if value is not None}
    return [Call(seal(body | request.extra))]


def _document(raw: Raw) -> Raw | str:
    """A document as a JSON string."""
    if bytes(raw).startswith(b'"'):
        return raw
    text = _OBJECT.decode(raw).get("text", wire.NULL)
    return text if bytes(text).startswith(b'"') else bytes(raw).decode("utf-8", "replace")


def _read_rerank(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    answer = decode(replies[0].body, _RERANKED)
    if answer.results is None:
        raise UpstreamMalformed("The provider sent no results")
    ranked = tuple(Ranked(result.index, result.relevance_score) for result in answer.results)
    return RerankResponse(ranked, answer.id or "", _billed(answer.meta))


RERANK: Task[RerankRequest, RerankResponse] = Task(_write_rerank, _read_rerank)


# -- sound -------------------------------------------------------------------------------------------------------------


def _write_transcription(request: TranscriptionRequest, target: Target) -> Sequence[Call]:
    """A form for `/v2/audio/transcriptions`: https://docs.cohere.com/reference/create-audio-transcription."""
    if request.language is None:
        raise BadRequest("language: Cohere wants to know which language is spoken", param="language")
    if request.timestamp_granularities:
        leaves_out(target, "timestamp_granularities", what="times of words or segments")
    fields = {"model": target.model, "language": request.language}
    if request.temperature is not None:
        fields["temperature"] = repr(request.temperature)
    allowed = allowed_fields(request, target, "prompt")
    lists = {f"{name}[]": values for name, values in request.lists.items()}
    return [write_form({**fields, **allowed, **request.extra, **lists}, {"file": request.file})]


def _read_transcription(
    replies: Sequence[Reply], request: TranscriptionRequest, target: Target
) -> TranscriptionResponse:
    text = decode(replies[0].body, _TRANSCRIPT).text
    if text is None:
        raise UpstreamMalformed("The provider sent no text")
    return TranscriptionResponse(text, request.language)


TRANSCRIPTIONS: Task[TranscriptionRequest, TranscriptionResponse] = Task(
    _write_transcription, _read_transcription
)
