"""Reranks: documents put in the order of how much they say to a query.

OpenAI has no such thing. What clients speak to us, and most providers and servers speak, is Cohere's second version
(https://docs.cohere.com/reference/rerank), which Jina's (https://jina.ai/reranker) is nearly the same as.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters.base import Task
from adapters.envelope import count_of, decode, seal
from adapters.errors import BadRequest, Unsupported, UpstreamMalformed
from adapters.fields import allowed_fields, other_fields, read_fields
from adapters.openai_answers import read_error
from adapters.openai_usage import read_usage
from adapters.types import Call, Ranked, Reply, RerankRequest, RerankResponse, Target, Units, Usage
from adapters.wire import tasks as wire
from adapters.wire.openai import NOTHING, given

_QUESTION = msgspec.json.Decoder(wire.RerankQuestion)
_ANSWER = msgspec.json.Decoder(wire.Rerank)
_SCORES = msgspec.json.Decoder(wire.Scores)
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_TEXT = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


# -- the client's side -----------------------------------------------------------------------------------------------


def read_request(envelope: Mapping[str, Raw]) -> RerankRequest:
    """Read a question. Raises `BadRequest` with its place."""
    asked = read_fields(envelope, _QUESTION)
    for at, document in enumerate(asked.documents):
        if bytes(document)[:1] not in {b'"', b"{"}:
            raise BadRequest(
                f"Invalid value for 'documents[{at}]': expected a string or an object.",
                param=f"documents[{at}]",
            )
    return RerankRequest(
        model=asked.model,
        query=asked.query,
        documents=tuple(asked.documents),
        top_n=asked.top_n,
        max_tokens_per_doc=asked.max_tokens_per_doc,
        return_documents=bool(asked.return_documents),
        extra=other_fields(envelope, _QUESTION),
    )


def write_response(
    answer: RerankResponse, request: RerankRequest, *, model: str, now: int, answer_id: str
) -> bytes:
    """An answer, the best document first, never more than `top_n`. Raises `UpstreamMalformed`.

    The documents, if they are wanted, are the client's own: a text as `{"text": …}`, an object as it is.
    """
    best = sorted(answer.results, key=lambda ranked: -ranked.score)[: request.top_n]
    body: dict[str, Any] = {
        "id": answer_id,
        "model": model,
        "results": [_write_result(ranked, request) for ranked in best],
    }
    usage = answer.usage
    if usage is not None and usage.units.searches:
        body["meta"] = {"billed_units": {"search_units": usage.units.searches}}
    if usage is not None and usage.total:
        body["usage"] = {"prompt_tokens": usage.prompt, "total_tokens": usage.total}
    return _encode(body)


def _write_result(ranked: Ranked, request: RerankRequest) -> dict[str, Any]:
    if not 0 <= ranked.index < len(request.documents):
        raise UpstreamMalformed(f"The provider ranked document {ranked.index}, which it was not asked about.")
    result: dict[str, Any] = {"index": ranked.index, "relevance_score": ranked.score}
    if request.return_documents:
        document = request.documents[ranked.index]
        result["document"] = {"text": document} if bytes(document)[:1] == b'"' else document
    return result


# -- the providers' side ---------------------------------------------------------------------------------------------


def text_of(document: Raw, at: int, target: Target) -> str:
    """The text of the document at a place, for providers that read nothing else. Raises `Unsupported`."""
    if bytes(document)[:1] == b"{":
        document = decode(document, _OBJECT).get("text", NOTHING)
    if bytes(document)[:1] != b'"':
        raise Unsupported(f"{target.provider.name} ranks texts alone.", param=f"documents[{at}]")
    return decode(document, _TEXT)


def _texts(request: RerankRequest, target: Target) -> list[str]:
    return [text_of(document, at, target) for at, document in enumerate(request.documents)]


def _write(
    request: RerankRequest,
    target: Target,
    *,
    top: str = "top_n",
    only_texts: bool = True,
    besides: Mapping[str, Any] = {},
) -> list[Call]:
    """One call in Cohere's words. Documents are not asked for, as we have them."""
    body: dict[str, Any] = {
        "model": target.model,
        "query": request.query,
        "documents": _texts(request, target) if only_texts else request.documents,
        **besides,
        **allowed_fields(request, target, "max_tokens_per_doc"),
    }
    if request.top_n is not None:
        body[top] = request.top_n
    return [Call(seal(body | request.extra))]


def _read(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    """`results` or `data`, with `relevance_score` or `score`."""
    body = replies[0].body
    answer = decode(body, _ANSWER)
    if given(answer.error) is not None:
        raise read_error(0, {}, body)
    ranked = answer.data if answer.results is None else answer.results
    if ranked is None:
        raise UpstreamMalformed("The provider sent no results.")
    return RerankResponse(_read_ranked(ranked), answer.id or "", _read_usage(answer, target))


def _read_ranked(ranked: Sequence[wire.Ranked]) -> tuple[Ranked, ...]:
    results = []
    for each in ranked:
        score = each.score if each.relevance_score is None else each.relevance_score
        if score is None:
            raise UpstreamMalformed("The provider sent a result without a score.")
        results.append(Ranked(each.index, score))
    return tuple(sorted(results, key=lambda each: -each.score))


def _read_usage(answer: wire.Rerank, target: Target) -> Usage | None:
    usage = None if answer.usage is NOTHING else read_usage(answer.usage, target.provider)
    billed = answer.meta.billed_units if answer.meta else None
    searches = count_of(billed.search_units) if billed is not None else 0
    return replace(usage or Usage(), units=Units(searches=searches)) if searches else usage


_LONGEST_QUERIES = 32_000_000
"""Characters of the query, once for each document: a small question could fill the memory."""


def _write_deepinfra(request: RerankRequest, target: Target) -> list[Call]:
    """https://deepinfra.com/docs/advanced/reranker: as many queries as documents."""
    documents = _texts(request, target)
    if len(request.query) * len(documents) > _LONGEST_QUERIES:
        raise BadRequest("The query is too long for so many documents.", param="query")
    body: dict[str, Any] = {"queries": [request.query] * len(documents), "documents": documents}
    return [Call(seal(body | allowed_fields(request, target, "max_tokens_per_doc") | request.extra))]


def _read_deepinfra(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    answer = decode(replies[0].body, _SCORES)
    if len(answer.scores) != len(request.documents):
        raise UpstreamMalformed(
            f"The provider sent {len(answer.scores)} scores for {len(request.documents)} documents."
        )
    ranked = [wire.Ranked(at, score) for at, score in enumerate(answer.scores)]
    return RerankResponse(
        _read_ranked(ranked), answer.request_id or "", Usage(input=count_of(answer.input_tokens))
    )


TASKS: dict[str, Task[RerankRequest, RerankResponse]] = {
    "openai": Task(partial(_write, only_texts=False), _read),
    "voyage": Task(partial(_write, top="top_k"), _read),
    "jina_ai": Task(partial(_write, only_texts=False, besides={"return_documents": False}), _read),
    "infinity": Task(_write, _read),
    "fireworks_ai": Task(partial(_write, besides={"return_documents": False}), _read),
    "deepinfra": Task(_write_deepinfra, _read_deepinfra),
}
"""By provider, or by format for all others of it."""
