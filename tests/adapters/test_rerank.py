"""Reranks: what clients ask, what they get, and in which words providers are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from adapters import RERANK
from adapters.envelope import open_envelope
from adapters.errors import BadRequest, Unsupported, UpstreamError, UpstreamMalformed
from adapters.providers import PROVIDERS
from adapters.rerank import read_request, write_response
from adapters.types import Ranked, Reply, RerankRequest, RerankResponse, Target, Units, Usage
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "rerank"
RECORDED = list(recordings("voyage", "together", "openrouter", "cohere", kinds=("rerank",)))
DOCUMENTS = (Raw(b'"The sun shines."'), Raw(b'{"text":"Snow."}'), Raw(b'"Rain falls."'))
ROWS = {"together": "together_ai", "cohere": "custom_openai"}
"""Whose way reads a recording; Cohere's own shape is what servers of the OpenAI family answer with."""


def target(provider: str, **options: Any) -> Target:
    return Target(provider=PROVIDERS[provider], model="m", base_url="https://example.com", **options)


def asked(**fields: Any) -> RerankRequest:
    return RerankRequest(**{"model": "public", "query": "rain?", "documents": DOCUMENTS} | fields)


def written(provider: str, request: RerankRequest, **options: Any) -> dict[str, Any]:
    (call,) = RERANK.get(provider, RERANK["openai"]).write(request, target(provider, **options))
    body: dict[str, Any] = json.loads(call.body)
    return body


def read(provider: str, body: bytes, request: RerankRequest | None = None) -> RerankResponse:
    way = RERANK.get(provider, RERANK["openai"])
    return way.read([Reply({}, body)], request or asked(), target(provider))


# -- the client's side -----------------------------------------------------------------------------------------------


def test_a_question_is_read() -> None:
    """Documents stay as they are, and so does what we do not know."""
    body = (
        b'{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":1,"max_tokens_per_doc":9,'
        b'"return_documents":true,"rank_fields":["text"]}'
    )
    assert read_request(open_envelope(body)) == RerankRequest(
        model="m",
        query="q",
        documents=(Raw(b'"a"'), Raw(b'{"text":"b"}')),
        top_n=1,
        max_tokens_per_doc=9,
        return_documents=True,
        extra={"rank_fields": Raw(b'["text"]')},
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b'"documents":["a"]', "query"),
        (b'"query":"q"', "documents"),
        (b'"query":"q","documents":[]', "documents"),
        (b'"query":"q","documents":"a"', "documents"),
        (b'"query":"q","documents":["a",1]', "documents[1]"),
        (b'"query":"q","documents":["a"],"top_n":0', "top_n"),
        (b'"query":"q","documents":["a"],"return_documents":"yes"', "return_documents"),
    ],
)
def test_a_wrong_question_is_refused_with_its_place(fields: bytes, param: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(BadRequest) as caught:
        read_request(open_envelope(b"{" + fields + b"}"))
    assert caught.value.param == param


def test_an_answer_is_written() -> None:
    """Best first, no more than asked for, the documents as the client gave them."""
    results = (Ranked(0, 0.25), Ranked(2, 0.75), Ranked(1, 0.5))
    answer = RerankResponse(results, "theirs", Usage(input=7, units=Units(searches=2)))
    request = asked(top_n=2, return_documents=True)
    assert json.loads(write_response(answer, request, model="public", now=1, answer_id="ours")) == {
        "id": "ours",
        "model": "public",
        "results": [
            {"index": 2, "relevance_score": 0.75, "document": {"text": "Rain falls."}},
            {"index": 1, "relevance_score": 0.5, "document": {"text": "Snow."}},
        ],
        "meta": {"billed_units": {"search_units": 2}},
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    bare = json.loads(write_response(RerankResponse(results[:1]), asked(), model="m", now=1, answer_id="x"))
    assert bare == {"id": "x", "model": "m", "results": [{"index": 0, "relevance_score": 0.25}]}


@pytest.mark.parametrize("index", [-1, 3])
def test_a_document_that_nobody_asked_about(index: int) -> None:
    """Is the provider's mistake."""
    with pytest.raises(UpstreamMalformed):
        write_response(RerankResponse((Ranked(index, 1.0),)), asked(), model="m", now=1, answer_id="x")


# -- providers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("together_ai", {"documents": ["The sun shines.", {"text": "Snow."}, "Rain falls."], "top_n": 2}),
        (
            "jina_ai",
            {
                "documents": ["The sun shines.", {"text": "Snow."}, "Rain falls."],
                "top_n": 2,
                "return_documents": False,
            },
        ),
        ("voyage", {"documents": ["The sun shines.", "Snow.", "Rain falls."], "top_k": 2}),
        ("infinity", {"documents": ["The sun shines.", "Snow.", "Rain falls."], "top_n": 2}),
        (
            "fireworks_ai",
            {
                "documents": ["The sun shines.", "Snow.", "Rain falls."],
                "top_n": 2,
                "return_documents": False,
            },
        ),
    ],
)
def test_a_provider_is_asked_in_its_words(provider: str, body: dict[str, Any]) -> None:
    """The caller's own words for the provider come along; documents are never asked back."""
    request = asked(top_n=2, return_documents=True, extra={"truncation": Raw(b"true")})
    assert written(provider, request) == {"model": "m", "query": "rain?", "truncation": True} | body


def test_deepinfra_wants_the_query_with_each_document() -> None:
    """And the model in its address."""
    assert written("deepinfra", asked(top_n=1)) == {
        "queries": ["rain?"] * 3,
        "documents": ["The sun shines.", "Snow.", "Rain falls."],
    }


def test_deepinfra_gets_no_query_that_fills_the_memory() -> None:
    """A query is written once for each document: a small question could be a huge call."""
    many = tuple([DOCUMENTS[0]] * 1000)
    with pytest.raises(BadRequest, match="too long"):
        written("deepinfra", asked(query="q" * 33_000, documents=many))


@pytest.mark.parametrize("provider", ["together_ai", "voyage", "deepinfra"])
def test_a_limit_for_each_document_is_cohere_s_alone(provider: str) -> None:
    """Others refuse it, or drop it."""
    with pytest.raises(Unsupported) as caught:
        written(provider, asked(max_tokens_per_doc=100))
    assert caught.value.param == "max_tokens_per_doc"
    dropped: list[str] = []
    body = written(provider, asked(max_tokens_per_doc=100), drop_params=True, dropped=dropped)
    assert dropped == ["max_tokens_per_doc"]
    assert "max_tokens_per_doc" not in body
    allowed = written(provider, asked(max_tokens_per_doc=100), allowed=frozenset({"max_tokens_per_doc"}))
    assert allowed["max_tokens_per_doc"] == 100


@pytest.mark.parametrize("document", [b'{"image":"https://example.com/a.png"}', b'{"text":1}'])
def test_documents_without_text(document: bytes) -> None:
    """Go to those who may know them, and are refused for those who read texts alone."""
    request = asked(documents=(DOCUMENTS[0], Raw(document)))
    assert written("jina_ai", request)["documents"][1] == json.loads(document)
    with pytest.raises(Unsupported) as caught:
        written("voyage", request)
    assert caught.value.param == "documents[1]"


@pytest.mark.parametrize(
    ("provider", "name", "usage"),
    [
        ("custom_openai", "cohere", Usage(units=Units(searches=1))),
        ("jina_ai", "jina", Usage(input=61)),
        ("voyage", "voyage", Usage(input=26)),
        ("hosted_vllm", "vllm", Usage(input=56)),
        ("infinity", "infinity", Usage(input=33)),
        ("deepinfra", "deepinfra", Usage(input=42)),
    ],
)
def test_transcripts(provider: str, name: str, usage: Usage) -> None:
    """Best first, whatever the names and the order."""
    answer = read(provider, (TRANSCRIPTS / f"{name}.json").read_bytes())
    assert answer.results[:1] == (Ranked(2, 0.91),)
    assert Ranked(0, 0.25) in answer.results
    assert answer.usage == usage


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("jina_ai", b""),
        ("jina_ai", b"{}"),
        ("jina_ai", b'{"results":[{"relevance_score":1}]}'),
        ("jina_ai", b'{"results":[{"index":1}]}'),
        ("jina_ai", b'{"results":{}}'),
        ("deepinfra", b"{}"),
        ("deepinfra", b'{"scores":[1,2]}'),
    ],
)
def test_an_answer_that_is_none(provider: str, body: bytes) -> None:
    """Is the provider's mistake."""
    with pytest.raises(UpstreamMalformed):
        read(provider, body)


def test_an_error_hides_in_a_200() -> None:
    """And is found."""
    with pytest.raises(UpstreamError, match="too busy"):
        read("jina_ai", b'{"error":{"message":"too busy"}}')


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", RECORDED, ids=str)
def test_recorded_answers(recording: Recording) -> None:
    """Every result with its score, tokens or search units as the provider counted."""
    provider = ROWS.get(recording.provider, recording.provider)
    request = asked(documents=DOCUMENTS * 9)
    if recording.request is not None:
        request = read_request(open_envelope(recording.request))
    answer = read(provider, recording.response, request)
    said = json.loads(recording.response)
    results = said.get("results", said.get("data"))
    assert [(each.index, each.score) for each in answer.results] == [
        (each["index"], each["relevance_score"]) for each in results
    ]
    assert answer.usage is not None
    assert answer.usage.total == said.get("usage", {}).get("total_tokens", 0)
    units = said.get("meta", {}).get("billed_units", {})
    assert answer.usage.units.searches == units.get("search_units", 0)
    if recording.provider == "openrouter":
        assert answer.usage.billed == 340
    write_response(answer, request, model="public", now=1, answer_id="x")


@pytest.mark.parametrize("recording", [each for each in RECORDED if each.provider == "voyage"], ids=str)
def test_recorded_questions_are_what_we_ask(recording: Recording) -> None:
    """What a client of the vendor asked, said in Cohere's words, is written in the vendor's."""
    assert recording.request is not None
    theirs = json.loads(recording.request)
    request = asked(
        query=theirs["query"],
        documents=tuple(Raw(json.dumps(each).encode()) for each in theirs["documents"]),
        top_n=theirs["top_k"],
        extra={"truncation": Raw(b"true")},
    )
    assert written("voyage", request) == theirs | {"model": "m"}
