"""Google's Gemini: what AI Studio and Vertex AI speak. No client speaks it to us.

https://ai.google.dev/api/generate-content. `gemini_questions` asks and `gemini_answers` reads; `gemini_tasks` has what is
no chat: vectors and pictures. Version `v1beta` is asked: `v1` lacks models, aliases (`gemini-flash-latest`) and context
caching; see https://ai.google.dev/gemini-api/docs/api-versions.
"""

from __future__ import annotations

from adapters.framing import SseCutter
from adapters.gemini_answers import read_error, read_response, read_stream
from adapters.gemini_questions import address, write_request
from adapters.wire.gemini import NAME

__all__ = [
    "NAME",
    "STREAM_TYPE",
    "address",
    "cut",
    "read_error",
    "read_response",
    "read_stream",
    "write_request",
]

STREAM_TYPE: str = "text/event-stream"
cut = SseCutter
