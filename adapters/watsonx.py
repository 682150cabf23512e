"""IBM's watsonx.ai: OpenAI's chat under other names, https://cloud.ibm.com/apidocs/watsonx-ai#text-chat.

What differs is the address (a stream has its own, and each carries the API's version), who pays (a project or a space
in the body), `model_id`, and that a word for `tool_choice` is `tool_choice_option`. Streams have no `[DONE]`: they end
with the usage. Errors are a list, before a stream and in it.

A model `deployment/name` is one that the operator has deployed: it has an address of its own, and no model and project
in the body. `ibm/…`, `meta-llama/…` are the provider's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from adapters import openai_answers, openai_questions
from adapters.base import StreamReader, Task
from adapters.envelope import count_of, decode
from adapters.errors import Unsupported, UpstreamError, UpstreamMalformed
from adapters.fields import allowed_fields
from adapters.flatten import texts_of
from adapters.framing import SseCutter
from adapters.openai_answers import ChatReader
from adapters.types import (
    Address,
    Call,
    ChatRequest,
    ChatResponse,
    Delta,
    EmbeddingsRequest,
    EmbeddingsResponse,
    Failure,
    Operation,
    Ranked,
    Reply,
    RerankRequest,
    RerankResponse,
    Target,
    Usage,
)
from adapters.upstream_errors import classify
from adapters.wire import watsonx as wire

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter

VERSION = "2025-02-11"
"""Of the API, https://cloud.ibm.com/apidocs/watsonx-ai#active-version-dates. The option `watsonx_api_version` may name another."""

_DEPLOYMENT = "deployment/"
_SCOPE = ("model_id", "project_id", "space_id")
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_TOOLS = msgspec.json.Decoder(list[dict[str, Raw]])
_EMBEDDINGS = msgspec.json.Decoder(wire.Embeddings)
_RANKS = msgspec.json.Decoder(wire.Ranks)
_ERRORS = msgspec.json.Decoder(wire.Errors)
_ANYTHING = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


# -- a question --------------------------------------------------------------------------------------------------------


def address(target: Target, operation: Operation, headers: Mapping[str, str], *, stream: bool) -> Address:
    """Where and how to send it. Raises `Unsupported` for what the provider does not offer."""
    path = target.provider.paths.get(operation)
    if not path:
        raise Unsupported(f"{target.provider.name} does not offer {operation}.", param="model")
    if target.model.startswith(_DEPLOYMENT):
        deployment = quote(target.model.removeprefix(_DEPLOYMENT), safe="")
        if deployment in {"", ".", ".."}:
            raise Unsupported(f"{target.model!r} is no model's name.", param="model")
        path = path.replace("/ml/v1/", f"/ml/v1/deployments/{deployment}/")
    version = target.options.get("watsonx_api_version", VERSION)
    return Address(
        method="POST",
        url=f"{target.base_url.rstrip('/')}{path}{'_stream' if stream else ''}?version={quote(version, safe='')}",
        headers=(
            ("content-type", "application/json"),
            ("accept", "text/event-stream" if stream else "application/json"),
            *headers.items(),
        ),
    )


def scope(target: Target) -> dict[str, str]:
    """The model, and the project or space that pays. Raises `Unsupported` where the deployment names neither."""
    if target.model.startswith(_DEPLOYMENT):
        return {}
    for name in ("project_id", "space_id"):
        if name in target.options:
            return {"model_id": target.model, name: target.options[name]}
    raise Unsupported(
        f"A deployment of {target.provider.name} needs the option 'project_id' or 'space_id'.", param="model"
    )


def write_request(request: ChatRequest, target: Target) -> bytes:
    """A chat in watsonx.ai's words. Raises `Unsupported`."""
    body: dict[str, Any] = _OBJECT.decode(openai_questions.write_request(request, target))
    del body["model"]
    body.pop("stream", None)
    if bytes(body.get("tool_choice", b"")).startswith(b'"'):
        body["tool_choice_option"] = body.pop("tool_choice")
    if "tools" in body:
        body["tools"] = [_without_strict(tool) for tool in _TOOLS.decode(body["tools"])]
    for name in _SCOPE:
        body.pop(name, None)  # who pays is the deployment's to say, and no caller's
    return _encode(scope(target) | body)


def _without_strict(tool: dict[str, Raw]) -> dict[str, Any]:
    """A tool without the hint that it answers with an error."""
    if not bytes(tool.get("function", b"")).startswith(b"{"):
        return tool
    function = _OBJECT.decode(tool["function"])
    function.pop("strict", None)
    return {**tool, "function": function}


# -- an answer ---------------------------------------------------------------------------------------------------------


def read_response(body: bytes, request: ChatRequest, target: Target) -> ChatResponse:
    """A whole answer. Raises `UpstreamMalformed`, or the error that hides in a 200."""
    hidden = _errors(body)
    if hidden is not None:
        raise read_error(hidden.status_code, {}, body)
    answer = openai_answers.read_response(body, request, target)
    return answer if answer.model else replace(answer, model=target.model)


def read_stream(request: ChatRequest, target: Target) -> StreamReader:
    """A reader of chat events."""
    return _Reader(openai_answers.read_stream(request, target))


class _Reader:
    """OpenAI's reader, with IBM's errors read as such."""

    __slots__ = ("_inner", "done")

    def __init__(self, inner: ChatReader) -> None:
        self._inner = inner
        self.done = False

    def words(self, events: bytes) -> bytes:
        return self._inner.words(events)

    def feed(self, events: bytes) -> list[Delta]:
        deltas = _with_our_failure(self._inner.feed(events))
        self.done = self._inner.done
        return deltas

    def close(self) -> list[Delta]:
        deltas = _with_our_failure(self._inner.close())
        self.done = self._inner.done
        return deltas


def _with_our_failure(deltas: list[Delta]) -> list[Delta]:
    last = deltas[-1] if deltas else None
    if isinstance(last, Failure) and isinstance(last.error, UpstreamError) and last.error.body is not None:
        deltas[-1] = Failure(read_error(0, {}, last.error.body))
    return deltas


def _errors(body: bytes) -> wire.Errors | None:
    try:
        return _ERRORS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """A refusal: `{"errors":[{"code","message"}],"trace","status_code"}`. A status under 400 is one inside of an answer."""
    said = _errors(body)
    if said is None or not said.errors:
        return openai_answers.read_error(status, headers, body)
    code = str(said.errors[0].code)
    return classify(
        said.status_code if status < 400 else status,
        message="; ".join(problem.message for problem in said.errors if problem.message),
        code=_CODES.get(code, code) or None,
        headers=headers,
        body=body,
    )


_CODES = {
    "authentication_token_expired": "invalid_api_key",
    "authentication_token_not_valid": "invalid_api_key",
    "model_not_supported": "model_not_found",
    "model_no_support_for_function": "invalid_request_error",
    "token_quota_reached": "insufficient_quota",
    "consumption_limit_reached": "rate_limit_exceeded",
    "too_many_requests": "rate_limit_exceeded",
}
"""IBM's codes that mean one of those that everybody knows."""


# -- vectors -----------------------------------------------------------------------------------------------------------


def _write_embeddings(request: EmbeddingsRequest, target: Target) -> Sequence[Call]:
    parameters = allowed_fields(request, target, "dimensions", "input_type") | request.extra
    body: dict[str, Any] = scope(target) | {"inputs": texts_of(request, target)}
    if parameters:
        body["parameters"] = parameters
    return (Call(_encode(body)),)


def _read_embeddings(
    replies: Sequence[Reply], request: EmbeddingsRequest, target: Target
) -> EmbeddingsResponse:
    answer = decode(replies[0].body, _EMBEDDINGS)
    are_lists = all(bytes(result.embedding).startswith(b"[") for result in answer.results)
    if len(answer.results) != len(request.input) or not are_lists:
        raise UpstreamMalformed("The provider's answer has not one vector for each text")
    vectors = tuple(result.embedding for result in answer.results)
    return EmbeddingsResponse(vectors, answer.model_id or target.model, _tokens(answer.input_token_count))


def _tokens(count: int | None) -> Usage | None:
    return None if count is None else Usage(input=count_of(count))


EMBEDDINGS: Task[EmbeddingsRequest, EmbeddingsResponse] = Task(_write_embeddings, _read_embeddings)


# -- documents in order ------------------------------------------------------------------------------------------------


def _write_rerank(request: RerankRequest, target: Target) -> Sequence[Call]:
    options: dict[str, Any] = {"inputs": False}
    if request.top_n is not None:
        options["top_n"] = request.top_n
    parameters: dict[str, Any] = {"return_options": options} | request.extra
    if request.max_tokens_per_doc is not None:
        parameters["truncate_input_tokens"] = request.max_tokens_per_doc
    body: dict[str, Any] = scope(target) | {
        "query": request.query,
        "inputs": [_document(document) for document in request.documents],
        "parameters": parameters,
    }
    return (Call(_encode(body)),)


def _document(document: Raw) -> Raw | dict[str, Raw]:
    return {"text": document} if bytes(document).startswith(b'"') else document


def _read_rerank(replies: Sequence[Reply], request: RerankRequest, target: Target) -> RerankResponse:
    answer = decode(replies[0].body, _RANKS)
    if not all(0 <= rank.index < len(request.documents) for rank in answer.results):
        raise UpstreamMalformed("The provider's answer has documents in it that nobody asked about")
    ranked = sorted((Ranked(rank.index, rank.score) for rank in answer.results), key=lambda one: -one.score)
    return RerankResponse(tuple(ranked), usage=_tokens(answer.input_token_count))


RERANK: Task[RerankRequest, RerankResponse] = Task(_write_rerank, _read_rerank)
