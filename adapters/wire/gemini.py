"""What the bytes of Google's Gemini API look like, at AI Studio and on Vertex AI.

Vendor's pages: https://ai.google.dev/api/generate-content (question, answer, counts), https://ai.google.dev/api/caching#Part
(parts), https://ai.google.dev/api/embeddings, https://cloud.google.com/apis/design/errors (errors).

The structs are wide and lenient: all is optional, unknown keys are skipped. A JSON value that is kept as its bytes is
`Raw`; msgspec cannot decode `Raw | None`, so one that is absent is `NULL`.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from msgspec import Raw, Struct

from adapters.wire import Count

NAME = "gemini"
"""The format."""

NULL = Raw(b"null")


def given(raw: Raw) -> Raw | None:
    """A value that may be absent or null."""
    return None if raw == NULL else raw


NO_SIGNATURE = "skip_thought_signature_validator"
"""What stands for the signature of a call that Gemini did not make itself; see
https://ai.google.dev/gemini-api/docs/thought-signatures."""

NATIVE_TOOLS = frozenset(
    {
        "codeExecution",
        "code_execution",
        "computerUse",
        "computer_use",
        "enterpriseWebSearch",
        "enterprise_web_search",
        "fileSearch",
        "file_search",
        "googleMaps",
        "google_maps",
        "googleSearch",
        "google_search",
        "googleSearchRetrieval",
        "google_search_retrieval",
        "urlContext",
        "url_context",
    }
)
"""Tools that Google runs itself, in both of its spellings."""


# -- parts -----------------------------------------------------------------------------------------------------------


class PartialArg(Struct, rename="camel"):
    """A piece of a call's arguments: the value at `json_path`; a string may come in several pieces."""

    json_path: str = "$"
    string_value: str | None = None
    number_value: float | int | None = None
    bool_value: bool | None = None


class FunctionCall(Struct, rename="camel"):
    name: str | None = None
    id: str | None = None
    args: Raw = NULL
    partial_args: list[PartialArg] | None = None
    will_continue: bool | None = None


class Blob(Struct, rename="camel"):
    mime_type: str | None = None
    data: str | None = None


class ExecutableCode(Struct):
    code: str | None = None
    language: str | None = None


class CodeResult(Struct):
    output: str | None = None


class Part(Struct, rename="camel"):
    """A part of an answer. `thought` marks reasoning; a call may have a `thought_signature`."""

    text: Raw = NULL
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeResult | None = None


# -- answers ---------------------------------------------------------------------------------------------------------


class Content(Struct):
    parts: list[Part] | None = None


class Chosen(Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class TopCandidates(Struct):
    candidates: list[Chosen] | None = None


class Logprobs(Struct, rename="camel"):
    chosen_candidates: list[Chosen] | None = None
    top_candidates: list[TopCandidates] | None = None


class Candidate(Struct, rename="camel"):
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int | None = None
    logprobs_result: Logprobs | None = None
    safety_ratings: Raw = NULL
    citation_metadata: Raw = NULL
    grounding_metadata: Raw = NULL
    url_context_metadata: Raw = NULL


class Grounding(Struct, rename="camel"):
    web_search_queries: list[str] | None = None


class Feedback(Struct, rename="camel"):
    """Why a prompt was not answered at all."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class ModalityCount(Struct, rename="camel"):
    modality: str = ""
    token_count: Count = None


class Counts(Struct, rename="camel"):
    """`usageMetadata`; the counts of a stream are running totals."""

    prompt_token_count: Count = None
    tool_use_prompt_token_count: Count = None
    cached_content_token_count: Count = None
    candidates_token_count: Count = None
    thoughts_token_count: Count = None
    total_token_count: Count = None
    prompt_tokens_details: list[ModalityCount] | None = None
    prompt_token_details: list[ModalityCount] | None = None
    """As embeddings call it."""
    tool_use_prompt_tokens_details: list[ModalityCount] | None = None
    cache_tokens_details: list[ModalityCount] | None = None
    candidates_tokens_details: list[ModalityCount] | None = None
    service_tier: str | None = None
    traffic_type: str | None = None


class Answer(Struct, rename="camel"):
    """A whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Counts | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = NULL


class Counted(Struct, rename="camel"):
    """The counts alone, as they came."""

    usage_metadata: Raw = NULL


# -- vectors and pictures --------------------------------------------------------------------------------------------


class Vector(Struct):
    values: Raw = NULL


class Embedded(Struct, rename="camel"):
    """The answer of `batchEmbedContents` and of `embedContent`."""

    embeddings: list[Vector] | None = None
    embedding: Vector | None = None
    usage_metadata: Counts | None = None


class Statistics(Struct):
    token_count: Count = None


class PredictedVector(Struct):
    values: Raw = NULL
    statistics: Statistics | None = None


class Prediction(Struct, rename="camel"):
    """One item of the answer of `predict`: a vector or a picture."""

    embeddings: PredictedVector | None = None
    bytes_base64_encoded: str | None = None
    gcs_uri: str | None = None
    prompt: str | None = None
    rai_filtered_reason: str | None = None


class Predictions(Struct):
    predictions: list[Prediction] | None = None


# -- errors ----------------------------------------------------------------------------------------------------------


class Detail(Struct, rename="camel"):
    """`ErrorInfo` has a `reason`, `RetryInfo` a `retry_delay` as `"34.4s"`."""

    reason: str | None = None
    retry_delay: str | None = None


class Error(Struct):
    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[Detail] | None = None


class Failed(Struct):
    """An error's body. It comes in an array where a stream of JSON was asked for."""

    error: Error


_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NEWEST = (99, 0)


def generation(model: str) -> tuple[int, int]:
    """Which Gemini a model is: `gemini-2.5-pro` is (2, 5). Names without a number (`gemini-flash-latest`) are the newest, other models (0, 0)."""
    found = _VERSION.search(model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if re.search(r"gemini-[a-z-]*latest", model) else (0, 0)


def asks_by_content(model: str) -> bool:
    """Is this a model that Vertex AI asks with `embedContent`, as AI Studio does?"""
    return model.startswith("gemini-embedding-") and not model.startswith("gemini-embedding-001")


def camel(name: str) -> str:
    """Google's name of a field, whichever of its two spellings is given."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


Json: TypeAlias = dict[str, Any]
