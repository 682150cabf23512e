"""The endpoint table: path → (client format, operation).

Every OpenAI path exists with and without `/v1`, because SDKs are pointed at both `http://host:4000` and
`http://host:4000/v1`; Azure's SDK names the model in the path, and so do old engines. What manages the gateway is in
`gateway.admin`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from adapters.types import Operation
from gateway.inbound import Endpoint

_OPENAI: dict[str, Operation] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/images/generations": "images",
    "/audio/speech": "speech",
    "/audio/transcriptions": "transcriptions",
    "/audio/translations": "translations",
}
_ANTHROPIC: dict[str, Operation] = {
    "/messages": "chat",
    "/messages/count_tokens": "count_tokens",
}
_OPENAI_ROOTS = (
    "/v1",
    "",
    "/openai/v1",
    "/openai/deployments/{model}",
    "/engines/{model}",
    "/v1/engines/{model}",
)
_ANTHROPIC_ROOTS = ("/v1", "", "/anthropic/v1")
_RERANK = ("/v1/rerank", "/v2/rerank", "/rerank")
"""OpenAI has no such thing: the shape is Cohere's and Jina's, the errors are OpenAI's."""


def _rows() -> Iterator[Endpoint]:
    for root in _OPENAI_ROOTS:
        for path, operation in _OPENAI.items():
            yield Endpoint("POST", root + path, "openai", operation)
    for path in _RERANK:
        yield Endpoint("POST", path, "openai", "rerank")
    for root in _ANTHROPIC_ROOTS:
        for path, operation in _ANTHROPIC.items():
            yield Endpoint("POST", root + path, "anthropic", operation)


ENDPOINTS: tuple[Endpoint, ...] = tuple(_rows())


def dialect_of(path: str, headers: Container[str] = ()) -> str:
    """The format in which a path's errors are written, for paths that no row matches too.

    Some paths belong to both vendors (`/v1/models`): whoever speaks Anthropic's format says so in a header.
    """
    parts = path.strip("/").split("/")
    speaks = "messages" in parts[:3] or parts[0] == "anthropic" or "anthropic-version" in headers
    return "anthropic" if speaks else "openai"
