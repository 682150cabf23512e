"""What the bytes of Anthropic's Messages API look like.

Vendor's pages: https://platform.claude.com/docs/en/api/messages (request and answer),
https://platform.claude.com/docs/en/build-with-claude/streaming (events), https://platform.claude.com/docs/en/api/errors.

The structs are wide and lenient: what we do not use is not here, and unknown keys are skipped. Blocks are decoded in
two steps, their `type` first, because a type that we do not know must be carried and not refused. A JSON value that is
kept as its bytes is `Raw`; msgspec cannot decode `Raw | None`, so one that is absent is `NULL`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder

from adapters.wire import Count

NAME = "anthropic"

VERSION = "2023-06-01"
"""The API version that is asked for. `2026-10-21` refuses sampling parameters, which our callers may use."""

NULL = Raw(b"null")


def given(raw: Raw) -> Raw | None:
    """A value that may be absent or null."""
    return None if raw == NULL else raw


HINTS = frozenset(
    {
        "betas",
        "billing_policy",
        "cache_control",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
"""Request fields that cannot change an answer's words: a writer of another format drops them without a word.

`inference_geo` is not among them: it promises where the data stay, and a promise must not be dropped silently.
"""

UNSPOKEN = HINTS - {"metadata"} | {
    "compaction",
    "container",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "thread",
}
"""Request fields that the format defines and that no other format has a place for."""

OWN = UNSPOKEN - {"service_tier"}
"""Those of them that mean something only here, so that we may write back what a client of ours wrote."""

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each type of error."""

TYPE_OF = {status: kind for kind, status in STATUS_OF.items()} | {
    408: "timeout_error",
    502: "api_error",
    503: "overloaded_error",
}
"""The type of error for an HTTP status; others are `invalid_request_error` under 500 and `api_error` above."""


# -- the question ----------------------------------------------------------------------------------------------------


class ToolChoice(Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Struct):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(Struct):
    """`output_config.format`, and `output_format` as it was called in the beta."""

    type: str
    schema: Raw = NULL


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(Struct):
    user_id: Any = None


class Request(Struct):
    """A request's top level. Messages, blocks and tools are opened one by one, so that an error can name its place."""

    model: str = ""
    messages: list[Raw] | None = None
    system: str | list[Raw] | None = None
    tools: list[Raw] | None = None
    tool_choice: ToolChoice | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None


class Message(Struct):
    role: str
    content: str | list[Raw]


class Tool(Struct):
    name: str
    description: str | None = None
    input_schema: Raw = NULL
    strict: bool | None = None
    cache_control: Raw = NULL


# -- the blocks of a message -----------------------------------------------------------------------------------------


class Kind(Struct):
    """The `type` of a block, tool or event whose other fields are not yet known."""

    type: str | None = None


class TextBlock(Struct):
    text: str
    citations: Raw = NULL
    cache_control: Raw = NULL


class Source(Struct):
    """Where an image or a document comes from: `base64`, `text`, `url`, `file`, or `content` (blocks, not read)."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


class ImageBlock(Struct):
    source: Source
    cache_control: Raw = NULL


class DocumentBlock(Struct):
    source: Source
    title: str | None = None
    context: str | None = None
    citations: Raw = NULL
    cache_control: Raw = NULL


class ThinkingBlock(Struct):
    thinking: str = ""
    signature: str | None = None


class RedactedThinkingBlock(Struct):
    data: str


class ToolUseBlock(Struct):
    id: str
    name: str
    input: Raw = NULL
    cache_control: Raw = NULL


def arguments_of(block: ToolUseBlock) -> str:
    """A call's arguments as JSON text, `{}` if it has none."""
    raw = given(block.input)
    return "{}" if raw is None else bytes(raw).decode("utf-8", "replace")


class ToolResultBlock(Struct):
    tool_use_id: str
    content: str | list[Raw] | None = None
    is_error: bool | None = None
    cache_control: Raw = NULL


AnyBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
)

BLOCKS: dict[str, Decoder[Any]] = {
    "text": Decoder(TextBlock),
    "image": Decoder(ImageBlock),
    "document": Decoder(DocumentBlock),
    "thinking": Decoder(ThinkingBlock),
    "redacted_thinking": Decoder(RedactedThinkingBlock),
    "tool_use": Decoder(ToolUseBlock),
    "tool_result": Decoder(ToolResultBlock),
}
"""The blocks that have a meaning in every vendor's language; all others are carried as they are."""

ANSWER_BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
"""Those of them that a model writes."""


# -- the answer, whole or in events ----------------------------------------------------------------------------------


class CacheCreation(Struct):
    ephemeral_5m_input_tokens: Count = None
    ephemeral_1h_input_tokens: Count = None


class OutputDetails(Struct):
    thinking_tokens: Count = None


class ServerTools(Struct):
    """What Anthropic's own tools were used for; searches are billed by the piece."""

    web_search_requests: Count = None


class Usage(Struct):
    """Counts. The cache is outside `input_tokens`, thinking is inside `output_tokens`."""

    input_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_creation: CacheCreation | None = None
    output_tokens: Count = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None


class Error(Struct):
    type: str | None = None
    message: str | None = None


class Answer(Struct):
    """A whole answer, the `message` of `message_start`, or an error; `input_tokens` is what count_tokens answers."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Raw = NULL
    usage: Usage | None = None
    error: Error | str | None = None
    message: str | None = None


class Block(Struct):
    """The `content_block` of `content_block_start`."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: Raw = NULL
    thinking: Raw = NULL
    data: Raw = NULL
    input: Raw = NULL


class Piece(Struct, gc=False):
    """The `delta` of `content_block_delta`: one shape, so that kinds that we do not know need no care."""

    type: str = ""
    text: Raw = NULL
    thinking: Raw = NULL
    signature: Raw = NULL
    partial_json: Raw = NULL


class BlockDelta(Struct, gc=False):
    """The event that streams are made of, by itself because it must be read fast."""

    delta: Piece
    index: int = 0


class Stop(Struct):
    """The `delta` of `message_delta`."""

    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Raw = NULL


class Event(Struct):
    """Any event of a stream; of a `content_block_delta` only the type."""

    type: str = ""
    index: int = 0
    delta: Stop | None = None
    content_block: Block | None = None
    message: Answer | None = None
    usage: Usage | None = None
    error: Raw = NULL


EVENT_KINDS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)
"""The events that must be readable; what else comes is skipped."""
