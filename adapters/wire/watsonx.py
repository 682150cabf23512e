"""What watsonx.ai's bytes look like where they are not OpenAI's: vectors, documents in order, and errors.

https://cloud.ibm.com/apidocs/watsonx-ai
"""

from __future__ import annotations

from msgspec import Raw, Struct

from adapters.wire import Count


class Vector(Struct):
    embedding: Raw


class Embeddings(Struct):
    results: list[Vector]
    model_id: str | None = None
    input_token_count: Count = None


class Rank(Struct):
    index: int
    score: float


class Ranks(Struct):
    results: list[Rank]
    input_token_count: Count = None


class Problem(Struct):
    code: str | int = ""
    message: str | None = None


class Errors(Struct):
    errors: list[Problem]
    status_code: int = 0


class Generated(Struct):
    """A result of the older service that continues a text; in a stream the counts are of all until then."""

    generated_text: str | None = None
    generated_token_count: Count = None
    input_token_count: Count = None
    stop_reason: str | None = None


class Generation(Struct):
    results: list[Generated] = []
    model_id: str | None = None
    errors: list[Problem] = []
