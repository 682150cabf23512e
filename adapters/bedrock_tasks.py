"""What Bedrock does beside chats: embeddings, reranks and pictures, all by InvokeModel.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html. Each vendor has words of its own here too; which
they are is told by the model's name. Titan and Nova take one text in a call. Tokens that an answer does not count stand
in its headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from adapters.base import Task, leaves_out
from adapters.embeddings import in_order, of_one_type
from adapters.envelope import count_of, decode, seal
from adapters.errors import UpstreamError, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.flatten import texts_of
from adapters.pictures import nearest_ratio, size_of
from adapters.rerank import text_of
from adapters.types import (
    Call,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ImagesRequest,
    ImagesResponse,
    Picture,
    Ranked,
    Reply,
    RerankRequest,
    RerankResponse,
    Target,
    Units,
    Usage,
)
from adapters.upstream_errors import classify
from adapters.wire import bedrock as wire

_EMBEDDED = msgspec.json.Decoder(wire.Embedded)
_BY_TYPE = msgspec.json.Decoder(dict[str, list[Raw] | None])
_VECTORS = msgspec.json.Decoder(list[Raw])
_NOVA_VECTORS = msgspec.json.Decoder(list[wire.NovaEmbedding])
_RANKED = msgspec.json.Decoder(wire.Reranked)
_PICTURES = msgspec.json.Decoder(wire.Pictures)
_COUNT = re.compile(r"[0-9]{1,15}")


def _call(body: Mapping[str, Any], extra: Mapping[str, Raw]) -> Call:
    return Call(seal({**{name: value for name, value in body.items() if value is not None}, **extra}))


def _counted(replies: Iterable[Reply], name: str) -> int:
    """The sum of a count in the headers."""
    counts = (reply.headers.get(f"x-amzn-bedrock-{name}-token-count", "") for reply in replies)
    return sum(int(count) for count in counts if _COUNT.fullmatch(count))


def usage_in_headers(replies: Sequence[Reply]) -> Usage | None:
    """What a whole answer used, where only its head says so: InvokeModel with models that do not count."""
    prompt, completion = _counted(replies, "input"), _counted(replies, "output")
    return Usage(input=prompt, output=completion) if prompt or completion else None


# -- embeddings --------------------------------------------------------------------------------------------------------

_MOST_TEXTS = 96
"""Texts in one call to Cohere's models."""


def _write_embeddings(request: EmbeddingsRequest, target: Target) -> list[Call]:
    texts = texts_of(request, target)
    if "cohere." in target.model:
        parts = [texts[at : at + _MOST_TEXTS] for at in range(0, len(texts), _MOST_TEXTS)]
        return [_call(_cohere_embed(part, request), request.extra) for part in parts]
    write = _nova_embed if "nova" in target.model else _titan_embed
    return [_call(write(text, request, target), request.extra) for text in texts]


def _cohere_embed(texts: Sequence[str], request: EmbeddingsRequest) -> dict[str, Any]:
    return {
        "texts": texts,
        "input_type": request.input_type or "search_document",
        "output_dimension": request.dimensions,
    }


_PURPOSES = {
    "search_document": "GENERIC_INDEX",
    "search_query": "GENERIC_RETRIEVAL",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}


def _nova_embed(text: str, request: EmbeddingsRequest, target: Target) -> dict[str, Any]:
    purpose = request.input_type or "search_document"
    params: dict[str, Any] = {"embeddingPurpose": _PURPOSES.get(purpose, purpose)}
    if request.dimensions is not None:
        params["embeddingDimension"] = request.dimensions
    params["text"] = {"truncationMode": "END", "value": text}
    return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params}


def _titan_embed(text: str, request: EmbeddingsRequest, target: Target) -> dict[str, Any]:
    body: dict[str, Any] = {"inputText": text, **allowed_fields(request, target, "input_type")}
    if request.dimensions is None:
        return body
    if "embed-image" in target.model:
        return body | {"embeddingConfig": {"outputEmbeddingLength": request.dimensions}}
    if "embed-text-v2" in target.model or not leaves_out(target, "dimensions"):
        body["dimensions"] = request.dimensions
    return body


def _read_embeddings(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    vectors: list[Raw] = []
    tokens = 0
    for reply in replies:
        answer = decode(reply.body, _EMBEDDED)
        vectors += _vectors(answer)
        tokens += count_of(answer.input_text_token_count)
    usage = Usage(input=tokens or _counted(replies, "input"))
    return EmbeddingsResponse(in_order(vectors, request), target.model, usage)


def _vectors(answer: wire.Embedded) -> list[Raw]:
    if answer.embedding != wire.NULL:
        return [answer.embedding]
    several = bytes(answer.embeddings)
    if several.startswith(b"{"):
        return of_one_type(decode(several, _BY_TYPE))
    if several.startswith(b"[{"):
        return [each.embedding for each in decode(several, _NOVA_VECTORS)]
    if several.startswith(b"["):
        return decode(several, _VECTORS)
    raise UpstreamMalformed("The provider sent an answer without vectors")


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_embeddings, _read_embeddings)


# -- rerank ------------------------------------------------------------------------------------------------------------


def _write_rerank(request: RerankRequest, target: Target) -> list[Call]:
    """Cohere's words, which Amazon's model knows too. Cohere's wants to be told their version."""
    is_cohere = "cohere." in target.model
    own = {"max_tokens_per_doc": request.max_tokens_per_doc, "api_version": 2}
    body = {
        "query": request.query,
        "documents": [text_of(document, at, target) for at, document in enumerate(request.documents)],
        "top_n": request.top_n,
        **(own if is_cohere else allowed_fields(request, target, "max_tokens_per_doc")),
    }
    return [_call(body, request.extra)]


def _read_rerank(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    """What it costs is not told: one query of up to a hundred documents is one search unit."""
    answer = decode(replies[0].body, _RANKED)
    ranked = tuple(Ranked(each.index, each.relevance_score) for each in answer.results)
    units = Units(searches=-(-len(request.documents) // 100))
    return RerankResponse(ranked, answer.id or "", Usage(units=units))


RERANK: Task[RerankRequest, RerankResponse] = Task(_write_rerank, _read_rerank)


# -- pictures ----------------------------------------------------------------------------------------------------------

_RATIOS = ("16:9", "1:1", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
_QUALITIES = {
    "hd": "premium",
    "high": "premium",
    "standard": "standard",
    "medium": "standard",
    "low": "standard",
}


def _write_images(request: ImagesRequest, target: Target) -> list[Call]:
    if request.response_format == "url":
        leaves_out(target, "response_format", what="url", why="it gives the pictures themselves")
    write: Callable[[ImagesRequest, Target], list[Call]] = _write_amazon
    if "stability." in target.model:
        write = _write_diffusion if "stable-diffusion-xl" in target.model else _write_stability
    return write(request, target)


def _write_amazon(request: ImagesRequest, target: Target) -> list[Call]:
    """Titan and Nova Canvas."""
    config: dict[str, Any] = {"numberOfImages": request.n}
    size = size_of(request.size)
    if size is not None:
        config["width"], config["height"] = size
    if request.quality not in {None, "auto"}:
        config["quality"] = _QUALITIES.get(request.quality or "", request.quality)
    body = {
        "taskType": "TEXT_IMAGE",
        "textToImageParams": {"text": request.prompt},
        "imageGenerationConfig": config,
        **allowed_fields(request, target, "style", "background", "output_format"),
    }
    return [_call(body, request.extra)]


def _write_stability(request: ImagesRequest, target: Target) -> list[Call]:
    """Stable Image and Stable Diffusion 3: one picture for each call, in one of a few shapes."""
    size = size_of(request.size)
    body = {
        "prompt": request.prompt,
        "aspect_ratio": nearest_ratio(size, _RATIOS) if size else None,
        "output_format": request.output_format,
        **allowed_fields(request, target, "quality", "style", "background"),
    }
    return [_call(body, request.extra)] * request.n


def _write_diffusion(request: ImagesRequest, target: Target) -> list[Call]:
    """Stable Diffusion XL."""
    width, height = size_of(request.size) or (None, None)
    body = {
        "text_prompts": [{"text": request.prompt}],
        "width": width,
        "height": height,
        **allowed_fields(request, target, "quality", "style", "background", "output_format"),
    }
    return [_call(body, request.extra)] * request.n


def _read_images(replies: Sequence[Reply], request: ImagesRequest, target: Target) -> ImagesResponse:
    """What the filter has withheld is no picture: `ContentPolicyViolation`."""
    pictures: list[Picture] = []
    for reply in replies:
        answer = decode(reply.body, _PICTURES)
        reasons = [reason for reason in answer.finish_reasons or () if reason]
        if any(artifact.finish_reason == "CONTENT_FILTERED" for artifact in answer.artifacts or ()):
            reasons.append("CONTENT_FILTERED")
        found = answer.images or [artifact.base64 for artifact in answer.artifacts or ()]
        if reasons or (answer.error and not found):
            raise _withheld("; ".join(reasons) or answer.error or "")
        pictures += [Picture(b64_json=data) for data in found]
    if not pictures:
        raise UpstreamMalformed("The provider's answer has no picture in it")
    return ImagesResponse(tuple(pictures), Usage(units=Units(images=len(pictures))))


def _withheld(reason: str) -> UpstreamError:
    return classify(400, message=f"The provider gave no picture: {reason}", code="content_filter", headers={})


IMAGES: Task[ImagesRequest, ImagesResponse] = Task(_write_images, _read_images)
