"""What OpenAI's bytes look like: chat completions, and the little we read of completions and embeddings.

https://platform.openai.com/docs/api-reference/chat/create and …/chat-streaming, plus the fields that compatible servers
add. Two kinds of structs. What *clients* send is typed strictly, so that a wrong type is refused with the place of the
mistake. What *providers* send is typed loosely: everything has a default, and what varies between them (arguments,
errors, logprobs) stays raw.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from adapters.wire import MOST

_NULL = Raw(b"null")
NOTHING = Raw(b"")
"""The field is absent: msgspec has no union of `Raw` and None."""


def given(raw: Raw) -> Raw | None:
    """None for what is absent or null."""
    return None if raw in (NOTHING, _NULL) else raw


HINTS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)
"""Fields that cannot change an answer's words: a writer whose provider has no word for them drops them."""


# -- what clients send -----------------------------------------------------------------------------------------------


class TextPart(Struct, tag_field="type", tag="text"):
    text: str
    cache_control: Raw = NOTHING


class ImageUrl(Struct):
    url: str
    detail: str | None = None
    format: str | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    image_url: str | ImageUrl
    cache_control: Raw = NOTHING


class InputAudio(Struct):
    data: str
    format: str


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    input_audio: InputAudio


class File(Struct):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None
    format: str | None = None


class FilePart(Struct, tag_field="type", tag="file"):
    file: File
    cache_control: Raw = NOTHING


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ThinkingPart(Struct, tag_field="type", tag="thinking"):
    """Anthropic's reasoning in an OpenAI message, as LiteLLM writes it."""

    thinking: str
    signature: str | None = None


class RedactedThinkingPart(Struct, tag_field="type", tag="redacted_thinking"):
    data: str


ContentPart: TypeAlias = (
    TextPart | ImagePart | AudioPart | FilePart | RefusalPart | ThinkingPart | RedactedThinkingPart
)


class FunctionCall(Struct):
    name: str
    arguments: str | None = None


class Sealed(Struct):
    """Where a vendor's seal on the thoughts behind a call stands."""

    thought_signature: str | None = None


class ExtraContent(Struct):
    google: Sealed | None = None


class ToolCall(Struct):
    """`extra_content` is how Google's own endpoint for OpenAI's clients hands over a seal, the other one how LiteLLM does."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] | None = None
    cache_control: Raw = NOTHING
    extra_content: ExtraContent | None = None
    provider_specific_fields: Sealed | None = None


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[ThinkingPart | RedactedThinkingPart] | None = None
    cache_control: Raw = NOTHING


class Function(Struct):
    name: str
    description: str | None = None
    parameters: Raw = NOTHING
    strict: bool | None = None
    cache_control: Raw = NOTHING


class Tool(Struct):
    function: Function
    type: Literal["function"] = "function"
    cache_control: Raw = NOTHING


class ToolType(Struct):
    type: str | None = None


class Named(Struct):
    name: str


class NamedToolChoice(Struct, tag_field="type", tag="function"):
    function: Named


class AllowedTools(Struct, tag_field="type", tag="allowed_tools"):
    pass


class CustomToolChoice(Struct, tag_field="type", tag="custom"):
    pass


class JsonSchema(Struct):
    name: str | None = None
    schema: Raw = NOTHING
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ThinkingParam(Struct):
    """Anthropic's `thinking` in an OpenAI request, as LiteLLM takes it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class ChatQuestion(Struct):
    messages: list[Message]
    model: str = ""
    tools: list[Raw] | None = None
    functions: list[Function] | None = None
    tool_choice: (
        Literal["none", "auto", "required", "any"] | NamedToolChoice | AllowedTools | CustomToolChoice | None
    ) = None
    function_call: Literal["none", "auto"] | Named | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Raw = NOTHING
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    thinking: ThinkingParam | None = None
    user: str | None = None
    stream: bool | None = None


UNSPOKEN = frozenset(
    {"audio", "modalities", "moderation", "prediction", "verbosity", "web_search_options"}
    | (HINTS - {"user"})
)
"""Fields that OpenAI defines and the neutral request has no place for."""


# -- what providers send ---------------------------------------------------------------------------------------------


class FunctionPiece(Struct):
    name: str | None = None
    arguments: Raw = NOTHING


class ToolCallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class ReasoningPiece(Struct):
    """An item of OpenRouter's `reasoning_details`, of LiteLLM's `thinking_blocks` or of Mistral's content list."""

    type: str | None = None
    text: Raw = NOTHING
    summary: Raw = NOTHING
    thinking: Raw = NOTHING
    signature: Raw = NOTHING
    data: Raw = NOTHING


class Piece(Struct):
    """A whole message, or a step of one: `message` and `delta` have the same fields."""

    content: Raw = NOTHING
    refusal: Raw = NOTHING
    reasoning_content: Raw = NOTHING
    reasoning: Raw = NOTHING
    reasoning_details: list[ReasoningPiece] | None = None
    thinking_blocks: list[ReasoningPiece] | None = None
    tool_calls: list[ToolCallPiece] | None = None
    function_call: FunctionPiece | None = None


class Choice(Struct):
    index: int | None = None
    message: Piece | None = None
    delta: Piece | None = None
    finish_reason: str | None = None
    logprobs: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


Count: TypeAlias = Annotated[int, Meta(ge=0, le=MOST)]
"""What nearly everybody sends; where anything else stands, the counts are read one by one."""


class PromptDetails(Struct, gc=False):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class CompletionDetails(Struct, gc=False):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class CostDetails(Struct, gc=False):
    upstream_inference_cost: Raw = NOTHING


class Usage(Struct, gc=False):
    """`usage` as nearly everybody writes it, with the names that some have for what was cached or thought, and for the bill."""

    prompt_tokens: Count | UnsetType = UNSET
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    cached_tokens: Count | None = None
    prompt_cache_hit_tokens: Count | None = None
    num_cached_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    service_tier: Raw = NOTHING
    cost: Raw = NOTHING
    cost_details: CostDetails | None = None
    is_byok: bool | None = None
    cost_in_usd_ticks: Raw = NOTHING


class GroqExtra(Struct):
    usage: Raw = NOTHING
    error: Raw = NOTHING


class Answer(Struct):
    """A whole answer, or one chunk of a stream."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Raw = NOTHING
    error: Raw = NOTHING
    x_groq: GroqExtra | None = None
    service_tier: Raw = NOTHING


class Outline(Struct):
    """The little that a gateway must know of an answer that it passes on: chat, completions or embeddings."""

    class Choice(Struct):
        index: int | None = None
        finish_reason: str | None = None
        usage: Raw = NOTHING

    id: str | None = None
    model: Raw = NOTHING
    choices: list[Outline.Choice] | None = None
    usage: Raw = NOTHING
    error: Raw = NOTHING
    x_groq: GroqExtra | None = None
    service_tier: Raw = NOTHING
