"""The recordings that are no plain chat of OpenAI's or Anthropic's format: what is replayed of each, and what is not and why.

Each has a deployment of its provider's row, at the path that was recorded where it was kept. Keys are plain ones where
the row takes any: AWS' and Google's rows do, so that no token has to be fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from adapters.providers import PROVIDERS, find
from tests.e2e.replay import Replay, headers_of
from tests.recorded import Recording, recordings

NOT_REPLAYED: dict[str, str] = {
    "*/batches": "no operation: batches",
    "*/files": "no operation: files",
    "*/models": "no operation: a provider's list of models is not asked for",
    "*/moderations": "no operation: moderations",
    "*/responses": "no operation: OpenAI's Responses API",
    "anthropic/completions": "Anthropic's text completions of 2023, which nobody asks for",
    "bedrock/count_tokens": "Bedrock's count of tokens is not offered",
    "bedrock/invoke-73248": "Claude's text completions of 2023, which nobody asks for",
    "bedrock/invoke-stream-7062f": "Claude's text completions of 2023, which nobody asks for",
    "bedrock/invoke-900d4": "a container's own text completion",
    "cohere/completions": "Cohere's text completions of 2023, which nobody asks for",
    "gemini/count_tokens": "Google's count of tokens is not offered",
    "ollama/completions": "Ollama's own text completions: completions are asked for under /v1",
    "openai/audio-stream": "transcriptions do not come as events",
    "openai/images-edit": "no operation: edits of pictures",
    "openai/images-err400-image": "no operation: edits of pictures",
    "sagemaker/invoke-e877c": "a container that does not speak OpenAI's format",
    "vertex/count_tokens": "Google's count of tokens is not offered",
}
"""How the names of recordings begin for which there is nothing to ask (`*` is any provider), and why."""


def is_left_out(recording: Recording) -> bool:
    """Is it in the table?"""
    name = str(recording)
    return any(name.startswith((begin, begin.replace("*", recording.provider))) for begin in NOT_REPLAYED)


_OPERATIONS = {"audio": "transcriptions", "embeddings": "embeddings", "images": "images", "rerank": "rerank"}
"""By the first word of a recording's name; all others are chats."""
_ROWS = {
    "alephalpha": "aleph_alpha",
    "together": "together_ai",
    "vertex": "vertex_ai",
    "watsonx": "watsonx_text",
}
_MODELS = {"sagemaker": "an-endpoint", "watsonx": "google/flan-ul2", "xai": "grok-audio"}
"""For what was asked without naming a model."""
_AWS = {"aws_region_name": "us-east-1"}
_PARAMS: dict[str, dict[str, str]] = {
    "bedrock": _AWS,
    "sagemaker": _AWS,
    "watsonx": {"project_id": "a-project", "token": "a-token"},
}
_ENDINGS = {"bin": "application/vnd.amazon.eventstream", "ndjson": "application/x-ndjson", "sse": "text/event-stream"}
_MOVED = ("cohere/rerank-dcd31", "watsonx/", "vertex/embeddings", "alephalpha/")
"""What is asked at another address today."""


def native() -> Iterator[Replay]:
    """Every recording that `replay.recorded` leaves, but for those in the table and Replicate's, which take two answers."""
    from tests.e2e.replay import recorded

    known = {replay.name for replay in recorded()}
    for recording in recordings():
        if str(recording) not in known and not is_left_out(recording) and recording.provider != "replicate":
            yield _replay(recording)
