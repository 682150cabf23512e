"""Wire formats, pure: bytes and structs in, bytes and structs out. No I/O, no clock, no randomness.

`FORMATS` names each format's module, `PROVIDERS` each provider's row. Begin with `base.py`, the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters import (
    aleph_alpha,
    anthropic,
    audio,
    bedrock,
    bedrock_invoke,
    bedrock_tasks,
    cohere,
    embeddings,
    gemini,
    gemini_tasks,
    huggingface,
    images,
    ollama,
    openai,
    replicate,
    rerank,
    sagemaker,
    stability,
    vertex,
    vertex_openai,
    watsonx,
    watsonx_text,
)
from adapters.base import ClientSide, Follower, ProviderSide, SameFormat, Task
from adapters.providers import PROVIDERS
from adapters.types import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    ImagesRequest,
    ImagesResponse,
    Reply,
    RerankRequest,
    RerankResponse,
    SpeechRequest,
    SpeechResponse,
    TranscriptionRequest,
    TranscriptionResponse,
    Usage,
)

__all__ = [
    "CLIENTS",
    "EMBEDDINGS",
    "FOLLOW",
    "FORMATS",
    "IMAGES",
    "PROVIDERS",
    "RERANK",
    "SAME",
    "SPEECH",
    "TRANSCRIPTIONS",
    "USAGE_IN_HEADERS",
    "ClientSide",
    "ProviderSide",
    "SameFormat",
]

FORMATS: dict[str, ProviderSide] = {
    "openai": openai,
    "anthropic": anthropic,
    "aleph_alpha": aleph_alpha,
    "bedrock": bedrock,
    "bedrock_invoke": bedrock_invoke,
    "cohere": cohere,
    "gemini": gemini,
    "huggingface": huggingface,
    "ollama_native": ollama,
    "replicate": replicate,
    "sagemaker": sagemaker,
    "stability": stability,
    "vertex": vertex,
    "vertex_openai": vertex_openai,
    "watsonx": watsonx,
    "watsonx_text": watsonx_text,
}
"""What providers speak."""

CLIENTS: dict[str, ClientSide] = {"openai": openai, "anthropic": anthropic}
"""What clients speak to us."""

SAME: dict[tuple[str, str], SameFormat] = {
    ("openai", "openai"): openai,
    ("anthropic", "anthropic"): anthropic,
    ("openai", "huggingface"): huggingface,
    ("openai", "vertex_openai"): vertex_openai,
    ("anthropic", "vertex"): vertex,
}
"""By the client's format and the provider's: where both speak the same, nothing is translated."""

EMBEDDINGS: dict[str, Task[EmbeddingsRequest, EmbeddingsResponse]] = {
    **embeddings.TASKS,
    "bedrock": bedrock_tasks.EMBEDDINGS,
    "cohere": cohere.EMBEDDINGS,
    "ollama_native": ollama.EMBEDDINGS,
    "gemini": gemini_tasks.EMBEDDINGS,
    "huggingface": huggingface.EMBEDDINGS,
    "vertex_ai": gemini_tasks.VERTEX_EMBEDDINGS,
    "watsonx": watsonx.EMBEDDINGS,
}
"""Formats whose embeddings are not OpenAI's."""

RERANK: dict[str, Task[RerankRequest, RerankResponse]] = {
    **rerank.TASKS,
    "bedrock": bedrock_tasks.RERANK,
    "cohere": cohere.RERANK,
    "huggingface": huggingface.RERANK,
    "watsonx": watsonx.RERANK,
}
"""How documents are put in order."""

IMAGES: dict[str, Task[ImagesRequest, ImagesResponse]] = {
    **images.TASKS,
    "bedrock": bedrock_tasks.IMAGES,
    "gemini": gemini_tasks.IMAGES,
    "replicate": replicate.IMAGES,
    "stability": stability.IMAGES,
}
"""How pictures are made."""

SPEECH: dict[str, Task[SpeechRequest, SpeechResponse]] = {**audio.SPEECH}
"""How text is spoken."""

TRANSCRIPTIONS: dict[str, Task[TranscriptionRequest, TranscriptionResponse]] = {
    **audio.TRANSCRIPTIONS,
    "cohere": cohere.TRANSCRIPTIONS,
}
"""How sound becomes text."""

FOLLOW: dict[str, Follower] = {"replicate": replicate.follow}
"""Formats whose first answer may say where the real one will be; None if it is that already."""

USAGE_IN_HEADERS: dict[str, Callable[[Sequence[Reply]], Usage | None]] = {
    "bedrock_invoke": bedrock_tasks.usage_in_headers
}
"""Formats some of whose models are counted in the head of the answer alone."""
