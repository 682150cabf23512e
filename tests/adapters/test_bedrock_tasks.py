"""Bedrock's embeddings, reranks and pictures."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters import bedrock_tasks
from adapters.errors import BadRequest, ContentPolicyViolation, Unsupported, UpstreamMalformed
from adapters.providers import PROVIDERS
from adapters.types import (
    Call,
    EmbeddingsRequest,
    ImagesRequest,
    Picture,
    Ranked,
    Reply,
    RerankRequest,
    Target,
    Units,
    Usage,
)
from tests.recorded import Recording, recordings

EMBEDDED = list(recordings("bedrock", kinds=("embeddings",)))
RANKED = list(recordings("bedrock", kinds=("rerank",)))
TITAN = "amazon.titan-embed-text-v2:0"


def target(model: str, **more: Any) -> Target:
    return Target(provider=PROVIDERS["bedrock"], model=model, base_url="https://x.example.com", **more)


def bodies(calls: Any) -> list[dict[str, Any]]:
    assert all(isinstance(call, Call) for call in calls)
    return [json.loads(call.body) for call in calls]


def reply(body: Any, headers: dict[str, str] | None = None) -> Reply:
    return Reply(headers or {}, json.dumps(body).encode())


# -- embeddings ------------------------------------------------------------------------------------------------------

TWO = EmbeddingsRequest(model="any", input=("one", "two"))


def embed(model: str, request: EmbeddingsRequest = TWO, **more: Any) -> list[dict[str, Any]]:
    return bodies(bedrock_tasks.EMBEDDINGS.write(request, target(model, **more)))


@pytest.mark.parametrize("recording", EMBEDDED, ids=str)
def test_recorded_embeddings(recording: Recording) -> None:
    """We ask as it was asked, and read what was answered; tokens stand in a header."""
    assert recording.request is not None
    asked = json.loads(recording.request)
    params = asked.get("singleEmbeddingParams", {})
    texts = asked.get("texts") or [params["text"]["value"]]
    request = EmbeddingsRequest(
        model="any",
        input=tuple(texts),
        dimensions=asked.get("output_dimension") or params.get("embeddingDimension"),
    )
    where = target(unquote(recording.meta["model"]))
    assert bodies(bedrock_tasks.EMBEDDINGS.write(request, where)) == [asked]
    headers = recording.meta["response_headers"]
    answer = bedrock_tasks.EMBEDDINGS.read([Reply(headers, recording.response)], request, where)
    told = json.loads(recording.response)["embeddings"]
    expected = told["float"] if isinstance(told, dict) else [each["embedding"] for each in told]
    assert [json.loads(bytes(vector)) for vector in answer.vectors if isinstance(vector, Raw)] == expected
    assert answer.usage == Usage(input=int(headers["x-amzn-bedrock-input-token-count"]))


def test_a_purpose_that_the_operator_allows() -> None:
    """Titan has no word for it; it goes on as it came."""
    purposeful = replace(TWO, input_type="search_query")
    with pytest.raises(Unsupported, match="input_type"):
        embed(TITAN, purposeful)
    allowed = embed(TITAN, purposeful, allowed=frozenset({"input_type"}))
    assert allowed == [body | {"input_type": "search_query"} for body in embed(TITAN)]


def test_titan_takes_one_text_in_a_call() -> None:
    """As many calls as texts, the answers in their order, their tokens added."""
    assert embed(TITAN, replace(TWO, dimensions=256)) == [
        {"inputText": "one", "dimensions": 256},
        {"inputText": "two", "dimensions": 256},
    ]
    replies = [reply({"embedding": [at, 0.5], "inputTextTokenCount": 3}) for at in (1, 2)]
    answer = bedrock_tasks.EMBEDDINGS.read(replies, TWO, target(TITAN))
    assert [bytes(vector) for vector in answer.vectors if isinstance(vector, Raw)] == [
        b"[1, 0.5]",
        b"[2, 0.5]",
    ]
    assert answer.usage == Usage(input=6)
    picture = embed("amazon.titan-embed-image-v1", replace(TWO, input=("a",), dimensions=384))
    assert picture == [{"inputText": "a", "embeddingConfig": {"outputEmbeddingLength": 384}}]
    with pytest.raises(Unsupported, match="dimensions"):
        embed("amazon.titan-embed-text-v1", replace(TWO, dimensions=256))
    with pytest.raises(Unsupported, match="input_type"):
        embed(TITAN, replace(TWO, input_type="search_query"))


def test_nova_has_purposes() -> None:
    """Cohere's words for what a vector is for become Amazon's."""
    body = embed("amazon.nova-2-multimodal-embeddings-v1:0", replace(TWO, input_type="search_query"))[1]
    assert body["singleEmbeddingParams"] == {
        "embeddingPurpose": "GENERIC_RETRIEVAL",
        "text": {"truncationMode": "END", "value": "two"},
    }


def test_cohere_takes_many_texts() -> None:
    """Up to 96 in a call; older models answer with plain lists."""
    texts = tuple(str(at) for at in range(100))
    calls = embed("cohere.embed-english-v3", replace(TWO, input=texts, input_type="clustering"))
    assert [len(call["texts"]) for call in calls] == [96, 4]
    assert calls[0]["input_type"] == "clustering"
    answer = bedrock_tasks.EMBEDDINGS.read(
        [reply({"embeddings": [[1], [2]]}, {"x-amzn-bedrock-input-token-count": "2"})],
        TWO,
        target("cohere.embed-english-v3"),
    )
    assert len(answer.vectors) == 2
    assert answer.usage == Usage(input=2)


def test_cohere_gives_the_type_that_was_asked_for() -> None:
    """What the caller chose is read, whatever it is; `float` is taken before others."""
    for kinds in ({"int8": [[1], [2]]}, {"int8": [[3], [4]], "float": [[1], [2]]}):
        answer = bedrock_tasks.EMBEDDINGS.read(
            [reply({"embeddings": kinds})], TWO, target("cohere.embed-v4:0")
        )
        assert [json.loads(bytes(vector)) for vector in answer.vectors if isinstance(vector, Raw)] == [
            [1],
            [2],
        ]


@pytest.mark.parametrize("body", [{}, {"embeddings": 1}, {"embeddings": [[1]]}])
def test_vectors_that_are_missing(body: Any) -> None:
    """No vectors, or too few."""
    with pytest.raises(UpstreamMalformed):
        bedrock_tasks.EMBEDDINGS.read([reply(body)], TWO, target("cohere.embed-v4:0"))


# -- rerank ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RANKED, ids=str)
def test_recorded_rerank(recording: Recording) -> None:
    """We ask as it was asked, and read what was answered."""
    assert recording.request is not None
    asked = json.loads(recording.request)
    documents = tuple(Raw(json.dumps(document).encode()) for document in asked["documents"])
    request = RerankRequest(model="any", query=asked["query"], documents=documents, top_n=asked["top_n"])
    where = target(unquote(recording.meta["model"]))
    assert bodies(bedrock_tasks.RERANK.write(request, where)) == [asked]
    answer = bedrock_tasks.RERANK.read([Reply({}, recording.response)], request, where)
    told = json.loads(recording.response)["results"]
    assert answer.results == tuple(Ranked(each["index"], each["relevance_score"]) for each in told)
    assert answer.usage == Usage(units=Units(searches=1))


def test_amazons_own_rerank() -> None:
    """Without Cohere's version; documents are texts."""
    documents = (Raw(b'{"text":"a"}'), Raw(b'"b"'))
    request = RerankRequest(model="any", query="q", documents=documents, max_tokens_per_doc=5)
    with pytest.raises(Unsupported, match="max_tokens_per_doc"):
        bedrock_tasks.RERANK.write(request, target("amazon.rerank-v1:0"))
    calls = bedrock_tasks.RERANK.write(request, target("amazon.rerank-v1:0", drop_params=True))
    assert bodies(calls) == [{"query": "q", "documents": ["a", "b"]}]
    allowing = target("amazon.rerank-v1:0", allowed=frozenset({"max_tokens_per_doc"}))
    (body,) = bodies(bedrock_tasks.RERANK.write(request, allowing))
    assert body == {"query": "q", "documents": ["a", "b"], "max_tokens_per_doc": 5}
    with pytest.raises(UpstreamMalformed):
        bedrock_tasks.RERANK.read([reply({})], request, target("amazon.rerank-v1:0"))


# -- pictures --------------------------------------------------------------------------------------------------------

CAT = ImagesRequest(model="any", prompt="a cat", n=2, size="1024x1536")


def draw(model: str, request: ImagesRequest = CAT, **more: Any) -> list[dict[str, Any]]:
    return bodies(bedrock_tasks.IMAGES.write(request, target(model, **more)))


def test_amazons_pictures() -> None:
    """Titan and Nova Canvas draw several at once, in pixels."""
    asked = draw("amazon.nova-canvas-v1:0", replace(CAT, quality="hd", extra={"seed": Raw(b"1")}))
    assert asked == [
        {
            "taskType": "TEXT_IMAGE",
            "textToImageParams": {"text": "a cat"},
            "imageGenerationConfig": {
                "numberOfImages": 2,
                "width": 1024,
                "height": 1536,
                "quality": "premium",
            },
            "seed": 1,
        }
    ]
    with pytest.raises(BadRequest, match="size"):
        draw("amazon.nova-canvas-v1:0", replace(CAT, size="big"))


def test_stabilitys_pictures() -> None:
    """One in a call: in one of a few shapes, or, with the oldest model, in pixels."""
    assert (
        draw("stability.stable-image-ultra-v1:1", replace(CAT, output_format="webp"))
        == [{"prompt": "a cat", "aspect_ratio": "2:3", "output_format": "webp"}] * 2
    )
    assert draw("stability.stable-diffusion-xl-v1", replace(CAT, n=1)) == [
        {"text_prompts": [{"text": "a cat"}], "width": 1024, "height": 1536}
    ]
    assert draw("stability.sd3-5-large-v1:0", replace(CAT, size=None, n=1)) == [{"prompt": "a cat"}]


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("amazon.nova-canvas-v1:0", "style", "vivid"),
        ("amazon.nova-canvas-v1:0", "background", "transparent"),
        ("amazon.nova-canvas-v1:0", "response_format", "url"),
        ("amazon.titan-image-generator-v2:0", "output_format", "webp"),
        ("stability.stable-image-core-v1:1", "quality", "high"),
        ("stability.stable-diffusion-xl-v1", "quality", "high"),
    ],
)
def test_wishes_that_have_no_word(model: str, field: str, value: Any) -> None:
    """Refused, or dropped."""
    request = replace(CAT, **{field: value})
    with pytest.raises(Unsupported, match=field if field != "response_format" else "url"):
        draw(model, request)
    assert draw(model, request, drop_params=True) == draw(model)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("amazon.nova-canvas-v1:0", "style"),
        ("amazon.titan-image-generator-v2:0", "output_format"),
        ("stability.stable-image-core-v1:1", "quality"),
        ("stability.sd3-5-large-v1:0", "background"),
        ("stability.stable-diffusion-xl-v1", "output_format"),
    ],
)
def test_wishes_that_the_operator_allows(model: str, field: str) -> None:
    """They go on as they came."""
    asked = draw(model, replace(CAT, **{field: "x"}), allowed=frozenset({field}))
    assert asked == [body | {field: "x"} for body in draw(model)]


@pytest.mark.parametrize(
    "body",
    [
        {"images": ["AAAA"], "error": None},
        {"images": ["AAAA"], "seeds": [1], "finish_reasons": [None]},
        {"result": "success", "artifacts": [{"base64": "AAAA", "finishReason": "SUCCESS"}]},
    ],
)
def test_pictures_are_read(body: Any) -> None:
    """In three shapes; one is billed for each."""
    answer = bedrock_tasks.IMAGES.read([reply(body)] * 2, CAT, target("m"))
    assert answer.pictures == (Picture(b64_json="AAAA"),) * 2
    assert answer.usage == Usage(units=Units(images=2))


@pytest.mark.parametrize(
    "body",
    [
        {"images": [], "error": "blocked by our content filters"},
        {"images": ["AAAA"], "finish_reasons": ["Filter reason: prompt"]},
        {"artifacts": [{"base64": "AAAA", "finishReason": "CONTENT_FILTERED"}]},
    ],
)
def test_pictures_that_are_withheld(body: Any) -> None:
    """The filter's picture is none."""
    with pytest.raises(ContentPolicyViolation):
        bedrock_tasks.IMAGES.read([reply(body)], CAT, target("m"))


def test_no_picture_at_all() -> None:
    """That is no answer."""
    with pytest.raises(UpstreamMalformed):
        bedrock_tasks.IMAGES.read([reply({})], CAT, target("m"))
