"""What a question and an answer are, in no vendor's language.

A translation reads a client's bytes into these types and writes a provider's bytes from them, or the other way
round. Where the client's format is the provider's, nothing of this is used: bytes pass through.

Two rules make the types small:

* **JSON text stays JSON text.** Schemas, tool arguments and the pieces of a stream are kept as the bytes that the
  vendor sent (`Raw`), because a JSON string is the same bytes in every JSON format. Decode only where someone must
  look inside.
* **Usage is disjoint.** Vendors disagree on whether cached or reasoning tokens are inside the totals; here each token
  is in exactly one bucket, and totals are sums. `tests/adapters` checks that for every recorded answer.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Raw, Struct

JsonString: TypeAlias = Raw
"""A JSON string as its bytes, quotes and escapes included: `b'"a\\n"'`."""

Operation: TypeAlias = Literal["chat", "completions", "embeddings", "count_tokens"]
"""What a client wants done; it chooses the provider's path."""


# -- the parts of a message ------------------------------------------------------------------------------------------


class Text(Struct, frozen=True):
    """Words. `cache` is a prompt-cache mark and `citations` a source list, as the vendor's JSON."""

    text: str
    cache: Raw | None = None
    citations: Raw | None = None


class Image(Struct, frozen=True):
    """A picture, by base64 `data` with its `media_type`, or by `url`, or by a provider's `file_id`."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: Raw | None = None


class Audio(Struct, frozen=True):
    """Sound: base64 `data` in `format` (`wav`, `mp3`)."""

    data: str
    format: str


class Document(Struct, frozen=True):
    """A file to read: base64 `data` with its `media_type`, plain `text`, `url` or `file_id`."""

    media_type: str | None = None
    data: str | None = None
    text: str | None = None
    url: str | None = None
    file_id: str | None = None
    name: str | None = None
    context: str | None = None
    citations: Raw | None = None
    cache: Raw | None = None


class Thinking(Struct, frozen=True):
    """Reasoning in words. It must be sent back unchanged with its `signature` in a tool loop."""

    text: str
    signature: str | None = None


class RedactedThinking(Struct, frozen=True):
    """Reasoning that the vendor encrypted; carried, never read."""

    data: str


class Refusal(Struct, frozen=True):
    """The model's words for why it does not answer."""

    text: str


class ToolCall(Struct, frozen=True):
    """The model asks for a tool. `arguments` is JSON text as the model wrote it, `"{}"` if it wrote none."""

    id: str
    name: str
    arguments: str
    cache: Raw | None = None


class ToolResult(Struct, frozen=True):
    """What a tool answered to the call `id`."""

    id: str
    parts: tuple[Part, ...]
    failed: bool = False
    cache: Raw | None = None


class Opaque(Struct, frozen=True):
    """A block that only its own `format` understands (a vendor's server tool, say): carried as its JSON."""

    format: str
    kind: str
    raw: Raw


Part: TypeAlias = (
    Text | Image | Audio | Document | Thinking | RedactedThinking | Refusal | ToolCall | ToolResult | Opaque
)


class Message(Struct, frozen=True):
    """One turn. Tool results are parts of a user's turn."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


# -- the question ----------------------------------------------------------------------------------------------------


class Tool(Struct, frozen=True):
    """A function that the model may call; `schema` is the JSON schema of its arguments."""

    name: str
    schema: Raw
    description: str | None = None
    strict: bool | None = None
    cache: Raw | None = None


class ToolChoice(Struct, frozen=True):
    """Must, may or must not the model call a tool? `named` demands the tool `name`."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


class ResponseFormat(Struct, frozen=True):
    """The answer's shape: any JSON object, or JSON that fits `schema`."""

    kind: Literal["json_object", "json_schema"]
    schema: Raw | None = None
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


class Reasoning(Struct, frozen=True):
    """How much the model should think: by `effort` word, by token `budget`, or as it sees fit (`adaptive`)."""

    mode: Literal["enabled", "adaptive", "disabled"] = "enabled"
    effort: str | None = None
    budget: int | None = None
    display: str | None = None


class ChatRequest(Struct, frozen=True, kw_only=True):
    """A conversation and how it shall be continued.

    `extra` holds top-level fields that the client's format does not define; they are the operator's or the caller's
    words to one provider and are merged into its body as they are. Fields that the client's format *does* define and
    that have no place here are in `unspoken`, by name: a writer refuses them (`Unsupported`) or, where the caller
    allowed it, drops them.
    """

    model: str
    messages: tuple[Message, ...]
    system: tuple[Text, ...] = ()
    tools: tuple[Tool | Opaque, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    n: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Raw | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    user: str | None = None
    stream: bool = False
    extra: dict[str, Raw] = {}
    unspoken: dict[str, Raw] = {}


# -- the answer ------------------------------------------------------------------------------------------------------

FinishReason: TypeAlias = Literal[
    "stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "pause", "error"
]


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens, each in exactly one bucket. `estimated` says that the provider did not report them."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    estimated: bool = False

    @property
    def prompt(self) -> int:
        """All tokens that went in."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion(self) -> int:
        """All tokens that came out."""
        return self.output + self.reasoning + self.audio_output

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + self.completion

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            cache_write_1h=self.cache_write_1h + other.cache_write_1h,
            audio_input=self.audio_input + other.audio_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            audio_output=self.audio_output + other.audio_output,
            estimated=self.estimated or other.estimated,
        )


class Choice(Struct, frozen=True):
    """One of the answers (`n` of a request); vendors without `n` give exactly one."""

    parts: tuple[Part, ...]
    finish: FinishReason
    stop_sequence: str | None = None
    logprobs: Raw | None = None
    detail: Raw | None = None
    """The vendor's own words on why it ended (a refusal's category, say)."""


class ChatResponse(Struct, frozen=True):
    """A whole answer. `model` is the provider's name for what answered."""

    id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None


# -- one step of a streamed answer -----------------------------------------------------------------------------------


class Start(Struct, frozen=True):
    """The answer begins. Comes first and once; `usage` is what is known of the input by then."""

    id: str = ""
    model: str = ""
    usage: Usage | None = None


class TextDelta(Struct, frozen=True):
    """More words; `text` is never the empty string."""

    text: JsonString
    choice: int = 0
    logprobs: Raw | None = None


class ThinkingDelta(Struct, frozen=True):
    """More reasoning."""

    text: JsonString
    choice: int = 0


class SignatureDelta(Struct, frozen=True):
    """The signature of the reasoning that ends here."""

    signature: JsonString
    choice: int = 0


class RedactedDelta(Struct, frozen=True):
    """A whole block of encrypted reasoning."""

    data: JsonString
    choice: int = 0


class RefusalDelta(Struct, frozen=True):
    """More of a refusal's words."""

    text: JsonString
    choice: int = 0


class ToolStart(Struct, frozen=True):
    """A tool call begins. `index` counts tool calls of this choice from 0, whatever the vendor counts."""

    index: int
    id: str
    name: str
    choice: int = 0


class ToolDelta(Struct, frozen=True):
    """More of a call's arguments. A call without arguments gets one delta `"{}"` before it ends."""

    index: int
    arguments: JsonString
    choice: int = 0


class UsageDelta(Struct, frozen=True):
    """All that is known of usage by now; replaces what was known before."""

    usage: Usage


class Finish(Struct, frozen=True):
    """A choice is complete."""

    reason: FinishReason
    stop_sequence: str | None = None
    choice: int = 0
    detail: Raw | None = None


class Ping(Struct, frozen=True):
    """The provider says that it is alive."""


class Failure(Struct, frozen=True):
    """The provider broke off with an error. Nothing follows."""

    error: Any
    """An `adapters.errors.GatewayError`."""


Delta: TypeAlias = (
    Start
    | TextDelta
    | ThinkingDelta
    | SignatureDelta
    | RedactedDelta
    | RefusalDelta
    | ToolStart
    | ToolDelta
    | UsageDelta
    | Finish
    | Ping
    | Failure
)


# -- where a question goes -------------------------------------------------------------------------------------------


class Provider(Struct, frozen=True, kw_only=True):
    """A company or server that speaks a format: one row of `adapters.providers.PROVIDERS`.

    `paths` gives the path after `base_url` for each operation that the provider offers; `{model}` and any name in
    `Target.options` may stand in it. `rejects` are request fields that the provider answers with an error, `rename`
    are fields that it calls otherwise, `usage` says how it reports tokens on streams: when asked by
    `stream_options` (`ask`), without being asked (`always`), or not at all (`none`).
    """

    name: str
    format: str = "openai"
    title: str = ""
    base_url: str = ""
    env: tuple[str, ...] = ()
    """Environment variables that may hold the key, first one set wins. Empty: no key is needed."""
    base_env: tuple[str, ...] = ()
    """Environment variables that may replace `base_url`."""
    auth: Literal["bearer", "x-api-key", "api-key", "none"] = "bearer"
    paths: dict[str, str] = {}
    rejects: tuple[str, ...] = ()
    rename: dict[str, str] = {}
    usage: Literal["ask", "always", "none"] = "ask"
    quirks: frozenset[str] = frozenset()
    """Names of deviations that the format's file knows how to read, e.g. `reasoning_outside_completion`."""
    headers: dict[str, str] = {}
    prefixes: tuple[str, ...] = ()
    """Bare model names that start so belong to this provider: `gpt-`, `claude-`."""
    doc: str = ""
    """The document that the row comes from."""


class Target(Struct, frozen=True, kw_only=True):
    """All that a writer needs to know of a deployment. `options`: API version, region, project, flags."""

    provider: Provider
    model: str
    base_url: str
    options: dict[str, str] = {}
    drop_params: bool = False
    """Fields that the provider has no word for are dropped instead of refused."""
    max_output_tokens: int | None = None
    """The model's limit, for formats that demand one with each request."""
    flags: frozenset[str] = frozenset()
    """The model's abilities as the price table names them: `supports_adaptive_thinking` …"""


class Address(Struct, frozen=True):
    """Where a question goes and what is said beside it; the gateway signs it."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]


class HttpRequest(Address, frozen=True):
    """An address and what is sent there."""

    body: bytes
