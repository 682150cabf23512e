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

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Raw, Struct

JsonString: TypeAlias = Raw
"""A JSON string as its bytes, quotes and escapes included: `b'"a\\n"'`."""

Operation: TypeAlias = Literal[
    "chat",
    "completions",
    "count_tokens",
    "embeddings",
    "rerank",
    "images",
    "speech",
    "transcriptions",
    "translations",
]
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
    """The model asks for a tool. `arguments` is JSON text as the model wrote it, `"{}"` if it wrote none.

    `signature` is a vendor's seal on the thoughts behind the call, which must be sent back with it.
    """

    id: str
    name: str
    arguments: str
    cache: Raw | None = None
    signature: str | None = None


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


class Units(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is billed and is no token. All are counts; `milliseconds` is sound that went in, `characters` text that was
    spoken or, where a provider bills so, read.
    """

    images: int = 0
    milliseconds: int = 0
    characters: int = 0
    searches: int = 0
    """Search units of a rerank, or web searches of a chat."""

    def __add__(self, other: Units) -> Units:
        return Units(
            images=self.images + other.images,
            milliseconds=self.milliseconds + other.milliseconds,
            characters=self.characters + other.characters,
            searches=self.searches + other.searches,
        )


NO_UNITS = Units()


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens, each in exactly one bucket, and what else is billed. `estimated` says that the provider did not report them.

    `billed` is what the provider itself said that the request costs, in nano-dollars; `tier` is the service tier that it
    says it answered in (`batch`, `flex`, `priority`), empty for the ordinary one.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    estimated: bool = False
    units: Units = NO_UNITS
    billed: int | None = None
    tier: str = ""

    @property
    def prompt(self) -> int:
        """All tokens that went in."""
        cached = self.cache_read + self.cache_write + self.cache_write_1h
        return self.input + cached + self.audio_input + self.image_input

    @property
    def completion(self) -> int:
        """All tokens that came out."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def total(self) -> int:
        """All tokens."""
        # In one sum: two properties take 0.1 us more, and each bill asks.
        cached = self.cache_read + self.cache_write + self.cache_write_1h
        special = self.audio_input + self.image_input + self.reasoning + self.audio_output + self.image_output
        return self.input + self.output + cached + special

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            cache_write_1h=self.cache_write_1h + other.cache_write_1h,
            audio_input=self.audio_input + other.audio_input,
            image_input=self.image_input + other.image_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            audio_output=self.audio_output + other.audio_output,
            image_output=self.image_output + other.image_output,
            estimated=self.estimated or other.estimated,
            units=self.units + other.units,
            billed=None
            if self.billed is None and other.billed is None
            else (self.billed or 0) + (other.billed or 0),
            tier=self.tier or other.tier,
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
    signature: str | None = None
    """As in `ToolCall`."""


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


class Told(Struct, frozen=True):
    """What of a streamed answer its client has been told already, by another writer: so many blocks of text, the last of which
    is open or not (Anthropic's format; others have no blocks).
    """

    blocks: int
    is_open: bool


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


# -- other questions and answers -------------------------------------------------------------------------------------


class File(Struct, frozen=True):
    """A file that a client sent."""

    name: str
    media_type: str
    data: bytes


class EmbeddingsRequest(Struct, frozen=True, kw_only=True):
    """Texts, or texts as token numbers, that shall become vectors.

    `encoding` is how the client wants them: JSON numbers, or base64 of little-endian 32-bit floats. `input_type` is what
    they are for, in Cohere's words: `search_document`, `search_query`, `classification`, `clustering`.
    """

    model: str
    input: tuple[str, ...] | tuple[tuple[int, ...], ...]
    encoding: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    input_type: str | None = None
    user: str | None = None
    extra: dict[str, Raw] = {}
    """Top-level fields that OpenAI does not define; they go on to the provider as they are."""


class EmbeddingsResponse(Struct, frozen=True):
    """Vectors in the order of the texts: each is a JSON array of numbers (`Raw`), or base64 text as `encoding` says."""

    vectors: tuple[Raw | str, ...]
    model: str = ""
    usage: Usage | None = None


class RerankRequest(Struct, frozen=True, kw_only=True):
    """Documents that shall be put in order. Each is a JSON string or object, as the client wrote it."""

    model: str
    query: str
    documents: tuple[Raw, ...]
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    return_documents: bool = False
    extra: dict[str, Raw] = {}


class Ranked(Struct, frozen=True):
    """One document of a rerank: its place in the question, from 0, and how relevant it is."""

    index: int
    score: float


class RerankResponse(Struct, frozen=True):
    """The documents that matter most, best first."""

    results: tuple[Ranked, ...]
    id: str = ""
    usage: Usage | None = None


class ImagesRequest(Struct, frozen=True, kw_only=True):
    """Pictures that shall be made; the words are OpenAI's."""

    model: str
    prompt: str
    n: int = 1
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    output_format: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    user: str | None = None
    extra: dict[str, Raw] = {}


class Picture(Struct, frozen=True, omit_defaults=True):
    """One picture: base64 data or an address."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImagesResponse(Struct, frozen=True):
    """Pictures."""

    pictures: tuple[Picture, ...]
    usage: Usage | None = None


class SpeechRequest(Struct, frozen=True, kw_only=True):
    """Text that shall be spoken; the words are OpenAI's. `format` is `mp3`, `opus`, `aac`, `flac`, `wav` or `pcm`."""

    model: str
    input: str
    voice: str
    format: str = "mp3"
    speed: float | None = None
    instructions: str | None = None
    extra: dict[str, Raw] = {}


class SpeechResponse(Struct, frozen=True):
    """Sound, and which kind of it."""

    data: bytes
    media_type: str
    usage: Usage | None = None


class TranscriptionRequest(Struct, frozen=True, kw_only=True):
    """Sound that shall become text. `translate`: English text, whatever is spoken. The words are OpenAI's."""

    model: str
    file: File
    translate: bool = False
    language: str | None = None
    prompt: str | None = None
    response_format: str = "json"
    temperature: float | None = None
    timestamp_granularities: tuple[str, ...] = ()
    extra: dict[str, str] = {}
    """Other fields of the form."""
    lists: dict[str, tuple[str, ...]] = {}
    """Other fields of the form that may be there several times, without their `[]`."""


class TranscriptionResponse(Struct, frozen=True):
    """What was said. `language`, `seconds` and `segments` (OpenAI's `verbose_json`) where the provider tells."""

    text: str
    language: str | None = None
    seconds: float | None = None
    segments: Raw | None = None
    words: Raw | None = None
    usage: Usage | None = None
    logprobs: Raw | None = None


class Call(Struct, frozen=True):
    """What is sent to a provider, once. A question may need several calls: one for each text, say."""

    body: bytes
    content_type: str = "application/json"


class Reply(Struct, frozen=True):
    """What a provider answered to a call, with a 2xx status. `headers` have lower-case names."""

    headers: Mapping[str, str]
    body: bytes


# -- where a question goes -------------------------------------------------------------------------------------------


Auth: TypeAlias = Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "none", "google", "aws", "iam"]
"""How a request is signed: with a key, in `Authorization: Bearer` or in the header of that name; or with what has to be
fetched or worked out: a token of Google's OAuth, AWS' Signature Version 4, a token of IBM's IAM."""


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
    auth: Auth = "bearer"
    option_env: dict[str, tuple[str, ...]] = {}
    """Options of a deployment (`vertex_project`), each with the environment variables that may give it. `base_url` may
    have `{option}` in it."""
    option_defaults: dict[str, str] = {}
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
    dropped: list[str] | None = None
    """Where `adapters.base.leaves_out` notes what was dropped: the one argument that a writer changes."""
    allowed: frozenset[str] = frozenset()
    """Fields that go to the provider as the client wrote them, whatever we think that it understands."""
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
