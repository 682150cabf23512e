"""What Google does beside chats: vectors and pictures, at AI Studio and on Vertex AI. Part of `adapters.gemini`.

* AI Studio makes vectors of up to a hundred texts at once (https://ai.google.dev/api/embeddings). Vertex AI has another
  way for its own models (`predict`, https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api),
  takes one text at a time for Gemini's, and asks from `gemini-embedding-2` on as AI Studio does.
* Imagen makes pictures with `predict` (https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/imagen-api),
  Gemini's picture models are asked as in a chat, once for each picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw

from adapters.base import Task, leaves_out
from adapters.envelope import count_of, decode, seal
from adapters.errors import ContentPolicyViolation, Unsupported, UpstreamError, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.gemini_answers import read_error, read_usage
from adapters.pictures import nearest_ratio, size_of
from adapters.types import (
    Call,
    EmbeddingsRequest,
    EmbeddingsResponse,
    ImagesRequest,
    ImagesResponse,
    Picture,
    Reply,
    Target,
    Units,
    Usage,
)
from adapters.wire import gemini as wire
from adapters.wire.gemini import Json

_EMBEDDED = msgspec.json.Decoder(wire.Embedded)
_PREDICTIONS = msgspec.json.Decoder(wire.Predictions)
_ANSWER = msgspec.json.Decoder(wire.Answer)


# -- vectors ---------------------------------------------------------------------------------------------------------

_PURPOSES = {
    "search_document": "RETRIEVAL_DOCUMENT",
    "search_query": "RETRIEVAL_QUERY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
_MOST_REQUESTS = 100
_MOST_INSTANCES = 250


def _texts(request: EmbeddingsRequest, target: Target) -> list[str]:
    texts = [text for text in request.input if isinstance(text, str)]
    if len(texts) < len(request.input):
        raise Unsupported(f"{target.provider.name} embeds texts, no token numbers.", param="input")
    return texts


def _own(request: EmbeddingsRequest) -> Json:
    """What is said beside each text, in Google's names; its own words for the purpose are left as they are."""
    own: Json = {wire.camel(name): value for name, value in request.extra.items()}
    if request.dimensions is not None:
        own["outputDimensionality"] = request.dimensions
    if request.input_type is not None:
        own["taskType"] = _PURPOSES.get(request.input_type, request.input_type)
    return own


def _content(text: str) -> Json:
    return {"parts": [{"text": text}]}


def _write_batch(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    own = {"model": f"models/{target.model}"} | _own(request)
    asked = [own | {"content": _content(text)} for text in _texts(request, target)]
    return [
        Call(seal({"requests": asked[at : at + _MOST_REQUESTS]}))
        for at in range(0, len(asked), _MOST_REQUESTS)
    ]


def _read_batch(replies: Sequence[Reply], request: EmbeddingsRequest, target: Target) -> EmbeddingsResponse:
    answers = [decode(reply.body, _EMBEDDED) for reply in replies]
    vectors = [vector for answer in answers for vector in _vectors_of(answer)]
    usages = [read_usage(answer.usage_metadata) for answer in answers if answer.usage_metadata]
    usage = sum((each for each in usages if each), Usage()) if any(usages) else None
    return _answered(vectors, request, usage)


def _vectors_of(answer: wire.Embedded) -> Iterator[Raw]:
    for vector in answer.embeddings or ([answer.embedding] if answer.embedding else []):
        yield vector.values


def _answered(vectors: Sequence[Raw], request: EmbeddingsRequest, usage: Usage | None) -> EmbeddingsResponse:
    if len(vectors) != len(request.input) or any(bytes(each)[:1] != b"[" for each in vectors):
        raise UpstreamMalformed("The provider did not send a vector for each text")
    return EmbeddingsResponse(tuple(vectors), usage=usage)


def _write_predict(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    own, texts = _own(request), _texts(request, target)
    if wire.asks_by_content(target.model):
        return [Call(seal(own | {"content": _content(text)})) for text in texts]
    beside: Json = {}
    if "taskType" in own:
        beside["task_type"] = own.pop("taskType")
    if "title" in own:
        beside["title"] = own.pop("title")
    most = 1 if target.model.startswith("gemini-") else _MOST_INSTANCES
    parameters = {"parameters": own} if own else {}
    return [
        Call(seal({"instances": [{"content": text} | beside for text in texts[at : at + most]]} | parameters))
        for at in range(0, len(texts), most)
    ]


def _read_predict(replies: Sequence[Reply], request: EmbeddingsRequest, target: Target) -> EmbeddingsResponse:
    if wire.asks_by_content(target.model):
        return _read_batch(replies, request, target)
    found = [
        prediction.embeddings or wire.PredictedVector()
        for reply in replies
        for prediction in decode(reply.body, _PREDICTIONS).predictions or ()
    ]
    counts = [count_of(each.statistics.token_count) for each in found if each.statistics]
    usage = Usage(input=sum(counts)) if counts else None
    return _answered([each.values for each in found], request, usage)


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_batch, _read_batch)
"""At AI Studio: `batchEmbedContents`."""

VERTEX_EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_predict, _read_predict)
"""On Vertex AI: `predict`, or `embedContent`."""


# -- pictures --------------------------------------------------------------------------------------------------------

_IMAGEN_RATIOS = ("1:1", "3:4", "4:3", "9:16", "16:9")
_GEMINI_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")


def _shape(request: ImagesRequest, ratios: Sequence[str]) -> Json:
    """`aspectRatio`, and `imageSize` for what is larger than the usual thousand pixels."""
    size = size_of(request.size)
    if size is None:
        return {}
    shape: Json = {"aspectRatio": nearest_ratio(size, ratios)}
    if max(size) >= 2048:
        shape["imageSize"] = "4K" if max(size) >= 4096 else "2K"
    return shape


def _write_images(request: ImagesRequest, target: Target) -> Sequence[Call]:
    if request.response_format == "url":
        leaves_out(target, "response_format", what="url", why="it gives the pictures themselves")
    if target.model.startswith("imagen"):
        return [_write_imagen(request, target)]
    allowed = allowed_fields(request, target, "quality", "style", "background", "output_format")
    own = {wire.camel(name): value for name, value in request.extra.items()}
    shape = _shape(request, _GEMINI_RATIOS)
    shape |= {name: own.pop(name) for name in ("aspectRatio", "imageSize") if name in own}
    config: Json = {"responseModalities": ["IMAGE"]}
    if shape:
        config["imageConfig"] = shape
    body = {"contents": [{"role": "user", **_content(request.prompt)}], "generationConfig": config}
    return [Call(seal(body | allowed | own))] * request.n


def _write_imagen(request: ImagesRequest, target: Target) -> Call:
    parameters: Json = {"sampleCount": request.n} | _shape(request, _IMAGEN_RATIOS)
    if request.output_format is not None:
        parameters["outputOptions"] = {"mimeType": f"image/{request.output_format}"}
    parameters |= allowed_fields(request, target, "quality", "style", "background")
    parameters |= {wire.camel(name): value for name, value in request.extra.items()}
    return Call(seal({"instances": [{"prompt": request.prompt}], "parameters": parameters}))


def _read_images(replies: Sequence[Reply], request: ImagesRequest, target: Target) -> ImagesResponse:
    """Pictures. What the filter has withheld is missing; if it withheld all, that is a `ContentPolicyViolation`."""
    if target.model.startswith("imagen"):
        return _read_imagen(replies)
    pictures: list[Picture] = []
    usage = Usage()
    why = ""
    for reply in replies:
        answer = decode(reply.body, _ANSWER)
        if answer.error != wire.NULL:
            raise read_error(0, {}, reply.body)
        for candidate in answer.candidates or ():
            pictures += _pictures_in(candidate)
            why = candidate.finish_message or candidate.finish_reason or why
        if answer.prompt_feedback is not None:
            why = answer.prompt_feedback.block_reason_message or answer.prompt_feedback.block_reason or why
        usage += (read_usage(answer.usage_metadata) if answer.usage_metadata else None) or Usage()
    if not pictures:
        raise _none_made(why)
    return ImagesResponse(tuple(pictures), msgspec.structs.replace(usage, units=Units(images=len(pictures))))


def _pictures_in(candidate: wire.Candidate) -> Iterator[Picture]:
    for part in (candidate.content and candidate.content.parts) or ():
        if part.inline_data is not None and part.inline_data.data and not part.thought:
            yield Picture(b64_json=part.inline_data.data)


def _read_imagen(replies: Sequence[Reply]) -> ImagesResponse:
    found = [each for reply in replies for each in decode(reply.body, _PREDICTIONS).predictions or ()]
    pictures = tuple(
        Picture(each.bytes_base64_encoded, each.gcs_uri, each.prompt)
        for each in found
        if each.bytes_base64_encoded or each.gcs_uri
    )
    if not pictures:
        raise _none_made(next((each.rai_filtered_reason for each in found if each.rai_filtered_reason), ""))
    return ImagesResponse(pictures, Usage(units=Units(images=len(pictures))))


def _none_made(why: str | None) -> UpstreamError:
    """Imagen answers with an empty object when its filter has withheld everything."""
    return ContentPolicyViolation(
        f"The provider's filter withheld the picture{f': {why}' if why else ''}",
        provider_status=200,
        code="content_filter",
    )


IMAGES: Task[ImagesRequest, ImagesResponse] = Task(_write_images, _read_images)
"""At both."""
