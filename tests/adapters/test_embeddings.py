"""Embeddings: what clients ask, what they get, and the providers whose words differ."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import Raw
from openai import OpenAI

from adapters import EMBEDDINGS
from adapters.embeddings import read_request, to_base64, to_numbers, write_response
from adapters.envelope import open_envelope
from adapters.errors import BadRequest, Unsupported, UpstreamError, UpstreamMalformed, UpstreamOverloaded
from adapters.providers import PROVIDERS
from adapters.types import EmbeddingsRequest, EmbeddingsResponse, Reply, Target, Usage
from tests.recorded import Recording, recordings

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts" / "embeddings"
ANSWERED = [each for each in recordings(kinds=("embeddings",)) if each.status == 200]
RECORDED = [each for each in ANSWERED if each.provider in {"voyage", "mistral", "perplexity"}]
IN_OPENAI_SHAPE = [
    each for each in ANSWERED if each.provider in {"openai", "azure", "openrouter", "voyage", "mistral"}
]


def target(provider: str, **options: Any) -> Target:
    return Target(provider=PROVIDERS[provider], model="m", base_url="https://example.com", **options)


def asked(**fields: Any) -> EmbeddingsRequest:
    return EmbeddingsRequest(**{"model": "public", "input": ("a", "b")} | fields)


def written(provider: str, request: EmbeddingsRequest, **options: Any) -> dict[str, Any]:
    (call,) = EMBEDDINGS[provider].write(request, target(provider, **options))
    assert call.content_type == "application/json"
    body: dict[str, Any] = json.loads(call.body)
    return body


def read(provider: str, body: bytes, request: EmbeddingsRequest | None = None) -> EmbeddingsResponse:
    return EMBEDDINGS[provider].read([Reply({}, body)], request or asked(), target(provider))


def answered(answer: EmbeddingsResponse, request: EmbeddingsRequest) -> dict[str, Any]:
    body = write_response(answer, request, model="public", now=1, answer_id="x")
    decoded: dict[str, Any] = json.loads(body)
    return decoded


# -- the client's side -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "read_as"),
    [
        (b'"a"', ("a",)),
        (b'["a", "b"]', ("a", "b")),
        (b"[1, 2]", ((1, 2),)),
        (b"[ [1],[2, 3]]", ((1,), (2, 3))),
        (b"[\n1]", ((1,),)),
    ],
)
def test_input_in_all_its_forms(raw: bytes, read_as: tuple[Any, ...]) -> None:
    """One text, several, the tokens of one, the tokens of several."""
    assert read_request(open_envelope(b'{"model":"m","input":' + raw + b"}")) == EmbeddingsRequest(
        model="m", input=read_as
    )


def test_a_question_is_read_whole() -> None:
    """With what OpenAI does not define."""
    body = (
        b'{"model":"m","input":"a","encoding_format":"base64","dimensions":256,"user":"u",'
        b'"input_type":"search_query","truncate":"END"}'
    )
    assert read_request(open_envelope(body)) == EmbeddingsRequest(
        model="m",
        input=("a",),
        encoding="base64",
        dimensions=256,
        input_type="search_query",
        user="u",
        extra={"truncate": Raw(b'"END"')},
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (b'"model":"m"', "input"),
        (b'"input":[]', "input"),
        (b'"input":[[]]', "input"),
        (b'"input":["a",1]', "input[1]"),
        (b'"input":[[1],["a"]]', "input[1][0]"),
        (b'"input":[1,"a"]', "input[1]"),
        (b'"input":{}', "input"),
        (b'"input":null', "input"),
        (b'"input":"a","encoding_format":"int8"', "encoding_format"),
        (b'"input":"a","dimensions":0', "dimensions"),
    ],
)
def test_a_wrong_question_is_refused_with_its_place(fields: bytes, param: str) -> None:
    """Before anybody is asked."""
    with pytest.raises(BadRequest) as caught:
        read_request(open_envelope(b"{" + fields + b"}"))
    assert caught.value.param == param


def test_vectors_come_as_the_client_wants_them() -> None:
    """Whatever the provider gave: numbers or base64."""
    answer = EmbeddingsResponse((Raw(b"[0.5,-0.25]"), "AACAPwAAAMA="), "theirs", Usage(input=5))
    as_numbers = answered(answer, asked(encoding="float"))
    assert as_numbers == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
            {"object": "embedding", "index": 1, "embedding": [1.0, -2.0]},
        ],
        "model": "public",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    as_base64 = answered(answer, asked(encoding="base64"))
    assert [each["embedding"] for each in as_base64["data"]] == ["AAAAPwAAgL4=", "AACAPwAAAMA="]


def test_numbers_pass_as_the_provider_wrote_them() -> None:
    """No digit is lost where nothing has to be converted."""
    answer = EmbeddingsResponse((Raw(b"[0.1000000000000000055,1e-5]"),))
    body = write_response(answer, asked(input=("a",)), model="m", now=1, answer_id="x")
    assert b"[0.1000000000000000055,1e-5]" in body
    assert b'"usage":{"prompt_tokens":0,"total_tokens":0}' in body


@pytest.mark.parametrize("vector", ["AAA=", "!", "A"])
def test_base64_that_holds_no_floats(vector: str) -> None:
    """Is the provider's mistake."""
    with pytest.raises(UpstreamMalformed):
        to_numbers(vector)


@pytest.mark.parametrize("vector", [b'["a"]', b"[[1]]", b"[1e300]", b"{}"])
def test_numbers_that_are_no_floats(vector: bytes) -> None:
    """So is this."""
    with pytest.raises(UpstreamMalformed):
        to_base64(Raw(vector))


# -- providers -------------------------------------------------------------------------------------------------------


def test_voyage_is_asked_in_its_words() -> None:
    """Other names for the size and the purpose; base64 only where it means floats; hints are dropped."""
    request = asked(
        encoding="base64",
        dimensions=256,
        input_type="search_document",
        user="u",
        extra={"truncation": Raw(b"false")},
    )
    assert written("voyage", request) == {
        "model": "m",
        "input": ["a", "b"],
        "input_type": "document",
        "output_dimension": 256,
        "encoding_format": "base64",
        "truncation": False,
    }
    assert written("voyage", asked(input_type="query")) == {
        "model": "m",
        "input": ["a", "b"],
        "input_type": "query",
    }
    whole_numbers = asked(encoding="base64", extra={"output_dtype": Raw(b'"int8"')})
    assert written("voyage", whole_numbers) == {"model": "m", "input": ["a", "b"], "output_dtype": "int8"}


def test_jina_is_asked_in_its_words() -> None:
    """A task for the purpose."""
    request = asked(encoding="base64", dimensions=128, input_type="search_query")
    assert written("jina_ai", request) == {
        "model": "m",
        "input": ["a", "b"],
        "task": "retrieval.query",
        "dimensions": 128,
        "embedding_type": "base64",
    }
    own = asked(extra={"task": Raw(b'"code.query"')}, input_type="classification")
    assert written("jina_ai", own)["task"] == "code.query"


def test_mistral_is_asked_in_its_words() -> None:
    """Nothing that it does not know, which would be an error."""
    assert written("mistral", asked(dimensions=64, user="u")) == {
        "model": "m",
        "input": ["a", "b"],
        "output_dimension": 64,
        "encoding_format": "float",
    }


def test_perplexity_is_asked_for_what_it_has() -> None:
    """Eight bits for a number, whatever the client wants."""
    assert written("perplexity", asked(dimensions=64, encoding="base64")) == {
        "model": "m",
        "input": ["a", "b"],
        "dimensions": 64,
        "encoding_format": "base64_int8",
    }


@pytest.mark.parametrize(
    ("provider", "kind"),
    [("voyage", "clustering"), ("jina_ai", "clustering"), ("mistral", "search_query"), ("perplexity", "x")],
)
def test_a_purpose_that_a_provider_has_no_word_for(provider: str, kind: str) -> None:
    """Is refused, or dropped and noted."""
    with pytest.raises(Unsupported) as caught:
        written(provider, asked(input_type=kind))
    assert caught.value.param == "input_type"
    dropped: list[str] = []
    body = written(provider, asked(input_type=kind), drop_params=True, dropped=dropped)
    assert dropped == ["input_type"]
    assert not {"input_type", "task"} & set(body)


@pytest.mark.parametrize("provider", ["voyage", "jina_ai", "mistral", "perplexity"])
def test_token_numbers_mean_nothing_to_others(provider: str) -> None:
    """They cannot be dropped either."""
    with pytest.raises(Unsupported) as caught:
        written(provider, asked(input=((1, 2),)), drop_params=True)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("provider", "name", "tokens"),
    [("voyage", "voyage", 9), ("jina_ai", "jina", 12), ("mistral", "base64", 5)],
)
def test_transcripts(provider: str, name: str, tokens: int) -> None:
    """Each vector at its index, numbers or base64, and all tokens as input."""
    answer = read(provider, (TRANSCRIPTS / f"{name}.json").read_bytes())
    assert answer.usage == Usage(input=tokens)
    data = answered(answer, asked())["data"]
    assert [each["embedding"] for each in data] == [[0.5, -0.25], [1.0, -2.0]]


def test_perplexity_numbers_are_signed_bytes() -> None:
    """And what the provider says that it costs is in the usage."""
    answer = read("perplexity", (TRANSCRIPTS / "perplexity.json").read_bytes())
    assert answer.vectors == (Raw(b"[1,127,-128,-1]"), Raw(b"[0,1,2,3]"))
    assert answer.usage == Usage(input=7, billed=28)
    (vector, _) = answered(answer, asked(encoding="base64"))["data"]
    assert struct.unpack("<4f", base64.b64decode(vector["embedding"])) == (1.0, 127.0, -128.0, -1.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data":[]}',
        b'{"data":[{"index":0,"embedding":[1]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]}',
        b'{"data":[{"embedding":[1]},{"embedding":{"float":[1]}}]}',
        b'{"data":[{"embedding":[1]},{}]}',
    ],
)
def test_an_answer_that_is_none(body: bytes) -> None:
    """Not a vector for each text, or no vectors at all."""
    with pytest.raises(UpstreamMalformed):
        read("voyage", body)


def test_an_error_hides_in_a_200() -> None:
    """And is found."""
    with pytest.raises(UpstreamError) as caught:
        read("voyage", (TRANSCRIPTS / "error_in_200.json").read_bytes())
    assert isinstance(caught.value, UpstreamOverloaded)


# -- recorded --------------------------------------------------------------------------------------------------------


def question_of(recording: Recording) -> EmbeddingsRequest:
    assert recording.request is not None
    return read_request(open_envelope(recording.request))


@pytest.mark.parametrize("recording", RECORDED, ids=str)
def test_recorded_answers(recording: Recording) -> None:
    """A vector for each text; the tokens are the provider's."""
    request = question_of(recording)
    answer = read(recording.provider, recording.response, request)
    said = json.loads(recording.response)
    assert answer.usage is not None
    assert answer.usage.prompt == answer.usage.total == said["usage"]["total_tokens"]
    assert answer.model == said["model"]
    for at, vector in enumerate(answer.vectors):
        numbers = json.loads(bytes(to_numbers(vector) if isinstance(vector, str) else vector))
        raw = said["data"][at]["embedding"]
        if isinstance(raw, str):
            packed = base64.b64decode(raw)
            width = "b" if recording.provider == "perplexity" else "f"
            raw = struct.unpack(f"<{len(packed) // struct.calcsize(width)}{width}", packed)
        assert numbers == list(raw)


@pytest.mark.parametrize("recording", IN_OPENAI_SHAPE, ids=str)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_the_official_client_reads_what_we_write(recording: Recording, encoding: str) -> None:
    """It asks for base64 unless it is told otherwise, and decodes what comes as text."""
    request = question_of(recording)
    answer = read("voyage", recording.response, request)

    def reply(asking: httpx2.Request) -> httpx2.Response:
        question = read_request(open_envelope(asking.content))
        assert question.encoding == encoding
        body = write_response(answer, question, model="public", now=1, answer_id="x")
        return httpx2.Response(200, content=body, headers={"content-type": "application/json"})

    with httpx2.Client(transport=httpx2.MockTransport(reply)) as http:
        client = OpenAI(api_key="k", base_url="http://penstock", http_client=http, max_retries=0)
        options: Any = {"encoding_format": "float"} if encoding == "float" else {}
        got = client.embeddings.create(model="public", input=list(request.input), **options)  # type: ignore[arg-type]  # texts or tokens
    for vector, given in zip(answer.vectors, got.data, strict=True):
        as_text = vector if isinstance(vector, str) else to_base64(vector)
        packed = base64.b64decode(as_text)
        exact = struct.unpack(f"<{len(packed) // 4}f", packed)
        assert given.embedding == pytest.approx(exact, rel=1e-6)
