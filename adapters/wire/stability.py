"""What Stability's bytes look like: a picture with `accept: application/json`, and refusals.

https://platform.stability.ai/docs/api-reference#tag/Generate
"""

from __future__ import annotations

from msgspec import Struct


class Answer(Struct):
    """`finish_reason` is `SUCCESS` or `CONTENT_FILTERED`: then `image` is blurred."""

    image: str = ""
    finish_reason: str = ""
    errors: list[str] = []


class Refusal(Struct):
    id: str = ""
    name: str = ""
    errors: list[str] = []
    message: str = ""
