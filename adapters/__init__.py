"""Wire formats, pure: bytes and structs in, bytes and structs out. No I/O, no clock, no randomness.

`FORMATS` names each format's module, `PROVIDERS` each provider's row. Begin with `base.py`, the contract.
"""

from __future__ import annotations

from collections.abc import Callable

from adapters import anthropic, openai
from adapters.base import ClientSide, Follow, ProviderSide, SameFormat, Task
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
    "ClientSide",
    "ProviderSide",
    "SameFormat",
]

FORMATS: dict[str, ProviderSide] = {"openai": openai, "anthropic": anthropic}
"""What providers speak."""

CLIENTS: dict[str, ClientSide] = {"openai": openai, "anthropic": anthropic}
"""What clients speak to us."""

SAME: dict[tuple[str, str], SameFormat] = {
    ("openai", "openai"): openai,
    ("anthropic", "anthropic"): anthropic,
}
"""By the client's format and the provider's: where both speak the same, nothing is translated."""

EMBEDDINGS: dict[str, Task[EmbeddingsRequest, EmbeddingsResponse]] = {}
"""Formats whose embeddings are not OpenAI's."""

RERANK: dict[str, Task[RerankRequest, RerankResponse]] = {}
"""How documents are put in order."""

IMAGES: dict[str, Task[ImagesRequest, ImagesResponse]] = {}
"""How pictures are made, where that is not OpenAI's way."""

SPEECH: dict[str, Task[SpeechRequest, SpeechResponse]] = {}
"""How text is spoken, where that is not OpenAI's way."""

TRANSCRIPTIONS: dict[str, Task[TranscriptionRequest, TranscriptionResponse]] = {}
"""How sound becomes text."""

FOLLOW: dict[str, Callable[[Reply], Follow | None]] = {}
"""Formats whose first answer may say where the real one will be; None if it is that already."""
