"""Vectors and pictures of Google's: what is asked, and what the answers mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.errors import ContentPolicyViolation, Unsupported, UpstreamMalformed, UpstreamOverloaded
from adapters.gemini_tasks import EMBEDDINGS, IMAGES, VERTEX_EMBEDDINGS
from adapters.providers import PROVIDERS
from adapters.types import Call, EmbeddingsRequest, ImagesRequest, Picture, Reply, Target, Units, Usage
from tests.recorded import Recording, recordings

STUDIO = Target(provider=PROVIDERS["gemini"], model="gemini-embedding-001", base_url="https://example.com")
VERTEX = Target(provider=PROVIDERS["vertex_ai"], model="text-embedding-005", base_url="https://example.com")
TEXTS = EmbeddingsRequest(model="any", input=("a", "b"))
PICTURE = ImagesRequest(model="any", prompt="a cat")


def said(calls: Sequence[Call]) -> list[dict[str, Any]]:
    assert {call.content_type for call in calls} <= {"application/json"}
    return [json.loads(call.body) for call in calls]


def replies(*bodies: Any) -> list[Reply]:
    return [Reply({}, json.dumps(body).encode()) for body in bodies]


# -- vectors ---------------------------------------------------------------------------------------------------------


def test_ai_studio_takes_a_batch() -> None:
    """All texts in one call, each with its model and what it is for; a hundred at most."""
    asked = replace(TEXTS, dimensions=8, input_type="search_query", extra={"title": Raw(b'"T"')})
    own = {
        "model": "models/gemini-embedding-001",
        "title": "T",
        "outputDimensionality": 8,
        "taskType": "RETRIEVAL_QUERY",
    }
    assert said(EMBEDDINGS.write(asked, STUDIO)) == [
        {
            "requests": [
                own | {"content": {"parts": [{"text": "a"}]}},
                own | {"content": {"parts": [{"text": "b"}]}},
            ]
        }
    ]
    many = said(EMBEDDINGS.write(replace(TEXTS, input=("a",) * 250), STUDIO))
    assert [len(call["requests"]) for call in many] == [100, 100, 50]


def test_ai_studios_answer() -> None:
    """Vectors in their order over all calls, and the tokens where they were counted."""
    vectors = {"embeddings": [{"values": [0.5, -1]}]}
    answer = EMBEDDINGS.read(replies(vectors, vectors), TEXTS, STUDIO)
    assert [json.loads(bytes(raw)) for raw in answer.vectors if isinstance(raw, Raw)] == [[0.5, -1]] * 2
    assert answer.usage is None
    counted = vectors | {"usageMetadata": {"promptTokenCount": 3}}
    assert EMBEDDINGS.read(replies(counted, counted), TEXTS, STUDIO).usage == Usage(input=6)


def test_vertex_predicts() -> None:
    """Its own models take many texts, Gemini's first takes one at a time."""
    asked = replace(
        TEXTS, dimensions=8, input_type="SEMANTIC_SIMILARITY", extra={"auto_truncate": Raw(b"false")}
    )
    parameters = {"autoTruncate": False, "outputDimensionality": 8}
    first = {"content": "a", "task_type": "SEMANTIC_SIMILARITY"}
    second = {"content": "b", "task_type": "SEMANTIC_SIMILARITY"}
    assert said(VERTEX_EMBEDDINGS.write(asked, VERTEX)) == [
        {"instances": [first, second], "parameters": parameters}
    ]
    one_by_one = VERTEX_EMBEDDINGS.write(asked, replace(VERTEX, model="gemini-embedding-001"))
    assert [call["instances"] for call in said(one_by_one)] == [[first], [second]]
    assert "parameters" not in said(VERTEX_EMBEDDINGS.write(TEXTS, VERTEX))[0]


def test_vertex_answers() -> None:
    """Vectors and their tokens."""
    one = {"predictions": [{"embeddings": {"values": [1], "statistics": {"token_count": 2.0}}}]}
    answer = VERTEX_EMBEDDINGS.read(replies(one, one), TEXTS, VERTEX)
    assert answer.vectors == (Raw(b"[1]"), Raw(b"[1]"))
    assert answer.usage == Usage(input=4)


def test_vertex_asks_newer_models_by_content() -> None:
    """As AI Studio does, a text at a time."""
    target = replace(VERTEX, model="gemini-embedding-2")
    asked = replace(TEXTS, dimensions=8, extra={"title": Raw(b'"T"')})
    assert said(VERTEX_EMBEDDINGS.write(asked, target))[1] == {
        "title": "T",
        "outputDimensionality": 8,
        "content": {"parts": [{"text": "b"}]},
    }
    one = {"embedding": {"values": [1]}, "usageMetadata": {"promptTokenCount": 2}}
    assert VERTEX_EMBEDDINGS.read(replies(one, one), TEXTS, target).usage == Usage(input=4)


@pytest.mark.parametrize("body", [{}, {"embeddings": [{"values": [1]}]}, {"embeddings": [{}, {}]}, []])
def test_vectors_that_are_missing(body: Any) -> None:
    """A vector for each text, or none of it."""
    with pytest.raises(UpstreamMalformed):
        EMBEDDINGS.read(replies(body), TEXTS, STUDIO)


def test_token_numbers() -> None:
    """They mean nothing to Google."""
    for task, target in ((EMBEDDINGS, STUDIO), (VERTEX_EMBEDDINGS, VERTEX)):
        with pytest.raises(Unsupported, match="token"):
            task.write(replace(TEXTS, input=((1, 2),)), target)


VECTORS = [
    each
    for each in recordings("gemini", "vertex", kinds=("embeddings",))
    if b"inline_data" not in (each.request or b"")
]


@pytest.mark.parametrize("recording", VECTORS, ids=str)
def test_recorded_vectors(recording: Recording) -> None:
    """What was really asked is what we ask, and its answer is a vector for each text."""
    asked = json.loads(recording.request or b"")
    first = asked.get("requests", [asked])[0]
    texts = (
        [each["content"]["parts"][0]["text"] for each in asked["requests"]]
        if "requests" in asked
        else [each["content"] for each in asked["instances"]]
    )
    size = first.get("outputDimensionality") or asked.get("parameters", {}).get("outputDimensionality")
    task, target = (EMBEDDINGS, STUDIO) if recording.provider == "gemini" else (VERTEX_EMBEDDINGS, VERTEX)
    target = replace(target, model=str(recording.meta["model"]))
    question = EmbeddingsRequest(model="any", input=tuple(texts), dimensions=size)
    assert said(task.write(question, target)) == [asked]
    answer = task.read([Reply({}, recording.response)], question, target)
    assert len(answer.vectors) == len(texts)
    if "embedding-001" not in str(recording.meta["model"]):
        assert answer.usage is not None
        assert answer.usage.input > 0


# -- pictures --------------------------------------------------------------------------------------------------------

IMAGEN = replace(STUDIO, model="imagen-4.0-generate-001")
GEMINI = replace(STUDIO, model="gemini-3-pro-image")


def test_imagen_is_asked() -> None:
    """A number of pictures in one call, with a shape in place of a size."""
    asked = replace(
        PICTURE, n=3, size="1024x1792", output_format="jpeg", extra={"negative_prompt": Raw(b'"dogs"')}
    )
    assert said(IMAGES.write(asked, IMAGEN)) == [
        {
            "instances": [{"prompt": "a cat"}],
            "parameters": {
                "sampleCount": 3,
                "aspectRatio": "9:16",
                "outputOptions": {"mimeType": "image/jpeg"},
                "negativePrompt": "dogs",
            },
        }
    ]


def test_gemini_is_asked() -> None:
    """As in a chat, once for each picture."""
    asked = replace(PICTURE, n=2, size="4096x2304", extra={"safety_settings": Raw(b"[]")})
    body = {
        "contents": [{"role": "user", "parts": [{"text": "a cat"}]}],
        "generationConfig": {
            "responseModalities": ["IMAGE"],
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "4K"},
        },
        "safetySettings": [],
    }
    assert said(IMAGES.write(asked, GEMINI)) == [body, body]
    shaped = replace(PICTURE, extra={"aspect_ratio": Raw(b'"1:1"')})
    (plain,) = said(IMAGES.write(shaped, GEMINI))
    assert plain["generationConfig"]["imageConfig"] == {"aspectRatio": "1:1"}


@pytest.mark.parametrize("field", ["quality", "style", "background"])
def test_what_has_no_word(field: str) -> None:
    """It is refused, dropped, or passed on where the operator says so."""
    asked = replace(PICTURE, **{field: "x"})
    for target in (IMAGEN, GEMINI):
        with pytest.raises(Unsupported, match=field):
            IMAGES.write(asked, target)
        assert IMAGES.write(asked, replace(target, drop_params=True))
        allowed = IMAGES.write(asked, replace(target, allowed=frozenset({field})))
        assert f'"{field}":"x"'.encode() in allowed[0].body
    with pytest.raises(Unsupported, match="url"):
        IMAGES.write(replace(PICTURE, response_format="url"), IMAGEN)


def test_imagens_answer() -> None:
    """Pictures, with the prompt as it was improved; those that a filter withheld are missing."""
    body = {
        "predictions": [
            {"bytesBase64Encoded": "AA==", "mimeType": "image/png", "prompt": "a lovely cat"},
            {"raiFilteredReason": "Unable to show"},
        ]
    }
    answer = IMAGES.read(replies(body), PICTURE, IMAGEN)
    assert answer.pictures == (Picture(b64_json="AA==", revised_prompt="a lovely cat"),)
    assert answer.usage == Usage(units=Units(images=1))
    with pytest.raises(ContentPolicyViolation):
        IMAGES.read(replies({}), PICTURE, IMAGEN)
    with pytest.raises(ContentPolicyViolation, match="Unable to show"):
        IMAGES.read(replies({"predictions": body["predictions"][1:]}), PICTURE, IMAGEN)


def test_geminis_answer() -> None:
    """The pictures of all calls, without those that were only thought of, and their tokens."""
    drawn = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    body = {
        "candidates": [{"content": {"parts": [{"text": "Here."}, drawn | {"thought": True}, drawn]}}],
        "usageMetadata": {
            "promptTokenCount": 5,
            "candidatesTokenCount": 1290,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        },
    }
    answer = IMAGES.read(replies(body, body), PICTURE, GEMINI)
    assert answer.pictures == (Picture(b64_json="AA=="), Picture(b64_json="AA=="))
    assert answer.usage == Usage(input=10, image_output=2580, units=Units(images=2))


def test_no_picture() -> None:
    """A filter's reason is told, an error that comes with 200 is the error."""
    withheld = {"candidates": [{"finishReason": "IMAGE_SAFETY", "finishMessage": "Not this."}]}
    with pytest.raises(ContentPolicyViolation, match="Not this"):
        IMAGES.read(replies(withheld), PICTURE, GEMINI)
    with pytest.raises(ContentPolicyViolation, match="SAFETY"):
        IMAGES.read(replies({"promptFeedback": {"blockReason": "SAFETY"}}), PICTURE, GEMINI)
    with pytest.raises(UpstreamOverloaded):
        IMAGES.read(replies({"error": {"code": 503, "message": "busy"}}), PICTURE, GEMINI)


def test_a_count_that_is_null_is_none() -> None:
    """The vectors are there all the same."""
    target = Target(
        provider=PROVIDERS["vertex_ai"], model="text-embedding-005", base_url="https://vertex.test"
    )
    body = b'{"predictions":[{"embeddings":{"values":[1],"statistics":{"token_count":null}}}]}'
    request = EmbeddingsRequest(model="any", input=("a",))
    answer = VERTEX_EMBEDDINGS.read([Reply({}, body)], request, target)
    assert answer.usage == Usage()
