"""What text-embeddings-inference says of documents, https://huggingface.github.io/text-embeddings-inference (`/rerank`)."""

from __future__ import annotations

from msgspec import Struct


class Rank(Struct):
    index: int
    score: float
