"""What the bytes of Cohere's API, version 2, look like.

Vendor's pages: https://docs.cohere.com/reference/chat (question and answer), https://docs.cohere.com/reference/chat-stream
(events), https://docs.cohere.com/reference/embed, https://docs.cohere.com/reference/rerank,
https://docs.cohere.com/reference/create-audio-transcription, https://docs.cohere.com/reference/errors.

The structs are lenient: everything has a default, what we do not use is not here. Of a stream's event the `type` is
decoded first and the rest only where we know that type. A JSON value that is kept as its bytes is `Raw`; one that is
absent is `NULL`. Counts are numbers that the vendor's own library takes for fractions; all that were ever seen are whole.
"""

from __future__ import annotations

from msgspec import Raw, Struct

from adapters.wire import Count

NULL = Raw(b"null")


def given(raw: Raw) -> Raw | None:
    """A value that may be absent or null."""
    return None if raw == NULL else raw


class Tokens(Struct):
    """`image_tokens` are outside of `input_tokens`, `reasoning_tokens` inside of `output_tokens`."""

    input_tokens: Count = None
    output_tokens: Count = None
    image_tokens: Count = None
    reasoning_tokens: Count = None


class BilledUnits(Tokens):
    """What the bill counts: of a chat much less than `tokens`, because Cohere's own prompt is not on it."""

    images: Count = None
    search_units: Count = None


class Usage(Struct):
    """`cached_tokens` are inside of `tokens.input_tokens`."""

    tokens: Tokens | None = None
    billed_units: BilledUnits | None = None
    cached_tokens: Count = None


class Function(Struct, frozen=True):
    name: str | None = None
    arguments: Raw = NULL


class ToolCall(Struct):
    id: str | None = None
    function: Function = Function()


class Content(Struct):
    """A part of an answer: `text` or `thinking`."""

    text: str | None = None
    thinking: str | None = None


class Message(Struct):
    content: list[Content] | str | None = None
    tool_plan: str | None = None
    tool_calls: list[ToolCall] | None = None
    citations: Raw = NULL


class Answer(Struct):
    """A whole answer. A `message` that is a string is an error's."""

    id: str | None = None
    message: Message | str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class Error(Struct):
    message: str | None = None
    error_type: str | None = None


# -- events ------------------------------------------------------------------------------------------------------------


class Kind(Struct):
    type: str | None = None
    message: Raw = NULL


class Start(Struct):
    id: str | None = None


class Piece(Struct):
    text: Raw = NULL
    thinking: Raw = NULL


class MessageDelta(Struct):
    """`tool_calls` is one call here, no list."""

    content: Piece | None = None
    tool_plan: Raw = NULL
    tool_calls: ToolCall | None = None


class Delta(Struct, frozen=True):
    message: MessageDelta | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None


class Event(Struct):
    """Any event after the first. Parts and tool calls each have their own `index`."""

    index: int = 0
    delta: Delta = Delta()


EVENT_KINDS = frozenset(
    {
        "content-start",
        "content-delta",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
        "tool-call-end",
        "message-end",
    }
)
"""The events after the first that are read; those of citations and ends of parts are not."""


# -- what is no chat ---------------------------------------------------------------------------------------------------


class Meta(Struct):
    billed_units: BilledUnits | None = None


class Embeddings(Struct):
    """The vectors by their type: `float`, `int8` …"""

    embeddings: dict[str, list[Raw] | None] | None = None
    meta: Meta | None = None


class Transcript(Struct):
    text: str | None = None


class Result(Struct):
    index: int
    relevance_score: float


class Reranked(Struct):
    id: str | None = None
    results: list[Result] | None = None
    meta: Meta | None = None
