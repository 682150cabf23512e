"""What the bytes of Amazon Bedrock's Converse look like.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and …_ConverseStream.html. The structs
are lenient: what we do not use is not here, `p` (padding that hides the length) is skipped. A block is a union: the one
field that is there says what it is.
"""

from __future__ import annotations

from msgspec import Raw, Struct
from msgspec.json import Decoder

from adapters.wire import Count

NAME = "bedrock"

NULL = Raw(b"null")


def given(raw: Raw) -> Raw | None:
    """A value that may be absent or null."""
    return None if raw == NULL else raw


TOP_LEVEL = frozenset(
    {
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "guardrailConfig",
        "inferenceConfig",
        "outputConfig",
        "performanceConfig",
        "promptVariables",
        "requestMetadata",
        "serviceTier",
        "system",
        "toolConfig",
    }
)
"""The fields of a Converse request. What else a caller adds is the model's business: `additionalModelRequestFields`."""

MERGED = frozenset({"additionalModelRequestFields", "inferenceConfig", "outputConfig", "toolConfig"})
"""Those of them that are objects in which a caller's members join ours."""

STATUS_OF = {
    "accessdeniedexception": 403,
    "expiredtokenexception": 403,
    "incompletesignatureexception": 403,
    "internalfailure": 500,
    "internalserverexception": 500,
    "internalstreamfailure": 500,
    "invalidsignatureexception": 403,
    "modelerrorexception": 424,
    "modelnotreadyexception": 429,
    "modelstreamerrorexception": 424,
    "modelstreamerror": 424,
    "modeltimeoutexception": 408,
    "resourcenotfoundexception": 404,
    "servicequotaexceededexception": 429,
    "serviceunavailable": 503,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "unrecognizedclientexception": 403,
    "validationexception": 400,
}
"""The HTTP status of each exception, by its name in lower case; a full quota is a limit, though Bedrock says 400."""

CREDENTIALS = frozenset(
    {
        "expiredtokenexception",
        "incompletesignatureexception",
        "invalidclienttokenid",
        "invalidsignatureexception",
        "missingauthenticationtokenexception",
        "unrecognizedclientexception",
    }
)
"""Exceptions that say that the credentials are wrong."""


# -- what a message is made of -----------------------------------------------------------------------------------------


class ReasoningText(Struct):
    text: str = ""
    signature: str | None = None


class ReasoningContent(Struct, rename="camel"):
    """`redactedContent` is base64."""

    reasoning_text: ReasoningText | None = None
    redacted_content: str | None = None


class ToolUse(Struct, rename="camel"):
    """`type` is `server_tool_use` for a tool that the service ran itself."""

    tool_use_id: str = ""
    name: str = ""
    input: Raw = NULL
    type: str | None = None


class GeneratedText(Struct):
    text: str = ""


class CitationsContent(Struct):
    """Words, with their sources beside them."""

    content: list[GeneratedText] | None = None


class Block(Struct, rename="camel"):
    text: str | None = None
    tool_use: ToolUse | None = None
    reasoning_content: ReasoningContent | None = None
    citations_content: CitationsContent | None = None


class CacheDetail(Struct, rename="camel"):
    """Tokens that were written to the cache for `ttl` (`5m`, `1h`)."""

    ttl: str | None = None
    input_tokens: Count = None


class Usage(Struct, rename="camel"):
    """Counts. The cache is outside `inputTokens`. InvokeModel of Nova gives the cache's under the names with `Count` only."""

    input_tokens: Count = None
    output_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_read_input_token_count: Count = None
    cache_write_input_tokens: Count = None
    cache_write_input_token_count: Count = None
    cache_details: list[CacheDetail] | None = None


class ServiceTier(Struct):
    type: str | None = None


# -- a whole answer ----------------------------------------------------------------------------------------------------


class Message(Struct):
    content: list[Block] | None = None


class Output(Struct):
    message: Message | None = None


class Answer(Struct, rename="camel"):
    """A whole answer."""

    output: Output | None = None
    stop_reason: str | None = None
    usage: Usage | None = None
    service_tier: ServiceTier | None = None
    additional_model_response_fields: Raw = NULL


class Error(
    Struct, rename={"upper_message": "Message", "type": "__type", "original_message": "originalMessage"}
):
    """An error, whole or as a frame. `type` is there where no header gives it."""

    message: str | None = None
    upper_message: str | None = None
    original_message: str | None = None
    type: str | None = None


class DeltaOfStop(Struct):
    stop_sequence: str | None = None


class ModelFields(Struct):
    """What was asked for in `additionalModelResponseFieldPaths`: Claude's stop sequence, wherever it puts it."""

    stop_sequence: str | None = None
    delta: DeltaOfStop | None = None


# -- a stream ----------------------------------------------------------------------------------------------------------


class ToolPiece(Struct):
    input: Raw = NULL


class ReasoningPiece(Struct, rename="camel"):
    text: Raw = NULL
    signature: Raw = NULL
    redacted_content: Raw = NULL


class Piece(Struct, rename="camel"):
    """The `delta` of a contentBlockDelta."""

    text: Raw = NULL
    tool_use: ToolPiece | None = None
    reasoning_content: ReasoningPiece | None = None


class BlockDelta(Struct, rename="camel"):
    """The event that streams are made of."""

    delta: Piece
    content_block_index: int = 0


class BlockStart(Struct, rename="camel"):
    tool_use: ToolUse | None = None


class Event(Struct, rename="camel"):
    """Any other event: which one it is, the frame's headers say."""

    content_block_index: int = 0
    start: BlockStart | None = None
    stop_reason: str | None = None
    additional_model_response_fields: Raw = NULL
    usage: Usage | None = None
    service_tier: ServiceTier | None = None


BLOCK_DELTA = Decoder(BlockDelta)
EVENT = Decoder(Event)


# -- InvokeModel -------------------------------------------------------------------------------------------------------


class Chunk(Struct, rename={"data": "bytes"}):
    """The payload of a frame: an event of the model's in base64."""

    data: str = ""


class Metrics(Struct, rename="camel"):
    """What Bedrock counted."""

    input_token_count: Count = None
    output_token_count: Count = None
    cache_read_input_token_count: Count = None
    cache_write_input_token_count: Count = None


class WithMetrics(Struct, rename={"metrics": "amazon-bedrock-invocationMetrics"}):
    """The last event of a stream."""

    metrics: Metrics | None = None


class TitanResult(Struct, rename="camel"):
    output_text: str = ""
    token_count: Count = None
    completion_reason: str | None = None


class MistralOutput(Struct):
    text: str = ""
    stop_reason: str | None = None


class CohereGeneration(Struct):
    text: str = ""
    finish_reason: str | None = None


class Completion(
    Struct,
    rename={
        "input_text_token_count": "inputTextTokenCount",
        "total_output_text_token_count": "totalOutputTextTokenCount",
        "output_text": "outputText",
        "completion_reason": "completionReason",
    },
):
    """A text that continues a text, whole or an event of a stream, in any vendor's words.

    Titan: `results`, or `output_text` and `completion_reason`. Llama: `generation` and `stop_reason`. Mistral: `outputs`.
    Cohere: `generations`, or `text` and `finish_reason`.
    """

    results: list[TitanResult] | None = None
    output_text: str | None = None
    completion_reason: str | None = None
    input_text_token_count: Count = None
    total_output_text_token_count: Count = None
    generation: str | None = None
    prompt_token_count: Count = None
    generation_token_count: Count = None
    stop_reason: str | None = None
    outputs: list[MistralOutput] | None = None
    generations: list[CohereGeneration] | None = None
    text: str | None = None
    finish_reason: str | None = None
    event_type: str | None = None
    index: int | None = None


# -- what is no chat ---------------------------------------------------------------------------------------------------


class Embedded(Struct, rename={"input_text_token_count": "inputTextTokenCount"}):
    """Titan: `embedding`. Cohere: `embeddings` as a list of vectors, or by type. Nova: `embeddings` as a list of objects."""

    embedding: Raw = NULL
    embeddings: Raw = NULL
    input_text_token_count: Count = None


class NovaEmbedding(Struct):
    embedding: Raw


class RankedDocument(Struct):
    index: int
    relevance_score: float


class Reranked(Struct):
    results: list[RankedDocument]
    id: str | None = None


class Artifact(Struct, rename={"finish_reason": "finishReason"}):
    base64: str = ""
    finish_reason: str | None = None


class Pictures(Struct):
    """Amazon: `images`, and `error` for those that were withheld. Stability: `images` and `finish_reasons`, or `artifacts`."""

    images: list[str] | None = None
    error: str | None = None
    finish_reasons: list[str | None] | None = None
    artifacts: list[Artifact] | None = None
