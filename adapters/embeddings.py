"""Embeddings: OpenAI's question and answer as clients speak them, and the providers whose words differ a little.

https://platform.openai.com/docs/api-reference/embeddings/create. Where a provider speaks OpenAI's words, the question
passes (`adapters.openai_editor`) and nothing of this is used.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from adapters.base import Task, leaves_out
from adapters.envelope import decode, seal
from adapters.errors import BadRequest, UpstreamMalformed
from adapters.fields import allowed_fields, other_fields, read_fields, read_value
from adapters.flatten import texts_of
from adapters.openai_answers import read_error
from adapters.openai_usage import read_usage
from adapters.types import Call, EmbeddingsRequest, EmbeddingsResponse, Reply, Target
from adapters.wire import tasks as wire
from adapters.wire.openai import NOTHING, given

_QUESTION = msgspec.json.Decoder(wire.EmbeddingsQuestion)
_ANSWER = msgspec.json.Decoder(wire.Embeddings)
_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(tuple[str, ...])
_TOKENS = msgspec.json.Decoder(tuple[int, ...])
_MANY_TOKENS = msgspec.json.Decoder(tuple[tuple[int, ...], ...])
_NUMBERS = msgspec.json.Decoder(list[float])
_encode = msgspec.json.Encoder().encode


# -- the client's side -----------------------------------------------------------------------------------------------


def read_request(envelope: Mapping[str, Raw]) -> EmbeddingsRequest:
    """Read a question: one text or several, as strings or as token numbers. Raises `BadRequest` with its place."""
    asked = read_fields(envelope, _QUESTION)
    return EmbeddingsRequest(
        model=asked.model,
        input=_read_input(asked.input),
        encoding=asked.encoding_format or "float",
        dimensions=asked.dimensions,
        input_type=asked.input_type,
        user=asked.user,
        extra=other_fields(envelope, _QUESTION),
    )


def _read_input(raw: Raw) -> tuple[str, ...] | tuple[tuple[int, ...], ...]:
    text = bytes(raw)
    begin = text[:1] + text[1:].lstrip()[:1]
    if begin.startswith(b'"'):
        return (read_value(raw, _TEXT, "input"),)
    if begin == b"[[":
        many = read_value(raw, _MANY_TOKENS, "input")
        if not all(many):
            raise BadRequest("Invalid value for 'input': a list of tokens is empty.", param="input")
        return many
    if begin[:1] == b"[" and begin[1:] in b"-0123456789":
        return (read_value(raw, _TOKENS, "input"),)
    texts = read_value(raw, _TEXTS, "input")
    if not texts:
        raise BadRequest("Invalid value for 'input': the list is empty.", param="input")
    return texts


def write_response(
    answer: EmbeddingsResponse, request: EmbeddingsRequest, *, model: str, now: int, answer_id: str
) -> bytes:
    """An answer with the vectors as the client wants them, as numbers or in base64. Raises `UpstreamMalformed`."""
    usage = answer.usage
    return _encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _suit(vector, request)}
                for index, vector in enumerate(answer.vectors)
            ],
            "model": model,
            "usage": {
                "prompt_tokens": usage.prompt if usage else 0,
                "total_tokens": usage.total if usage else 0,
            },
        }
    )


def _suit(vector: Raw | str, request: EmbeddingsRequest) -> Raw | str:
    if request.encoding == "base64":
        return vector if isinstance(vector, str) else to_base64(vector)
    return to_numbers(vector) if isinstance(vector, str) else vector


def to_base64(vector: Raw) -> str:
    """A JSON array of numbers as base64 of little-endian 32-bit floats. Raises `UpstreamMalformed`."""
    try:
        numbers = decode(vector, _NUMBERS)
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except (struct.error, OverflowError):
        raise UpstreamMalformed("The provider sent a vector that cannot be read.") from None
    return binascii.b2a_base64(packed, newline=False).decode()


def to_numbers(vector: str) -> Raw:
    """The other way round."""
    packed = _unpack(vector)
    if len(packed) % 4:
        raise UpstreamMalformed("The provider sent a vector that cannot be read.")
    return Raw(_encode(struct.unpack(f"<{len(packed) // 4}f", packed)))


def _unpack(data: str) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise UpstreamMalformed("The provider sent a vector that cannot be read.") from None


# -- providers whose words differ ------------------------------------------------------------------------------------


def _call(body: dict[str, Any], request: EmbeddingsRequest) -> list[Call]:
    """One call; fields without a value are left out, and the caller's own words for the provider come last."""
    return [Call(seal({name: value for name, value in body.items() if value is not None} | request.extra))]


def _purpose(request: EmbeddingsRequest, target: Target, words: Mapping[str, str]) -> str | None:
    """`input_type` in the provider's words. What is no word of Cohere's may be one of the provider's own."""
    kind = request.input_type
    if kind in {"classification", "clustering"} and kind not in words:
        leaves_out(target, "input_type", what=f"the input type {kind!r}")
        return None
    return words.get(kind, kind) if kind else None


def _write_voyage(request: EmbeddingsRequest, target: Target) -> list[Call]:
    """https://docs.voyageai.com/reference/embeddings-api. Whole numbers (`output_dtype`) come as JSON: in base64 they
    would be taken for floats.
    """
    as_base64 = request.encoding == "base64" and "output_dtype" not in request.extra
    body = {
        "model": target.model,
        "input": texts_of(request, target),
        "input_type": _purpose(request, target, {"search_query": "query", "search_document": "document"}),
        "output_dimension": request.dimensions,
        "encoding_format": "base64" if as_base64 else None,
    }
    return _call(body, request)


_JINA_TASKS = {
    "search_query": "retrieval.query",
    "search_document": "retrieval.passage",
    "classification": "classification",
}


def _write_jina(request: EmbeddingsRequest, target: Target) -> list[Call]:
    """https://api.jina.ai/redoc, "Embeddings"."""
    body = {
        "model": target.model,
        "input": texts_of(request, target),
        "task": _purpose(request, target, _JINA_TASKS),
        "dimensions": request.dimensions,
        "embedding_type": request.encoding,
    }
    return _call(body, request)


def _write_mistral(request: EmbeddingsRequest, target: Target) -> list[Call]:
    """https://docs.mistral.ai/api/endpoint/embeddings; a field that is not there is an error."""
    body = {
        "model": target.model,
        "input": texts_of(request, target),
        "output_dimension": request.dimensions,
        "encoding_format": request.encoding,
        **allowed_fields(request, target, "input_type"),
    }
    return _call(body, request)


def _write_perplexity(request: EmbeddingsRequest, target: Target) -> list[Call]:
    """https://docs.perplexity.ai/api-reference/embeddings-post."""
    body = {
        "model": target.model,
        "input": texts_of(request, target),
        "dimensions": request.dimensions,
        "encoding_format": "base64_int8",
        **allowed_fields(request, target, "input_type"),
    }
    return _call(body, request)


def _read(replies: Sequence[Reply], request: EmbeddingsRequest, target: Target) -> EmbeddingsResponse:
    """An answer in OpenAI's shape, each vector at its index."""
    body = replies[0].body
    answer = decode(body, _ANSWER)
    if given(answer.error) is not None:
        raise read_error(0, {}, body)
    data = answer.data or []
    places = [at if each.index is None else each.index for at, each in enumerate(data)]
    if sorted(places) != list(range(len(request.input))):
        raise UpstreamMalformed(f"The provider sent {len(data)} vectors for {len(request.input)} texts.")
    vectors = [
        _read_vector(piece.embedding) for _, piece in sorted(zip(places, data, strict=True), key=_first)
    ]
    usage = None if answer.usage is NOTHING else read_usage(answer.usage, target.provider)
    return EmbeddingsResponse(tuple(vectors), answer.model or "", usage)


def _first(pair: tuple[int, wire.Embedding]) -> int:
    return pair[0]


def _read_vector(raw: Raw) -> Raw | str:
    if bytes(raw)[:1] == b"[":
        return raw
    if bytes(raw)[:1] == b'"':
        return decode(raw, _TEXT)
    raise UpstreamMalformed("The provider sent a vector that cannot be read.")


def of_one_type(kinds: dict[str, list[Raw] | None]) -> list[Raw]:
    """Cohere's vectors by their type: where the client asked for several, the first that came counts, `float` before all."""
    return kinds.get("float") or next((each for each in kinds.values() if each), [])


def in_order(vectors: Sequence[Raw], request: EmbeddingsRequest) -> tuple[Raw | str, ...]:
    """Vectors without numbers of their own, one for each text. Raises `UpstreamMalformed`."""
    if len(vectors) != len(request.input):
        raise UpstreamMalformed(f"The provider sent {len(vectors)} vectors for {len(request.input)} texts.")
    return tuple(map(_read_vector, vectors))


def _read_perplexity(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    """Base64 of signed 8-bit numbers. They are not scaled to length one, which no cosine sees."""
    answer = _read(replies, request, target)
    vectors = tuple(_from_int8(each) if isinstance(each, str) else each for each in answer.vectors)
    return EmbeddingsResponse(vectors, answer.model, answer.usage)


def _from_int8(vector: str) -> Raw:
    packed = _unpack(vector)
    return Raw(_encode(struct.unpack(f"{len(packed)}b", packed)))


TASKS: dict[str, Task[EmbeddingsRequest, EmbeddingsResponse]] = {
    "voyage": Task(_write_voyage, _read),
    "jina_ai": Task(_write_jina, _read),
    "mistral": Task(_write_mistral, _read),
    "perplexity": Task(_write_perplexity, _read_perplexity),
}
"""By provider."""
