"""What Aleph Alpha's bytes look like where they are not OpenAI's: completions.

https://docs.aleph-alpha.com/api/pharia-inference/complete
"""

from __future__ import annotations

from msgspec import Raw, Struct

from adapters.wire import Count

NOTHING = Raw(b"")


class Completion(Struct):
    completion: str | None = None
    finish_reason: str | None = None


class Answer(Struct):
    """The counts are of all completions together."""

    completions: list[Completion] = []
    model_version: str | None = None
    num_tokens_prompt_total: Count = None
    num_tokens_generated: Count = None
    error: Raw = NOTHING


class Event(Struct):
    """One step of a stream, by `type`: `stream_chunk` has words, `stream_summary` says why a completion ended, and
    `completion_summary` has the counts and is the last.
    """

    type: str = ""
    index: int = 0
    completion: Raw = NOTHING
    finish_reason: str | None = None
    num_tokens_prompt_total: Count = None
    num_tokens_generated: Count = None
    error: Raw = NOTHING
