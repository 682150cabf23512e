"""What the bytes of embeddings, reranks, pictures and speech look like, as clients ask and as most providers answer.

https://platform.openai.com/docs/api-reference/embeddings/create, …/images/create, …/audio/createSpeech and
…/audio/createTranscription; reranks are https://docs.cohere.com/reference/rerank and https://jina.ai/reranker. As in
`adapters.wire.openai`, what clients send is typed strictly and what providers send loosely.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from adapters.wire import Count
from adapters.wire.openai import NOTHING

# -- what clients send -----------------------------------------------------------------------------------------------


class EmbeddingsQuestion(Struct):
    input: Raw
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    input_type: str | None = None
    user: str | None = None


class RerankQuestion(Struct):
    query: str
    documents: Annotated[list[Raw], Meta(min_length=1)]
    model: str = ""
    top_n: Annotated[int, Meta(ge=1)] | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


class ImagesQuestion(Struct):
    """`n` has a limit because some providers make one picture for each call: vendors allow ten, none a hundred."""

    prompt: str
    model: str = ""
    n: Annotated[int, Meta(ge=1, le=100)] | None = None
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    output_format: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    user: str | None = None
    stream: bool | None = None


class Voice(Struct):
    """A voice that somebody made, by its id."""

    id: str


class SpeechQuestion(Struct):
    input: str
    voice: str | Voice
    model: str = ""
    response_format: str | None = None
    speed: float | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None


# -- what providers send ---------------------------------------------------------------------------------------------


class Embedding(Struct):
    embedding: Raw = NOTHING
    index: int | None = None


class Embeddings(Struct):
    data: list[Embedding] | None = None
    model: str | None = None
    usage: Raw = NOTHING
    error: Raw = NOTHING


class Ranked(Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class BilledUnits(Struct):
    search_units: Count = None


class RerankMeta(Struct):
    billed_units: BilledUnits | None = None


class Rerank(Struct):
    """`results` of Cohere, Jina and most others, `data` of Voyage and Fireworks."""

    id: str | None = None
    results: list[Ranked] | None = None
    data: list[Ranked] | None = None
    usage: Raw = NOTHING
    meta: RerankMeta | None = None
    error: Raw = NOTHING


class Scores(Struct):
    """DeepInfra's rerank: https://deepinfra.com/docs/advanced/reranker."""

    scores: list[float]
    input_tokens: Count = None
    request_id: str | None = None


class Picture(Struct):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class Images(Struct):
    """`data` of nearly all, `images` of SiliconFlow."""

    data: list[Picture] | None = None
    images: list[Picture] | None = None
    usage: Raw = NOTHING
    error: Raw = NOTHING


class ModalTokens(Struct):
    """Tokens by what they stand for."""

    text_tokens: Count = None
    image_tokens: Count = None
    audio_tokens: Count = None


class TaskUsage(Struct):
    """`usage` of pictures and transcriptions; the seconds of Mistral are `{}` where it did not count."""

    type: str | None = None
    input_tokens: Count = None
    output_tokens: Count = None
    input_tokens_details: ModalTokens | None = None
    input_token_details: ModalTokens | None = None
    output_tokens_details: ModalTokens | None = None
    seconds: float | None = None
    prompt_audio_seconds: Raw = NOTHING


class Word(Struct):
    word: str | None = None
    text: str | None = None
    start: float = 0.0
    end: float = 0.0


class Segment(Struct):
    text: str = ""
    start: float = 0.0
    end: float = 0.0


class Transcript(Struct):
    text: str | None = None
    language: str | None = None
    duration: float | None = None
    segments: Raw = NOTHING
    words: Raw = NOTHING
    logprobs: Raw = NOTHING
    usage: Raw = NOTHING
    error: Raw = NOTHING


class AudioData(Struct):
    """Mistral's speech: https://docs.mistral.ai/api/endpoint/audio/speech."""

    audio_data: str
